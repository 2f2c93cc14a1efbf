# SPDX-License-Identifier: Apache-2.0
"""Fixtures: a real NATS, a real sidecar on it, and a Hermes with our plugins."""

from __future__ import annotations

import gc
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.hermes import make_hermes_home, use_hermes_home
from support.jetstream import wait_jetstream
from support.leader import WITHOUT_JETSTREAM
from support.nats import NatsProcess
from support.sidecar import SidecarProcess

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx

LONGEST = (
    *("simulation/test_simulation.py", "simulation/test_simulated_jetstream.py"),
    *("test_disappears.py", "simulation/test_simulated_hermes.py"),
    *("chaos/test_chaos.py", "fuzz/test_fuzz.py", "test_canary.py"),
    *("services/test_initsync_lookup.py", "jetstream/test_limits.py"),
    *("services/publisher/test_batches_real.py", "jetstream/test_reasons.py"),
    *("services/test_slow_readers.py", "commands/test_cli.py"),
    *("jetstream/test_supervisor.py", "plugins/test_blocked.py"),
    *("commands/test_demo_command.py", "http/test_protocol.py"),
    *("plugins/producer/test_producer_real_sidecars.py", "services/test_reading.py"),
    *("plugins/test_false_sidecar.py", "services/test_large_events.py"),
    *("plugins/producer/test_producer_responses.py", "test_strangers.py"),
    "test_lifecycle.py",
)
"""Files, the longest first: they begin first, so that no worker is alone at the end."""


def pytest_configure() -> None:
    """Start daemons quickly, but where coverage looks into each of them."""
    SidecarProcess.is_forked = "coverage" not in sys.modules


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put long files first; pytest-randomly has put all in a random order."""
    tests = Path(__file__).parent
    files = [(tests / file).resolve(strict=True) for file in LONGEST]
    rank = {file: number for number, file in enumerate(files)}
    items.sort(key=lambda item: rank.get(item.path, len(LONGEST)))


def pytest_collection_finish() -> None:
    """Leave what was loaded out of each later garbage collection."""
    gc.freeze()


@pytest.fixture(scope="module")
def nats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsProcess]:
    """One nats-server for a module."""
    with NatsProcess(tmp_path_factory.mktemp("nats")) as server:
        yield server


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsProcess]:
    """Start one nats-server without JetStream, for whoever speaks in its place."""
    directory = tmp_path_factory.mktemp("plain")
    with NatsProcess(directory, jetstream=WITHOUT_JETSTREAM) as nats:
        yield nats


@pytest.fixture(scope="module")
def sidecar(
    nats: NatsProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SidecarProcess]:
    """One ready sidecar for a module, with a stream."""
    directory = tmp_path_factory.mktemp("sidecar")
    with SidecarProcess(directory, nats_url=nats.url, stream_create=True) as process:
        yield process


@pytest.fixture
def http(sidecar: SidecarProcess) -> Iterator[httpx.Client]:
    """HTTP to the module's sidecar."""
    with sidecar.client() as client:
        yield client


@pytest.fixture(scope="session")
def hermes_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a Hermes, or our stand-in for it, with our plugins installed."""
    home = make_hermes_home(tmp_path_factory.mktemp("hermes"))
    use_hermes_home(home)
    return home


@pytest.fixture
def own_nats(tmp_path: Path) -> Iterator[NatsProcess]:
    """One server that the test may kill."""
    with NatsProcess(tmp_path / "nats") as server:
        wait_jetstream(server.port)
        yield server
