# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from sidecar.model.last_offset import LastOffset
from sidecar.model.publish_reply import Position
from sidecar.model.stream import StreamInfo


def info(
    last: int,
    leader: str | None = "n1",
    live: int = 3,
    created: str = "monday",
    replicas: int = 3,
) -> StreamInfo:
    return StreamInfo(
        config={},
        position=Position(1, last),
        messages=last,
        size_bytes=0,
        created=created,
        leader=leader,
        replicas=replicas,
        live_replicas=live,
        categories={},
    )


def asked(known: LastOffset, answer: StreamInfo, now: float) -> bool:
    """Ask, and be answered at once."""
    return known.takes(answer, known.least(now), now)


def agreed(last: int = 7, until: int = 10) -> LastOffset:
    """One leader has named the same last offset, once a second."""
    known = LastOffset()
    for second in range(until + 1):
        assert asked(known, info(last), second)
    return known


def test_nothing_is_settled_before_five_seconds_of_answers() -> None:
    known = LastOffset()
    assert known.settled(0) is None
    settled = []
    for second in range(7):
        assert asked(known, info(7), second)
        settled.append(known.settled(second))
    assert settled == [None] * 5 + [7, 7]


def test_a_stream_of_one_server_settles_too() -> None:
    known = LastOffset()
    for second in range(6):
        assert asked(known, info(7, leader=None, live=1, replicas=1), second)
    assert known.settled(5) == 7


@pytest.mark.parametrize(
    ("between", "is_believed"),
    [
        pytest.param(info(7, leader="n2"), True, id="another leader"),
        pytest.param(info(7, live=1), True, id="a leader without its majority"),
        pytest.param(info(7, leader=None), False, id="no leader"),
        pytest.param(info(7, created="friday"), True, id="another stream"),
    ],
)
def test_the_five_seconds_begin_anew_after(
    between: StreamInfo, is_believed: bool
) -> None:
    known = agreed()
    assert known.settled(10) == 7
    assert asked(known, between, 10.5) is is_believed
    assert known.settled(10.5) is None
    for second in range(11, 16):
        asked(known, info(7), second)
    assert known.settled(15.5) is None
    asked(known, info(7), 16)
    assert known.settled(16) == 7


@pytest.mark.parametrize(("gap", "settled"), [(2.0, 7), (2.1, None)])
def test_a_gap_begins_them_anew(gap: float, settled: int | None) -> None:
    known = agreed()
    assert known.settled(10 + gap) == settled
    asked(known, info(7), 10 + gap)
    assert known.settled(10 + gap) == settled


PROOFS = pytest.mark.parametrize("is_named", [True, False], ids=["named", "proven"])


@PROOFS
def test_an_answer_below_a_mark_is_an_old_leaders_for_five_seconds(
    is_named: bool,
) -> None:
    known = agreed()
    if is_named:
        asked(known, info(9), 10.5)
    else:
        known.proven(9, 10.5)
    for second in range(11, 16):
        assert not asked(known, info(8), second)
        assert known.settled(second) == 9
    assert not asked(known, info(8), 16)  # it was asked before that was settled
    assert known.settled(16) == 8
    assert asked(known, info(8), 17)


def test_those_seconds_count_only_after_the_last_proof() -> None:
    known = agreed()
    for second in range(10, 20):
        known.proven(9, second)
        assert not asked(known, info(8), second + 0.5)
        assert known.settled(second + 0.5) == 9


def test_a_lower_mark_stands_when_a_higher_one_has_ended() -> None:
    known = agreed()
    known.proven(20, 10)
    known.proven(15, 14)
    for second in range(11, 17):
        asked(known, info(8), second)
    assert known.settled(16) == 15
    for second in range(17, 20):
        asked(known, info(8), second)
    assert known.settled(19) == 8


def test_a_mark_outlives_an_outage() -> None:
    known = agreed()
    known.proven(9, 10)
    assert not asked(known, info(8, leader="n2"), 1000)
    for second in range(1001, 1006):
        assert known.settled(second) is None
        assert not asked(known, info(8, leader="n2"), second)
    assert known.settled(1005) == 8


def test_two_who_both_say_that_they_lead_settle_nothing() -> None:
    known = agreed()
    known.proven(9, 10)
    for second in range(11, 60):
        assert not asked(known, info(8, leader="n1"), second)
        assert asked(known, info(9, leader="n2"), second + 0.5)
        assert known.settled(second + 0.5) is None


def test_what_is_stored_while_an_answer_is_under_way_does_not_refute_it() -> None:
    known = agreed()
    least = known.least(10)
    known.proven(9, 10.1)
    assert known.takes(info(7), least, 10.2)
    assert known.least(10.2) == 9


def test_the_marks_of_a_stream_end_with_it() -> None:
    known = agreed()
    known.proven(9, 10)
    assert asked(known, info(0, created="friday"), 10.5)
    assert known.least(10.5) == 0
    assert known.settled(10.5) is None


def test_marks_take_no_room_while_events_are_stored() -> None:
    known = agreed()
    for offset in range(10_000):
        known.proven(offset, 10 + offset / 10_000)
    assert len(known._marks) == 1
