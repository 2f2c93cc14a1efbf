# SPDX-License-Identifier: Apache-2.0
"""Both plugins on each Python of this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from support.sidecar import SidecarProcess

OTHER_PYTHON = Path(__file__).resolve().parents[1] / "support" / "other_python.py"


def pythons() -> dict[str, str]:
    """Each Python from 3.10 that this machine has, by its version."""
    candidates = [sys.executable]
    candidates += filter(None, (shutil.which(f"python3.{n}") for n in range(10, 16)))
    candidates += map(str, Path.home().glob(".pyenv/versions/3.*/bin/python3"))
    found: dict[str, str] = {}
    for candidate in candidates:
        ran = subprocess.run(
            [candidate, "-c", "import sys, ssl; print('%d.%d' % sys.version_info[:2])"],
            capture_output=True,
            text=True,
            check=False,
        )
        version = ran.stdout.strip()
        if ran.returncode == 0 and tuple(map(int, version.split("."))) >= (3, 10):
            found.setdefault(version, candidate)
    return found


PYTHONS = pythons()


@pytest.mark.parametrize("python", PYTHONS.values(), ids=PYTHONS)
def test_both_plugins_work_on_each_python_of_this_machine(
    hermes_home: Path, sidecar: SidecarProcess, python: str
) -> None:
    ran = subprocess.run(
        [
            *(python, "-I", "-B", "-W", "error", OTHER_PYTHON, hermes_home),
            *(sysconfig.get_path("purelib"), sidecar.url),
        ],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env={"PATH": os.defpath},
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == ""
