# SPDX-License-Identifier: Apache-2.0
"""What `make test-system` needs beside tests/support."""

from __future__ import annotations

import os
import shutil
import sysconfig
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent


def pytest_configure() -> None:
    """Refuse to start where a tool is missing: a test left out proves nothing."""
    ours = sysconfig.get_path("scripts")  # some tools come from PyPI
    os.environ["PATH"] = f"{ours}:{os.environ['PATH']}:/usr/sbin:/sbin"
    lines = (HERE / "packages").read_text().splitlines()
    rows = [line.split() for line in lines if not line.startswith("#")]
    missing = {package for command, package in rows if shutil.which(command) is None}
    if missing:
        raise pytest.UsageError(
            f"Missing: {', '.join(sorted(missing))}. Run tests/system/install-packages."
        )
    if os.geteuid() != 0:
        raise pytest.UsageError("Run this as root: it makes and runs containers.")
