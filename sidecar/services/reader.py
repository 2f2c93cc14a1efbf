# SPDX-License-Identifier: Apache-2.0
"""Stored events, read by offset. Stateless: whoever reads holds its own offset.

Pages come from whatever copy answers; what one does not give is the leader's to say
(`evidence`), and read from the leader meanwhile.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

from sidecar import errors
from sidecar.errors import Problem
from sidecar.jetstream.requests import NoReply
from sidecar.model.evidence import (
    UNASKED,
    AskCopy,
    Asked,
    AskFirst,
    AskLeader,
    AskNewest,
    Came,
    Copies,
    Ended,
    Refuse,
    Retry,
    Said,
    Serve,
    agreed,
    decide,
    is_end,
    jumps,
)
from sidecar.model.stream import told_name
from sidecar.services.pages import MAX_BYTES, Budget, Page, Query, inside, locate
from sidecar.telemetry.log import log

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from sidecar.errors import Cause
    from sidecar.jetstream.api import JetStreamApi
    from sidecar.jetstream.supervisor import StreamSupervisor
    from sidecar.model.publish_reply import Position, StoredMessage
    from sidecar.telemetry.metrics import Metrics

FETCHED_BYTES: Final = 24 * 1024 * 1024
"""Most that is on its way from NATS at once: nats-server ends a connection that has
64 MB to take. One event may be larger: it is then fetched alone."""

TRY_SECONDS: Final = 5.0
"""How often the subject that serves is tried where no reader does."""

TOLD_SECONDS: Final = 600.0
"""How long after a stranger has answered another one is not told of again."""

_BYTES_UNDER_WAY = 4 * 1024 * 1024  # of pages: on a slow link answers stand in line
_LEAST_BYTES = 64 * 1024
_TRIES_OF_FIRST = 10  # that it ages out while it is read
_TRIES_OF_NEWEST = 4  # of copies that may lag, be frozen, or another stream's
_AGAIN_SECONDS = 0.5
_LEADERS_EVENTS = 64  # of a page that the leader alone gives
_LEADERS_AT_ONCE = 8
_LEADERS_WORD_SECONDS = 1.0
_MOST_JUMPS = 64  # of a page of one category, each of which the leader is asked for


class Reader:
    """Reads pages over a connection of its own, so that no reader delays a publish."""

    def __init__(self, supervisor: StreamSupervisor, metrics: Metrics) -> None:
        self._supervisor = supervisor
        self._leader = supervisor.leader
        self._monitor = supervisor.monitor
        self._metrics = metrics
        self._fetches = Budget(FETCHED_BYTES)
        self.copies = Copies()
        self.waiting = 0
        self.refused: Cause | None = None
        self.damage: Cause | None = None  # what no reader can pass
        self.damaged_offset = 0
        self.damaged_at: float | None = None
        self._coming: dict[int, tuple[float, int]] = {}  # since when, how large
        self._asking: dict[tuple[object, ...], asyncio.Task[Came]] = {}
        self._numbers = itertools.count()

    def coming_seconds(self) -> float | None:
        """Say how long the page that has been under way for longest has been coming."""
        oldest = min(self._coming.values(), default=None)
        return None if oldest is None else time.monotonic() - oldest[0]

    def is_coming(self) -> bool:
        """Tell whether something of a page came within the last second."""
        with suppress(Problem):
            return self._supervisor.connection().requests.is_coming
        return False

    async def run(self) -> None:
        """Now and then try the subject that serves, until cancelled."""
        while True:
            await asyncio.sleep(TRY_SECONDS)
            info, now = self._monitor.recent_info(), time.monotonic()
            asked_at = self.copies.asked_at
            is_tried = asked_at is not None and now - asked_at < TRY_SECONDS
            if info is not None and info.messages and not is_tried:
                with suppress(Problem):
                    await self._ask_copy(
                        info.position.last, Query(None, limit=1, max_bytes=1)
                    )

    async def read(self, query: Query) -> Page:
        """Read one page for somebody outside; raise Problem."""
        page = await self.read_page(query)
        self._metrics.read(len(page.events))
        return page

    async def read_page(self, query: Query) -> Page:
        """Read one page. Whoever names no offset is never told that it is gone."""
        for _ in range(_TRIES_OF_FIRST):
            try:
                return await self._read_once(query)
            except Problem as problem:
                if query.offset is not None or problem.cause is not errors.OFFSET_GONE:
                    raise
        raise Problem(errors.JETSTREAM_UNAVAILABLE)

    async def _read_once(self, query: Query) -> Page:
        asked_at = time.monotonic() if query.asked_at is None else query.asked_at
        position = (
            inside(query, self._monitor.recent_info()) or await self._leader.position()
        )
        start = locate(query.offset, position, self._monitor.settled_last())
        if isinstance(start, Problem):
            raise start
        page = await self._page(start, query, position)
        if page.events or not query.wait_seconds:
            return page
        ends_at = asked_at + query.wait_seconds
        while not page.events:  # once at least: what is known may be a second old
            left_seconds = max(ends_at - time.monotonic(), 0.0)
            if page.next_offset <= page.position.last:
                # In the stream, and nobody could be asked for it.
                left_seconds = min(left_seconds, _AGAIN_SECONDS)
            await self._wait(page.position.last + 1, left_seconds)
            position = (
                self._monitor.position_since(asked_at) or await self._leader.position()
            )
            page = await self._page(page.next_offset, query, position)
            if time.monotonic() >= ends_at:
                break
        return page

    async def next_page(self, query: Query) -> Page | None:
        """Read what a copy has from an offset on at which the stream ended.

        None where it has nothing; raise Problem. A copy may have what our stream has no
        more, so the leader is asked meanwhile, and its word awaited.
        """
        assert query.offset is not None  # noqa: S101 - who waits, waits for one
        came = await self._ask_copy(query.offset, query)
        step = decide(Asked(query.offset), came, None)
        if not isinstance(step, Serve):
            return None
        last = self._monitor.standing_last()
        if last < query.offset:
            await self._monitor.wait_for(query.offset, _LEADERS_WORD_SECONDS)
            last = self._monitor.standing_last()
        info = self._monitor.info
        assert info is not None  # noqa: S101 - somebody waits at its end
        events = [each for each in step.events if each.sequence <= last]
        return await self._serve(events, query, info.position) if events else None

    async def _wait(self, offset: int, timeout_seconds: float) -> None:
        self.waiting += 1
        try:
            await self._monitor.wait_for(offset, timeout_seconds)
        finally:
            self.waiting -= 1

    async def _page(self, start: int, query: Query, position: Position) -> Page:
        if start > position.last:
            return Page([], start, position)
        asked = Asked(start, query.category)
        came, said = None, None
        while True:
            match decide(asked, came, said):
                case AskCopy(at):
                    came = await self._ask_copy(at, query)
                case AskLeader():
                    said = await self._leader.said(asked)
                case AskFirst():
                    assert isinstance(said, Said)  # noqa: S101 - its first was asked
                    said = await self._leader.said_again(said)
                case AskNewest():
                    assert isinstance(said, Said)  # noqa: S101 - it had no message
                    said = await self._ask_newest(asked, said)
                case Serve(events, is_leaders=False):
                    assert came is not None  # noqa: S101 - it was served
                    return await self._serve(events, query, position)
                case Serve(events):
                    self.copies.lacked(came or UNASKED, time.monotonic())
                    events = await self._go_on(events, query, position.last)
                    return await self._serve(events, query, position)
                case Ended():  # the position is older than that word
                    return Page([], position.last + 1, position)
                case Retry():
                    return Page([], start, position)
                case Refuse(errors.OFFSET_GONE):
                    position = await self._leader.position()
                    raise Problem(
                        errors.OFFSET_GONE,
                        first_offset=position.first,
                        last_offset=position.last,
                    )
                case Refuse(cause, offset):
                    self.damage, self.damaged_offset = cause, offset
                    self.damaged_at = time.monotonic()
                    raise Problem(cause, offset=offset)

    async def _ask_copy(self, start: int, query: Query) -> Came:
        """Ask a copy for a page, once for all who want the same at this moment.

        Who comes a little later gets what a copy that lags a little would give.
        """
        key = (start, query.limit, query.max_bytes, query.category, query.with_keys)
        asking = self._asking.get(key)
        if asking is None:
            asking = self._asking[key] = asyncio.create_task(
                self._ask(
                    query.max_bytes,
                    lambda api, max_bytes: api.batch(
                        start, query.limit, max_bytes, query.category, query.with_keys
                    ),
                )
            )
            asking.add_done_callback(partial(self._asked, key))
        return await asyncio.shield(asking)

    def _asked(self, key: tuple[object, ...], asking: asyncio.Task[Came]) -> None:
        del self._asking[key]
        if not asking.cancelled():
            asking.exception()  # who wanted it may be gone

    async def _ask_newest(self, asked: Asked, said: Said) -> Said:
        """Ask until one copy has come as far as the leader, but only some times.

        Where none does, as with a mirror that is nearer than our stream or a category
        that has nothing at all, the leader's word is taken after some time of its own.
        """
        assert asked.category is not None  # noqa: S101 - without one it is not asked
        category = asked.category
        for _ in range(_TRIES_OF_NEWEST):
            came = await self._ask(
                MAX_BYTES,
                lambda api, max_bytes: api.newest(category, max_bytes),
                rested=True,
            )
            said = replace(said, newest=came)
            if is_end(asked, said.position.last, came):
                return said
        if not self._monitor.has_one_leader():
            return said
        again = await self._leader.said(asked)
        is_settled = isinstance(again, Said) and again.message is None
        return replace(said, is_settled=is_settled)

    async def _ask(
        self,
        most_bytes: int,
        ask: Callable[[JetStreamApi, int], Coroutine[None, None, Came]],
        *,
        rested: bool = False,
    ) -> Came:
        """Ask a copy for so many bytes at most, and one event; see Copies of rests."""
        size_bytes = most_bytes + self._supervisor.connection().limit_bytes
        async with self._fetches.spend(size_bytes):
            if not (rested or self.copies.may_be_asked(time.monotonic())):
                return UNASKED
            number = next(self._numbers)
            room_bytes = _BYTES_UNDER_WAY - sum(
                size for _, size in self._coming.values()
            )
            max_bytes = min(most_bytes, max(room_bytes, _LEAST_BYTES))
            self._coming[number] = time.monotonic(), max_bytes
            try:
                came = await ask(self._supervisor.connection().api, max_bytes)
            except NoReply as absence:
                if absence.cause is errors.NATS_PERMISSION:
                    self._refuse(absence.cause)
                raise Problem(absence.cause) from None
            finally:
                del self._coming[number]
        self.refused = None
        now, met_at = time.monotonic(), self.copies.stranger_at
        self.copies.gave(came, now)
        if came.end == "stranger" and (met_at is None or now - met_at > TOLD_SECONDS):
            log.warning("foreign_copy", stream=told_name(came.stranger))
        return came

    def _refuse(self, cause: Cause) -> None:
        if self.refused is None:
            log.warning(
                cause.code,
                purpose="reads",
                reason=cause.title,
                remedy=cause.remedy,
                faults=[],
            )
        self.refused = cause

    async def _go_on(
        self, events: list[StoredMessage], query: Query, last: int
    ) -> list[StoredMessage]:
        """Read what follows an event from the leader, too: copies are left alone.

        How large they are is known when they are there, so few come at once.
        """
        most = min(query.limit, _LEADERS_EVENTS)
        size_bytes = len(events[0].body)
        while query.category is None and size_bytes < query.max_bytes:
            limit_bytes = self._supervisor.connection().limit_bytes
            count = min(
                max(FETCHED_BYTES // limit_bytes, 1),
                _LEADERS_AT_ONCE,
                most - len(events),
                last - events[-1].sequence,
            )
            if count < 1:
                break
            after = events[-1].sequence + 1
            async with self._fetches.spend(count * limit_bytes):
                more = await asyncio.gather(
                    *(self._leader.message(at) for at in range(after, after + count)),
                    return_exceptions=True,
                )
            for event in more:
                if (
                    not isinstance(event, tuple)
                    or event.is_displaced
                    or not event.is_readable
                    or size_bytes >= query.max_bytes
                ):
                    return events
                events.append(event)
                size_bytes += len(event.body)
        return events

    async def _serve(
        self, events: list[StoredMessage], query: Query, position: Position
    ) -> Page:
        if query.category is not None:
            events = await self._agreed(events, query.category)
        reached = events[-1].sequence
        self._monitor.proven(reached)
        last = max(self._monitor.proven_last(), position.last)
        return Page(events, reached + 1, position._replace(last=last))

    async def _agreed(
        self, events: list[StoredMessage], category: str
    ) -> list[StoredMessage]:
        """Keep the events up to a jump that the leader does not know."""
        asked = jumps(events)[:_MOST_JUMPS]
        nexts: dict[int, int | None] = {}
        for begin in range(0, len(asked), _LEADERS_AT_ONCE):
            offsets = asked[begin : begin + _LEADERS_AT_ONCE]
            found = await asyncio.gather(
                *(self._leader.next_of(category, offset) for offset in offsets),
                return_exceptions=True,
            )
            nexts |= {
                offset: message.sequence
                for offset, message in zip(offsets, found, strict=True)
                if isinstance(message, tuple)
            }
        return agreed(events, nexts)
