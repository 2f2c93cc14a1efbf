# SPDX-License-Identifier: Apache-2.0
"""Readers who wait at the stream's end: one page is read for all who want the same.

Nobody has a task of his own, so a reader who waits costs next to nothing. What is not
plain is not answered here: whoever waits is then told to ask as any other reader does.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Final

from sidecar.errors import Problem
from sidecar.telemetry.log import internal_error

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.jetstream.monitor import StreamMonitor
    from sidecar.services.pages import Page, Query
    from sidecar.services.reader import Reader

    OnEnd = Callable[[Page | None], None]
    """Gets the page that came; None where its reader is to ask as any other does."""

_AT_ONCE: Final = 8  # readers that are answered before a publish has its turn

LOOK_SECONDS: Final = 0.01
"""Lies at least between two looks. So those who follow many events a second come for
some at a time, all for the same, and leave the sidecar to who sends them."""

MAX_GROUPS: Final = 16
"""Whose pages are asked for at each look, whoever said that something was stored."""

NEAR_EVENTS: Final = 100
"""Who lacks fewer follows, and gets what stands at the next look."""


class Waiter:
    """One who waits for the first event at an offset, or until its time is over."""

    def __init__(
        self, waiters: Waiters, query: Query, on_end: OnEnd, *, is_at_end: bool
    ) -> None:
        self.query = query
        self.is_at_end = is_at_end
        """When it asked; else it came back a little late."""
        self._waiters = waiters
        self._on_end = on_end
        self._timer: asyncio.TimerHandle | None = None

    def start(self, seconds: float) -> None:
        """Wait so long at most."""
        self._timer = asyncio.get_running_loop().call_later(seconds, self.end)

    def forget(self) -> None:
        """Wait no more, without a word."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._waiters.remove(self)

    def end(self, page: Page | None = None) -> None:
        """Wait no more, and say so, once."""
        if self._timer is not None:
            self.forget()
            try:
                self._on_end(page)
            except Exception as error:  # noqa: BLE001 - others wait, too
                internal_error(error)


class Waiters:
    """All who wait. A group wants the same page."""

    def __init__(
        self, reader: Reader, monitor: StreamMonitor, stopping: asyncio.Event
    ) -> None:
        self._reader = reader
        self._monitor = monitor
        self._stopping = stopping
        self._groups: dict[Query, dict[Waiter, None]] = {}
        self._looks: dict[Query, asyncio.Task[None]] = {}

    @property
    def count(self) -> int:
        """How many wait."""
        return sum(map(len, self._groups.values()))

    def wait(self, query: Query, seconds: float, on_end: OnEnd) -> Waiter | None:
        """Wait near the stream's end; None where the offset is not.

        `query` is one that does not wait, so that those who wait differently long share
        their page.
        """
        info = self._monitor.recent_info()
        if info is None or self._stopping.is_set():
            return None
        first, last = info.position.first, self._monitor.standing_last()
        offset = query.offset or 0
        if not max(first, last + 1 - NEAR_EVENTS) <= offset <= last + 1:
            return None
        if query not in self._groups and len(self._groups) >= MAX_GROUPS:
            return None
        if offset <= last:
            self._monitor.heard.set()
        waiter = Waiter(self, query, on_end, is_at_end=offset > last)
        self._groups.setdefault(query, {})[waiter] = None
        self._monitor.reader_came()
        waiter.start(seconds)
        return waiter

    def remove(self, waiter: Waiter) -> None:
        """Forget one who waits no more."""
        group = self._groups[waiter.query]
        del group[waiter]
        if not group:
            del self._groups[waiter.query]
        self._monitor.reader_left()

    async def run(self) -> None:
        """Look whenever something may have been stored, until cancelled."""
        stopping = asyncio.create_task(self._end_all_at_stop())
        try:
            while True:
                await self._monitor.heard.wait()
                self._monitor.heard.clear()
                for query in self._groups.keys() - self._looks.keys():
                    look = self._looks[query] = asyncio.create_task(self._look(query))
                    look.add_done_callback(partial(self._looked, query))
                await asyncio.sleep(self._monitor.pause_seconds(LOOK_SECONDS))
        finally:
            for task in (stopping, *self._looks.values()):
                task.cancel()

    async def _end_all_at_stop(self) -> None:
        await self._stopping.wait()
        for query in list(self._groups):
            await self._answer(query, None)

    async def _look(self, query: Query) -> None:
        page = None
        try:
            page = await self._reader.next_page(query)
        except Problem:
            pass  # who asks as any other does is told
        except Exception as error:  # noqa: BLE001 - others wait, too
            internal_error(error)
        if page is not None or self._reaches(query):
            await self._answer(query, page)

    def _looked(self, query: Query, _: asyncio.Task[None]) -> None:
        """Look again where somebody has come meanwhile for what stands."""
        del self._looks[query]
        if query in self._groups and self._reaches(query):
            self._monitor.heard.set()

    def _reaches(self, query: Query) -> bool:
        return self._monitor.reaches(query.offset or 0)

    async def _answer(self, query: Query, page: Page | None) -> None:
        for number, waiter in enumerate(list(self._groups.get(query, {}))):
            if number and not number % _AT_ONCE:
                await asyncio.sleep(0)
            waiter.end(page)
