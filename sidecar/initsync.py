# SPDX-License-Identifier: Apache-2.0
"""What an initsync is, and how long a new client can still start from it. Pure.

An initsync is `init-start`, an `added` for each object, `init-stop`, in the category
`initsync`. A hermes-client starts from the last complete one: the last `init-start`
before an `init-stop`. One that is under way or was broken off counts for nothing.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import median
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidecar.answer import Position, StoredMessage

INITSYNC: Final = "initsync"
START: Final = "init-start"
STOP: Final = "init-stop"
REMEDY: Final = "Run hermes-server-cli initsync."

_NANOSECONDS = 1_000_000_000
_WARNING_SECONDS = 7 * 86_400.0
_WARNING_PART = 4
_GAP_SECONDS = 1.0
_GAP_MEDIANS = 10
_GAPS = 8


@dataclass(frozen=True)
class Mark:
    """What a stored event's headers tell of it; the time in seconds since 1970."""

    offset: int
    category: str
    type: str | None
    time: float

    @property
    def is_start(self) -> bool:
        """Tell whether it begins an initsync."""
        return self.category == INITSYNC and self.type == START

    @property
    def is_stop(self) -> bool:
        """Tell whether it ends an initsync."""
        return self.category == INITSYNC and self.type == STOP


@dataclass(frozen=True)
class Initsync:
    """A complete initsync; `objects` is None where nobody counted them."""

    start: Mark
    stop: Mark
    objects: int | None

    def stays_seconds(self, max_age_seconds: float, now: float) -> float | None:
        """Say how long it stays in the stream; None for ever.

        It is complete no longer than its first event is there.
        """
        if max_age_seconds <= 0:
            return None
        return self.start.time + max_age_seconds - now

    def document(self, max_age_seconds: float) -> dict[str, Any]:
        """Give it as /v1/stream shows it."""
        expires = self.stays_seconds(max_age_seconds, 0)
        return {
            "start_offset": self.start.offset,
            "stop_offset": self.stop.offset,
            "objects": self.objects,
            "started": rfc3339(self.start.time),
            "stopped": rfc3339(self.stop.time),
            "expires": None if expires is None else rfc3339(expires),
        }


def mark(message: StoredMessage) -> Mark:
    """Keep what is needed of a message, without its body."""
    return Mark(message.sequence, message.category, message.type, seconds(message.time))


def seconds(time: str) -> float:
    """Read an RFC 3339 time of the server, nanoseconds and all."""
    return datetime.fromisoformat(time).timestamp()


def rfc3339(time: float) -> str:
    """Write seconds since 1970 as RFC 3339, to the second."""
    moment = datetime.fromtimestamp(time, UTC)
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")


def max_age_seconds(config: dict[str, Any]) -> float:
    """Read the retention of a stream; 0 keeps for ever."""
    return float(config.get("max_age", 0)) / _NANOSECONDS


def warning_seconds(age_seconds: float) -> float:
    """Say how long before its end an initsync is worth a warning.

    A week, or the last quarter of a retention that is shorter than four weeks.
    """
    return min(_WARNING_SECONDS, age_seconds / _WARNING_PART)


def is_held(initsync: Initsync, position: Position) -> bool:
    """Tell whether the stream still holds all of it."""
    return (
        position.first <= initsync.start.offset
        and initsync.stop.offset <= position.last
    )


def latest_complete(marks: Sequence[Mark]) -> Initsync | None:
    """Find the last complete initsync in successive events of any category."""
    stop: Mark | None = None
    objects = 0
    for each in reversed(marks):
        if each.is_stop:
            stop, objects = each, 0
        elif stop is not None and each.is_start:
            return Initsync(each, stop, objects)
        elif each.category == INITSYNC:
            objects += 1
    return None


def first_stop(marks: Sequence[Mark]) -> Mark | None:
    """Find the stop whose start, if it has one, lies before these events."""
    return next((each for each in marks if each.is_stop), None)


def gaps(samples: Sequence[Mark]) -> list[tuple[Mark, Mark]]:
    """Find neighbours in a sample that are far apart in time, the latest first.

    Initsyncs without another event between them differ in nothing else: inside one,
    events follow each other at some even pace; between two, somebody asked for one, or
    Hermes waited a minute after a failure.
    """
    pairs = list(itertools.pairwise(samples))
    if not pairs:
        return []
    usual = median(later.time - earlier.time for earlier, later in pairs)
    limit = _GAP_SECONDS + _GAP_MEDIANS * usual
    wide = [pair for pair in pairs if pair[1].time - pair[0].time > limit]
    return wide[::-1][:_GAPS]


def spread(first: int, last: int, count: int) -> list[int]:
    """Choose offsets from first to last, evenly; both are among them."""
    return sorted({first + (last - first) * step // count for step in range(count + 1)})
