# SPDX-License-Identifier: Apache-2.0
"""Readers who wait near the stream's end: who may, what they share, what ends them."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from support.tasks import running

from sidecar import errors
from sidecar.errors import Problem
from sidecar.jetstream.monitor import StreamMonitor
from sidecar.model.publish_reply import Position
from sidecar.model.stream import StreamInfo
from sidecar.services.pages import Page, Query
from sidecar.services.waiters import MAX_GROUPS, NEAR_EVENTS, Waiters

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

FIRST, LAST = 900, 1000
AT_END = Query(LAST + 1)


def info(last: int) -> StreamInfo:
    return StreamInfo({}, Position(FIRST, last), 7, 100, "", "n1", 3, 3, {})


class Copy:
    """In the place of the reader: what a copy has next; None for nothing."""

    def __init__(self) -> None:
        self.asked: list[int | None] = []
        self.was_asked, self.go_on = asyncio.Event(), asyncio.Event()
        self.slow: Query | None = None
        self.page: Page | Problem | None = None

    async def next_page(self, query: Query) -> Page | None:
        self.asked.append(query.offset)
        self.was_asked.set()
        if query == self.slow:
            await self.go_on.wait()
        if isinstance(self.page, Exception):
            raise self.page
        return self.page


class World:
    def __init__(self) -> None:
        self.copy, self.monitor = Copy(), StreamMonitor("reads", "hermes")
        self.stopping = asyncio.Event()
        reader: Any = self.copy
        self.waiters = Waiters(reader, self.monitor, self.stopping)
        self.ended: asyncio.Queue[Page | None] = asyncio.Queue()

    async def stands(self, last: int) -> None:
        await self.monitor.note(info(last))

    def wait(self, query: Query = AT_END, seconds: float = 60) -> Any:
        return self.waiters.wait(query, seconds, self.ended.put_nowait)

    async def end(self) -> Page | None:
        async with asyncio.timeout(10):
            return await self.ended.get()


@asynccontextmanager
async def world() -> AsyncIterator[World]:
    one = World()
    await one.stands(LAST)
    one.monitor.heard.clear()
    async with running(one.waiters.run()):
        yield one


def page_to(last: int) -> Page:
    return Page([], last + 1, Position(FIRST, last))


@pytest.mark.parametrize(
    ("offset", "waits"),
    [
        (LAST + 2, False),  # ahead: refused
        (LAST + 1, True),
        (LAST + 1 - NEAR_EVENTS, True),
        (LAST - NEAR_EVENTS, False),  # catches up
        (FIRST - 1, False),  # gone
        (None, False),
    ],
)
async def test_who_is_near_the_end_waits(offset: int | None, waits: bool) -> None:
    async with world() as one:
        waiter = one.wait(Query(offset))
        assert (waiter is not None) is waits
        assert (one.waiters.count, one.monitor.reader_waits.is_set()) == (waits, waits)


async def test_what_was_acknowledged_here_stands_before_the_leader_is_asked() -> None:
    async with world() as one:
        one.copy.page = page_to(LAST + 1)
        one.wait()
        one.monitor.acknowledged(LAST + 1)
        assert await one.end() is one.copy.page
        assert one.wait(Query(LAST + 2)).is_at_end


async def test_nobody_waits_while_nobody_knows_where_the_stream_ends() -> None:
    async with world() as one:
        await one.monitor.note(replace(info(LAST), live_replicas=1))
        assert one.wait() is None


async def test_all_who_want_the_same_share_one_page() -> None:
    async with world() as one:
        for seconds in range(30, 50):
            one.wait(seconds=seconds)
        other = one.wait(Query(LAST + 1, limit=1))
        one.copy.page = page_to(LAST + 1)
        one.monitor.hear_stored()
        ended = [await one.end() for _ in range(21)]
        assert all(page is one.copy.page for page in ended)
        assert one.copy.asked == [LAST + 1, LAST + 1]
        assert (one.waiters.count, one.monitor.reader_waits.is_set()) == (0, False)
        other.forget()  # once more does nothing


async def test_who_follows_is_given_what_stands_at_the_next_look() -> None:
    async with world() as one:
        one.copy.page = page_to(LAST)
        one.wait(Query(LAST - 3))  # nobody tells anything
        assert await one.end() is one.copy.page


async def test_a_word_about_nothing_leaves_them_waiting() -> None:
    async with world() as one:
        waiter = one.wait()
        one.monitor.hear_stored()
        async with asyncio.timeout(10):
            await one.copy.was_asked.wait()
        assert one.waiters.count == 1
        waiter.forget()
        assert one.ended.empty()


@pytest.mark.parametrize("has", [None, Problem(errors.NATS_DOWN)])
async def test_what_no_copy_gives_is_asked_for_as_any_other_read(
    has: Problem | None,
) -> None:
    async with world() as one:
        one.wait()
        one.copy.page = has
        await one.stands(LAST + 1)
        assert await one.end() is None


async def test_what_fails_for_one_fails_for_nobody_else() -> None:
    def fails(_: Page | None) -> None:
        raise ValueError

    async with world() as one:
        one.waiters.wait(AT_END, 60, fails)
        one.wait()
        one.copy.page = page_to(LAST + 1)
        one.monitor.hear_stored()
        assert await one.end() is one.copy.page
        one.wait()
        one.copy.page = ValueError()  # type: ignore[assignment]
        await one.stands(LAST + 1)
        assert await one.end() is None


async def test_a_look_that_takes_long_holds_up_no_other() -> None:
    async with world() as one:
        one.copy.slow = Query(LAST + 1, limit=1)
        one.wait(one.copy.slow)
        one.monitor.hear_stored()
        async with asyncio.timeout(10):
            await one.copy.was_asked.wait()
        one.wait()
        one.copy.page = page_to(LAST + 1)
        one.monitor.hear_stored()
        assert await one.end() is one.copy.page
        one.copy.go_on.set()
        assert await one.end() is one.copy.page


async def test_a_stranger_who_tells_of_events_costs_a_bounded_number_of_reads() -> None:
    async with world() as one:
        waiters = [one.wait(Query(LAST + 1, limit=at)) for at in range(1, 30)]
        assert waiters.count(None) == 29 - MAX_GROUPS
        assert one.wait(Query(LAST + 1, limit=1)) is not None


async def test_only_who_waited_for_it_says_how_long_it_took() -> None:
    async with world() as one:
        assert one.wait().is_at_end
        assert not one.wait(Query(LAST)).is_at_end


async def test_a_client_waits_no_longer_than_it_said() -> None:
    async with world() as one:
        one.wait(seconds=0.01)
        assert await one.end() is None
        assert one.copy.asked == []


async def test_a_sidecar_that_stops_ends_all_and_lets_nobody_wait() -> None:
    async with world() as one:
        for number in range(20):
            one.wait(Query(LAST + 1, limit=1 + number % 2))
        one.stopping.set()
        assert [await one.end() for _ in range(20)] == [None] * 20
        assert one.wait() is None
