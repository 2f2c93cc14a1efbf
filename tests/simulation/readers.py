# SPDX-License-Identifier: Apache-2.0
"""What a reader may be told: each event once, in order, and ends only where they are.

Pure.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from sidecar.http.status_page import size

from .claims import Violation, backups
from .events import parsed
from .history import FIRST, NO_STREAM, Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .claims import Held, Stored, Timeline
    from .history import Asking, Ends, History, Scan, Sight

_DAMAGES = ("hole", "displaced", "unreadable")
"""What the sidecar tells of a stream that has lost something."""

_FIELDS = ("evcategory", "eventtype", "objtype", "objpkey", "objattrs")


def check_readers(
    history: History,
    stored: Sequence[Stored],
    timeline: Timeline,
    page_seconds: float,
) -> Iterator[Violation]:
    """Judge all that clients were told, and pages that may be so old."""
    at: dict[int, list[Stored]] = defaultdict(list)
    of_category: dict[str, list[Stored]] = defaultdict(list)
    for message in stored:
        at[message.offset].append(message)
        of_category[message.category].append(message)
    held = backups(stored, history.ends)
    for asking, since in _with_reading(history.askings):
        match asking.outcome:
            case Outcome.EVENT:
                standing = [
                    each
                    for each in at.get(asking.event.offset, ())
                    if timeline.held(each, since, asking.ended, held)
                ]
                yield from _check_event(asking, standing, of_category, timeline)
            case Outcome.END if asking.category is None:
                yield from _check_end(asking, timeline)
            case Outcome.END:
                yield from _check_nothing_found(asking, of_category, timeline)
            case Outcome.REFUSED:
                yield from _check_refused(asking, timeline)
            case Outcome.FAILED:
                yield from _check_damage(asking)
            case Outcome.DONE if asking.is_seek:
                if _is_outside_throughout(asking, timeline):
                    text = f"{_name(asking)} was not told that it is gone"
                    yield Violation("reader_skipped", text, asking.ended)
            case _:
                pass
    for sight in history.sights:
        yield from _check_sight(sight, at, timeline, held, page_seconds)
    initsyncs = _initsyncs(of_category["initsync"], held)
    for scan in history.scans:
        yield from _check_scan(scan, initsyncs, timeline)


def _with_reading(
    askings: Sequence[Asking],
) -> Iterator[tuple[Asking, float]]:
    """Give with each asking when what it got may have been read at the earliest.

    The plugin reads ahead, and throws that away at each seek, at a search for a
    category, and with its connection: so at each beginning of an iteration.
    """
    since: dict[str, float] = {}
    for asking in askings:
        if asking.is_seek or asking.position == FIRST or asking.category is not None:
            since[asking.client] = asking.began
        yield asking, since.get(asking.client, asking.began)


def _check_event(
    asking: Asking,
    standing: Sequence[Stored],
    of_category: dict[str, list[Stored]],
    timeline: Timeline,
) -> Iterator[Violation]:
    offset = asking.event.offset
    if not any(_is_same(asking.event, parsed(each.body)) for each in standing):
        what = "another event" if standing else "nothing"
        text = f"{_name(asking)} got {offset}, where {what} stands"
        yield Violation("reader_altered", text, asking.ended)
        return
    if asking.category is None:
        expected = [asking.position]
        if asking.position == FIRST:
            expected = [e.first for e in timeline.within(asking.began, asking.ended)]
        if offset not in expected:
            text = f"{_name(asking)} got {offset} instead of {expected[0]}"
            yield Violation("reader_skipped", text, asking.ended)
        return
    before = _first_missed(asking, of_category, timeline, offset)
    if (
        before is not None
        or offset < asking.position
        or asking.event.evcategory != asking.category
    ):
        text = f"{_name(asking)} got {offset}, though {before and before.offset} stands"
        yield Violation("reader_skipped", text, asking.ended)


def _first_missed(
    asking: Asking,
    of_category: dict[str, list[Stored]],
    timeline: Timeline,
    below: float,
) -> Stored | None:
    """Give an event of the category that stood after the position all the time."""
    for each in of_category.get(asking.category or "", ()):
        if asking.position <= each.offset < below and timeline.stands(
            each, asking.began, asking.ended
        ):
            return each
    return None


def _check_end(asking: Asking, timeline: Timeline) -> Iterator[Violation]:
    """See that the stream ended before the position, and not far before it.

    It grew from one noted end of an epoch to the next by single events.
    """
    lasts: dict[int, list[int]] = defaultdict(list)
    moments = timeline.within(asking.began, asking.ended)
    for each in moments:
        if asking.position == FIRST and each.last == each.first - 1:
            return
        if each.last != NO_STREAM:
            lasts[each.epoch].append(each.last)
    for of_epoch in lasts.values():
        if min(of_epoch) < asking.position <= max(of_epoch) + 1:
            return
    text = f"{_name(asking)} came to an end, though the stream ends with {dict(lasts)}"
    yield Violation("false_end", text, asking.ended)


def _check_damage(asking: Asking) -> Iterator[Violation]:
    """See that no damage is told of: nobody deletes an event, and no disk is lost."""
    for code in _DAMAGES:
        if f"({code})" in asking.text:
            text = f"{_name(asking)} was told of damage: {asking.text}"
            yield Violation("false_damage", text, asking.ended)


def _check_nothing_found(
    asking: Asking, of_category: dict[str, list[Stored]], timeline: Timeline
) -> Iterator[Violation]:
    missed = _first_missed(asking, of_category, timeline, float("inf"))
    if missed is not None:
        text = f"{_name(asking)} found nothing, though {missed.offset} stands"
        yield Violation("false_end", text, asking.ended)


def check_starved(history: History) -> Iterator[Violation]:
    """See that nobody was told of a failure where links were slow, and no more."""
    for at, client, text in history.no_bus:
        yield Violation("starved", f"{client} had no bus: {text}", at)
    for asking in history.askings:
        if asking.outcome is Outcome.FAILED:
            text = f"{_name(asking)} was told: {asking.text}"
            yield Violation("starved", text, asking.ended)


def _check_sight(
    sight: Sight,
    at: dict[int, list[Stored]],
    timeline: Timeline,
    held: Held,
    page_seconds: float,
) -> Iterator[Violation]:
    since = sight.began - page_seconds
    for row in sight.rows:
        offset, *shown = row
        if not any(
            [each.category, parsed(each.body).eventtype, size(len(each.body))] == shown
            and timeline.held(each, since, sight.ended, held)
            for each in at.get(offset, ())
        ):
            text = f"a page showed {row}, which does not stand"
            yield Violation("untrue_page", text, sight.ended)
    for offset, kind in zip(
        sight.initsync or (), ("init-start", "init-stop"), strict=False
    ):
        if not any(
            parsed(each.body).eventtype == kind
            and timeline.held(each, since, sight.ended, held)
            for each in at.get(offset, ())
        ):
            text = f"/v1/stream told of an initsync's {kind} at {offset}"
            yield Violation("untrue_page", text, sight.ended)


def _check_refused(asking: Asking, timeline: Timeline) -> Iterator[Violation]:
    moments = timeline.within(asking.began, asking.ended)
    for each in moments:
        if each.last == NO_STREAM or asking.position == FIRST:
            continue
        is_gone, is_ahead = (
            asking.position < each.first,
            asking.position > each.last + 1,
        )
        if (is_gone and "(offset_ahead)" not in asking.text) or (
            is_ahead and "(offset_gone)" not in asking.text
        ):
            return
    text = (
        f"{_name(asking)} was refused, though the stream holds "
        f"[{moments[-1].first}, {moments[-1].last}]: {asking.text}"
    )
    yield Violation("reader_refused", text, asking.ended)


def _is_outside_throughout(asking: Asking, timeline: Timeline) -> bool:
    return all(
        each.last != NO_STREAM and not each.first <= asking.position <= each.last + 1
        for each in timeline.within(asking.began, asking.ended)
    )


def _initsyncs(
    messages: Sequence[Stored], held: Held
) -> list[tuple[int, Stored, Stored]]:
    """Give each complete initsync as a client's scan sees it: epoch, start and stop."""
    by_place = {(each.epoch, each.offset): each for each in messages}
    found = []
    for epoch in sorted(held):
        backup = [by_place[each] for each in held[epoch] if each in by_place]
        start: Stored | None = None
        for message in [*backup, *(each for each in messages if each.epoch == epoch)]:
            kind = parsed(message.body).eventtype
            if kind == "init-start":
                start = message
            elif kind == "init-stop" and start is not None:
                found.append((epoch, start, message))
                start = None
    return found


def _check_scan(
    scan: Scan,
    initsyncs: Sequence[tuple[int, Stored, Stored]],
    timeline: Timeline,
) -> Iterator[Violation]:
    for moment in _moments(scan, initsyncs, timeline):
        ends = timeline.at(moment)
        for first in (ends.first, _lowest_first(scan, ends, timeline)):
            complete = [
                (start.offset, stop.offset)
                for epoch, start, stop in initsyncs
                if epoch == ends.epoch and stop.time <= moment and start.offset >= first
            ]
            right = complete[0 if scan.wants_first else -1] if complete else None
            if scan.found == right:
                return
    text = f"{scan.client} took initsync {scan.found}; right was {right}"
    yield Violation("wrong_initsync", text, scan.ended)


def _lowest_first(scan: Scan, ends: Ends, timeline: Timeline) -> int:
    """Give the first offset that a copy of this stream may have shown to a scan.

    What goes after it was read has been read; what went just before the scan began may
    still stand on a replica that is late with it.
    """
    seen = timeline.within(scan.began, scan.ended)
    return min([ends.first, *(e.first for e in seen if e.epoch == ends.epoch)])


def _moments(
    scan: Scan, initsyncs: Sequence[tuple[int, Stored, Stored]], timeline: Timeline
) -> list[float]:
    """Give the moments of a scan at which the right answer may have changed."""
    stops = sorted(stop.time for *_, stop in initsyncs)
    first = bisect_right(stops, scan.began)
    within = stops[first : bisect_right(stops, scan.ended)]
    changes = [each.time for each in timeline.within(scan.began, scan.ended)]
    moved = [time for time in changes if time > scan.began]
    return [*timeline.stale_moments(scan.began), scan.began, *within, *moved]


def _is_same(event: Any, stored: Any) -> bool:
    return all(getattr(event, name) == getattr(stored, name) for name in _FIELDS)


def _name(asking: Asking) -> str:
    what = "a seek" if asking.is_seek else f"looking for {asking.category or 'any'}"
    where = "the beginning" if asking.position == FIRST else str(asking.position)
    return f"{asking.client}/{asking.life}, {what} from {where},"
