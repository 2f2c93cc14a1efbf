# SPDX-License-Identifier: Apache-2.0
"""What a reader may be told: each row of the table of `evidence`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sidecar import errors
from sidecar.model.evidence import (
    SILENT,
    UNASKED,
    AskCopy,
    Asked,
    AskFirst,
    AskLeader,
    AskNewest,
    Came,
    Copies,
    Ended,
    Refuse,
    Retry,
    Said,
    Serve,
    agreed,
    contiguous,
    decide,
    jumps,
)
from sidecar.model.publish_reply import Position, StoredMessage

if TYPE_CHECKING:
    from sidecar.model.evidence import End, Silent, Step

POSITION = Position(3, 20)
ALL, BASE = Asked(5), Asked(5, "base")


def stored(
    sequence: int,
    previous: int = 0,
    after: int | None = None,
    subject: str = "hermes.base",
) -> StoredMessage:
    return StoredMessage(sequence, subject, None, "t", b"", previous, after=after)


def came(*sequences: int, end: End = "marked") -> Came:
    pairs = zip(sequences, (0, *sequences), strict=False)
    return Came([stored(*pair) for pair in pairs], end)


def said(
    message: StoredMessage | int | None,
    position: Position = POSITION,
    first_again: int | None = None,
    newest: Came | None = None,
) -> Said:
    found = stored(message) if isinstance(message, int) else message
    return Said(position, found, first_again, newest)


def newest(*sequences: int, last: int = 0) -> Came:
    """Give what is the newest of base, of a copy that ends there."""
    return Came([stored(sequence) for sequence in sequences], "marked", last)


def leaders(message: StoredMessage | int) -> Serve:
    found = stored(message) if isinstance(message, int) else message
    return Serve([found], is_leaders=True)


DISPLACED = stored(5, after=7)
FOREIGN = stored(5, subject="hermes.\ufffdt\ufffd")
GONE, HOLE = Refuse(errors.OFFSET_GONE, 5), Refuse(errors.HOLE, 5)


@pytest.mark.parametrize(
    ("asked", "came", "said", "step"),
    [
        # All categories: a copy is asked first.
        (ALL, None, None, AskCopy(5)),
        (ALL, came(5, 6, 7), None, Serve(came(5, 6, 7).messages)),
        (ALL, came(5, 6, 8), None, Serve(came(5, 6).messages)),
        (ALL, came(5, end="late"), None, Serve(came(5).messages)),
        (ALL, came(5, end="stranger"), None, Serve(came(5).messages)),
        (ALL, came(5, end="unreadable"), None, Serve(came(5).messages)),
        # What it does not give is asked of the leader.
        (ALL, came(), None, AskLeader()),
        (ALL, came(6, 7), None, AskLeader()),
        (ALL, came(4, 5), None, AskLeader()),
        (ALL, came(end="late"), None, AskLeader()),
        (ALL, came(end="stranger"), None, AskLeader()),
        (ALL, came(end="unreadable"), None, AskLeader()),
        (ALL, UNASKED, None, AskLeader()),
        (ALL, Came([DISPLACED], "marked"), None, AskLeader()),
        # The leader has it: read it there.
        (ALL, came(), said(5), leaders(5)),
        (ALL, came(6), said(5), leaders(5)),
        (ALL, UNASKED, said(5), leaders(5)),
        (ALL, came(), said(5, Position(5, 20)), leaders(5)),
        (ALL, came(), said(5, Position(3, 5)), leaders(5)),
        (ALL, came(end="stranger"), said(5), leaders(5)),
        (ALL, Came([DISPLACED], "marked"), said(5), leaders(5)),
        (ALL, came(), said(DISPLACED), Refuse(errors.DISPLACED, 5)),
        (ALL, came(), said(FOREIGN), Refuse(errors.UNREADABLE, 5)),
        # It has it not: what stands after a hole, and then its ends again.
        (ALL, came(), said(9), AskFirst()),
        (ALL, came(9), said(9), AskFirst()),
        (ALL, came(9), said(9, first_again=3), HOLE),
        (ALL, came(9), said(9, first_again=5), HOLE),
        (ALL, came(9), said(9, first_again=6), GONE),
        (ALL, came(9), said(9, first_again=9), GONE),
        (ALL, came(), said(None, Position(6, 20)), GONE),
        (ALL, came(), said(9, Position(9, 20)), GONE),
        # Its two answers do not fit, or there is none: nobody knows.
        (ALL, came(), said(None), Retry()),
        (ALL, came(), said(None, Position(3, 4)), Retry()),
        (ALL, came(), said(5, Position(3, 4)), Retry()),
        (ALL, came(), SILENT, Retry()),
        (ALL, came(9), SILENT, Retry()),
        # One category: the leader says first where it goes on.
        (BASE, None, None, AskLeader()),
        (BASE, None, said(5), AskCopy(5)),
        (BASE, None, said(9), AskCopy(9)),
        # It finds nothing more, which an old leader says, too: what the copy shows.
        (BASE, None, said(None), AskNewest()),
        (BASE, None, said(None, newest=newest(4, last=20)), Ended()),
        (BASE, None, said(None, newest=newest(4, last=21)), Ended()),
        (BASE, None, said(None, newest=newest(4, last=19)), Retry()),
        (BASE, None, said(None, newest=newest(5, last=20)), Retry()),
        (BASE, None, said(None, newest=newest(4)), Retry()),
        (BASE, None, said(None, newest=UNASKED), Retry()),
        (BASE, None, said(None, newest=Came([], "stranger")), Retry()),
        (BASE, None, Said(POSITION, None, None, UNASKED, is_settled=True), Ended()),
        (BASE, None, SILENT, Retry()),
        (BASE, None, said(9, Position(6, 20)), GONE),
        (BASE, None, said(DISPLACED), Refuse(errors.DISPLACED, 5)),
        (BASE, came(9, 12), said(9), Serve(came(9, 12).messages)),
        (BASE, came(12), said(9), leaders(9)),
        (BASE, came(8, 9), said(9), leaders(9)),
        (BASE, came(), said(9), leaders(9)),
        (BASE, came(end="late"), said(9), leaders(9)),
        (BASE, came(end="stranger"), said(9), leaders(9)),
        (BASE, UNASKED, said(9), leaders(9)),
    ],
)
def test_what_a_reader_is_told(
    asked: Asked, came: Came | None, said: Said | Silent | None, step: Step
) -> None:
    found = decide(asked, came, said)
    # Of empty tuples each equals the others.
    assert (type(found), found) == (type(step), step)


def test_a_jump_is_made_only_where_the_leader_makes_it() -> None:
    events = came(5, 6, 9, 10, 40).messages
    assert jumps(events) == [7, 11]
    assert jumps(events[:2]) == jumps([]) == []
    assert agreed(events, {7: 9, 11: 40}) == events
    assert agreed(events, {7: 9, 11: 30}) == events[:4]
    assert agreed(events, {7: 9}) == events[:4]
    assert agreed(events, {7: None, 11: 40}) == events[:2]
    assert agreed(events, {}) == events[:2]
    assert agreed(events[:1], {}) == events[:1]


@pytest.mark.parametrize(
    ("end", "seconds"),
    [("late", 10.0), ("stranger", 10.0), ("marked", 0.5), ("unasked", 0.0)],
)
def test_copies_are_left_alone_after_one_that_lacked_what_the_leader_has(
    end: End, seconds: float
) -> None:
    copies = Copies()
    assert copies.may_be_asked(100.0)
    copies.lacked(came(end=end), 100.0)
    assert copies.may_be_asked(100.0 + seconds)
    assert copies.may_be_asked(100.0 + seconds * 0.9) is (seconds == 0)
    copies.lacked(came(), 100.0)
    assert not copies.may_be_asked(100.4)
    copies.lacked(came(end="late"), 101.0)
    copies.lacked(came(), 110.0)
    assert not copies.may_be_asked(110.9)  # the longer rest goes on


def test_what_copies_did_is_counted_by_kind() -> None:
    copies = Copies()
    copies.gave(came(5), 1.0)
    assert (copies.late, copies.behind, copies.strangers) == (0, 0, 0)
    copies.gave(came(end="late"), 2.0)
    copies.gave(Came([], "stranger", stranger="backup"), 3.0)
    copies.lacked(came(), 4.0)
    assert (copies.late, copies.behind, copies.strangers) == (1, 1, 1)
    assert (copies.stranger, copies.stranger_at) == ("backup", 3.0)


def test_what_its_own_precondition_did_not_allow_there_is_never_given() -> None:
    """Such events stand in a replica that has refused what its leader stored."""
    messages = [
        StoredMessage(sequence, "hermes.base", None, "t", b"", after=after)
        for sequence, after in ((5, 4), (6, None), (7, 6), (8, 5), (9, 8))
    ]
    found = contiguous(5, messages, filtered=False)
    assert [message.sequence for message in found] == [5, 6, 7]
    assert [message.is_displaced for message in messages] == [False] * 3 + [True, False]


def batch(*pairs: tuple[int, int]) -> list[StoredMessage]:
    return [
        StoredMessage(sequence, "hermes.base", None, "t", b"", previous)
        for sequence, previous in pairs
    ]


@pytest.mark.parametrize(
    ("start", "sequences", "kept"),
    [
        (5, [], []),
        (5, [5, 6, 7], [5, 6, 7]),
        (5, [6, 7], []),  # the server starts at the next one silently
        (5, [5, 7], [5]),
        (5, [5, 6, 8, 9], [5, 6]),
        (5, [4, 5], []),
        (5, [5, 5], [5]),
    ],
)
def test_without_a_filter_nothing_is_kept_after_a_hole(
    start: int, sequences: list[int], kept: list[int]
) -> None:
    messages = batch(*[(sequence, 0) for sequence in sequences])
    found = contiguous(start, messages, filtered=False)
    assert [message.sequence for message in found] == kept


@pytest.mark.parametrize(
    ("start", "pairs", "kept"),
    [
        (5, [], []),
        (5, [(5, 0)], [5]),
        (5, [(9, 0)], []),  # the leader has said that 5 is the category's next
        (5, [(5, 0), (12, 5), (40, 12)], [5, 12, 40]),
        (5, [(12, 5), (40, 12)], []),  # the first one was lost on the way
        (5, [(5, 0), (40, 12)], [5]),
        (5, [(5, 0), (5, 5)], [5]),
        (5, [(4, 0)], []),
    ],
)
def test_with_a_filter_each_message_must_name_the_one_before(
    start: int, pairs: list[tuple[int, int]], kept: list[int]
) -> None:
    found = contiguous(start, batch(*pairs), filtered=True)
    assert [message.sequence for message in found] == kept
