# SPDX-License-Identifier: Apache-2.0
"""What anybody may ask for costs the stream little, however many ask."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from sidecar import errors
from sidecar.errors import Problem
from sidecar.model.publish_reply import Position, StoredMessage
from sidecar.services import activity
from sidecar.services.activity import EVENTS, MOST_BYTES, Recent

if TYPE_CHECKING:
    import pytest


class Stream:
    """A bus whose events all have one size; it counts what was read."""

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.read_bytes = self.asked = 0
        self.problem: Problem | None = None

    async def stream_info(self) -> Any:
        self.asked += 1
        await asyncio.sleep(0.01)
        if self.problem is not None:
            raise self.problem
        return SimpleNamespace(position=Position(1, 500), created="x")

    async def message(self, offset: int) -> StoredMessage:
        self.read_bytes += self.size_bytes
        body = b"x" * self.size_bytes
        return StoredMessage(offset, "hermes.base", None, "t", body)

    async def first_since(self, _: str) -> StoredMessage:
        return await self.message(400)


async def test_one_reading_serves_all_who_ask() -> None:
    stream = Stream(10)
    looks = Recent(stream)  # type: ignore[arg-type]
    loop = asyncio.get_running_loop()
    started_at = loop.time()
    glances = await asyncio.gather(*(looks.glance() for _ in range(50)))
    assert stream.asked == 1
    assert glances[0] is not None
    assert [row.offset for row in glances[0].rows] == list(range(500, 450, -1))
    again = await asyncio.gather(*(looks.glance() for _ in range(50)))
    assert stream.asked == 2
    assert loop.time() - started_at >= activity.PAUSE_SECONDS
    assert again[0] is not None
    assert again[0].rows == glances[0].rows
    read = EVENTS + activity.MINUTES + 1
    assert stream.read_bytes == 10 * read, "all is kept, the newest is read again"


async def test_a_slow_reading_is_not_repeated_for_twenty_times_as_long() -> None:
    class Slow(Stream):
        async def stream_info(self) -> Any:
            await asyncio.sleep(0.1)
            return await super().stream_info()

    looks = Recent(Slow(10))  # type: ignore[arg-type]
    began_at = time.monotonic()
    assert await looks.glance() is not None
    assert looks._next_at - began_at >= 20 * 0.1


async def test_what_is_stored_while_it_is_counted_takes_no_minute_below_zero() -> None:
    class Moving(Stream):
        async def first_since(self, _: str) -> StoredMessage:
            return await self.message(600)

    glance = await Recent(Moving(10)).glance()  # type: ignore[arg-type]
    assert glance is not None
    assert set(glance.minutes) == {0}


async def test_large_events_are_read_bit_by_bit_the_newest_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(activity, "PAUSE_SECONDS", 0)
    monkeypatch.setattr(activity, "_PART", 0)
    stream = Stream(MOST_BYTES // 4)
    looks = Recent(stream)  # type: ignore[arg-type]
    seen = 0
    for _ in range(16):
        before = stream.read_bytes
        glance = await looks.glance()
        assert glance is not None
        assert stream.read_bytes - before <= MOST_BYTES + 2 * stream.size_bytes
        assert len(glance.rows) == min(EVENTS, seen + 4)
        assert glance.rows[0].offset == 500
        assert sum(glance.minutes) in (0, 101)
        seen = len(glance.rows)
    assert seen == EVENTS


async def test_nothing_is_shown_of_a_stream_that_cannot_be_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(activity, "PAUSE_SECONDS", 0)
    monkeypatch.setattr(activity, "_PART", 0)
    stream = Stream(10)
    looks = Recent(stream)  # type: ignore[arg-type]
    assert await looks.glance() is not None
    stream.problem = Problem(errors.NATS_DOWN)
    assert await looks.glance() is None
