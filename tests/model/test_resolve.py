# SPDX-License-Identifier: Apache-2.0
"""`resolve` as a table: what the leader shows at the next offset."""

from __future__ import annotations

import pytest
from support.decisions import DOUBTS, L, assert_again, assert_problem, expected

from sidecar import errors
from sidecar.errors import Outcome
from sidecar.model.decisions import (
    InDoubt,
    Stored,
    resolve,
)
from sidecar.model.publish_reply import (
    Observation,
    Position,
    StoredMessage,
)


def message(
    key: str | None = "mine", body: bytes = b"{}", at: int = L + 1
) -> StoredMessage:
    return StoredMessage(at, "hermes.base", key, "t", body)


def observation(
    first: int = 1,
    last: int = L + 1,
    message: StoredMessage | None = None,
    settled_last: int | None = None,
) -> Observation:
    return Observation(Position(first, last), message, settled_last)


@DOUBTS
def test_our_key_with_our_bytes_there_is_stored(in_doubt: InDoubt) -> None:
    step = resolve(expected(in_doubt), L + 1, observation(message=message()))
    assert step == Stored(L + 1, duplicate=True)


@DOUBTS
def test_our_key_with_our_bytes_at_another_offset_is_stored_there(
    in_doubt: InDoubt,
) -> None:
    step = resolve(
        expected(in_doubt, anywhere=True), 7, observation(message=message(at=7))
    )
    assert step == Stored(7, duplicate=True)


@DOUBTS
def test_our_key_with_other_bytes_there_is_a_reused_key(in_doubt: InDoubt) -> None:
    step = resolve(expected(in_doubt), L + 1, observation(message=message(body=b"[]")))
    assert_problem(step, errors.KEY_REUSED, Outcome.NOT_STORED, offset=L + 1)


@pytest.mark.parametrize(
    ("in_doubt", "outcome"),
    [(InDoubt.REFUSED, Outcome.NOT_STORED), (InDoubt.YES, Outcome.UNKNOWN)],
)
def test_our_key_elsewhere_was_used_before(in_doubt: InDoubt, outcome: Outcome) -> None:
    step = resolve(expected(in_doubt), 7, observation(message=message(at=7)))
    assert_problem(step, errors.KEY_REUSED, outcome, offset=7)


@DOUBTS
@pytest.mark.parametrize("anywhere", [False, True])
def test_another_key_where_ours_was_said_to_stand_decides_nothing(
    in_doubt: InDoubt, anywhere: bool
) -> None:
    seen = observation(message=message("theirs", at=7))
    step = resolve(expected(in_doubt, anywhere), 7, seen)
    assert_again(step, InDoubt.YES, errors.JETSTREAM_UNAVAILABLE)


@DOUBTS
@pytest.mark.parametrize("key", ["theirs", None])
def test_another_event_there_means_that_ours_never_can_be(
    in_doubt: InDoubt, key: str | None
) -> None:
    step = resolve(
        expected(in_doubt), L + 1, observation(last=L + 3, message=message(key))
    )
    assert_problem(
        step,
        errors.PRECONDITION_FAILED,
        Outcome.NOT_STORED,
        offset=L + 1,
        key=key,
        last_offset=L + 3,
    )


@DOUBTS
@pytest.mark.parametrize(
    "seen",
    [
        observation(first=L + 2, last=L + 9),  # aged out
        observation(first=L + 2, last=L + 1),  # purged: an empty stream after it
        observation(first=1, last=L + 2, message=message(at=L + 2)),  # a hole inside
        observation(first=L + 100, last=L + 99, settled_last=L + 99),  # made anew
    ],
)
def test_an_offset_that_was_taken_and_is_gone_stays_unknown(
    in_doubt: InDoubt, seen: Observation
) -> None:
    step = resolve(expected(in_doubt), L + 1, seen)
    assert_problem(
        step,
        errors.OFFSET_GONE,
        Outcome.UNKNOWN,
        first_offset=seen.position.first,
        last_offset=seen.position.last,
    )


@DOUBTS
@pytest.mark.parametrize("last", [L + 1, L + 9])
@pytest.mark.parametrize("settled_last", [None, L, L + 9])
def test_a_leader_that_has_not_come_as_far_as_the_position_is_asked_again(
    in_doubt: InDoubt, last: int, settled_last: int | None
) -> None:
    """Else an event that stands is taken for gone, and sent again by a new key."""
    seen = observation(last=last, settled_last=settled_last)
    assert_again(
        resolve(expected(in_doubt), L + 1, seen),
        InDoubt.YES,
        errors.JETSTREAM_UNAVAILABLE,
    )


@DOUBTS
@pytest.mark.parametrize("first", [1, L + 1], ids=["events before it", "none"])
@pytest.mark.parametrize("settled_last", [None, L, L - 1])
def test_a_message_proposed_and_not_yet_there_is_waited_for(
    in_doubt: InDoubt, first: int, settled_last: int | None
) -> None:
    seen = observation(first, last=L, settled_last=settled_last)
    step = resolve(expected(in_doubt), L + 1, seen)
    assert_again(step, InDoubt.YES, errors.JETSTREAM_UNAVAILABLE)


@DOUBTS
@pytest.mark.parametrize("settled_last", [None, L, L + 5])
def test_a_stream_that_ends_before_l_is_not_believed_at_once(
    in_doubt: InDoubt, settled_last: int | None
) -> None:
    step = resolve(
        expected(in_doubt), L + 1, observation(last=L - 1, settled_last=settled_last)
    )
    assert_again(step, in_doubt, errors.JETSTREAM_UNAVAILABLE)


@pytest.mark.parametrize(
    ("in_doubt", "outcome"),
    [
        (InDoubt.NO, Outcome.NOT_STORED),
        (InDoubt.REFUSED, Outcome.NOT_STORED),
        (InDoubt.YES, Outcome.UNKNOWN),
    ],
)
def test_a_stream_that_ends_before_l_for_good_is_said(
    in_doubt: InDoubt, outcome: Outcome
) -> None:
    step = resolve(
        expected(in_doubt), L + 1, observation(last=L - 1, settled_last=L - 1)
    )
    assert_problem(
        step, errors.OFFSET_AHEAD, outcome, first_offset=1, last_offset=L - 1
    )
