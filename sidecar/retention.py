# SPDX-License-Identifier: Apache-2.0
"""The retention guard: finds the last complete initsync and tells before it ages out.

The stream may hold millions of events, an initsync hundreds of thousands, and nothing
lists their types: so the ends of an initsync are found by a few hundred single reads of
headers (docs/adr/0008-retention-guard.md). All of them are STREAM.MSG.GET, which every
role may ask, and which the stream's leader answers.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from sidecar import errors
from sidecar.errors import Problem
from sidecar.initsync import (
    INITSYNC,
    REMEDY,
    Initsync,
    Mark,
    first_stop,
    gaps,
    is_held,
    latest_complete,
    mark,
    max_age_seconds,
    spread,
    warning_seconds,
)
from sidecar.log import log

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sidecar.answer import Position
    from sidecar.bus import Bus

LOOK_SECONDS: Final = 1.0
"""How often it is looked whether the stream moved."""

KNOWN_SECONDS: Final = 3.0
"""How long an answer about the stream waits for a search that is still under way."""

SCANNED_EVENTS: Final = 256
"""How many events are read one by one before their order is guessed and tested."""

_SAMPLES = 64
_STRETCHES = 16
_AT_ONCE = 32


class RetentionGuard:
    """Knows the last complete initsync of the stream; never asked by a publish."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._search = Search(bus)
        self._looking = asyncio.Lock()
        self._seen: Position | None = None
        self._looked_at: object = None
        self._told: tuple[Initsync | None, bool] | None = None
        self.initsync: Initsync | None = None

    @property
    def has_looked(self) -> bool:
        """Tell whether the stream was ever searched: before that nobody knows."""
        return self._seen is not None

    async def run(self) -> None:
        """Look again whenever the stream moved, until cancelled."""
        while True:
            info = self._bus.info
            if self._bus.cause is None and info is not None:
                # A restored stream may stand where the one before it stood.
                state = (info.created, info.position, info.size_bytes)
                at = (*state, self._bus.connections_made)
                try:
                    if at != self._looked_at:
                        await self.look(await self._bus.position(), is_other=True)
                        self._looked_at = at
                    self._tell(max_age_seconds(info.config))
                except Problem:
                    pass  # the bus tells of it; the next round looks again
                except Exception as error:  # noqa: BLE001 - events flow without a guard
                    log.error("internal_error", error=type(error).__name__, where="")
            await asyncio.sleep(LOOK_SECONDS)

    async def look(
        self, position: Position, *, is_other: bool = False
    ) -> Initsync | None:
        """Find the last complete initsync of a stream that stands there."""
        async with self._looking:
            known = self.initsync
            if known is not None and not await self._stands(known, position):
                known, is_other = None, True
            if is_other or position != self._seen:
                self.initsync = await self._search.run(position, known)
                self._seen = position
            return self.initsync

    async def _stands(self, known: Initsync, position: Position) -> bool:
        """Read its ends again: a stream that was restored holds others there."""
        if not is_held(known, position):
            return False
        ends = (known.start, known.stop)
        found = [await self._bus.message(end.offset) for end in ends]
        return [message and mark(message) for message in found] == list(ends)

    async def known(self, position: Position) -> Initsync | None:
        """Look, but not for long: who asks where the stream stands must not wait."""
        with suppress(Problem, TimeoutError):
            async with asyncio.timeout(KNOWN_SECONDS):
                await self.look(position)
        initsync = self.initsync
        return initsync if initsync and is_held(initsync, position) else None

    def _tell(self, age_seconds: float) -> None:
        """Log a line when there is another one, and one before it goes."""
        initsync = self.initsync
        stays = None
        if initsync is not None:
            stays = initsync.stays_seconds(age_seconds, time.time())
        is_ending = stays is not None and stays <= warning_seconds(age_seconds)
        if (initsync, is_ending) == self._told:
            return
        self._told = initsync, is_ending
        if initsync is None:
            log.warning("initsync_missing", remedy=REMEDY)
            return
        members = initsync.document(age_seconds)
        if is_ending:
            log.warning("initsync_expiring", remedy=REMEDY, **members)
        else:
            log.info("initsync_complete", **members)


class Search:
    """Looks for the last complete initsync by single reads from the leader."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def run(self, position: Position, known: Initsync | None) -> Initsync | None:
        """Find the last complete initsync, of which an earlier one may be known."""
        newest = await self._last()
        if newest is None:
            return None
        if known is not None and (newest == known.stop or not newest.is_stop):
            return known  # nothing new, or one under way: it is none until it ends
        low = position.first if known is None else known.stop.offset + 1
        return await self._find(low, newest) or known

    async def _find(self, low: int, newest: Mark) -> Initsync | None:
        """Go back from the newest event, a stretch of initsync events at a time."""
        end: Mark | None = newest
        for _ in range(_STRETCHES):
            if end is None or end.offset < low:
                return None
            scanned_from = max(low, end.offset - SCANNED_EVENTS + 1)
            marks = await self._marks(range(scanned_from, end.offset + 1))
            found = latest_complete(marks)
            if found is not None or scanned_from == low:
                return found
            stop = first_stop(marks)
            end = stop or end
            border = await self._border(low, end.offset)
            first = await self._next(INITSYNC, border + 1)
            if stop is not None and not first.is_start:
                # Other events stand inside it: it may be the only one since `low`.
                first = await self._next(INITSYNC, low)
            start = await self._latest_start(first, end)
            if stop is not None and start.is_start:
                whole = start.offset > border
                objects = stop.offset - start.offset - 1 if whole else None
                return Initsync(start, stop, objects)
            end = await self._last_before(INITSYNC, start.offset, low)
        return None

    async def _border(self, low: int, offset: int) -> int:
        """Find the last event of another category before an offset."""
        border = low - 1
        for category in await self._bus.categories():
            if category != INITSYNC:
                before = await self._last_before(category, offset, low)
                border = max(border, before.offset if before else border)
        return border

    async def _last_before(self, category: str, offset: int, low: int) -> Mark | None:
        """Find a category's last event in [low, offset), by bisection."""
        found: Mark | None = None
        beyond = offset
        while low < beyond:
            middle = (low + beyond) // 2 if found else low
            message = await self._bus.next_of(category, middle)
            if message is not None and message.sequence < offset:
                found = mark(message)
                low = found.offset + 1
            elif found is None:
                return None
            else:
                beyond = middle
        return found

    async def _latest_start(self, first: Mark, end: Mark) -> Mark:
        """Find the last start from `first` to `end` that comes after a pause."""
        offsets = spread(first.offset, end.offset, _SAMPLES)
        for earlier, later in gaps(await self._marks(offsets)):
            left, right = earlier, later
            while right.offset - left.offset > 1:
                message = await self._bus.message((left.offset + right.offset) // 2)
                if message is None:
                    break
                middle = mark(message)
                if right.time - middle.time > middle.time - left.time:
                    left = middle
                else:
                    right = middle
            if right.is_start:
                return right
        return first

    async def _last(self) -> Mark | None:
        message = await self._bus.last_of(INITSYNC)
        return mark(message) if message else None

    async def _next(self, category: str, offset: int) -> Mark:
        message = await self._bus.next_of(category, offset)
        if message is None:  # it was there a moment ago: the stream ages as we look
            raise Problem(errors.JETSTREAM_UNAVAILABLE)
        return mark(message)

    async def _marks(self, offsets: Iterable[int]) -> list[Mark]:
        """Read events side by side; those that are gone are left out."""
        slots = asyncio.Semaphore(_AT_ONCE)

        async def one(offset: int) -> Mark | None:
            async with slots:
                message = await self._bus.message(offset)
                return mark(message) if message else None

        found = await asyncio.gather(*map(one, offsets))
        return [each for each in found if each is not None]
