# SPDX-License-Identifier: Apache-2.0
"""One modelled nats-server: its clients, its routes, its life."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from . import api
from .alone import Alone
from .links import ROUTE_SECONDS, Link, NoGreeting, Origin, Pipe
from .messages import no_responders, read_publish
from .replica import DIRECT, LEADER, Replica

if TYPE_CHECKING:
    from collections.abc import Callable

    from .jetstream import Cluster

VERSIONS: Final = {
    (2, 11): "2.11.11",
    (2, 12): "2.12.8",
    (2, 14): "2.14.6",
    (2, 15): "2.15.1",
}
_WAKE_SECONDS = 0.02
_SYNC_SECONDS = 1.0
_SKEW_NS = 20_000_000


class Server:
    """A process: it is up, frozen (SIGSTOP) or dead, and may be started again."""

    def __init__(self, cluster: Cluster, index: int) -> None:
        self.cluster = cluster
        self.index = index
        self.name = f"n{index + 1}"
        self.state = "up"
        self.started_at = cluster.now()
        self.died_at = 0.0
        self.replica: Alone | Replica | None = None
        self.links: list[Link] = []
        self.routes: dict[Server, Pipe] = {}
        self.rafts: dict[Server, Pipe] = {}
        self.knows: dict[Server, dict[str, bool]] = {}
        self.own = {LEADER: False, DIRECT: False}
        self.skew_ns = cluster.rng.randint(-_SKEW_NS, _SKEW_NS)
        self._life = 0
        self._asks_again = False
        self._held: list[Pipe] = []
        self._deferred: list[tuple[Callable[..., None], tuple[Any, ...]]] = []

    def __repr__(self) -> str:
        return f"<Server {self.name} {self.state}>"

    def meet(self, peer: Server) -> None:
        """Have a route to another server."""
        self.routes[peer] = Pipe(self.cluster, ROUTE_SECONDS)
        self.rafts[peer] = Pipe(self.cluster, ROUTE_SECONDS)
        self.knows[peer] = {}

    def say(self, text: str, *arguments: object) -> None:
        """Add a line to the history."""
        self.cluster.record(self.name, text, *arguments)

    def clock_ns(self) -> int:
        """Give this machine's wall clock."""
        return self.cluster.wall_ns() + self.skew_ns

    def after(self, seconds: float, function: Callable[..., None], *args: Any) -> None:
        """Call later, unless the process is killed before; not while it is frozen."""
        self.cluster.after(seconds, self._fire, self._life, function, args)

    def _fire(
        self, life: int, function: Callable[..., None], args: tuple[Any, ...]
    ) -> None:
        if life != self._life:
            return
        if self.state == "frozen":
            self._deferred.append((function, args))
        else:
            function(*args)

    # -- Its clients -------------------------------------------------------------------

    def accept(
        self,
        number: int,
        on_message: Callable[[str, bytes, bytes], None],
        on_closed: Callable[[str], None],
    ) -> Link:
        """Take a client's connection."""
        if self.state == "dead":
            raise ConnectionRefusedError(self.name)
        if self.state == "frozen":
            raise NoGreeting(self.name)
        link = Link(self.cluster, self, number, on_message, on_closed)
        self.links.append(link)
        return link

    def forget(self, link: Link) -> None:
        """Forget a client that is gone."""
        if link in self.links:
            self.links.remove(link)

    def take(
        self, link: Link, subject: str, reply: str, payload: bytes, block: bytes
    ) -> None:
        """Take a message of a client and bring it to whoever listens."""
        cluster = self.cluster
        if len(payload) + len(block) > cluster.max_payload:
            link.complain("'maximum payload violation'")
            link.end("'maximum payload violation'")
            return
        if cluster.trouble.forger is not None:
            cluster.trouble.forger.guess(link, subject)
        if subject.startswith("hermes-nats-sidecar."):
            self._take_word(link, subject)
            return
        if not subject.startswith("$JS.API."):
            self._take_publish(link, subject, reply, payload, block)
            return
        origin = Origin(self, link, reply)
        if subject.startswith("$JS.API.DIRECT.GET."):
            self._take_direct(origin, subject, payload)
            return
        for peer in self.routes:
            self.route(peer, api.answer, peer, subject, payload, origin)
        api.answer(self, subject, payload, origin)

    def _take_publish(
        self, link: Link, subject: str, reply: str, payload: bytes, block: bytes
    ) -> None:
        cluster = self.cluster
        late = cluster.trouble.denied_seconds()
        if late is not None:
            text = f"'permissions violation for publish to \"{subject.lower()}\"'"
            self.after(late, link.complain, text)
            return
        origin = Origin(self, link, reply)
        targets = self._listeners(LEADER) if cluster.takes(subject) else []
        foreign = cluster.trouble.foreign is not None
        if foreign and reply:
            cluster.answer_as_foreign(self, origin, block)
        if not targets and not foreign and reply:
            self.say("no responders for link %d", link.number)
            link.deliver(reply, no_responders(subject, cluster.version), b"")
        if not targets:
            return
        publish = read_publish(subject, payload, block, origin)
        for target in targets:
            if target is self:
                self.take_into_stream(publish)
            else:
                self.route(target, target.take_into_stream, publish)

    def _take_word(self, link: Link, subject: str) -> None:
        """Bring an empty message to all who listen, if the user may publish it."""
        if not self.cluster.tells:
            link.complain(f"'permissions violation for publish to \"{subject}\"'")
            return
        for peer in self.routes:
            self.route(peer, peer.spread, subject)
        self.spread(subject)

    def spread(self, subject: str) -> None:
        """Give an empty message to the clients here that listen."""
        for link in list(self.links):
            link.write(subject, b"", b"")

    def take_into_stream(self, publish: Any) -> None:
        """Give a publish to the stream's leader, if that is here."""
        on_batch = self.cluster.trouble.on_batch
        if on_batch is not None and publish.batch is not None:
            on_batch(publish)
        if self.replica is not None:
            self.replica.take(publish)

    def _take_direct(self, origin: Origin, subject: str, payload: bytes) -> None:
        """Bring a direct get to one of the queue group; nearness counts for nothing."""
        name = subject.rpartition(".")[2]
        targets = self._listeners(DIRECT) if name == self.cluster.stream else []
        if not targets:
            block = no_responders(subject, self.cluster.version)
            origin.link.deliver(origin.reply, block, b"")
            return
        target = self.cluster.rng.choice(targets)
        if target is self:
            api.answer_direct(self, payload, origin)
        else:
            self.route(target, api.answer_direct, target, payload, origin)

    def _listeners(self, kind: str) -> list[Server]:
        found = [self] if self.own[kind] else []
        return found + [peer for peer, knows in self.knows.items() if knows.get(kind)]

    # -- Its routes --------------------------------------------------------------------

    def route(self, peer: Server, function: Callable[..., None], *args: Any) -> None:
        """Send something to another server; into a dead one nothing is sent."""
        if peer.state != "dead":
            self.routes[peer].send(function, *args)

    def tell(self, peer: Server, epoch: int, what: str, *args: Any) -> None:
        """Send a message of the log's protocol."""
        if peer.state != "dead":
            self.rafts[peer].send(peer.hear, self, epoch, what, args)

    def hear(self, peer: Server, epoch: int, what: str, args: tuple[Any, ...]) -> None:
        """Take a message of the log's protocol, if it is of the stream that is here."""
        replica = self.replica
        if isinstance(replica, Replica) and replica.epoch == epoch:
            getattr(replica.raft, what)(peer, *args)

    def reply(self, origin: Origin | None, block: bytes, data: bytes) -> None:
        """Answer a client, by the server that it is connected to."""
        if origin is None or not origin.reply:
            return
        if origin.server is self:
            origin.link.deliver(origin.reply, block, data)
        else:
            self.route(origin.server, origin.link.deliver, origin.reply, block, data)

    def announce(self, kind: str, listens: bool) -> None:
        """Listen or not, and tell the others."""
        self.own[kind] = listens
        for peer in self.routes:
            self.route(peer, peer.learn, self, dict(self.own))

    def learn(self, peer: Server, listens: dict[str, bool]) -> None:
        """Hear what another server listens to."""
        self.knows[peer] = listens

    def lose_route(self, peer: Server) -> None:
        """Lose the connection by which another server hears from this one.

        It forgets what was listened to here, in order: a frozen one does so before it
        hears what is said over the next connection.
        """
        self.routes[peer].send(peer.learn, self, {})

    def greet(self, peer: Server) -> None:
        """Tell another server, over a new connection, what is listened to here."""
        self.route(peer, peer.learn, self, dict(self.own))

    # -- Its life ----------------------------------------------------------------------

    def kill(self) -> None:
        """End at once, as by SIGKILL; what was written to files stays."""
        if self.state == "dead":
            return
        self.say("is killed")
        self.state = "dead"
        self.died_at = self.cluster.now()
        self._life += 1
        self._asks_again = False
        self._deferred.clear()
        self.own = dict.fromkeys(self.own, False)
        for peer in self.routes:
            peer.routes[self].lose()
            peer.rafts[self].lose()
            self.lose_route(peer)
        for link in list(self.links):
            link.break_off()
        self._release()
        if self.replica is not None:
            self.replica.stop()

    def start(self) -> None:
        """Start again, on what its files hold."""
        if self.state != "dead":
            return
        self.say("is started")
        self.state = "up"
        self.started_at = self.cluster.now()
        for peer in self.routes:
            if self.cluster.reaches(self, peer):
                peer.greet(self)
        if self.replica is not None:
            self.replica.restart()
        self.sync()

    def freeze(self) -> None:
        """Stop it, as SIGSTOP does: what is sent to it waits in its sockets."""
        if self.state != "up":
            return
        self.say("is frozen")
        self.state = "frozen"
        self._held = [
            *(peer.routes[self] for peer in self.routes),
            *(peer.rafts[self] for peer in self.routes),
            *(link.up for link in self.links),
            *(self.replica.pipes if self.replica is not None else []),
        ]
        for pipe in self._held:
            pipe.hold()

    def thaw(self, raft_seconds: float = _WAKE_SECONDS) -> None:
        """Let it go on; which of its sockets it reads first nobody can say."""
        if self.state != "frozen":
            return
        self.say("is thawed")
        self.state = "up"
        rng, cluster = self.cluster.rng, self.cluster
        rafts = [peer.rafts[self] for peer in self.routes]
        held, self._held = self._held, []
        for pipe in held:
            seconds = raft_seconds if pipe in rafts else _WAKE_SECONDS
            cluster.after(rng.random() * seconds, pipe.release)
        deferred, self._deferred = self._deferred, []
        for function, args in deferred:
            self.after(rng.random() * raft_seconds, function, *args)
        self.after(raft_seconds, self.sync)

    def _release(self) -> None:
        held, self._held = self._held, []
        for pipe in held:
            pipe.release()

    def _sync_again(self) -> None:
        self._asks_again = False
        self.sync()

    def sync(self) -> None:
        """Do as the cluster's assignments say, as far as this server hears of them."""
        assignment = self.cluster.assignment
        if not self.cluster.has_majority(self):
            if self.state == "up" and not self._asks_again:
                self._asks_again = True
                self.after(_SYNC_SECONDS, self._sync_again)
            return
        if self.replica is not None and (
            assignment is None or assignment.epoch != self.replica.epoch
        ):
            self.replica.stop()
            self.announce(LEADER, False)
            self.announce(DIRECT, False)
            self.replica = None
        if assignment is not None and self.replica is None:
            made = Replica if assignment.replicas > 1 else Alone
            self.replica = made(self, assignment)
            self.replica.start()
