# SPDX-License-Identifier: Apache-2.0
"""POST /v1/events, whichever way it comes: directly, or as FastAPI's route."""

from __future__ import annotations

import asyncio
import math
import time
from contextlib import suppress
from functools import lru_cache, partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, NamedTuple

from starlette.requests import ClientDisconnect
from starlette.responses import Response

from sidecar import errors
from sidecar.errors import Outcome, Problem
from sidecar.http.clocks import body_seconds
from sidecar.http.protocol import EVENTS
from sidecar.http.responses import json_response, problem_response
from sidecar.jetstream.callbacks import await_callback
from sidecar.model.batch import MAX_BYTES, RECORD_SEPARATOR, key_of, not_a_batch
from sidecar.model.batch import MEDIA_TYPE as SEQUENCE
from sidecar.model.event import (
    LAST,
    START_BYTES,
    parse_event,
    parse_key,
    parse_precondition,
    too_large,
)
from sidecar.model.producer_key import producer_of
from sidecar.model.scan import INITSYNC
from sidecar.services.batches import Batch
from sidecar.telemetry.log import internal_error, log, tell_repeats

if TYPE_CHECKING:
    from starlette.requests import Request

    from sidecar.http.auth import Guard, RawHeaders
    from sidecar.http.protocol import Respond
    from sidecar.model.decisions import Result, Stored
    from sidecar.model.event import Event
    from sidecar.model.memory_budget import Reservation
    from sidecar.services.daemon import Daemon

ON_THE_WAY_SECONDS: Final = 1.0
"""Of a caller's wait, what is left for the ways there and back."""

LEAST_HOLD_SECONDS: Final = 2.0
"""Of a request, however short its caller waits: what one copy is given."""
START_SECONDS: Final = 2.0
"""How long its first piece may take, where the headers are refused already."""


class Direct:
    """Takes whole requests to store an event, without an ASGI application's layers."""

    def __init__(self, daemon: Daemon, guard: Guard) -> None:
        self._daemon = daemon
        self._guard = guard

    def __call__(self, headers: RawHeaders, body: bytes, respond: Respond) -> None:
        """Respond to POST /v1/events, now or when the event's outcome is known."""
        held = self._daemon.bodies.reserve()

        def end(response: Response) -> None:
            held.release()
            respond(response)

        try:
            self._guard.check(EVENTS, headers, "POST")
            try:
                head = _read_head(self._daemon, headers)
                _take_piece(held, len(body), head)
                if head.is_batch:
                    held.add(len(body))  # its texts are copies
                event = None if head.is_batch else parse_event(body)
            except Problem as problem:
                _refused(self._daemon, problem, headers, body)
                raise
            if event is None:
                _publish_batch(self._daemon, head, body, end)
            else:
                _publish(self._daemon, head, event, end)
        except Problem as problem:
            end(problem_response(problem))
        except Exception as error:  # noqa: BLE001 - the last line of defence
            internal_error(error)
            end(problem_response(Problem(errors.INTERNAL)))


async def post_event(daemon: Daemon, request: Request) -> Response:
    """Respond to POST /v1/events when the event's outcome is known."""
    headers, start = request.scope["headers"], bytearray()
    with daemon.bodies.reserve() as held:
        try:
            try:
                head = _read_head(daemon, headers)
            except Problem:
                if producer_of(_key(headers)) is not None:
                    start += await _read_start(request)
                raise
            body = await read_body(request, held, head, start)
            if head.is_batch:
                held.add(len(body))  # its texts are copies
            event = None if head.is_batch else await daemon.apart.parse(body)
        except Problem as problem:
            _refused(daemon, problem, headers, bytes(start))
            raise
        if event is None:
            return await await_callback(partial(_publish_batch, daemon, head, body))
        return await await_callback(partial(_publish, daemon, head, event))


class _Head(NamedTuple):
    key: str
    precondition: int | str
    limit_bytes: int
    """Of one event."""
    preferences: Preferences
    is_batch: bool = False

    @property
    def body_limit_bytes(self) -> int:
        return MAX_BYTES if self.is_batch else self.limit_bytes

    def too_large(self, size_bytes: int) -> Problem:
        if self.is_batch:
            return not_a_batch()
        return too_large(size_bytes, self.limit_bytes)


class EventLimit(NamedTuple):
    """How large the body of one event may be."""

    body_limit_bytes: int

    def too_large(self, size_bytes: int) -> Problem:
        """Say how large it may be."""
        return too_large(size_bytes, self.body_limit_bytes)


class Preferences(NamedTuple):
    """What a caller prefers: a short response, and one that comes while it waits."""

    is_minimal: bool = False
    hold_seconds: float = math.inf


@lru_cache(64)
def read_preferences(header: bytes) -> Preferences:
    """Read Prefer (RFC 7240): return=minimal and wait=SECONDS; pass over all else.

    Plugins send one or two values of it again and again.
    """
    found: dict[str, str] = {}
    for preference in header.decode("latin-1").split(","):
        name, _, value = preference.partition(";")[0].partition("=")
        found.setdefault(name.strip().lower(), value.strip().strip('"'))
    wait = found.get("wait", "")
    wait_seconds = float(wait) if wait.isascii() and wait.isdigit() else math.inf
    hold_seconds = max(wait_seconds - ON_THE_WAY_SECONDS, LEAST_HOLD_SECONDS)
    return Preferences(found.get("return") == "minimal", hold_seconds)


def _read_head(daemon: Daemon, raw_headers: RawHeaders) -> _Head:
    """Read what is to become of the body; raise Problem for what is never stored."""
    if not daemon.writes:
        raise Problem(errors.WRONG_ROLE, Outcome.NOT_STORED)
    if daemon.stopping.is_set():
        raise Problem(errors.STOPPING, Outcome.NOT_STORED)
    headers = dict(reversed(raw_headers))  # of two with one name the first counts
    media_type = _media_type(headers)
    coding = headers.get(b"content-encoding", b"identity").strip().lower()
    is_batch = media_type == SEQUENCE
    is_known = is_batch or media_type == b"application/json"
    if not is_known or coding not in (b"identity", b""):
        raise Problem(errors.UNSUPPORTED_MEDIA_TYPE, Outcome.NOT_STORED)
    key = parse_key(_text(headers.get(b"idempotency-key")))
    precondition = parse_precondition(_text(headers.get(b"if-match")))
    if is_batch and precondition == LAST:
        raise not_a_batch()
    limit_bytes = (
        daemon.settings.max_event_bytes or daemon.supervisor.connection().limit_bytes
    )
    preferences = read_preferences(headers.get(b"prefer", b""))
    head = _Head(key, precondition, limit_bytes, preferences, is_batch)
    declared = headers.get(b"content-length", b"0")
    if declared.isdigit() and int(declared) > head.body_limit_bytes:
        raise head.too_large(int(declared))
    return head


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")


def _publish(daemon: Daemon, head: _Head, event: Event, respond: Respond) -> None:
    """Publish the event, and respond when its outcome is known."""
    end = partial(_respond_result, daemon, head, event.category, respond)
    hold_seconds = head.preferences.hold_seconds
    daemon.publisher.start(event, head.key, head.precondition, end, hold_seconds)


def _publish_batch(daemon: Daemon, head: _Head, body: bytes, respond: Respond) -> None:
    """Store the batch, and respond when its outcome is known."""
    end = partial(_respond_result, daemon, head, INITSYNC, respond)
    batch = Batch(head.key, int(head.precondition), body, head.limit_bytes)
    daemon.batches.start(batch, end, head.preferences.hold_seconds)


def _respond_result(
    daemon: Daemon, head: _Head, category: str, respond: Respond, result: Result
) -> None:
    if isinstance(result, Problem):
        key = head.key
        if head.is_batch:
            key = key_of(key, int(result.members.get("index") or 1))
        _log_refusal(daemon, result, key)
        respond(problem_response(result))
        return
    if daemon.refusals:
        tell_repeats(daemon.refusals)
    respond(_stored_response(daemon, head, category, result))


def _refused(
    daemon: Daemon, problem: Problem, headers: RawHeaders, start: bytes
) -> None:
    """Count and log what was refused before a copy of it left."""
    key = _key(headers)
    if _media_type(dict(reversed(headers))) == SEQUENCE:
        key, start = key_of(key, 1), start.removeprefix(RECORD_SEPARATOR)
    daemon.publisher.failed(key, problem, start)
    _log_refusal(daemon, problem)


def _media_type(headers: dict[bytes, bytes]) -> bytes:
    return headers.get(b"content-type", b"").partition(b";")[0].strip().lower()


def _key(headers: RawHeaders) -> str:
    """Give the key of a request of which nothing else may be right."""
    key = dict(reversed(headers)).get(b"idempotency-key", b"")
    return key.decode("latin-1")


def _stored_response(
    daemon: Daemon, head: _Head, category: str, stored: Stored
) -> Response:
    """Respond with the offset. It shows nothing of an event, so anybody may keep it."""
    if head.preferences.is_minimal:
        return _MinimalResponse(stored)
    document = {
        "offset": stored.offset,
        "stream": daemon.settings.stream,
        "subject": f"{daemon.settings.subject_prefix}.{category}",
        "duplicate": stored.duplicate,
    }
    return json_response(document, _status(stored), {"ETag": f'"{stored.offset}"'})


class _MinimalResponse(Response):
    """The offset as an entity tag; Starlette's own way costs 3 % of an event more.

    The plugin compares these fields, in this order, with those that it hopes for.
    """

    body = b""
    background = None

    def __init__(self, stored: Stored) -> None:
        self.status_code = _status(stored)
        self.raw_headers = [
            (b"content-length", b"0"),
            (b"etag", b'"%d"' % stored.offset),
        ]


def _status(stored: Stored) -> HTTPStatus:
    return HTTPStatus.OK if stored.duplicate else HTTPStatus.CREATED


async def _read_start(request: Request) -> bytes:
    """Read the first piece of a body that will not be read: it says whose event it is.

    It most often came with the headers.
    """
    with suppress(TimeoutError, ClientDisconnect):
        async with asyncio.timeout(START_SECONDS):
            async for piece in request.stream():
                return piece[:START_BYTES]
    return b""


async def read_body(
    request: Request, held: Reservation, limits: _Head | EventLimit, start: bytearray
) -> bytes:
    """Read the body, never more of it than the limit; `start` gets its first bytes."""
    body = bytearray()
    try:
        started_at = asyncio.get_running_loop().time()
        async with asyncio.timeout(body_seconds(0)) as clock:
            async for piece in request.stream():
                body += piece
                clock.reschedule(started_at + body_seconds(len(body)))
                start += piece[: START_BYTES - len(start)]
                _take_piece(held, len(piece), limits)
    except TimeoutError:
        raise Problem(errors.SLOW_BODY, Outcome.NOT_STORED) from None
    return bytes(body)


def _take_piece(held: Reservation, size_bytes: int, limits: _Head | EventLimit) -> None:
    """Count a piece of a body; raise Problem if there is no room for it."""
    held.add(size_bytes)
    if held.bytes > limits.body_limit_bytes:
        raise limits.too_large(held.bytes)


def _log_refusal(daemon: Daemon, problem: Problem, key: str | None = None) -> None:
    """Log what was not stored, without anything of the event; once for a series."""
    codes = dict.fromkeys((problem.cause.code, problem.reason.code))
    if not daemon.refusals.should_log(("refused", *codes), time.monotonic()):
        return
    members = {name: value for name, value in problem.members.items() if name != "key"}
    if problem.cause is errors.PRECONDITION_FAILED:
        members |= {"key": key, "stored_key": problem.members.get("key")}
    log.warning("refused", code=problem.cause.code, outcome=problem.outcome, **members)
