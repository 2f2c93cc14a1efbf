# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace

import pytest

from sidecar.answer import Position, StoredMessage
from sidecar.initsync import (
    Initsync,
    Mark,
    first_stop,
    gaps,
    is_held,
    latest_complete,
    mark,
    max_age_seconds,
    rfc3339,
    seconds,
    spread,
    warning_seconds,
)

DAY = 86_400.0
KINDS = {
    "S": ("initsync", "init-start"),
    "a": ("initsync", "added"),
    "E": ("initsync", "init-stop"),
    "b": ("base", "modified"),
    "x": ("base", "init-start"),
    "y": ("base", "init-stop"),
    "?": ("initsync", None),
}


def marks(letters: str) -> list[Mark]:
    """Make events at the offsets from 1 on, one a second."""
    return [
        Mark(offset, *KINDS[letter], time=float(offset))
        for offset, letter in enumerate(letters, 1)
    ]


@pytest.mark.parametrize(
    ("letters", "expected"),
    [
        ("", None),
        ("bbb", None),
        ("SaaE", (1, 4, 2)),
        ("SE", (1, 2, 0)),
        ("bSabbaEb", (2, 7, 2)),
        ("SaESaaE", (4, 7, 2)),
        ("SaESaa", (1, 3, 1)),
        ("SaEbS", (1, 3, 1)),
        ("SaaSaE", (4, 6, 1)),
        ("SaEaE", (1, 3, 1)),
        ("aaE", None),
        ("Saa", None),
        ("xaE", None),
        ("Say", None),
        ("SaEay", (1, 3, 1)),
        ("S?E", (1, 3, 1)),
        ("aESaEaa", (3, 5, 1)),
    ],
)
def test_the_last_complete_initsync_is_the_one_that_a_client_would_take(
    letters: str, expected: tuple[int, int, int] | None
) -> None:
    found = latest_complete(marks(letters))
    given = found and (found.start.offset, found.stop.offset, found.objects)
    assert given == expected


@pytest.mark.parametrize(
    ("letters", "expected"), [("aaa", None), ("aEaa", 2), ("aESaa", 2), ("aEE", 2)]
)
def test_a_stop_without_its_start_is_the_first_one(
    letters: str, expected: int | None
) -> None:
    stop = first_stop(marks(letters))
    assert (stop and stop.offset) == expected


START, STOP = marks("SE")
WHOLE = Initsync(START, STOP, objects=0)


@pytest.mark.parametrize(
    ("position", "expected"),
    [
        (Position(1, 2), True),
        (Position(0, 99), True),
        (Position(2, 99), False),
        (Position(1, 1), False),
    ],
)
def test_an_initsync_is_held_from_its_first_event_to_its_last(
    position: Position, expected: bool
) -> None:
    assert is_held(WHOLE, position) is expected


def test_it_stays_as_long_as_its_first_event() -> None:
    assert WHOLE.stays_seconds(10, now=5) == 6
    assert WHOLE.stays_seconds(0.5, now=1) == 0.5
    assert WHOLE.stays_seconds(0, now=5) is None


@pytest.mark.parametrize(
    ("age_days", "warning_days"), [(90, 7), (28, 7), (4, 1), (1, 0.25)]
)
def test_the_warning_comes_a_week_before_or_in_the_last_quarter(
    age_days: float, warning_days: float
) -> None:
    assert warning_seconds(age_days * DAY) == warning_days * DAY


def test_a_retention_is_read_in_nanoseconds() -> None:
    assert max_age_seconds({"max_age": 1_500_000_000}) == 1.5
    assert max_age_seconds({}) == 0


def test_a_mark_is_what_the_headers_of_a_message_say() -> None:
    time = "1970-01-01T00:01:00Z"
    message = StoredMessage(
        7, "hermes.initsync", "k", time, b"{}", type="init-start", object_type="Users"
    )
    assert mark(message) == Mark(7, "initsync", "init-start", 60.0)


def test_times_of_the_server_are_read_to_the_nanosecond_and_written_to_the_second() -> (
    None
):
    assert seconds("1970-01-01T00:01:00.123456789Z") == pytest.approx(60.123456)
    assert rfc3339(60.9) == "1970-01-01T00:01:00Z"


def test_the_document_names_offsets_times_and_objects() -> None:
    assert WHOLE.document(60) == {
        "start_offset": 1,
        "stop_offset": 2,
        "objects": 0,
        "started": "1970-01-01T00:00:01Z",
        "stopped": "1970-01-01T00:00:02Z",
        "expires": "1970-01-01T00:01:01Z",
    }
    assert WHOLE.document(0)["expires"] is None


def test_gaps_are_what_is_far_wider_than_usual_the_latest_first() -> None:
    samples = [
        replace(one, time=time)
        for one, time in zip(marks("aaaaaa"), [0, 1, 100, 101, 900, 901], strict=True)
    ]
    found = [(left.offset, right.offset) for left, right in gaps(samples)]
    assert found == [(4, 5), (2, 3)]
    pauses = [
        replace(one, time=2 * one.time + (one.offset // 3) * 100)
        for one in marks("aaa" * 10)
    ]
    latest = [(one.offset, one.offset + 1) for one in pauses if one.offset % 3 == 2]
    found = [(left.offset, right.offset) for left, right in gaps(pauses)]
    assert found == latest[::-1][:8]
    assert gaps(marks("aaaa")) == []
    assert gaps(marks("a")) == []


@pytest.mark.parametrize(
    ("pace_seconds", "pause_seconds", "is_gap"),
    [(1, 11, False), (1, 12, True), (0.125, 2.25, False), (0.125, 2.5, True)],
)
def test_a_gap_is_more_than_a_second_and_ten_times_the_usual_pace(
    pace_seconds: float, pause_seconds: float, is_gap: bool
) -> None:
    times = [0, pace_seconds, 2 * pace_seconds, 2 * pace_seconds + pause_seconds]
    samples = [
        replace(one, time=time) for one, time in zip(marks("aaaa"), times, strict=True)
    ]
    assert bool(gaps(samples)) is is_gap


@pytest.mark.parametrize(
    ("first", "last", "count", "expected"),
    [
        (5, 5, 3, [5]),
        (5, 6, 3, [5, 6]),
        (0, 100, 4, [0, 25, 50, 75, 100]),
        (0, 3, 128, [0, 1, 2, 3]),
        (90, 94, 3, [90, 91, 92, 94]),
    ],
)
def test_offsets_are_spread_from_the_first_to_the_last(
    first: int, last: int, count: int, expected: list[int]
) -> None:
    assert spread(first, last, count) == expected
