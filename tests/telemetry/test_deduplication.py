# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from sidecar.telemetry.deduplication import (
    LINES_PER_MINUTE,
    SERIES_SECONDS,
    Deduplication,
)

FULL = ("refused", "stream_full")
LARGE = ("refused", "event_too_large")


def test_only_the_first_of_a_series_is_worth_a_line() -> None:
    repeats = Deduplication()
    assert [repeats.should_log(FULL, now) for now in (0, 1, 90, 260)] == [
        True,
        False,
        False,
        False,
    ]


def test_another_cause_is_a_series_of_its_own() -> None:
    repeats = Deduplication()
    assert repeats.should_log(FULL, 0)
    assert repeats.should_log(LARGE, 1)
    assert not repeats.should_log(FULL, 2)


def test_a_series_ends_after_silence_with_its_count() -> None:
    repeats = Deduplication()
    for now in (0, 10, 20):
        repeats.should_log(FULL, now)
    assert repeats.end(20 + SERIES_SECONDS) == []
    (ended,) = repeats.end(21 + SERIES_SECONDS)
    assert (ended.key, ended.times, ended.seconds) == (FULL, 2, 20)
    assert not repeats
    assert repeats.should_log(FULL, 22 + SERIES_SECONDS)


def test_what_came_once_has_no_count_at_its_end() -> None:
    repeats = Deduplication()
    repeats.should_log(FULL, 0)
    assert repeats
    assert repeats.end() == []
    assert not repeats


def test_series_that_end_all_the_time_are_bounded_too() -> None:
    repeats = Deduplication()
    told = []
    for now in range(150):
        if repeats.should_log(FULL, now):
            told.append(now)
        repeats.end()
    assert LINES_PER_MINUTE == 30
    assert told == [*range(30), *range(60, 90), *range(120, 150)]


def test_a_series_ends_with_more_than_three_minutes_of_silence() -> None:
    repeats = Deduplication()
    assert repeats.should_log(FULL, 0)
    assert not repeats.should_log(FULL, SERIES_SECONDS)
    assert repeats.should_log(FULL, 2 * SERIES_SECONDS + 1)
    assert not repeats.should_log(FULL, 2 * SERIES_SECONDS + 3)
    (ended,) = repeats.end()
    assert (ended.times, ended.seconds) == (1, 2)


def test_it_remembers_a_bounded_number_of_series() -> None:
    repeats = Deduplication()
    for number in range(1000):
        repeats.should_log((str(number),), 0)
    assert len(repeats._series) <= 100
