# SPDX-License-Identifier: Apache-2.0
"""What a real nats-server refuses, and what it leaves without an answer.

`copy` sends one copy and gives its answer; `publishing` runs the table and its loop.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import pytest
import uvloop
from chaos.servers import nats_server
from support.jetstream import RawNatsClient, wait_jetstream
from support.nats import NatsProcess
from support.process import wait_until
from support.publishing import (
    assert_problem,
    connected,
    copy,
    copy_under_way,
    event,
    other_failure,
    plan_of,
    problem_of,
    published,
    publishing,
)

from sidecar import errors
from sidecar.errors import Outcome, Problem
from sidecar.jetstream.credentials import NatsServer
from sidecar.model.decisions import Stored
from sidecar.model.publish_reply import (
    Acknowledged,
    Disconnected,
    NoAnswer,
    NotSent,
    Refused,
    TooLarge,
    Unavailable,
    Undecided,
)
from sidecar.services.publisher import MAX_IN_FLIGHT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


# -- Refusals --------------------------------------------------------------------------


async def test_a_full_stream_is_called_full_and_takes_events_again_with_room(
    server: NatsServer, operator: RawNatsClient, name: str
) -> None:
    async with publishing(server, plan_of(name)) as publisher:
        await published(publisher, event(), "k", 0)
        operator.update(name, max_msgs=1)
        problem = await problem_of(publisher, 1, "k2")
        assert_problem(problem, errors.STREAM_FULL, Outcome.NOT_STORED)
        assert problem.members == {"jetstream_code": 10077}
        assert other_failure(publisher) is errors.STREAM_FULL
        operator.update(name, max_msgs=-1)
        assert await published(publisher, event(), "k2", 1) == Stored(
            2, duplicate=False
        )
        assert other_failure(publisher) is None


async def test_a_stream_full_by_bytes_is_called_full(
    server: NatsServer, operator: RawNatsClient, name: str
) -> None:
    operator.update(name, max_bytes=200)
    async with publishing(server, plan_of(name)) as publisher:
        problem = await problem_of(publisher, 0, what=event("x" * 300))
        assert_problem(problem, errors.STREAM_FULL, Outcome.NOT_STORED)


async def test_an_event_over_the_streams_limit_is_too_large(
    server: NatsServer, operator: RawNatsClient, name: str
) -> None:
    operator.update(name, max_msg_size=500)
    async with connected(server, plan_of(name)) as connection:
        answer = await copy(connection, 0, what=event("x" * 450))
        assert answer == Undecided(errors.EVENT_TOO_LARGE, 10054)
        connection.is_replicated = False
        answer = await copy(connection, 0, what=event("x" * 450))
        assert answer == Refused(errors.EVENT_TOO_LARGE, 10054)
    async with publishing(server, plan_of(name)) as publisher:
        problem = await problem_of(publisher, 0, what=event("x" * 450))
        assert_problem(problem, errors.EVENT_TOO_LARGE, Outcome.NOT_STORED)
        assert problem.members["limit_bytes"] == 500
        assert (await published(publisher, event(), "k", 0)).offset == 1


async def test_another_stream_on_the_subject_decides_nothing_of_ours(
    server: NatsServer, operator: RawNatsClient, name: str
) -> None:
    operator.create(f"{name}_2", f"{name}_2")
    async with connected(server, plan_of(f"{name}_2", prefix=name)) as connection:
        answer = await copy(connection, 0)
        assert answer == Undecided(errors.FOREIGN_ANSWER)
    assert operator.state(name)["messages"] == 0


async def test_headers_count_for_the_servers_limit_and_the_connection_lives(
    server: NatsServer, operator: RawNatsClient, name: str
) -> None:
    async with connected(server, plan_of(name)) as connection:
        limit = connection.limit_bytes
        assert limit == 8 * 1024 * 1024
        frame = len(event("").body)
        too_large = event("x" * (limit - frame))
        answer = await copy(connection, 0, what=too_large)
        assert isinstance(answer, TooLarge)
        assert answer.limit_bytes == limit
        headers_bytes = answer.size_bytes - len(too_large.body)
        assert headers_bytes > 50
        largest = event("x" * (limit - frame - headers_bytes))
        answer = await copy(connection, 0, what=largest, seconds=10)
        assert answer == Acknowledged(1, duplicate=False)
        one_more = event("x" * (limit - frame - headers_bytes + 1))
        assert isinstance(await copy(connection, 1, "k2", one_more), TooLarge)
        assert await copy(connection, 1, "k3") == Acknowledged(2, duplicate=False)
    assert operator.state(name)["messages"] == 2


async def test_a_missing_right_to_publish_is_named_at_once(
    nats: NatsProcess, operator: RawNatsClient, tmp_path: Path
) -> None:
    operator.create("mute")
    password = tmp_path / "password"
    password.write_text("mute")
    user = NatsServer(urls=(nats.url,), user="mute", password_file=password)
    async with connected(user, plan_of("mute")) as connection:
        async with asyncio.timeout(60):
            answer = await copy(connection, 0, seconds=300)
        assert answer == Refused(errors.NATS_PERMISSION)
    async with publishing(user, plan_of("mute"), seconds=300) as publisher:
        async with asyncio.timeout(60):
            problem = await problem_of(publisher, 0)
        assert_problem(problem, errors.NATS_PERMISSION, Outcome.NOT_STORED)
        assert other_failure(publisher) is errors.NATS_PERMISSION
    assert operator.state("mute")["messages"] == 0


async def test_a_server_without_room_is_called_full(tmp_path: Path) -> None:
    with NatsProcess(tmp_path, jetstream="max_file_store: 2MB") as small:
        wait_jetstream(small.port)
        server = NatsServer(urls=(small.url,))
        with RawNatsClient(small.port) as operator:
            operator.create("small")
        async with publishing(server, plan_of("small")) as publisher:
            large = event("x" * 900_000)
            last = 0
            with suppress(Problem):
                while last < 10:
                    last = (await published(publisher, large, f"k{last}", last)).offset
            problem = await problem_of(publisher, last, "more", large)
            assert_problem(problem, errors.STORAGE_FULL, Outcome.NOT_STORED)
            assert problem.members == {"jetstream_code": 10023}
            assert other_failure(publisher) is errors.STORAGE_FULL


# -- No answer -------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["2.12.8", "2.15.1"])
async def test_a_write_that_fails_on_the_servers_disk_is_in_doubt_and_resolves(
    tmp_path: Path, version: str
) -> None:
    """2.12 answers 10077, as for a full stream; 2.15 nothing more until a restart."""
    photo = event("x" * 900_000)
    with NatsProcess(tmp_path, binary=nats_server(version)) as nats:
        wait_jetstream(nats.port)
        with RawNatsClient(nats.port) as operator:
            operator.create("disk")
        server = NatsServer((nats.url,))
        with without_directory(tmp_path, "data/jetstream/*/streams/disk/msgs"):
            async with connected(server, plan_of("disk")) as connection:
                last = 0  # until a file of 8 MB is full and another is to be made
                answer = await copy(connection, last, f"k{last}", photo)
                while isinstance(answer, Acknowledged):
                    last = answer.sequence
                    answer = await copy(connection, last, f"k{last}", photo)
        undecided = Undecided(errors.PUBLISH_REFUSED, 10077)
        assert answer == (undecided if version == "2.12.8" else NoAnswer())
        assert last > 1
        if version == "2.15.1":
            nats.stop()
            nats.start()
            nats.wait()
            wait_jetstream(nats.port)
        async with publishing(server, plan_of("disk")) as publisher:
            stored = await published(publisher, photo, f"k{last}", last)
        assert stored.offset == last + 1
        with RawNatsClient(nats.port) as operator:
            assert operator.state("disk")["messages"] == last + 1


@contextmanager
def without_directory(below: Path, pattern: str) -> Iterator[None]:
    (directory,) = below.glob(pattern)
    directory.rename(directory.with_name("gone"))
    yield
    directory.with_name("gone").rename(directory)


async def test_no_stream_on_the_subject_means_that_the_copy_reached_nobody(
    server: NatsServer,
) -> None:
    async with connected(server, plan_of("nobody")) as connection:
        assert await copy(connection, 0) == Unavailable()


async def test_a_stream_that_vanishes_is_not_stored_in(
    server: NatsServer, operator: RawNatsClient, name: str
) -> None:
    async with publishing(server, plan_of(name), seconds=2) as publisher:
        operator.delete(name)
        problem = await problem_of(publisher, 0)
        assert problem.outcome is Outcome.NOT_STORED
        assert problem.cause in (errors.JETSTREAM_UNAVAILABLE, errors.STREAM_MISSING)


async def test_a_closed_connection_sends_nothing(server: NatsServer, name: str) -> None:
    async with connected(server, plan_of(name)) as connection:
        await connection.close()
        assert await copy(connection, 0) == NotSent()


@pytest.mark.parametrize("turns", range(6))
def test_a_socket_that_was_closed_a_moment_ago_is_a_disconnection_and_no_error(
    server: NatsServer, name: str, turns: int
) -> None:
    """The loop knows of it before nats-py does, and raises what nats-py does not."""

    async def copy_into_it() -> None:
        async with connected(server, plan_of(name)) as connection:
            connection._client.abort()
            for _ in range(turns):
                await asyncio.sleep(0)
            assert await copy(connection, 0) in (Disconnected(), NotSent())
            assert not connection.requests._waiting

    uvloop.run(copy_into_it())


async def test_a_frozen_server_leaves_it_unknown_until_the_same_request_resolves_it(
    tmp_path: Path,
) -> None:
    with NatsProcess(tmp_path) as frozen:
        wait_jetstream(frozen.port)
        with RawNatsClient(frozen.port) as operator:
            operator.create("cold")
            server = NatsServer(urls=(frozen.url,))
            async with connected(server, plan_of("cold")) as connection:
                frozen.freeze()
                assert await copy(connection, 0, "lost", seconds=0.3) == NoAnswer()
                frozen.thaw()
                wait_until(lambda: operator.state("cold")["messages"] == 1)
            async with publishing(server, plan_of("cold"), seconds=1) as publisher:
                frozen.freeze()
                problem = await problem_of(publisher, 1)
                assert_problem(problem, errors.UNKNOWN_OUTCOME, Outcome.UNKNOWN)
                assert publisher.oldest_doubt_at is None
                frozen.thaw()
                wait_until(lambda: operator.state("cold")["messages"] == 2)
                await (
                    publisher._supervisor.wait()
                )  # the doubtful connection was dropped
                assert (await published(publisher, event(), "k", 1)).offset == 2
            assert operator.state("cold")["messages"] == 2


async def test_a_publish_too_many_is_told_to_come_again(tmp_path: Path) -> None:
    with NatsProcess(tmp_path) as frozen:
        wait_jetstream(frozen.port)
        with RawNatsClient(frozen.port) as operator:
            operator.create("busy")
        server = NatsServer(urls=(frozen.url,))
        async with publishing(server, plan_of("busy"), seconds=1) as publisher:
            frozen.freeze()
            ends = await asyncio.gather(
                *(
                    published(publisher, event(), f"k{n}", 0)
                    for n in range(MAX_IN_FLIGHT)
                ),
                problem_of(publisher, 0, "one too many"),
                return_exceptions=True,
            )
            frozen.thaw()
            *unknown, busy = [end for end in ends if isinstance(end, Problem)]
            assert_problem(busy, errors.BUSY, Outcome.NOT_STORED)
            assert [end.cause for end in unknown] == [
                errors.UNKNOWN_OUTCOME
            ] * MAX_IN_FLIGHT
            assert publisher.in_flight == 0
            assert b'refused_total{code="busy"} 1.0' in publisher._metrics.text()


async def test_a_killed_server_ends_a_publish_at_once_and_it_resolves_after_restart(
    tmp_path: Path,
) -> None:
    with NatsProcess(tmp_path) as killed:
        wait_jetstream(killed.port)
        with RawNatsClient(killed.port) as operator:
            operator.create("dead")
        server = NatsServer(urls=(killed.url,))
        async with connected(server, plan_of("dead")) as connection:
            killed.freeze()
            asked = await copy_under_way(connection, 0)
            killed.kill()
            assert await asked == Disconnected()  # not NoAnswer, 20 s later
        killed.start()
        killed.wait()
        async with publishing(server, plan_of("dead")) as publisher:
            killed.freeze()
            asked_again = asyncio.create_task(published(publisher, event(), "k", 0))
            await asyncio.sleep(0)
            assert publisher.oldest_doubt_at is not None  # the copy has left
            killed.kill()
            killed.start()
            assert (await asked_again).offset == 1
        with RawNatsClient(killed.port) as operator:
            assert operator.state("dead")["messages"] == 1
