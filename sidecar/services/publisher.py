# SPDX-License-Identifier: Apache-2.0
"""Events into the stream, each exactly once: who is let in, and what came of it."""

from __future__ import annotations

import math
import time
from functools import partial
from typing import TYPE_CHECKING, Final

from sidecar import errors
from sidecar.errors import Outcome, Problem
from sidecar.jetstream.callbacks import await_callback
from sidecar.model.decisions import Expected, InDoubt
from sidecar.model.event import LAST
from sidecar.model.producers import is_second_writer
from sidecar.services.publish_attempt import Context, PublishAttempt
from sidecar.services.scan_header import Scans
from sidecar.telemetry.log import log

if TYPE_CHECKING:
    from sidecar.jetstream.monitor import StreamMonitor
    from sidecar.jetstream.supervisor import StreamSupervisor
    from sidecar.model.decisions import Result, Stored
    from sidecar.model.event import Event
    from sidecar.model.producers import Failures
    from sidecar.services.publish_attempt import OnDone
    from sidecar.telemetry.metrics import Metrics

COPY_TIMEOUT_SECONDS: Final = 2.0
"""How long one copy may stay unanswered before its connection is thrown away."""

MAX_IN_FLIGHT: Final = 256
"""Of events that wait for their outcome. One hermes-server has one."""


class Publisher:
    """Publishes events over the connection that the supervisor hands out.

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
        self._scans = Scans(supervisor.leader)
        copy_seconds = min(COPY_TIMEOUT_SECONDS, timeout_seconds)
        self.context = Context(supervisor, metrics, failures, self._scans, copy_seconds)
        self.in_flight = 0
        self.readers: StreamMonitor | None = None
        """Of this process, told of what is stored before NATS could."""
        self.acknowledged_at: float | None = None

    @property
    def oldest_doubt_at(self) -> float | None:
        """When the oldest publish without a definite answer was sent, monotonic."""
        return min(self.context.doubts.values(), default=None)

    def start(
        self,
        event: Event,
        key: str,
        precondition: int | str,
        on_done: OnDone,
        hold_seconds: float = math.inf,
    ) -> None:
        """Store the event once, as the offset after the precondition's.

        `on_done` gets what came of it, perhaps before this returns, and within
        `hold_seconds` if that is less than what the settings allow: later, whoever
        asked is gone.
        """
        if self.in_flight >= MAX_IN_FLIGHT:
            busy = Problem(errors.BUSY, Outcome.NOT_STORED)
            self.failed(key, busy, event.body)
            on_done(busy)
            return
        self.in_flight += 1
        now = time.monotonic()
        ends_at = now + min(self._timeout_seconds, hold_seconds)
        complete = partial(self._complete, event, key, now, on_done)
        if precondition == LAST:
            self.context.run(self._append(event, key, ends_at), complete)
        else:
            expected = Expected(key, event.body, int(precondition))
            PublishAttempt(self.context, event, expected, ends_at).send(complete)

    def resolve(
        self, event: Event, key: str, last: int, on_done: OnDone, hold_seconds: float
    ) -> None:
        """Do so with an event of an atomic batch that left: it may stand, or land."""
        self.in_flight += 1
        now = time.monotonic()
        ends_at = now + min(self._timeout_seconds, hold_seconds)
        complete = partial(self._complete, event, key, now, on_done)
        expected = Expected(key, event.body, last, in_doubt=InDoubt.YES)
        PublishAttempt(self.context, event, expected, ends_at).send(complete)

    def _complete(
        self,
        event: Event,
        key: str,
        started_at: float,
        on_done: OnDone,
        result: Result,
    ) -> None:
        self.in_flight -= 1
        if isinstance(result, Problem):
            outcome = result.outcome or Outcome.UNKNOWN
            seconds = time.monotonic() - started_at
            self._metrics.not_stored(event.category, outcome, seconds)
            self.failed(key, result, event.body, started_at)
            on_done(result)
            return
        on_done(result)
        # Counted while the answer is on its way: nobody waits for that.
        self.record_stored(event, key, result, started_at)

    def record_stored(
        self, event: Event, key: str, stored: Stored, started_at: float
    ) -> None:
        """Remember that an event stands, however that was found out."""
        now = time.monotonic()
        self._supervisor.monitor.proven(stored.offset)
        if self.readers is not None:
            self.readers.acknowledged(stored.offset)
        self._supervisor.tell_stored()
        self.acknowledged_at = now
        self._scans.record_stored(event, stored.offset, now)
        self._failures.record_stored(key, event, now)
        size_bytes = len(event.body)
        self._metrics.stored(
            event.category, stored.duplicate, size_bytes, now - started_at
        )
        log.debug(
            "stored",
            offset=stored.offset,
            duplicate=stored.duplicate,
            category=event.category,
            event_type=event.type,
            size_bytes=size_bytes,
        )

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

    async def _append(self, event: Event, key: str, ends_at: float) -> Result:
        """Publish after whatever is last: the precondition is ours, not the caller's.

        Each try is fenced, so this request stores at most one message; a repetition of
        the whole request is recognised only inside the stream's duplicate window.
        Raises Problem if nobody says what is last.
        """
        last = (await self._supervisor.leader.position()).last
        while True:
            expected = Expected(key, event.body, last, anywhere=True)
            attempt = PublishAttempt(self.context, event, expected, ends_at)
            result = await await_callback(attempt.send)
            if (
                not isinstance(result, Problem)
                or result.cause is not errors.PRECONDITION_FAILED
                or time.monotonic() > ends_at
            ):
                return result
            last = int(result.members["last_offset"] or 0)  # others write on
