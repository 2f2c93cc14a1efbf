# SPDX-License-Identifier: Apache-2.0
"""What tests/chaos makes of a new client's scan, and what it harms scans with."""

from __future__ import annotations

import json
import uuid
from random import Random
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from chaos.checker import Message, name_of
from chaos.nemesis import long_freeze_seconds
from chaos.proxy import Proxy
from chaos.scanner import Scanner
from chaos.scans import Scan, Standing, check_scans, initsyncs, summary_of
from chaos.wire import Wire
from support.process import wait_until
from support.sidecar import event

if TYPE_CHECKING:
    from collections.abc import Sequence

    from support.nats import NatsProcess

_KINDS = {
    "[": ("initsync", "init-start"),
    "o": ("initsync", "added"),
    "]": ("initsync", "init-stop"),
    ".": ("base", "added"),
}


def _stream(letters: str) -> list[Message]:
    """Make a stream from offset 1 on: an initsync is [o], a base event a dot."""
    messages = []
    for offset, letter in enumerate(letters, 1):
        category, kind = _KINDS[letter]
        body = event(category, eventtype=kind, objpkey=offset)
        messages.append(Message(offset, f"key {offset}", body))
    return messages


_STREAM = _stream(".[o].[o].[o")
_ROWS = [(message.offset, name_of(message.body)) for message in _STREAM]


def _told(last: int) -> list[tuple[float, int]]:
    """Let each offset be told of at the second of its number."""
    return [(float(offset), offset) for offset in range(1, last + 1)]


@pytest.mark.parametrize(
    ("letters", "found"),
    [
        ("", []),
        ("..", []),
        ("[o]", [(1, 3)]),
        ("[o", []),
        ("o]", []),
        ("[o[o]", [(3, 5)]),  # a hermes-server that died in one begins another
        ("[o]]", [(1, 3)]),
        ("[].[o]", [(1, 2), (4, 6)]),
    ],
)
def test_an_initsync_is_what_a_hermes_client_takes_for_one(
    letters: str, found: list[tuple[int, int]]
) -> None:
    rows = [(each.offset, name_of(each.body)) for each in _stream(letters)]
    assert initsyncs(rows) == found


@pytest.mark.parametrize(
    ("moment", "last"), [(0.0, 0), (1.0, 0), (1.5, 7), (2.5, 7), (9.0, 9)]
)
def test_what_stood_by_a_moment_is_what_was_told_before(
    moment: float, last: int
) -> None:
    assert Standing([(2.0, 5), (1.0, 7), (3.0, 9)]).last(moment) == last


def _scan(
    seen: Sequence[Any], began: float, asked_at: float, **values: Any
) -> list[str]:
    scan = Scan("a client", seen, began, asked_at, **values)
    return check_scans([scan], _STREAM, _told(len(_STREAM)))


@pytest.mark.parametrize(
    ("count", "began", "asked_at", "found"),
    [
        (11, 20, 20, []),  # all of it
        (8, 0, 8, []),  # the end was one when it asked
        (8, 0, 9, []),  # told at that very moment: it may have been later
        (8, 0, 9.5, ["came to an end before 9, and 9 was known"]),
        (0, 0, 0.5, []),  # an empty stream
        (0, 0, 1.5, ["came to an end before 1, and 1 was known"]),
        # Before the end of an initsync the one before it is right.
        (7, 7.5, 7.5, []),
        (7, 7.5, 8.5, ["came to an end before 8"]),
        (
            *(7, 8.5, 8.5),
            ["came to an end before 8", "took initsync (2, 4), and (6, 8) stood"],
        ),
        (
            *(1, 4.5, 4.5),
            ["came to an end before 2", "took initsync None, and (2, 4) stood"],
        ),
    ],
)
def test_a_scan_ends_at_an_end_and_takes_the_last_complete_initsync(
    count: int, began: float, asked_at: float, found: list[str]
) -> None:
    violations = _scan(_ROWS[:count], began, asked_at)
    assert len(violations) == len(found)
    assert all(text in each for text, each in zip(found, violations, strict=True)), (
        violations
    )


_DEAD = (6, name_of(event("initsync", eventtype="init-start", objpkey=-1)))


@pytest.mark.parametrize(
    ("seen", "found"),
    [
        ([*_ROWS[:3], *_ROWS[4:]], "got (5, "),  # a gap
        (_ROWS[1:], "got (2, "),  # it begins too late
        ([*_ROWS[:4], *_ROWS[3:]], "got (4, "),  # twice
        ([*_ROWS[:5], _DEAD, *_ROWS[6:]], "got (6, "),  # of another stream
        ([*_ROWS, (12, _ROWS[0][1])], "the stream has nothing more"),
    ],
)
def test_a_scan_is_a_piece_of_the_stream_without_a_gap(
    seen: Sequence[Any], found: str
) -> None:
    """Whether it came to an end, or failed on its way."""
    for is_ended in (True, False):
        violations = _scan(seen, 20, 20, is_ended=is_ended)
        assert found in violations[0]
    assert _scan(_ROWS[:3], 20, 20, is_ended=False) == []


def test_an_initsync_that_is_in_no_stream_is_taken_by_nobody() -> None:
    dead = [(1, _DEAD[1]), (2, _ROWS[3][1])]
    assert "and the stream has no such" in _scan(dead, 0, 0.5)[-1]


_INITSYNC = [row for row in _ROWS if row[0] not in (1, 5, 9)]


@pytest.mark.parametrize(
    ("seen", "asked_at", "values", "found"),
    [
        (_INITSYNC, 20, {"category": "initsync"}, ""),
        (_INITSYNC[:3], 5.5, {"category": "initsync"}, ""),  # 5 is of another
        (_INITSYNC[:3], 6.5, {"category": "initsync"}, "to an end before 6"),
        (_INITSYNC[1:], 20, {"category": "initsync"}, "got (3, "),
        (_ROWS, 20, {"category": "initsync"}, "got (1, "),
        (_ROWS[5:8], 20, {"start": 6, "is_ended": False}, ""),
        (_ROWS[5:7], 20, {"start": 6}, "to an end before 8"),
        (_ROWS[4:8], 20, {"start": 6, "is_ended": False}, "got (5, "),
    ],
)
def test_a_client_of_one_category_and_one_that_has_sought_are_judged_alike(
    seen: Sequence[Any], asked_at: float, values: dict[str, Any], found: str
) -> None:
    violations = _scan(seen, 0, asked_at, **values)
    assert len(violations) == (1 if found else 0), violations
    assert all(found in each for each in violations)


def test_what_is_kept_of_a_scan_has_its_ends_and_no_more() -> None:
    kept = summary_of(Scan("a client", _ROWS, 1, 2, start=6))
    assert (kept["count"], kept["start"]) == (11, 6)
    assert kept["ends"] == [_ROWS[0], _ROWS[-1]]
    assert json.dumps(kept)


# -- The new client --------------------------------------------------------------------


class _Plugin:
    """A plugin over a list of events; it stops a scanner at the end of its second."""

    def __init__(self, messages: Sequence[Message], *, fails_at: int = 0) -> None:
        self.events = [
            SimpleNamespace(**json.loads(each.body), offset=each.offset)
            for each in messages
        ]
        self.fails_at = fails_at
        self.scanner: Scanner | None = None
        self.place = self.rounds = 0

    def __enter__(self) -> None:
        self.rounds += 1

    def __exit__(self, *_: object) -> None:
        if self.scanner is not None and self.rounds > 1:
            self.scanner.stopping.set()

    def setTimeout(self, _: int) -> None:  # noqa: N802 - Hermes' name
        pass

    def seekToBeginning(self) -> None:  # noqa: N802 - Hermes' name
        self.place = 0

    def seek(self, offset: int) -> None:
        self.place = offset - 1

    def __iter__(self) -> Any:
        while self.place < len(self.events):
            self.place += 1
            if self.place == self.fails_at:
                raise OSError("no stream")
            yield self.events[self.place - 1]

    def findNextEventOfCategory(self, category: str) -> Any:  # noqa: N802 - Hermes' name
        return next((each for each in self if each.evcategory == category), None)


def _scans_of(plugin: _Plugin) -> Scanner:
    scanner = plugin.scanner = Scanner("a client", plugin, Random(1))  # noqa: S311
    scanner.run()
    return scanner


def test_a_new_client_reads_the_last_initsync_that_it_has_found() -> None:
    scanner = _scans_of(_Plugin(_STREAM))
    whole = [scan for scan in scanner.scans if scan.is_whole]
    assert [scan.seen for scan in whole] == [_ROWS, _ROWS]
    sought, asked, *_ = [scan for scan in scanner.scans if scan.start is not None]
    assert (sought.start, sought.seen, sought.is_ended) == (6, _ROWS[5:8], False)
    assert (asked.start, asked.category, asked.is_ended) == (6, "initsync", True)
    assert asked.seen == [*_ROWS[5:8], *_ROWS[9:]]
    assert scanner.has_ended_since(0.0)
    assert not scanner.has_ended_since(scanner.scans[-1].began)
    assert check_scans(scanner.scans, _STREAM, scanner.told) == []
    assert max(scanner.told)[1] >= 8


def test_a_scan_that_failed_takes_nothing_and_what_it_got_is_judged() -> None:
    scanner = _scans_of(_Plugin(_STREAM, fails_at=5))
    assert [len(scan.seen) for scan in scanner.scans] == [4, 4]
    assert not any(scan.is_ended for scan in scanner.scans)
    assert scanner.failures == {"no stream": 2}


# -- The harm --------------------------------------------------------------------------


def test_a_slow_link_makes_all_wait_for_what_is_in_line() -> None:
    proxy = Proxy()
    assert proxy.line_seconds("nats", 1_000, 5.0) == 0
    proxy.obey({"op": "delay", "kind": "nats", "seconds": 0.1, "rate": 1_000})
    assert proxy.line_seconds("nats", 1_000, 5.0) == 1
    assert proxy.line_seconds("nats", 500, 5.5) == 1
    assert proxy.line_seconds("nats", 500, 9.0) == 0.5
    assert proxy.line_seconds("http", 1_000, 9.0) == 0
    proxy.obey({"op": "delay", "kind": "nats", "seconds": 0})
    assert proxy.line_seconds("nats", 1_000, 9.0) == 0


def test_a_follower_is_frozen_for_up_to_a_minute_where_the_run_is_long() -> None:
    rng = Random(1)  # noqa: S311 - to be repeatable
    drawn = [long_freeze_seconds(rng, 60.0) for _ in range(200)]
    assert (min(drawn) < 1, max(drawn)) == (True, 60)
    assert max(long_freeze_seconds(rng, 15.0) for _ in range(200)) == 15


def test_a_restored_mirror_answers_for_a_stream_that_it_never_was_of(
    nats: NatsProcess,
) -> None:
    name = f"o{uuid.uuid4().hex[:12]}"
    mirror = f"{name}b"
    with Wire(nats.port, 10) as wire:
        wire.create(name, first_seq=1_000)
        wire.publish_many(f"{name}.base", "added", 20, event())
        wire.restore_older(mirror, name, 1_000, wire.state(name)["last_seq"])
        assert {name, mirror} <= set(wire.names())
        wire.publish(f"{name}.base", event())
        wait_until(lambda: wire.state(mirror)["last_seq"] == 1_020, what="mirrored")
        of_whom = set()
        for _ in range(40):
            batch, _ = wire.batch(name, 1_000)
            kinds = [json.loads(each.body)["eventtype"] for each in batch]
            of_whom.add((kinds[0], kinds[18], len(kinds)))
        assert of_whom == {("added", "added", 21), ("init-start", "init-stop", 21)}
        wire.delete(mirror)
