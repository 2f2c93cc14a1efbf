# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import asyncio

import pytest

from sidecar import errors
from sidecar.errors import Cause, Problem
from sidecar.model.publish_reply import Position
from sidecar.model.stream import StreamInfo
from sidecar.services.pages import (
    NEXT,
    Budget,
    Query,
    inside,
    locate,
)


@pytest.mark.parametrize(
    ("offset", "first", "last", "start"),
    [
        (None, 8, 20, 8),
        (None, 8, 7, 8),
        (NEXT, 8, 20, 21),
        (NEXT, 8, 7, 8),
        (8, 8, 20, 8),
        (20, 8, 20, 20),
        (21, 8, 20, 21),
        (8, 8, 7, 8),
    ],
)
def test_an_offset_from_first_to_one_past_the_last_can_be_read(
    offset: int | None, first: int, last: int, start: int
) -> None:
    assert locate(offset, Position(first, last), None) == start


@pytest.mark.parametrize(
    ("offset", "first", "last", "settled_last", "cause"),
    [
        (7, 8, 20, None, errors.OFFSET_GONE),
        (0, 8, 20, 20, errors.OFFSET_GONE),
        (0, 1, 0, 0, errors.OFFSET_GONE),
        (7, 8, 7, 7, errors.OFFSET_GONE),
        (22, 8, 20, None, errors.JETSTREAM_UNAVAILABLE),
        (22, 8, 20, 21, errors.JETSTREAM_UNAVAILABLE),
        (22, 8, 20, 30, errors.JETSTREAM_UNAVAILABLE),
        (22, 8, 20, 20, errors.OFFSET_AHEAD),
        (32, 8, 20, 30, errors.OFFSET_AHEAD),
        (9, 8, 7, 7, errors.OFFSET_AHEAD),
    ],
)
def test_an_offset_outside_is_an_error_and_never_a_silent_skip(
    offset: int, first: int, last: int, settled_last: int | None, cause: Cause
) -> None:
    problem = locate(offset, Position(first, last), settled_last)
    assert isinstance(problem, Problem)
    assert problem.cause is cause
    if cause is not errors.JETSTREAM_UNAVAILABLE:
        assert problem.members == {"first_offset": first, "last_offset": last}


@pytest.mark.parametrize(
    ("query", "is_inside"),
    [
        (Query(8), True),
        (Query(20), True),
        (Query(7), False),
        (Query(21), False),
        (Query(0), False),
        (Query(None), False),
        (Query(NEXT), False),
        (Query(9, category="base"), False),
    ],
)
def test_the_leader_is_spared_a_question_only_inside_what_it_said(
    query: Query, is_inside: bool
) -> None:
    known = info(8, 20)
    assert inside(query, known) == (known.position if is_inside else None)
    assert inside(query, None) is None


def test_nothing_is_inside_an_empty_stream() -> None:
    assert inside(Query(8), info(8, 7)) is None


def info(first: int, last: int) -> StreamInfo:
    return StreamInfo(
        config={},
        position=Position(first, last),
        messages=last + 1 - first,
        size_bytes=0,
        created="t",
        leader=None,
        replicas=1,
        live_replicas=1,
        categories={},
    )


async def test_what_is_on_its_way_is_bounded_by_bytes_and_nobody_is_passed_by() -> None:
    budget, log = Budget(24), list[str]()

    async def fetch(name: str, size: int, done: asyncio.Event) -> None:
        async with budget.spend(size):
            log.append(name)
            await done.wait()

    ends = {name: asyncio.Event() for name in "abcd"}
    sizes = {"a": 10, "b": 10, "c": 99, "d": 1}  # c wants more than all
    tasks = {
        name: asyncio.create_task(fetch(name, size, ends[name]))
        for name, size in sizes.items()
    }
    waits = {"a": "ab", "b": "ab", "c": "abc", "d": "abcd"}
    for name in "abcd":
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert "".join(log) == waits[name]
        ends[name].set()
        await tasks[name]
    async with budget.spend(24):  # all is given back
        pass


async def test_who_leaves_while_waiting_leaves_nothing_behind() -> None:
    budget = Budget(24)
    async with budget.spend(24):
        waiting = asyncio.create_task(budget.spend(1).__aenter__())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    async with asyncio.timeout(1), budget.spend(24):
        pass
