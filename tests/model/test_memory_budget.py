# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from starlette.requests import Request

from sidecar import errors
from sidecar.errors import Outcome, Problem
from sidecar.http import clocks, events
from sidecar.model import batch
from sidecar.model.memory_budget import MAX_BYTES, MemoryBudget

if TYPE_CHECKING:
    from starlette.types import Message


def test_bytes_are_held_until_their_requests_end() -> None:
    room = MemoryBudget()
    with room.reserve() as one:
        with room.reserve() as other:
            one.add(3)
            other.add(2)
            one.add(1)
            assert room.bytes == 6
        assert room.bytes == 4
    assert room.bytes == 0


def test_what_was_given_back_is_not_given_back_again() -> None:
    room = MemoryBudget()
    one = room.reserve()
    one.add(3)
    one.release()
    one.release()
    assert room.bytes == 0


def test_what_is_too_much_together_is_refused_and_makes_room_again() -> None:
    room = MemoryBudget(Outcome.NOT_STORED)
    with room.reserve() as one:
        one.add(MAX_BYTES // 2)
        with room.reserve() as other:
            other.add(MAX_BYTES // 2)
            with pytest.raises(Problem) as raised:
                other.add(1)
        assert raised.value.cause is errors.BUSY
        assert raised.value.outcome is Outcome.NOT_STORED
        assert room.bytes == MAX_BYTES // 2
        with room.reserve() as third:
            third.add(1)
    assert room.bytes == 0


def test_what_is_alone_may_be_as_large_as_it_likes() -> None:
    room = MemoryBudget()
    with room.reserve() as one:
        one.add(MAX_BYTES)
        one.add(1)


def head(limit_bytes: int, *, is_batch: bool = False) -> events._Head:
    return events._Head("key", 0, limit_bytes, events.Preferences(), is_batch)


async def test_a_body_that_does_not_come_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(clocks, "BODY_SECONDS", 0.05)

    async def receive() -> Message:
        return await asyncio.Future()

    room = MemoryBudget()
    request = Request({"type": "http", "headers": []}, receive)
    with room.reserve() as held, pytest.raises(Problem) as raised:
        await events.read_body(request, held, head(9), bytearray())
    assert raised.value.cause is errors.SLOW_BODY
    assert raised.value.outcome is Outcome.NOT_STORED


async def test_a_body_has_more_time_as_long_as_it_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(clocks, "BODY_SECONDS", 0.1)
    monkeypatch.setattr(clocks, "BODY_BYTES_A_SECOND", 50)
    left = [b"x" * 10] * 5

    async def receive() -> Message:
        await asyncio.sleep(0.08)
        return {"type": "http.request", "body": left.pop(), "more_body": bool(left)}

    room = MemoryBudget()
    request = Request({"type": "http", "headers": []}, receive)
    with room.reserve() as held:
        body = await events.read_body(request, held, head(99), bytearray())
    assert body == b"x" * 50


@pytest.mark.parametrize("is_batch", [False, True])
async def test_no_more_of_a_body_is_read_than_its_limit(is_batch: bool) -> None:
    """That of a batch is its own, however large an event may be."""
    limit_bytes = batch.MAX_BYTES if is_batch else 3 * batch.MAX_BYTES
    room = MemoryBudget()

    async def receive() -> Message:
        assert room.bytes <= limit_bytes
        return {"type": "http.request", "body": b"x" * 100_000, "more_body": True}

    request = Request({"type": "http", "headers": []}, receive)
    of = head(3 * batch.MAX_BYTES, is_batch=is_batch)
    with room.reserve() as held, pytest.raises(Problem) as raised:
        await events.read_body(request, held, of, bytearray())
    cause = errors.NOT_A_BATCH if is_batch else errors.EVENT_TOO_LARGE
    assert raised.value.cause is cause


def test_the_time_of_a_body_grows_with_what_came_and_has_an_end() -> None:
    times = [clocks.body_seconds(came) for came in (0, 4096, 409_600, 32_000_000)]
    assert times == [30, 31, 130, 600]


def test_who_holds_most_is_named_when_somebody_is_refused() -> None:
    room = MemoryBudget()
    with room.reserve("a") as one, room.reserve("b") as two, room.reserve("a") as three:
        one.add(MAX_BYTES // 4)
        two.add(MAX_BYTES // 3)
        three.add(MAX_BYTES // 4)
        assert room.full is None
        with pytest.raises(Problem), room.reserve("c") as fourth:
            fourth.add(MAX_BYTES)
        assert room.full is not None
        assert room.full[1:] == ("a", MAX_BYTES // 4 * 2)
    assert room.bytes == 0
    assert not room._by_name
