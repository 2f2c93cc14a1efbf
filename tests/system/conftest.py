# SPDX-License-Identifier: Apache-2.0
"""What `make test-system` needs beside tests/support."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest
from system.containers import Containers

if TYPE_CHECKING:
    from collections.abc import Iterator

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


@pytest.fixture(scope="module")
def storage() -> Iterator[Containers]:
    """Give a storage of images and containers, in memory."""
    mount = ("unshare", "--mount", "--net", "mount", "-t", "tmpfs", "test", "/mnt")
    if subprocess.run(mount, check=False).returncode != 0:
        pytest.skip("NOT TESTED: not even root may mount here, so no container can run")
    # podman takes no path of more than 50 characters.
    with TemporaryDirectory() as name, Containers(Path(name)) as storage:
        yield storage
