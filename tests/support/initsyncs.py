# SPDX-License-Identifier: Apache-2.0
"""Histories of events, whole initsyncs and broken ones, and what a scan makes of them.

An event is a letter: S a E of an initsync, b of base, x and y of base with the types
of a start and a stop, ? of an initsync with a type that is no name.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

KINDS: Final[dict[str, tuple[str, str | None]]] = {
    "S": ("initsync", "init-start"),
    "a": ("initsync", "added"),
    "E": ("initsync", "init-stop"),
    "b": ("base", "modified"),
    "x": ("base", "init-start"),
    "y": ("base", "init-stop"),
    "?": ("initsync", None),
}

_KINDS: Final[list[Callable[[random.Random], str]]] = [
    # As bad as can be: any event anywhere.
    lambda rng: "".join(rng.choices("SaEbxy?", (3, 6, 2, 3, 1, 1, 1), k=40)),
    # Broken off again and again after a whole one.
    lambda rng: _whole(rng) + "".join("S" + "a" * rng.randint(0, 4) for _ in range(20)),
    # Back to back, without any pause or other event.
    lambda rng: "".join(_whole(rng) for _ in range(rng.randint(2, 30))),
    # Stops without a start, before, between and after.
    lambda rng: "E".join(
        rng.choice(("", "aa", "b", _whole(rng), "S" + "a" * 3)) for _ in range(8)
    ),
    # A busy source between the events of one, and after it.
    lambda rng: "".join(each + "b" * rng.randint(0, 2) for each in _whole(rng) * 3),
    # Its beginning is gone already.
    lambda rng: "aaaE" + "b" * rng.randint(0, 5) + _whole(rng) * rng.randint(0, 2),
]


def histories(count: int, seed: int = 1) -> Iterator[str]:
    """Generate histories, of each kind in turn."""
    rng = random.Random(seed)  # noqa: S311 - a seed repeats them
    for number in range(count):
        yield _KINDS[number % len(_KINDS)](rng)


def _whole(rng: random.Random) -> str:
    return "S" + "a" * rng.randint(0, 6) + "E"
