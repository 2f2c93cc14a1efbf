# SPDX-License-Identifier: Apache-2.0
"""Keeps one connection to the stream alive, for ever.

Whoever needs the stream asks for the current connection and gives it back with `drop`
when it left a doubt. Nothing here knows of requests or events.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from sidecar import errors
from sidecar.errors import Outcome, Problem
from sidecar.jetstream.api_replies import ApiError
from sidecar.jetstream.backoff import Backoff
from sidecar.jetstream.connection import Connection, Untold
from sidecar.jetstream.leader import StreamLeader, for_callers
from sidecar.jetstream.monitor import StreamMonitor
from sidecar.jetstream.requests import NoReply
from sidecar.model import stream
from sidecar.telemetry.log import internal_error, log

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidecar.errors import Cause
    from sidecar.jetstream.credentials import NatsServer
    from sidecar.jetstream.service import Service
    from sidecar.model.last_offset import LastOffset
    from sidecar.model.stream import StreamPlan

ROUND_TRIP_SECONDS: Final = 1.0
"""How often the stream's leader is asked for its state."""

UNFIT_SECONDS: Final = 0.25
"""The same while the stream is missing or unfit, and somebody is mending it."""

READERS_WAIT_SECONDS: Final = 0.05
"""The same while readers wait for the next event and nobody tells that there is one:
one question serves them all."""

TELL_SECONDS: Final = 0.01
"""How long lies at least between two times that readers are told."""

_LEAST_ROUND_SECONDS = 0.005
"""Between two questions, however often somebody tells."""

_FIRST_PAUSE_SECONDS = 0.05
_LONGEST_PAUSE_SECONDS = 1.0
_SHORT_LIFE_SECONDS = 5.0
_LONGEST_OF_SHORT_SECONDS = 8.0
"""Between connections that a server takes and ends at once, as it may do for ever."""

_LOGGED_SHORT_LIVES = 4
"""Of so many in a row beginning and end are logged, then no more."""


class StreamSupervisor:
    """The life of the connection to the stream, and what it takes to use it.

    `monitor` knows how the stream is, `leader` asks it.
    """

    def __init__(
        self,
        purpose: str,
        server: NatsServer,
        plan: StreamPlan,
        *,
        create: bool = False,
        last_offset: LastOffset | None = None,
    ) -> None:
        self._purpose = purpose
        self._server = server
        self._plan = plan
        self._create = create
        self._writes = purpose != "reads"  # who only reads needs less of the stream
        self._untold = Untold()
        self._fit: Connection | None = None
        self._became_fit = asyncio.Event()
        self._fit_at: float | None = None  # of this connection, by the loop's clock
        self._tries = Backoff(_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS)
        self._lives = Backoff(_FIRST_PAUSE_SECONDS, _LONGEST_OF_SHORT_SECONDS)
        self._short_lives = 0
        self._learning: asyncio.Task[None] | None = None
        self._told_at = 0.0  # by the loop's clock
        self._telling: asyncio.TimerHandle | None = None
        self.monitor = StreamMonitor(purpose, plan.name, last_offset)
        self.leader = StreamLeader(self.monitor, self.connection, self.wait)
        self.service: Service | None = None
        self.is_created_elsewhere = False
        """Whether a missing stream is another supervisor's to create."""
        self.connections_made = 0

    # -- For those who need the stream -------------------------------------------------

    def connection(self) -> Connection:
        """Give the connection to a fit stream; raise Problem where there is none."""
        if self._fit is None:
            cause = self.monitor.cause or errors.NATS_DOWN
            raise Problem(for_callers(cause), Outcome.NOT_STORED)
        return self._fit

    async def wait(self) -> Connection:
        """Wait for a connection to a fit stream."""
        while self._fit is None:
            await self._became_fit.wait()
        return self._fit

    def drop(self, connection: Connection) -> None:
        """Throw a connection away: something it carried has no definite answer."""
        connection.cause = errors.JETSTREAM_UNAVAILABLE
        connection.lost.set()
        if self._fit is connection:
            self._lose(connection.cause)

    def tell_stored(self) -> None:
        """Tell readers that something was stored: at once, or once for many."""
        if self._telling is None:
            loop = asyncio.get_running_loop()
            tells_at = self._told_at + TELL_SECONDS
            if loop.time() >= tells_at:
                self._tell()
            else:
                self._telling = loop.call_at(tells_at, self._tell)

    def _tell(self) -> None:
        self._telling = None
        self._told_at = asyncio.get_running_loop().time()
        if self._fit is not None:
            self._fit.tell_stored()

    def learn_limit(self) -> None:
        """Ask for the server's limit where an event is over one that may be old."""
        connection = self._fit
        if connection is not None and connection.is_limit_old:
            self._learning = asyncio.create_task(self._learn_limit(connection))

    async def _learn_limit(self, connection: Connection) -> None:
        """Make another connection, for a server tells a changed limit to no other."""
        connection.limit_asked()
        another = Connection(self._plan, self._purpose)
        try:
            await another.open(replace(self._server, urls=(connection.url,)))
            self.connections_made += 1
            await another.api.stream_info()  # that of a user comes after the login
            connection.take_limit(another)
        except (Problem, NoReply, ApiError):
            pass  # the next event that is too large asks again
        except Exception as error:  # noqa: BLE001 - nothing from NATS ends us
            internal_error(error)
        finally:
            await another.close()

    # -- The life of the connection ----------------------------------------------------

    async def run(self) -> None:
        """Connect, watch, and begin again, until cancelled."""
        while True:
            connection = Connection(
                self._plan, self._purpose, self._untold, self.service
            )
            connection.on_stored = self.monitor.hear_stored
            self._fit_at = None
            try:
                await connection.open(self._server)
                self.connections_made += 1
                await self._watch(connection)
            except Problem as problem:
                self._lose(problem.cause, problem.faults or connection.faults)
            except Exception as error:  # noqa: BLE001 - nothing from NATS ends us
                internal_error(error)
                self._lose(errors.INTERNAL)
            finally:
                self._forget()
                await connection.close()
            _end_if_cancelled()
            await asyncio.sleep(self._pause_after())

    def _pause_after(self) -> float:
        """Say how long to wait after a connection that ended, or that was not made."""
        if self._fit_at is None:
            return self._tries.next_seconds()
        if asyncio.get_running_loop().time() - self._fit_at > _SHORT_LIFE_SECONDS:
            self._lives.reset()
            self._short_lives = 0
        self._short_lives += 1
        self.monitor.is_flapping = self._short_lives >= _LOGGED_SHORT_LIVES
        return self._lives.next_seconds()

    async def _watch(self, connection: Connection) -> None:
        """Ask for the stream's state again and again; raise Problem at the end."""
        while not connection.lost.is_set():
            try:
                await self._check(connection)
            except NoReply as absence:
                raise Problem(absence.cause) from None
            except ApiError as error:
                log.warning("jetstream_error", jetstream_code=error.code)
                raise Problem(errors.JETSTREAM_UNAVAILABLE) from None
            await self._pause(connection)
        raise Problem(connection.cause)

    async def _pause(self, connection: Connection) -> None:
        """Wait until the stream is to be asked again, or the connection is lost."""
        monitor = self.monitor
        seconds = ROUND_TRIP_SECONDS if self._fit else UNFIT_SECONDS
        if not monitor.reader_waits.is_set():
            await _first_of(seconds, connection.lost, monitor.reader_waits)
            return
        await _first_of(monitor.pause_seconds(_LEAST_ROUND_SECONDS), connection.lost)
        if monitor.is_urgent():
            seconds = READERS_WAIT_SECONDS
        await _first_of(seconds, connection.lost, monitor.stored)

    async def _check(self, connection: Connection) -> None:
        """Ask for the stream's state; hand the connection out if the stream is fit."""
        monitor = self.monitor
        monitor.begin_round()
        monitor.server_name = connection.server_name
        monitor.server_version = connection.server_version
        monitor.server_url = connection.url
        faults = stream.server_unfitness(connection.server_version)
        if faults:
            self._lose(errors.SERVER_TOO_OLD, faults)
            return
        info, is_leaders = await self.leader.ask(connection)
        if info is None and self._create:
            await self._create_stream(connection)
            info, is_leaders = await self.leader.ask(connection)
        monitor.round_trip_at = time.monotonic()
        if info is None:
            # At a first start another connection creates it in this moment.
            if monitor.info is not None or not self.is_created_elsewhere:
                self._lose(errors.STREAM_MISSING)
            return
        if not is_leaders:
            monitor.note_follower(info)
            if self._fit is not connection:
                self._lose(errors.JETSTREAM_UNAVAILABLE)
            return
        await monitor.note(info)
        faults = stream.unfitness(
            self._plan, info.config, connection.server_version, writes=self._writes
        )
        if faults:
            self._lose(errors.STREAM_UNFIT, faults)
            return
        connection.stream_limit_bytes = info.config.get("max_msg_size", -1)
        connection.is_replicated = info.replicas > 1
        connection.allows_atomic = info.config.get("allow_atomic") is True
        if not connection.lost.is_set():
            self._hand_out(connection)

    async def _create_stream(self, connection: Connection) -> None:
        info = self.monitor.info
        first = stream.first_offset(time.time(), info.position.last if info else None)
        await connection.api.create_stream(first, connection.server_version)
        log.info("stream_created", stream=self._plan.name, first_offset=first)

    def _hand_out(self, connection: Connection) -> None:
        self._fit = connection
        if self._fit_at is None:
            self._fit_at = asyncio.get_running_loop().time()
        self._tries.reset()
        self._became_fit.set()
        self.monitor.report(None, [])

    def _lose(self, cause: Cause, faults: Sequence[str] = ()) -> None:
        """Hand no connection out any more, and say why."""
        self._forget()
        self.monitor.report(cause, list(faults))

    def _forget(self) -> None:
        self._fit = None
        self._became_fit.clear()


def _end_if_cancelled() -> None:
    """Raise CancelledError if somebody cancelled us while nats-py connected or closed.

    It may swallow that, and a task is cancelled only once: we would go on for ever.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


async def _first_of(timeout_seconds: float, *events: asyncio.Event) -> None:
    """Wait for one of the events, as long as the timeout at most."""
    waits = [asyncio.create_task(event.wait()) for event in events]
    await asyncio.wait(
        waits, timeout=timeout_seconds, return_when=asyncio.FIRST_COMPLETED
    )
    for wait in waits:
        wait.cancel()
