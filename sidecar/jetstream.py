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
import json
import re
import secrets
import ssl
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import nats.errors

from sidecar import __version__, errors
from sidecar.answer import (
    Answer,
    Disconnected,
    NoAnswer,
    NotSent,
    Refused,
    StoredMessage,
    TooLarge,
    parse_answer,
)
from sidecar.errors import Cause, Problem
from sidecar.log import internal_error
from sidecar.login import read_login
from sidecar.nats_client import (
    NatsClient,
    header_block,
    header_fields,
    only,
    status,
)
from sidecar.stream import StreamInfo, StreamPlan, parse_stream_info
from sidecar.told import told

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.event import Event
    from sidecar.login import NatsServer

CONNECT_SECONDS: Final = 3.0
REQUEST_SECONDS: Final = 2.0
BATCH_SECONDS: Final = 10.0
_PING_SECONDS = 5
_CLOSE_SECONDS = 1.0

KEY_HEADER: Final = b"Nats-Msg-Id"
TYPE_HEADER: Final = b"Hermes-Event-Type"
OBJECT_TYPE_HEADER: Final = b"Hermes-Object-Type"
PRECONDITION_HEADER: Final = b"Nats-Expected-Last-Sequence"

_T = TypeVar("_T")

_OF_BATCH = only(
    b"Nats-Sequence",
    b"Nats-Subject",
    b"Nats-Time-Stamp",
    b"Nats-Last-Sequence",
    PRECONDITION_HEADER,
)
_TOKENS_AT_ONCE = 256
_TOKEN_DIGITS = 32  # of four bits: nobody guesses it, nor knows it from another
_BATCH_ENDS = ("204", "404")  # the end mark; nothing at or after start
_NO_RESPONDERS = "503"
_TYPES: Final = {
    "STREAM.INFO": "stream_info",
    "STREAM.CREATE": "stream_create",
    "STREAM.MSG.GET": "stream_msg_get",
}
_NO_MESSAGE = 10037
_NO_STREAM = 10059
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

    def end(self, outcome: _Outcome) -> None:
        self.timer.cancel()
        self.told(outcome)


@dataclass
class _Batch:
    """What was asked, and what has come of it."""

    start: int
    limit: int
    most_bytes: int
    subject: str
    messages: list[StoredMessage]
    end: asyncio.Future[int]

    def admits(self, message: StoredMessage) -> bool:
        """Tell whether it may be the next message of what was asked."""
        least = self.messages[-1].sequence + 1 if self.messages else self.start
        self.most_bytes -= len(message.body)
        return (
            message.sequence >= least
            and len(self.messages) < self.limit
            and self.most_bytes >= 0
            and (message.subject == self.subject or not self.subject)
        )


class Connection:
    """One connection to NATS and one subscription for all its replies."""

    def __init__(self, plan: StreamPlan, purpose: str) -> None:
        self._client = NatsClient(self._take)
        self._purpose = purpose
        self._plan = plan
        self._waiting: dict[str, _Waiting] = {}
        self._batches: dict[str, _Batch] = {}
        self._tokens: list[str] = []
        self._inbox = ""
        self.lost = asyncio.Event()
        self.cause: Cause = errors.NATS_DOWN
        self.stream_limit_bytes = -1
        self.is_replicated = True  # as long as nobody has said otherwise

    @property
    def limit_bytes(self) -> int:
        """How large a message may be with its headers."""
        server_limit: int = self._client.max_payload
        if self.stream_limit_bytes > 0:
            return min(server_limit, self.stream_limit_bytes)
        return server_limit

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
        except TimeoutError:
            self._client.abort()
            raise Problem(self.cause) from None
        except (OSError, ValueError, nats.errors.Error) as error:
            self._client.abort()
            raise Problem(_connect_cause(error, self.cause)) from None
        except Problem:
            self._client.abort()
            raise
        except Exception as error:  # noqa: BLE001 - what a server says may be anything
            self._client.abort()
            raise _unforeseen(error) from None
        except BaseException:
            self._client.abort()
            raise
        self._inbox = self._client.new_inbox()
        await self._client.subscribe(f"{self._inbox}.*")

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
            try:
                last = _take_of_batch(batch, block, data)
            except (KeyError, ValueError):  # our server did not write this
                batch.end.set_exception(NoReply())
            else:
                if last is not None:
                    batch.end.set_result(last)

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
            self.cause = _connect_cause(error, self.cause)
            return
        if match[1].lower() == "subscription":
            self._lose(errors.NATS_PERMISSION)
            return
        # The server names the subject in lower case and not the message. With two
        # copies under way on one subject nobody can say which of them was refused.
        refused = [
            token
            for token, waiting in self._waiting.items()
            if waiting.subject.lower() == match[2].lower()
        ]
        if len(refused) == 1:
            self._waiting.pop(refused[0]).end(NoReply(errors.NATS_PERMISSION))
        elif refused:
            self._lose(errors.NATS_PERMISSION)

    # -- What goes out -----------------------------------------------------------------

    async def publish(
        self, event: Event, key: str, last: int, timeout_seconds: float
    ) -> Answer:
        """Send one copy of the event, fenced to become last + 1; say what came back."""
        return await told(partial(self.send, event, key, last, timeout_seconds))

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
        headers = {
            KEY_HEADER: key.encode(),
            b"Nats-Expected-Stream": self._plan.name.encode(),
            PRECONDITION_HEADER: b"%d" % last,
        }
        if event.type is not None:
            headers[TYPE_HEADER] = event.type.encode()
        if event.object_type is not None:
            headers[OBJECT_TYPE_HEADER] = event.object_type.encode()
        block = header_block(headers)
        size_bytes = len(block) + len(event.body)
        if size_bytes > self.limit_bytes:
            # nats-py counts the body alone; the server would close the connection.
            tell(TooLarge(size_bytes, self.limit_bytes))
        elif self.lost.is_set():
            tell(NotSent())
        else:
            self._ask(
                self._subject(event.category),
                event.body,
                block,
                timeout_seconds,
                lambda outcome: tell(self._answer(outcome)),
            )

    def _answer(self, outcome: _Outcome) -> Answer:
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
    ) -> tuple[list[StoredMessage], int]:
        """Read messages from `start` on, from any replica (NATS ADR-31).

        With them comes the least that the stream's last sequence can be. Complete only
        with its end mark. max_bytes is passed by at most one message. Raises NoReply.
        """
        request: dict[str, Any] = {"seq": start, "batch": limit, "max_bytes": max_bytes}
        if category is not None:
            request["next_by_subj"] = self._subject(category)
        token = self._token()
        batch = _Batch(
            start,
            limit,
            max_bytes + self._client.most_bytes,
            request.get("next_by_subj", ""),
            [],
            asyncio.get_running_loop().create_future(),
        )
        self._batches[token] = batch
        try:
            async with asyncio.timeout(BATCH_SECONDS):
                self._client.send(
                    f"$JS.API.DIRECT.GET.{self._plan.name}",
                    f"{self._inbox}.{token}",
                    json.dumps(request).encode(),
                )
                last = await batch.end
        except (TimeoutError, nats.errors.Error):
            raise NoReply from None
        finally:
            self._batches.pop(token, None)
        return batch.messages, last

    async def _api(
        self,
        name: str,
        read: Callable[[dict[str, Any]], _T],
        request: dict[str, Any] | None = None,
    ) -> _T:
        """Ask the JetStream API; raise NoReply, or ApiError for an error answer.

        What is not an answer of our server's form is none.
        """
        subject = f"$JS.API.{name}.{self._plan.name}"
        payload = b"" if request is None else json.dumps(request).encode()
        reply = await told(partial(self._ask, subject, payload, b"", REQUEST_SECONDS))
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
        """Give a token for a reply that nobody can know before."""
        if not self._tokens:
            text = secrets.token_hex(_TOKENS_AT_ONCE * _TOKEN_DIGITS // 2)
            starts = range(0, len(text), _TOKEN_DIGITS)
            self._tokens = [text[at : at + _TOKEN_DIGITS] for at in starts]
        return self._tokens.pop()

    def _ask(
        self,
        subject: str,
        payload: bytes,
        block: bytes,
        timeout_seconds: float,
        tell: Callable[[_Outcome], None],
    ) -> None:
        """Publish, and tell what came of it."""
        token = self._token()
        loop = asyncio.get_running_loop()
        timer = loop.call_later(timeout_seconds, self._expire, token)
        self._waiting[token] = _Waiting(subject, tell, timer)
        try:
            self._client.send(subject, f"{self._inbox}.{token}", payload, block)
        except nats.errors.Error:
            self._waiting.pop(token).end(NoReply())

    def _expire(self, token: str) -> None:
        if (waiting := self._waiting.pop(token, None)) is not None:
            waiting.end(TimeoutError())


def _take_of_batch(batch: _Batch, block: bytes, data: bytes) -> int | None:
    """Add a message of a batched direct get (NATS ADR-31); None if more is to come.

    At the end gives the least that the stream's last sequence can be: as many messages
    as are pending stand after the batch's last. Raises KeyError or ValueError for an
    error status, for what is no such message, and for one that was not asked.
    """
    code = status(block)
    if code in _BATCH_ENDS:
        end = header_fields(block)
        pending = end.get(b"Nats-Num-Pending", b"0")
        return int(end.get(b"Nats-Last-Sequence", b"0")) + int(pending)
    if code is not None:
        raise ValueError(code)
    fields = header_fields(block, _OF_BATCH)
    message = StoredMessage(
        sequence=int(fields[b"Nats-Sequence"]),
        subject=fields[b"Nats-Subject"].decode(),
        key=None,
        time=fields[b"Nats-Time-Stamp"].decode(),
        body=data,
        previous=int(fields[b"Nats-Last-Sequence"]),
        after=_number(fields, PRECONDITION_HEADER),
    )
    if not batch.admits(message):
        raise ValueError
    batch.messages.append(message)
    return None


def _read_message(request: dict[str, Any], document: dict[str, Any]) -> StoredMessage:
    """Read an answer of STREAM.MSG.GET; raise ValueError for what was not asked."""
    message = document["message"]
    fields = header_fields(base64.b64decode(message.get("hdrs", "")))
    read = StoredMessage(
        sequence=_integer(message["seq"]),
        subject=str(message["subject"]),
        key=_text(fields, KEY_HEADER),
        time=str(message["time"]),
        body=base64.b64decode(message.get("data", "")),
        type=_text(fields, TYPE_HEADER),
        object_type=_text(fields, OBJECT_TYPE_HEADER),
        after=_number(fields, PRECONDITION_HEADER),
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
    if type(value) is not int:
        raise ValueError
    return value


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


def _connect_cause(error: Exception, known: Cause) -> Cause:
    """Name what an error of nats-py means; NoServersError hides what came before."""
    if isinstance(error, ssl.SSLError):
        return errors.NATS_TLS
    text = str(error).lower()
    if "authorization" in text or "authentication" in text:
        return errors.NATS_REFUSED
    return known
