# SPDX-License-Identifier: Apache-2.0
"""How much is measured: quick (a minute), by default (ten), or in full."""

from __future__ import annotations

from dataclasses import dataclass

SIZES = (512, 2_048, 20_480)
"""Bytes of one event's to_json()."""

REPLAY_SIZES = SIZES[:2]
WARM_UP = 5
READERS = 100


@dataclass(frozen=True)
class Environment:
    """One NATS to measure on; rounds of `sends` events for each variant and size."""

    name: str
    nodes: int
    sync_always: bool
    rounds: int


@dataclass(frozen=True)
class Scale:
    """Counts of one run; growth_events empty leaves growth out."""

    name: str
    environments: tuple[Environment, ...]
    sends: int
    users: int
    large_users: int
    initsyncs: int
    replay_events: int
    replay_rounds: int
    waited_events: int
    idle_seconds: float
    beside_rounds: int
    sidecars: int
    growth_events: tuple[int, ...]
    growth_rounds: int
    publishes: int
    starts: int
    profile_seconds: int


ONE, ONE_ALWAYS = "one node, default sync", "one node, sync always"
THREE, THREE_ALWAYS = "three nodes, default sync", "three nodes, sync always"

QUICK = Scale(
    name="quick",
    environments=(
        Environment(ONE, 1, False, rounds=5),
        Environment(ONE_ALWAYS, 1, True, rounds=2),
    ),
    sends=60,
    users=1_000,
    large_users=0,
    initsyncs=2,
    replay_events=20_000,
    replay_rounds=1,
    waited_events=40,
    idle_seconds=3,
    beside_rounds=1,
    sidecars=10,
    growth_events=(),
    growth_rounds=0,
    publishes=2_000,
    starts=3,
    profile_seconds=3,
)

DEFAULT = Scale(
    name="default",
    environments=(
        Environment(ONE, 1, False, rounds=15),
        Environment(ONE_ALWAYS, 1, True, rounds=10),
        Environment(THREE, 3, False, rounds=5),
        Environment(THREE_ALWAYS, 3, True, rounds=5),
    ),
    sends=100,
    users=5_000,
    large_users=200_000,
    initsyncs=9,
    replay_events=100_000,
    replay_rounds=3,
    waited_events=200,
    idle_seconds=10,
    beside_rounds=5,
    sidecars=100,
    growth_events=(1_000, 100_000, 1_000_000),
    growth_rounds=6,
    publishes=20_000,
    starts=10,
    profile_seconds=8,
)

FULL = Scale(
    name="full",
    environments=(
        Environment(ONE, 1, False, rounds=50),
        Environment(ONE_ALWAYS, 1, True, rounds=50),
        Environment(THREE, 3, False, rounds=30),
        Environment(THREE_ALWAYS, 3, True, rounds=30),
    ),
    sends=100,
    users=5_000,
    large_users=200_000,
    initsyncs=10,
    replay_events=100_000,
    replay_rounds=7,
    waited_events=1_000,
    idle_seconds=30,
    beside_rounds=9,
    sidecars=100,
    growth_events=(1_000, 100_000, 1_000_000),
    growth_rounds=20,
    publishes=1_000_000,
    starts=30,
    profile_seconds=30,
)
