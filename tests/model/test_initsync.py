# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace

import pytest

from sidecar.model.initsync import (
    Initsync,
    Mark,
    Verdict,
    judge,
    mark,
    max_age_seconds,
    rfc3339,
    seconds,
    warning_seconds,
)
from sidecar.model.publish_reply import Position, StoredMessage

DAY = 86_400.0
START = Mark(1, "initsync", "init-start", 1.0)
STOP = Mark(2, "initsync", "init-stop", 2.0)
WHOLE = Initsync(START, STOP, objects=0)


@pytest.mark.parametrize(
    ("position", "is_held"),
    [(Position(1, 2), True), (Position(0, 99), True), (Position(2, 99), False)],
)
def test_an_initsync_is_held_as_long_as_its_first_event(
    position: Position, is_held: bool
) -> None:
    verdict = Verdict(WHOLE)
    assert verdict.at(position) == (verdict if is_held else Verdict())
    assert Verdict(is_known=False).at(position) == Verdict(is_known=False)


@pytest.mark.parametrize(
    ("start", "stop", "verdict"),
    [
        (START, STOP, Verdict(WHOLE)),
        (None, STOP, Verdict()),
        (None, None, Verdict()),
        (START, None, Verdict(is_known=False)),
        (START, START, Verdict(is_known=False)),
        (STOP, STOP, Verdict(is_known=False)),
        (replace(START, category="base"), STOP, Verdict(is_known=False)),
    ],
)
def test_what_stands_at_its_ends_must_be_a_start_and_a_stop(
    start: Mark | None, stop: Mark | None, verdict: Verdict
) -> None:
    assert judge(start, stop, 0) == verdict


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


@pytest.mark.parametrize(
    ("stopped_at", "took_seconds", "rate"), [(3.5, 2.5, 2.0), (1.0, None, None)]
)
def test_its_pace_counts_all_its_events(
    stopped_at: float, took_seconds: float | None, rate: float | None
) -> None:
    initsync = Initsync(START, replace(STOP, time=stopped_at), objects=3)
    assert initsync.pace() == {"took_seconds": took_seconds, "events_per_second": rate}


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
