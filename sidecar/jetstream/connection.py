# SPDX-License-Identifier: Apache-2.0
"""The edge to nats-py: one connection, from its login to its end.

Rules of this file, each of which nats-py 2.16 breaks silently if forgotten:
- A connection is an epoch. It never reconnects and buffers nothing; on any doubt it is
  thrown away, for nats-py would deliver timed-out publishes later.
- Never flush() or rtt(): a late PONG ends the read loop without a word. Only
  `try_out` does, for a command that makes a connection for nothing else.
- Never Nats-Expected-Last-Msg-Id: on a replicated stream one rejected publish of that
  kind stops the stream for good (nats-server 2.14.0 to 2.15.1).
- connect() is bounded from outside: each of its own options leaves a way to hang.

It is longer than 400 lines: all that one epoch sends shares what its end decides.
"""

from __future__ import annotations

import asyncio
import math
import re
import secrets
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import nats.errors

from sidecar import __version__, errors
from sidecar.errors import Cause, Problem
from sidecar.jetstream.api import JetStreamApi
from sidecar.jetstream.callbacks import await_callback
from sidecar.jetstream.client import NatsClient
from sidecar.jetstream.connection_errors import explain, unforeseen
from sidecar.jetstream.credentials import read_login
from sidecar.jetstream.headers import batch_blocks, event_block
from sidecar.jetstream.requests import NoReply, RawReply, Requests
from sidecar.model.publish_reply import (
    Answer,
    Disconnected,
    NoAnswer,
    NotSent,
    Refused,
    TooLarge,
    parse_answer,
    parse_commit,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.jetstream.credentials import NatsServer
    from sidecar.jetstream.requests import RequestOutcome
    from sidecar.jetstream.service import Asker, Service
    from sidecar.model.event import Event
    from sidecar.model.stream import StreamPlan

CONNECT_SECONDS: Final = 3.0
LIMIT_HOLDS_SECONDS: Final = 25.0
"""How long a limit is taken for true that refuses an event: the server's max_payload,
or one that it does not tell. So often at most an event costs a connection."""

MAX_STORED_BYTES: Final = 32 * 1024 * 1024 - 256
"""JetStream stores no record of more than 32 MB on a disk (server/filestore.go); 256
are enough for what it adds: the subject and 34 bytes."""

_PING_SECONDS = 5
_CLOSE_SECONDS = 1.0
_FLUSH_SECONDS = 3

_SHOWN_SUBJECT = re.compile(r"[A-Za-z0-9_$.*>-]{1,160}")
_PERMISSION = re.compile(
    r'permissions violation for (publish|subscription) to "([^"]+)"', re.IGNORECASE
)


@dataclass
class Untold:
    """What a server refused though it says that it takes it; outlives a connection."""

    size_bytes: float = math.inf  # so that no clock is asked while there is none
    ends_at: float = 0.0  # by the loop's clock

    def note(self, size_bytes: int) -> None:
        """Note that an event of this size ended the connection."""
        self.size_bytes = size_bytes
        self.ends_at = asyncio.get_running_loop().time() + LIMIT_HOLDS_SECONDS

    def refuses(self, size_bytes: int) -> bool:
        """Tell whether an event of this size would do so too."""
        return (
            size_bytes >= self.size_bytes
            and asyncio.get_running_loop().time() < self.ends_at
        )


class Connection:
    """One connection to NATS and one subscription for all its replies."""

    def __init__(
        self,
        plan: StreamPlan,
        purpose: str,
        untold: Untold | None = None,
        service: Service | Asker | None = None,
        *,
        outlives_refusals: bool = False,
    ) -> None:
        self.requests = Requests()
        self._client = NatsClient(self._take)
        self._client.on_try = self._note_server
        self.requests.attach(self._client)
        self.api = JetStreamApi(self.requests, plan)
        self._untold = untold or Untold()
        self._service = service
        if service is not None:
            self._client.on_request = service.on_request
        self._purpose = purpose
        self._plan = plan
        self._server = ""
        self._faults: dict[str, str] = {}
        self._limit_known_at = 0.0
        self._stored_subject = plan.stored_subject
        self._may_tell = True
        self._outlives_refusals = outlives_refusals
        self._refused: set[tuple[str, str]] = set()  # kind, and subject in lower case
        self.on_stored: Callable[[], None] = lambda: None
        self.lost = asyncio.Event()
        self.cause: Cause = errors.NATS_DOWN
        self.stream_limit_bytes = -1
        self.is_replicated = True  # as long as nobody has said otherwise
        self.allows_atomic = False  # batches of the stream, and they are faster

    @property
    def limit_bytes(self) -> int:
        """How large a message may be with its headers."""
        limit_bytes = min(self._client.max_payload, MAX_STORED_BYTES)
        if self.stream_limit_bytes > 0:
            return min(limit_bytes, self.stream_limit_bytes)
        return limit_bytes

    @property
    def is_limit_old(self) -> bool:
        """Tell whether the server may have another limit by now: it does not say so."""
        age_seconds = asyncio.get_running_loop().time() - self._limit_known_at
        return (
            self.limit_bytes == self._client.max_payload
            and age_seconds > LIMIT_HOLDS_SECONDS
        )

    def limit_asked(self) -> None:
        """Note that the server is asked for its limit."""
        self._limit_known_at = asyncio.get_running_loop().time()

    def take_limit(self, another: Connection) -> None:
        """Take what the same server has told another connection."""
        mine, other = self._client, another._client
        if mine.server("server_id") == other.server("server_id"):
            mine.take_limit(other.max_payload)

    @property
    def url(self) -> str:
        """The server that it was made to."""
        return self._server

    @property
    def faults(self) -> list[str]:
        """What is wrong with each server that was tried, a sentence each."""
        return [f"{url}: {what}." for url, what in sorted(self._faults.items())]

    @property
    def server_version(self) -> str:
        """The server's version, as in 2.11.11."""
        return self._client.server("version")

    @property
    def certificate(self) -> bytes | None:
        """The server's own, as DER; None without TLS."""
        return self._client.certificate

    @property
    def server_name(self) -> str:
        """The server's name, for logs and the status page."""
        return self._client.server("server_name")

    # -- Its life ----------------------------------------------------------------------

    async def open(self, server: NatsServer) -> None:
        """Log in; raise Problem with the cause of a failure."""
        self._client.needs_tls = server.tls is not None
        self.limit_asked()
        try:
            await self._open(server)
        except Problem as problem:
            problem.faults = self.faults or [
                f"It is {file}." for file in problem.members.values()
            ]
            raise
        self._faults.clear()
        await self.requests.subscribe()
        if self._purpose == "reads":
            await self._client.subscribe(self._stored_subject)
        if self._service is not None:
            for subject in self._service.begin(self._try_send):
                await self._client.subscribe(subject)

    async def _open(self, server: NatsServer) -> None:
        try:
            login = read_login(server)
            async with asyncio.timeout(CONNECT_SECONDS):
                await self._client.connect(
                    servers=list(server.urls),
                    name=f"hermes-nats-sidecar/{__version__} {self._purpose}",
                    allow_reconnect=False,
                    max_reconnect_attempts=1,
                    reconnect_time_wait=0,
                    connect_timeout=2,
                    ping_interval=_PING_SECONDS,
                    max_outstanding_pings=2,
                    pending_size=0,
                    inbox_prefix=server.inbox_prefix,
                    error_cb=self._on_error,
                    disconnected_cb=self._on_lost,
                    lame_duck_mode_cb=self._on_lost,
                    **login,
                )
                self._client.read_directly(self._lose)
        except (OSError, ValueError, nats.errors.Error) as error:  # TimeoutError too
            self._client.abort()
            self._note_fault(error)
            raise Problem(self.cause) from None
        except Problem as problem:
            self._client.abort()
            self._note_fault(problem)
            raise
        except Exception as error:  # noqa: BLE001 - what a server says may be anything
            self._client.abort()
            raise unforeseen(error) from None
        except BaseException:
            self._client.abort()
            raise

    async def close(self) -> None:
        """End the connection; what waits for a reply learns that none will come."""
        self._lose()
        self._client.abort()
        with suppress(Exception):  # it is thrown away, whatever state it is in
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._client.close()

    async def _on_lost(self) -> None:
        self._lose()

    def _lose(self, cause: Cause | None = None) -> None:
        self.cause = cause = cause or self.cause
        self.lost.set()
        self.requests.end_all(cause)

    async def _on_error(self, error: Exception) -> None:
        match = _PERMISSION.search(str(error))
        if match is None:
            self._note_fault(error)
            if self.cause is errors.EVENT_TOO_LARGE:
                self.cause = errors.NATS_DOWN  # of this connection, which ends now
                self.requests.end_event(errors.EVENT_TOO_LARGE)
            return
        if self._outlives_refusals:
            kind = "publish" if match[1].lower() == "publish" else "subscribe"
            self._refused.add((kind, match[2].lower()))
            self.requests.end_refused(match[2])
            return
        if match[2] == self._stored_subject.lower():
            self._may_tell = False  # readers ask more often instead
            return
        if self._service is not None and self._service.refuse(
            match[1].lower(), match[2]
        ):
            return
        self._faults[self._server] = _of_permission(match)
        is_publish = match[1].lower() == "publish"
        if not (is_publish and self.requests.end_refused(match[2])):
            self._lose(errors.NATS_PERMISSION)

    def _note_server(self, url: str) -> None:
        self._server = url

    def _note_fault(self, error: Exception) -> None:
        cause, sentence = explain(error)
        self.cause = cause or self.cause
        if sentence and self._server:
            tried = ", at ".join(("", *getattr(error, "__notes__", ())))
            self._faults[self._server] = sentence + tried

    def _take(self, subject: str, block: bytes, data: bytes) -> None:
        if subject == self._stored_subject:
            self.on_stored()
        elif self._service is not None and subject == self._service.inbox:
            self._service.on_answer(data)
        else:
            self.requests.on_message(subject, block, data)

    # -- What goes out -----------------------------------------------------------------

    def tell_stored(self) -> None:
        """Tell the readers of all sidecars that there is something to read.

        It says no more than that, and decides nothing: they ask the leader.
        """
        if self._may_tell:
            self._try_send(self._stored_subject, "", b"")

    def _try_send(self, subject: str, reply: str, payload: bytes) -> bool:
        """Publish what is of no stream; tell whether it is on its way."""
        if len(payload) > self._client.max_payload:  # it would end the connection
            return False
        try:
            self._client.send(subject, reply, payload)
        except nats.errors.Error:  # the connection has ended
            return False
        return True

    async def try_out(
        self, subscriptions: list[str], messages: list[tuple[str, bytes, bytes]]
    ) -> set[tuple[str, str]]:
        """Subscribe and publish; give what the server refused, here and before.

        For a connection that ends afterwards: it flushes. Raises NoReply.
        """
        try:
            for subject in subscriptions:
                await self._client.subscribe(subject)
            for subject, payload, block in messages:
                self._client.send(subject, "", payload, block)
            # The server takes one line after the other, and answers in this order.
            await self._client.flush(timeout=_FLUSH_SECONDS)
        except nats.errors.Error:
            raise NoReply(self.cause) from None
        return self._refused

    async def publish(
        self, event: Event, key: str, last: int, timeout_seconds: float
    ) -> Answer:
        """Send one copy of the event, fenced to become last + 1; say what came back."""
        return await await_callback(
            partial(self.send, event, key, last, timeout_seconds)
        )

    def send(
        self,
        event: Event,
        key: str,
        last: int,
        timeout_seconds: float,
        on_reply: Callable[[Answer], None],
    ) -> None:
        """Send one copy of the event, fenced to become last + 1.

        `on_reply` gets what came back, perhaps before this returns.
        """
        block = event_block(event, key, last, self._plan.name)
        size_bytes = len(block) + len(event.body)
        # nats-py counts the body alone; the server would close the connection.
        if (refusal := self._refusal(size_bytes)) is not None:
            on_reply(refusal)
        elif self.lost.is_set():
            on_reply(NotSent())
        else:
            self.requests.ask(
                self._plan.subject_of(event.category),
                event.body,
                block,
                timeout_seconds,
                lambda outcome: on_reply(self._reply(outcome, size_bytes)),
            )

    async def publish_atomic(
        self, events: list[tuple[str, Event]], last: int, timeout_seconds: float
    ) -> Answer:
        """Send keys and events as one atomic batch, fenced to begin at last + 1.

        Acknowledged: all are stored. NotSent, TooLarge: nothing left. Whatever else
        decides nothing.
        """
        batch_id = secrets.token_hex(16)  # another one for each try
        blocks = batch_blocks(events, last, self._plan.name, batch_id)
        bodies = [event.body for _, event in events]
        messages = list(zip(blocks, bodies, strict=True))
        for block, body in messages:
            if (refusal := self._refusal(len(block) + len(body))) is not None:
                return refusal
        if self.lost.is_set():
            return NotSent()
        subject, count = self._plan.subject_of(events[0][1].category), len(events)

        def ask(on_outcome: Callable[[RequestOutcome], None]) -> None:
            def note(outcome: RequestOutcome) -> None:
                # The server says of each of its messages that it is not permitted. The
                # next one could be taken for another event's.
                if isinstance(outcome, NoReply) and not self.lost.is_set():
                    self._lose(outcome.cause)
                on_outcome(outcome)

            self.requests.ask_together(subject, messages, timeout_seconds, note)

        outcome = await await_callback(ask)
        if isinstance(outcome, RawReply):
            return parse_commit(
                outcome.data, self._plan.name, batch_id, last + count, count
            )
        return NoAnswer() if isinstance(outcome, TimeoutError) else Disconnected()

    def too_large(self, event: Event, key: str, last: int) -> TooLarge | None:
        """Tell whether a copy would be over the limit, without sending it."""
        block = event_block(event, key, last, self._plan.name)
        return self._refusal(len(block) + len(event.body))

    def _refusal(self, size_bytes: int) -> TooLarge | None:
        limit_bytes = self.limit_bytes
        if size_bytes > limit_bytes:
            return TooLarge(size_bytes, limit_bytes)
        return TooLarge(size_bytes) if self._untold.refuses(size_bytes) else None

    def _reply(self, outcome: RequestOutcome, size_bytes: int) -> Answer:
        if isinstance(outcome, RawReply):
            return parse_answer(
                outcome.data,
                outcome.status,
                self._plan.name,
                is_replicated=self.is_replicated,
            )
        if isinstance(outcome, TimeoutError):
            return NoAnswer()
        if outcome.cause is errors.NATS_PERMISSION and not self.lost.is_set():
            return Refused(errors.NATS_PERMISSION)
        if outcome.cause is errors.EVENT_TOO_LARGE:
            self._untold.note(size_bytes)
            return TooLarge(size_bytes)
        return Disconnected()


def _of_permission(match: re.Match[str]) -> str:
    """Name the subject that the user lacks, if it may be one of ours."""
    what, subject = match[1].lower(), match[2]
    named = f" to {subject}" if _SHOWN_SUBJECT.fullmatch(subject) else ""
    return f"the user lacks a permission for {what}{named}"
