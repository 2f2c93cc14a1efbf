# SPDX-License-Identifier: Apache-2.0
"""The faults that the nemesis may start in the modelled cluster, by name.

Each ends by itself at a time that is drawn, or earlier by what `start` gives. The
source of each behaviour stands in docs/simulation.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from . import copies, forged, stream_faults
from .alone import Alone
from .messages import (
    FULL_OF_MESSAGES,
    OTHER_STREAM,
)
from .replica import Replica
from .trouble import Slow

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from .jetstream import Cluster
    from .links import Pipe
    from .server import Server
    from .trouble import Begun, End


DESTRUCTIVE: Final = ("delete_and_create", "restore")
"""Faults that change which stream it is: offsets may be gone, or come again."""


# -- Processes -------------------------------------------------------------------------


def _up(cluster: Cluster) -> list[Server]:
    return [server for server in cluster.servers if server.state == "up"]


def _kill(cluster: Cluster, rng: Random) -> Begun:
    up = _up(cluster)
    if not up:
        return None
    count = rng.choices((1, 2, 3), (80, 14, 6))[0]
    killed = rng.sample(up, min(count, len(up)))
    for server in killed:
        server.kill()

    def end() -> None:
        for server in killed:
            server.start()

    return rng.uniform(0.3, 8.0), end


def _freeze(cluster: Cluster, rng: Random) -> Begun:
    up = _up(cluster)
    if not up:
        return None
    server = rng.choice(up)
    server.freeze()
    return rng.choice((1.0, 4.0, 15.0)) * rng.random(), server.thaw


def _old_leader_answers(cluster: Cluster, rng: Random) -> Begun:
    """Freeze the leader until another leads; thawed, it hears of that late."""
    server = cluster.leader
    if server is None:
        return None
    server.freeze()
    late = rng.uniform(0.2, 1.5)
    return rng.uniform(9.5, 14.0), lambda: server.thaw(raft_seconds=late)


# -- The log ---------------------------------------------------------------------------


def _leading(cluster: Cluster) -> Replica | None:
    replica = cluster.leader_replica()
    return replica if isinstance(replica, Replica) else None


def _step_down(cluster: Cluster, _: Random) -> Begun:
    replica = _leading(cluster)
    if replica is not None:
        replica.raft.step_down()
    return None


def _leaderless_info(cluster: Cluster, _: Random) -> Begun:
    """Have no leader until somebody's election is due."""
    replica = _leading(cluster)
    if replica is not None:
        replica.raft.step_down(hand_over=False)
    return None


def _follower_answers_info(cluster: Cluster, rng: Random) -> Begun:
    cluster.trouble.followers_answer = True
    _step_down(cluster, rng)

    def end() -> None:
        cluster.trouble.followers_answer = False

    return rng.uniform(0.2, 2.0), end


def _lagging_replica(cluster: Cluster, rng: Random) -> Begun:
    followers = [
        server.replica.raft
        for server in _up(cluster)
        if isinstance(server.replica, Replica) and not server.replica.is_leader
    ]
    if not followers:
        return None
    raft = rng.choice(followers)
    raft.holds_apply += 1

    def end() -> None:
        if raft.holds_apply:  # a restart has forgotten it
            raft.holds_apply -= 1
            raft.server.after(0.0, raft.apply)

    return rng.uniform(0.5, 8.0), end


def _commit_late(cluster: Cluster, rng: Random) -> Begun:
    """Have a slow disk (R1), or followers that the leader reaches late (R3)."""
    return _hold_commits(cluster, rng.uniform(0.2, 6.0))


def _dedup_in_process(cluster: Cluster, rng: Random) -> Begun:
    return _hold_commits(cluster, rng.uniform(1.0, 4.0))


def _hold_commits(cluster: Cluster, seconds: float) -> Begun:
    replica = cluster.leader_replica()
    if replica is None:
        return None
    if isinstance(replica, Alone):
        pipes = [replica.disk]
    else:
        pipes = list(replica.server.rafts.values())
    return seconds, _hold(pipes)


def _hold(pipes: list[Pipe]) -> End:
    for pipe in pipes:
        pipe.hold()

    def end() -> None:
        for pipe in pipes:
            pipe.release()

    return end


def _drop_proposals(cluster: Cluster, rng: Random) -> Begun:
    """Let proposals reach nobody, and the leader step down with them."""
    replica = _leading(cluster)
    if replica is None:
        return None
    pipes = list(replica.server.rafts.values())
    for pipe in pipes:
        pipe.drops += 1

    def end() -> None:
        for pipe in pipes:
            pipe.drops -= 1
        if replica.server.state == "up":
            replica.raft.step_down()

    return rng.uniform(0.1, 2.5), end


def _partition(cluster: Cluster, rng: Random) -> Begun:
    """Part one server, which keeps its clients, from the two others.

    Two servers have several connections, and each is made again by itself. Where the
    log goes over another than the API, an old leader answers until it hears of the new.
    """
    leader = cluster.leader
    alone = rng.choice(cluster.servers)
    if leader is not None and rng.random() < 0.75:
        alone = leader
    others = [server for server in cluster.servers if server is not alone]
    is_lossy = rng.random() < 0.5
    both_ways = [(alone, server) for server in others]
    both_ways += [(server, alone) for server in others]
    routes = [one.routes[other] for one, other in both_ways]
    rafts = [one.rafts[other] for one, other in both_ways]
    late = rng.uniform(0.0, 2.0)
    cuts = [(alone, server) for server in others]
    cluster.cuts.extend(cuts)
    part = _lose if is_lossy else _hold
    if is_lossy:
        for pipe in (*routes, *rafts):
            pipe.lose()
        for one, other in both_ways:
            one.lose_route(other)
    release_routes, release_rafts = part(routes), part(rafts)

    def end() -> None:
        for cut in cuts:
            cluster.cuts.remove(cut)
        release_routes()
        cluster.after(late, release_rafts)
        for server in others:
            alone.greet(server)
            server.greet(alone)
        for server in cluster.servers:
            server.after(rng.uniform(0.0, 0.05), server.sync)

    return rng.uniform(6.0, 25.0), end


def _lose(pipes: list[Pipe]) -> End:
    for pipe in pipes:
        pipe.drops += 1

    def end() -> None:
        for pipe in pipes:
            pipe.drops -= 1

    return end


# -- Clients' connections --------------------------------------------------------------


def _cut_links(cluster: Cluster, rng: Random) -> Begun:
    for link in cluster.links:
        if rng.random() < 0.7:
            link.reset(rng)
    return None


def _stall_links(cluster: Cluster, rng: Random) -> Begun:
    links = [link for link in cluster.links if rng.random() < 0.7]
    seconds = rng.choice((1.0, 5.0, 20.0)) * rng.random()
    return seconds, _hold([pipe for link in links for pipe in (link.up, link.down)])


def _late_replies(cluster: Cluster, rng: Random) -> Begun:
    return rng.uniform(0.2, 5.0), _hold([link.down for link in cluster.links])


def _slow_links(cluster: Cluster, rng: Random) -> Begun:
    """Let what servers send to clients take its time; it comes all the same."""
    rate = rng.choice((8_000.0, 20_000.0))
    end = cluster.trouble.put("slow", Slow(rate, rng.choice((0.01, 0.1, 0.2))))
    return rng.uniform(30.0, 60.0), end


def _foreign_responder(cluster: Cluster, rng: Random) -> Begun:
    """Let a leaf node's stream on our subjects, or any subscriber, answer first."""
    refusal = rng.choice((OTHER_STREAM, OTHER_STREAM, FULL_OF_MESSAGES, None))
    cluster.trouble.foreign = "edge", refusal, rng.randint(1, 1000)

    def end() -> None:
        cluster.trouble.foreign = None

    return rng.uniform(0.3, 8.0), end


def _permission_late(cluster: Cluster, rng: Random) -> Begun:
    cluster.trouble.is_denied = True

    def end() -> None:
        cluster.trouble.is_denied = False

    return rng.uniform(0.3, 6.0), end


_FAULTS: Final[dict[str, Callable[[Cluster, Random], Begun]]] = {
    "kill": _kill,
    "freeze": _freeze,
    "step_down": _step_down,
    "partition": _partition,
    "cut_links": _cut_links,
    "stall_links": _stall_links,
    "late_replies": _late_replies,
    "lagging_replica": _lagging_replica,
    "follower_answers_info": _follower_answers_info,
    "leaderless_info": _leaderless_info,
    "old_leader_answers": _old_leader_answers,
    "drop_proposals": _drop_proposals,
    "commit_late": _commit_late,
    "dedup_in_process": _dedup_in_process,
    "foreign_responder": _foreign_responder,
    "disk_full_before": stream_faults.disk_full_before,
    "disk_full_after": stream_faults.disk_full_after,
    "stream_full": stream_faults.stream_full,
    "write_error": stream_faults.write_error,
    "expire": stream_faults.expire,
    "permission_late": _permission_late,
    "delete_and_create": stream_faults.delete_and_create,
    "restore": stream_faults.restore,
    "mirror": copies.mirror,
    "late_pages": copies.late_pages,
}
_BESIDE: Final[dict[str, Callable[[Cluster, Random], Begun]]] = {
    "mirror_of_more": copies.mirror_of_more,
    "damaged_copy": copies.damaged_copy,
    "following_mirror": copies.following_mirror,
    "slow_links": _slow_links,
    "expire_steadily": stream_faults.expire_steadily,
    "odd_replies": forged.odd_replies,
    "forged_replies": forged.forged_replies,
}
"""Faults of decks alone, so that the draws of all other runs stay as they are."""
_HARMLESS: Final = (
    "slow_links",
    "following_mirror",
    "mirror_of_more",
    "damaged_copy",
    "odd_replies",
    "forged_replies",
)
_ALONE: Final = ("write_error",)
_REPLICATED: Final = (
    "step_down",
    "partition",
    "lagging_replica",
    "follower_answers_info",
    "leaderless_info",
    "old_leader_answers",
    "drop_proposals",
    "dedup_in_process",
    "disk_full_after",
)


def start(cluster: Cluster, name: str, rng: Random) -> End | None:
    """Start a fault; give what ends it before its time, None if it is over."""
    begun = (_FAULTS | _BESIDE)[name](cluster, rng)
    cluster.record("nemesis", "%s%s", name, f", {begun[0]:.1f} s" if begun else "")
    if begun is None:
        return None
    seconds, end = begun
    trouble = cluster.trouble
    running = trouble.slowing if name in _HARMLESS else trouble.running

    def end_once() -> None:
        if end_once in running:
            running.remove(end_once)
            cluster.record("nemesis", "%s ends", name)
            end()

    running.append(end_once)
    cluster.after(seconds, end_once)
    return end_once


def names(nodes: int, version: tuple[int, int]) -> list[str]:
    """Give the faults that fit so many servers of a version, but those of decks."""
    if nodes == 1:
        return [name for name in _FAULTS if name not in _REPLICATED]
    left_out = [*_ALONE, *(["disk_full_after"] if version >= (2, 12) else [])]
    return [name for name in _FAULTS if name not in left_out]
