# SPDX-License-Identifier: Apache-2.0
"""Keeps one connection to the stream alive, for ever, and knows how the stream is.

Whoever needs the stream asks for the current connection and gives it back with `drop`
when it left a doubt. Nothing here knows of requests or events.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from sidecar import errors
from sidecar.errors import Cause, Outcome, Problem
from sidecar.jetstream.api_replies import ApiError
from sidecar.jetstream.backoff import Backoff
from sidecar.jetstream.connection import Connection, Untold
from sidecar.jetstream.requests import NoReply
from sidecar.model import stream
from sidecar.model.evidence import SILENT, Said, Silent
from sidecar.model.last_offset import LONGEST_GAP_SECONDS, LastOffset
from sidecar.model.reply import Observation, Position
from sidecar.model.scan import INITSYNC, scan_at
from sidecar.telemetry.log import internal_error, log

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidecar.jetstream.credentials import NatsServer
    from sidecar.model.evidence import Asked
    from sidecar.model.reply import StoredMessage
    from sidecar.model.scan import Scan
    from sidecar.model.stream import StreamInfo, StreamPlan

ROUND_TRIP_SECONDS: Final = 1.0
"""How often the stream's leader is asked for its state."""

UNFIT_SECONDS: Final = 0.25
"""The same while the stream is missing or unfit, and somebody is mending it."""

READERS_WAIT_SECONDS: Final = 0.05
"""The same while readers wait for the next event: one question serves them all."""

_FIRST_PAUSE_SECONDS = 0.05
_LONGEST_PAUSE_SECONDS = 1.0
_SHORT_LIFE_SECONDS = 5.0
_LONGEST_OF_SHORT_SECONDS = 8.0
"""Between connections that a server takes and ends at once, as it may do for ever."""

_TOLD_SHORT_LIVES = 4
"""Of so many in a row beginning and end are told, then no more."""

_MOST_TOLD = 64


@contextmanager
def _as_problem() -> Iterator[None]:
    try:
        yield
    except NoReply as absence:
        raise Problem(_for_callers(absence.cause), Outcome.NOT_STORED) from None
    except ApiError:
        raise Problem(errors.JETSTREAM_UNAVAILABLE, Outcome.NOT_STORED) from None


def _for_callers(cause: Cause) -> Cause:
    """Give what they are told: to them odd answers are an outage that passes by."""
    return errors.JETSTREAM_UNAVAILABLE if cause is errors.INTERNAL else cause


class StreamSupervisor:
    """The stream, through whichever connection lives at the moment."""

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
        self._last_offset = last_offset or LastOffset()
        self._untold = Untold()
        self._fit: Connection | None = None
        self._became_fit = asyncio.Event()
        self._moved = asyncio.Condition()
        self._reader_came = asyncio.Event()
        self._waiting = 0
        self._led_at: float | None = None
        self._fit_at: float | None = None  # of this connection, by the loop's clock
        self._lost_at: float | None = None
        self._tries = Backoff(_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS)
        self._lives = Backoff(_FIRST_PAUSE_SECONDS, _LONGEST_OF_SHORT_SECONDS)
        self._short_lives = 0
        self._learning: asyncio.Task[None] | None = None
        self._told: set[tuple[str, ...]] = set()
        self._was_fit = False
        self.cause: Cause | None = errors.NATS_DOWN
        self.faults: list[str] = []
        self.info: StreamInfo | None = None
        self.round_trip_at: float | None = None
        self.connections_made = 0
        self.server_name = ""
        self.server_version = ""

    @property
    def server(self) -> str:
        """Name the server and its version, for people."""
        return f"{self.server_name} {self.server_version}".strip()

    # -- For those who need the stream -------------------------------------------------

    def connection(self) -> Connection:
        """Give the connection to a fit stream; raise Problem where there is none."""
        if self._fit is None:
            cause = self.cause or errors.NATS_DOWN
            raise Problem(_for_callers(cause), Outcome.NOT_STORED)
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
            self._report(connection.cause, [])

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

    async def stream_info(self) -> StreamInfo:
        """Ask the stream's leader for its state now; raise Problem."""
        with _as_problem():
            info, is_leaders = await self._ask(self.connection())
        if info is None:
            raise Problem(errors.STREAM_MISSING, Outcome.NOT_STORED)
        if not (is_leaders and info.has_majority):
            raise Problem(errors.JETSTREAM_UNAVAILABLE, Outcome.NOT_STORED)
        return info

    async def _ask(self, connection: Connection) -> tuple[StreamInfo | None, bool]:
        """Ask for the stream's state; tell, too, whether its leader gave it.

        Nothing may rest on what a follower says, or a leader of the past.
        """
        least = self._last_offset.least(time.monotonic())
        info = await connection.api.stream_info()
        if info is None:
            return None, False
        return info, self._last_offset.takes(info, least, time.monotonic())

    def proven(self, last: int) -> None:
        """Take what was stored or read: the stream does not end before it."""
        self._last_offset.proven(last, time.monotonic())

    def proven_last(self) -> int:
        """Give the last offset that was proven lately; 0 for none."""
        return self._last_offset.least(time.monotonic())

    def _seen(self, message: StoredMessage | None) -> StoredMessage | None:
        if message is not None:
            self.proven(message.sequence)
        return message

    async def message(self, sequence: int) -> StoredMessage | None:
        """Read one message from the stream's leader; raise Problem."""
        with _as_problem():
            return self._seen(await self.connection().api.message(sequence))

    async def last_of(self, category: str) -> StoredMessage | None:
        """Read the newest message of a category from the leader; raise Problem."""
        with _as_problem():
            return self._seen(await self.connection().api.last_of(category))

    async def scan_at(self, last: int) -> Scan | None:
        """Ask the leader where hermes-client's scan stands after `last`; raise Problem.

        None where the stream does not end there: then nothing can be stored after it.
        """
        newest = await self.last_of(INITSYNC)
        if newest is None or newest.sequence < last:
            # One answer proves what is there, never that nothing came after it.
            ends_there = (await self.position()).last == last
            if not ends_there or await self.last_of(INITSYNC) != newest:
                return None
            if not self.has_one_leader():
                raise Problem(errors.JETSTREAM_UNAVAILABLE, Outcome.NOT_STORED)
        elif newest.sequence > last:
            return None
        return scan_at(newest)

    async def next_of(self, category: str, sequence: int) -> StoredMessage | None:
        """Read a category's first message at or after a sequence; raise Problem."""
        with _as_problem():
            return self._seen(await self.connection().api.next_of(category, sequence))

    async def at_or_after(self, sequence: int) -> StoredMessage | None:
        """Read the first message at or after a sequence; raise Problem."""
        with _as_problem():
            return self._seen(await self.connection().api.at_or_after(sequence))

    async def first_since(self, time: str) -> StoredMessage | None:
        """Read the first message stored at or after a time; raise Problem."""
        with _as_problem():
            return self._seen(await self.connection().api.first_since(time))

    async def categories(self) -> dict[str, int]:
        """Count the events of each category; raise Problem."""
        with _as_problem():
            return await self.connection().api.categories()

    def recent_info(self) -> StreamInfo | None:
        """Give what the leader said in the last 2 seconds; None if it did not."""
        if self._led_at is None:
            return None
        age_seconds = time.monotonic() - self._led_at
        return self.info if age_seconds <= LONGEST_GAP_SECONDS else None

    async def position(self) -> Position:
        """Ask the stream's leader where the stream stands; raise Problem."""
        return (await self.stream_info()).position

    async def look(self, sequence: int) -> Observation | None:
        """Ask the leader what stands at a sequence; None if it does not say.

        The position is asked first, so that a message that has just been stored is
        never missed at its end. What stands after a hole proves it: whoever has stored
        that has stored all before it.
        """
        connection = await self.wait()
        message = None
        try:
            info, is_leaders = await self._ask(connection)
            if info is None or not (is_leaders and info.has_majority):
                return None
            if info.position.first <= sequence <= info.position.last:
                message = self._seen(await connection.api.at_or_after(sequence))
        except (NoReply, ApiError):
            return None
        return Observation(info.position, message, self.settled_last())

    async def said(self, asked: Asked) -> Said | Silent:
        """Ask the leader where the stream ends, then for the first of what is read."""
        with suppress(Problem):
            position = await self.position()
            if asked.category is not None:
                message = await self.next_of(asked.category, asked.start)
            elif position.first <= asked.start <= position.last:
                message = await self.at_or_after(asked.start)
            else:
                message = None
            return Said(position, message)
        return SILENT

    async def said_again(self, said: Said) -> Said | Silent:
        """Ask the leader again where the stream begins."""
        with suppress(Problem):
            return replace(said, first_again=(await self.position()).first)
        return SILENT

    def has_one_leader(self) -> bool:
        """Tell whether no old leader answers beside the new one, as far as we know."""
        if self.info is not None and self.info.replicas == 1:
            return True
        return self._last_offset.settled(time.monotonic()) is not None

    def settled_last(self) -> int | None:
        """Give the last offset that nothing lies beyond; see LastOffset.

        A mirror does not know it: what it lacks may be on its way.
        """
        if self.info is not None and self.info.is_mirror:
            return None
        return self._last_offset.settled(time.monotonic())

    async def wait_for(self, offset: int, timeout_seconds: float) -> None:
        """Wait until the stream holds the offset, as long as the timeout at most."""
        self._waiting += 1
        self._reader_came.set()
        try:
            async with asyncio.timeout(timeout_seconds), self._moved:
                await self._moved.wait_for(lambda: self._reaches(offset))
        except TimeoutError:
            pass
        finally:
            self._waiting -= 1
            if not self._waiting:
                self._reader_came.clear()

    def _reaches(self, offset: int) -> bool:
        return self.info is not None and self.info.position.last >= offset

    # -- The life of the connection ----------------------------------------------------

    async def run(self) -> None:
        """Connect, watch, and begin again, until cancelled."""
        while True:
            connection = Connection(self._plan, self._purpose, self._untold)
            self._fit_at = None
            try:
                await connection.open(self._server)
                self.connections_made += 1
                await self._watch(connection)
            except Problem as problem:
                self._report(problem.cause, problem.faults or connection.faults)
            except Exception as error:  # noqa: BLE001 - nothing from NATS ends us
                internal_error(error)
                self._report(errors.INTERNAL, [])
            finally:
                self._forget(connection)
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
        ends = {asyncio.create_task(connection.lost.wait())}
        seconds = READERS_WAIT_SECONDS
        if not self._waiting:
            seconds = ROUND_TRIP_SECONDS if self._fit else UNFIT_SECONDS
            ends.add(asyncio.create_task(self._reader_came.wait()))
        await asyncio.wait(ends, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for end in ends:
            end.cancel()

    async def _check(self, connection: Connection) -> None:
        self.server_name = connection.server_name
        self.server_version = connection.server_version
        faults = stream.server_unfitness(connection.server_version)
        if faults:
            self._report(errors.SERVER_TOO_OLD, faults)
            return
        info, is_leaders = await self._ask(connection)
        if info is None and self._create:
            await self._create_stream(connection)
            info, is_leaders = await self._ask(connection)
        self.round_trip_at = time.monotonic()
        if info is None:
            self._report(errors.STREAM_MISSING, [])
            return
        if not is_leaders:
            self._led_at = None
            if self.info is not None and not info.has_leader:
                self.info = replace(self.info, leader=None)
            if self._fit is not connection:
                self._report(errors.JETSTREAM_UNAVAILABLE, [])
            return
        await self._note(info)
        faults = stream.unfitness(
            self._plan, info.config, connection.server_version, writes=self._writes
        )
        if faults:
            self._report(errors.STREAM_UNFIT, faults)
            return
        connection.stream_limit_bytes = info.config.get("max_msg_size", -1)
        connection.is_replicated = info.replicas > 1
        if not connection.lost.is_set():
            self._fit = connection
            if self._fit_at is None:
                self._fit_at = asyncio.get_running_loop().time()
            self._tries.reset()
            self._became_fit.set()
            self._report(None, [])

    async def _note(self, info: StreamInfo) -> None:
        has_moved = self.info is None or self.info.position != info.position
        self.info = info
        self._led_at = time.monotonic() if info.has_majority else None
        if has_moved:  # waking a hundred readers for nothing costs more than asking
            async with self._moved:
                self._moved.notify_all()

    async def _create_stream(self, connection: Connection) -> None:
        last_seen = self.info.position.last if self.info else None
        first = stream.first_offset(time.time(), last_seen)
        await connection.api.create_stream(first)
        log.info("stream_created", stream=self._plan.name, first_offset=first)

    def _forget(self, connection: Connection) -> None:
        if self._fit is connection:
            self._fit = None
            self._became_fit.clear()

    def _report(self, cause: Cause | None, faults: list[str]) -> None:
        """Keep how the stream is, and log a line when that changes."""
        changed = (cause, faults) != (self.cause, self.faults)
        self.cause, self.faults = cause, faults
        if cause is not None:
            self._fit = None
            self._became_fit.clear()
            if self._lost_at is None:
                self._lost_at = time.monotonic()
                self._told.clear()
                changed = True
            if changed and self._is_worth_a_line(cause, faults):
                log.warning(
                    cause.code,
                    purpose=self._purpose,
                    reason=cause.title,
                    remedy=cause.remedy,
                    faults=faults,
                )
        elif changed:
            lost_at, self._lost_at = self._lost_at, None
            if self._short_lives < _TOLD_SHORT_LIVES:
                log.info(
                    "nats_reconnected" if self._was_fit else "nats_connected",
                    purpose=self._purpose,
                    server=self.server_name,
                    server_version=self.server_version,
                    stream=self._plan.name,
                    after_seconds=round(time.monotonic() - lost_at, 1)
                    if lost_at
                    else 0,
                )
            self._was_fit = True

    def _is_worth_a_line(self, cause: Cause, faults: list[str]) -> bool:
        """Tell whether this was not said yet since events flowed last."""
        told = (cause.code, *faults)
        if told in self._told or self._short_lives >= _TOLD_SHORT_LIVES:
            return False
        if len(self._told) >= _MOST_TOLD:
            self._told.clear()
        self._told.add(told)
        return True


def _end_if_cancelled() -> None:
    """Raise CancelledError if somebody cancelled us while nats-py connected or closed.

    It may swallow that, and a task is cancelled only once: we would go on for ever.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
