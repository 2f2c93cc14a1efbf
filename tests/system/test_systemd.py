# SPDX-License-Identifier: Apache-2.0
"""deploy/systemd: hardened, with its users, and Hermes stopped first.

A real systemd runs the units as docs/install.md installs them.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.checkout import copy_checkout
from support.process import wait_until
from system.install_page import PROGRAM, commands, follow, is_ready
from system.running_systemd import RunningSystemd
from system.secrets_made import ROOT
from system.systemd_root import HERMES, UNITS, install_units

if TYPE_CHECKING:
    from collections.abc import Iterator

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


# -- A real systemd --------------------------------------------------------------------

CLIENT = "hermes-client-ldap.service"
NATS, SIDECAR = "hermes-nats-server", "hermes-nats-sidecar"
FROM_SOURCE = "From source, with systemd"


def installs_program(command: str) -> bool:
    return any(word in command for word in ("venv", "/pip ", "chmod"))


@pytest.fixture(scope="module")
def files() -> Iterator[Path]:
    """Install the program by the page, as a root whose umask is 077."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        (directory / "opt").mkdir()
        checkout = copy_checkout(directory / "srv/checkout")
        install = [
            command.removeprefix("sudo ").replace(PROGRAM, f"{directory}{PROGRAM}")
            for command in commands(FROM_SOURCE)
            if installs_program(command)
        ]
        assert len(install) == 5
        environ = dict(os.environ) | {
            "PATH": "/usr/bin:/bin",
            "PIP_LOG": str(directory / "pip.log"),
        }
        done = subprocess.run(
            ["sh", "-euc", "\n".join(["umask 077", *install])],
            cwd=checkout,
            env=environ,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        yield directory


@pytest.fixture
def systemd(files: Path, tmp_path: Path) -> Iterator[RunningSystemd]:
    """Start one that has the program and a checkout, and a stand-in of Hermes."""
    mount = ("unshare", "--mount", "mount", "-t", "tmpfs", "test", "/mnt")
    if _run(*mount).returncode != 0:
        pytest.skip("NOT TESTED: not even root may mount here")
    over = tmp_path / "files"
    shutil.copytree(files, over, symlinks=True)
    for script in (over / f".{PROGRAM}/bin").iterdir():
        if not script.is_symlink() and script.name != "nats-server":
            text = script.read_text("utf-8").replace(str(files), "")
            script.write_text(text, "utf-8")
    (over / "etc/systemd/system").mkdir(parents=True)
    for name in (HERMES, CLIENT):
        (over / "etc/systemd/system" / name).write_text(
            "[Service]\nExecStart=sleep infinity\n"
        )
    with RunningSystemd(tmp_path) as running:
        yield running


def test_another_user_may_run_what_a_strict_root_installed(files: Path) -> None:
    program = files / PROGRAM.removeprefix("/") / "bin/hermes-nats-sidecar"
    nobody = ("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups")
    assert _run(*nobody, program, "--version").returncode == 0


def test_nothing_ran_in_the_install_that_no_lock_has_a_hash_of(files: Path) -> None:
    log = (files / "pip.log").read_text("utf-8")
    assert "Successfully installed" in log
    assert "Installing build dependencies" not in log
    locks = "".join(
        (ROOT / f"requirements{w}.lock").read_text() for w in ("", "-build")
    )
    locked = {_plain(name) for name in re.findall(r"^([\w.-]+)==", locks, re.MULTILINE)}
    installed = {
        _plain(found)
        for line in re.findall(r"Successfully installed (.*)", log)
        for found in re.findall(r"(\S+)-[^-\s]+(?:\s|$)", line)
    }
    assert installed - locked == {"hermes-nats-sidecar"}


def test_the_page_leads_to_units_that_serve_and_come_back(
    systemd: RunningSystemd,
) -> None:
    """Each hindrance lasts longer than the five starts that systemd allows itself."""
    install(systemd)
    shared = "/usr/share/hermes-nats-sidecar/nats"
    page = commands("With a NATS server of your own")
    follow(systemd, [each.replace(shared, "deploy/nats") for each in page])
    wait_until(lambda: is_ready(systemd), 30, "the sidecar is ready")
    for name in (HERMES, CLIENT):
        systemd.run(f"systemctl start {name}")
        assert systemd.state(name) == "running"
        assert systemd.state(name, "SupplementaryGroups") == "hermes"
    log = systemd.run(f"journalctl --no-pager --unit {SIDECAR}")
    assert "started" in log
    assert "secret_readable" not in log

    for hindrance in HINDRANCES:
        comes_back(systemd, *hindrance)
    wait_until(lambda: is_ready(systemd), 30, "the sidecar is ready again")


def install(systemd: RunningSystemd) -> None:
    page = [each for each in commands(FROM_SOURCE) if not installs_program(each)]
    assert len(page) == 9
    follow(systemd, page)


def comes_back(systemd: RunningSystemd, unit: str, hinder: str, mend: str) -> None:
    systemd.run(f"systemctl stop {unit}; {hinder}")
    systemd.run(f"systemctl start {unit}", check=False)
    wait_until(lambda: int(systemd.state(unit, "NRestarts")) > 6, 60, hinder)
    # It runs for a moment at each try.
    wait_until(lambda: systemd.state(unit) != "running", 10, hinder)
    systemd.run(mend)
    wait_until(lambda: systemd.state(unit) == "running", 30, mend)


HOLD_PORT = """\
systemd-run --unit=port python3 -c '
import socket, time; port = socket.create_server(("", 4222)); time.sleep(999)'
"""


def _moved(path: str) -> tuple[str, str]:
    return f"mv {path} {path}.late", f"mv {path}.late {path}"


HINDRANCES = [
    (NATS, *_moved("/etc/hermes-nats-server/nats.env")),
    (NATS, *_moved("/etc/hermes-nats-server/one-node.conf")),
    (NATS, HOLD_PORT, "systemctl stop port"),
    (
        SIDECAR,
        "echo SIDECAR_HTTP_HOST=192.0.2.1 >>/etc/hermes-nats-sidecar/sidecar.env",
        "ip address add 192.0.2.1/32 dev lo",
    ),
    (SIDECAR, *_moved(f"{PROGRAM}/bin/hermes-nats-sidecar")),
]


def test_the_sidecar_brings_its_own_nats_by_a_setting(systemd: RunningSystemd) -> None:
    install(systemd)
    page = [
        command
        for command in commands("On Debian, with a package")
        if "SIDECAR_EMBEDDED" in command or "enable" in command
    ]
    assert len(page) == 2
    follow(systemd, page)
    wait_until(lambda: is_ready(systemd), 30, "the sidecar is ready")
    systemd.run(f"systemctl stop {SIDECAR}")
    assert systemd.state(SIDECAR, "Result") == "success"
    assert systemd.run("pgrep nats-server", check=False) == ""


def _plain(name: str) -> str:
    return name.lower().replace("_", "-")


def _run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments, capture_output=True, text=True, check=False)
