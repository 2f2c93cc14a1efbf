# SPDX-License-Identifier: Apache-2.0
"""What is remembered of failed posts, by producer and by object, and what ends it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.failing import CURL, Q, Story, key, problem
from support.sidecar import PRODUCER as P

from sidecar import errors
from sidecar.errors import Outcome, Problem
from sidecar.model.producers import (
    FULL_SECONDS,
    GONE_SECONDS,
    MAX_OBJECTS,
    MAX_PRODUCERS,
    WARNING_SECONDS,
)

if TYPE_CHECKING:
    from sidecar.errors import Cause

LARGE = Problem(
    errors.EVENT_TOO_LARGE, Outcome.NOT_STORED, size_bytes=2000, limit_bytes=1000
)
DOWN = Problem(errors.NATS_DOWN, Outcome.NOT_STORED)


@pytest.fixture
def story() -> Story:
    return Story()


# -- Unable ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cause",
    [
        *(errors.NATS_DOWN, errors.JETSTREAM_UNAVAILABLE, errors.UNKNOWN_OUTCOME),
        *(errors.BUSY, errors.STOPPING, errors.INTERNAL, errors.OFFSET_AHEAD),
        *(errors.OFFSET_GONE, errors.STREAM_UNFIT, errors.SLOW_BODY),
    ],
)
def test_a_producer_is_unable_from_its_first_failure_to_its_own_success(
    story: Story, cause: Cause
) -> None:
    story.stored(Q)
    first = story.failed(P, problem(cause))
    since = story.now
    story.failed(P, problem(cause), key=first)
    story.stored(Q)
    story.stored(CURL)
    story.opened(P)
    failure = story.worst
    assert failure is not None
    assert (failure.cause, failure.since, failure.tries) == (cause, since, 1)
    assert not failure.is_blocked
    story.stored(P, pkey="another")
    assert story.worst is None


@pytest.mark.parametrize("silence", [181.0, GONE_SECONDS])
def test_a_failure_stands_until_the_next_try_however_late(
    story: Story, silence: float
) -> None:
    story.failed(P, DOWN)
    story.now += silence
    assert story.worst is not None
    story.now += GONE_SECONDS
    assert story.worst is None


def test_a_producer_that_comes_each_hour_is_not_gone(story: Story) -> None:
    story.failed(P, LARGE)
    for _ in range(3):
        story.now += GONE_SECONDS - 2
        story.opened(P)
    assert story.worst is not None


def test_a_request_that_goes_on_counts_from_its_first_copy(story: Story) -> None:
    story.failures.record_wait(key(P, 1), 900.0)
    failure = story.worst
    assert failure is not None
    assert (failure.since, failure.is_blocked) == (900.0, False)
    story.stored(P)
    assert story.worst is None
    story.failures.record_wait(CURL, 900.0)
    assert story.worst is None


def test_a_request_that_goes_on_is_not_gone_and_one_that_failed_may_be(
    story: Story,
) -> None:
    story.failures.record_wait(key(P, 1), story.now)
    story.now += GONE_SECONDS + 1
    assert story.worst is not None
    story.failed(P, DOWN)
    story.now += GONE_SECONDS + 1
    assert story.worst is None


def test_an_unable_producer_hides_no_blocked_one(story: Story) -> None:
    story.failed(P, DOWN)
    story.failed(Q, LARGE)
    failure = story.worst
    assert failure is not None
    assert failure.cause is errors.EVENT_TOO_LARGE


def test_who_cannot_open_is_unable_until_it_can(story: Story) -> None:
    story.opened(P, cause=errors.JETSTREAM_UNAVAILABLE)
    since = story.now
    story.opened(P, cause=errors.NATS_PERMISSION)
    failure = story.worst
    assert failure is not None
    assert (failure.cause, failure.since) == (errors.NATS_PERMISSION, since)
    story.opened(P)
    assert story.worst is None


# -- Blocked ---------------------------------------------------------------------------


def test_what_was_refused_for_good_stands_whatever_else_is_stored(story: Story) -> None:
    story.failed(P, LARGE, pkey="big", objtype="Groups")
    for pkey in range(3):
        story.stored(P, pkey=pkey)
    story.stored(P, pkey="big")  # another object: its type is Users
    story.stored(P, pkey="big", category="initsync", objtype="Groups")
    story.stored(P, eventtype="init-stop", category="initsync")
    story.opened(P)
    failure = story.worst
    assert failure is not None
    assert failure.is_blocked
    assert (failure.category, failure.name) == ("base", "Groups")
    assert (failure.size_bytes, failure.limit_bytes) == (2000, 1000)
    assert "big" not in repr(story.failures.__dict__)
    story.stored(P, pkey="big", objtype="Groups", eventtype="removed")
    assert story.worst is None


def test_what_fails_in_two_passes_is_blocked_for_any_cause(story: Story) -> None:
    unknown = Problem(errors.UNKNOWN_OUTCOME, Outcome.UNKNOWN)
    first = story.failed(P, unknown, pkey="slow")
    story.failed(P, unknown, pkey="slow", key=first)
    story.stored(P, pkey=1)
    assert story.worst is None
    story.failed(P, unknown, pkey="slow")
    story.stored(P, pkey=1)
    failure = story.worst
    assert failure is not None
    assert (failure.tries, failure.is_blocked) == (2, True)
    story.stored(P, pkey="slow")
    assert story.worst is None


def test_a_refused_body_of_which_nothing_is_known_waits_for_a_whole_pass(
    story: Story,
) -> None:
    story.failures.record_failure(key(P, 1), LARGE, b"", 1000.0, 1000.0)
    story.failures.record_failure(key(P, 2), DOWN, b"", 1001.0, 1001.0)
    story.stored(P)
    failure = story.worst
    assert failure is not None
    assert (failure.cause, failure.name) == (errors.EVENT_TOO_LARGE, None)
    story.opened(P, ";whole")
    assert story.worst is None


def test_a_pass_of_base_events_that_went_through_ends_all(story: Story) -> None:
    story.opened(Q)
    story.failed(P, LARGE)
    story.failed(P, LARGE, category="initsync")
    story.failed(P, DOWN, pkey=2)
    story.opened(P)
    story.opened(Q, ";whole")  # it was there before: no restart of P
    assert story.worst is not None
    story.opened(P, ";whole")
    assert story.worst is None


def test_an_initsync_that_went_through_ends_those_of_an_initsync(story: Story) -> None:
    story.failed(P, LARGE, category="initsync")
    story.stored(P, category="initsync", eventtype="init-start", objtype=None)
    story.stored(P, pkey=2, category="initsync")
    assert story.worst is not None
    story.stored(P, category="initsync", eventtype="init-stop", objtype=None)
    assert story.worst is None


def test_an_init_start_is_no_success_of_an_init_stop(story: Story) -> None:
    full = problem(errors.STREAM_FULL)
    story.failed(P, full, None, "initsync", eventtype="init-stop", objtype=None)
    story.stored(P, None, "initsync", eventtype="init-start", objtype=None)
    assert story.worst is not None


def test_a_new_producer_takes_the_place_of_one_that_is_silent_since(
    story: Story,
) -> None:
    story.failed(P, LARGE)
    story.opened(Q)
    story.failed(Q, DOWN, pkey=2)
    assert story.worst is not None
    assert story.worst.cause is errors.EVENT_TOO_LARGE
    story.stored(Q, pkey=2)
    assert story.worst is None


def test_a_pass_of_a_new_producer_is_enough(story: Story) -> None:
    story.failed(P, LARGE)
    story.opened(Q)
    assert story.worst is not None
    story.opened(Q, ";whole")
    assert story.worst is None


def test_two_that_live_side_by_side_clear_nothing_of_each_other(story: Story) -> None:
    story.stored(Q)
    story.failed(P, LARGE)
    story.stored(Q)
    assert story.worst is not None
    story.failed(P, LARGE)
    story.opened(Q, ";whole")
    assert story.worst is not None


# -- Nobody's, and those whose event stands --------------------------------------------


@pytest.mark.parametrize(
    ("cause", "is_told"),
    [
        (errors.EVENT_TOO_LARGE, True),
        (errors.PUBLISH_REFUSED, True),
        (errors.MALFORMED_JSON, False),
        (errors.ILLEGAL_CATEGORY, False),
    ],
)
def test_somebody_elses_failure_is_never_more_than_a_warning(
    story: Story, cause: Cause, is_told: bool
) -> None:
    for _ in range(3):
        story.failed(CURL, problem(cause))
    assert story.worst is None
    assert story.failures.other(story.now) == (cause if is_told else None)
    last = story.now + WARNING_SECONDS
    story.stored(P)
    assert story.failures.other(last) == (cause if is_told else None)
    assert story.failures.other(last + 1) is None
    story.stored(CURL)
    assert story.failures.other(story.now) is None


@pytest.mark.parametrize("cause", [errors.STREAM_FULL, errors.STORAGE_FULL])
@pytest.mark.parametrize("name", [P, CURL])
def test_that_there_is_no_room_is_told_whoever_met_it_until_somebody_stores(
    story: Story, cause: Cause, name: str
) -> None:
    story.stored(Q)
    for _ in range(3):
        story.failed(CURL, problem(cause))
    failure = story.worst
    assert failure is not None
    assert (failure.cause, failure.is_blocked) == (cause, True)
    story.stored(name)
    assert story.worst is None
    story.failed(CURL, problem(cause))
    story.now += FULL_SECONDS
    assert story.worst is not None
    story.now += 1
    assert story.worst is None


@pytest.mark.parametrize(
    ("ours", "theirs", "is_second"),
    [
        (key(P, 2), key(P, 1), False),
        (key(P, 2), key(Q, 1), True),
        (key(P, 2), CURL, True),
        (key(P, 2), None, True),
        (CURL, key(P, 1), True),
        (CURL, CURL, True),
        ("the-first", "the-second", True),
    ],
)
def test_a_second_writer_is_one_whose_keys_begin_otherwise(
    story: Story, ours: str, theirs: str | None, is_second: bool
) -> None:
    taken = Problem(errors.PRECONDITION_FAILED, Outcome.NOT_STORED, key=theirs)
    story.failed(P, taken, key=ours)
    assert (story.failures.second_writer_at == story.now) is is_second
    assert story.worst is None


def test_an_event_that_is_found_to_stand_has_not_failed(story: Story) -> None:
    unknown = Problem(errors.UNKNOWN_OUTCOME, Outcome.UNKNOWN)
    lost = story.failed(P, unknown)
    story.failures.record_wait(key(P, 99), story.now)
    story.failed(P, Problem(errors.PRECONDITION_FAILED, Outcome.NOT_STORED, key=lost))
    assert story.worst is None
    story.failed(P, unknown)
    story.stored(P, pkey=2)
    assert story.worst is None  # it failed once, not twice


def test_another_writers_event_ends_no_failure(story: Story) -> None:
    story.failed(P, DOWN)
    story.failed(
        P, Problem(errors.PRECONDITION_FAILED, Outcome.NOT_STORED, key=key(Q, 1))
    )
    assert story.worst is not None


def test_a_refused_caller_is_told_for_ten_minutes_whoever_comes_next(
    story: Story,
) -> None:
    story.failures.record_refused_caller(errors.UNAUTHORIZED, story.now)
    story.stored(P)
    story.failed(P, problem(errors.WRONG_ROLE))
    assert story.worst is None
    assert story.failures.refused_caller(story.now) is errors.WRONG_ROLE
    assert story.failures.refused_caller(story.now + WARNING_SECONDS) is not None
    assert story.failures.refused_caller(story.now + WARNING_SECONDS + 1) is None


# -- Bounds ----------------------------------------------------------------------------


def test_of_many_producers_the_oldest_that_is_well_goes_first(story: Story) -> None:
    story.failed(P, LARGE)
    for count in range(2 * MAX_PRODUCERS):
        story.opened(f"{count:08x}-4b5a-4c6d-8e7f-")
    assert len(story.failures._producers) == MAX_PRODUCERS
    assert story.worst is not None


def test_of_many_objects_the_oldest_goes_first(story: Story) -> None:
    for pkey in range(MAX_OBJECTS + 1):
        story.failed(P, LARGE, pkey=pkey)
    for pkey in range(1, MAX_OBJECTS + 1):
        assert story.worst is not None
        story.stored(P, pkey=pkey)
    assert story.worst is None


@pytest.mark.parametrize("header", ["", "x", f"{P}x", P.upper(), f" {P}", f"x;{P}"])
def test_a_header_that_names_no_producer_says_nothing(
    story: Story, header: str
) -> None:
    story.opened(header, cause=errors.NATS_DOWN)
    assert story.failures._producers == {}
