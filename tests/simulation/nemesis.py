# SPDX-License-Identifier: Apache-2.0
"""The faults of a run, as data: what can go wrong, and where it fits.

Each fault draws its details from a seed of its own, so that taking one out of a run
changes nothing of the others. Those of NATS are the model's own (Cluster.inject).
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from .faults import names as nats_faults
from .in_batches import IN_BATCHES
from .kills import KILLS
from .source import OBJECTS
from .trouble import Slow

if TYPE_CHECKING:
    from collections.abc import Callable

    from .scenario import FaultAt, Scenario
    from .world import World

    Undo = Callable[[], None] | None
    Fault = Callable[[World, random.Random], Undo]


def _kill_sidecar(world: World, rng: random.Random) -> Undo:
    sidecar = rng.choice(world.sidecars)
    sidecar.kill()
    return sidecar.start_again


def _stop_sidecar(world: World, rng: random.Random) -> Undo:
    sidecar = rng.choice(world.sidecars)
    sidecar.stop()
    return sidecar.start_again


def _freeze_sidecar(world: World, rng: random.Random) -> Undo:
    sidecar = rng.choice(world.sidecars)
    sidecar.freeze()
    return sidecar.thaw


def _kill_hermes(world: World, rng: random.Random) -> Undo:
    return world.kill(rng.choice(world.servers), rng.choice((0.0, 0.001, 0.01)))


def _restart_hermes(world: World, rng: random.Random) -> Undo:
    rng.choice(world.servers).is_stopping = True
    return None


def _freeze_hermes(world: World, rng: random.Random) -> Undo:
    return world.freeze(rng.choice(world.servers))


def _kill_client(world: World, rng: random.Random) -> Undo:
    return world.kill(rng.choice(world.clients))


def _freeze_client(world: World, rng: random.Random) -> Undo:
    return world.freeze(rng.choice(world.clients))


def _cut_http(world: World, rng: random.Random) -> Undo:
    for connection in world.hop.connections():
        if rng.random() < 0.7:
            connection.cut()
    return None


def _lose_answers(world: World, rng: random.Random) -> Undo:
    world.hop.cut_answers += rng.randrange(1, 4)
    return None


def _lose_requests(world: World, rng: random.Random) -> Undo:
    world.hop.cut_requests += rng.randrange(1, 4)
    return None


def _lose_acknowledgements(world: World, rng: random.Random) -> Undo:
    """Let every acknowledgement be lost for a while; refusals pass."""
    until = world.loop.time() + rng.choice((1.0, 4.0, 8.0))
    world.hop.unacknowledged_until = max(until, world.hop.unacknowledged_until)
    return None


def _lag_info(world: World, rng: random.Random) -> Undo:
    """Let a follower that lags answer STREAM.INFO, as in an election."""
    names = ("lagging_replica", "follower_answers_info")
    ends = [world.cluster.inject(name, rng) for name in names]

    def undo() -> None:
        for end in ends:
            if end is not None:
                end()

    return undo


def _ask_initsync(world: World, _: random.Random) -> Undo:
    """Do what an administrator may do at any time."""
    world.ask_initsync()
    return None


def _stall_http(world: World, rng: random.Random) -> Undo:
    world.hop.stall(rng.choice((0.3, 3.0, 12.0)))
    return None


def _slow_http(world: World, rng: random.Random) -> Undo:
    """Let answers to clients come slowly: a page takes seconds, and comes."""
    rate = rng.choice((4_000.0, 16_000.0))
    world.hop.slow = Slow(rate, rng.choice((0.01, 0.2)))

    def undo() -> None:
        world.hop.slow = None

    return undo


OURS: Final[dict[str, Fault]] = {
    "kill_sidecar": _kill_sidecar,
    "stop_sidecar": _stop_sidecar,
    "freeze_sidecar": _freeze_sidecar,
    "kill_hermes": _kill_hermes,
    "restart_hermes": _restart_hermes,
    "freeze_hermes": _freeze_hermes,
    "kill_client": _kill_client,
    "freeze_client": _freeze_client,
    "cut_http": _cut_http,
    "lose_answers": _lose_answers,
    "lose_requests": _lose_requests,
    "lose_acknowledgements": _lose_acknowledgements,
    "ask_initsync": _ask_initsync,
    "lag_info": _lag_info,
    "stall_http": _stall_http,
}


_BESIDE: Final[dict[str, Fault]] = {"slow_http": _slow_http, **KILLS, **IN_BATCHES}
"""Faults of decks alone, so that the draws of all other runs stay as they are."""


class Deck(NamedTuple):
    """Faults that go together, and the world in which they tell most."""

    faults: tuple[str, ...]
    seconds: tuple[float, float] = (8.0, 20.0)
    changes: tuple[int, int] = (400, 800)
    objects: tuple[int, ...] = (len(OBJECTS),)
    """Of these so many change: of few the same one comes again and again."""
    is_busy: bool = False
    one_by_one: tuple[str, ...] = ()
    """Faults with a time of their own: two at once, and nobody would lead."""
    blob_bytes: int = 0
    """How large the events of users are."""
    is_any_size: bool = False
    """One server as often as three: what is definite of one is not of three."""
    looks: bool = False
    """Somebody looks at pages, and clients look for categories, again and again."""


DECKS: Final = (
    Deck(
        (
            "lag_info",
            "follower_answers_info",
            "step_down",
            "leaderless_info",
            "old_leader_answers",
            "partition",
            "lose_answers",
            "lagging_replica",
            "kill_client",
        )
    ),
    # What is told unknown again and again, while the source goes on and back.
    Deck(
        (
            "lose_acknowledgements",
            "lose_acknowledgements",
            "lose_acknowledgements",
            "lose_answers",
            "cut_http",
            "kill_sidecar",
        ),
        seconds=(15.0, 30.0),
        objects=(1, 1, 2, 3),
        is_busy=True,
    ),
    Deck(
        (
            "ask_initsync",
            "stall_http",
            "freeze_sidecar",
            "cut_http",
            "stall_links",
            "commit_late",
            "kill_sidecar",
        )
    ),
    # Leaders of the past, and something to ask them about whenever they come back.
    Deck(
        ("lose_acknowledgements", "lose_acknowledgements", "lose_answers", "cut_http"),
        seconds=(45.0, 55.0),
        changes=(150, 250),
        is_busy=True,
        one_by_one=("old_leader_answers", "partition", "partition"),
    ),
    Deck(
        (
            "mirror",
            "late_pages",
            "kill_client",
            "freeze",
            "lagging_replica",
            "ask_initsync",
            "expire",
            "restore",
        )
    ),
)
"""Every second seed draws from one of these alone."""


BESIDE: Final = (
    # Whoever answers for the stream: nothing of what a copy says is an end.
    Deck(
        (
            "following_mirror",
            "mirror_of_more",
            "damaged_copy",
            "mirror",
            "late_pages",
            "late_pages",
            "kill_client",
            "kill_client",
            "cut_links",
            "restore",
            "ask_initsync",
        ),
        looks=True,
    ),
    # A slow link, and nothing else: what comes is waited for.
    Deck(
        ("slow_http", "slow_links", "kill_client", "ask_initsync"),
        seconds=(40.0, 60.0),
        changes=(40, 80),
        blob_bytes=24_000,
    ),
    # Streams put back, made anew and ageing under those who read them.
    Deck(
        (
            "restore",
            "restore",
            "following_mirror",
            "delete_and_create",
            "expire_steadily",
            "kill_client",
            "ask_initsync",
        ),
        seconds=(20.0, 30.0),
        looks=True,
    ),
    # What has aged out between two questions is no hole.
    Deck(
        (
            "expire_steadily",
            "expire_steadily",
            "expire",
            "slow_links",
            "late_pages",
            "kill_client",
            "ask_initsync",
        ),
        looks=True,
    ),
    # Followers and leaders that lag, freeze and come back: nobody says where it ends.
    Deck(
        (
            "freeze",
            "freeze",
            "lagging_replica",
            "stall_links",
            "late_replies",
            "mirror",
            "leaderless_info",
            "old_leader_answers",
            "kill_client",
            "kill_client",
            "ask_initsync",
        ),
        looks=True,
    ),
)
"""Of those that read. Every sixteenth seed draws from one of these alone."""

FORGED: Final = Deck(
    # Whoever answers beside our stream, while events are refused or come late.
    (
        "odd_replies",
        "odd_replies",
        "odd_replies",
        "forged_replies",
        "forged_replies",
        "forged_replies",
        "forged_replies",
        "commit_late",
        "drop_proposals",
        "stream_full",
        "cut_links",
        "step_down",
        "kill_client",
        "ask_initsync",
    ),
    is_any_size=True,
    looks=True,
)
"""Of replies that are not our stream's. Every sixteenth seed draws from it."""

UNKNOWN: Final = Deck(
    # Told unknown, though it stands; and before it comes again, an initsync without it.
    (
        "lose_acknowledgements",
        "lose_acknowledgements",
        "lose_acknowledgements",
        "ask_initsync",
        "ask_initsync",
        "ask_initsync",
        "lose_answers",
        "kill_sidecar",
    ),
    seconds=(15.0, 30.0),
    changes=(100, 200),
)
"""Of outcomes that nobody was told. Every sixteenth seed draws from it."""

KILLED: Final = Deck(
    # hermes-servers that end anywhere, and what else happens until the next one runs.
    (
        "kill_unsaved",
        "kill_unsaved",
        "kill_unsaved",
        "kill_in_a_row",
        "kill_in_a_row",
        "kill_in_save",
        "kill_in_save",
        "kill_in_initsync",
        "fill_disk",
        "fill_disk",
        "restore_cache",
        "take_over",
        "ask_initsync",
        "lose_acknowledgements",
        "commit_late",
        "stall_http",
        "kill_sidecar",
        "step_down",
        "old_leader_answers",
        "freeze",
        "expire",
        "restore",
        "delete_and_create",
    ),
    seconds=(15.0, 30.0),
    changes=(200, 400),
    objects=(3, len(OBJECTS), len(OBJECTS)),
    is_any_size=True,
)
"""Of killed hermes-servers. Every sixteenth seed draws from it."""

ATOMIC: Final = Deck(
    # Batches that are cut at any message, and what is sent until that is settled.
    (
        "fault_in_batch",
        "fault_in_batch",
        "fault_in_batch",
        "fault_in_batch",
        "ask_initsync",
        "lose_acknowledgements",
        "late_replies",
        "kill_sidecar",
        "freeze_sidecar",
        "kill",
    ),
    seconds=(15.0, 25.0),
    changes=(50, 150),
    is_any_size=True,
)
"""Of atomic batches. Every sixteenth seed draws from it."""

SLOW_ALONE: Final = frozenset(BESIDE[1].faults)
"""Where nothing but these goes wrong no reader may be told of a failure."""

STALE_PAGES: Final = frozenset(
    ("slow_links", "freeze", "stall_links", "late_replies", "old_leader_answers")
)
"""Faults with which the status page may be a minute old."""

LONG_SECONDS: Final = (20.0, 60.0)
LAST_LONG: Final = ("slow_http", "slow_links", "following_mirror")


NEW_LEADER_SECONDS: Final = (9.0, 12.0)
"""Another leads after 4 to 9 s; after 10 to 20 s the old one knows that it does not."""
NEED_A_NEW_LEADER: Final = ("old_leader_answers", "partition")
"""Faults that mean little if they end before another leads."""


def fitting(scenario: Scenario) -> list[str]:
    """Give the faults that fit a scenario, in a fixed order."""
    return [*OURS, *nats_faults(scenario.nodes, scenario.version)]


def inject(world: World, fault: FaultAt) -> None:
    """Begin a fault, and end it after a time of its own."""
    rng = random.Random(fault.seed)  # noqa: S311 - to repeat, not to hide
    world.record("nemesis", "%s", fault.name)
    ours = OURS.get(fault.name) or _BESIDE.get(fault.name)
    undo: Any
    if ours is not None:
        undo = ours(world, rng)
    else:
        undo = world.cluster.inject(fault.name, rng)
    world.faults_injected += 1
    if undo is not None:
        seconds = rng.choice((0.2, 1.0, 2.0, 5.0))
        if fault.name in NEED_A_NEW_LEADER:
            seconds = rng.uniform(*NEW_LEADER_SECONDS)
        elif fault.name in LAST_LONG:
            seconds = rng.uniform(*LONG_SECONDS)
        world.undo_later(fault.name, undo, seconds)
