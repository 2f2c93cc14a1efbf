# SPDX-License-Identifier: Apache-2.0
"""The edge to nats-py: one connection, from its login to its end.

Rules of this file, each of which nats-py 2.16 breaks silently if forgotten:
- A connection is an epoch. It never reconnects and buffers nothing; on any doubt it is
  thrown away, for nats-py would deliver timed-out publishes later.
- Never flush() or rtt(): a late PONG ends the read loop without a word.
- Never Nats-Expected-Last-Msg-Id: on a replicated stream one rejected publish of that
  kind stops the stream for good (nats-server 2.14.0 to 2.15.1).
- connect() is bounded from outside: each of its own options leaves a way to hang.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import math
import re
import secrets
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import nats.errors

from sidecar import __version__, errors
from sidecar.errors import Cause, Problem
from sidecar.jetstream.callbacks import await_callback
from sidecar.jetstream.client import (
    NatsClient,
    header_block,
    header_fields,
    only,
    status,
)
from sidecar.jetstream.connection_errors import explain
from sidecar.jetstream.credentials import read_login
from sidecar.model.evidence import Came
from sidecar.model.reply import (
    Answer,
    Disconnected,
    NoAnswer,
    NotSent,
    Refused,
    StoredMessage,
    TooLarge,
    parse_answer,
)
from sidecar.model.stream import StreamInfo, StreamPlan, parse_stream_info
from sidecar.telemetry.log import internal_error

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.jetstream.credentials import NatsServer
    from sidecar.model.event import Event

CONNECT_SECONDS: Final = 3.0
REQUEST_SECONDS: Final = 2.0
LIMIT_HOLDS_SECONDS: Final = 25.0
"""How long a limit is taken for true that refuses an event: the server's max_payload,
or one that it does not tell. So often at most an event costs a connection."""

COPY_SECONDS: Final = 1.0
"""How long a copy may be silent: a frozen follower is asked on and on, and is.

Silent means that nothing came of this answer, nor of one that was asked for before it:
on a slow link they stand in line.
"""

MAX_STORED_BYTES: Final = 32 * 1024 * 1024 - 256
"""JetStream stores no record of more than 32 MB on a disk (server/filestore.go); 256
are enough for what it adds: the subject and 34 bytes."""

_PING_SECONDS = 5
_CLOSE_SECONDS = 1.0

KEY_HEADER: Final = b"Nats-Msg-Id"
TYPE_HEADER: Final = b"Hermes-Event-Type"
OBJECT_TYPE_HEADER: Final = b"Hermes-Object-Type"
PRECONDITION_HEADER: Final = b"Nats-Expected-Last-Sequence"
INITSYNC_HEADER: Final = b"Hermes-Initsync"

_T = TypeVar("_T")

_OF_BATCH = only(
    b"Nats-Sequence",
    b"Nats-Subject",
    b"Nats-Time-Stamp",
    b"Nats-Last-Sequence",
    PRECONDITION_HEADER,
)
_SECRETS_AT_ONCE = 256
_SECRET_DIGITS = 32  # of four bits: nobody guesses it, nor knows it from another
_NO_RESPONDERS = "503"
_TYPES: Final = {
    "STREAM.INFO": "stream_info",
    "STREAM.CREATE": "stream_create",
    "STREAM.MSG.GET": "stream_msg_get",
}
_MAX_SEQUENCE = 2**64 - 1
_NO_MESSAGE = 10037
_NO_STREAM = 10059
_STREAM_FIELD = b"\r\nNats-Stream: "
_KEPT_MOMENTS = 16
_SHOWN_SUBJECT = re.compile(r"[A-Za-z0-9_$.*>-]{1,160}")
_PERMISSION = re.compile(
    r'permissions violation for (publish|subscription) to "([^"]+)"', re.IGNORECASE
)


class NoReply(Exception):  # noqa: N818 - an absence, not an error
    """The API request was not answered; `cause` says what is known of why."""

    def __init__(self, cause: Cause = errors.JETSTREAM_UNAVAILABLE) -> None:
        super().__init__(cause.code)
        self.cause = cause


class ApiError(Exception):
    """JetStream answered a request with an error."""

    def __init__(self, code: int, description: str) -> None:
        super().__init__(f"JetStream error {code}: {description}")
        self.code = code


class _Reply(NamedTuple):
    status: str | None
    data: bytes


_Outcome = _Reply | NoReply | TimeoutError
"""What came of a request."""


class _Waiting(NamedTuple):
    subject: str
    told: Callable[[_Outcome], None]
    timer: asyncio.TimerHandle
    patience_seconds: float = 0.0  # in which something must have come; 0: no matter

    def end(self, outcome: _Outcome) -> None:
        self.timer.cancel()
        self.told(outcome)


@dataclass
class _Batch:
    """What was asked, and what has come of it."""

    limit: int
    left_bytes: int
    subject: str
    messages: list[StoredMessage]
    end: asyncio.Future[Came]
    noted: int = 0  # of its messages, see Connection._note_messages

    def admits(self, message: StoredMessage) -> bool:
        """Tell whether it was asked for. Its place is for `evidence` to judge."""
        self.left_bytes -= len(message.body)
        return (
            len(self.messages) < self.limit
            and self.left_bytes >= 0
            and (message.subject == self.subject or not self.subject)
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
        self, plan: StreamPlan, purpose: str, untold: Untold | None = None
    ) -> None:
        self._client = NatsClient(self._take)
        self._untold = untold or Untold()
        self._purpose = purpose
        self._plan = plan
        self._named = b"%s%s\r\n" % (_STREAM_FIELD, plan.name.encode())
        self._waiting: dict[str, _Waiting] = {}
        self._batches: dict[str, _Batch] = {}
        self._numbers = itertools.count()
        self._secrets: list[str] = []
        self._came_at: dict[int, float] = {}  # by number, of the last that were asked
        self._client.on_part = self._note
        self._client.on_try = self._note_server
        self._server = ""
        self._faults: dict[str, str] = {}
        self._limit_known_at = 0.0
        self._inbox = ""
        self.lost = asyncio.Event()
        self.cause: Cause = errors.NATS_DOWN
        self.stream_limit_bytes = -1
        self.is_replicated = True  # as long as nobody has said otherwise

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
        self._inbox = self._client.new_inbox()
        await self._client.subscribe(f"{self._inbox}.*")

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
            raise _unforeseen(error) from None
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

    # -- What comes in -----------------------------------------------------------------

    def _take(self, subject: str, block: bytes, data: bytes) -> None:
        """Give a message to whoever waits for it, as it comes in."""
        token = subject.rpartition(".")[2]
        if (waiting := self._waiting.get(token)) is not None:
            code = status(block) if block else None
            if block and code != _NO_RESPONDERS:
                return  # no acknowledgement: these have no headers, stored messages do
            del self._waiting[token]
            waiting.end(_Reply(code, data))
        elif (batch := self._batches.get(token)) is not None and not batch.end.done():
            came = _take_of_batch(self._named, batch, block, data)
            if came is not None:
                self._note(subject)
                batch.end.set_result(came)

    def _note(self, subject: str) -> None:
        """Note that something came, a message or a part of one."""
        number = _number_of(subject)
        if number is not None:
            if len(self._came_at) >= _KEPT_MOMENTS and number not in self._came_at:
                del self._came_at[next(iter(self._came_at))]
            self._came_at[number] = asyncio.get_running_loop().time()

    def _note_messages(self) -> None:
        """Note, when somebody asks, that messages have come since the last time.

        A clock read for each of a page's hundreds would take a tenth of its time.
        """
        for token, batch in self._batches.items():
            if batch.noted != len(batch.messages):
                batch.noted = len(batch.messages)
                self._note(token)

    @property
    def is_coming(self) -> bool:
        """Tell whether something of a page came within the last second."""
        self._note_messages()
        since = max(self._came_at.values(), default=-COPY_SECONDS)
        return asyncio.get_running_loop().time() - since < COPY_SECONDS

    def _left_seconds(self, token: str, patience_seconds: float) -> float:
        """Tell how long to go on waiting, by what came of this or an earlier answer."""
        self._note_messages()
        own = _number_of(token) or 0
        moments = [at for number, at in self._came_at.items() if number <= own]
        since = asyncio.get_running_loop().time() - max(moments, default=0.0)
        return patience_seconds - since

    async def _on_lost(self) -> None:
        self._lose()

    def _lose(self, cause: Cause | None = None) -> None:
        self.cause = cause = cause or self.cause
        self.lost.set()
        while self._waiting:
            self._waiting.popitem()[1].end(NoReply(cause))
        for batch in self._batches.values():
            if not batch.end.done():
                batch.end.set_exception(NoReply(cause))
        self._batches.clear()

    async def _on_error(self, error: Exception) -> None:
        match = _PERMISSION.search(str(error))
        if match is None:
            self._note_fault(error)
            if self.cause is errors.EVENT_TOO_LARGE:
                self._refuse_event()
            return
        self._faults[self._server] = _of_permission(match)
        if match[1].lower() == "subscription":
            self._lose(errors.NATS_PERMISSION)
            return
        # The server names the subject in lower case and not the message. With two
        # copies under way on one subject nobody can say which of them was refused.
        if match[2].lower() == self._direct_subject.lower():
            for batch in self._batches.values():
                if not batch.end.done():
                    batch.end.set_exception(NoReply(errors.NATS_PERMISSION))
            return
        refused = [
            token
            for token, waiting in self._waiting.items()
            if waiting.subject.lower() == match[2].lower()
        ]
        if len(refused) == 1:
            self._waiting.pop(refused[0]).end(NoReply(errors.NATS_PERMISSION))
        elif refused:
            self._lose(errors.NATS_PERMISSION)

    def _note_server(self, url: str) -> None:
        self._server = url

    def _note_fault(self, error: Exception) -> None:
        cause, sentence = explain(error)
        self.cause = cause or self.cause
        if sentence and self._server:
            tried = ", at ".join(("", *getattr(error, "__notes__", ())))
            self._faults[self._server] = sentence + tried

    def _refuse_event(self) -> None:
        """Tell that an event is over the server's limit, if it is clear which one."""
        self.cause = errors.NATS_DOWN  # of this connection, which ends now
        events = [
            token
            for token, waiting in self._waiting.items()
            if not waiting.patience_seconds
        ]
        if len(events) == 1:
            self._waiting.pop(events[0]).end(NoReply(errors.EVENT_TOO_LARGE))

    # -- What goes out -----------------------------------------------------------------

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
        tell: Callable[[Answer], None],
    ) -> None:
        """Send one copy of the event, fenced to become last + 1; tell what came back.

        It may be told before this returns.
        """
        block = self._header_block(event, key, last)
        size_bytes = len(block) + len(event.body)
        # nats-py counts the body alone; the server would close the connection.
        if (refusal := self._refusal(size_bytes)) is not None:
            tell(refusal)
        elif self.lost.is_set():
            tell(NotSent())
        else:
            self._ask(
                self._subject(event.category),
                event.body,
                block,
                timeout_seconds,
                lambda outcome: tell(self._answer(outcome, size_bytes)),
            )

    def too_large(self, event: Event, key: str, last: int) -> TooLarge | None:
        """Tell whether a copy would be over the limit, without sending it."""
        return self._refusal(
            len(self._header_block(event, key, last)) + len(event.body)
        )

    def _refusal(self, size_bytes: int) -> TooLarge | None:
        limit_bytes = self.limit_bytes
        if size_bytes > limit_bytes:
            return TooLarge(size_bytes, limit_bytes)
        return TooLarge(size_bytes) if self._untold.refuses(size_bytes) else None

    def _header_block(self, event: Event, key: str, last: int) -> bytes:
        headers = {
            KEY_HEADER: key.encode(),
            b"Nats-Expected-Stream": self._plan.name.encode(),
            PRECONDITION_HEADER: b"%d" % last,
        }
        if event.type is not None:
            headers[TYPE_HEADER] = event.type.encode()
        if event.object_type is not None:
            headers[OBJECT_TYPE_HEADER] = event.object_type.encode()
        if event.scan is not None and (scan := event.scan.header) is not None:
            headers[INITSYNC_HEADER] = scan.encode()
        return header_block(headers)

    def _answer(self, outcome: _Outcome, size_bytes: int) -> Answer:
        if isinstance(outcome, _Reply):
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

    async def stream_info(self) -> StreamInfo | None:
        """Ask the stream's leader for its state; None if there is no such stream."""
        try:
            return await self._api("STREAM.INFO", self._info)
        except ApiError as error:
            if error.code == _NO_STREAM:
                return None
            raise

    async def categories(self) -> dict[str, int]:
        """Count the events of each category."""
        info = await self._api(
            "STREAM.INFO", self._info, {"subjects_filter": self._plan.subject}
        )
        if not info.has_leader:
            raise NoReply
        return info.categories

    async def create_stream(self, first_offset: int) -> None:
        """Create the stream as planned; raise ApiError if the server will not."""
        await self._api(
            "STREAM.CREATE", lambda _: None, self._plan.config(first_offset)
        )

    async def message(self, sequence: int) -> StoredMessage | None:
        """Read one message from the stream's leader; None if it holds none there."""
        return await self._get({"seq": sequence})

    async def at_or_after(self, sequence: int) -> StoredMessage | None:
        """Read the first message at or after a sequence from the stream's leader."""
        return await self._get({"seq": sequence, "next_by_subj": ">"})

    async def last_of(self, category: str) -> StoredMessage | None:
        """Read the newest message of a category from the leader."""
        return await self._get({"last_by_subj": self._subject(category)})

    async def next_of(self, category: str, sequence: int) -> StoredMessage | None:
        """Read the first message of a category at or after a sequence."""
        return await self._get(
            {"seq": sequence, "next_by_subj": self._subject(category)}
        )

    async def first_since(self, time: str) -> StoredMessage | None:
        """Read the first message stored at or after a time (RFC 3339)."""
        return await self._get({"start_time": time})

    def _subject(self, category: str) -> str:
        return f"{self._plan.subject_prefix}.{category}"

    def _info(self, document: dict[str, Any]) -> StreamInfo:
        for name in ("first_seq", "last_seq", "messages", "bytes"):
            _integer(document["state"][name])
        _string(document["created"])
        info = parse_stream_info(document)
        planned = self._plan.config(first_offset=1)
        if info.config["name"] != self._plan.name or any(
            type(info.config.get(name, value)) is not type(value)
            for name, value in planned.items()
        ):
            raise ValueError
        return info

    async def _get(self, request: dict[str, Any]) -> StoredMessage | None:
        try:
            return await self._api(
                "STREAM.MSG.GET", partial(_read_message, request), request
            )
        except ApiError as error:
            if error.code == _NO_MESSAGE:
                return None
            raise

    async def batch(
        self, start: int, limit: int, max_bytes: int, category: str | None
    ) -> Came:
        """Read messages from `start` on, of whoever answers (NATS ADR-31).

        max_bytes is passed by at most one message. Raises NoReply where the connection
        is lost or the subject refused.
        """
        request: dict[str, Any] = {"seq": start, "batch": limit, "max_bytes": max_bytes}
        if category is not None:
            request["next_by_subj"] = self._subject(category)
        return await self._batch(request, request.get("next_by_subj", ""))

    async def newest(self, category: str, max_bytes: int) -> Came:
        """Read the newest message of a category, of whoever answers (NATS ADR-31).

        `last` is where that copy of the stream ended then; 0 if it holds none, for then
        nothing says whose copy it is. Raises NoReply as `batch` does.
        """
        subject = self._subject(category)
        request = {"multi_last": [subject], "batch": 1, "max_bytes": max_bytes}
        return await self._batch(request, subject)

    async def _batch(self, request: dict[str, Any], subject: str) -> Came:
        token = self._token()
        loop = asyncio.get_running_loop()
        batch = _Batch(
            request["batch"],
            request["max_bytes"] + self._client.most_bytes,
            subject,
            [],
            loop.create_future(),
        )
        self._batches[token] = batch
        timer = loop.call_later(COPY_SECONDS, self._give_up, token)
        try:
            self._client.send(
                self._direct_subject,
                f"{self._inbox}.{token}",
                json.dumps(request).encode(),
            )
            return await batch.end
        except nats.errors.Error:
            raise NoReply from None
        finally:
            timer.cancel()
            self._batches.pop(token, None)

    def _give_up(self, token: str) -> None:
        """End a batch that is silent; what came of it stands there all the same."""
        batch = self._batches.get(token)
        if batch is None or batch.end.done():
            return
        left_seconds = self._left_seconds(token, COPY_SECONDS)
        if left_seconds > 0:
            loop = asyncio.get_running_loop()
            loop.call_later(left_seconds, self._give_up, token)
        else:
            batch.end.set_result(Came(batch.messages, "late"))

    @property
    def _direct_subject(self) -> str:
        return f"$JS.API.DIRECT.GET.{self._plan.name}"

    async def _api(
        self,
        name: str,
        read: Callable[[dict[str, Any]], _T],
        request: dict[str, Any] | None = None,
    ) -> _T:
        """Ask the JetStream API; raise NoReply, or ApiError for an error answer.

        What is not an answer of our server's form is none. It is waited for as long as
        bytes of an answer come that was asked for before.
        """
        subject = f"$JS.API.{name}.{self._plan.name}"
        payload = b"" if request is None else json.dumps(request).encode()
        reply = await await_callback(
            partial(self._ask, subject, payload, b"", REQUEST_SECONDS)
        )
        if isinstance(reply, TimeoutError):
            raise NoReply
        if isinstance(reply, NoReply):
            raise reply
        if reply.status == _NO_RESPONDERS:
            raise NoReply
        try:
            document = _typed(json.loads(reply.data), _TYPES[name])
            if "error" not in document:
                return read(document)
            error = ApiError(
                int(document["error"].get("err_code", 0)),
                str(document["error"].get("description", "")),
            )
        except Exception as unforeseen:  # noqa: BLE001 - an answer may be anything
            raise NoReply(_unforeseen(unforeseen).cause) from None
        raise error

    def _token(self) -> str:
        """Give a token for a reply: its number, and what nobody can know before."""
        if not self._secrets:
            text = secrets.token_hex(_SECRETS_AT_ONCE * _SECRET_DIGITS // 2)
            starts = range(0, len(text), _SECRET_DIGITS)
            self._secrets = [text[at : at + _SECRET_DIGITS] for at in starts]
        return f"{next(self._numbers)}_{self._secrets.pop()}"

    def _ask(
        self,
        subject: str,
        payload: bytes,
        block: bytes,
        timeout_seconds: float,
        tell: Callable[[_Outcome], None],
    ) -> None:
        """Publish, and tell what came of it.

        What has headers is an event, whose time is its own; an answer of the API is
        waited for as long as bytes come that stand before it.
        """
        token = self._token()
        loop = asyncio.get_running_loop()
        timer = loop.call_later(timeout_seconds, self._expire, token)
        self._waiting[token] = _Waiting(
            subject, tell, timer, 0.0 if block else timeout_seconds
        )
        try:
            self._client.send(subject, f"{self._inbox}.{token}", payload, block)
        except nats.errors.Error:
            self._waiting.pop(token).end(NoReply())

    def _expire(self, token: str) -> None:
        waiting = self._waiting.get(token)
        if waiting is None:
            return
        left_seconds = 0.0
        if waiting.patience_seconds:
            left_seconds = self._left_seconds(token, waiting.patience_seconds)
        if left_seconds > 0:
            loop = asyncio.get_running_loop()
            timer = loop.call_later(left_seconds, self._expire, token)
            self._waiting[token] = waiting._replace(timer=timer)
        else:
            self._waiting.pop(token).end(TimeoutError())


def _number_of(subject: str) -> int | None:
    """Tell as which one a reply was asked for; None for what is no token of ours."""
    number = subject.rpartition(".")[2].partition("_")[0]
    return int(number) if number.isdecimal() else None


def _take_of_batch(
    named: bytes, batch: _Batch, block: bytes, data: bytes
) -> Came | None:
    """Add a message of a batched direct get (NATS ADR-31); None if more is to come.

    Each names its stream, in the last field of that name: one before it was stored.
    Where the newest of a subject was asked for, the end mark says where the stream
    ended. What it counts as pending proves nothing: some may have aged out since.
    """
    messages, code = batch.messages, status(block)
    if code is not None:
        last = 0
        if code == "204" and messages:
            last = _number(header_fields(block), b"Nats-UpTo-Sequence") or 0
        return Came(messages, "marked", last)
    named_at = block.rfind(_STREAM_FIELD)
    if named_at < 0 or not block.startswith(named, named_at):
        whose = _text(header_fields(block), b"Nats-Stream") or ""
        return Came(messages, "stranger", stranger=whose)
    fields = header_fields(block, _OF_BATCH)
    try:
        message = StoredMessage(
            sequence=int(fields[b"Nats-Sequence"]),
            subject=fields[b"Nats-Subject"].decode(),
            key=None,
            time=fields[b"Nats-Time-Stamp"].decode(),
            body=data,
            previous=int(fields[b"Nats-Last-Sequence"]),
            after=_number(fields, PRECONDITION_HEADER),
        )
    except (KeyError, ValueError):
        return Came(messages, "unreadable")
    if not batch.admits(message):
        return Came(messages, "unreadable")
    messages.append(message)
    return None


def _read_message(request: dict[str, Any], document: dict[str, Any]) -> StoredMessage:
    """Read an answer of STREAM.MSG.GET; raise ValueError for what was not asked."""
    message = document["message"]
    fields = header_fields(_bytes(message.get("hdrs", "")))
    read = StoredMessage(
        sequence=_integer(message["seq"]),
        subject=_string(message["subject"]),
        key=_text(fields, KEY_HEADER),
        time=_string(message["time"]),
        body=_bytes(message.get("data", "")),
        type=_text(fields, TYPE_HEADER),
        object_type=_text(fields, OBJECT_TYPE_HEADER),
        after=_number(fields, PRECONDITION_HEADER),
        initsync=_text(fields, INITSYNC_HEADER),
    )
    subject = request.get("next_by_subj", request.get("last_by_subj", ">"))
    is_exact = "seq" in request and "next_by_subj" not in request
    least = request.get("seq", 0)
    if (
        read.sequence < least
        or (is_exact and read.sequence != least)
        or subject not in (">", read.subject)
    ):
        raise ValueError
    return read


def _typed(document: dict[str, Any], kind: str) -> dict[str, Any]:
    if document["type"] != f"io.nats.jetstream.api.v1.{kind}_response":
        raise ValueError
    return document


def _integer(value: object) -> int:
    if type(value) is not int or not 0 <= value <= _MAX_SEQUENCE:
        raise ValueError
    return value


def _string(value: object) -> str:
    if type(value) is not str:
        raise ValueError
    return value


def _bytes(value: object) -> bytes:
    return base64.b64decode(_string(value), validate=True)


def _unforeseen(error: Exception) -> Problem:
    """Tell once of what no server of ours says; it counts as a lost connection."""
    internal_error(error)
    return Problem(errors.INTERNAL)


def _text(fields: dict[bytes, bytes], name: bytes) -> str | None:
    value = fields.get(name)
    return None if value is None else value.decode("utf-8", "replace")


def _number(fields: dict[bytes, bytes], name: bytes) -> int | None:
    value = fields.get(name, b"")
    return int(value) if value.isdigit() else None


def _of_permission(match: re.Match[str]) -> str:
    """Name the subject that the user lacks, if it may be one of ours."""
    what, subject = match[1].lower(), match[2]
    named = f" to {subject}" if _SHOWN_SUBJECT.fullmatch(subject) else ""
    return f"the user lacks a permission for {what}{named}"
