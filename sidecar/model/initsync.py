# SPDX-License-Identifier: Apache-2.0
"""The last complete initsync, and how long a new client can still start from it. Pure.

An initsync is `init-start`, an `added` for each object, `init-stop`, in the category
`initsync`. One that is under way or was broken off counts for nothing (`scan`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sidecar.model.scan import INITSYNC, START, STOP

if TYPE_CHECKING:
    from sidecar.model.publish_reply import Position, StoredMessage

REMEDY: Final = "Run hermes-server-cli initsync."

_NANOSECONDS = 1_000_000_000
_WARNING_SECONDS = 7 * 86_400.0
_WARNING_PART = 4


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
    """A complete initsync."""

    start: Mark
    stop: Mark
    objects: int

    def stays_seconds(self, max_age_seconds: float, now: float) -> float | None:
        """Say how long it stays in the stream; None for ever.

        It is complete no longer than its first event is there.
        """
        if max_age_seconds <= 0:
            return None
        return self.start.time + max_age_seconds - now

    def pace(self) -> dict[str, float | None]:
        """Give how long it took to store, and its events per second.

        None where two leaders' clocks differ by more than that.
        """
        took_seconds = self.stop.time - self.start.time
        if took_seconds <= 0:
            return {"took_seconds": None, "events_per_second": None}
        return {
            "took_seconds": round(took_seconds, 3),
            "events_per_second": round((self.objects + 2) / took_seconds, 1),
        }

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


class Verdict(NamedTuple):
    """The last complete initsync; None is said to be none only where it is known."""

    initsync: Initsync | None = None
    is_known: bool = True

    def at(self, position: Position) -> Verdict:
        """Judge by where the stream stands: it is held as long as its start is."""
        start = None if self.initsync is None else self.initsync.start
        is_gone = start is not None and start.offset < position.first
        return Verdict() if is_gone else self


def judge(start: Mark | None, stop: Mark | None, objects: int) -> Verdict:
    """Judge by what stands where the newest event's header names start and stop.

    Without its start nothing of it counts: the stream holds it no longer, nor any that
    came before it.
    """
    if start is None:
        return Verdict()
    if stop is None or not (start.is_start and stop.is_stop):
        return Verdict(is_known=False)  # copied from another stream, or damaged
    return Verdict(Initsync(start, stop, objects))


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
