# SPDX-License-Identifier: Apache-2.0
"""Whoever answers direct gets beside our stream's replicas, and how late.

A mirror is a member of the same queue group, as nats-server makes each plain mirror.
Here it holds less than the stream, its end alone, more, events of a stream that was
restored away, or follows the stream some messages behind; it bears its own name in
`Nats-Stream`, and in nothing else.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from .store import Store

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from .jetstream import Cluster
    from .links import Origin
    from .messages import StoredMessage
    from .replica import Assignment
    from .server import Server
    from .trouble import Begun, End

MIRROR: Final = "backup"
ITS_SHARE: Final = 0.5
_EXPECTED: Final = re.compile(rb"Nats-Expected-[^\r\n]*\r\n")


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
    return rng.uniform(1.0, 15.0), _join(cluster, _store(assignment, held))


def damaged_copy(cluster: Cluster, rng: Random) -> Begun:
    """Let a replica answer that has lost messages: by its name it is one of ours."""
    assignment = cluster.assignment
    held = cluster.truth()
    if assignment is None or not held:
        return None
    kept = [message for message in held if rng.random() < 0.7]
    store = Store(assignment.config)
    for message in kept:
        store.put(message)
    return rng.uniform(1.0, 15.0), _join(cluster, store, name=cluster.stream)


def mirror_of_more(cluster: Cluster, rng: Random) -> Begun:
    """Let a mirror answer that has more: of a stream which was restored since."""
    assignment = cluster.assignment
    held = cluster.truth()
    if assignment is None or not held:
        return None
    more = [
        _other(message)._replace(sequence=held[-1].sequence + number)
        for number, message in enumerate(held[: rng.randint(1, 20)], start=1)
    ]
    return rng.uniform(1.0, 15.0), _join(cluster, _store(assignment, [*held, *more]))


def following_mirror(cluster: Cluster, rng: Random) -> Begun:
    """Let a mirror answer that follows the stream, some messages behind.

    What the stream loses it keeps; of a stream that was restored it takes what comes
    beyond its own last sequence.
    """
    assignment = cluster.assignment
    if assignment is None:
        return None
    behind = rng.choice((0, 0, 1, 5, 20))
    return rng.uniform(10.0, 40.0), follow(cluster, assignment, behind)


def follow(cluster: Cluster, assignment: Assignment, behind: int = 0) -> End:
    """Join such a mirror; give what takes it away."""
    store = _store(assignment, cluster.truth())

    def catch_up() -> None:
        held = cluster.truth()
        for message in held[: max(0, len(held) - behind)]:
            if message.sequence > store.last:
                store.put(_mirrored(message))

    return _join(cluster, store, catch_up)


def _store(assignment: Assignment, held: list[StoredMessage]) -> Store:
    store = Store(assignment.config | {"first_seq": 1})
    for message in held:
        store.put(_mirrored(message))
    store.first = held[0].sequence if held else 1
    return store


def _mirrored(message: StoredMessage) -> StoredMessage:
    """Give it as a mirror stores it: without what its publisher expected."""
    return message._replace(block=_EXPECTED.sub(b"", message.block))


def _join(
    cluster: Cluster,
    store: Store,
    catch_up: Callable[[], None] = lambda: None,
    name: str = MIRROR,
) -> End:
    trouble = cluster.trouble
    trouble.mirror, trouble.mirror_name, trouble.catch_up = store, name, catch_up

    def end() -> None:
        if trouble.mirror is store:
            trouble.mirror = None

    return end


def _other(message: StoredMessage) -> StoredMessage:
    """Give what stood there before the stream was restored."""
    return message._replace(body=message.body.replace(b'"added"', b'"removed"'))


def late_pages(cluster: Cluster, rng: Random) -> Begun:
    """Let each answer to a direct get come late, some when nobody waits any more."""
    cluster.trouble.late_pages_seconds = rng.choice((0.7, 1.5, 4.0))

    def end() -> None:
        cluster.trouble.late_pages_seconds = 0.0

    return rng.uniform(1.0, 8.0), end


def reply_late(server: Server, origin: Origin, block: bytes, data: bytes) -> None:
    """Bring a late answer to whoever listens to its subject by now.

    A connection that was made since has a subject of its own, so that is nobody.
    """
    server.reply(origin, block, data)
    if origin.link.is_over:
        for link in server.cluster.links:
            link.deliver(origin.reply, block, data)
