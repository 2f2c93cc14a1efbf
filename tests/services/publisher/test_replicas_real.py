# SPDX-License-Identifier: Apache-2.0
"""Three servers: copies under way, a lost majority, a missing leader.

`copy` sends one copy and gives its answer; `publishing` runs the table and its loop.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from typing import TYPE_CHECKING

import pytest
from support.jetstream import RawNatsClient, wait_jetstream
from support.nats import NatsCluster
from support.process import wait_until
from support.publishing import (
    assert_problem,
    assert_undecided,
    connected,
    copy,
    copy_under_way,
    event,
    insisted,
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
    InProcess,
    NoAnswer,
    Unavailable,
    WrongLast,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


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
        with RawNatsClient(cluster.nodes[0].port) as operator:
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
            with RawNatsClient(self._cluster.nodes[0].port) as operator:
                operator.create(self.name, num_replicas=3)
        except (AssertionError, OSError):  # refused, or not answered
            return False
        return True

    def _leader(self, operator: RawNatsClient) -> str | None:
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
        with (
            RawNatsClient(replicated.leader.port) as impostor,
            RawNatsClient(replicated.leader.port) as witness,
        ):
            impostor.answer_at(f"{replicated.name}.base")
            replicated.freeze_followers()
            asked = asyncio.create_task(published(publisher, event(), "k", 0))
            reply, _ = await asyncio.to_thread(impostor.receive)
            witness.answer_at(reply)
            impostor.send(reply, json.dumps(refusal).encode())
            await asyncio.to_thread(witness.receive)  # so it was delivered
            await assert_undecided(asked)
            assert publisher.oldest_doubt_at is not None
            replicated.thaw_followers()
            assert (await asked).offset == 1


async def test_a_refusal_by_a_replicated_stream_is_a_doubt_that_says_why(
    replicated: Replicated,
) -> None:
    """Its leader may refuse what its followers store."""
    with RawNatsClient(replicated.leader.port) as operator:
        async with publishing(
            replicated.server, replicated.plan, seconds=2
        ) as publisher:
            await published(publisher, event(), "k", 0)
            operator.update(replicated.name, max_msgs=1)
            problem = await problem_of(publisher, 1, "k2")
            assert_problem(problem, errors.UNKNOWN_OUTCOME, Outcome.UNKNOWN)
            told = publisher._failures.other(time.monotonic())
            if told is errors.STREAM_UNFIT:  # a nats-server before 2.14: see nats.md
                assert problem.members == {"reason": "stream_unfit"}
                return
            assert told is errors.STREAM_FULL
            assert problem.members == {"reason": "stream_full", "jetstream_code": 10077}
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
