# SPDX-License-Identifier: Apache-2.0
"""A nats-server with the users of deploy/nats/users.conf, and a sidecar for each."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from .commands import run_here
from .nats import NatsProcess
from .sidecar import SidecarProcess

if TYPE_CHECKING:
    from collections.abc import Iterator

USERS = Path(__file__).resolve().parents[2] / "deploy" / "nats" / "users.conf"
ROLES = ("producer", "consumer", "both", "provision")


def password(role: str) -> str:
    return f"pw-{role}"


@contextmanager
def guarded(directory: Path, users: str) -> Iterator[NatsProcess]:
    server = NatsProcess(directory / "nats", extra=users)
    server.environ = dict(os.environ) | {
        f"HERMES_{role.upper()}_PASSWORD": password(role) for role in ROLES
    }
    with server:
        settings = login(directory, server, "provision")
        assert run_here("provision", **settings).returncode == 0
        yield server


def login(directory: Path, server: NatsProcess, role: str) -> dict[str, object]:
    file = directory / f"password-{role}"
    file.write_text(password(role))
    return {
        "nats_url": server.url,
        "nats_user": f"hermes_{role}",
        "nats_password_file": file,
    }


@contextmanager
def sidecar_of(
    role: str, directory: Path, server: NatsProcess
) -> Iterator[SidecarProcess]:
    settings = login(directory, server, role)
    with SidecarProcess(directory / role, role=role, **settings) as process:
        yield process
