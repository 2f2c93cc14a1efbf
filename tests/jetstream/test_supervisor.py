# SPDX-License-Identifier: Apache-2.0
"""The life of a bus whose NATS is not there, or not the leader that it says it is."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import pytest
from support.leader import Leader
from support.nats import NatsProcess, free_port
from support.process import wait_until
from support.tasks import running

from sidecar import errors
from sidecar.errors import Problem
from sidecar.jetstream.callbacks import await_callback
from sidecar.jetstream.credentials import NatsServer
from sidecar.jetstream.supervisor import StreamSupervisor
from sidecar.model.decisions import Stored
from sidecar.model.event import parse_event
from sidecar.model.stream import StreamPlan
from sidecar.services.daemon import Daemon
from sidecar.services.pages import Query
from sidecar.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
    from typing import Any

    from sidecar.errors import Cause

PLAN = StreamPlan("hermes", "hermes", 3, 0)


@pytest.fixture
def leader(plain: NatsProcess) -> Iterator[Leader]:
    with Leader(plain, "hermes", last=7) as leader:
        yield leader


@asynccontextmanager
async def serving(nats: NatsProcess) -> AsyncIterator[Daemon]:
    daemon = Daemon(Settings(), NatsServer((nats.url,)))
    async with running(daemon.run()), asyncio.timeout(60):
        for bus in daemon.supervisors:
            await bus.wait()
        yield daemon


async def until(holds: Callable[[], bool]) -> None:
    await asyncio.to_thread(wait_until, holds)


async def stored(daemon: Daemon, key: str, last: int) -> Stored:
    event = parse_event(json.dumps({"evcategory": "base", "key": key}).encode())
    result: Stored | Problem = await await_callback(
        partial(daemon.publisher.start, event, key, last)
    )
    if isinstance(result, Problem):
        raise result
    return result


async def cause_of(work: Coroutine[Any, Any, object]) -> Cause:
    with pytest.raises(Problem) as caught:
        await work
    return caught.value.cause


async def test_a_follower_that_answers_is_no_leader(
    plain: NatsProcess, leader: Leader
) -> None:
    bus = StreamSupervisor("test", NatsServer((plain.url,)), PLAN)
    async with running(bus.run()):
        await bus.wait()
        leader.cluster["replicas"][0]["name"] = "n1"  # its leader, among its replicas
        leader.last = 6
        unavailable = errors.JETSTREAM_UNAVAILABLE
        assert await cause_of(bus.leader.stream_info()) is unavailable
        assert await cause_of(bus.leader.position()) is unavailable
        assert await cause_of(bus.leader.categories()) is unavailable
        assert await bus.leader.observe(7) is None
        await until(
            lambda: bus.monitor.info is not None and not bus.monitor.info.has_leader
        )
        assert bus.monitor.info is not None
        assert bus.monitor.info.position.last == 7
        assert bus.monitor.recent_info() is None
        assert bus.monitor.cause is None  # it may be elected in a moment
        leader.cluster["replicas"][0]["name"] = "n2"
        leader.last = 7
        assert (await bus.leader.position()).last == 7


async def test_a_connection_is_fit_only_when_a_leader_has_answered(
    plain: NatsProcess, leader: Leader
) -> None:
    del leader.cluster["leader"]
    bus = StreamSupervisor("test", NatsServer((plain.url,)), PLAN)
    async with running(bus.run()), asyncio.timeout(30):
        await until(lambda: bus.monitor.cause is errors.JETSTREAM_UNAVAILABLE)
        leader.cluster["leader"] = "n1"
        await bus.wait()


async def test_an_event_that_stands_is_stored_while_an_old_leader_answers(
    plain: NatsProcess, leader: Leader
) -> None:
    """Else it is told `offset_ahead`, which is final, and comes again by a new key."""
    async with serving(plain) as daemon:
        await until(lambda: daemon.supervisor.monitor.settled_last() == 7)
        for last in range(7, 13):
            assert (await stored(daemon, f"k{last}", last)).offset == last + 1
        leader.lag = 5
        asyncio.get_running_loop().call_later(1, setattr, leader, "lag", 0)
        assert await stored(daemon, "k12", 12) == Stored(13, duplicate=True)


async def test_a_reader_of_what_was_stored_is_not_told_that_it_is_ahead(
    plain: NatsProcess, leader: Leader
) -> None:
    """What the writing connection has proven holds for the reading one."""
    async with serving(plain) as daemon:
        await until(
            lambda: all(bus.monitor.settled_last() == 7 for bus in daemon.supervisors)
        )
        for last in range(7, 13):
            await stored(daemon, f"k{last}", last)
        leader.lag = 5
        unavailable = errors.JETSTREAM_UNAVAILABLE
        assert await cause_of(daemon.reader.read(Query(14))) is unavailable
        assert await cause_of(daemon.supervisor.leader.stream_info()) is unavailable
        assert daemon.supervisor.monitor.info is not None
        leader.lag = 0
        assert (await daemon.reader.read(Query(14))).events == []


@pytest.mark.parametrize("by", ["page", "message"])
async def test_a_reader_of_what_a_follower_gave_is_not_told_that_it_is_ahead(
    plain: NatsProcess, leader: Leader, by: str
) -> None:
    """It has come farther than the leader that was elected a moment ago."""
    for _ in range(6):
        leader.store("hermes.base", b"NATS/1.0\r\n\r\n", b"{}")
    leader.lag = 5
    async with serving(plain) as daemon:
        await until(
            lambda: all(bus.monitor.settled_last() == 8 for bus in daemon.supervisors)
        )
        assert await cause_of(daemon.reader.read(Query(14))) is errors.OFFSET_AHEAD
        if by == "page":
            assert (await daemon.reader.read(Query(8))).next_offset == 14
        else:
            leader.lag = 0
            assert await daemon.supervisor.leader.message(13) is not None
            leader.lag = 5
        unavailable = errors.JETSTREAM_UNAVAILABLE
        assert await cause_of(daemon.reader.read(Query(14))) is unavailable


async def test_a_stream_that_was_restored_is_told_after_five_seconds(
    plain: NatsProcess, leader: Leader
) -> None:
    async with serving(plain) as daemon:
        await until(lambda: daemon.supervisor.monitor.settled_last() == 7)
        started_at = time.monotonic()  # before the last proof of the contrary
        await stored(daemon, "k7", 7)
        leader.last = 5
        cause = errors.JETSTREAM_UNAVAILABLE
        while cause is errors.JETSTREAM_UNAVAILABLE:
            cause = await cause_of(daemon.reader.read(Query(9)))
        assert cause is errors.OFFSET_AHEAD
        assert time.monotonic() - started_at >= 5
        assert await cause_of(stored(daemon, "k8", 8)) is errors.OFFSET_AHEAD
        assert (await daemon.supervisor.leader.position()).last == 5


@pytest.mark.parametrize(
    ("ages", "cause"), [(8, None), (10_000, errors.JETSTREAM_UNAVAILABLE)]
)
async def test_who_asks_for_the_first_event_is_never_told_that_it_is_gone(
    plain: NatsProcess, leader: Leader, ages: int, cause: Cause | None
) -> None:
    leader.last = 20_000
    async with serving(plain) as daemon:
        leader.ages = ages
        if cause is None:
            page = await daemon.reader.read(Query(None))
            assert (page.events, page.next_offset) == ([], ages + 1)
        else:
            assert await cause_of(daemon.reader.read(Query(None))) is cause
        assert await cause_of(daemon.reader.read(Query(1))) is errors.OFFSET_GONE


async def test_an_event_that_ages_out_between_two_questions_is_gone_and_no_hole(
    plain: NatsProcess, leader: Leader
) -> None:
    """As each replica removes it by its own clock, one that gives nothing comes first.

    Then the leader is asked where it begins, and what stands there.
    """
    async with serving(plain) as daemon:
        for last in range(7, 13):
            await stored(daemon, f"k{last}", last)
        bus = daemon.reader._supervisor
        await until(
            lambda: (
                bus.monitor.info is not None and bus.monitor.info.position.last == 13
            )
        )
        leader.first, leader.followers_first, leader.ages = 10, 11, 10
        assert await cause_of(daemon.reader.read(Query(10))) is errors.OFFSET_GONE


@pytest.mark.parametrize("turns", range(1, 60))
async def test_it_ends_when_it_is_told_to_at_whatever_step_of_a_connection(
    turns: int,
) -> None:
    """nats-py swallows a cancellation at some of them."""
    server = NatsServer((f"nats://127.0.0.1:{free_port()}",))
    bus = StreamSupervisor("test", server, StreamPlan("hermes", "hermes", 1, 0))
    running = asyncio.create_task(bus.run())
    for _ in range(turns):
        await asyncio.sleep(0)
    running.cancel()
    _, still_running = await asyncio.wait({running}, timeout=10)
    if still_running:
        running.cancel()
    assert not still_running
