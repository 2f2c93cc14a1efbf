# SPDX-License-Identifier: Apache-2.0
"""What one server does for the stream as one replica of three (R3).

The order of checks is that of the server's source: processClusteredInboundMsg
(server/jetstream_cluster.go) and, from 2.12 on, checkMsgHeadersPreClusteredProposal
(server/jetstream_batching.go).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from .messages import (
    IN_PROCESS,
    NO_RESOURCES,
    OTHER_STREAM,
    TOO_LARGE,
    Publish,
    Refusal,
    StoredMessage,
    acknowledgement,
    refusal_of_publish,
    stored_bytes,
    wrong_last,
)
from .raft import Entry, Raft
from .staged import Staged, check_batch
from .store import Store

if TYPE_CHECKING:
    from collections.abc import Callable

    from .links import Origin, Pipe
    from .server import Server

OFFLINE_SECONDS: Final = 30.0
STARTUP_SECONDS: Final = 10.0  # startupThreshold in isGroupLeaderless
DIRECT_SECONDS: Final = 2.0  # startDirectAccessMonitoring in monitorStream
LEADER, DIRECT = "leader", "direct"
"""What a server tells the others that it listens to: the stream, direct gets."""


class Assignment(NamedTuple):
    """What the cluster says of the stream: since when, as what, from which backup."""

    epoch: int
    config: dict[str, Any]
    created_ns: int
    content: list[StoredMessage]
    last: int
    preferred: Server | None = None
    origin: Origin | None = None

    @property
    def replicas(self) -> int:
        """How many replicas it has."""
        return int(self.config["num_replicas"])

    def store(self) -> Store:
        """Make a replica's store."""
        store = Store(self.config)
        if self.last:
            for message in self.content:
                store.put(message)
            store.last = self.last
            store.first = self.content[0].sequence if self.content else self.last + 1
        return store


class Proposal(NamedTuple):
    """A message that the leader proposed."""

    publish: Publish
    time_ns: int


class BatchProposal(NamedTuple):
    """An atomic batch that the leader proposed.

    The real log has an entry for each message, and a batch that lacks one is applied by
    nobody (applyStreamEntries): the same as one entry.
    """

    batch: list[Publish]
    time_ns: int


class Change(NamedTuple):
    """Another change of the stream, which `make` does to a store."""

    make: Callable[[Store], int]
    tell: Callable[[int], bytes]
    origin: Origin | None


class Replica:
    """One of three replicas, and perhaps their leader."""

    def __init__(self, server: Server, assignment: Assignment) -> None:
        self.server = server
        self.assignment = assignment
        self.epoch = assignment.epoch
        self.store = assignment.store()
        self.raft = Raft(server, server.cluster.servers, assignment.epoch)
        self.raft.machine = self
        self.pipes: list[Pipe] = []
        self._proposed = 0  # clseq: the last sequence that was proposed
        self._inflight: dict[int, int] = {}  # sequence: bytes
        self._name = str(assignment.config["name"])
        self._version = server.cluster.version
        self._staged = Staged(self.store.config)

    def start(self) -> None:
        """Begin; the preferred server asks for votes at once."""
        self.store.purge(self.server.cluster.expired)
        self.server.after(DIRECT_SECONDS, self._join_direct)
        preferred = self.assignment.preferred is self.server
        self.raft.start(
            campaign_seconds=self.server.cluster.rng.uniform(0.02, 0.06)
            if preferred
            else None
        )

    def stop(self) -> None:
        """End, as its process does or the stream."""

    def restart(self) -> None:
        """Begin again from what the files hold; ids under way are forgotten."""
        self._staged.clear()
        self.raft.reset()
        self.store.purge(self.server.cluster.expired)
        self.store.reload_ids(self.server.clock_ns())
        self.server.after(DIRECT_SECONDS, self._join_direct)
        self.raft.start()

    def _join_direct(self) -> None:
        """Be asked direct gets from now on, if it is not far behind; else look again.

        A leader is at once; a follower stays when it led before (monitorStream).
        """
        raft = self.raft
        is_mine = self.server.replica is self
        if not is_mine or self.server.own[DIRECT] or not self._allows_direct:
            return
        if raft.leader is not None and 0.9 * raft.commit <= raft.applied:
            self.server.announce(DIRECT, listens=True)
        else:
            self.server.after(DIRECT_SECONDS, self._join_direct)

    @property
    def _allows_direct(self) -> bool:
        return bool(self.store.config["allow_direct"])

    # -- As the leader -----------------------------------------------------------------

    def lead(self) -> None:
        """Begin to lead."""
        self._proposed = self.store.last
        self._inflight.clear()
        self.server.announce(LEADER, listens=True)
        if self._allows_direct and not self.server.own[DIRECT]:
            self.server.announce(DIRECT, listens=True)
        self.server.cluster.created(self)

    def follow(self) -> None:
        """Lead no more (processStreamLeaderChange forgets the ids under way)."""
        self.store.forget_staged()
        self._staged.clear()
        self._inflight.clear()
        self.server.announce(LEADER, listens=False)

    def expire(self, below: int) -> None:
        """Remove what has passed its age, by this server's own clock."""
        self.store.purge(below)

    def take(self, publish: Publish) -> None:
        """Check a publish and propose it; who does not lead says nothing."""
        if not self.raft.serves:
            return
        if publish.batch is not None and self._version >= (2, 12):
            self._stage(publish)
            return
        refusal = self._check(publish)
        if isinstance(refusal, Refusal):
            self._refuse(publish, refusal)
            if refusal == NO_RESOURCES:
                self.raft.step_down()
            return
        if refusal is not None:
            self._acknowledge(publish, refusal, duplicate=True)
            return
        time_ns = self.server.clock_ns()
        if publish.key is not None:
            self.store.ids[publish.key] = 0, time_ns
        self._proposed += 1
        self._inflight[self._proposed] = _bytes(publish)
        self.server.say("proposes %d, key %s", self._proposed, publish.key)
        self.raft.propose(Proposal(publish, time_ns))

    def _stage(self, publish: Publish) -> None:
        """Hold a part of an atomic batch; propose all where it is the last one."""
        cluster = self.server.cluster
        result: Refusal | list[Publish] | None
        result = cluster.trouble.disk_refusal(self.server)
        if 0 <= self.store.config["max_msg_size"] < publish.size_bytes:
            result = result or TOO_LARGE
        result = result or self._staged.add(publish, cluster.now())
        if isinstance(result, list):
            result = self._propose_batch(result)
        if isinstance(result, Refusal):
            self._refuse(publish, result)
            if result == NO_RESOURCES:
                self.raft.step_down()
        elif not publish.commits:
            self.server.reply(publish.origin, b"", b"")

    def _propose_batch(self, batch: list[Publish]) -> Refusal | None:
        store, now_ns = self.store, self.server.clock_ns()
        refusal = check_batch(batch, store, self._proposed, now_ns, self._name)
        more, more_bytes = len(self._inflight), sum(self._inflight.values())
        refusal = refusal or self.server.cluster.trouble.full
        refusal = refusal or store.full_of(batch, more, more_bytes)
        if refusal is not None:
            return refusal
        for publish in batch:
            if publish.key is not None:
                store.ids[publish.key] = 0, now_ns
            self._proposed += 1
            self._inflight[self._proposed] = _bytes(publish)
        self.server.say("proposes a batch up to %d", self._proposed)
        self.raft.propose(BatchProposal(batch, now_ns))
        return None

    def _check(self, publish: Publish) -> Refusal | int | None:
        """Give why it is not proposed, or the sequence of its id, or None."""
        trouble, store = self.server.cluster.trouble, self.store
        refusal = trouble.disk_refusal(self.server)
        if refusal is not None:
            return refusal
        if 0 <= store.config["max_msg_size"] < publish.size_bytes:
            return TOO_LARGE
        if publish.stream not in (None, self._name):
            return OTHER_STREAM
        if publish.key is not None:
            sequence = store.known(publish.key, self.server.clock_ns())
            if sequence is not None:
                return sequence or IN_PROCESS
        if trouble.full is not None:
            return trouble.full
        if self._version < (2, 12):
            return None  # the fence and the limits are looked at when it is applied
        if publish.last is not None and publish.last != self._proposed:
            return wrong_last(self._proposed)
        return store.full(publish, len(self._inflight), sum(self._inflight.values()))

    def _refuse(self, publish: Publish, refusal: Refusal) -> None:
        self.server.say("refuses key %s: %s", publish.key, refusal.description)
        answer = refusal_of_publish(refusal, self._name)
        self.server.reply(publish.origin, b"", answer)

    def _acknowledge(
        self,
        publish: Publish,
        sequence: int,
        *,
        duplicate: bool = False,
        batch: list[Publish] | None = None,
    ) -> None:
        self.server.say("acknowledges %d, key %s", sequence, publish.key)
        answer = acknowledgement(
            self._name, sequence, self._version, duplicate=duplicate, batch=batch
        )
        self.server.reply(publish.origin, b"", answer)

    def change(self, change: Change) -> None:
        """Let the stream be changed, as the leader."""
        if self.raft.serves:
            self.raft.propose(change)

    # -- As each replica ---------------------------------------------------------------

    def committed(self, log: list[Entry], index: int) -> None:
        """Let the omniscient view see what is committed for good."""
        self.server.cluster.commit(self.epoch, log, index)

    def apply(self, entry: Entry, _: int) -> None:
        """Apply a committed entry; whoever leads by now answers."""
        what = entry.what
        if isinstance(what, Proposal):
            before = self.store.last + 1
            result = apply_proposal(self.store, what, self._version)
            self._inflight.pop(before, None)
            if before < self.server.cluster.expired:  # it was late with it
                self.store.purge(self.server.cluster.expired)
            if self.raft.is_leader:
                self._answer(what.publish, result)
        elif isinstance(what, BatchProposal):
            for message in apply_batch(self.store, what):
                self._inflight.pop(message.sequence, None)
            if self.store.first < self.server.cluster.expired:
                self.store.purge(self.server.cluster.expired)
            if self.raft.is_leader:
                self._acknowledge(what.batch[-1], self.store.last, batch=what.batch)
        elif isinstance(what, Change):
            answer = what.tell(what.make(self.store))
            if self.raft.is_leader:
                self.server.reply(what.origin, b"", answer)

    def _answer(self, publish: Publish, result: Refusal | StoredMessage) -> None:
        if isinstance(result, Refusal):
            if publish.key is not None:  # stays under way until the leader changes
                self.store.ids[publish.key] = 0, self.server.clock_ns()
            self._refuse(publish, result)
        elif self.server in self.server.cluster.trouble.full_after:
            self._refuse(publish, NO_RESOURCES)
            self.raft.step_down()
        else:
            self._acknowledge(publish, result.sequence)

    # -- What it says of itself --------------------------------------------------------

    @property
    def is_leader(self) -> bool:
        """Tell whether it leads, in its own belief, and has applied its log.

        Before that it is no leader for any API (raft.go, Leader, leaderState, aflr).
        """
        return self.raft.is_leader and self.raft.serves

    @property
    def is_leaderless(self) -> bool:
        """Tell whether it says so (isGroupLeaderless, jetstream_cluster.go)."""
        if self.raft.leader is not None:
            return False
        now = self.server.cluster.now()
        if self.raft.had_leader and now - self.server.started_at > STARTUP_SECONDS:
            return True
        return now - self.raft.started_at > STARTUP_SECONDS

    def cluster_info(self) -> dict[str, Any]:
        """Give what STREAM.INFO says of the cluster (clusterInfo).

        A leader does not name itself among its replicas; who knows no leader does, and
        who follows names the leader there.
        """
        leader = self.raft.leader
        document: dict[str, Any] = {"name": "c", "raft_group": f"S-R3F-{self.epoch}"}
        if leader is not None:
            document["leader"] = leader.name
        document["replicas"] = [
            self._peer_info(peer)
            for peer in self.server.cluster.servers
            if peer is not self.server or leader is None
        ]
        return document

    def _peer_info(self, peer: Server) -> dict[str, Any]:
        now = self.server.cluster.now()
        heard = now if peer is self.server else self.raft.heard.get(peer)
        active = 0.0 if heard is None else now - heard
        lag = self.raft.lag(peer) if self.raft.is_leader else 0
        info: dict[str, Any] = {
            "name": peer.name,
            "current": active < STARTUP_SECONDS and not lag,
            "active": int(active * 1e9),
            "peer": peer.name,
        }
        if peer.state == "dead" and now - peer.died_at > OFFLINE_SECONDS:
            info["offline"] = True
        if lag:
            info["lag"] = lag
        return info


def apply_proposal(
    store: Store, proposal: Proposal, version: tuple[int, int]
) -> Refusal | StoredMessage:
    """Do what each replica does with a committed message, the same on all.

    Before 2.12 only here the fence and the limits were looked at.
    """
    publish = proposal.publish
    if version < (2, 12):
        if publish.last is not None and publish.last != store.last:
            return wrong_last(store.last)
        full = store.full(publish)
        if full is not None:
            return full
    return store.append(publish, proposal.time_ns)


def apply_batch(store: Store, proposal: BatchProposal) -> list[StoredMessage]:
    """Do the same with a committed batch."""
    return [store.append(publish, proposal.time_ns) for publish in proposal.batch]


def _bytes(publish: Publish) -> int:
    return stored_bytes(publish.subject, publish.block, publish.body)
