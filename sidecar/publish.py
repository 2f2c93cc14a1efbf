# SPDX-License-Identifier: Apache-2.0
"""One event into the stream, exactly once: the decision table and its loop.

Every copy of an event carries `Nats-Expected-Last-Sequence: L`, so at most one message
can ever be stored as L + 1 and every late copy is refused by the server for ever. The
only question left is whose message stands at L + 1; the table answers it, the loop
asks. A copy without a definite answer is a doubt, and a doubt ends only when L + 1 is
taken. See docs/adr/0002-conditional-publish.md.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Self

from sidecar import errors
from sidecar.answer import (
    Acknowledged,
    Answer,
    Disconnected,
    InProcess,
    NoAnswer,
    NotSent,
    Refused,
    Sight,
    TooLarge,
    Unavailable,
    WrongLast,
)
from sidecar.errors import Cause, Outcome, Problem
from sidecar.event import LAST, Event
from sidecar.log import log

if TYPE_CHECKING:
    from sidecar.bus import Bus
    from sidecar.metrics import Metrics

COPY_TIMEOUT_SECONDS: Final = 2.0
"""How long one copy may stay unanswered before its connection is thrown away."""

MAX_IN_FLIGHT: Final = 256
"""Of events that wait for their outcome. One hermes-server has one."""


@dataclass(frozen=True)
class Expected:
    """An event that is to become L + 1, and what is known of its copies.

    `anywhere`: the caller sent If-Match: *, so its key may stand at any offset.
    """

    key: str
    body: bytes = field(repr=False)
    last: int
    anywhere: bool = False
    in_doubt: bool = False

    @property
    def next(self) -> int:
        """The offset that the event is to take."""
        return self.last + 1


@dataclass(frozen=True)
class Stored:
    """The event stands at this offset."""

    offset: int
    duplicate: bool


@dataclass(frozen=True)
class Again:
    """Send the same copy again; `cause` is what keeps it from being stored."""

    in_doubt: bool
    pause_seconds: float
    cause: Cause


@dataclass(frozen=True)
class Look:
    """Ask the leader what stands at this sequence."""

    sequence: int
    in_doubt: bool


def decide(expected: Expected, answer: Answer) -> Stored | Again | Look | Problem:
    """Say what follows from the answer to one copy."""
    in_doubt = expected.in_doubt
    match answer:
        case Acknowledged(sequence, duplicate=False) if sequence == expected.next:
            return Stored(sequence, duplicate=False)
        case Acknowledged(duplicate=False):
            # Whoever answered did not apply our precondition.
            return Again(in_doubt=True, pause_seconds=0.1, cause=errors.STREAM_UNFIT)
        case Acknowledged(sequence) if expected.anywhere or sequence == expected.next:
            # Deduplication compares ids alone: look whether the bytes are ours.
            return Look(sequence, in_doubt=True)
        case Acknowledged(sequence):
            return _refuse(expected, errors.KEY_REUSED, offset=sequence)
        case WrongLast():
            return Look(expected.next, in_doubt=in_doubt)
        case InProcess():
            # The copy under way may be another request's: it can still land.
            return Again(True, 0.1, errors.JETSTREAM_UNAVAILABLE)
        case Unavailable():
            return Again(in_doubt, 0.25, errors.JETSTREAM_UNAVAILABLE)
        case Refused(cause, code):
            return _refuse(expected, cause, jetstream_code=code)
        case TooLarge(size_bytes, limit_bytes):
            return _refuse(
                expected,
                errors.EVENT_TOO_LARGE,
                size_bytes=size_bytes,
                limit_bytes=limit_bytes,
            )
        case NotSent():
            return Again(in_doubt, 0.0, errors.NATS_DOWN)
        case NoAnswer() | Disconnected():
            return Again(True, 0.0, errors.JETSTREAM_UNAVAILABLE)


def judge(expected: Expected, sequence: int, sight: Sight) -> Stored | Again | Problem:
    """Say what follows from what the leader shows at `sequence`."""
    message, position = sight.message, sight.position
    if message is not None:
        if message.key != expected.key:
            return Problem(
                errors.PRECONDITION_FAILED,
                Outcome.NOT_STORED,
                offset=sequence,
                key=message.key,
                last_offset=position.last,
            )
        if message.body == expected.body:
            return Stored(sequence, duplicate=True)
        return Problem(errors.KEY_REUSED, Outcome.NOT_STORED, offset=sequence)
    ends = {"first_offset": position.first, "last_offset": position.last}
    if sequence <= position.last or sequence < position.first:
        # It was taken and is gone: nobody can say any more by whom.
        return Problem(errors.OFFSET_GONE, Outcome.UNKNOWN, **ends)
    if position.last == expected.last:
        # Proposed by the leader, not yet committed: it may still be dropped.
        return Again(expected.in_doubt, 0.05, errors.JETSTREAM_UNAVAILABLE)
    if sight.settled_last is None or sight.settled_last >= expected.last:
        # A thawed old leader was seen to answer from its past for a moment.
        return Again(expected.in_doubt, 0.5, errors.JETSTREAM_UNAVAILABLE)
    return Problem(errors.OFFSET_AHEAD, _outcome(expected.in_doubt), **ends)


def _refuse(expected: Expected, cause: Cause, **members: int | None) -> Again | Problem:
    """Refuse for good, unless an earlier copy of this request may still land."""
    if expected.in_doubt:
        return Again(in_doubt=True, pause_seconds=0.5, cause=cause)
    known = {name: value for name, value in members.items() if value is not None}
    return Problem(cause, Outcome.NOT_STORED, **known)


def _outcome(in_doubt: bool) -> Outcome:
    return Outcome.UNKNOWN if in_doubt else Outcome.NOT_STORED


_STANDING = frozenset(
    {
        errors.NATS_PERMISSION,
        errors.STREAM_FULL,
        errors.STORAGE_FULL,
        errors.EVENT_TOO_LARGE,
        errors.PUBLISH_REFUSED,
    }
)
"""What does not pass by itself: Hermes comes with the same event again and again."""


@dataclass(frozen=True)
class Refusal:
    """What keeps events out: since no event was stored, so many times, last when."""

    cause: Cause
    times: int
    at: float


class Publisher:
    """Publishes events over the bus and remembers what /health must know.

    It keeps nothing of a request that has ended.
    """

    def __init__(self, bus: Bus, metrics: Metrics, timeout_seconds: float) -> None:
        self._bus = bus
        self._metrics = metrics
        self._timeout_seconds = timeout_seconds
        self._copy_seconds = min(COPY_TIMEOUT_SECONDS, timeout_seconds)
        self._doubts: dict[object, float] = {}
        self.in_flight = 0
        self.acknowledged_at: float | None = None
        self.refusal: Refusal | None = None
        self.second_writer_at: float | None = None

    @property
    def oldest_doubt_at(self) -> float | None:
        """When the oldest publish without a definite answer was sent, monotonic."""
        return min(self._doubts.values(), default=None)

    async def publish(self, event: Event, key: str, precondition: int | str) -> Stored:
        """Store the event once, as the offset after the precondition's.

        Raises Problem with the outcome not_stored or unknown.
        """
        if self.in_flight >= MAX_IN_FLIGHT:
            busy = Problem(errors.BUSY, Outcome.NOT_STORED)
            self.refused(busy)
            raise busy
        started_at = time.monotonic()
        self.in_flight += 1
        try:
            if precondition == LAST:
                stored = await self._append(event, key)
            else:
                stored = await self._publish(event, key, int(precondition))
        except Problem as problem:
            self._metrics.not_stored(
                event.category,
                problem.outcome or Outcome.UNKNOWN,
                time.monotonic() - started_at,
            )
            self.refused(problem)
            raise
        finally:
            self.in_flight -= 1
        self.acknowledged_at = time.monotonic()
        self.refusal = None
        self._metrics.stored(
            event.category,
            stored.duplicate,
            len(event.body),
            self.acknowledged_at - started_at,
        )
        log.debug(
            "stored",
            offset=stored.offset,
            duplicate=stored.duplicate,
            category=event.category,
            event_type=event.type,
            size_bytes=len(event.body),
        )
        return stored

    def refused(self, problem: Problem) -> None:
        """Remember why a request to store an event was refused, at any stage."""
        cause, now = problem.cause, time.monotonic()
        self._metrics.refused(cause.code)
        if cause in _STANDING:
            last = self.refusal
            times = last.times if last is not None and last.cause is cause else 0
            self.refusal = Refusal(cause, times + 1, now)
        if cause is errors.PRECONDITION_FAILED:
            self.second_writer_at = now

    async def _append(self, event: Event, key: str) -> Stored:
        """Publish after whatever is last: the precondition is ours, not the caller's.

        Each try is fenced, so this request stores at most one message; a repetition of
        the whole request is recognised only inside the stream's duplicate window.
        """
        ends_at = time.monotonic() + self._timeout_seconds
        while True:
            last = (await self._bus.position()).last
            try:
                return await self._publish(event, key, last, anywhere=True)
            except Problem as problem:
                lost_race = problem.cause is errors.PRECONDITION_FAILED
                if not lost_race or time.monotonic() > ends_at:
                    raise

    async def _publish(
        self, event: Event, key: str, last: int, *, anywhere: bool = False
    ) -> Stored:
        ends_at = asyncio.get_running_loop().time() + self._timeout_seconds
        expected = Expected(key, event.body, last, anywhere=anywhere)
        with Doubt(self._doubts) as doubt:
            step = await self._send(event, expected, doubt)
            if isinstance(step, Stored):
                return step  # before a clock is set up, which costs a twentieth
            if isinstance(step, Problem):
                raise step
            try:
                async with asyncio.timeout_at(ends_at):
                    stored = await self._resolve(event, expected, step, doubt)
            except TimeoutError:
                problem = Problem(doubt.cause, Outcome.NOT_STORED)
                if doubt.since is not None:
                    problem = Problem(errors.UNKNOWN_OUTCOME, Outcome.UNKNOWN)
                self._metrics.resolved(problem.outcome)
                raise problem from None
            except Problem as problem:
                self._metrics.resolved(problem.outcome)
                raise
            self._metrics.resolved(Outcome.STORED)
            return stored

    async def _resolve(
        self,
        event: Event,
        expected: Expected,
        step: Stored | Again | Look | Problem,
        doubt: Doubt,
    ) -> Stored:
        """Look and send again until the outcome is known."""
        while True:
            if isinstance(step, Look):
                step = await self._look(expected, step, doubt)
            if isinstance(step, Stored):
                return step
            if isinstance(step, Problem):
                raise step
            doubt.set(step.in_doubt, step.cause)
            await asyncio.sleep(step.pause_seconds)
            expected = replace(expected, in_doubt=doubt.since is not None)
            step = await self._send(event, expected, doubt)

    async def _send(
        self, event: Event, expected: Expected, doubt: Doubt
    ) -> Stored | Again | Look | Problem:
        """Send one copy; its answer is awaited for some seconds at most."""
        if expected.in_doubt:
            connection = await self._bus.wait()
        else:
            connection = self._bus.connection()
        doubt.set(True, errors.JETSTREAM_UNAVAILABLE)
        answer = await connection.publish(
            event, expected.key, expected.last, self._copy_seconds
        )
        if isinstance(answer, NoAnswer):
            self._bus.drop(connection)
        return decide(expected, answer)

    async def _look(
        self, expected: Expected, look: Look, doubt: Doubt
    ) -> Stored | Again | Problem:
        """Ask the leader what the answer left open."""
        doubt.set(look.in_doubt, errors.JETSTREAM_UNAVAILABLE)
        sight = await self._bus.look(look.sequence)
        if sight is None:
            return Again(look.in_doubt, 0.1, errors.JETSTREAM_UNAVAILABLE)
        return judge(expected, look.sequence, sight)


class Doubt:
    """Whether copies of one request are unanswered, since when, and why not stored."""

    def __init__(self, doubts: dict[object, float]) -> None:
        self._doubts = doubts
        self.cause = errors.JETSTREAM_UNAVAILABLE

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._doubts.pop(self, None)

    @property
    def since(self) -> float | None:
        """When the first copy without a definite answer was sent, monotonic."""
        return self._doubts.get(self)

    def set(self, in_doubt: bool, cause: Cause) -> None:
        """Record what the last step left."""
        self.cause = cause
        if in_doubt:
            self._doubts.setdefault(self, time.monotonic())
        else:
            self._doubts.pop(self, None)
