# SPDX-License-Identifier: Apache-2.0
"""Acknowledgements and wrong last sequences, by a real nats-server.

`copy` sends one copy and gives its answer; `publishing` runs the table and its loop.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING

from support.jetstream import RawNatsClient
from support.process import wait_until
from support.publishing import (
    assert_problem,
    connected,
    copy,
    event,
    plan_of,
    problem_of,
    published,
    publishing,
)

from sidecar import errors
from sidecar.errors import Outcome
from sidecar.model.decisions import Stored
from sidecar.model.event import LAST, Event
from sidecar.model.publish_reply import (
    Acknowledged,
    Undecided,
    WrongLast,
)

if TYPE_CHECKING:
    from support.nats import NatsProcess

    from sidecar.jetstream.credentials import NatsServer


# -- Acknowledgements ------------------------------------------------------------------


async def test_an_event_is_acknowledged_at_the_next_offset(
    server: NatsServer, name: str
) -> None:
    async with connected(server, plan_of(name)) as connection:
        assert await copy(connection, 0) == Acknowledged(1, duplicate=False)
        assert await copy(connection, 1, "k2") == Acknowledged(2, duplicate=False)


async def test_the_first_event_of_a_stream_follows_its_first_offset(
    server: NatsServer, operator: RawNatsClient
) -> None:
    operator.create("first", first_seq=1_795_427_233_892_123)
    async with connected(server, plan_of("first")) as connection:
        answer = await copy(connection, 1_795_427_233_892_122)
        assert answer == Acknowledged(1_795_427_233_892_123, duplicate=False)


async def test_a_repetition_on_one_server_is_a_wrong_last_and_stored(
    server: NatsServer, operator: RawNatsClient, name: str
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
    server: NatsServer, operator: RawNatsClient, name: str
) -> None:
    async with publishing(server, plan_of(name)) as publisher:
        await published(publisher, event(), "k", 0)
        operator.publish(f"{name}.base", b"{}")
        assert await published(publisher, event(), "k", 0) == Stored(1, duplicate=True)


async def test_a_repetition_after_the_duplicate_window_is_stored(
    server: NatsServer, operator: RawNatsClient
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
    server: NatsServer, operator: RawNatsClient, name: str
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
    server: NatsServer, operator: RawNatsClient, name: str
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
    server: NatsServer, operator: RawNatsClient, name: str
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
    server: NatsServer, operator: RawNatsClient, name: str
) -> None:
    async with publishing(server, plan_of(name)) as publisher:
        stored = await asyncio.gather(
            *(published(publisher, event(str(n)), f"k{n}", LAST) for n in range(10))
        )
    assert sorted(one.offset for one in stored) == list(range(1, 11))
    assert operator.state(name)["messages"] == 10


async def test_a_duplicate_of_a_message_that_is_gone_stays_unknown(
    server: NatsServer, operator: RawNatsClient
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
    with RawNatsClient(nats.port) as impostor:
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
    server: NatsServer, operator: RawNatsClient, name: str
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
            assert time.monotonic() - started_at < 60
            problem = await problem_of(publisher, 7)
        assert time.monotonic() - started_at > 4
        assert_problem(problem, errors.OFFSET_AHEAD, Outcome.NOT_STORED)
        assert problem.members == {"first_offset": 1, "last_offset": 0}


async def test_an_offset_before_the_first_is_gone(
    server: NatsServer, operator: RawNatsClient
) -> None:
    operator.create("anew", first_seq=1000)
    async with publishing(server, plan_of("anew")) as publisher:
        problem = await problem_of(publisher, 5)
        assert_problem(problem, errors.OFFSET_GONE, Outcome.UNKNOWN)
        assert problem.members == {"first_offset": 1000, "last_offset": 999}
    assert operator.state("anew")["messages"] == 0


async def test_a_hole_at_the_next_offset_is_gone(
    server: NatsServer, operator: RawNatsClient
) -> None:
    operator.create("hole", deny_delete=False)
    for _ in range(3):
        operator.publish("hole.base", b"{}")
    operator.api("STREAM.MSG.DELETE.hole", {"seq": 2})
    async with publishing(server, plan_of("hole")) as publisher:
        problem = await problem_of(publisher, 1)
        assert_problem(problem, errors.OFFSET_GONE, Outcome.UNKNOWN)


async def test_a_newest_event_that_is_missing_is_unknown_until_one_stands_after_it(
    server: NatsServer, operator: RawNatsClient
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
