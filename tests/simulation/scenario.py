# SPDX-License-Identifier: Apache-2.0
"""What one run is: everything that its seed decides, as a value that can be shrunk."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, NamedTuple

from .nemesis import ATOMIC, BESIDE, DECKS, FORGED, KILLED, UNKNOWN, fitting
from .source import OBJECTS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .nemesis import Deck

APART_SECONDS: Final = 14.0
"""From one fault to the next where they come one by one."""
VERSIONS: Final = ((2, 11), (2, 12), (2, 14), (2, 15))


class FaultAt(NamedTuple):
    """One fault: when it begins, in virtual seconds, and what decides its details."""

    at: float
    name: str
    seed: int

    def __str__(self) -> str:
        return f"{self.at:.2f}:{self.name}:{self.seed}"


@dataclass(frozen=True)
class Scenario:
    """A run. Each part draws from a generator of its own, so that one can be taken out.

    `changes`: how many values change at the source at most; no more than it takes to
    store so many `events`, once faults have ended, which is after `seconds`. `is_busy`:
    Hermes makes no longer pauses than it must.
    """

    seed: int
    nodes: int = 1
    version: tuple[int, int] = (2, 15)
    sidecars: int = 1
    standby: bool = False
    clients: int = 1
    curl: bool = False
    changes: int = 800
    events: int = 100
    objects: int = len(OBJECTS)
    seconds: float = 60.0
    send_timeout: float = 30.0
    unknown_timeout: float = 60.0
    faults: tuple[FaultAt, ...] = field(default=())
    is_busy: bool = False
    blob_bytes: int = 0
    looks: bool = False
    broken: str = ""

    def rng(self, part: str) -> random.Random:
        """Give the generator of a part: always the same for a seed."""
        return random.Random(f"{self.seed}/{part}")  # noqa: S311 - to repeat, not to hide

    @property
    def batch_events(self) -> int:
        """Give how many objects of an initsync go in one request: a run has few."""
        return self.rng("batches").choice((1, 2, 3, 100))

    @property
    def command(self) -> str:
        """The command that repeats this run, shrunk or not."""
        drawn = draw(self.seed, self.broken)
        words = [f"PYTHONPATH=tests python -m simulation --seed {self.seed}"]
        if self.broken:
            words.append(f"--broken {self.broken}")
        kept = [
            str(drawn.faults.index(fault))
            for fault in self.faults
            if fault in drawn.faults
        ]
        if self.faults != drawn.faults:
            words.append(f"--keep {','.join(kept) or 'none'}")
        if self.changes != drawn.changes:
            words.append(f"--changes {self.changes}")
        words += [
            f"--without {name}"
            for name in ("standby", "curl", "clients")
            if getattr(self, name) != getattr(drawn, name)
        ]
        return " ".join(words)


def draw(seed: int, broken: str = "", deck: Deck | None = None) -> Scenario:
    """Draw a run from its seed; from a deck where one is named."""
    rng = random.Random(f"{seed}/scenario")  # noqa: S311 - to repeat, not to hide
    quick = rng.random() < 0.9
    scenario = Scenario(
        seed,
        nodes=rng.choice((1, 3)),
        version=rng.choice(VERSIONS),
        sidecars=rng.choice((1, 1, 2)),
        standby=rng.random() < 0.2,
        clients=rng.choice((1, 1, 2)),
        curl=rng.random() < 0.2,
        changes=rng.randrange(400, 800),
        seconds=rng.uniform(8.0, 20.0),
        send_timeout=rng.choice((2.0, 5.0)) if quick else 30.0,
        unknown_timeout=rng.choice((4.0, 10.0)) if quick else 60.0,
        broken=broken,
    )
    possible = fitting(scenario)
    few = rng.sample(possible, min(len(possible), rng.randrange(3, 9)))
    faults: list[FaultAt] = []
    if seed % 16 == 15:
        deck = deck or BESIDE[seed // 16 % len(BESIDE)]
    if seed % 16 == 14:
        deck = deck or FORGED
    if seed % 16 == 12:
        deck = deck or UNKNOWN
    if seed % 16 == 10:
        deck = deck or ATOMIC
    if seed % 16 == 6:
        deck = deck or KILLED
    if seed % 2 or deck is not None:
        # Soon told unknown: what Hermes sends next is then the hard part.
        scenario = replace(scenario, send_timeout=1.0, unknown_timeout=1.0)
        deck = deck or DECKS[seed // 2 % len(DECKS)]
        if not deck.is_any_size:
            scenario = replace(scenario, nodes=3)
        if deck is ATOMIC:
            scenario = replace(scenario, version=max(scenario.version, (2, 12)))
        few = [*deck.faults]
        scenario = replace(
            scenario,
            objects=rng.choice(deck.objects),
            seconds=rng.uniform(*deck.seconds),
            changes=rng.randrange(*deck.changes),
            is_busy=deck.is_busy,
            blob_bytes=deck.blob_bytes,
            looks=deck.looks,
        )
        if deck.one_by_one:
            begin = rng.uniform(1.5, 4.0)
            while begin < scenario.seconds - APART_SECONDS:
                faults.append(_fault(rng, begin, deck.one_by_one))
                begin += APART_SECONDS
    faults += [
        _fault(rng, rng.uniform(1.0, scenario.seconds), few)
        for _ in range(rng.randrange(10, 20))
    ]
    return replace(scenario, faults=tuple(sorted(faults)))


def _fault(rng: random.Random, at: float, names: Sequence[str]) -> FaultAt:
    return FaultAt(round(at, 2), rng.choice(names), rng.randrange(1 << 32))
