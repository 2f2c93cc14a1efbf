# SPDX-License-Identifier: Apache-2.0
"""What the stream holds of a hermes-server that was killed, read from the leader."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Final, NamedTuple

from sidecar import errors
from sidecar.errors import Problem
from sidecar.model.last_pass import (
    BASE,
    MAX_MESSAGES,
    LastPass,
    PassReader,
    ends,
    is_same_event,
)
from sidecar.model.producer_key import parse_producer_key
from sidecar.model.scan import INITSYNC, scan_at
from sidecar.services.pages import Query

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from sidecar.jetstream.leader import StreamLeader
    from sidecar.model.publish_reply import Position, StoredMessage
    from sidecar.services.reader import Reader
    from sidecar.telemetry.metrics import Metrics

_PAGE_EVENTS: Final = 1000
"""What is read at once: a publish waits for so many digests at most."""

_AT_ONCE: Final = 16


class Match(NamedTuple):
    """Whether an event stands at an offset, and where the stream ended then."""

    matches: bool
    key: str | None
    position: Position
    last_key: str | None


class LastPasses:
    """Reads passes for producer plugins, one at a time: each may be long."""

    def __init__(self, leader: StreamLeader, reader: Reader, metrics: Metrics) -> None:
        self._leader = leader
        self._reader = reader
        self._metrics = metrics
        self._turn = asyncio.Lock()
        self.recognised_count = 0

    async def read(self, start: int | None, process: str) -> LastPass:
        """Read the pass that began after `start`, or the last one; raise Problem."""
        async with self._turn:
            position = await self._leader.position()
            newest = await self._leader.last_of(BASE)
            if start is None:
                start = _start_of(newest)
            if start is None or newest is None or newest.sequence <= start:
                return LastPass(start, [], True, position)
            return await self._read(start, process, position, newest.sequence)

    async def _read(
        self, start: int, process: str, position: Position, newest: int
    ) -> LastPass:
        last = scan_at(await self._leader.last_of(INITSYNC)).last
        # What was sent before an init-stop must be sent again, so it need not be read.
        begin = max(start + 1, position.first, last.stop if last else 0)
        if newest < begin:
            return LastPass(start, [], True, position)
        if position.last - begin >= MAX_MESSAGES:
            return LastPass(start, [], False, position)
        taken = PassReader(start, process)
        async for messages, unreadable in self._pages(begin, position.last):
            for message in messages:
                taken.take(message)
            if unreadable == newest:
                taken.newest_base = newest
        if newest <= position.last and taken.newest_base != newest:
            # Two leaders answered, one of them from its past.
            raise Problem(errors.JETSTREAM_UNAVAILABLE)
        return LastPass(start, taken.objects(), True, position)

    async def _pages(
        self, begin: int, last: int
    ) -> AsyncGenerator[tuple[Sequence[StoredMessage | None], int | None]]:
        """Give messages in pages, and the offset of one that nobody can read.

        Such a one, which is in a page of its own, and one that is gone are None.
        """
        while begin <= last:
            try:
                messages, begin = await self._next(begin, last)
            except Problem as problem:
                if (offset := problem.members.get("offset")) is None:
                    raise
                unreadable = int(offset)  # now and later
                yield [None], unreadable
                begin = unreadable + 1
            else:
                yield messages, None

    async def _next(
        self, begin: int, last: int
    ) -> tuple[Sequence[StoredMessage | None], int]:
        """Give messages from an offset on, None for one that is gone; and what follows.

        A user that may not read pages, as ours for producers once, reads each message.
        """
        query = Query(begin, limit=_PAGE_EVENTS, with_keys=True)
        try:
            page = await self._reader.read_page(query)
        except Problem as problem:
            if problem.cause is errors.NATS_PERMISSION:
                end = min(begin + _AT_ONCE, last + 1)
                return await asyncio.gather(*map(self._message, range(begin, end))), end
            raise
        if page.next_offset == begin:
            return [await self._message(begin)], begin + 1  # nobody gives it now
        return page.events, page.next_offset

    async def _message(self, offset: int) -> StoredMessage | None:
        """Read one that the stream holds, or held; raise Problem if that is unclear."""
        message = await self._leader.at_or_after(offset)
        if message is None and not await self._leader.is_deleted(offset):
            raise Problem(errors.JETSTREAM_UNAVAILABLE)  # who answered lags
        return message if message and message.sequence == offset else None

    async def match(
        self, offset: int, body: bytes, *, is_newest: bool = False
    ) -> Match:
        """Tell whether the event at an offset is this one; raise Problem.

        `is_newest`: and whether nothing was stored since that ends it for a target.
        """
        position = await self._leader.position()
        message = None
        if position.first <= offset <= position.last:
            message = await self._message(offset)
        last = await self._leader.message(position.last)
        matches = message is not None and is_same_event(message.body, body)
        if matches and is_newest:
            async with self._turn:
                matches = await self._is_newest(offset, body, position.last)
        if matches:
            self.recognised_count += 1
            self._metrics.recognised()
        key, last_key = (each.key if each else None for each in (message, last))
        return Match(matches, key, position, last_key)

    async def _is_newest(self, offset: int, body: bytes, last: int) -> bool:
        begin = offset + 1
        if last - begin >= MAX_MESSAGES:
            return False
        async with aclosing(self._pages(begin, last)) as pages:
            async for messages, _ in pages:
                if any(ends(message, body) for message in messages):
                    return False
        return True


def _start_of(message: StoredMessage | None) -> int | None:
    """Give where its pass began; None if no plugin of this stream sent it."""
    key = parse_producer_key(message.key) if message else None
    if message is None or key is None or key.pass_start >= message.sequence:
        return None  # what begins behind itself is forged, or of another stream
    return key.pass_start
