# SPDX-License-Identifier: Apache-2.0
"""A producer plugin that asks a fake in the sidecar's place, and lives by a clock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from support.fake_sidecar import Clock, FakeSidecar, L, stands, timed
from support.hermes import load_plugin

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


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
