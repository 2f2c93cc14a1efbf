# SPDX-License-Identifier: Apache-2.0
"""A producer plugin that asks a fake in the sidecar's place, and lives by a clock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from support.fake_sidecar import Clock, FakeSidecar, L, stands, timed
from support.hermes import load_plugin
from support.sidecar import SidecarProcess, sidecar_on

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.nats import NatsProcess


@pytest.fixture
def fake() -> Iterator[FakeSidecar]:
    with FakeSidecar(stands(L)) as fake:
        yield fake


@pytest.fixture
def plugin(hermes_home: Path, fake: FakeSidecar, clock: Clock) -> Iterator[Any]:
    url = {"url": fake.url}
    plugin = timed(load_plugin(hermes_home, "messagebus_producers", url), clock)
    yield plugin
    plugin.close()


@pytest.fixture
def impatient(own_nats: NatsProcess, tmp_path: Path) -> Iterator[SidecarProcess]:
    """Start a sidecar, on a server that the test may freeze, that soon says unknown."""
    with sidecar_on(
        own_nats, tmp_path / "s", "hermes", publish_timeout_seconds=1
    ) as process:
        yield process


@pytest.fixture
def in_doubt(hermes_home: Path, impatient: SidecarProcess) -> Any:
    """Give a plugin that soon leaves a pass with an unknown outcome."""
    settings = {"url": impatient.url, "send_timeout": 5, "unknown_timeout": 2}
    return load_plugin(hermes_home, "messagebus_producers", settings)
