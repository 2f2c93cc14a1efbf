# SPDX-License-Identifier: Apache-2.0
"""The Pythons of this machine, in PATH or by pyenv."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

VERSIONS: Final = tuple(f"3.{minor}" for minor in range(10, 16))
"""Those that the plugins are to run on, or soon; the sidecar needs 3.11."""


def find_python(version: str) -> str | None:
    """Give the path of that Python, None where there is none that works."""
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
    return None
