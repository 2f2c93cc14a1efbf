# SPDX-License-Identifier: Apache-2.0
"""Faults of the modelled stream: no room for it, and another in its place."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .messages import FULL_OF_BYTES, FULL_OF_MESSAGES

if TYPE_CHECKING:
    from random import Random

    from .jetstream import Cluster
    from .replica import Assignment
    from .trouble import Begun

# -- Room ------------------------------------------------------------------------------


def disk_full_before(cluster: Cluster, rng: Random) -> Begun:
    """Have no room for a message, before it is proposed."""
    trouble, leader = cluster.trouble, cluster.leader
    if leader is None:
        return None
    if rng.random() < 0.3:
        trouble.account_full = True
    else:
        trouble.disk_full.append(leader)

    def end() -> None:
        trouble.account_full = False
        trouble.disk_full.clear()

    return rng.uniform(0.5, 8.0), end


def disk_full_after(cluster: Cluster, rng: Random) -> Begun:
    """Answer 10023 for what the followers store (R3 before 2.12)."""
    leader = cluster.leader
    if leader is None:
        return None
    cluster.trouble.full_after.append(leader)
    return rng.uniform(0.2, 2.0), cluster.trouble.full_after.clear


def stream_full(cluster: Cluster, rng: Random) -> Begun:
    """Have no room in the stream."""
    cluster.trouble.full = rng.choice((FULL_OF_MESSAGES, FULL_OF_BYTES))

    def end() -> None:
        cluster.trouble.full = None

    return rng.uniform(0.5, 10.0), end


def write_error(cluster: Cluster, rng: Random) -> Begun:
    """Fail to write, when a message may stand all the same (R1)."""
    cluster.trouble.writes_fail = True

    def end() -> None:
        cluster.trouble.writes_fail = False

    return rng.uniform(0.2, 3.0), end


# -- The stream ------------------------------------------------------------------------


def expire(cluster: Cluster, rng: Random) -> Begun:
    """Let the oldest messages pass their age, on each replica at its own moment."""
    held = cluster.truth()
    if held:
        part = 1.0 if rng.random() < 0.1 else 0.8 * rng.random()
        place = int(part * len(held))
        below = held[place].sequence if place < len(held) else cluster.last + 1
        cluster.expire(below)
    return None


def expire_steadily(cluster: Cluster, rng: Random) -> Begun:
    """Let the oldest messages go one by one for a while."""
    is_over = False
    pause_seconds = rng.choice((0.02, 0.1))

    def once() -> None:
        if is_over:
            return
        if cluster.first < cluster.last:
            cluster.expire(cluster.first + 1)
        cluster.after(pause_seconds, once)

    def end() -> None:
        nonlocal is_over
        is_over = True

    once()
    return rng.uniform(1.0, 5.0), end


def delete_and_create(cluster: Cluster, rng: Random) -> Begun:
    """Delete the stream, and make it anew."""
    assignment = cluster.assignment
    if assignment is None:
        return None
    config, last = assignment.config, cluster.last
    cluster.unassign()

    def end() -> None:
        if _is_still_gone(cluster, assignment):
            first = cluster.recreate_first(last)
            cluster.assign(config | {"first_seq": first})

    return rng.uniform(0.05, 4.0), end


def restore(cluster: Cluster, rng: Random) -> Begun:
    """Put a backup in the stream's place: it goes back."""
    assignment = cluster.assignment
    if assignment is None:
        return None
    held = cluster.truth()
    content = held[: rng.randint(0, len(held))]
    last = content[-1].sequence if content else cluster.first - 1
    created_ns = assignment.created_ns if rng.random() < 0.5 else None
    config = assignment.config
    cluster.unassign()

    def end() -> None:
        if _is_still_gone(cluster, assignment):
            cluster.assign(config, content=content, last=last, created_ns=created_ns)

    return rng.uniform(0.05, 2.0), end


def _is_still_gone(cluster: Cluster, deleted: Assignment) -> bool:
    """Tell whether nobody was quicker: the sidecar, or another such fault."""
    return cluster.assignment is None and cluster.epoch == deleted.epoch
