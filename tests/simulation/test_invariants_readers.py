# SPDX-License-Identifier: Apache-2.0
"""Each invariant of readers finds what is wrong."""

from __future__ import annotations

import pytest
from simulation.claims import STALE_SECONDS
from simulation.history import FIRST, NO_STREAM, Outcome, Sample, Scan, Sight, Told
from simulation.verdicts import NO_HEADER
from support.story import (
    ONE,
    OTHER,
    TWO,
    USER,
    Story,
    added,
    init,
    initsync_added,
    removed,
)

from sidecar.http.status_page import size

# -- Readers ---------------------------------------------------------------------------


def test_a_reader_that_gets_all_in_order_passes(three: Story) -> None:
    three.read(1, FIRST)
    three.read(2)
    three.read(3)
    three.ask(4, Outcome.END)
    three.read(1)  # it sought back
    assert three.names() == set()


@pytest.mark.parametrize(("offset", "position"), [(2, FIRST), (3, 2), (1, 2)])
def test_a_reader_that_skips_or_repeats_is_found(
    three: Story, offset: int, position: int
) -> None:
    three.read(offset, position)
    assert three.names() == {"reader_skipped"}


def test_a_reader_that_gets_other_bytes_is_found(three: Story) -> None:
    three.read(1)
    three.history.askings[-1].event.objattrs = {"state": 9}
    assert three.names() == {"reader_altered"}


def test_what_is_committed_as_the_stream_goes_may_be_read_a_moment_longer(
    three: Story,
) -> None:
    """By servers that have not heard of it: found by seed 1135."""
    send = three.send(Told.UNKNOWN, event=added(OTHER, TWO), key="k")
    three.history.note_ends(three.epoch, 0, NO_STREAM)
    late = three.stored[-1]._replace(offset=4, category="base", key="k", body=send.body)
    three.stored.append(late._replace(time=three.now))
    three.read(4)
    assert three.names() == set()
    three.now += STALE_SECONDS
    three.read(4)
    assert three.names() == {"reader_altered"}


@pytest.mark.parametrize(
    ("offset", "position", "category", "is_right"),
    [
        (2, 1, "initsync", True),
        (1, 1, "base", True),
        (3, 2, "base", True),
        (3, 1, "base", False),
        (1, 1, "initsync", False),
    ],
)
def test_a_reader_of_a_category_gets_its_first_from_there(
    three: Story, offset: int, position: int, category: str, is_right: bool
) -> None:
    three.read(offset, position, category)
    assert three.names() == (set() if is_right else {"reader_skipped"})


@pytest.mark.parametrize(
    ("position", "is_right"), [(0, True), (1, False), (4, False), (5, True)]
)
def test_a_reader_is_refused_only_outside_of_the_stream(
    three: Story, position: int, is_right: bool
) -> None:
    three.ask(position, Outcome.REFUSED, is_seek=True)
    assert three.names() == (set() if is_right else {"reader_refused"})


def test_a_reader_is_never_refused_at_the_beginning(three: Story) -> None:
    three.ask(FIRST, Outcome.REFUSED)
    assert three.names() == {"reader_refused"}


def test_a_seek_to_what_is_gone_must_be_refused(three: Story) -> None:
    three.purge(3)
    three.ask(2, Outcome.DONE, is_seek=True)
    assert three.names() == set()  # a leader that was frozen does not know yet
    three.now += STALE_SECONDS
    three.ask(2, Outcome.DONE, is_seek=True)
    assert three.names() == {"reader_skipped"}


def test_a_reader_may_be_refused_what_goes_while_it_asks(three: Story) -> None:
    three.ask(2, Outcome.REFUSED, meanwhile=lambda: three.purge(3))
    assert three.names() == set()


@pytest.mark.parametrize(
    ("position", "category", "is_right"),
    [
        (4, None, True),
        (3, None, False),
        (FIRST, None, False),
        (4, "base", True),
        (3, "initsync", True),
        (2, "initsync", False),
        (1, "note", True),
    ],
)
def test_an_end_is_one(
    three: Story, position: int, category: str | None, is_right: bool
) -> None:
    three.ask(position, Outcome.END, category)
    assert three.names() == (set() if is_right else {"false_end"})


def test_an_end_may_be_one_of_a_moment(three: Story) -> None:
    three.ask(4, Outcome.END, meanwhile=lambda: three.send(event=removed(USER)))
    assert three.names() == set()


def test_an_end_of_an_empty_stream_is_one(story: Story) -> None:
    story.ask(FIRST, Outcome.END)
    assert story.names() == set()


def test_a_client_takes_the_last_initsync_that_is_whole(story: Story) -> None:
    first = story.initsync((USER, ONE))
    second = story.initsync((USER, TWO))
    story.begin(kind="initsync")
    story.send(event=init("init-start"))
    now = story.tick()
    scans = story.history.scans
    for wants_first, found, is_right in (
        (False, second, True),
        (False, first, False),
        (False, None, False),
        (True, first, True),
        (True, second, False),
    ):
        scans[:] = [Scan("c", now, now + 1, wants_first, found)]
        assert story.names() == (set() if is_right else {"wrong_initsync"})


def test_a_client_may_miss_an_initsync_that_ends_while_it_scans(story: Story) -> None:
    first = story.initsync((USER, ONE))
    began = story.tick()
    second = story.initsync((USER, TWO))
    for found, is_right in ((first, True), (second, True), (None, False)):
        story.history.scans[:] = [Scan("c", began, story.now, False, found)]
        assert story.names() == (set() if is_right else {"wrong_initsync"})


def test_a_client_may_take_an_initsync_whose_start_went_after_it_was_read(
    story: Story,
) -> None:
    story.begin(kind="initsync")
    story.send(event=init("init-start"))
    start, began = story.last, story.tick()
    story.purge(start + 1)
    story.send(event=init("init-stop"))
    found = (start, story.last)
    story.history.scans[:] = [Scan("c", began, story.now, True, found)]
    assert story.names() == set()
    story.now += STALE_SECONDS
    story.history.scans[:] = [Scan("c", story.now, story.now, True, found)]
    assert story.names() == {"wrong_initsync"}


def test_a_client_may_take_an_initsync_whose_start_went_just_before_the_scan(
    story: Story,
) -> None:
    """A replica is late with it, and has the whole; no leader ever showed both ends."""
    story.begin(kind="initsync")
    story.send(event=init("init-start"))
    start = story.last
    story.purge(start + 1)
    purged = story.now
    story.send(event=init("init-stop"))
    for began, found in (
        (purged + STALE_SECONDS - 0.5, set()),
        (purged + STALE_SECONDS + 0.5, {"wrong_initsync"}),
    ):
        scan = Scan("c", began, began + 1, False, (start, story.last))
        story.history.scans[:] = [scan]
        assert story.names() == found


def test_a_client_does_not_take_an_initsync_whose_start_is_gone(story: Story) -> None:
    first = story.initsync((USER, ONE))
    story.purge(first[0] + 1)
    story.now += STALE_SECONDS
    now = story.tick()
    for found, is_right in ((None, True), (first, False)):
        story.history.scans[:] = [Scan("c", now, now + 1, False, found)]
        assert story.names() == (set() if is_right else {"wrong_initsync"})


# -- Beside the stream -----------------------------------------------------------------


@pytest.mark.parametrize("code", ["hole", "displaced", "unreadable"])
def test_an_event_that_is_told_to_be_lost_is_found(three: Story, code: str) -> None:
    three.ask(2, Outcome.FAILED)
    assert three.names() == set()
    three.history.askings[-1].text = f"An event is lost. ({code})"
    assert three.names() == {"false_damage"}


@pytest.mark.parametrize(
    ("row", "found"),
    [
        ((1, "base", "added", ""), False),
        ((1, "base", "removed", ""), True),
        ((2, "base", "init-start", ""), True),
        ((4, "base", "added", ""), True),
    ],
)
def test_a_page_that_shows_what_does_not_stand_is_found(
    three: Story, row: tuple[int, str, str, str], *, found: bool
) -> None:
    bodies = {each.offset: each.body for each in three.stored}
    shown = (*row[:3], size(len(bodies.get(row[0], b""))))
    three.history.sights.append(Sight(three.tick(), three.tick(), [shown]))
    assert three.names() == ({"untrue_page"} if found else set())


def test_an_initsync_that_is_of_a_stream_restored_away_is_found(story: Story) -> None:
    start, stop = story.initsync((USER, ONE))
    sight = Sight(story.tick(), story.tick(), [], (start, stop))
    story.history.sights.append(sight)
    assert story.names() == set()
    story.make_anew(10)
    story.now += 10
    sight = Sight(story.tick(), story.tick(), [], (start, stop))
    story.history.sights.append(sight)
    assert story.names() == {"untrue_page"}


# -- What is said of the last complete initsync ----------------------------------------


@pytest.mark.parametrize(
    ("header", "first", "found"),
    [
        ("open=4,1; last=1-3,1", 1, set()),
        ("open=4,1", 1, {"wrong_header"}),
        ("open=4,1", 2, set()),  # the one before has left the stream
        ("open=4,2; last=1-3,1", 1, {"wrong_header"}),
        ("last=1-3,1", 1, {"wrong_header"}),
        (NO_HEADER, 1, {"wrong_header"}),
        (NO_HEADER, 5, {"wrong_header"}),
        (None, 1, set()),
    ],
)
def test_a_header_says_where_a_scan_stands(
    story: Story, header: str | None, first: int, found: set[str]
) -> None:
    story.initsync((USER, ONE))
    story.begin(kind="initsync")
    story.send(event=init("init-start"))
    if first > 1:
        story.purge(first)
    story.send(event=initsync_added(USER, ONE))
    story.stored[-1] = story.stored[-1]._replace(scan=header)
    assert story.names() == found


@pytest.mark.parametrize(
    ("verdict", "is_ready", "seconds", "found"),
    [
        ("1-3", True, 30, set()),
        ("none", True, 5, set()),
        ("none", True, 30, {"wrong_verdict"}),
        ("unknown", True, 30, {"wrong_verdict"}),
        ("", True, 30, set()),
        ("none", False, 30, set()),
    ],
)
def test_a_sidecar_says_soon_which_initsync_a_scan_finds(
    story: Story, verdict: str, is_ready: bool, seconds: int, found: set[str]
) -> None:
    story.initsync((USER, ONE))
    for _ in range(seconds):
        at = story.tick()
        sample = Sample("s", at, is_ready, (), is_ready, verdict)
        story.history.samples.append(sample)
    assert story.names() == found


@pytest.mark.parametrize(("verdict", "found"), [("1-3", False), ("none", True)])
def test_in_the_end_a_sidecar_says_at_once_which_one_it_is(
    story: Story, verdict: str, found: bool
) -> None:
    story.initsync((USER, ONE))
    story.history.verdicts.append(("s", story.tick(), verdict))
    assert story.names() == ({"wrong_verdict"} if found else set())
