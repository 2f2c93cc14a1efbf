# SPDX-License-Identifier: Apache-2.0
"""The questions to the stream's leader, through whichever connection lives.

What decides is asked here alone. A follower may answer, or a leader of the past: each
answer is told from the leader's by what is proven (`monitor`).
"""

from __future__ import annotations

from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from sidecar import errors
from sidecar.errors import Cause, Outcome, Problem
from sidecar.jetstream.api_replies import ApiError
from sidecar.jetstream.requests import NoReply
from sidecar.model.evidence import SILENT, Said, Silent
from sidecar.model.publish_reply import Observation, Position
from sidecar.model.scan import INITSYNC, scan_at

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from sidecar.jetstream.connection import Connection
    from sidecar.jetstream.monitor import StreamMonitor
    from sidecar.model.evidence import Asked
    from sidecar.model.publish_reply import StoredMessage
    from sidecar.model.scan import Scan
    from sidecar.model.stream import StreamInfo


def for_callers(cause: Cause) -> Cause:
    """Give what they are told: to them odd answers are an outage that passes by."""
    return errors.JETSTREAM_UNAVAILABLE if cause is errors.INTERNAL else cause


@contextmanager
def _as_problem() -> Iterator[None]:
    try:
        yield
    except NoReply as absence:
        raise Problem(for_callers(absence.cause), Outcome.NOT_STORED) from None
    except ApiError:
        raise Problem(errors.JETSTREAM_UNAVAILABLE, Outcome.NOT_STORED) from None


class StreamLeader:
    """Asks the stream's leader; `connection` and `wait` are the supervisor's."""

    def __init__(
        self,
        monitor: StreamMonitor,
        connection: Callable[[], Connection],
        wait: Callable[[], Awaitable[Connection]],
    ) -> None:
        self._monitor = monitor
        self._connection = connection
        self._wait = wait

    # -- Where the stream stands -------------------------------------------------------

    async def ask(
        self, connection: Connection, *, with_deleted: bool = False
    ) -> tuple[StreamInfo | None, bool]:
        """Ask for the stream's state; tell, too, whether its leader gave it.

        Nothing may rest on what a follower says, or a leader of the past.
        """
        least = self._monitor.proven_last()
        info = await connection.api.stream_info(with_deleted=with_deleted)
        if info is None:
            return None, False
        return info, self._monitor.takes(info, least)

    async def stream_info(self, *, with_deleted: bool = False) -> StreamInfo:
        """Ask for the stream's state now; raise Problem."""
        with _as_problem():
            info, is_leaders = await self.ask(
                self._connection(), with_deleted=with_deleted
            )
        if info is None:
            raise Problem(errors.STREAM_MISSING, Outcome.NOT_STORED)
        if not (is_leaders and info.has_majority):
            raise Problem(errors.JETSTREAM_UNAVAILABLE, Outcome.NOT_STORED)
        return info

    async def position(self) -> Position:
        """Ask where the stream stands; raise Problem."""
        return (await self.stream_info()).position

    async def is_deleted(self, sequence: int) -> bool:
        """Tell whether a person has deleted this message; raise Problem."""
        return sequence in (await self.stream_info(with_deleted=True)).deleted

    async def categories(self) -> dict[str, int]:
        """Count the events of each category; raise Problem."""
        with _as_problem():
            return await self._connection().api.categories()

    # -- One message -------------------------------------------------------------------

    def _seen(self, message: StoredMessage | None) -> StoredMessage | None:
        if message is not None:
            self._monitor.proven(message.sequence)
        return message

    async def message(self, sequence: int) -> StoredMessage | None:
        """Read one message; raise Problem."""
        with _as_problem():
            return self._seen(await self._connection().api.message(sequence))

    async def last_of(self, category: str) -> StoredMessage | None:
        """Read the newest message of a category; raise Problem."""
        with _as_problem():
            return self._seen(await self._connection().api.last_of(category))

    async def next_of(self, category: str, sequence: int) -> StoredMessage | None:
        """Read a category's first message at or after a sequence; raise Problem."""
        with _as_problem():
            return self._seen(await self._connection().api.next_of(category, sequence))

    async def at_or_after(self, sequence: int) -> StoredMessage | None:
        """Read the first message at or after a sequence; raise Problem."""
        with _as_problem():
            return self._seen(await self._connection().api.at_or_after(sequence))

    async def first_since(self, time: str) -> StoredMessage | None:
        """Read the first message stored at or after a time; raise Problem."""
        with _as_problem():
            return self._seen(await self._connection().api.first_since(time))

    # -- What more than one answer says ------------------------------------------------

    async def observe(self, sequence: int) -> Observation | None:
        """Ask what stands at a sequence; None if the leader does not say.

        The position is asked first, so that a message that has just been stored is
        never missed at its end. What stands after a hole proves it: whoever has stored
        that has stored all before it.
        """
        connection = await self._wait()
        message = None
        try:
            info, is_leaders = await self.ask(connection)
            if info is None or not (is_leaders and info.has_majority):
                return None
            if info.position.first <= sequence <= info.position.last:
                message = self._seen(await connection.api.at_or_after(sequence))
        except (NoReply, ApiError):
            return None
        return Observation(info.position, message, self._monitor.settled_last())

    async def scan_at(self, last: int) -> Scan | None:
        """Ask where hermes-client's scan stands after `last`; raise Problem.

        None where the stream does not end there: then nothing can be stored after it.
        """
        newest = await self.last_of(INITSYNC)
        if newest is None or newest.sequence < last:
            # One answer proves what is there, never that nothing came after it.
            ends_there = (await self.position()).last == last
            if not ends_there or await self.last_of(INITSYNC) != newest:
                return None
            if not self._monitor.has_one_leader():
                raise Problem(errors.JETSTREAM_UNAVAILABLE, Outcome.NOT_STORED)
        elif newest.sequence > last:
            return None
        return scan_at(newest)

    async def said(self, asked: Asked) -> Said | Silent:
        """Ask where the stream ends, then for the first of what is read."""
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
        """Ask again where the stream begins."""
        with suppress(Problem):
            return replace(said, first_again=(await self.position()).first)
        return SILENT
