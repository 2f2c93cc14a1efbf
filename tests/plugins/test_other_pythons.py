# SPDX-License-Identifier: Apache-2.0
"""Both plugins on each Python of this machine."""

from __future__ import annotations

import os
import subprocess
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.pythons import VERSIONS, find_python

if TYPE_CHECKING:
    from support.sidecar import SidecarProcess

OTHER_PYTHON = Path(__file__).resolve().parents[1] / "support" / "other_python.py"


@pytest.mark.parametrize("version", VERSIONS)
def test_both_plugins_work_on_each_python_of_this_machine(
    hermes_home: Path, sidecar: SidecarProcess, version: str
) -> None:
    python = find_python(version)
    if python is None:
        pytest.skip(f"this machine has no Python {version}")
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
