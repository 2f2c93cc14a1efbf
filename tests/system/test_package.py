# SPDX-License-Identifier: Apache-2.0
"""The Debian package as it is built; test_deb.py installs it."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING

import pytest
from system.debian import build
from system.secrets_made import ROOT

from sidecar import __version__
from sidecar.cli import parser

if TYPE_CHECKING:
    from pathlib import Path


COMPLETE = """\
. "$1"
COMP_WORDS=(hermes-nats-sidecar "") COMP_CWORD=1
_shtab_sidecar hermes-nats-sidecar "" hermes-nats-sidecar
echo "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("first"))


@pytest.fixture(scope="module")
def contents(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("contents")
    run("dpkg-deb", "--raw-extract", package, directory / "root")
    return directory / "root"


def run(*command: str | Path) -> str:
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


def test_the_same_input_gives_the_same_bytes(
    package: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    again = build(tmp_path_factory.mktemp("second"), umask=0o077, zone="Asia/Tokyo")
    assert again.name == package.name
    assert again.read_bytes() == package.read_bytes()


def test_lintian_has_no_error(package: Path) -> None:
    answer = run("lintian", "--allow-root", "--fail-on", "error", package)
    assert "hermes-nats-sidecar" in answer  # it has read it: there are warnings


def debian(version: str) -> str:
    """Give what deploy/debian/build makes of a version."""
    script = (ROOT / "deploy/debian/build").read_text("utf-8")
    (command,) = re.findall(r"echo \"\$version\" \| (sed .*)\)$", script, re.MULTILINE)
    return run("sh", "-c", f'echo "$0" | {command}', version).strip()


def test_its_name_and_version_are_ours(package: Path) -> None:
    version = debian(__version__)
    assert run("dpkg-deb", "--field", package, "Version").strip() == version
    assert package.name.startswith(f"hermes-nats-sidecar_{version}_")


@pytest.mark.parametrize(
    ("earlier", "later"), [("1.0.0rc1", "1.0.0"), ("1.0.0b2", "1.0.0rc1")]
)
def test_a_candidate_comes_before_its_release(earlier: str, later: str) -> None:
    run("dpkg", "--compare-versions", debian(earlier), "lt", debian(later))
    assert debian("1.2.3") == "1.2.3"


def test_it_allows_the_pythons_that_it_has_modules_for(contents: Path) -> None:
    control = (contents / "DEBIAN/control").read_text()
    allowed = re.findall(r"python3 \((?:>=|<<) 3\.(\d+)\)", control)
    site = contents / "opt/hermes-nats-sidecar/lib/site-packages"
    modules = [path.name for path in site.rglob("*.so")]
    versions = sorted(set(re.findall(r"\.cpython-3(\d+)-", " ".join(modules))))
    assert versions == [str(minor) for minor in range(*map(int, allowed))]
    of_each = [
        sum(f"cpython-3{minor}-" in each for each in modules) for minor in versions
    ]
    assert len(set(of_each)) == 1


def test_man_page_and_completion_know_each_command(contents: Path) -> None:
    share = contents / "usr/share"
    page = run("zcat", share / "man/man1/hermes-nats-sidecar.1.gz").replace("\\", "")
    script = share / "bash-completion/completions/hermes-nats-sidecar"
    offered = run("bash", "-c", COMPLETE, "bash", script).split()
    commands = re.findall(r"^    (\S+)", parser().format_help(), re.MULTILINE)
    assert len(commands) > 8
    for command in commands:
        assert f"COMMAND fI,'hermes-nats-sidecar {command}'" in page
        assert command in offered


def test_what_it_ships_is_what_the_checkout_has(contents: Path) -> None:
    plugins = contents / "usr/share/hermes-nats-sidecar/plugins"
    for source in (ROOT / "plugin_stub").rglob("*.py"):
        shipped = plugins / source.relative_to(ROOT / "plugin_stub")
        assert shipped.read_bytes() == source.read_bytes()
    assert (contents / "DEBIAN/conffiles").read_text().split() == [
        "/etc/hermes-nats-sidecar/sidecar.env"
    ]
