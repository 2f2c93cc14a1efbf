# SPDX-License-Identifier: Apache-2.0
"""Atomic batches (NATS ADR-50): each reply of a real nats-server, and what follows."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest
from chaos.servers import VERSIONS, nats_server
from support.jetstream import RawNatsClient, wait_jetstream
from support.nats import NatsProcess
from support.process import wait_until
from support.publishing import connected, plan_of, published, running_daemon
from support.sidecar import event, sequence

from sidecar import errors
from sidecar.errors import Problem
from sidecar.jetstream.callbacks import await_callback
from sidecar.jetstream.credentials import NatsServer
from sidecar.model.batch import MAX_EVENTS
from sidecar.model.decisions import Stored
from sidecar.model.event import parse_event
from sidecar.model.publish_reply import Acknowledged, Disconnected, NoAnswer, Undecided
from sidecar.services.batches import Batch

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from sidecar.jetstream.connection import Connection
    from sidecar.model.decisions import Result
    from sidecar.model.publish_reply import Answer
    from sidecar.services.daemon import Daemon

COUNT = 40
TEXTS = [event("initsync", objpkey=number) for number in range(COUNT)]
BASE = parse_event(event())


ATOMIC = [each for each in VERSIONS if not each.startswith("2.11.")]


@pytest.fixture(scope="module", params=ATOMIC)
def binary(request: pytest.FixtureRequest) -> Path:
    """Give each version that knows atomic batches."""
    return nats_server(request.param)


@pytest.fixture(scope="module")
def nats(
    binary: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[NatsProcess]:
    with NatsProcess(tmp_path_factory.mktemp("nats"), binary=binary) as server:
        wait_jetstream(server.port)
        yield server


@pytest.fixture
def name(operator: RawNatsClient, name: str) -> str:
    """Let each test's stream allow them."""
    operator.update(name, allow_atomic=True)
    return name


async def atomic(
    connection: Connection, last: int, count: int = 3, key: str = "k"
) -> Answer:
    events = [
        (f"{key}.{number}", parse_event(text))
        for number, text in enumerate(TEXTS[:count], 1)
    ]
    return await connection.publish_atomic(events, last, 1.0)


async def stored(daemon: Daemon, *, key: str = "k", last: int = 0) -> Result:
    batch = Batch(key, last, sequence(*TEXTS), limit_bytes=10**6)
    return await await_callback(
        lambda on_done: daemon.batches.start(batch, on_done, 60)
    )


def refused(code: int) -> Undecided:
    return Undecided(errors.PUBLISH_REFUSED, code)


def batch_ids(operator: RawNatsClient, name: str) -> list[str]:
    """Give the batch of each message, or "" for none."""
    found = []
    for number in range(1, operator.state(name)["last_seq"] + 1):
        request = json.dumps({"seq": number}).encode()
        operator.send(f"$JS.API.DIRECT.GET.{name}", request, reply=operator.inbox)
        block = operator.receive_whole()[2].decode()
        lines = [each for each in block.split("\r\n") if "Nats-Batch-Id" in each]
        found.append(lines[0].partition(": ")[2] if lines else "")
    return found


# -- Replies ---------------------------------------------------------------------------


async def test_a_batch_is_acknowledged_at_its_last_offset(
    server: NatsServer, operator: RawNatsClient, name: str
) -> None:
    async with connected(server, plan_of(name)) as connection:
        assert await atomic(connection, 0) == Acknowledged(3, duplicate=False)
        assert await atomic(connection, 3, 5, "l") == Acknowledged(8, duplicate=False)
    assert operator.bodies(name) == [*TEXTS[:3], *TEXTS[:5]]


async def test_what_is_refused_is_refused_whole(
    server: NatsServer, operator: RawNatsClient, name: str
) -> None:
    async with connected(server, plan_of(name)) as connection:
        await atomic(connection, 0)
        assert await atomic(connection, 2, key="wrong-last") == refused(10071)
        assert await atomic(connection, 9, key="ahead") == refused(10071)
        # The server looks at the ids or at the last offset first.
        assert await atomic(connection, 0) in (refused(10201), refused(10071))
        assert await atomic(connection, 3) == refused(10201)
        operator.update(name, allow_atomic=False)
        assert await atomic(connection, 3, key="not-allowed") == refused(10174)
    assert operator.state(name)["messages"] == 3


async def test_a_stream_without_room_takes_no_part_of_it(
    server: NatsServer, operator: RawNatsClient, name: str
) -> None:
    operator.update(name, max_msgs=5)
    async with connected(server, plan_of(name)) as connection:
        await atomic(connection, 0)
        answer = await atomic(connection, 3, key="full")
        assert isinstance(answer, (Undecided, NoAnswer))
    state = operator.state(name)
    # Nothing, or a part that fits: the stream says which.
    assert state["messages"] in (3, 5)


async def test_what_has_a_gap_or_no_end_or_too_many_is_never_stored(
    operator: RawNatsClient, name: str
) -> None:
    assert _raw(operator, name, [1, 3], commit=3) == 10176
    assert _raw(operator, name, range(1, MAX_EVENTS + 2), commit=MAX_EVENTS + 1) == (
        10199
    )
    _raw(operator, name, [1, 2, 3], commit=None)
    assert operator.state(name)["messages"] == 0


def _raw(
    operator: RawNatsClient, name: str, numbers: Iterable[int], commit: int | None
) -> int:
    """Send a batch by hand; give the code of the error that answers its last one."""
    for number in numbers:
        headers = {"Nats-Batch-Id": f"b{commit}", "Nats-Batch-Sequence": str(number)}
        if number == 1:
            headers["Nats-Expected-Last-Sequence"] = "0"
        if commit is None:
            headers["Nats-Msg-Id"] = f"k.{number}"
        if number == commit:
            headers["Nats-Batch-Commit"] = "1"
            reply = json.loads(operator.ask(f"{name}.initsync", b"{}", headers))
            return int(reply["error"]["err_code"])
        operator.send(f"{name}.initsync", b"{}", headers)
    return 0


async def test_each_says_of_its_place_and_of_the_scan(
    server: NatsServer, name: str
) -> None:
    start = parse_event(event("initsync", eventtype="init-start"))
    async with running_daemon(server, plan_of(name)) as daemon:
        await published(daemon.publisher, start, "s", 0)
        assert await stored(daemon, last=1) == Stored(COUNT + 1, duplicate=False)
        leader = daemon.supervisor.leader
        for sequence in (2, 3, COUNT + 1):
            message = await leader.message(sequence)
            assert message is not None
            assert message.after == sequence - 1
            assert message.initsync == f"open=1,{sequence - 1}"


async def test_what_is_not_permitted_ends_the_connection(
    tmp_path: Path, binary: Path
) -> None:
    """The server refuses each message: the next refusal could be another event's."""
    user = '{ user: all, password: all, permissions: { publish: { deny: "no.>" } } }'
    denied = f"no_auth_user: all, authorization {{ users: [{user}] }}"
    with NatsProcess(tmp_path, extra=denied, binary=binary) as own:
        async with connected(NatsServer((own.url,)), plan_of("no")) as connection:
            assert await atomic(connection, 0) == Disconnected()
            assert connection.lost.is_set()
            assert connection.cause is errors.NATS_PERMISSION


# -- What follows ----------------------------------------------------------------------


async def test_many_events_are_stored_at_once_and_a_repetition_finds_them(
    server: NatsServer, operator: RawNatsClient, name: str
) -> None:
    async with running_daemon(server, plan_of(name)) as daemon:
        assert await stored(daemon) == Stored(COUNT, duplicate=False)
        assert await stored(daemon) == Stored(COUNT, duplicate=True)
        assert daemon.publisher.oldest_doubt_at is None
        after = parse_event(event("initsync", eventtype="init-stop"))
        await published(daemon.publisher, after, "stop", COUNT)
    assert operator.bodies(name)[:-1] == TEXTS
    first, *others = batch_ids(operator, name)
    assert first
    assert others == [*[first] * (COUNT - 1), ""]


async def test_a_stream_that_no_longer_allows_it_gets_them_one_by_one(
    server: NatsServer, operator: RawNatsClient, name: str
) -> None:
    async with running_daemon(server, plan_of(name)) as daemon:
        operator.update(name, allow_atomic=False)
        assert daemon.supervisor.connection().allows_atomic
        assert await stored(daemon) == Stored(COUNT, duplicate=False)
    assert operator.bodies(name) == TEXTS
    assert set(batch_ids(operator, name)) == {""}


async def test_an_id_that_stands_elsewhere_is_a_reused_key_with_its_index(
    server: NatsServer, operator: RawNatsClient, name: str
) -> None:
    async with running_daemon(server, plan_of(name)) as daemon:
        await published(daemon.publisher, BASE, "k.20", 0)
        result = await stored(daemon, last=1)
    assert isinstance(result, Problem)
    assert (result.cause, result.members["index"]) == (errors.KEY_REUSED, 20)
    assert operator.bodies(name) == [BASE.body, *TEXTS[:19]]


async def test_another_event_that_came_before_it_refuses_all(
    server: NatsServer, operator: RawNatsClient, name: str
) -> None:
    one = parse_event(event("initsync"))
    async with running_daemon(server, plan_of(name)) as daemon:
        await published(daemon.publisher, one, "one", 0)  # so the scan is known
        operator.publish(f"{name}.base", b"{}", {"Nats-Msg-Id": "theirs"})
        result = await stored(daemon, last=1)
    assert isinstance(result, Problem)
    assert result.cause is errors.PRECONDITION_FAILED
    assert (result.members["index"], result.members["key"]) == (1, "theirs")
    assert operator.state(name)["messages"] == 2


async def test_what_a_dead_sidecar_left_without_an_end_hinders_nothing(
    server: NatsServer, operator: RawNatsClient, name: str
) -> None:
    _raw(operator, name, [1, 2, 3], commit=None)
    async with running_daemon(server, plan_of(name)) as daemon:
        assert await stored(daemon) == Stored(COUNT, duplicate=False)
    assert operator.bodies(name) == TEXTS


async def test_a_batch_that_lands_late_is_found_and_not_sent_again(
    tmp_path: Path, binary: Path
) -> None:
    """As where the server is frozen for longer than the batch is waited for."""
    with NatsProcess(tmp_path, binary=binary) as own:
        wait_jetstream(own.port)
        with RawNatsClient(own.port) as operator:
            operator.create("late", allow_atomic=True)
        server = NatsServer((own.url,))
        async with running_daemon(server, plan_of("late"), seconds=30) as daemon:
            start = parse_event(event("initsync", eventtype="init-start"))
            await published(daemon.publisher, start, "s", 0)
            own.freeze()
            task = asyncio.create_task(stored(daemon, last=1))
            supervisor, used = daemon.supervisor, daemon.supervisor.connection()
            await asyncio.to_thread(wait_until, lambda: supervisor._fit is not used)
            assert daemon.publisher.oldest_doubt_at is not None
            own.thaw()
            result = await asyncio.wait_for(task, 60)
        assert isinstance(result, Stored)
        with RawNatsClient(own.port) as operator:
            assert operator.bodies("late") == [start.body, *TEXTS]


@pytest.mark.parametrize("least", [0, 200, 400])
async def test_a_server_killed_meanwhile_holds_each_event_once(
    tmp_path: Path, binary: Path, least: int
) -> None:
    with NatsProcess(tmp_path, binary=binary) as own:
        wait_jetstream(own.port)
        with RawNatsClient(own.port) as operator:
            operator.create("killed", allow_atomic=True)
        server = NatsServer((own.url,))
        async with running_daemon(server, plan_of("killed"), seconds=30) as daemon:

            async def store_all() -> None:
                for number in range(20):
                    last, result = number * COUNT, None
                    while not isinstance(result, Stored):
                        result = await stored(daemon, key=f"k{number}", last=last)

            task = asyncio.create_task(store_all())
            monitor = daemon.supervisor.monitor
            await asyncio.to_thread(wait_until, lambda: monitor.proven_last() >= least)
            own.kill()
            own.start()
            await asyncio.wait_for(task, 120)
        with RawNatsClient(own.port) as operator:
            assert operator.bodies("killed") == TEXTS * 20
