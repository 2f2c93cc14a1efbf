# SPDX-License-Identifier: Apache-2.0
"""Faults that begin within an atomic batch: it passes in some milliseconds.

Of a deck alone, so that the draws of all other runs stay as they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from .messages import Publish
    from .world import World

    Fault = Callable[[World, random.Random], Callable[[], None]]

_EVERYWHERE: Final = ("kill", "freeze", "cut_links", "stall_links", "commit_late")
_ALONE: Final = ("write_error", "write_error", "disk_full_before")
_REPLICATED: Final = (
    *("step_down", "step_down", "partition", "old_leader_answers", "drop_proposals"),
    "leaderless_info",
)
_DELAYS_SECONDS: Final = (0.0, 0.0, 0.0005, 0.002)
"""After one of its messages: between two of them, in a commit, or in a reply."""


def _fault_in_batch(world: World, rng: random.Random) -> Callable[[], None]:
    """Ask for an initsync, and begin a fault at a message of one of its batches."""
    cluster = world.cluster
    name = rng.choice(
        _EVERYWHERE + (_ALONE if len(cluster.servers) == 1 else _REPLICATED)
    )
    number = rng.choice((1, 2, None))  # None: the last
    delay_seconds = rng.choice(_DELAYS_SECONDS)
    world.ask_initsync()

    def begin() -> None:
        cluster.inject(name, rng)

    def note(publish: Publish) -> None:
        if publish.number == number or (number is None and publish.commits):
            cluster.trouble.on_batch = None
            if delay_seconds:
                cluster.after(delay_seconds, begin)
            else:
                begin()

    return cluster.trouble.put("on_batch", note)


IN_BATCHES: Final[dict[str, Fault]] = {"fault_in_batch": _fault_in_batch}
