# SPDX-License-Identifier: Apache-2.0
"""Batches on real nats-servers: cut off at each event, and finished by a repetition.

One by one: these streams do not allow atomic batches, see test_atomic_real.py.
"""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING

import httpx
import pytest
from chaos.servers import VERSIONS, nats_server
from support.jetstream import RawNatsClient, wait_jetstream
from support.nats import NatsProcess
from support.process import wait_until
from support.publishing import plan_of, published, running_daemon
from support.sidecar import event, last_offset, post_batch, sequence, sidecar_on

from sidecar.errors import Problem
from sidecar.jetstream.callbacks import await_callback
from sidecar.model.decisions import Stored
from sidecar.model.event import parse_event
from sidecar.services.batches import Batch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.sidecar import SidecarProcess

    from sidecar.jetstream.credentials import NatsServer
    from sidecar.model.decisions import Result
    from sidecar.services.daemon import Daemon


TEXTS = [event("initsync", objpkey=number) for number in range(5)]
BASE = parse_event(event())


@pytest.fixture(scope="module", params=VERSIONS)
def nats(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[NatsProcess]:
    """One server of each version."""
    directory = tmp_path_factory.mktemp("nats")
    with NatsProcess(directory, binary=nats_server(request.param)) as server:
        wait_jetstream(server.port)
        yield server


async def stored(
    daemon: Daemon, *texts: bytes, key: str = "k", last: int = 0
) -> Result:
    batch = Batch(key, last, sequence(*texts), limit_bytes=10**6)
    return await await_callback(
        lambda on_done: daemon.batches.start(batch, on_done, 60)
    )


async def leave(daemon: Daemon, count: int) -> None:
    """Leave the stream as a sidecar does that dies after so many of a batch."""
    for last, text in enumerate(TEXTS[:count]):
        await published(daemon.publisher, parse_event(text), f"k.{last + 1}", last)


def members(result: Result) -> dict[str, object]:
    assert isinstance(result, Problem)
    document = result.document()
    names = ("code", "index", "outcome", "offset", "key")
    return {name: document[name] for name in names if name in document}


@pytest.mark.parametrize("count", range(len(TEXTS) + 1))
async def test_a_repetition_finishes_what_an_earlier_request_began(
    server: NatsServer, operator: RawNatsClient, name: str, count: int
) -> None:
    async with running_daemon(server, plan_of(name)) as daemon:
        await leave(daemon, count)
    async with running_daemon(server, plan_of(name)) as daemon:
        is_whole = count == len(TEXTS)
        assert await stored(daemon, *TEXTS) == Stored(5, duplicate=is_whole)
        assert await stored(daemon, *TEXTS) == Stored(5, duplicate=True)
    assert operator.bodies(name) == TEXTS
    assert _states(operator, name) == ["", "", "", "", ""]


@pytest.mark.parametrize("count", range(len(TEXTS)))
async def test_another_event_in_the_middle_ends_it_there(
    server: NatsServer, operator: RawNatsClient, name: str, count: int
) -> None:
    async with running_daemon(server, plan_of(name)) as daemon:
        await leave(daemon, count)
        await published(daemon.publisher, BASE, "theirs", count)
        for _ in range(2):
            assert members(await stored(daemon, *TEXTS)) == {
                "code": "precondition_failed",
                "index": count + 1,
                "outcome": "not_stored",
                "offset": count + 1,
                "key": "theirs",
            }
    assert operator.bodies(name) == [*TEXTS[:count], BASE.body]


@pytest.mark.parametrize("count", range(len(TEXTS)))
async def test_other_bytes_under_a_key_end_it_there(
    server: NatsServer, operator: RawNatsClient, name: str, count: int
) -> None:
    async with running_daemon(server, plan_of(name)) as daemon:
        await leave(daemon, len(TEXTS))
        texts = [*TEXTS]
        texts[count] = event("initsync", objpkey=99)
        assert members(await stored(daemon, *texts)) == {
            "code": "key_reused",
            "index": count + 1,
            "outcome": "not_stored",
            "offset": count + 1,
        }
    assert operator.bodies(name) == TEXTS


async def test_a_stop_that_another_wrote_is_never_followed_by_the_rest(
    server: NatsServer, operator: RawNatsClient, name: str
) -> None:
    """A chain written without waiting would go on behind it."""
    stop = event("initsync", eventtype="init-stop")
    async with running_daemon(server, plan_of(name)) as daemon:
        await published(daemon.publisher, parse_event(stop), "theirs", 0)
        assert members(await stored(daemon, *TEXTS))["index"] == 1
        for last in (2, 3, 4):
            problem = await stored(daemon, *TEXTS[1:], key=f"k{last}", last=last)
            assert isinstance(problem, Problem)
    assert operator.bodies(name) == [stop]


async def test_each_message_says_how_many_objects_came(
    server: NatsServer, operator: RawNatsClient, name: str
) -> None:
    start = parse_event(event("initsync", eventtype="init-start"))
    async with running_daemon(server, plan_of(name)) as daemon:
        await published(daemon.publisher, start, "s", 0)
        assert await stored(daemon, *TEXTS, last=1) == Stored(6, duplicate=False)
    assert _states(operator, name) == [f"open=1,{count}" for count in range(6)]


def _states(operator: RawNatsClient, name: str) -> list[str]:
    """Give Hermes-Initsync of each message."""
    states = []
    for sequence_ in range(1, operator.state(name)["last_seq"] + 1):
        request = json.dumps({"seq": sequence_}).encode()
        operator.send(f"$JS.API.DIRECT.GET.{name}", request, reply=operator.inbox)
        block = operator.receive_whole()[2].decode()
        (line,) = [each for each in block.split("\r\n") if "Hermes-Initsync" in each]
        states.append(line.partition(": ")[2])
    return states


def test_a_sidecar_killed_in_the_middle_is_finished_by_the_next(
    nats: NatsProcess, operator: RawNatsClient, tmp_path: Path
) -> None:
    texts = [event("initsync", objpkey=number) for number in range(1000)]
    name = f"killed{nats.port}"
    operator.create(name)
    first = sidecar_on(nats, tmp_path / "first", name)
    with first, first.client() as http:
        last = last_offset(http)

        def send() -> None:
            with pytest.raises(httpx.HTTPError), first.client() as other:
                post_batch(other, sequence(*texts), last, "k")

        sending = threading.Thread(target=send)
        sending.start()
        wait_until(lambda: operator.state(name)["messages"] > 50)
        first.kill()
        sending.join()
    count = operator.state(name)["messages"]
    assert 50 < count < 1000
    with sidecar_on(nats, tmp_path / "next", name) as process, process.client() as http:
        answer = post_batch(http, sequence(*texts), last, "k")
        assert (answer.status_code, answer.json()["offset"]) == (201, last + 1000)
        assert _bodies(http, last + 1) == texts


@pytest.mark.parametrize("version", VERSIONS)
def test_a_server_killed_in_the_middle_is_waited_for(
    tmp_path: Path, version: str
) -> None:
    texts = [event("initsync", objpkey=number) for number in range(1000)]
    with NatsProcess(tmp_path / "n", binary=nats_server(version)) as own:
        wait_jetstream(own.port)
        with RawNatsClient(own.port) as operator:
            operator.create("own")
        with sidecar_on(own, tmp_path / "s", "own") as process:
            with process.client() as http:
                last = last_offset(http)
            answers: list[httpx.Response] = []
            sending = threading.Thread(
                target=_insist, args=(process, sequence(*texts), last, answers)
            )
            sending.start()
            for least in (50, 200):
                _wait_messages(own, least)
                own.kill()
                own.start()
                own.wait()
            sending.join()
            assert answers[-1].json()["offset"] == last + 1000
            with process.client() as http:
                assert _bodies(http, last + 1) == texts


def _bodies(http: httpx.Client, offset: int) -> list[bytes]:
    """Give all events from an offset on."""
    answer = http.get("/v1/events", params={"offset": offset, "limit": 2000})
    return [row["data"].encode() for row in answer.raise_for_status().json()["events"]]


def _insist(
    process: SidecarProcess, body: bytes, last: int, answers: list[httpx.Response]
) -> None:
    """Post as a caller does that comes again with the same request."""
    with process.client(120) as http:
        while not answers or not answers[-1].is_success:
            answers.append(post_batch(http, body, last, "k"))


def _wait_messages(nats: NatsProcess, least: int) -> None:
    wait_jetstream(nats.port)
    with RawNatsClient(nats.port) as operator:
        wait_until(lambda: operator.state("own")["messages"] > least)
