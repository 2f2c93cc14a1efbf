# SPDX-License-Identifier: Apache-2.0
"""`decide` as a table: what one reply leads to, and how long a doubt lasts."""

from __future__ import annotations

import pytest
from support.decisions import (
    DOUBTS,
    L,
    assert_again,
    assert_look,
    assert_problem,
    expected,
)

from sidecar import errors
from sidecar.errors import Cause, Outcome
from sidecar.model.decisions import (
    Expected,
    InDoubt,
    Inspect,
    Stored,
    decide,
    timed_out,
)
from sidecar.model.publish_reply import (
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
