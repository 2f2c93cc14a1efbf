# SPDX-License-Identifier: Apache-2.0
"""The Debian package lives its life in fresh Debians: `make test-deb`.

Each is made by debootstrap, with a real systemd, and has no network.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from support.process import wait_until
from system.debian import build
from system.install_page import PROGRAM, commands, follow, is_ready
from system.running_systemd import RunningSystemd
from system.secrets_made import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RELEASES = ("bookworm", "trixie")  # Debian 12 and 13
CACHE = ROOT / ".cache" / "bases"
SIDECAR, NATS = "hermes-nats-sidecar", "hermes-nats-server"
SETTINGS = "/etc/hermes-nats-sidecar/sidecar.env"
EVENTS = "/var/lib/hermes-nats-sidecar/nats/data"
DEB_PAGE = "On Debian, with a package"
MAKE_ROOT = """\
if [ ! -f "$2" ]; then
  "$0" "$1" "$3" python3,ca-certificates,systemd,openssl
  mkdir -p "$(dirname "$2")"
  tar -C "$3" --exclude=./proc/* --exclude=./sys/* -cf "$2.new" .
  mv "$2.new" "$2"
else
  mkdir "$3"
  tar -C "$3" -xf "$2"
fi
"""


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """Make all at once; the first time this takes minutes."""
    directory = tmp_path_factory.mktemp("roots")
    script = ("sh", "-euc", MAKE_ROOT, ROOT / "tests/system/make-root")
    with ExitStack() as stack:
        making = [
            stack.enter_context(
                subprocess.Popen(
                    [*script, name, CACHE / f"{name}.tar", directory / name],
                    stdout=subprocess.DEVNULL,
                )
            )
            for name in RELEASES
        ]
        assert [each.wait() for each in making] == [0] * len(RELEASES)
    yield {name: directory / name for name in RELEASES}
    shutil.rmtree(directory)


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Build one, and make a later version of it that has a further setting."""
    directory = tmp_path_factory.mktemp("packages")
    package = build(directory / "first")
    later = directory / "later"
    for command in (
        ["dpkg-deb", "--raw-extract", str(package), str(later)],
        ["sed", "-i", "s/^Version: .*/Version: 999/", f"{later}/DEBIAN/control"],
        ["sed", "-i", "$a #SIDECAR_NEW=1", f"{later}{SETTINGS}"],
        ["dpkg-deb", "-Zgzip", "-z1", "--build", str(later), str(directory / "2.deb")],
    ):
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return package, directory / "2.deb"


@pytest.fixture(params=RELEASES)
def systemd(
    request: pytest.FixtureRequest,
    packages: tuple[Path, Path],
    roots: dict[str, Path],
    tmp_path: Path,
) -> Iterator[RunningSystemd]:
    """Start a Debian that has the packages as files, and a stand-in of Hermes."""
    files = tmp_path / "files"
    (files / "srv/checkout/dist").mkdir(parents=True)
    shutil.copy(packages[0], files / "srv/checkout/dist")
    shutil.copy(packages[1], files / "srv/later.deb")
    (files / "opt/hermes/plugins").mkdir(parents=True)
    (files / "etc/systemd/system").mkdir(parents=True)
    (files / "etc/hosts").write_text("127.0.0.1 localhost\n")  # as an installer does
    for program in ("server", "client-ldap"):
        unit = files / f"etc/systemd/system/hermes-{program}.service"
        unit.write_text("[Service]\nExecStart=sleep infinity\n")
    with RunningSystemd(tmp_path, str(roots[request.param])) as running:
        yield running


BUS = """
import os, sqlite3
bus = sqlite3.connect("/path/to/bus.sqlite")
bus.execute("CREATE TABLE hermesmessages (msgid INTEGER PRIMARY KEY AUTOINCREMENT)")
bus.execute("INSERT INTO hermesmessages VALUES (4320)")
bus.commit()
os.utime("/path/to/bus.sqlite", (0, 0))
"""


def readme() -> list[str]:
    """Give README's commands for root, but for that of a NATS server of one's own."""
    text = (ROOT / "README.md").read_text("utf-8")
    section = text.split("## Install into Hermes\n")[1].split("\n## ")[0]
    found = re.findall(r"^ +(sudo .*)$", section, re.MULTILINE)
    return [command for command in found if not command.endswith(" provision")]


def page(heading: str) -> list[str]:
    return [command for command in commands(heading) if command != "make deb"]


def exists(systemd: RunningSystemd, path: str) -> bool:
    return systemd.run(f"test -e {path} && echo yes", check=False) == "yes\n"


def test_it_is_installed_upgraded_removed_and_purged(systemd: RunningSystemd) -> None:
    follow(systemd, page(DEB_PAGE))
    wait_until(lambda: is_ready(systemd), 30, "the sidecar is ready")
    assert exists(systemd, "/opt/hermes/plugins/messagebus_producers/nats_sidecar")
    tag = systemd.run("python3 -c 'import sys; print(sys.implementation.cache_tag)'")
    modules = f"{PROGRAM}/lib/site-packages/sidecar/__pycache__"
    assert exists(systemd, f"{modules}/cli.{tag.strip()}.pyc")
    modes = systemd.run(f"stat --format '%a %U %G' $(dirname {SETTINGS})")
    assert modes == f"750 root {SIDECAR}\n"
    # Nothing of the package was changed but the one file, and its permissions hold.
    assert systemd.run(f"dpkg --verify {SIDECAR}", check=False).split()[1:] == [
        "c",
        SETTINGS,
    ]
    demo = (
        "setpriv --reuid=nobody --regid=nogroup --clear-groups hermes-nats-sidecar demo"
    )
    assert "events are in the stream" in systemd.run(f"cd /; {demo}")
    for hermes in ("hermes-server", "hermes-client-ldap"):
        assert SIDECAR in systemd.state(f"{hermes}.service", "After")

    before = systemd.state(SIDECAR, "MainPID")
    keep = "-o Dpkg::Options::=--force-confdef"  # what is preselected, without asking
    follow(systemd, [f"apt-get install --yes {keep} /srv/later.deb"])
    wait_until(lambda: is_ready(systemd), 30, "the later one is ready")
    assert systemd.state(SIDECAR, "MainPID") != before
    settings = systemd.run(f"cat {SETTINGS}")
    assert "\nSIDECAR_EMBEDDED=true\n" in settings
    assert "SIDECAR_NEW" not in settings

    follow(systemd, [f"apt-get remove --yes {SIDECAR}"])
    assert systemd.state(SIDECAR, "ActiveState") == "inactive"
    assert "nats-server" not in systemd.run("cat /proc/[0-9]*/comm", check=False)
    assert systemd.run("ls /opt") == "hermes\n"
    assert not exists(systemd, "/etc/systemd/system/multi-user.target.wants/hermes*")
    assert systemd.run(f"cat {SETTINGS}") == settings
    assert exists(systemd, EVENTS)

    said = follow(systemd, [f"apt-get purge --yes {SIDECAR}"])
    assert "/var/lib/hermes-nats-sidecar is left" in said
    assert exists(systemd, EVENTS)
    assert not exists(systemd, "/etc/hermes-nats-sidecar")
    ours = "find / -xdev -name '*hermes-nats*' -not -path '/srv/*' -not -path '/proc/*'"
    assert set(systemd.run(ours).split()) <= {"/var/lib/hermes-nats-sidecar"}


def test_readme_installs_it_for_a_hermes_that_moves_over(
    systemd: RunningSystemd,
) -> None:
    cache = "/path/to/.hermes/hermes-client-ldap/cache"
    offsets = {"initstartoffset": 1, "initstopoffset": 9, "nextoffset": 4321}
    content = json.dumps({"content": offsets})
    place = f"mkdir -p {cache}; echo '{content}' >{cache}/_hermes-client-ldap.json"
    follow(systemd, [place, f"python3 -c '{BUS}'", *readme()])
    wait_until(lambda: is_ready(systemd), 30, "the sidecar is ready")
    said = follow(systemd, [f"{SIDECAR} doctor"])  # by the unit's own settings
    assert re.search(r"^ok .*4321", said, re.MULTILINE), said
    assert "fault" not in said
    assert systemd.run(f"stat --format %U {EVENTS}") == f"{SIDECAR}\n"


def test_it_is_installed_with_a_nats_server_of_its_own(systemd: RunningSystemd) -> None:
    install = [command for command in page(DEB_PAGE) if "apt install" in command]
    follow(systemd, install + page("With a NATS server of your own"))
    wait_until(lambda: is_ready(systemd), 30, "the sidecar is ready")
    before = systemd.state(NATS, "MainPID")
    keep = "-o Dpkg::Options::=--force-confdef"
    follow(systemd, [f"apt-get install --yes {keep} /srv/later.deb"])
    assert systemd.state(NATS, "MainPID") == before  # other hosts use it
    wait_until(lambda: is_ready(systemd), 30, "the later one is ready")

    said = follow(systemd, [f"apt-get purge --yes {SIDECAR}"])
    for kept in ("nats-server", "nats-sidecar"):
        assert f"/etc/hermes-{kept} is left" in said
    assert exists(systemd, "/etc/hermes-nats-sidecar/nats-password")
    assert exists(systemd, "/etc/hermes-nats-server/tls/tls.key")
    assert systemd.state(NATS, "ActiveState") == "inactive"
