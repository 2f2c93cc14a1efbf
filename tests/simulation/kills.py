# SPDX-License-Identifier: Apache-2.0
"""Faults of hermes-servers that end before their cache is saved, or with an older one.

Of decks alone, so that the draws of all other runs stay as they are.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from .disk import Death

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from .world import World

    Fault = Callable[[World, random.Random], Callable[[], None]]

_DELAYS_SECONDS: Final = (0.0, 0.001, 0.003, 0.01)
"""From the first event that is not saved on: between events, or inside one."""


def _kill_unsaved(world: World, rng: random.Random) -> Callable[[], None]:
    """Kill a process that was told of events which its cache on disk does not know."""
    server = rng.choice(world.servers)
    is_due = partial(getattr, server, "is_ahead_of_disk")
    return world.kill(server, rng.choice(_DELAYS_SECONDS), is_due)


def _kill_in_initsync(world: World, rng: random.Random) -> Callable[[], None]:
    """Kill it in an initsync, and ask for that once more, before its first pass."""
    server = world.servers[0]
    world.ask_initsync()
    is_due = partial(getattr, server, "is_in_initsync")
    start_again = world.kill(server, rng.choice(_DELAYS_SECONDS), is_due)

    def end() -> None:
        server.is_asked_soon = True
        start_again()

    return end


def _kill_in_a_row(world: World, rng: random.Random) -> Callable[[], None]:
    """Kill one process after the other, each before it has saved anything."""
    is_over = False
    start_again = _kill_unsaved(world, rng)

    def next_one() -> None:
        nonlocal start_again
        if not is_over:
            start_again()
            start_again = _kill_unsaved(world, rng)
            world.loop.call_later(rng.uniform(0.3, 1.5), next_one)

    def end() -> None:
        nonlocal is_over
        is_over = True
        start_again()

    world.loop.call_later(rng.uniform(0.3, 1.5), next_one)
    return end


def _kill_in_save(world: World, rng: random.Random) -> Callable[[], None]:
    """Kill it between the files of two types, or between the renames of one."""
    server = rng.choice(world.servers)
    server.disk.death = Death(rng.choice((0, 1, 1, 2)), rng.random() < 0.3)

    def end() -> None:
        server.disk.death = None

    return end


def _fill_disk(world: World, rng: random.Random) -> Callable[[], None]:
    """Let no file be written: each process ends with its first save."""
    server = rng.choice(world.servers)
    server.disk.is_full = True

    def end() -> None:
        server.disk.is_full = False

    return end


def _restore_cache(world: World, _: random.Random) -> Callable[[], None]:
    """Put a cache back that is so old as this fault is long."""
    server = world.servers[0]
    return partial(world.restore_cache, server, server.disk.copy())


def _take_over(world: World, rng: random.Random) -> Callable[[], None]:
    """Let a standby go on with a cache that was copied before, then the first again.

    The first one is dead meanwhile, or frozen: then both believe that they are alone.
    """
    copied = world.servers[0].disk.copy()
    is_frozen = rng.random() < 0.3
    give_back: Callable[[], None] | None = None
    is_over = False

    def take() -> None:
        nonlocal give_back
        if not is_over:
            give_back = world.take_over(copied, is_frozen=is_frozen)

    def end() -> None:
        nonlocal is_over
        is_over = True
        if give_back is not None:
            give_back()

    world.loop.call_later(rng.uniform(0.0, 2.0), take)
    return end


KILLS: Final[dict[str, Fault]] = {
    "kill_unsaved": _kill_unsaved,
    "kill_in_a_row": _kill_in_a_row,
    "kill_in_save": _kill_in_save,
    "kill_in_initsync": _kill_in_initsync,
    "fill_disk": _fill_disk,
    "restore_cache": _restore_cache,
    "take_over": _take_over,
}
