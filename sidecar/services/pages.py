# SPDX-License-Identifier: Apache-2.0
"""A query and its page; where a read begins, and how much may come at once."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sidecar import errors
from sidecar.errors import Problem

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sidecar.model.publish_reply import Position, StoredMessage
    from sidecar.model.stream import StreamInfo

MAX_BYTES: Final = 4 * 1024 * 1024
"""Most bytes of one page, passed by one event at most: what a page costs in memory."""

_FETCHES_AT_ONCE = 4


@dataclass(frozen=True)
class Query:
    """What a reader asks for; offset None is the stream's first, -1 its next.

    Without `with_keys` the messages' keys may be left out: to read them takes time.
    """

    offset: int | None
    limit: int = 500
    max_bytes: int = MAX_BYTES
    wait_seconds: float = 0.0
    category: str | None = None
    with_keys: bool = False
    asked_at: float | None = None
    """When, by the monotonic clock, if it has waited since then."""


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
    explained by what the leader says. With a filter it would not show. Nor need it for
    who waits at the end, and is answered by what it says meanwhile.
    """
    if info is None or query.offset is None or query.category is not None:
        return None
    position = info.position
    end = position.last + bool(query.wait_seconds)
    return position if position.first <= query.offset <= end else None


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
