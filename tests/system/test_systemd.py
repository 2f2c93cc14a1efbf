# SPDX-License-Identifier: Apache-2.0
"""deploy/systemd: systemd's own tools read it and find nothing to complain about."""

from __future__ import annotations

import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest
from secrets_made import ROOT

SYSTEMD = ROOT / "deploy" / "systemd"
UNITS = ("hermes-nats-sidecar.service", "hermes-nats-server.service")
HERMES = "hermes-server.service"
LONGEST_UNKNOWN_SECONDS = 60  # the plugin's unknown_timeout
MOST_EXPOSED = "20"  # tenths


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install everything into a root directory as docs/install.md does."""
    root = tmp_path_factory.mktemp("root")
    units = root / "etc/systemd/system"
    programs = root / "opt/hermes-nats-sidecar/bin"
    shutil.copytree(
        "/usr/lib/systemd/system", root / "usr/lib/systemd/system", symlinks=True
    )
    for unit in UNITS:
        units.mkdir(parents=True, exist_ok=True)
        shutil.copy(SYSTEMD / unit, units)
    shutil.copytree(SYSTEMD / f"{HERMES}.d", units / f"{HERMES}.d")
    programs.mkdir(parents=True)
    for name in ("hermes-nats-sidecar", "nats-server"):
        shutil.copy(Path(sysconfig.get_path("scripts")) / name, programs)
    (root / "bin").mkdir()
    shutil.copy("/bin/kill", root / "bin")
    # What an administrator of Hermes has written.
    (units / HERMES).write_text("[Service]\nExecStart=/bin/kill\n")
    (root / "etc/sysusers.d").mkdir()
    shutil.copy(SYSTEMD / "sysusers.conf", root / "etc/sysusers.d/sidecar.conf")
    return root


@pytest.mark.parametrize("unit", [*UNITS, HERMES])
def test_systemd_has_nothing_to_complain_about(unit: str, root: Path) -> None:
    answer = _run("systemd-analyze", "verify", f"--root={root}", unit)
    assert (answer.returncode, answer.stderr) == (0, "")


@pytest.mark.parametrize("unit", UNITS)
def test_exposure_is_at_most_2(unit: str) -> None:
    answer = _run(
        *("systemd-analyze", "security", "--offline=true", "--no-pager"),
        *(f"--threshold={MOST_EXPOSED}", SYSTEMD / unit),
    )
    assert answer.returncode == 0, answer.stdout
    assert "Overall exposure level" in answer.stdout


def test_the_users_and_the_common_group_are_made(root: Path) -> None:
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
