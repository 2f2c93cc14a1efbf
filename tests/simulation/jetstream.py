# SPDX-License-Identifier: Apache-2.0
"""A model of JetStream on virtual time: one server, or three with three replicas.

Callbacks on the loop that is handed in, chance from the generator that is handed in and
nothing else: a run repeats exactly. docs/simulation.md says what is modelled, by which
source, and what a real server was compared with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from . import faults
from .api import full_config, tell_created
from .links import Link, NoGreeting, Origin
from .messages import (
    EXPECTED_STREAM,
    NANOSECONDS,
    OTHER_STREAM,
    Refusal,
    StoredMessage,
    acknowledgement,
    refusal_of_publish,
)
from .replica import (
    Assignment,
    BatchProposal,
    Change,
    Proposal,
    Replica,
    apply_batch,
    apply_proposal,
)
from .server import VERSIONS, Server
from .trouble import Trouble

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from .alone import Alone
    from .clock import VirtualLoop
    from .raft import Entry
    from .store import Store

__all__ = ["Cluster", "Committed", "Link", "NoGreeting", "Server", "StoredMessage"]

EPOCH_SECONDS = 1_800_000_000.0
_META_SECONDS = (0.001, 0.02)
_EXPIRY_SECONDS = (0.0, 0.3)
_TELLS = 0.75  # of worlds: in the others nobody may tell readers of what is stored
LEAF = "leaf"  # the domain of a leaf node


class Committed(NamedTuple):
    """A message that was committed, and in which life of the stream."""

    epoch: int
    message: StoredMessage


class Cluster:
    """The servers, the stream on them, and who knows all of it."""

    def __init__(
        self,
        loop: VirtualLoop,
        rng: Random,
        record: Callable[..., None],
        *,
        version: tuple[int, int] = (2, 15),
        nodes: int = 1,
        wall: Callable[[], float] | None = None,
        stream: str = "hermes",
        max_payload: int = 8 << 20,
    ) -> None:
        self.loop = loop
        self.rng = rng
        self.record = record
        self.version = version
        self.stream = stream
        self.max_payload = max_payload
        self.allows_atomic = version >= (2, 12)  # or a stream is made without
        self.now = loop.time
        self._wall = wall
        self._links = 0
        self._epoch = 0
        self._everything: list[Committed] = []
        self._oracle: Store | None = None
        self._oracle_index = 0
        self._oracle_last: Entry | None = None
        self.assignment: Assignment | None = None
        self.expired = 0  # below it all has passed its age
        self.cuts: list[tuple[Server, Server]] = []
        self.trouble = Trouble(rng)
        self.tells = rng.random() < _TELLS
        self.destructive = list(faults.DESTRUCTIVE)
        self.recreate_first = self._microseconds_or_next
        self.servers = [Server(self, index) for index in range(nodes)]
        for server in self.servers:
            for peer in self.servers:
                if peer is not server:
                    server.meet(peer)

    @property
    def nodes(self) -> list[Server]:
        """The servers, n1 first."""
        return self.servers

    # -- Time --------------------------------------------------------------------------

    def after(self, seconds: float, function: Callable[..., None], *args: Any) -> None:
        """Call later, whoever is frozen meanwhile."""
        self.loop.plainly_at(self.now() + seconds, function, *args)

    def wall_ns(self) -> int:
        """Give the true time since 1970."""
        seconds = self._wall() if self._wall else EPOCH_SECONDS + self.now()
        return int(seconds * NANOSECONDS)

    # -- For clients -------------------------------------------------------------------

    def connect(
        self,
        node: int,
        on_message: Callable[[str, bytes, bytes], None],
        on_closed: Callable[[str], None],
    ) -> Link:
        """Connect to a server by its index.

        Raises ConnectionRefusedError if it is dead, NoGreeting if it is frozen.
        """
        self._links += 1
        link = self.servers[node].accept(self._links, on_message, on_closed)
        self.record(link.server.name, "takes link %d", link.number)
        return link

    def info(self, node: int) -> dict[str, Any]:
        """Give what a server's INFO says."""
        server = self.servers[node]
        return {
            "server_name": server.name,
            "version": VERSIONS[self.version],
            "max_payload": self.max_payload,
            "headers": True,
            "jetstream": True,
        }

    @property
    def links(self) -> list[Link]:
        """Every connection that a server still holds."""
        return [link for server in self.servers for link in server.links]

    # -- Who reaches whom --------------------------------------------------------------

    def reaches(self, server: Server, peer: Server) -> bool:
        """Tell whether a route between two servers works."""
        if server is peer:
            return True
        return (server, peer) not in self.cuts and (peer, server) not in self.cuts

    def has_majority(self, server: Server) -> bool:
        """Tell whether a server runs and hears from a majority."""
        if server.state != "up":
            return False
        live = [
            peer
            for peer in self.servers
            if peer.state == "up" and self.reaches(server, peer)
        ]
        return len(live) * 2 > len(self.servers)

    def meta_leader(self) -> Server | None:
        """Give the server that answers for streams that are not there.

        Simpler than the real one, whose election takes 4 to 9 s.
        """
        return next((each for each in self.servers if self.has_majority(each)), None)

    def leader_replica(self) -> Alone | Replica | None:
        """Give the replica that leads and knows the most: the true leader."""
        best: Alone | Replica | None = None
        for server in self.servers:
            replica = server.replica
            if server.state != "up" or replica is None or not replica.is_leader:
                continue
            if (
                not isinstance(best, Replica)
                or not isinstance(replica, Replica)
                or replica.raft.term > best.raft.term
            ):
                best = replica
        return best

    @property
    def leader(self) -> Server | None:
        """The server of the stream's true leader, if it runs."""
        replica = self.leader_replica()
        return None if replica is None else replica.server

    # -- The life of the stream --------------------------------------------------------

    def takes(self, subject: str) -> bool:
        """Tell whether the stream takes a subject."""
        if self.assignment is None:
            return False
        return any(
            subject == each or (each[-1] in "*>" and subject.startswith(each[:-1]))
            for each in self.assignment.config["subjects"]
        )

    def provision(self, config: dict[str, Any]) -> None:
        """Create the stream as an operator does, with the sidecar's configuration."""
        self.assign(full_config({"name": self.stream} | config))

    def assign(
        self,
        config: dict[str, Any],
        *,
        origin: Origin | None = None,
        content: list[StoredMessage] | None = None,
        last: int = 0,
        created_ns: int | None = None,
    ) -> None:
        """Have a stream from now on; each server hears of it a moment later."""
        self._epoch += 1
        self.expired = 0
        up = [server for server in self.servers if server.state == "up"]
        self.assignment = Assignment(
            self._epoch,
            config,
            self.wall_ns() if created_ns is None else created_ns,
            content or [],
            last,
            self.rng.choice(up or self.servers),
            origin,
        )
        self._oracle = self.assignment.store()
        self._oracle_index, self._oracle_last = 0, None
        self.record("cluster", "the stream begins, epoch %d", self._epoch)
        self._spread()

    def unassign(self) -> None:
        """Have no stream from now on."""
        self.assignment = None  # servers that do not know it yet may still commit
        self.record("cluster", "the stream is deleted")
        self._spread()

    def _spread(self) -> None:
        if len(self.servers) == 1:
            self.servers[0].sync()
            return
        for server in self.servers:
            server.after(self.rng.uniform(*_META_SECONDS), server.sync)

    def created(self, replica: Alone | Replica) -> None:
        """Let the first leader answer whoever asked for the stream."""
        assignment = self.assignment
        if assignment is None or assignment.epoch != replica.epoch:
            return
        if assignment.origin is not None:
            self.assignment = assignment._replace(origin=None)
            tell_created(replica.server, assignment.origin)

    # -- What is true ------------------------------------------------------------------

    @property
    def stream_exists(self) -> bool:
        """Tell whether there is a stream."""
        return self.assignment is not None

    @property
    def epoch(self) -> int:
        """Which life of the stream this is: each creation and restore begins one."""
        return self._epoch

    @property
    def _true(self) -> Store | None:
        if self.assignment is None:
            return None
        if self.assignment.replicas > 1:
            return self._oracle
        replica = self.servers[0].replica
        is_known = replica is not None and replica.epoch == self.assignment.epoch
        return replica.store if replica is not None and is_known else self._oracle

    def truth(self) -> list[StoredMessage]:
        """Give the committed messages that the stream holds, in order."""
        store = self._true
        return [] if store is None else store.messages

    @property
    def first(self) -> int:
        """The first sequence that the stream holds, or would."""
        store = self._true
        return 1 if store is None else store.first

    @property
    def last(self) -> int:
        """The last sequence that is committed."""
        store = self._true
        return 0 if store is None else store.last

    def everything(self) -> list[Committed]:
        """Give every message that was ever committed, in that order."""
        return self._everything

    def store(self, epoch: int, message: StoredMessage) -> None:
        """See what the only replica stored."""
        self._everything.append(Committed(epoch, message))

    def commit(self, epoch: int, log: list[Entry], index: int) -> None:
        """See how far a leader has committed; what was committed never changes."""
        oracle = self._oracle
        if oracle is None or epoch != self._epoch or index <= self._oracle_index:
            return
        assert (
            not self._oracle_index or log[self._oracle_index - 1] is self._oracle_last
        ), "a leader lacks what was committed"
        for entry in log[self._oracle_index : index]:
            if isinstance(entry.what, Proposal):
                stored = apply_proposal(oracle, entry.what, self.version)
                if not isinstance(stored, Refusal):
                    self._everything.append(Committed(epoch, stored))
            elif isinstance(entry.what, BatchProposal):
                self._everything += [
                    Committed(epoch, each) for each in apply_batch(oracle, entry.what)
                ]
            elif isinstance(entry.what, Change):
                entry.what.make(oracle)
        self._oracle_index, self._oracle_last = index, log[index - 1]

    # -- Faults ------------------------------------------------------------------------

    def faults(self) -> list[str]:
        """Give the names of the faults that fit the topology and the version."""
        return faults.names(len(self.servers), self.version)

    def inject(self, name: str, rng: Random) -> Callable[[], None] | None:
        """Start a fault; give what ends it before its time, None if it is over."""
        return faults.start(self, name, rng)

    def heal(self) -> None:
        """End all faults."""
        for end in [*self.trouble.running, *self.trouble.slowing]:
            end()

    def expire(self, below: int) -> None:
        """Let all below a sequence pass its age; each replica sees it at its moment."""
        self.record("cluster", "what is before %d has passed its age", below)
        self.expired = below
        if self._oracle is not None:
            self._oracle.purge(below)
        for server in self.servers:
            if server.replica is not None:
                seconds = self.rng.uniform(*_EXPIRY_SECONDS)
                server.after(seconds, server.replica.expire, below)

    def _microseconds_or_next(self, last: int) -> int:
        """Say where a stream that is made anew begins, as the sidecar's provision."""
        return max(self.wall_ns() // 1000, last + 1)

    # -- Answers of others -------------------------------------------------------------

    def answer_as_foreign(self, server: Server, origin: Origin, block: bytes) -> None:
        """Answer as another stream or subscriber on our subjects would."""
        assert self.trouble.foreign is not None
        name, refusal, sequence = self.trouble.foreign
        if refusal == OTHER_STREAM and EXPECTED_STREAM not in block:
            refusal = None
        if refusal is not None:
            data = refusal_of_publish(refusal, name)
        else:
            data = acknowledgement(name, sequence, self.version, domain=LEAF)
        server.say("another answers link %d as %s", origin.link.number, name)
        origin.link.deliver(origin.reply, b"", data)
