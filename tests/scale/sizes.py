# SPDX-License-Identifier: Apache-2.0
"""How large the campus is: quick (three minutes), or in full (half an hour)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Sizes:
    """Counts of one run."""

    name: str
    sidecars: int
    """Of clients; one more is that of hermes-server."""
    clients: int
    """Consumer plugins on each of them."""
    campus_objects: Mapping[int, int]
    """That a real hermes-server reads, by nodes of NATS."""
    night_changes: int
    idle_seconds: float
    many_objects: Mapping[int, int]
    """That its stand-in sends, by nodes of NATS."""
    many_clients: int
    rounds: int
    round_objects: int
    peak_objects: int
    kept_objects: int
    kept_initsyncs: int
    kept_nights: int
    backup_events: int


QUICK = Sizes(
    name="quick",
    sidecars=3,
    clients=2,
    campus_objects={1: 2_000, 3: 2_000},
    night_changes=200,
    idle_seconds=4,
    many_objects={1: 20_000, 3: 5_000},
    many_clients=1,
    rounds=1,
    round_objects=2_000,
    peak_objects=5_000,
    kept_objects=2_000,
    kept_initsyncs=3,
    kept_nights=10,
    backup_events=20_000,
)

FULL = Sizes(
    name="full",
    sidecars=10,
    clients=5,
    campus_objects={1: 100_000, 3: 20_000},
    night_changes=5_000,
    idle_seconds=20,
    many_objects={1: 1_000_000, 3: 100_000},
    many_clients=1,
    rounds=3,
    round_objects=10_000,
    peak_objects=200_000,
    kept_objects=100_000,
    kept_initsyncs=13,  # one a week
    kept_nights=90,
    backup_events=1_000_000,
)
