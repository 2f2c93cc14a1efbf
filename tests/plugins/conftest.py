# SPDX-License-Identifier: Apache-2.0
"""A producer plugin that asks a player in the sidecar's place, and lives by a clock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from parts.answers import Clock, L, Player, stands, timed
from parts.hermes import load_plugin

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def player() -> Iterator[Player]:
    with Player(stands(L)) as player:
        yield player


@pytest.fixture
def plugin(hermes_home: Path, player: Player, clock: Clock) -> Iterator[Any]:
    url = {"url": player.url}
    plugin = timed(load_plugin(hermes_home, "messagebus_producers", url), clock)
    yield plugin
    plugin.close()
