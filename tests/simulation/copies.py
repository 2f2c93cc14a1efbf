# SPDX-License-Identifier: Apache-2.0
"""Whoever answers direct gets beside our stream's replicas, and how late.

A mirror is a member of the same queue group, as nats-server makes each plain mirror.
Here it holds less than the stream, its end alone, or events of a stream that was
restored away; it bears its own name in `Nats-Stream`, and in nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from .store import Store

if TYPE_CHECKING:
    from random import Random

    from .jetstream import Cluster
    from .messages import StoredMessage
    from .trouble import Begun

MIRROR: Final = "backup"
ITS_SHARE: Final = 0.5


def mirror(cluster: Cluster, rng: Random) -> Begun:
    """Let a mirror answer direct gets, too."""
    assignment = cluster.assignment
    held = cluster.truth()
    if assignment is None or not held:
        return None
    place = rng.randint(0, len(held))
    kind = rng.choice(("less", "end", "other"))
    if kind == "less":
        held = held[:place]
    elif kind == "end":
        held = held[place:]
    else:
        held = [*held[:place], *map(_other, held[place:])]
    store = Store(assignment.config | {"first_seq": 1})
    for message in held:
        store.put(message)
    store.first = held[0].sequence if held else 1
    cluster.trouble.mirror = store

    def end() -> None:
        cluster.trouble.mirror = None

    return rng.uniform(1.0, 15.0), end


def _other(message: StoredMessage) -> StoredMessage:
    """Give what stood there before the stream was restored."""
    return message._replace(body=message.body.replace(b'"added"', b'"removed"'))


def late_pages(cluster: Cluster, rng: Random) -> Begun:
    """Let each answer to a direct get come late, some when nobody waits any more."""
    cluster.trouble.late_pages_seconds = rng.choice((0.7, 1.5, 4.0))

    def end() -> None:
        cluster.trouble.late_pages_seconds = 0.0

    return rng.uniform(1.0, 8.0), end
