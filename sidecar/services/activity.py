# SPDX-License-Identifier: Apache-2.0
"""What the status page shows of the events: metadata of the last, and how many came.

Read from the stream when somebody looks, so it is right after a restart too. Anybody
may look, without a token: so there is one reading for all callers, at most one a
second, and bounded in bytes, since NATS gives whole events. What was read is kept;
where events are large the page fills in the course of some readings, the newest first.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from sidecar.errors import Problem
from sidecar.model.initsync import rfc3339

if TYPE_CHECKING:
    from sidecar.jetstream.leader import StreamLeader
    from sidecar.model.publish_reply import StoredMessage
    from sidecar.model.stream import StreamInfo

EVENTS: Final = 50
MINUTES: Final = 60

PAUSE_SECONDS: Final = 1.0
"""From one reading to the next: who asks meanwhile waits for that and shares it."""

_PART = 20
"""Of the time one part in so many is spent on reading, however large the events are."""

WAIT_SECONDS: Final = 3.0
"""How long a caller waits for it before it does without."""

MOST_BYTES: Final = 512 * 1024
"""What one reading takes from the stream, passed by one event at most. The newest that
is known is read besides, to know whether it still stands."""

_MINUTE_SECONDS = 60


@dataclass(frozen=True)
class Row:
    """One stored event without what it says: nothing here is of its payload."""

    offset: int
    time: str
    category: str
    type: str | None
    object_type: str | None
    size_bytes: int


@dataclass(frozen=True)
class Glance:
    """What one reading found."""

    info: StreamInfo
    minutes: list[int]
    rows: list[Row]


class Recent:
    """Reads the newest events' metadata from the leader and keeps it."""

    def __init__(self, leader: StreamLeader) -> None:
        self._leader = leader
        self._reading: asyncio.Task[None] | None = None
        self._next_at = 0.0
        self._glance: Glance | None = None
        self._left_bytes = 0
        self._created = ""
        self._rows: dict[int, Row] = {}
        self._firsts: dict[int, int] = {}

    async def glance(self) -> Glance | None:
        """Give what one reading finds for all who ask; None where it finds nothing."""
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read())
        await asyncio.wait({self._reading}, timeout=WAIT_SECONDS)
        return self._glance

    @property
    def newest(self) -> Row | None:
        """The newest event that was read; it may be old, or gone."""
        return self._rows.get(max(self._rows, default=0))

    async def _read(self) -> None:
        await asyncio.sleep(self._next_at - time.monotonic())
        started_at = time.monotonic()
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                info = await self._leader.stream_info()
                rows = await self.rows(info)
                minutes = await self.per_minute(info, time.time())
                self._glance = Glance(info, minutes, rows)
        except (Problem, TimeoutError):
            self._glance = None
        took_seconds = time.monotonic() - started_at
        self._next_at = started_at + max(PAUSE_SECONDS, _PART * took_seconds)

    def _count(self, message: StoredMessage | None) -> StoredMessage | None:
        if message is not None:
            self._left_bytes -= len(message.body)
        return message

    async def rows(self, info: StreamInfo) -> list[Row]:
        """Give the newest events, the newest first; raise Problem."""
        await self._forget_another(info)
        self._left_bytes = MOST_BYTES
        first = max(info.position.first, info.position.last - EVENTS + 1)
        offsets = range(first, info.position.last + 1)
        known = dict(self._rows)
        for offset in reversed(offsets):
            if offset in known:
                continue
            if self._left_bytes <= 0:
                break
            row = await self._row(offset)
            if row is not None:
                known[offset] = self._rows[offset] = row
        self._rows = {at: known[at] for at in offsets if at in known}
        return list(reversed(self._rows.values()))

    async def per_minute(self, info: StreamInfo, now: float) -> list[int]:
        """Count the events of each minute of the last hour, after rows()."""
        this = int(now) // _MINUTE_SECONDS
        minutes = range(this - MINUTES + 1, this + 1)
        known = {
            minute: self._firsts[minute] for minute in minutes if minute in self._firsts
        }
        borders = [info.position.last + 1]
        for minute in reversed(minutes):
            if minute not in known and self._left_bytes > 0:
                first = await self._first_of(minute)
                if first is not None:
                    known[minute] = first
            borders.insert(0, known.get(minute, borders[0]))
            self._firsts = known
        return [max(0, later - earlier) for earlier, later in pairwise(borders)]

    async def _forget_another(self, info: StreamInfo) -> None:
        """Keep nothing of a stream that was made anew, or restored.

        A restored one differs from some offset on: so where the newest event that is
        known still stands, all before it do.
        """
        newest = self.newest
        if (
            info.created != self._created
            or newest is None
            or newest.offset > info.position.last
            or await self._row(newest.offset) != newest
        ):
            self._created = info.created
            self._rows, self._firsts = {}, {}

    async def _row(self, offset: int) -> Row | None:
        message = self._count(await self._leader.message(offset))
        if message is None:
            return None
        return Row(
            offset=message.sequence,
            time=message.time,
            category=message.category,
            type=message.type,
            object_type=message.object_type,
            size_bytes=len(message.body),
        )

    async def _first_of(self, minute: int) -> int | None:
        """Find the first event at or after the start of a minute since 1970."""
        since = rfc3339(minute * _MINUTE_SECONDS)
        message = self._count(await self._leader.first_since(since))
        return message.sequence if message else None
