# SPDX-License-Identifier: Apache-2.0
"""Compares what new clients read from the beginning with the whole stream. Pure.

A hermes-client that begins takes the last complete initsync that it met before the end
of the stream. So each scan must be a piece of the stream without a gap, its end must
have been one while it asked, and nothing that stood when it began may be newer than
what it takes.

When an event came to stand is never known, only by when: by then somebody was told.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, fields
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from .checker import name_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from .checker import Message

Row = tuple[int, str]
"""The offset of an event, and its name."""

_START = "initsync init-start "
_STOP = "initsync init-stop "


@dataclass(frozen=True)
class Scan:
    """What a client was given from an offset on; times are those of one clock.

    `start` None: from the beginning. `category`: what findNextEventOfCategory gave,
    asked again and again. `asked_at`: when it asked for what came last, an event or
    the end. Without `is_ended` it failed, or was left where it had all that it wanted.
    """

    client: str
    seen: Sequence[Row]
    began: float
    asked_at: float
    is_ended: bool = True
    start: int | None = None
    category: str | None = None

    @property
    def is_whole(self) -> bool:
        """Tell whether a client takes an initsync by it, or none."""
        return self.is_ended and self.start is None and self.category is None

    def __str__(self) -> str:
        what = "any event" if self.category is None else self.category
        where = "the beginning" if self.start is None else str(self.start)
        return f"{self.client}, looking for {what} from {where},"


def initsyncs(rows: Iterable[Row]) -> list[tuple[int, int]]:
    """Give each complete initsync, as hermes-client 1.0.9 looks for them."""
    found = []
    start: int | None = None
    for offset, name in rows:
        if name.startswith(_START):
            start = offset
        elif name.startswith(_STOP) and start is not None:
            found.append((start, offset))
            start = None
    return found


def taken(rows: Iterable[Row]) -> tuple[int, int] | None:
    """Give the initsync that a client takes which has met these."""
    found = initsyncs(rows)
    return found[-1] if found else None


def summary_of(scan: Scan) -> dict[str, Any]:
    """Give what is kept of a scan whose run went wrong."""
    values = {each.name: getattr(scan, each.name) for each in fields(scan)}
    seen = values.pop("seen")
    return values | {"count": len(seen), "ends": [*seen[:1], *seen[-1:]]}


class Standing:
    """Up to which offset the stream is known to have stood by a moment."""

    def __init__(self, told: Iterable[tuple[float, int]]) -> None:
        ordered = sorted(told)
        self._times = [time for time, _ in ordered]
        self._lasts = list(accumulate((offset for _, offset in ordered), max))

    def last(self, moment: float) -> int:
        """Give the highest offset that somebody was told of before the moment."""
        place = bisect_left(self._times, moment)
        return self._lasts[place - 1] if place else 0


def check_scans(
    scans: Iterable[Scan],
    messages: Sequence[Message],
    told: Iterable[tuple[float, int]],
) -> list[str]:
    """Say what in the scans cannot be; `told`: when somebody was told of an offset."""
    rows = [(message.offset, name_of(message.body)) for message in messages]
    complete = initsyncs(rows)
    standing = Standing(told)
    pieces: dict[tuple[int | None, str | None], list[Row]] = {}
    violations: list[str] = []
    for scan in scans:
        key = scan.start, scan.category
        if key not in pieces:
            pieces[key] = _piece(rows, *key)
        gaps = list(_check_piece(scan, pieces[key]))
        violations += gaps
        if scan.is_ended and not gaps:
            violations += _check_end(scan, pieces[key], standing)
        if scan.is_whole:
            violations += _check_taken(scan, complete, standing)
    return violations


def _piece(rows: Sequence[Row], start: int | None, category: str | None) -> list[Row]:
    return [
        (offset, name)
        for offset, name in rows
        if (start is None or offset >= start)
        and (category is None or name.startswith(f"{category} "))
    ]


def _check_piece(scan: Scan, piece: Sequence[Row]) -> Iterator[str]:
    if list(scan.seen) == piece[: len(scan.seen)]:
        return
    for place, got in enumerate(scan.seen):
        want = piece[place] if place < len(piece) else "nothing more"
        if got != want:
            yield f"{scan} got {got}, where the stream has {want}"
            return


def _check_end(scan: Scan, piece: Sequence[Row], standing: Standing) -> Iterator[str]:
    if len(scan.seen) >= len(piece):
        return
    missed, last = piece[len(scan.seen)][0], standing.last(scan.asked_at)
    if missed <= last:
        yield (
            f"{scan} came to an end before {missed}, and {last} was known to stand "
            "when it asked"
        )


def _check_taken(
    scan: Scan, complete: Sequence[tuple[int, int]], standing: Standing
) -> Iterator[str]:
    found = taken(scan.seen)
    last = standing.last(scan.began)
    least = max((each for each in complete if each[1] <= last), default=None)
    if found is not None and found not in complete:
        yield f"{scan} took initsync {found}, and the stream has no such"
    elif least is not None and (found is None or found < least):
        yield f"{scan} took initsync {found}, and {least} stood when it began"
