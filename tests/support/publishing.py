# SPDX-License-Identifier: Apache-2.0
"""Publishes to a real stream, one copy or through the decision table."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from sidecar import errors
from sidecar.errors import Outcome, Problem
from sidecar.jetstream.callbacks import await_callback
from sidecar.jetstream.connection import Connection
from sidecar.model.event import Event, parse_event
from sidecar.model.stream import StreamPlan
from sidecar.services.daemon import Daemon
from sidecar.settings import Settings

from .tasks import running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sidecar.errors import Cause
    from sidecar.jetstream.credentials import NatsServer
    from sidecar.model.decisions import Stored
    from sidecar.model.publish_reply import (
        Answer,
    )
    from sidecar.services.publisher import Publisher


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
async def running_daemon(
    server: NatsServer, plan: StreamPlan, seconds: float = 10
) -> AsyncIterator[Daemon]:
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
        yield daemon


@asynccontextmanager
async def publishing(
    server: NatsServer, plan: StreamPlan, seconds: float = 10
) -> AsyncIterator[Publisher]:
    async with running_daemon(server, plan, seconds) as daemon:
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
