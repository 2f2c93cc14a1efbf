# SPDX-License-Identifier: Apache-2.0
"""The last hour, minute by minute."""

from __future__ import annotations

import pytest

from sidecar.model.last_hour import MINUTES, LastHour

BOUNDS = (0.001, 0.01, 0.1)
HOUR = MINUTES * 60.0


def test_before_the_start_nothing_is_known_and_after_it_nothing_came() -> None:
    hour = LastHour(BOUNDS, 90.0).look(150.0)
    assert hour.stored_rates == [None] * 58 + [0.0, 0.0]
    assert hour.sent_rates == [None] * 58 + [0.0, 0.0]
    assert hour.p50s == [None] * 60
    assert (hour.seconds, hour.stored, hour.sent, hour.publishes) == (60.0, 0, 0, 0)
    assert (hour.p50, hour.p99) == (None, None)


@pytest.mark.parametrize(
    ("started_at", "stored_at", "now", "rate"),
    [
        (0.0, 3600.0, 3660.0 - 0.001, 6 / 60),  # a minute that is all but over
        (0.0, 3600.0, 3630.0, 6 / 30),
        (0.0, 3600.0, 3601.0, 6 / 10),  # one that has only begun
        (3610.0, 3615.0, 3640.0, 6 / 30),  # counted from the start of the sidecar
    ],
)
def test_a_rate_is_over_the_seconds_that_were_counted(
    started_at: float, stored_at: float, now: float, rate: float
) -> None:
    last = LastHour(BOUNDS, started_at)
    for _ in range(6):
        last.published(1, 0.5, stored_at)
    last.sent(6, stored_at)
    hour = last.look(now)
    assert hour.stored_rates[-1] == pytest.approx(rate, rel=1e-4)
    assert hour.sent_rates[-1] == pytest.approx(rate, rel=1e-4)


def test_each_minute_has_its_own_and_after_an_hour_it_is_gone() -> None:
    last = LastHour(BOUNDS, 0.0)
    for minute in range(70):
        last.sent(minute, minute * 60.0)
        last.published(0, 0.5, minute * 60.0)
    hour = last.look(69 * 60.0 + 59.999)
    assert hour.sent == sum(range(10, 70))
    assert (hour.stored, hour.publishes) == (0, 60)
    assert hour.sent_rates[0] == pytest.approx(10 / 60)
    assert hour.sent_rates[-1] == pytest.approx(69 / 60, rel=1e-4)
    assert hour.seconds == HOUR
    later = last.look(69 * 60.0 + 2 * HOUR)
    assert (later.sent, later.publishes, later.p50) == (0, 0, None)


def test_a_pause_leaves_minutes_with_nothing() -> None:
    last = LastHour(BOUNDS, 0.0)
    last.sent(60, 3600.0)
    last.sent(120, 3600.0 + 180)
    assert last.look(3600.0 + 239.999).sent_rates[-5:] == pytest.approx(
        [0, 1, 0, 0, 2], rel=1e-4
    )


@pytest.mark.parametrize(
    ("durations", "p50", "p99"),
    [
        ([0.0005], 0.0005, 0.00099),
        ([0.001] * 100, 0.0005, 0.00099),  # a bound belongs to the bucket below
        ([0.005] * 50 + [0.05] * 50, 0.01, 0.01 + 0.09 * 49 / 50),
        ([0.0005] * 99 + [0.05], 0.001 * 50 / 99, 0.001),
        ([5.0], 0.1, 0.1),  # nothing is known beyond the last bound
    ],
)
def test_quantiles_are_those_of_prometheus(
    durations: list[float], p50: float, p99: float
) -> None:
    last = LastHour(BOUNDS, 0.0)
    for seconds in durations:
        last.published(1, seconds, 3600.0)
    hour = last.look(3600.0)
    assert hour.publishes == len(durations)
    assert [hour.p50, hour.p99] == pytest.approx([p50, p99])
    assert [hour.p50s[-1], hour.p99s[-1]] == pytest.approx([p50, p99])
    assert hour.p50s[:-1] == [None] * 59


def test_the_quantiles_of_the_hour_are_of_all_its_publishes() -> None:
    last = LastHour(BOUNDS, 0.0)
    for seconds, now in ((0.0005, 60.0), (0.05, 3000.0), (0.05, 3000.0)):
        last.published(1, seconds, now)
    hour = last.look(3000.0)
    assert hour.p50 == pytest.approx(0.01 + 0.09 / 4)
