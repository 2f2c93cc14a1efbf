# SPDX-License-Identifier: Apache-2.0
"""One line for a series of equal errors, a count at its end. Pure: times come in."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

SERIES_SECONDS: Final = 180.0
"""Longer than Hermes pauses between two tries of the same event."""

LINES_PER_MINUTE: Final = 30
"""Where a series ends and begins all the time, as with two producers on one stream."""

_MOST_SERIES = 100
_MINUTE_SECONDS = 60.0


@dataclass
class Repeated:
    """How often something came again after it was told, and for how long."""

    key: tuple[str, ...]
    first: float
    last: float
    times: int = 0

    @property
    def seconds(self) -> float:
        """Say how long it went on."""
        return self.last - self.first


class Deduplication:
    """Remembers what was told; false while there is nothing to remember."""

    def __init__(self) -> None:
        self._series: dict[tuple[str, ...], Repeated] = {}
        self._lines: deque[float] = deque(maxlen=LINES_PER_MINUTE)

    def __bool__(self) -> bool:
        return bool(self._series)

    def should_log(self, key: tuple[str, ...], now: float) -> bool:
        """Tell whether this is worth a line; if not, it is counted."""
        series = self._series.get(key)
        is_told = series is not None and now - series.last <= SERIES_SECONDS
        if series is None or not is_told:
            if len(self._series) >= _MOST_SERIES:
                self._series.pop(next(iter(self._series)))
            series = self._series[key] = Repeated(key, now, now)
        series.last = now
        is_full = len(self._lines) == LINES_PER_MINUTE
        if is_told or (is_full and now - self._lines[0] < _MINUTE_SECONDS):
            series.times += 1
            return False
        self._lines.append(now)
        return True

    def end(self, now: float | None = None) -> list[Repeated]:
        """Forget the series that have ended by now, or all; give those with a count."""
        ended = [
            each
            for each in self._series.values()
            if now is None or now - each.last > SERIES_SECONDS
        ]
        for each in ended:
            del self._series[each.key]
        return [each for each in ended if each.times]
