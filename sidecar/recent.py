# SPDX-License-Identifier: Apache-2.0
"""What the status page shows of the events: metadata of the last, and how many came.

Read from the stream when somebody looks, so it is right after a restart too; what was
read is kept, so that a page that is looked at all day costs a few reads each time.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from sidecar.initsync import rfc3339

if TYPE_CHECKING:
    from sidecar.bus import Bus
    from sidecar.stream import StreamInfo

EVENTS: Final = 50
MINUTES: Final = 60

_MINUTE_SECONDS = 60
_AT_ONCE = 8


@dataclass(frozen=True)
class Row:
    """One stored event without what it says: nothing here is of its payload."""

    offset: int
    time: str
    category: str
    type: str | None
    object_type: str | None
    size_bytes: int


class Recent:
    """Reads the newest events' metadata from the leader and keeps it."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._created = ""
        self._newest: Row | None = None  # by which the others are vouched for
        self._rows: dict[int, Row] = {}
        self._firsts: dict[int, int] = {}

    async def rows(self, info: StreamInfo) -> list[Row]:
        """Give the newest events, the newest first; raise Problem."""
        await self._forget_another(info)
        first = max(info.position.first, info.position.last - EVENTS + 1)
        offsets = range(first, info.position.last + 1)
        missing = [offset for offset in offsets if offset not in self._rows]
        read = await asyncio.gather(*map(self._row, missing))
        known = self._rows | {row.offset: row for row in read if row is not None}
        self._rows = {at: known[at] for at in offsets if at in known}
        self._newest = next(reversed(self._rows.values()), None)
        return list(reversed(self._rows.values()))

    async def per_minute(self, info: StreamInfo, now: float) -> list[int]:
        """Count the events of each minute of the last hour; raise Problem."""
        await self._forget_another(info)
        this = int(now) // _MINUTE_SECONDS
        minutes = range(this - MINUTES + 1, this + 1)
        missing = [minute for minute in minutes if minute not in self._firsts]
        read = await asyncio.gather(*map(self._first_of, missing))
        found = {m: at for m, at in zip(missing, read, strict=True) if at is not None}
        known = self._firsts | found
        self._firsts = {minute: known[minute] for minute in minutes if minute in known}
        end = info.position.last + 1
        borders = [*(self._firsts.get(minute, end) for minute in minutes), end]
        return [max(0, later - earlier) for earlier, later in pairwise(borders)]

    async def _forget_another(self, info: StreamInfo) -> None:
        """Keep nothing of a stream that was made anew, or restored.

        A restored one differs from some offset on: so where the newest event that is
        known still stands, all before it do.
        """
        newest = self._newest
        if (
            info.created != self._created
            or newest is None
            or newest.offset > info.position.last
            or await self._row(newest.offset) != newest
        ):
            self._created = info.created
            self._newest = None
            self._rows, self._firsts = {}, {}

    async def _row(self, offset: int) -> Row | None:
        async with self._slots:
            message = await self._bus.message(offset)
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
        async with self._slots:
            time = rfc3339(minute * _MINUTE_SECONDS)
            message = await self._bus.first_since(time)
        return message.sequence if message else None
