# SPDX-License-Identifier: Apache-2.0
"""deploy/systemd: hardened, with its users, and Hermes stopped first."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING

import pytest
from system.secrets_made import ROOT
from system.systemd_root import HERMES, UNITS, install_units

if TYPE_CHECKING:
    from pathlib import Path

SYSTEMD = ROOT / "deploy" / "systemd"
LONGEST_UNKNOWN_SECONDS = 60  # the plugin's unknown_timeout
MOST_EXPOSED = "20"  # tenths


@pytest.mark.parametrize("unit", UNITS)
def test_exposure_is_at_most_2(unit: str) -> None:
    answer = _run(
        *("systemd-analyze", "security", "--offline=true", "--no-pager"),
        *(f"--threshold={MOST_EXPOSED}", SYSTEMD / unit),
    )
    assert answer.returncode == 0, answer.stdout
    assert "Overall exposure level" in answer.stdout


def test_the_users_and_the_common_group_are_made(tmp_path: Path) -> None:
    root = tmp_path / "root"
    install_units(SYSTEMD, root)
    answer = _run("systemd-sysusers", f"--root={root}", "sidecar.conf")
    assert answer.returncode == 0, answer.stderr
    groups = (root / "etc/group").read_text()
    users = (root / "etc/passwd").read_text()
    assert re.search(r"^hermes:", groups, re.MULTILINE)
    for name in ("hermes-nats-sidecar", "hermes-nats-server"):
        assert re.search(rf"^{name}:.*:/usr/sbin/nologin$", users, re.MULTILINE)


def test_hermes_is_stopped_first_and_has_the_time_it_needs() -> None:
    drop_in = (SYSTEMD / f"{HERMES}.d" / "nats-sidecar.conf").read_text()
    assert "After=hermes-nats-sidecar.service" in drop_in
    seconds = re.search(r"^TimeoutStopSec=(\d+)$", drop_in, re.MULTILINE)
    assert seconds is not None
    assert int(seconds[1]) > LONGEST_UNKNOWN_SECONDS


def _run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments, capture_output=True, text=True, check=False)
