# SPDX-License-Identifier: Apache-2.0
"""The modelled network: connections that keep order and may stall, be cut or be late.

What was written arrives in order or not at all, perhaps long after the writer closed:
bytes in a peer's socket outlive the connection (proven with nats-server 2.15.1: a
publish whose sender had closed was stored when the server was thawed).
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from support.odd import Reply

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from .jetstream import Cluster
    from .server import Server
    from .trouble import Slow

CLIENT_SECONDS = (0.0001, 0.0008)
ROUTE_SECONDS = (0.0001, 0.0006)
FINISH_SECONDS = 0.0002


class NoGreeting(TimeoutError):  # noqa: N818 - a silence, not an error
    """The server takes the connection and sends no INFO: it is frozen."""


class Origin(NamedTuple):
    """Who asked: the server that took the request, its link, the reply subject."""

    server: Server
    link: Link
    reply: str


class Pipe:
    """One direction of a connection: a queue whose items arrive in order."""

    __slots__ = (
        "_age",
        "_cluster",
        "_due",
        "_holds",
        "_last",
        "_low",
        "_queue",
        "_wide",
        "drops",
    )

    def __init__(self, cluster: Cluster, seconds: tuple[float, float]) -> None:
        self._cluster = cluster
        self._low, high = seconds
        self._wide = high - self._low
        self._queue: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._last = 0.0
        self._holds = 0
        self._due = 0
        self._age = 0
        self.drops = 0  # above 0: what is sent is lost

    def __len__(self) -> int:
        return len(self._queue)

    def send(self, function: Callable[..., None], *arguments: Any) -> None:
        """Let it be called at the other end, after all that was sent before."""
        if self.drops:
            return
        cluster = self._cluster
        when = cluster.now() + self._low + self._wide * cluster.rng.random()
        when = max(when, self._last)
        self._last = when
        self._queue.append((function, arguments))
        cluster.loop.plainly_at(when, self._arrive, self._age)

    def carry(
        self, seconds: float, late_seconds: float, function: Any, *arguments: Any
    ) -> None:
        """Send over a slow line what keeps it busy for so many seconds."""
        if self.drops:
            return
        now = self._cluster.now()
        self._last = max(self._last, now + late_seconds) + seconds
        self._queue.append((function, arguments))
        self._cluster.loop.plainly_at(self._last, self._arrive, self._age)

    def _arrive(self, age: int) -> None:
        if age != self._age:
            return
        if self._holds:
            self._due += 1
        else:
            function, arguments = self._queue.popleft()
            function(*arguments)

    def hold(self) -> None:
        """Let nothing arrive until it is released as often as it was held."""
        self._holds += 1

    def release(self) -> None:
        """Let arrive, in order, what is due."""
        self._holds -= 1
        while self._due and not self._holds:
            self._due -= 1
            function, arguments = self._queue.popleft()
            function(*arguments)

    def lose(self, keep: int = 0) -> None:
        """Lose what has not arrived, but for some of the oldest, which do at once."""
        kept = [self._queue.popleft() for _ in range(min(keep, len(self._queue)))]
        self._queue.clear()
        self._due = 0
        self._age += 1
        for function, arguments in kept:
            self.send(function, *arguments)


class Link:
    """A client's connection to one server.

    `on_message(subject, header_block, data)`, `on_closed(reason)`; `on_error(text)`
    gets a -ERR that does not end the connection, as nats-py hands it over: lower case,
    with its quotes; `on_pong()` answers `ping()`.
    """

    def __init__(
        self,
        cluster: Cluster,
        server: Server,
        number: int,
        on_message: Callable[[str, bytes, bytes], None],
        on_closed: Callable[[str], None],
    ) -> None:
        self.number = number
        self.server = server
        self.up = Pipe(cluster, CLIENT_SECONDS)
        self.down = Pipe(cluster, CLIENT_SECONDS)
        self.is_closed = False  # by our side, or told to us
        self.is_over = False  # for the server
        self.on_error: Callable[[str], None] | None = None
        self.on_pong: Callable[[], None] | None = None
        self.on_part: Callable[[str], None] | None = None
        self._cluster = cluster
        self._on_message = on_message
        self._on_closed = on_closed
        self._subjects: list[str] = []

    # -- Our side ----------------------------------------------------------------------

    def send(
        self, subject: str, reply: str, payload: bytes, block: bytes = b""
    ) -> None:
        """Write a PUB or HPUB; what becomes of it nobody knows yet."""
        if not self.is_closed:
            self.up.send(self._take, subject, reply, payload, block)

    def subscribe(self, subject: str) -> None:
        """Write a SUB; a wildcard may stand at the end alone."""
        if not self.is_closed:
            self.up.send(self._subjects.append, subject)

    def ping(self) -> None:
        """Write a PING."""
        if not self.is_closed:
            self.up.send(self._answer_ping)

    def close(self) -> None:
        """End the connection; what was sent before it may still arrive."""
        if not self.is_closed:
            self.is_closed = True
            self.up.send(self._end_at_server)

    # -- The server's side -------------------------------------------------------------

    def _take(self, subject: str, reply: str, payload: bytes, block: bytes) -> None:
        if not self.is_over:
            self.server.take(self, subject, reply, payload, block)

    def _answer_ping(self) -> None:
        self.down.send(self._pong)

    def _pong(self) -> None:
        if not self.is_closed and self.on_pong is not None:
            self.on_pong()

    def deliver(self, subject: str, block: bytes, data: bytes) -> None:
        """Write an answer to the client, or what comes in its place."""
        trouble = self._cluster.trouble
        if trouble.responder is None and trouble.forger is None:
            self.write(subject, block, data)
            return
        true = Reply(block, data)
        answers = [true]
        if trouble.responder is not None:
            answers = trouble.responder.answers(true)
        for answer in answers:
            self.write(subject, *answer)
        if trouble.forger is not None and answers == [true]:
            trouble.forger.hear(self, subject, true)

    def write(self, subject: str, block: bytes, data: bytes) -> None:
        """Write a message to the client, if it listens there."""
        if not self.is_over and self._listens(subject):
            slow = self._cluster.trouble.slow
            if slow is None:
                self.down.send(self._hand_over, subject, block, data)
            else:
                self._deliver_slowly(slow, subject, block, data)

    def _deliver_slowly(
        self, slow: Slow, subject: str, block: bytes, data: bytes
    ) -> None:
        *parts, last = slow.parts(len(subject) + len(block) + len(data))
        rate, late_seconds = slow
        for size in parts:
            self.down.carry(size / rate, late_seconds, self._hear_part, subject)
        hand_over = self._hand_over
        self.down.carry(last / rate, late_seconds, hand_over, subject, block, data)

    def _hear_part(self, subject: str) -> None:
        if not self.is_closed and self.on_part is not None:
            self.on_part(subject)

    def _listens(self, subject: str) -> bool:
        return any(
            subject == each or (each[-1] in "*>" and subject.startswith(each[:-1]))
            for each in self._subjects
        )

    def _hand_over(self, subject: str, block: bytes, data: bytes) -> None:
        if not self.is_closed:
            self._on_message(subject, block, data)

    def complain(self, text: str) -> None:
        """Write a -ERR and go on."""
        if not self.is_over:
            self.down.send(self._hear, text)

    def _hear(self, text: str) -> None:
        if not self.is_closed and self.on_error is not None:
            self.on_error(text)

    def end(self, reason: str = "") -> None:
        """End it from the server's side, after what was written before."""
        self._end_at_server()
        self.down.send(self._hear_end, reason)

    def _end_at_server(self) -> None:
        self.is_over = True
        self.server.forget(self)

    def _hear_end(self, reason: str) -> None:
        if not self.is_closed:
            self.is_closed = True
            self._on_closed(reason)

    # -- The network's side ------------------------------------------------------------

    def reset(self, rng: Random) -> None:
        """Cut it: of what was sent a part arrives, of what was answered nothing."""
        self.up.lose(keep=rng.randint(0, len(self.up)))
        self.up.send(self._end_at_server)
        self._reset_down()

    def break_off(self) -> None:
        """Cut it because the server died: nothing arrives any more."""
        self.up.lose()
        self._end_at_server()
        self._reset_down()

    def _reset_down(self) -> None:
        self.down.lose()
        self._cluster.after(FINISH_SECONDS, self._hear_end, "")
