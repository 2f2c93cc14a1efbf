# SPDX-License-Identifier: Apache-2.0
"""Builds the Debian package."""

from __future__ import annotations

import os
import subprocess
import sysconfig
from typing import TYPE_CHECKING

from support.checkout import copy_checkout

if TYPE_CHECKING:
    from pathlib import Path

DATE = "1790000000"


def build(directory: Path, umask: int = 0o022, zone: str = "Europe/Paris") -> Path:
    """Build it from a checkout in a directory; give the package."""
    checkout = copy_checkout(directory / "checkout")
    environ = os.environ | {
        "PATH": f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}",
        "SOURCE_DATE_EPOCH": DATE,
        "TZ": zone,
    }
    done = subprocess.run(
        [checkout / "deploy/debian/build", directory / "dist"],
        env=environ,
        umask=umask,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    (package,) = (directory / "dist").iterdir()
    return package
