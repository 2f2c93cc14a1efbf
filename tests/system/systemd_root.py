# SPDX-License-Identifier: Apache-2.0
"""A root directory with the units installed, for systemd's own tools."""

from __future__ import annotations

import shutil
import sysconfig
from pathlib import Path

UNITS = ("hermes-nats-sidecar.service", "hermes-nats-server.service")
HERMES = "hermes-server.service"


def install_units(systemd: Path, root: Path) -> None:
    """Install deploy/systemd as docs/install.md does."""
    units = root / "etc/systemd/system"
    programs = root / "opt/hermes-nats-sidecar/bin"
    shutil.copytree(
        "/usr/lib/systemd/system", root / "usr/lib/systemd/system", symlinks=True
    )
    for drop_ins in systemd.glob("*.d"):
        shutil.copytree(drop_ins, units / drop_ins.name)
    for unit in UNITS:
        shutil.copy(systemd / unit, units)
    programs.mkdir(parents=True)
    for name in ("hermes-nats-sidecar", "nats-server"):
        shutil.copy(Path(sysconfig.get_path("scripts")) / name, programs)
    (root / "bin").mkdir()
    shutil.copy("/bin/kill", root / "bin")
    # What an administrator of Hermes has written.
    (units / HERMES).write_text("[Service]\nExecStart=/bin/kill\n")
    (root / "etc/sysusers.d").mkdir()
    shutil.copy(systemd / "sysusers.conf", root / "etc/sysusers.d/sidecar.conf")
