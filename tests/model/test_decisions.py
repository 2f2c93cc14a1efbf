# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from sidecar import errors
from sidecar.errors import Cause, Outcome, Problem
from sidecar.model.decisions import (
    Expected,
    InDoubt,
    Inspect,
    Retry,
    Stored,
    decide,
    resolve,
    timed_out,
)
from sidecar.model.reply import (
    Acknowledged,
    Answer,
    Disconnected,
    InProcess,
    NoAnswer,
    NotSent,
    Observation,
    Position,
    Refused,
    StoredMessage,
    TooLarge,
    Unavailable,
    Undecided,
    WrongLast,
)

L = 41
DOUBTS = pytest.mark.parametrize("in_doubt", InDoubt)


def expected(in_doubt: InDoubt = InDoubt.NO, anywhere: bool = False) -> Expected:
    return Expected(
        key="mine", body=b"{}", last=L, anywhere=anywhere, in_doubt=in_doubt
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


# -- decide: what one answer leads to --------------------------------------------------


@DOUBTS
@pytest.mark.parametrize("anywhere", [False, True])
def test_an_acknowledgement_at_the_next_offset_is_stored(
    in_doubt: InDoubt, anywhere: bool
) -> None:
    step = decide(expected(in_doubt, anywhere), Acknowledged(L + 1, duplicate=False))
    assert step == Stored(L + 1, duplicate=False)


@DOUBTS
@pytest.mark.parametrize("anywhere", [False, True])
@pytest.mark.parametrize("sequence", [1, L, L + 2])
def test_an_acknowledgement_elsewhere_is_a_doubt(
    in_doubt: InDoubt, anywhere: bool, sequence: int
) -> None:
    step = decide(expected(in_doubt, anywhere), Acknowledged(sequence, duplicate=False))
    assert_again(step, InDoubt.YES, errors.FOREIGN_ANSWER)


@DOUBTS
@pytest.mark.parametrize("anywhere", [False, True])
def test_a_duplicate_at_the_next_offset_is_looked_at(
    in_doubt: InDoubt, anywhere: bool
) -> None:
    step = decide(expected(in_doubt, anywhere), Acknowledged(L + 1, duplicate=True))
    assert step == Inspect(L + 1, in_doubt=InDoubt.YES)


AT_LEAST_REFUSED = pytest.mark.parametrize(
    ("in_doubt", "afterwards"),
    [
        (InDoubt.NO, InDoubt.REFUSED),
        (InDoubt.REFUSED, InDoubt.REFUSED),
        (InDoubt.YES, InDoubt.YES),
    ],
)


@AT_LEAST_REFUSED
@pytest.mark.parametrize("anywhere", [False, True])
def test_a_duplicate_elsewhere_is_looked_at(
    in_doubt: InDoubt, afterwards: InDoubt, anywhere: bool
) -> None:
    """An old leader may know the id at a place where it never came to stand."""
    step = decide(expected(in_doubt, anywhere), Acknowledged(7, duplicate=True))
    assert step == Inspect(7, afterwards)


@AT_LEAST_REFUSED
@pytest.mark.parametrize("anywhere", [False, True])
def test_a_wrong_last_sequence_of_several_replicas_decides_nothing_by_itself(
    in_doubt: InDoubt, afterwards: InDoubt, anywhere: bool
) -> None:
    """The old leader of a partition says it of what the new one stores."""
    step = decide(expected(in_doubt, anywhere), WrongLast(of_several=True))
    assert step == Inspect(L + 1, afterwards)


@DOUBTS
@pytest.mark.parametrize("anywhere", [False, True])
def test_a_wrong_last_sequence_is_looked_at_and_leaves_the_doubt_as_it_was(
    in_doubt: InDoubt, anywhere: bool
) -> None:
    step = decide(expected(in_doubt, anywhere), WrongLast())
    assert step == Inspect(L + 1, in_doubt)


@DOUBTS
@pytest.mark.parametrize("anywhere", [False, True])
def test_an_id_under_way_is_looked_at_for_it_may_have_been_refused_for_good(
    in_doubt: InDoubt, anywhere: bool
) -> None:
    """As by nats-server 2.11 on several replicas: no repetition ends it."""
    step = decide(expected(in_doubt, anywhere), InProcess())
    leaves = max(in_doubt, InDoubt.REFUSED)
    assert_look(step, errors.JETSTREAM_UNAVAILABLE, None, 0.1, leaves)


@DOUBTS
@pytest.mark.parametrize(
    ("answer", "leaves", "cause"),
    [
        (NoAnswer(), InDoubt.YES, errors.JETSTREAM_UNAVAILABLE),
        (Disconnected(), InDoubt.YES, errors.JETSTREAM_UNAVAILABLE),
        (Unavailable(), InDoubt.NO, errors.JETSTREAM_UNAVAILABLE),
        (NotSent(), InDoubt.NO, errors.NATS_DOWN),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_copy_without_verdict_is_sent_again(
    answer: Answer, leaves: InDoubt, cause: Cause, in_doubt: InDoubt
) -> None:
    step = decide(expected(in_doubt), answer)
    assert_again(step, max(in_doubt, leaves), cause)


REFUSALS = pytest.mark.parametrize(
    ("answer", "cause", "members"),
    [
        (
            Refused(errors.STREAM_FULL, 10077),
            errors.STREAM_FULL,
            {"jetstream_code": 10077},
        ),
        (
            Refused(errors.STORAGE_FULL, 10023),
            errors.STORAGE_FULL,
            {"jetstream_code": 10023},
        ),
        (
            Refused(errors.EVENT_TOO_LARGE, 10054),
            errors.EVENT_TOO_LARGE,
            {"jetstream_code": 10054},
        ),
        (Refused(errors.NATS_PERMISSION), errors.NATS_PERMISSION, {}),
        (
            TooLarge(9, 8),
            errors.EVENT_TOO_LARGE,
            {"size_bytes": 9, "limit_bytes": 8},
        ),
    ],
)


@REFUSALS
def test_a_refusal_of_the_only_copy_is_final(
    answer: Answer, cause: Cause, members: dict[str, int]
) -> None:
    assert_problem(decide(expected(), answer), cause, Outcome.NOT_STORED, **members)


@REFUSALS
def test_a_refusal_after_an_unanswered_copy_proves_nothing(
    answer: Answer, cause: Cause, members: dict[str, int]
) -> None:
    step = decide(expected(in_doubt=InDoubt.YES), answer)
    assert_look(step, cause, members.get("jetstream_code"))


@DOUBTS
@pytest.mark.parametrize(
    ("cause", "code", "pause_seconds"),
    [
        (errors.STORAGE_FULL, 10023, 0.5),
        (errors.PUBLISH_REFUSED, None, 0.5),
        (errors.FOREIGN_ANSWER, None, 0.1),
    ],
)
def test_an_answer_that_decides_nothing_is_looked_at(
    in_doubt: InDoubt, cause: Cause, code: int | None, pause_seconds: float
) -> None:
    """Else who answers in the stream's place would hide for ever that it stands."""
    step = decide(expected(in_doubt), Undecided(cause, code))
    assert_look(step, cause, code, pause_seconds)


# -- resolve: what the leader shows at the next offset ---------------------------------


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


# -- Doubt -----------------------------------------------------------------------------


def test_what_was_refused_perhaps_by_an_old_leader_is_unknown_with_its_cause() -> None:
    problem = timed_out(
        InDoubt.REFUSED, errors.NATS_DOWN, errors.JETSTREAM_UNAVAILABLE, None
    )
    assert_problem(problem, errors.JETSTREAM_UNAVAILABLE, Outcome.UNKNOWN)


def test_what_is_not_stored_when_its_time_is_up_is_called_by_its_cause() -> None:
    problem = timed_out(InDoubt.NO, errors.NATS_DOWN, errors.STREAM_FULL, 10077)
    assert_problem(problem, errors.STREAM_FULL, Outcome.NOT_STORED)
    assert problem.reason is errors.STREAM_FULL


@pytest.mark.parametrize(
    ("bus_cause", "reason", "members"),
    [
        (
            None,
            errors.STORAGE_FULL,
            {"reason": "storage_full", "jetstream_code": 10023},
        ),
        (errors.NATS_DOWN, errors.NATS_DOWN, {"reason": "nats_down"}),
    ],
)
def test_an_unknown_outcome_has_a_reason_that_an_operator_can_mend(
    bus_cause: Cause | None, reason: Cause, members: dict[str, int | str | None]
) -> None:
    problem = timed_out(InDoubt.YES, bus_cause, errors.STORAGE_FULL, 10023)
    assert_problem(problem, errors.UNKNOWN_OUTCOME, Outcome.UNKNOWN, **members)
    assert problem.reason is reason


def test_an_expected_event_hides_its_body() -> None:
    one = Expected(key="mine", body=b"c0rrect-horse", last=L)
    assert "c0rrect" not in repr(one)


def assert_look(
    step: object,
    cause: Cause,
    code: int | None = None,
    pause_seconds: float = 0.5,
    in_doubt: InDoubt = InDoubt.YES,
) -> None:
    again = Retry(in_doubt, pause_seconds, cause, code)
    assert step == Inspect(L + 1, in_doubt=in_doubt, otherwise=again)


def assert_again(step: object, in_doubt: InDoubt, cause: Cause) -> None:
    assert isinstance(step, Retry)
    assert (step.in_doubt, step.cause) == (in_doubt, cause)
    assert 0 <= step.pause_seconds <= 0.5


def assert_problem(
    step: object, cause: Cause, outcome: Outcome, **members: int | str | None
) -> None:
    assert isinstance(step, Problem)
    assert step.cause is cause
    assert step.outcome is outcome
    assert step.members == members
