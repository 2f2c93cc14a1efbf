# SPDX-License-Identifier: Apache-2.0
"""Tests against a real Hermes: `make test-hermes HERMES_HOME=...`.

HERMES_HOME names a checkout of Hermes, HERMES_PYTHON the Python of a virtual
environment that holds what Hermes itself requires and nothing of ours.
"""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.campus import Campus
from support.hermes_programs import HermesClient, HermesServer
from support.sidecar import sidecar_on

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.nats import NatsProcess
    from support.sidecar import SidecarProcess

# A plain `make test` is no test of Hermes: it does not even collect these.
collect_ignore_glob = [] if os.environ.get("HERMES_HOME") else ["test_*.py"]


@pytest.fixture(scope="session")
def hermes_python() -> Path:
    """Give the Python that Hermes' own processes run on."""
    python = os.environ.get("HERMES_PYTHON", "")
    assert python, "use: make test-hermes HERMES_HOME=<a checkout of Hermes>"
    return Path(python).absolute()


@pytest.fixture
def sidecar(nats: NatsProcess, tmp_path: Path) -> Iterator[SidecarProcess]:
    """One ready sidecar for a test, with a stream of its own."""
    name = f"hermes-{uuid.uuid4().hex[:8]}"
    with sidecar_on(nats, tmp_path / "sidecar", name) as process:
        yield process


@pytest.fixture
def campus(tmp_path: Path) -> Iterator[Campus]:
    """Give a data source with some users, groups and memberships."""
    with Campus(tmp_path / "campus.sqlite") as database:
        yield database


@pytest.fixture
def server(
    hermes_home: Path,
    hermes_python: Path,
    sidecar: SidecarProcess,
    campus: Campus,
    tmp_path: Path,
) -> Iterator[HermesServer]:
    """Give a hermes-server that has fetched the source once."""
    process = HermesServer(
        hermes_home, hermes_python, tmp_path / "server", campus.path, url=sidecar.url
    )
    with process:
        yield process.wait_fetched()


@pytest.fixture
def client(
    hermes_home: Path, hermes_python: Path, sidecar: SidecarProcess, tmp_path: Path
) -> Iterator[HermesClient]:
    """Give a hermes-client that is not started yet; it is ended in any case."""
    process = HermesClient(
        hermes_home, hermes_python, tmp_path / "client", url=sidecar.url
    )
    try:
        yield process
    finally:
        process.stop()
