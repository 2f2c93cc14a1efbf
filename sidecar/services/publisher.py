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
import math
import time
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sidecar import errors
from sidecar.errors import Cause, Outcome, Problem
from sidecar.jetstream.callbacks import await_callback
from sidecar.model.event import LAST, Event
from sidecar.model.failures import is_second_writer
from sidecar.model.reply import (
    Acknowledged,
    Answer,
    Disconnected,
    InProcess,
    NoAnswer,
    NotSent,
    Observation,
    Refused,
    TooLarge,
    Unavailable,
    Undecided,
    WrongLast,
)
from sidecar.model.scan import INITSYNC
from sidecar.telemetry.log import internal_error, log

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from sidecar.jetstream.connection import Connection
    from sidecar.jetstream.supervisor import StreamSupervisor
    from sidecar.model.failures import Failures
    from sidecar.model.scan import Scan
    from sidecar.telemetry.metrics import Metrics

    Tell = Callable[["Stored | Problem"], None]

COPY_TIMEOUT_SECONDS: Final = 2.0
"""How long one copy may stay unanswered before its connection is thrown away."""

MAX_IN_FLIGHT: Final = 256
"""Of events that wait for their outcome. One hermes-server has one."""


SCAN_SECONDS: Final = 1.0
"""How long it is remembered where a scan stands: a stream may be restored meanwhile."""


class InDoubt(IntEnum):
    """Whether copies of an event may stand or still land, the worst of them."""

    NO = 0
    REFUSED = 1
    """Each was refused, perhaps by an old leader, or was one of two with an equal id: a
    leader that stays, and says that the stream ends before L, has refused them all."""
    YES = 2


class Expected(NamedTuple):
    """An event that is to become L + 1, and what is known of its copies.

    `anywhere`: the caller sent If-Match: *, so its key may stand at any offset.
    """

    key: str
    body: bytes
    last: int
    anywhere: bool = False
    in_doubt: InDoubt = InDoubt.NO

    def __repr__(self) -> str:
        return f"<Expected {self.key} after {self.last}>"

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
class Retry:
    """Send the same copy again; `cause` is what keeps it from being stored."""

    in_doubt: InDoubt
    pause_seconds: float
    cause: Cause
    jetstream_code: int | None = None


@dataclass(frozen=True)
class Inspect:
    """Ask the leader what stands at this sequence; `otherwise` if it does not say."""

    sequence: int
    in_doubt: InDoubt
    otherwise: Retry | None = None


def decide(expected: Expected, answer: Answer) -> Stored | Retry | Inspect | Problem:
    """Say what follows from the answer to one copy."""
    in_doubt = expected.in_doubt
    match answer:
        case Acknowledged(sequence, duplicate=False) if sequence == expected.next:
            return Stored(sequence, duplicate=False)
        case Acknowledged(duplicate=False):
            # Whoever answered did not apply our precondition.
            return Retry(InDoubt.YES, 0.1, errors.FOREIGN_ANSWER)
        case Acknowledged(sequence) if sequence == expected.next:
            # Deduplication compares ids alone: look whether the bytes are ours.
            return Inspect(sequence, InDoubt.YES)
        case Acknowledged(sequence):
            # An old leader may know our id where it never came to stand.
            return Inspect(sequence, max(in_doubt, InDoubt.REFUSED))
        case WrongLast(of_several):
            leaves = InDoubt.REFUSED if of_several else InDoubt.NO
            return Inspect(expected.next, max(in_doubt, leaves))
        case InProcess():
            # The copy under way may be another request's: it can still land. Or it was
            # refused as it was applied: 2.11 on several replicas says this of such a
            # copy for as long as its leader leads, so only a look ends it.
            return _look(expected, InDoubt.REFUSED, errors.JETSTREAM_UNAVAILABLE, None)
        case Unavailable():
            return Retry(in_doubt, 0.25, errors.JETSTREAM_UNAVAILABLE)
        case Refused(cause, code):
            return _refuse(expected, cause, jetstream_code=code)
        case TooLarge(size_bytes, limit_bytes):
            return _refuse(
                expected,
                errors.EVENT_TOO_LARGE,
                size_bytes=size_bytes,
                limit_bytes=limit_bytes,
            )
        case Undecided(cause, code):
            return _look(expected, InDoubt.YES, cause, code)
        case NotSent():
            return Retry(in_doubt, 0.0, errors.NATS_DOWN)
        case NoAnswer() | Disconnected():
            return Retry(InDoubt.YES, 0.0, errors.JETSTREAM_UNAVAILABLE)


def judge(
    expected: Expected, sequence: int, sight: Observation
) -> Stored | Retry | Problem:
    """Say what follows from what the leader shows at `sequence`."""
    in_doubt, message, position = expected.in_doubt, sight.message, sight.position
    ends = {"first_offset": position.first, "last_offset": position.last}
    is_next = sequence == expected.next
    if message is not None and message.sequence == sequence:
        if message.key != expected.key:
            if not is_next:
                # Where an old leader says that it stands. At L + 1 it may.
                return Retry(InDoubt.YES, 0.1, errors.JETSTREAM_UNAVAILABLE)
            return Problem(
                errors.PRECONDITION_FAILED,
                Outcome.NOT_STORED,
                offset=sequence,
                key=message.key,
                last_offset=position.last,
            )
        if (is_next or expected.anywhere) and message.body == expected.body:
            return Stored(sequence, duplicate=True)
        outcome = Outcome.NOT_STORED if is_next else _outcome(in_doubt)
        return Problem(errors.KEY_REUSED, outcome, offset=sequence)
    if message is not None or sequence < position.first:
        # It was taken and is gone: nobody can say any more by whom.
        return Problem(errors.OFFSET_GONE, Outcome.UNKNOWN, **ends)
    if sequence <= position.last:
        # It was taken, but who was asked for it has not come that far: an old leader
        # that a partition has just released.
        return Retry(InDoubt.YES, 0.1, errors.JETSTREAM_UNAVAILABLE)
    if position.last == expected.last:
        # Proposed by the leader, not yet committed: it may still be dropped. It may be
        # ours, of an earlier request with the same key.
        return Retry(InDoubt.YES, 0.05, errors.JETSTREAM_UNAVAILABLE)
    if sight.settled_last is None or sight.settled_last >= expected.last:
        # A thawed old leader was seen to answer from its past for a moment.
        return Retry(in_doubt, 0.5, errors.JETSTREAM_UNAVAILABLE)
    # One leader has said so for long enough: whoever refused the copies was right.
    return Problem(errors.OFFSET_AHEAD, _outcome(in_doubt), **ends)


def _refuse(
    expected: Expected, cause: Cause, **members: int | None
) -> Inspect | Problem:
    """Refuse for good, unless an earlier copy of this request may still land."""
    if expected.in_doubt:
        return _look(expected, InDoubt.NO, cause, members.get("jetstream_code"))
    known = {name: value for name, value in members.items() if value is not None}
    return Problem(cause, Outcome.NOT_STORED, **known)


def _look(
    expected: Expected, leaves: InDoubt, cause: Cause, jetstream_code: int | None
) -> Inspect:
    """Look whether a copy was stored; if not, try again, and not too often.

    Who answers in the stream's place does so before it, and what is under way lands
    soon: that is looked for soon again.
    """
    is_soon = cause in (errors.FOREIGN_ANSWER, errors.JETSTREAM_UNAVAILABLE)
    pause_seconds = 0.1 if is_soon else 0.5
    in_doubt = max(expected.in_doubt, leaves)
    again = Retry(in_doubt, pause_seconds, cause, jetstream_code)
    return Inspect(expected.next, in_doubt, otherwise=again)


def _outcome(in_doubt: InDoubt) -> Outcome:
    return Outcome.UNKNOWN if in_doubt is InDoubt.YES else Outcome.NOT_STORED


class _Known(NamedTuple):
    """Where hermes-client's scan stands after an offset, and when that was learned."""

    offset: int
    scan: Scan
    at: float


class Publisher:
    """Publishes events over the bus.

    Of a request that has ended it keeps nothing but, for a second, where the scan
    stands after it; and it tells `failures` what came of it.
    """

    def __init__(
        self,
        supervisor: StreamSupervisor,
        metrics: Metrics,
        failures: Failures,
        timeout_seconds: float,
    ) -> None:
        self._supervisor = supervisor
        self._metrics = metrics
        self._failures = failures
        self._timeout_seconds = timeout_seconds
        self._copy_seconds = min(COPY_TIMEOUT_SECONDS, timeout_seconds)
        self._doubts: dict[object, float] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._known: _Known | None = None
        self.in_flight = 0
        self.acknowledged_at: float | None = None

    @property
    def oldest_doubt_at(self) -> float | None:
        """When the oldest publish without a definite answer was sent, monotonic."""
        return min(self._doubts.values(), default=None)

    def start(
        self,
        event: Event,
        key: str,
        precondition: int | str,
        tell: Tell,
        hold_seconds: float = math.inf,
    ) -> None:
        """Store the event once, as the offset after the precondition's.

        Tells Stored, or a Problem with the outcome not_stored or unknown; perhaps
        before this returns, and within `hold_seconds` if that is less than what the
        settings allow: later, whoever asked is gone.
        """
        if self.in_flight >= MAX_IN_FLIGHT:
            busy = Problem(errors.BUSY, Outcome.NOT_STORED)
            self.failed(key, busy, event.body)
            tell(busy)
            return
        self.in_flight += 1
        now = time.monotonic()
        ends_at = now + min(self._timeout_seconds, hold_seconds)
        end = partial(self._end, event, key, now, tell)
        if precondition == LAST:
            self._go_on(self._append(event, key, ends_at), end)
        else:
            expected = Expected(key, event.body, int(precondition))
            self._send_first(event, expected, ends_at, end)

    def _end(
        self,
        event: Event,
        key: str,
        started_at: float,
        tell: Tell,
        result: Stored | Problem,
    ) -> None:
        self.in_flight -= 1
        now = time.monotonic()
        if isinstance(result, Problem):
            outcome = result.outcome or Outcome.UNKNOWN
            self._metrics.not_stored(event.category, outcome, now - started_at)
            self.failed(key, result, event.body, started_at)
            tell(result)
            return
        self._supervisor.proven(result.offset)
        self.acknowledged_at = now
        if event.category == INITSYNC:
            self._go_on_from(event, result.offset, now)
        tell(result)
        # Counted while the answer is on its way: nobody waits for that.
        self._failures.record_stored(key, event, now)
        size_bytes = len(event.body)
        self._metrics.stored(
            event.category, result.duplicate, size_bytes, now - started_at
        )
        log.debug(
            "stored",
            offset=result.offset,
            duplicate=result.duplicate,
            category=event.category,
            event_type=event.type,
            size_bytes=size_bytes,
        )

    def _go_on_from(self, event: Event, offset: int, now: float) -> None:
        """Remember where the scan stands after an event that is stored there."""
        known = self._known
        if known is not None and known.offset + 1 == offset:
            self._known = _Known(offset, known.scan.after(offset, event.type), now)

    def _scanned(self, event: Event, expected: Expected, now: float) -> Event | None:
        """Give the event with where the scan stands after it; None if nobody knows.

        It is a matter of L and the event alone, so each copy says the same.
        """
        known = self._known
        if known is None or known.offset != expected.last:
            return None
        if now - known.at > SCAN_SECONDS:
            return None
        return event._replace(scan=known.scan.after(expected.next, event.type))

    def _go_on(self, work: Coroutine[Any, Any, Stored], end: Tell) -> None:
        """Do in a task what one copy did not settle."""

        async def go_on() -> None:
            result: Stored | Problem
            try:
                result = await work
            except Problem as problem:
                result = problem
            except Exception as error:  # noqa: BLE001 - whoever asked needs an answer
                internal_error(error)
                result = Problem(errors.INTERNAL)
            end(result)

        task = asyncio.create_task(go_on())
        self._tasks.add(task)  # the loop keeps none
        task.add_done_callback(self._tasks.discard)

    def failed(
        self, key: str, problem: Problem, start: bytes, started_at: float | None = None
    ) -> None:
        """Remember why an event was not stored, at any stage.

        `start` is what is there of its body, from its first byte on.
        """
        now = time.monotonic()
        self._metrics.refused(problem.cause.code)
        if is_second_writer(key, problem):
            self._metrics.second_writer()
        if problem.cause is errors.EVENT_TOO_LARGE and not self.in_flight:
            self._supervisor.learn_limit()
        since = now if started_at is None else started_at
        self._failures.record_failure(key, problem, start, since, now)

    async def _append(self, event: Event, key: str, ends_at: float) -> Stored:
        """Publish after whatever is last: the precondition is ours, not the caller's.

        Each try is fenced, so this request stores at most one message; a repetition of
        the whole request is recognised only inside the stream's duplicate window.
        """
        last = (await self._supervisor.position()).last
        while True:
            expected = Expected(key, event.body, last, anywhere=True)
            try:
                send = partial(self._send_first, event, expected, ends_at)
                return _stored(await await_callback(send))
            except Problem as problem:
                lost_race = problem.cause is errors.PRECONDITION_FAILED
                if not lost_race or time.monotonic() > ends_at:
                    raise
                last = int(problem.members["last_offset"] or 0)  # others write on

    def _send_first(
        self, event: Event, expected: Expected, ends_at: float, end: Tell
    ) -> None:
        """Send one copy, which settles almost every event without a task or a clock."""
        try:
            connection = self._supervisor.connection()
        except Problem as problem:
            end(problem)
            return
        sent_at = time.monotonic()
        if event.category == INITSYNC and event.scan is None:
            scanned = self._scanned(event, expected, sent_at)
            if scanned is None:
                self._failures.record_wait(expected.key, sent_at)
                self._go_on(self._learn_and_send(event, expected, ends_at), end)
                return
            event = scanned
        doubt = Doubt(self._doubts)
        doubt.set(InDoubt.YES)

        def take(answer: Answer) -> None:
            step = self._follow(connection, expected, answer)
            if isinstance(step, (Stored, Problem)):
                doubt.end()
                end(step)
            else:
                self._failures.record_wait(expected.key, sent_at)
                self._go_on(self._resolve(event, expected, step, doubt, ends_at), end)

        connection.send(event, expected.key, expected.last, self._copy_seconds, take)

    async def _learn_and_send(
        self, event: Event, expected: Expected, ends_at: float
    ) -> Stored:
        """Learn what a copy must say of the scan, then send it."""
        try:
            async with asyncio.timeout(ends_at - time.monotonic()):
                learned = await self._learn(event, expected)
        except TimeoutError:
            cause = errors.JETSTREAM_UNAVAILABLE
            raise Problem(cause, Outcome.NOT_STORED) from None
        if isinstance(learned, Event):
            send = partial(self._send_first, learned, expected, ends_at)
            return _stored(await await_callback(send))
        doubt = Doubt(self._doubts)
        return await self._resolve(event, expected, learned, doubt, ends_at)

    async def _learn(
        self, event: Event, expected: Expected
    ) -> Event | Stored | Retry | Inspect | Problem:
        """Ask where the scan stands at L; raise Problem if no copy may stand.

        Nothing comes between what is learned and a copy that is fenced by L.
        """
        if expected.in_doubt:
            connection = await self._supervisor.wait()
        else:
            connection = self._supervisor.connection()
        try:
            before = await self._supervisor.scan_at(expected.last)
        except Problem as problem:
            return Retry(expected.in_doubt, 0.25, problem.cause)
        if before is None:
            # The stream does not end at L: a copy would be refused, so look for whom.
            large = connection.too_large(event, expected.key, expected.last)
            if large is not None and not expected.in_doubt:
                return decide(expected, large)
            return Inspect(expected.next, expected.in_doubt)
        self._known = _Known(expected.last, before, time.monotonic())
        return event._replace(scan=before.after(expected.next, event.type))

    async def _resolve(
        self,
        event: Event,
        expected: Expected,
        step: Stored | Retry | Inspect | Problem,
        doubt: Doubt,
        ends_at: float,
    ) -> Stored:
        """Find out what one copy left open, until the time is up."""
        try:
            async with asyncio.timeout(ends_at - time.monotonic()):
                stored = await self._look_and_send(event, expected, step, doubt)
        except TimeoutError:
            problem = doubt.problem(self._supervisor.cause)
            self._metrics.resolved(problem.outcome)
            raise problem from None
        except Problem as problem:
            self._metrics.resolved(problem.outcome)
            raise
        finally:
            doubt.end()
        self._metrics.resolved(Outcome.STORED)
        return stored

    async def _look_and_send(
        self,
        event: Event,
        expected: Expected,
        step: Stored | Retry | Inspect | Problem,
        doubt: Doubt,
    ) -> Stored:
        """Look and send again until the outcome is known."""
        while True:
            if isinstance(step, Inspect):
                step = await self._look(expected, step, doubt)
            if isinstance(step, (Stored, Problem)):
                return _stored(step)
            doubt.set(step.in_doubt, step.cause, step.jetstream_code)
            await asyncio.sleep(step.pause_seconds)
            expected = expected._replace(in_doubt=step.in_doubt)
            if event.category == INITSYNC and event.scan is None:
                learned = await self._learn(event, expected)
                if not isinstance(learned, Event):
                    step = learned
                    continue
                event = learned
            step = await self._send(event, expected, doubt)

    async def _send(
        self, event: Event, expected: Expected, doubt: Doubt
    ) -> Stored | Retry | Inspect | Problem:
        """Send one copy; its answer is awaited for some seconds at most."""
        if expected.in_doubt:
            connection = await self._supervisor.wait()
        else:
            connection = self._supervisor.connection()
        doubt.set(InDoubt.YES)
        answer = await connection.publish(
            event, expected.key, expected.last, self._copy_seconds
        )
        return self._follow(connection, expected, answer)

    def _follow(
        self, connection: Connection, expected: Expected, answer: Answer
    ) -> Stored | Retry | Inspect | Problem:
        """Say what follows from an answer; drop a connection that left a doubt."""
        if isinstance(answer, NoAnswer):
            self._supervisor.drop(connection)
        return decide(expected, answer)

    async def _look(
        self, expected: Expected, look: Inspect, doubt: Doubt
    ) -> Stored | Retry | Problem:
        """Ask the leader what the answer left open."""
        doubt.set(look.in_doubt)
        sight = await self._supervisor.look(look.sequence)
        step: Stored | Retry | Problem
        if sight is None:
            step = Retry(look.in_doubt, 0.1, errors.JETSTREAM_UNAVAILABLE)
        else:
            step = judge(
                expected._replace(in_doubt=look.in_doubt), look.sequence, sight
            )
        if isinstance(step, Retry) and look.otherwise is not None:
            return look.otherwise
        return step


class Doubt:
    """Whether copies of one request are unanswered, since when, and why not stored."""

    def __init__(self, doubts: dict[object, float]) -> None:
        self._doubts = doubts
        self._in_doubt = InDoubt.NO
        self.cause = errors.JETSTREAM_UNAVAILABLE
        self._jetstream_code: int | None = None

    def set(
        self,
        in_doubt: InDoubt,
        cause: Cause | None = None,
        jetstream_code: int | None = None,
    ) -> None:
        """Record what the last step left; without a cause the one before stands."""
        if cause is not None:
            self.cause, self._jetstream_code = cause, jetstream_code
        self._in_doubt = in_doubt
        if in_doubt:
            self._doubts.setdefault(self, time.monotonic())
        else:
            self._doubts.pop(self, None)

    def problem(self, bus_cause: Cause | None) -> Problem:
        """Say what came of the request when its time is up; the bus's cause goes first.

        The outcome unknown has a reason, or nobody could mend it.
        """
        if self._in_doubt is not InDoubt.YES:
            outcome = Outcome.UNKNOWN if self._in_doubt else Outcome.NOT_STORED
            return Problem(self.cause, outcome)
        reason = bus_cause or self.cause
        members: dict[str, int | str | None] = {"reason": reason.code}
        if bus_cause is None and self._jetstream_code is not None:
            members["jetstream_code"] = self._jetstream_code
        problem = Problem(errors.UNKNOWN_OUTCOME, Outcome.UNKNOWN, **members)
        problem.reason = reason
        return problem

    def end(self) -> None:
        """Forget it: the request has ended."""
        self._doubts.pop(self, None)


def _stored(result: Stored | Problem) -> Stored:
    if isinstance(result, Problem):
        raise result
    return result
