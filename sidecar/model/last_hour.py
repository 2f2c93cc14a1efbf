# SPDX-License-Identifier: Apache-2.0
"""How many events went in and out in each minute of the last hour, and how fast. Pure.

In memory, 60 minutes at most: what came through this sidecar since its start. To note
an event is to add to one number.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MINUTES: Final = 60

LEAST_SECONDS: Final = 10.0
"""Over which a rate is formed, though a minute has only begun."""

_MINUTE_SECONDS = 60


@dataclass(slots=True)
class _Minute:
    number: int
    stored: int = 0
    sent: int = 0
    publishes: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Hour:
    """The last hour, a value for each minute, the oldest first.

    Rates are in events a second, None for what was before the start of the sidecar.
    Latencies are in seconds, None where nothing was published.
    """

    seconds: float
    stored: int
    sent: int
    publishes: int
    stored_rates: Sequence[float | None]
    sent_rates: Sequence[float | None]
    p50s: Sequence[float | None]
    p99s: Sequence[float | None]
    p50: float | None
    p99: float | None


class LastHour:
    """Counts by minutes; the bounds are those of a histogram, in seconds, ascending."""

    def __init__(self, bounds: Sequence[float], now: float) -> None:
        self._bounds = tuple(bounds)
        self._started_at = now
        self._minutes: deque[_Minute] = deque(maxlen=MINUTES)

    def sent(self, events: int, now: float) -> None:
        """Count events that were sent to a reader."""
        self._minute(now).sent += events

    def published(self, stored: int, seconds: float, now: float) -> None:
        """Count a publish that took so long, and how many events it stored: 0 or 1."""
        minute = self._minute(now)
        minute.stored += stored
        minute.publishes[bisect_left(self._bounds, seconds)] += 1

    def _minute(self, now: float) -> _Minute:
        number = int(now // _MINUTE_SECONDS)
        if not self._minutes or self._minutes[-1].number != number:
            buckets = [0] * (len(self._bounds) + 1)
            self._minutes.append(_Minute(number, publishes=buckets))
        return self._minutes[-1]

    def look(self, now: float) -> Hour:
        """Give the last hour as it is at this moment."""
        this = int(now // _MINUTE_SECONDS)
        numbers = range(this - MINUTES + 1, this + 1)
        known = {each.number: each for each in self._minutes if each.number in numbers}
        minutes = [known.get(number, _Minute(number)) for number in numbers]
        spans = [self._span(number, now) for number in numbers]
        buckets = (minute.publishes for minute in known.values())
        hour = [sum(counts) for counts in zip(*buckets, strict=True)]
        return Hour(
            seconds=min(now - self._started_at, MINUTES * _MINUTE_SECONDS),
            stored=sum(minute.stored for minute in minutes),
            sent=sum(minute.sent for minute in minutes),
            publishes=sum(hour),
            stored_rates=_rates((minute.stored for minute in minutes), spans),
            sent_rates=_rates((minute.sent for minute in minutes), spans),
            p50s=[self._quantile(0.5, minute.publishes) for minute in minutes],
            p99s=[self._quantile(0.99, minute.publishes) for minute in minutes],
            p50=self._quantile(0.5, hour),
            p99=self._quantile(0.99, hour),
        )

    def _span(self, number: int, now: float) -> float | None:
        """Say over how many seconds of a minute events were counted."""
        begins, ends = number * _MINUTE_SECONDS, (number + 1) * _MINUTE_SECONDS
        if ends <= self._started_at:
            return None
        return max(min(ends, now) - max(begins, self._started_at), LEAST_SECONDS)

    def _quantile(self, part: float, counts: Sequence[int]) -> float | None:
        """Estimate a quantile as Prometheus does: evenly within a bucket."""
        wanted = part * sum(counts)
        if not wanted:
            return None
        sums = [0, *accumulate(counts)]
        at = bisect_left(sums, wanted) - 1
        if at == len(self._bounds):
            return self._bounds[-1]
        low, high = (0.0, *self._bounds)[at], self._bounds[at]
        return low + (high - low) * (wanted - sums[at]) / counts[at]


def _rates(counts: Iterable[int], spans: Sequence[float | None]) -> list[float | None]:
    return [
        None if span is None else count / span
        for count, span in zip(counts, spans, strict=True)
    ]
