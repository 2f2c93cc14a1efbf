# SPDX-License-Identifier: Apache-2.0
"""One event on its way, from its first copy to its outcome.

The decision table (model/decisions) says what follows from each reply; this asks.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from sidecar import errors
from sidecar.errors import Outcome, Problem
from sidecar.model.decisions import (
    Expected,
    InDoubt,
    Inspect,
    Result,
    Retry,
    Step,
    Stored,
    decide,
    resolve,
    timed_out,
)
from sidecar.model.publish_reply import NoAnswer
from sidecar.services.scan_header import needs_scan
from sidecar.telemetry.log import internal_error

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from sidecar.jetstream.connection import Connection
    from sidecar.jetstream.supervisor import StreamSupervisor
    from sidecar.model.event import Event
    from sidecar.model.producers import Failures
    from sidecar.model.publish_reply import Answer
    from sidecar.services.scan_header import Scans
    from sidecar.telemetry.metrics import Metrics

    OnDone = Callable[[Result], None]


@dataclass
class Context:
    """What all attempts of a publisher share."""

    supervisor: StreamSupervisor
    metrics: Metrics
    failures: Failures
    scans: Scans
    copy_seconds: float
    doubts: dict[object, float] = field(default_factory=dict)
    """Attempts and atomic batches that may stand unseen, and since when (monotonic)."""
    no_batch_until: float = 0.0
    """Before then no atomic batch is tried, monotonic."""
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def run(self, work: Coroutine[Any, Any, Result], on_done: OnDone) -> None:
        """Do in a task what takes more than one reply."""

        async def go_on() -> None:
            result: Result
            try:
                result = await work
            except Problem as problem:
                result = problem
            except Exception as error:  # noqa: BLE001 - whoever asked needs an answer
                internal_error(error)
                result = Problem(errors.INTERNAL)
            on_done(result)

        task = asyncio.create_task(go_on())
        self.tasks.add(task)  # the loop keeps none
        task.add_done_callback(self.tasks.discard)


class PublishAttempt:
    """An event that is to become L + 1; its time is up at `ends_at` (monotonic).

    The first copy settles almost every event, without a task or a clock of its own.
    """

    __slots__ = (
        "_cause",
        "_context",
        "_ends_at",
        "_event",
        "_expected",
        "_in_doubt",
        "_jetstream_code",
        "_on_done",
        "_sent_at",
    )

    def __init__(
        self,
        context: Context,
        event: Event,
        expected: Expected,
        ends_at: float,
    ) -> None:
        self._context = context
        self._event = event
        self._expected = expected
        self._ends_at = ends_at
        self._sent_at = 0.0
        self._in_doubt = InDoubt.NO
        self._cause = errors.JETSTREAM_UNAVAILABLE  # why it is not stored
        self._jetstream_code: int | None = None

    # -- The first copy ----------------------------------------------------------------

    def send(self, on_done: OnDone) -> None:
        """Send one copy. `on_done` gets the outcome, perhaps before this returns.

        Where an atomic batch of it has left, look first: that is a copy, too.
        """
        self._on_done = on_done
        context, event, expected = self._context, self._event, self._expected
        if expected.in_doubt:
            self._sent_at = time.monotonic()
            self._set_doubt(expected.in_doubt)
            context.failures.record_wait(expected.key, self._sent_at)
            step = Inspect(expected.next, expected.in_doubt)
            context.run(self._resolve(step), on_done)
            return
        try:
            connection = context.supervisor.connection()
        except Problem as problem:
            on_done(problem)
            return
        self._sent_at = time.monotonic()
        if needs_scan(event):
            known = context.scans.known(event, expected.last, self._sent_at)
            if known is None:
                context.failures.record_wait(expected.key, self._sent_at)
                context.run(self._learn_and_send(), on_done)
                return
            self._event = event = known
        self._set_doubt(InDoubt.YES)
        on_reply = partial(self._on_reply, connection)
        connection.send(
            event, expected.key, expected.last, context.copy_seconds, on_reply
        )

    def _on_reply(self, connection: Connection, reply: Answer) -> None:
        step = self._follow(connection, reply)
        if isinstance(step, (Stored, Problem)):
            self._set_doubt(InDoubt.NO)
            self._on_done(step)
        else:
            self._context.failures.record_wait(self._expected.key, self._sent_at)
            self._context.run(self._resolve(step), self._on_done)

    def _follow(self, connection: Connection, reply: Answer) -> Step:
        """Say what follows from a reply; drop a connection that gave none."""
        if isinstance(reply, NoAnswer):
            self._context.supervisor.drop(connection)
        return decide(self._expected, reply)

    # -- What it leaves open -----------------------------------------------------------

    async def _learn_and_send(self) -> Result:
        """Learn what a copy must say of the scan, then send it."""
        try:
            async with asyncio.timeout(self._ends_at - time.monotonic()):
                step = await self._learn()
        except TimeoutError:
            return Problem(errors.JETSTREAM_UNAVAILABLE, Outcome.NOT_STORED)
        if step is None:
            step = await self._send_copy()
        if isinstance(step, (Stored, Problem)):
            self._set_doubt(InDoubt.NO)
            return step
        return await self._resolve(step)

    async def _resolve(self, step: Step) -> Result:
        """Find out what one copy left open, until the time is up."""
        result: Result
        try:
            async with asyncio.timeout(self._ends_at - time.monotonic()):
                result = await self._inspect_and_send(step)
        except TimeoutError:
            result = self._timed_out()
        except Problem as problem:
            result = problem
        finally:
            self._context.doubts.pop(self, None)
        outcome = result.outcome if isinstance(result, Problem) else Outcome.STORED
        self._context.metrics.resolved(outcome)
        return result

    async def _inspect_and_send(self, step: Step) -> Result:
        """Look, and send again, until the outcome is known."""
        while True:
            if isinstance(step, Inspect):
                step = await self._inspect(step)
            if isinstance(step, (Stored, Problem)):
                return step
            self._set_doubt(step.in_doubt)
            self._cause, self._jetstream_code = step.cause, step.jetstream_code
            await asyncio.sleep(step.pause_seconds)
            self._expected = self._expected._replace(in_doubt=step.in_doubt)
            learned = await self._learn() if needs_scan(self._event) else None
            step = await self._send_copy() if learned is None else learned

    async def _learn(self) -> Step | None:
        """Ask where the scan stands at L; give a step if no copy may leave."""
        event, expected = self._event, self._expected
        connection = await self._connection()
        try:
            learned = await self._context.scans.learn(event, expected.last)
        except Problem as problem:
            return Retry(expected.in_doubt, 0.25, problem.cause)
        if learned is not None:
            self._event = learned
            return None
        # The stream does not end at L: a copy would be refused, so look for whom.
        large = connection.too_large(event, expected.key, expected.last)
        if large is not None and not expected.in_doubt:
            return decide(expected, large)
        return Inspect(expected.next, expected.in_doubt)

    async def _send_copy(self) -> Step:
        """Send one copy; its reply is awaited for some seconds at most."""
        expected, seconds = self._expected, self._context.copy_seconds
        connection = await self._connection()
        self._set_doubt(InDoubt.YES)
        reply = await connection.publish(
            self._event, expected.key, expected.last, seconds
        )
        return self._follow(connection, reply)

    async def _inspect(self, step: Inspect) -> Result | Retry:
        """Ask the leader what the reply left open."""
        self._set_doubt(step.in_doubt)
        seen = await self._context.supervisor.leader.observe(step.sequence)
        next_step: Result | Retry
        if seen is None:
            next_step = Retry(step.in_doubt, 0.1, errors.JETSTREAM_UNAVAILABLE)
        else:
            expected = self._expected._replace(in_doubt=step.in_doubt)
            next_step = resolve(expected, step.sequence, seen)
        if isinstance(next_step, Retry) and step.otherwise is not None:
            return step.otherwise
        return next_step

    async def _connection(self) -> Connection:
        """Give a connection; raise Problem where there is none and no copy is out."""
        supervisor = self._context.supervisor
        return (
            await supervisor.wait()
            if self._expected.in_doubt
            else supervisor.connection()
        )

    # -- What is known when the time is up ---------------------------------------------

    def _set_doubt(self, in_doubt: InDoubt) -> None:
        """Record whether copies may stand unseen, and since when."""
        self._in_doubt = in_doubt
        if in_doubt:
            self._context.doubts.setdefault(self, time.monotonic())
        else:
            self._context.doubts.pop(self, None)

    def _timed_out(self) -> Problem:
        return timed_out(
            self._in_doubt,
            self._context.supervisor.monitor.cause,
            self._cause,
            self._jetstream_code,
        )
