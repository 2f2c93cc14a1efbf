# SPDX-License-Identifier: Apache-2.0
"""What deploy/nats/make-secrets writes, and how a sidecar and nats-server use it."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
NATS = ROOT / "deploy" / "nats"
ROLES = ("producer", "consumer", "both", "provision")


def make_secrets(directory: Path, *names: str) -> Secrets:
    """Make them for a NATS that is reached by these names."""
    make = (NATS / "make-secrets", "--directory", directory)
    subprocess.run([*make, *names], check=True)
    return Secrets(directory)


@dataclass
class Secrets:
    """A directory of secrets."""

    directory: Path

    def server_environ(self, store: Path) -> dict[str, str]:
        """Give the environment of a nats-server."""
        lines = (self.directory / "nats.env").read_text().splitlines()
        passwords = dict(line.split("=", 1) for line in lines)
        return dict(os.environ) | passwords | {"NATS_STORE_DIR": str(store)}

    def login(self, role: str, port: int) -> dict[str, object]:
        """Give the settings of a sidecar for a NATS on this machine."""
        return {
            "nats_url": f"tls://127.0.0.1:{port}",
            "nats_tls_ca_file": self.directory / "tls" / "ca.crt",
            "nats_tls_handshake_first": True,
            "nats_user": f"hermes_{role}",
            "nats_password_file": self.directory / "passwords" / role,
        }
