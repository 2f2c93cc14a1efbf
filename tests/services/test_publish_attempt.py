# SPDX-License-Identifier: Apache-2.0
"""Replies in a row, from a connection of the test's own: real ones come too late."""

from __future__ import annotations

import asyncio
import time
from itertools import repeat
from typing import TYPE_CHECKING, Any, cast

from sidecar import errors
from sidecar.errors import Outcome, Problem
from sidecar.model.decisions import Expected, InDoubt, Result, Stored
from sidecar.model.event import parse_event
from sidecar.model.producers import Failures
from sidecar.model.publish_reply import (
    Acknowledged,
    Disconnected,
    NoAnswer,
    NotSent,
    Observation,
    Position,
    Refused,
    StoredMessage,
    Unavailable,
)
from sidecar.services.publish_attempt import Context, PublishAttempt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sidecar.model.publish_reply import Answer

BODY = b'{"evcategory": "base", "eventtype": "added"}'
STORED = Acknowledged(42, duplicate=False)


class Scripted:
    """A supervisor with its parts and its connection, which give these replies."""

    def __init__(self, *replies: Answer) -> None:
        self.replies: Iterator[Answer] = iter(replies)
        self.dropped = 0
        self.cause = None
        self.leader = self.monitor = self
        self.outcomes: list[Outcome | None] = []
        self.doubts: dict[object, float] = {}
        self.seen: list[list[float]] = []
        self.stands: Observation | None = None

    def connection(self) -> Scripted:
        return self

    async def wait(self) -> Scripted:
        return self

    def drop(self, _: object) -> None:
        self.dropped += 1

    async def observe(self, _: int) -> Observation | None:
        """Say nothing, as a stream without a leader; or what the test has put there."""
        return self.stands

    def send(self, *rest: Any) -> None:
        self.seen.append(list(self.doubts.values()))
        cast("Callable[[Answer], None]", rest[-1])(next(self.replies))

    async def publish(self, *_: Any) -> Answer:
        self.seen.append(list(self.doubts.values()))
        return next(self.replies)

    def resolved(self, outcome: Outcome | None) -> None:
        self.outcomes.append(outcome)


async def outcome_of(
    parts: Scripted, seconds: float = 30.0, in_doubt: InDoubt = InDoubt.NO
) -> Result:
    everything = cast("Any", parts)
    context = Context(everything, everything, Failures(), everything, 2.0, parts.doubts)
    expected = Expected("mine", BODY, 41, in_doubt=in_doubt)
    attempt = PublishAttempt(
        context, parse_event(BODY), expected, time.monotonic() + seconds
    )
    ends: list[Result] = []
    attempt.send(ends.append)
    while context.tasks:
        await asyncio.wait(context.tasks)
    assert not parts.doubts
    (end,) = ends
    return end


def test_one_copy_settles_an_event_without_a_task() -> None:
    parts = Scripted(STORED)
    assert asyncio.run(outcome_of(parts)) == Stored(42, duplicate=False)
    assert len(parts.seen[0]) == 1
    assert parts.outcomes == []


def test_a_doubt_is_as_old_as_its_first_copy() -> None:
    parts = Scripted(NoAnswer(), Disconnected(), STORED)
    assert asyncio.run(outcome_of(parts)) == Stored(42, duplicate=False)
    assert len({tuple(each) for each in parts.seen}) == 1
    assert parts.dropped == 1
    assert parts.outcomes == [Outcome.STORED]


def test_a_copy_that_is_refused_has_no_age_any_more() -> None:
    parts = Scripted(Unavailable(), STORED)
    asyncio.run(outcome_of(parts))
    first, second = parts.seen
    assert second > first


def test_what_a_copy_left_open_is_unknown_when_the_time_is_up() -> None:
    parts = Scripted(NoAnswer(), Refused(errors.STREAM_FULL, 10077))
    problem = asyncio.run(outcome_of(parts, 0.2))
    assert isinstance(problem, Problem)
    assert problem.outcome is Outcome.UNKNOWN
    assert problem.reason is errors.STREAM_FULL
    assert parts.outcomes == [Outcome.UNKNOWN]


def test_what_an_atomic_batch_has_stored_is_not_sent_again() -> None:
    parts = Scripted()
    message = StoredMessage(42, "hermes.base", "mine", "", BODY)
    parts.stands = Observation(Position(1, 45), message)
    result = asyncio.run(outcome_of(parts, in_doubt=InDoubt.YES))
    assert (result, parts.seen) == (Stored(42, duplicate=True), [])


def test_what_an_atomic_batch_did_not_store_yet_is_sent() -> None:
    parts = Scripted(STORED)
    parts.stands = Observation(Position(1, 41), None)
    result = asyncio.run(outcome_of(parts, in_doubt=InDoubt.YES))
    assert result == Stored(42, duplicate=False)


def test_what_an_atomic_batch_may_store_is_never_said_not_to_be_stored() -> None:
    parts = Scripted()
    parts.replies = repeat(NotSent())  # however fast the machine is
    problem = asyncio.run(outcome_of(parts, 0.2, InDoubt.YES))
    assert isinstance(problem, Problem)
    assert problem.outcome is Outcome.UNKNOWN
