# SPDX-License-Identifier: Apache-2.0
"""Each row of the decision table, produced by a real nats-server at least once.

`copy` sends one copy and gives its answer; `publish` runs the table and its loop.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import uvloop
from chaos.servers import nats_server
from parts.jetstream import Operator, wait_jetstream
from parts.nats import NatsCluster, NatsProcess
from parts.process import wait_until
from parts.tasks import running

from sidecar import errors
from sidecar.errors import Outcome, Problem
from sidecar.jetstream.callbacks import await_callback
from sidecar.jetstream.connection import Connection
from sidecar.jetstream.credentials import NatsServer
from sidecar.model.decisions import Stored
from sidecar.model.event import LAST, Event, parse_event
from sidecar.model.reply import (
    Acknowledged,
    Answer,
    Disconnected,
    InProcess,
    NoAnswer,
    NotSent,
    Refused,
    TooLarge,
    Unavailable,
    Undecided,
    WrongLast,
)
from sidecar.model.stream import StreamPlan
from sidecar.services.daemon import Daemon
from sidecar.services.publisher import MAX_IN_FLIGHT
from sidecar.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from sidecar.errors import Cause
    from sidecar.services.publisher import Publisher

_USERS = """
authorization { users: [
  { user: all, password: all }
  { user: mute, password: mute, permissions: {
      publish: { deny: ["mute.>"] } } }
] }
"""


def event(body: str = "{}", category: str = "base") -> Event:
    document = json.dumps({"evcategory": category, "objattrs": body})
    return parse_event(document.encode())


def plan_of(name: str, prefix: str | None = None) -> StreamPlan:
    return StreamPlan(name, prefix or name, replicas=1, max_age_days=0)


@asynccontextmanager
async def connected(server: NatsServer, plan: StreamPlan) -> AsyncIterator[Connection]:
    connection = Connection(plan, "tests")
    await connection.open(server)
    try:
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def publishing(
    server: NatsServer, plan: StreamPlan, seconds: float = 10
) -> AsyncIterator[Publisher]:
    settings = Settings(
        stream=plan.name,
        subject_prefix=plan.subject_prefix,
        role="producer",
        publish_timeout_seconds=seconds,
    )
    daemon = Daemon(settings, server)
    async with running(daemon.run()):
        async with asyncio.timeout(20):
            await daemon.supervisor.wait()
        yield daemon.publisher


async def copy(
    connection: Connection,
    last: int,
    key: str = "k",
    what: Event | None = None,
    seconds: float = 2,
) -> Answer:
    return await connection.publish(what or event(), key, last, seconds)


async def copy_under_way(
    connection: Connection, last: int, key: str = "k"
) -> asyncio.Task[Answer]:
    """Send a copy and do not wait for its answer."""
    task = asyncio.create_task(copy(connection, last, key, seconds=20))
    await asyncio.sleep(0)  # one turn, in which it is written
    return task


async def assert_undecided(asked: asyncio.Task[Any]) -> None:
    """Give it time to come to a decision, which it must not."""
    done, _ = await asyncio.wait([asked], timeout=0.5)
    assert not done


async def published(
    publisher: Publisher, what: Event, key: str, last: int | str
) -> Stored:
    result: Stored | Problem = await await_callback(
        partial(publisher.start, what, key, last)
    )
    if isinstance(result, Problem):
        raise result
    return result


async def insisted(publisher: Publisher, what: Event, key: str, last: int) -> Stored:
    """Publish as a caller does who comes again while the outcome is unknown."""
    async with asyncio.timeout(30):
        while True:
            try:
                return await published(publisher, what, key, last)
            except Problem as problem:
                if problem.cause is not errors.UNKNOWN_OUTCOME:
                    raise


async def problem_of(
    publisher: Publisher,
    last: int | str,
    key: str = "k",
    what: Event | None = None,
) -> Problem:
    with pytest.raises(Problem) as caught:
        await published(publisher, what or event(), key, last)
    return caught.value


def other_failure(publisher: Publisher) -> Cause | None:
    """Say what /health knows of callers who are no hermes-server, as these here."""
    return publisher._failures.other(time.monotonic())


def assert_problem(problem: Problem, cause: Cause, outcome: Outcome) -> None:
    assert (problem.cause, problem.outcome) == (cause, outcome)


@pytest.fixture(scope="module")
def nats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsProcess]:
    """One server, whose user `all` is everybody who does not log in."""
    directory = tmp_path_factory.mktemp("nats")
    with NatsProcess(directory, extra=_USERS + "no_auth_user: all") as server:
        wait_jetstream(server.port)
        yield server


@pytest.fixture
def operator(nats: NatsProcess) -> Iterator[Operator]:
    with Operator(nats.port) as operator:
        yield operator


@pytest.fixture
def server(nats: NatsProcess) -> NatsServer:
    return NatsServer(urls=(nats.url,))


@pytest.fixture
def name(operator: Operator) -> str:
    """Give each test a stream of its own."""
    name = f"s{uuid.uuid4().hex[:12]}"
    operator.create(name)
    return name


# -- Acknowledgements ------------------------------------------------------------------


async def test_an_event_is_acknowledged_at_the_next_offset(
    server: NatsServer, name: str
) -> None:
    async with connected(server, plan_of(name)) as connection:
        assert await copy(connection, 0) == Acknowledged(1, duplicate=False)
        assert await copy(connection, 1, "k2") == Acknowledged(2, duplicate=False)


async def test_the_first_event_of_a_stream_follows_its_first_offset(
    server: NatsServer, operator: Operator
) -> None:
    operator.create("first", first_seq=1_795_427_233_892_123)
    async with connected(server, plan_of("first")) as connection:
        answer = await copy(connection, 1_795_427_233_892_122)
        assert answer == Acknowledged(1_795_427_233_892_123, duplicate=False)


async def test_a_repetition_on_one_server_is_a_wrong_last_and_stored(
    server: NatsServer, operator: Operator, name: str
) -> None:
    async with connected(server, plan_of(name)) as connection:
        await copy(connection, 0)
        # Before 2.12 the id is looked at first.
        repeated = (WrongLast(of_several=True), Acknowledged(1, duplicate=True))
        assert await copy(connection, 0) in repeated
    async with publishing(server, plan_of(name)) as publisher:
        assert await published(publisher, event(), "k", 0) == Stored(1, duplicate=True)
    assert operator.state(name)["messages"] == 1


async def test_a_repetition_is_stored_also_when_others_came_after_it(
    server: NatsServer, operator: Operator, name: str
) -> None:
    async with publishing(server, plan_of(name)) as publisher:
        await published(publisher, event(), "k", 0)
        operator.publish(f"{name}.base", b"{}")
        assert await published(publisher, event(), "k", 0) == Stored(1, duplicate=True)


async def test_a_repetition_after_the_duplicate_window_is_stored(
    server: NatsServer, operator: Operator
) -> None:
    operator.create("window", duplicate_window=100_000_000)
    async with publishing(server, plan_of("window")) as publisher:
        await published(publisher, event(), "k", 0)
        await published(publisher, event(), "k2", 1)

        def is_forgotten() -> bool:
            headers = {"Nats-Msg-Id": "k2"}
            answer = json.loads(operator.ask("window.base", b"{}", headers))
            return "duplicate" not in answer

        wait_until(is_forgotten)
        assert await published(publisher, event(), "k", 0) == Stored(1, duplicate=True)


async def test_a_key_used_at_another_offset_is_a_reused_key(
    server: NatsServer, operator: Operator, name: str
) -> None:
    async with connected(server, plan_of(name)) as connection:
        await copy(connection, 0)
        assert await copy(connection, 1) == Acknowledged(1, duplicate=True)
    async with publishing(server, plan_of(name)) as publisher:
        problem = await problem_of(publisher, 1)
        assert_problem(problem, errors.KEY_REUSED, Outcome.NOT_STORED)
        assert problem.members == {"offset": 1}
    assert operator.state(name)["messages"] == 1


async def test_a_key_with_other_bytes_is_a_reused_key(
    server: NatsServer, operator: Operator, name: str
) -> None:
    async with publishing(server, plan_of(name)) as publisher:
        await published(publisher, event("a=1"), "k", 0)
        problem = await problem_of(publisher, 0, what=event("a=2"))
        assert_problem(problem, errors.KEY_REUSED, Outcome.NOT_STORED)
    assert operator.bodies(name) == [event("a=1").body]


async def test_a_key_with_the_same_bytes_in_another_category_is_told_apart(
    server: NatsServer, name: str
) -> None:
    one = Event("base", None, None, b"{}")
    other = Event("initsync", None, None, b"{}")
    async with publishing(server, plan_of(name)) as publisher:
        await published(publisher, one, "k", 0)
        assert (await published(publisher, one, "k", 0)).duplicate
        assert (await published(publisher, other, "k2", 1)).offset == 2


async def test_anywhere_deduplicates_by_key_and_bytes(
    server: NatsServer, operator: Operator, name: str
) -> None:
    async with publishing(server, plan_of(name)) as publisher:
        assert await published(publisher, event(), "k", LAST) == Stored(
            1, duplicate=False
        )
        assert await published(publisher, event(), "k2", LAST) == Stored(2, False)
        assert await published(publisher, event(), "k", LAST) == Stored(
            1, duplicate=True
        )
        problem = await problem_of(publisher, LAST, what=event("other"))
        assert_problem(problem, errors.KEY_REUSED, Outcome.NOT_STORED)
    assert operator.state(name)["messages"] == 2


async def test_many_appends_at_once_are_each_stored_once(
    server: NatsServer, operator: Operator, name: str
) -> None:
    async with publishing(server, plan_of(name)) as publisher:
        stored = await asyncio.gather(
            *(published(publisher, event(str(n)), f"k{n}", LAST) for n in range(10))
        )
    assert sorted(one.offset for one in stored) == list(range(1, 11))
    assert operator.state(name)["messages"] == 10


async def test_a_duplicate_of_a_message_that_is_gone_stays_unknown(
    server: NatsServer, operator: Operator
) -> None:
    operator.create("gone", deny_delete=False)
    async with publishing(server, plan_of("gone")) as publisher:
        await published(publisher, event(), "k", LAST)
        await published(publisher, event(), "k2", LAST)
        operator.api("STREAM.MSG.DELETE.gone", {"seq": 1})
        problem = await problem_of(publisher, LAST)
        assert_problem(problem, errors.OFFSET_GONE, Outcome.UNKNOWN)
    assert operator.state("gone")["last_seq"] == 2


async def test_who_answers_in_place_of_the_stream_makes_a_doubt(
    nats: NatsProcess, server: NatsServer
) -> None:
    with Operator(nats.port) as impostor:
        impostor.answer_at("none.base")
        async with connected(server, plan_of("none")) as connection:
            for answer, meaning in (
                (b'{"stream":"none","seq":99}', Acknowledged(99, duplicate=False)),
                (b"+OK", Undecided(errors.FOREIGN_ANSWER)),
                (b'{"stream":"other","seq":1}', Undecided(errors.FOREIGN_ANSWER)),
            ):
                asked = asyncio.create_task(copy(connection, 0, seconds=20))
                reply, _ = await asyncio.to_thread(impostor.receive)
                impostor.send(reply, answer)
                assert await asked == meaning


# -- A wrong last sequence -------------------------------------------------------------


async def test_another_event_at_the_next_offset_refuses_ours_for_ever(
    server: NatsServer, operator: Operator, name: str
) -> None:
    operator.publish(f"{name}.base", b"{}", {"Nats-Msg-Id": "theirs"})
    operator.publish(f"{name}.base", b"{}")
    async with publishing(server, plan_of(name)) as publisher:
        problem = await problem_of(publisher, 0)
        assert_problem(problem, errors.PRECONDITION_FAILED, Outcome.NOT_STORED)
        assert problem.members == {"offset": 1, "key": "theirs", "last_offset": 2}
        problem = await problem_of(publisher, 1)
        assert problem.members == {"offset": 2, "key": None, "last_offset": 2}
        assert publisher._failures.second_writer_at is not None
    assert operator.state(name)["messages"] == 2


async def test_a_stream_that_ends_before_l_is_said_after_five_seconds_only(
    server: NatsServer, name: str
) -> None:
    async with publishing(server, plan_of(name), seconds=1) as publisher:
        started_at = time.monotonic()
        problem = await problem_of(publisher, 7)
        assert_problem(problem, errors.JETSTREAM_UNAVAILABLE, Outcome.NOT_STORED)
        while problem.cause is errors.JETSTREAM_UNAVAILABLE:
            assert time.monotonic() - started_at < 15
            problem = await problem_of(publisher, 7)
        assert time.monotonic() - started_at > 4
        assert_problem(problem, errors.OFFSET_AHEAD, Outcome.NOT_STORED)
        assert problem.members == {"first_offset": 1, "last_offset": 0}


async def test_an_offset_before_the_first_is_gone(
    server: NatsServer, operator: Operator
) -> None:
    operator.create("anew", first_seq=1000)
    async with publishing(server, plan_of("anew")) as publisher:
        problem = await problem_of(publisher, 5)
        assert_problem(problem, errors.OFFSET_GONE, Outcome.UNKNOWN)
        assert problem.members == {"first_offset": 1000, "last_offset": 999}
    assert operator.state("anew")["messages"] == 0


async def test_a_hole_at_the_next_offset_is_gone(
    server: NatsServer, operator: Operator
) -> None:
    operator.create("hole", deny_delete=False)
    for _ in range(3):
        operator.publish("hole.base", b"{}")
    operator.api("STREAM.MSG.DELETE.hole", {"seq": 2})
    async with publishing(server, plan_of("hole")) as publisher:
        problem = await problem_of(publisher, 1)
        assert_problem(problem, errors.OFFSET_GONE, Outcome.UNKNOWN)


async def test_a_newest_event_that_is_missing_is_unknown_until_one_stands_after_it(
    server: NatsServer, operator: Operator
) -> None:
    """To us it looks as if an old leader answered, who has not come as far."""
    operator.create("newest", deny_delete=False)
    for _ in range(2):
        operator.publish("newest.base", b"{}")
    operator.api("STREAM.MSG.DELETE.newest", {"seq": 2})
    async with publishing(server, plan_of("newest"), seconds=1) as publisher:
        problem = await problem_of(publisher, 1)
        assert_problem(problem, errors.UNKNOWN_OUTCOME, Outcome.UNKNOWN)
        operator.publish("newest.base", b"{}")
        problem = await problem_of(publisher, 1)
        assert_problem(problem, errors.OFFSET_GONE, Outcome.UNKNOWN)
    assert operator.state("newest")["last_seq"] == 3


# -- Refusals --------------------------------------------------------------------------


async def test_a_full_stream_is_called_full_and_takes_events_again_with_room(
    server: NatsServer, operator: Operator, name: str
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
    server: NatsServer, operator: Operator, name: str
) -> None:
    operator.update(name, max_bytes=200)
    async with publishing(server, plan_of(name)) as publisher:
        problem = await problem_of(publisher, 0, what=event("x" * 300))
        assert_problem(problem, errors.STREAM_FULL, Outcome.NOT_STORED)


async def test_an_event_over_the_streams_limit_is_too_large(
    server: NatsServer, operator: Operator, name: str
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
    server: NatsServer, operator: Operator, name: str
) -> None:
    operator.create(f"{name}_2", f"{name}_2")
    async with connected(server, plan_of(f"{name}_2", prefix=name)) as connection:
        answer = await copy(connection, 0)
        assert answer == Undecided(errors.FOREIGN_ANSWER)
    assert operator.state(name)["messages"] == 0


async def test_headers_count_for_the_servers_limit_and_the_connection_lives(
    server: NatsServer, operator: Operator, name: str
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


async def test_a_missing_right_to_publish_is_named_within_two_seconds(
    nats: NatsProcess, operator: Operator, tmp_path: Path
) -> None:
    operator.create("mute")
    password = tmp_path / "password"
    password.write_text("mute")
    user = NatsServer(urls=(nats.url,), user="mute", password_file=password)
    async with connected(user, plan_of("mute")) as connection:
        started_at = time.monotonic()
        assert await copy(connection, 0) == Refused(errors.NATS_PERMISSION)
        assert time.monotonic() - started_at < 1
    async with publishing(user, plan_of("mute")) as publisher:
        started_at = time.monotonic()
        problem = await problem_of(publisher, 0)
        assert_problem(problem, errors.NATS_PERMISSION, Outcome.NOT_STORED)
        assert time.monotonic() - started_at < 2
        assert other_failure(publisher) is errors.NATS_PERMISSION
    assert operator.state("mute")["messages"] == 0


async def test_a_server_without_room_is_called_full(tmp_path: Path) -> None:
    with NatsProcess(tmp_path, jetstream="max_file_store: 2MB") as small:
        wait_jetstream(small.port)
        server = NatsServer(urls=(small.url,))
        with Operator(small.port) as operator:
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
        with Operator(nats.port) as operator:
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
        with Operator(nats.port) as operator:
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
    server: NatsServer, operator: Operator, name: str
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
        with Operator(frozen.port) as operator:
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
        with Operator(frozen.port) as operator:
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
        with Operator(killed.port) as operator:
            operator.create("dead")
        server = NatsServer(urls=(killed.url,))
        async with connected(server, plan_of("dead")) as connection:
            killed.freeze()
            asked = await copy_under_way(connection, 0)
            killed.kill()
            started_at = time.monotonic()
            assert await asked == Disconnected()
            assert time.monotonic() - started_at < 1
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
        with Operator(killed.port) as operator:
            assert operator.state("dead")["messages"] == 1


# -- Three servers ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsCluster]:
    with NatsCluster(tmp_path_factory.mktemp("cluster")) as cluster:
        wait_jetstream(cluster.nodes[0].port)
        yield cluster


class Replicated:
    """A stream with three replicas, and who leads it."""

    def __init__(self, cluster: NatsCluster) -> None:
        self.name = f"r{uuid.uuid4().hex[:12]}"
        self._cluster = cluster
        wait_until(self._is_made, 30, "a stream on 3 servers")
        with Operator(cluster.nodes[0].port) as operator:
            wait_until(lambda: self._leader(operator), 30, "a leader")
            leader = self._leader(operator)
        self.leader = next(node for node in cluster.nodes if node.name == leader)
        self.followers = [node for node in cluster.nodes if node is not self.leader]
        self.server = NatsServer(urls=(self.leader.url,))
        self.plan = plan_of(self.name)

    def freeze_followers(self) -> None:
        """Leave the leader without a majority, so that nothing is committed."""
        for node in self.followers:
            node.freeze()

    def thaw_followers(self) -> None:
        for node in self.followers:
            node.thaw()

    def _is_made(self) -> bool:
        try:
            with Operator(self._cluster.nodes[0].port) as operator:
                operator.create(self.name, num_replicas=3)
        except (AssertionError, OSError):  # refused, or not answered
            return False
        return True

    def _leader(self, operator: Operator) -> str | None:
        info = operator.api(f"STREAM.INFO.{self.name}")
        cluster = info["cluster"]
        is_whole = all(one["current"] for one in cluster.get("replicas", [{}]))
        leader: str | None = cluster.get("leader")
        return leader if is_whole else None


@pytest.fixture
def replicated(cluster: NatsCluster) -> Iterator[Replicated]:
    try:
        yield Replicated(cluster)
    finally:
        for node in cluster.nodes:
            node.thaw()


async def test_a_repetition_on_three_servers_is_a_duplicate_at_its_offset(
    replicated: Replicated,
) -> None:
    async with connected(replicated.server, replicated.plan) as connection:
        assert await copy(connection, 0) == Acknowledged(1, duplicate=False)
        assert await copy(connection, 0) == Acknowledged(1, duplicate=True)
    async with publishing(replicated.server, replicated.plan) as publisher:
        assert await published(publisher, event(), "k", 0) == Stored(1, duplicate=True)
        problem = await problem_of(publisher, 0, what=event("other"))
        assert_problem(problem, errors.KEY_REUSED, Outcome.NOT_STORED)
        problem = await problem_of(publisher, 1)
        assert_problem(problem, errors.KEY_REUSED, Outcome.NOT_STORED)


async def test_a_copy_beside_one_under_way_is_in_process_and_resolves(
    replicated: Replicated,
) -> None:
    async with connected(replicated.server, replicated.plan) as connection:
        replicated.freeze_followers()
        first = await copy_under_way(connection, 0)
        assert await copy(connection, 0) == InProcess()
        async with publishing(replicated.server, replicated.plan) as publisher:
            asked = asyncio.create_task(published(publisher, event(), "k", 0))
            await assert_undecided(asked)
            assert publisher.oldest_doubt_at is not None
            replicated.thaw_followers()
            assert await asked == Stored(1, duplicate=True)
        assert await first == Acknowledged(1, duplicate=False)


async def test_an_event_proposed_and_not_yet_committed_is_waited_for(
    replicated: Replicated,
) -> None:
    async with connected(replicated.server, replicated.plan) as connection:
        replicated.freeze_followers()
        first = await copy_under_way(connection, 0, "theirs")
        # Before 2.12 it is proposed, too, and refused once a majority is back.
        assert await copy(connection, 0, "other") in (
            WrongLast(of_several=True),
            NoAnswer(),
        )
        async with publishing(replicated.server, replicated.plan) as publisher:
            asked = asyncio.create_task(problem_of(publisher, 0))
            await assert_undecided(asked)
            replicated.thaw_followers()
            problem = await asked
            assert_problem(problem, errors.PRECONDITION_FAILED, Outcome.NOT_STORED)
            assert problem.members["key"] == "theirs"
        await first


async def test_what_another_stream_answers_before_ours_is_no_refusal(
    replicated: Replicated,
) -> None:
    """As one of a leaf node does that takes the same subjects."""
    refusal = {"error": {"code": 400, "err_code": 10060}, "stream": "leaf", "seq": 0}
    async with publishing(replicated.server, replicated.plan) as publisher:
        with Operator(replicated.leader.port) as impostor:
            impostor.answer_at(f"{replicated.name}.base")
            replicated.freeze_followers()
            asked = asyncio.create_task(published(publisher, event(), "k", 0))
            reply, _ = await asyncio.to_thread(impostor.receive)
            impostor.send(reply, json.dumps(refusal).encode())
            await assert_undecided(asked)
            assert publisher.oldest_doubt_at is not None
            replicated.thaw_followers()
            assert (await asked).offset == 1


async def test_a_refusal_by_a_replicated_stream_is_a_doubt_that_says_why(
    replicated: Replicated,
) -> None:
    """Its leader may refuse what its followers store."""
    with Operator(replicated.leader.port) as operator:
        async with publishing(
            replicated.server, replicated.plan, seconds=2
        ) as publisher:
            await published(publisher, event(), "k", 0)
            operator.update(replicated.name, max_msgs=1)
            problem = await problem_of(publisher, 1, "k2")
            assert_problem(problem, errors.UNKNOWN_OUTCOME, Outcome.UNKNOWN)
            assert problem.members == {"reason": "stream_full", "jetstream_code": 10077}
            told = publisher._failures.other(time.monotonic())
            assert told is errors.STREAM_FULL
            operator.update(replicated.name, max_msgs=-1)
            assert (await insisted(publisher, event(), "k2", 1)).offset == 2


async def test_without_a_majority_it_is_unknown_until_the_majority_is_back(
    replicated: Replicated,
) -> None:
    async with publishing(replicated.server, replicated.plan, seconds=3) as publisher:
        replicated.freeze_followers()
        problem = await problem_of(publisher, 0)
        assert_problem(problem, errors.UNKNOWN_OUTCOME, Outcome.UNKNOWN)
        replicated.thaw_followers()
        assert (await insisted(publisher, event(), "k", 0)).offset == 1
        assert (await insisted(publisher, event(), "k2", 1)).offset == 2


async def test_a_stream_without_a_leader_is_unavailable(
    cluster: NatsCluster, replicated: Replicated
) -> None:
    survivor = replicated.followers[0]
    others = [node for node in cluster.nodes if node is not survivor]
    server = NatsServer(urls=(survivor.url,))
    async with connected(server, replicated.plan) as connection:
        assert await copy(connection, 0) == Acknowledged(1, duplicate=False)
        for node in others:
            node.kill()
        answers = [await copy(connection, 1, f"k{n}", seconds=0.5) for n in range(2)]
        for node in others:
            node.start()
        for node in others:
            node.wait()
        assert set(map(type, answers)) <= {Unavailable, NoAnswer}
    wait_jetstream(survivor.port, 60)
    async with publishing(replicated.server, replicated.plan, seconds=30) as publisher:
        tries = (published(publisher, event(), key, 1) for key in ("k0", "k1"))
        ends = await asyncio.gather(*tries, return_exceptions=True)
    stored = [end for end in ends if isinstance(end, Stored)]
    refused = [end for end in ends if isinstance(end, Problem)]
    assert [one.offset for one in stored] == [2]
    assert [one.cause for one in refused] == [errors.PRECONDITION_FAILED]
