# SPDX-License-Identifier: Apache-2.0
"""Headers and sidecars say of the last complete initsync what a scan finds. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from .claims import Violation, backups
from .events import parsed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .claims import Stored, Timeline
    from .history import Ends, History

_START: Final = re.compile(r"\w+=(\d+)")

NO_HEADER: Final = "none"
"""What stands for a header that is missing, which is never right."""


def check_verdicts(
    history: History,
    stored: Sequence[Stored],
    timeline: Timeline,
    late_seconds: float,
) -> Iterator[Violation]:
    """Compare each header, and each verdict that stayed so long, with the scan's."""
    found: list[tuple[int, int, int, float]] = []  # epoch, start, stop, since
    for message, is_new, header, complete in _scan(stored, history.ends):
        if is_new and message.scan is not None:
            first = timeline.at(message.time).first
            if _held(message.scan, first) != _held(header, first):
                text = f"at {message.offset} {message.scan} stands; right is {header}"
                yield Violation("wrong_header", text, message.time)
        if complete is not None:
            found.append((*complete, message.time))
    since: dict[str, float] = {}
    for sample in history.samples:
        right = _right(found, timeline.at(sample.time), sample.time)
        if not sample.verdict or not sample.is_ready or sample.verdict == right:
            since.pop(sample.where, None)
        elif sample.time - since.setdefault(sample.where, sample.time) > late_seconds:
            text = f"{sample.where} says {sample.verdict}; right is {right}"
            yield Violation("wrong_verdict", text, sample.time)
            since[sample.where] = float("inf")  # told
    for where, time, verdict in history.verdicts:
        right = _right(found, timeline.at(time), time)
        if verdict != right:
            text = f"in the end {where} says {verdict}; right is {right}"
            yield Violation("wrong_verdict", text, time)


def _held(header: str, first: int) -> list[str]:
    """Give the parts of a header that speak of what the stream still holds."""
    starts = [(part, _START.match(part)) for part in header.split("; ") if part]
    return [part for part, at in starts if at is None or int(at[1]) >= first]


def _right(
    found: Sequence[tuple[int, int, int, float]], ends: Ends, time: float
) -> str:
    for epoch, start, stop, since in reversed(found):
        if epoch == ends.epoch and since <= time and start >= ends.first:
            return f"{start}-{stop}"
    return "none"


def _scan(
    stored: Sequence[Stored], ends: Sequence[Ends]
) -> Iterator[tuple[Stored, bool, str, tuple[int, int, int] | None]]:
    """Give each event of an initsync as its epoch's stream holds it.

    With whether it was stored in this epoch, the header that is right, and the initsync
    that it completes.
    """
    of_initsync = [each for each in stored if each.category == "initsync"]
    by_place = {(each.epoch, each.offset): each for each in of_initsync}
    for epoch, held in sorted(backups(stored, ends).items()):
        opened, count, last = 0, 0, ""
        backup = [by_place[place] for place in held if place in by_place]
        news = [each for each in of_initsync if each.epoch == epoch]
        for number, message in enumerate([*backup, *news]):
            kind, complete = parsed(message.body).eventtype, None
            if kind == "init-start":
                opened, count = message.offset, 0
            elif kind == "init-stop" and opened:
                complete = epoch, opened, message.offset
                last, opened = f"last={opened}-{message.offset},{count}", 0
            elif opened:
                count += 1
            parts = [f"open={opened},{count}"] if opened else []
            header = "; ".join(parts + [last] * bool(last))
            yield message, number >= len(backup), header, complete
