# SPDX-License-Identifier: Apache-2.0
"""Runs what docs/support.md names, one target after the other, and prints a table.

`make test-matrix HERMES_HOME=DIR ARGS="hermes nats"`: DIR is a checkout of Hermes with
its tags, ARGS some of the parts. What each target prints is in .cache/matrix/.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import platform
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from chaos.servers import VERSIONS as NATS_VERSIONS
from support.checkout import ROOT
from support.pythons import VERSIONS as PYTHONS
from support.pythons import find_python

if TYPE_CHECKING:
    from collections.abc import Iterator

CACHE: Final = ROOT / ".cache" / "matrix"
OLDEST_HERMES: Final = (1, 0, 5)
OLDEST_PYTHON: Final = (3, 11)
"""The sidecar's; the plugins are tried on all."""

Version = tuple[int, ...]


@dataclass(frozen=True)
class Row:
    """One target; `command` is empty where the machine has not what it needs."""

    part: str
    version: str
    command: tuple[str, ...]


def numbers(version: str) -> Version:
    """Give the numbers of 3.12 or v1.0.9."""
    return tuple(map(int, version.removeprefix("v").split(".")))


def plugins(_: Path) -> Iterator[Row]:
    """Give each Python on which the plugins may run."""
    for version in PYTHONS:
        test = ("tests/plugins/test_other_pythons.py", "-k", version)
        command = (sys.executable, "-m", "pytest", *test)
        yield Row("Python, plugins", version, command if find_python(version) else ())


def sidecar(_: Path) -> Iterator[Row]:
    """Give each Python on which the sidecar may run."""
    for version in PYTHONS:
        if numbers(version) >= OLDEST_PYTHON:
            python = find_python(version)
            command = ("make", "test", f"PYTHON={python}", f"VENV=.venv-{version}")
            yield Row("Python, sidecar", version, command if python else ())


def hermes(home: Path) -> Iterator[Row]:
    """Give each release of Hermes, and what is checked out if it is another commit."""
    tags = re.findall(r"^v\d+\.\d+\.\d+$", git(home, "tag"), re.MULTILINE)
    tags = sorted((tag for tag in tags if numbers(tag) >= OLDEST_HERMES), key=numbers)
    head = git(home, "rev-parse", "HEAD")
    if head not in {git(home, "rev-parse", f"{tag}^{{commit}}") for tag in tags}:
        tags.append(head[:12])
    for tag in tags:
        where = CACHE / f"hermes-{tag}"
        if not where.exists():
            git(home, "clone", "--quiet", home, where)
            git(where, "checkout", "--quiet", tag)
        settings = (f"HERMES_HOME={where}", f"HERMES_VENV=.venv-hermes-{tag}")
        # What the plugins see of Hermes is the same in all of them.
        fewer = () if tag == tags[-1] else ("CONTRACT=",)
        yield Row("Hermes", tag, ("make", "test-hermes", *settings, *fewer))


def nats(_: Path) -> Iterator[Row]:
    """Give the newest patch of each nats-server that is not refused."""
    for version in reversed(NATS_VERSIONS):
        command = ("make", "test-nats", f"NATS_VERSION={version}")
        yield Row("nats-server", version, command)


def debian(_: Path) -> Iterator[Row]:
    """Give the package in fresh Debians, which needs root."""
    command = ("make", "test-deb") if os.geteuid() == 0 else ()
    yield Row("Debian package", "12, 13", command)


PARTS: Final = {
    each.__name__: each for each in (plugins, sidecar, hermes, nats, debian)
}


def git(home: Path, *arguments: str | Path) -> str:
    """Run git in a checkout; give what it prints."""
    return subprocess.check_output(["git", "-C", home, *arguments], text=True).strip()


def last_words(printed: str) -> str:
    """Give what pytest and the fault run say at their end."""
    ends = r"^\d+ (?:passed|failed|violations).*|\d+ acknowledged"
    found = re.findall(ends, printed, re.MULTILINE)
    return "; ".join(re.sub(r" in [\d.]+s.*", "", each) for each in found)


def run(row: Row) -> tuple[bool, str]:
    """Run a row; tell whether nothing failed, and give its line of the table."""
    said, is_good = "not on this machine: not tested", True
    if row.command:
        log = CACHE / (re.sub(r"[^\w.]+", "-", f"{row.part} {row.version}") + ".log")
        started_at = time.monotonic()
        ours = ("MAKE", "PYTHONPATH")  # not for the targets
        environ = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
        with log.open("wb") as output:
            status = subprocess.call(
                row.command, cwd=ROOT, stdout=output, stderr=output, env=environ
            )
        is_good = status == 0
        minutes = (time.monotonic() - started_at) / 60
        words = last_words(log.read_text("utf-8", "replace"))
        said = f"{words or 'see ' + str(log)} ({minutes:.0f} min)"
        said = said if is_good else f"**failed**: {said}"
    return is_good, f"| {row.part} | {row.version} | {said} |"


def main() -> int:
    """Run the parts that are named, or all; give the exit status."""
    parser = argparse.ArgumentParser(prog="python -m matrix")
    parser.add_argument("home", type=Path, metavar="HERMES_HOME")
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS])
    arguments = parser.parse_args()
    if not (arguments.home / "hermes.py").exists():
        parser.error("name a checkout of Hermes: make test-matrix HERMES_HOME=DIR")
    CACHE.mkdir(parents=True, exist_ok=True)
    today = dt.datetime.now(dt.UTC).date()
    system = platform.freedesktop_os_release()["PRETTY_NAME"]
    lines = [f"{today}, {system}, {platform.machine()}", ""]
    lines += ["| what | version | outcome |", "|---|---|---|"]
    is_good = True
    for part in arguments.parts or PARTS:
        for row in PARTS[part](arguments.home):
            print(f"{row.part} {row.version}: {' '.join(row.command)}", flush=True)
            passed, line = run(row)
            is_good &= passed
            lines.append(line)
    print("\n".join(["", *lines]))
    return 0 if is_good else 1


if __name__ == "__main__":
    raise SystemExit(main())
