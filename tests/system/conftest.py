# SPDX-License-Identifier: Apache-2.0
"""What `make test-system` needs beside the parts of the other tests."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from containers import Containers

if TYPE_CHECKING:
    from collections.abc import Iterator

# A real Hermes in a test of the image; without HERMES_HOME it is not even collected.
sys.path.append(str(Path(__file__).resolve().parent.parent / "hermes"))
collect_ignore = [] if os.environ.get("HERMES_HOME") else ["test_image_hermes.py"]


@pytest.fixture(scope="session")
def containers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containers]:
    """Build the image once, in a storage of its own, and remove all of it."""
    storage = Containers(tmp_path_factory.mktemp("containers"))
    storage.make_image()
    yield storage
    storage.podman("rm", "--all", "--force", check=False)
    storage.podman("rmi", "--all", "--force", check=False)
