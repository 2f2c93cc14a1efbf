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


def find(version: str) -> str:
    """Give that Python of this machine; skip the test where there is none."""
    candidates = [sys.executable, shutil.which(f"python{version}")]
    candidates += map(str, Path.home().glob(f".pyenv/versions/{version}.*/bin/python3"))
    for candidate in filter(None, candidates):
        ran = subprocess.run(
            [candidate, "-c", "import sys, ssl; print('%d.%d' % sys.version_info[:2])"],
            capture_output=True,
            text=True,
            check=False,
        )
        if ran.stdout.strip() == version:
            return candidate
    pytest.skip(f"this machine has no Python {version}")


@pytest.mark.parametrize("version", [f"3.{minor}" for minor in range(10, 16)])
def test_both_plugins_work_on_each_python_of_this_machine(
    hermes_home: Path, sidecar: SidecarProcess, version: str
) -> None:
    python = find(version)
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
