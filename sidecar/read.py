# SPDX-License-Identifier: Apache-2.0
"""Stored events, read by offset. Stateless: whoever reads holds its own offset.

Batches come from any replica, which may lag; a lagging replica is "not yet" and never
a hole, so a missing sequence is a hole only where the stream's leader misses it too.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sidecar import errors
from sidecar.errors import Problem
from sidecar.event import MAX_OFFSET
from sidecar.jetstream import NoReply

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from sidecar.answer import Position, StoredMessage
    from sidecar.bus import Bus
    from sidecar.metrics import Metrics
    from sidecar.stream import StreamInfo

MAX_LIMIT: Final = 5_000
MAX_WAIT_SECONDS: Final = 60.0
MAX_BYTES: Final = 4 * 1024 * 1024
"""Most bytes of one page, passed by one event at most: what a page costs in memory."""

FETCHED_BYTES: Final = 24 * 1024 * 1024
"""Most that is on its way from NATS at once: nats-server ends a connection that has
64 MB to take. One event may be larger: it is then fetched alone."""

_FETCHES_AT_ONCE = 4
_TRIES_OF_FIRST = 10  # that it ages out while it is read
_REPLICA_SECONDS = 0.5
_DIGITS = re.compile(r"[0-9]{1,18}", re.ASCII)
_DECIMAL = re.compile(r"[0-9]{1,6}(\.[0-9]{1,6})?", re.ASCII)
_CATEGORY = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)


@dataclass(frozen=True)
class Query:
    """What a reader asks for; offset None is the stream's first, -1 its next."""

    offset: int | None
    limit: int = 500
    max_bytes: int = MAX_BYTES
    wait_seconds: float = 0.0
    category: str | None = None


NEXT: Final = -1


@dataclass(frozen=True)
class Page:
    """Events in the order of their offsets, and where to go on.

    Without events: nothing stands before next_offset. It is beyond the position's last
    only where the leader says so; a copy that gives nothing leaves it where it was.
    """

    events: list[StoredMessage]
    next_offset: int
    position: Position


def parse_query(parameters: Iterable[tuple[str, str]]) -> Query:
    """Read the query of GET /v1/events; raise Problem naming the parameter."""
    offset: int | None = None
    limit, max_bytes, wait_seconds = 500, MAX_BYTES, 0.0
    category: str | None = None
    for name, value in parameters:
        match name:
            case "offset" if value == "first":
                offset = None
            case "offset" if value == "next":
                offset = NEXT
            case "offset" if _is_between(value, 0, MAX_OFFSET):
                offset = int(value)
            case "limit" if _is_between(value, 1, MAX_LIMIT):
                limit = int(value)
            case "max_bytes" if _is_between(value, 1, 10**9):
                max_bytes = min(int(value), MAX_BYTES)
            case "wait" if (
                _DECIMAL.fullmatch(value) and float(value) <= MAX_WAIT_SECONDS
            ):
                wait_seconds = float(value)
            case "category" if _CATEGORY.fullmatch(value):
                category = value
            case "offset" | "limit" | "max_bytes" | "wait" | "category":
                raise Problem(errors.MALFORMED_QUERY, parameter=name)
            case _:
                raise Problem(errors.MALFORMED_QUERY)
    return Query(offset, limit, max_bytes, wait_seconds, category)


def _is_between(value: str, least: int, most: int) -> bool:
    return _DIGITS.fullmatch(value) is not None and least <= int(value) <= most


def locate(
    offset: int | None, position: Position, settled_last: int | None
) -> int | Problem:
    """Say at which sequence to begin, or why that offset cannot be read."""
    if offset is None:
        return position.first
    if offset == NEXT:
        return position.last + 1
    ends = {"first_offset": position.first, "last_offset": position.last}
    if offset < position.first:
        return Problem(errors.OFFSET_GONE, **ends)
    if offset <= position.last + 1:
        return offset
    if settled_last is None or offset <= settled_last + 1:
        return Problem(errors.JETSTREAM_UNAVAILABLE)
    return Problem(errors.OFFSET_AHEAD, **ends)


def inside(query: Query, info: StreamInfo | None) -> Position | None:
    """Give the position that was known a moment ago if the offset lies inside it.

    Then the leader need not be asked: what has gone since shows as a hole, which is
    explained by what the leader says. With a filter it would not show.
    """
    if info is None or query.offset is None or query.category is not None:
        return None
    position = info.position
    return position if position.first <= query.offset <= position.last else None


def contiguous(
    start: int, batch: list[StoredMessage], *, filtered: bool
) -> list[StoredMessage]:
    """Keep what is known to have no hole before it and to stand in its place.

    Without a filter each sequence follows the one before. With one, each message
    names the message before it in the batch.
    """
    kept: list[StoredMessage] = []
    for message in batch:
        before = kept[-1].sequence if kept else 0
        follows = (
            message.previous == before and message.sequence >= start
            if filtered
            else message.sequence == (before + 1 if kept else start)
        )
        if not follows or message.is_displaced:
            break
        kept.append(message)
    return kept


class Budget:
    """Bounds the bytes that are on their way at once, first come first served."""

    def __init__(self, most_bytes: int) -> None:
        self._left_bytes = most_bytes
        self._most_bytes = most_bytes
        self._turn = asyncio.Lock()
        self._given_back = asyncio.Event()

    @asynccontextmanager
    async def spend(self, size_bytes: int) -> AsyncIterator[None]:
        """Wait until so many may come; who wants more than all waits for all."""
        least_bytes = self._most_bytes // _FETCHES_AT_ONCE
        size_bytes = max(least_bytes, min(size_bytes, self._most_bytes))
        async with self._turn:
            while self._left_bytes < size_bytes:
                self._given_back.clear()
                await self._given_back.wait()
            self._left_bytes -= size_bytes
        try:
            yield
        finally:
            self._left_bytes += size_bytes
            self._given_back.set()


class Reader:
    """Reads pages over a bus of its own, so that no reader delays a publish."""

    def __init__(self, bus: Bus, metrics: Metrics) -> None:
        self._bus = bus
        self._metrics = metrics
        self._fetches = Budget(FETCHED_BYTES)
        self.waiting = 0

    async def read(self, query: Query) -> Page:
        """Read one page; raise Problem."""
        page = await self._read(query)
        self._metrics.read(len(page.events))
        return page

    async def _read(self, query: Query) -> Page:
        """Read one page. Whoever names no offset is never told that it is gone."""
        for _ in range(_TRIES_OF_FIRST):
            try:
                return await self._read_once(query)
            except Problem as problem:
                if query.offset is not None or problem.cause is not errors.OFFSET_GONE:
                    raise
        raise Problem(errors.JETSTREAM_UNAVAILABLE)

    async def _read_once(self, query: Query) -> Page:
        position = inside(query, self._bus.recent_info()) or await self._bus.position()
        start = locate(query.offset, position, self._bus.settled_last())
        if isinstance(start, Problem):
            raise start
        page = await self._page(start, query, position)
        if page.events or not query.wait_seconds:
            return page
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + query.wait_seconds
        while not page.events and (left_seconds := ends_at - loop.time()) > 0:
            if page.next_offset <= page.position.last:
                # In the stream and not found: still on its way to a replica, perhaps.
                left_seconds = min(left_seconds, _REPLICA_SECONDS)
            await self._wait(page.position.last + 1, left_seconds)
            position = await self._bus.position()
            page = await self._page(page.next_offset, query, position)
        return page

    async def _wait(self, offset: int, timeout_seconds: float) -> None:
        self.waiting += 1
        try:
            await self._bus.wait_for(offset, timeout_seconds)
        finally:
            self.waiting -= 1

    async def _page(self, start: int, query: Query, position: Position) -> Page:
        if start > position.last:
            return Page([], start, position)
        try:
            # max_bytes is passed by one event at most.
            size_bytes = query.max_bytes + self._bus.connection().limit_bytes
            async with self._fetches.spend(size_bytes):
                batch, least_last = await self._bus.connection().batch(
                    start, query.limit, query.max_bytes, query.category
                )
        except NoReply as absence:
            raise Problem(absence.cause) from None
        events = contiguous(start, batch, filtered=query.category is not None)
        if not events and query.category is None:
            await self._explain_absence(start)
        elif not events and batch:  # a filter's first event need not stand at start
            await self._explain_absence(batch[0].sequence)
        if not events:
            is_end = not batch and await self._is_end(start, query.category)
            return Page([], position.last + 1 if is_end else start, position)
        last = max(least_last, events[-1].sequence)
        self._bus.proven(last)
        last = max(last, position.last)
        return Page(events, events[-1].sequence + 1, position._replace(last=last))

    async def _is_end(self, start: int, category: str | None) -> bool:
        """Tell whether the leader, too, has no more of a category.

        The position must be older than its answer. Without a filter what is inside the
        position stands somewhere.
        """
        return category is not None and await self._bus.next_of(category, start) is None

    async def _explain_absence(self, sequence: int) -> None:
        """Tell a lagging or false replica from a hole, by what the leader says."""
        sight = await self._bus.look(sequence)
        if sight is None:
            return
        position = sight.position
        if sight.message is not None:
            if sight.message.sequence == sequence:
                if sight.message.is_displaced:
                    raise Problem(errors.DISPLACED, offset=sequence)
                return
            position = await self._bus.position()  # it may have aged out since then
            if sequence >= position.first:
                raise Problem(errors.HOLE, offset=sequence)
        if sequence < position.first:
            raise Problem(
                errors.OFFSET_GONE,
                first_offset=position.first,
                last_offset=position.last,
            )
