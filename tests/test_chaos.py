# SPDX-License-Identifier: Apache-2.0
"""The short form of tests/chaos: one mixed run, and proof that its checker sees."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict, replace
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from chaos import forge
from chaos.checker import (
    Attempt,
    Message,
    Pass,
    Told,
    check,
    check_reader,
    check_targets,
    name_of,
)
from chaos.damage import compare
from chaos.faults import FAULTS, fitting
from chaos.forge import Forger
from chaos.options import Options
from chaos.proxy import Link
from chaos.report import page
from chaos.run import run, summary
from chaos.source import Source
from parts.odd import Reply

from sidecar.jetstream.client import split_messages

if TYPE_CHECKING:
    from pathlib import Path

QUICK = tuple(
    name
    for name in fitting("single")
    if name not in ("disk_full", "stream_full")
    and "swallow" not in name
    and "stall" not in name
)


def test_every_returned_event_stands_once_in_order_whatever_dies(
    hermes_home: Path,
) -> None:
    result = run(Options(seed=7, seconds=10, burst=80, faults=QUICK), hermes_home)
    assert not result.violations, summary(result)
    assert result.acknowledged > 100
    assert result.scans > 1
    assert len(result.faults) > 3


@pytest.mark.parametrize(
    ("publisher", "fault"),
    [
        ("unfenced", "http_late_before_request"),
        ("unkeyed", "http_cut_in_answer"),
        ("self-fencing", "http_late_before_request"),
    ],
)
def test_a_broken_publisher_is_found_out_with_the_command_that_repeats_it(
    hermes_home: Path, tmp_path: Path, publisher: str, fault: str
) -> None:
    options = Options(
        seed=7,
        seconds=20,
        events=80,
        burst=80,
        faults=(fault,),
        publisher=publisher,
        readers=0,
        scanners=0,
        report=tmp_path / "chaos.json",
    )
    result = run(options, hermes_home)
    assert any("stand" in each or "twice" in each for each in result.violations)
    text = summary(result)
    assert "VIOLATION, seed 7" in text
    assert options.command in text
    _check_evidence(tmp_path / "chaos-seed-7")


def _check_evidence(directory: Path) -> None:
    names = {file.name for file in directory.iterdir()}
    assert {"attempts.jsonl", "faults.jsonl", "n1-nats.log"} <= names
    rows = (directory / "replica-n1.jsonl").read_text().splitlines()
    assert len(rows) >= 50
    for row in map(json.loads, rows):
        assert row["expected"] == row["offset"] - 1
        assert row["key"]
        assert row["time"]
        assert row["body"].startswith(("base ", "initsync "))


def test_the_same_faults_do_not_hurt_the_real_publisher(hermes_home: Path) -> None:
    faults = ("http_late_before_request", "http_cut_in_answer")
    options = Options(seed=7, seconds=20, events=80, burst=80, faults=faults)
    result = run(options, hermes_home)
    assert not result.violations, summary(result)


def test_each_fault_runs_in_some_topology() -> None:
    assert all(fault.topologies for fault in FAULTS.values())


_FIRST = Pass()
_NEXT = Pass(number=1)
_LATER = Pass(number=1, age=1)
_KILLED = Pass(number=1, process=1, ended="killed")
_REMOVAL: dict[str, Any] = {"kind": "removed", "pkey": 2}
_AFTER = Pass(number=1, began_at=200.0)
_OTHER_PRODUCER = Pass(producer=1, began_at=100.0)


def _body(
    value: int, kind: str = "modified", category: str = "base", pkey: int = 1
) -> bytes:
    event = {
        "evcategory": category,
        "eventtype": kind,
        "objtype": "Users",
        "objpkey": pkey,
        "objattrs": {"modified": {"value": value}},
    }
    return json.dumps(event).encode()


class _Runs:
    """What was told of some `_send`s, and the stream, written in few words."""

    def __init__(self) -> None:
        self.attempts: list[Attempt] = []
        self.messages: list[Message] = []

    def told(
        self,
        value: int,
        told: Told,
        during: Pass = _FIRST,
        offset: int | None = None,
        **event: Any,
    ) -> _Runs:
        key = f"key {len(self.attempts)}"
        body = _body(value, **event)
        attempt = Attempt(body, told, (key,), offset, during=during)
        self.attempts.append(attempt)
        return self

    def at(self, number: int, second: int = 0) -> _Runs:
        """Let an attempt's message stand at the next offset."""
        attempt = self.attempts[number]
        time = f"1970-01-01T00:00:{second:02}.000000001Z"
        offset = len(self.messages) + 1
        message = Message(offset, attempt.keys[0], attempt.body, time=time)
        self.messages.append(message)
        return self

    def stored(self, value: int, during: Pass = _FIRST, **body: Any) -> _Runs:
        offset = len(self.messages) + 1
        return self.told(value, Told.STORED, during, offset, **body).at(-1)

    def unknown(self, value: int, during: Pass = _FIRST, **body: Any) -> _Runs:
        """Store what is told unknown."""
        return self.told(value, Told.UNKNOWN, during, **body).at(-1)


@pytest.mark.parametrize(
    ("runs", "found"),
    [
        (_Runs().stored(1), None),
        (_Runs().told(1, Told.STORED, offset=1), "lost"),
        (_Runs().stored(1).stored(1), None),
        (_Runs().stored(1).at(0), "stands twice"),
        (_Runs().told(1, Told.STORED, offset=2).at(0), "lost"),
        (_Runs().told(1, Told.NOT_STORED), None),
        (_Runs().told(1, Told.NOT_STORED).at(0), "reported not stored"),
        (_Runs().told(1, Told.UNKNOWN), None),
        (_Runs().unknown(1), None),
        (_Runs().unknown(1).at(0), "stands twice"),
        (_Runs().told(1, Told.KILLED), None),
        (_Runs().told(1, Told.KILLED).at(0), None),
        (_Runs().told(1, Told.UNKNOWN).stored(2).at(0), "out of order"),
        (
            _Runs().told(1, Told.UNKNOWN).told(2, Told.UNKNOWN).at(1).at(0),
            "out of order",
        ),
        (
            _Runs().told(1, Told.STORED, offset=2).told(2, Told.STORED, offset=1),
            "did not rise",
        ),
        # Recognised, rightly or not.
        (_Runs().unknown(1).told(1, Told.STANDING, _NEXT), None),
        (_Runs().unknown(1).told(1, Told.STANDING, _NEXT).at(1), "and stored"),
        (_Runs().told(1, Told.UNKNOWN).told(1, Told.STANDING, _NEXT), "swallowed"),
        (_Runs().stored(1).told(1, Told.STANDING, _NEXT), "swallowed"),
        (_Runs().unknown(1).told(1, Told.STANDING, _LATER), "swallowed"),
        (_Runs().unknown(1).unknown(2).told(1, Told.STANDING, _NEXT), "swallowed"),
        (
            _Runs().unknown(1).told(1, Told.STANDING).told(1, Told.STANDING, _NEXT),
            "swallowed",
        ),
        (
            _Runs()
            .unknown(1, kind="dataschema")
            .told(1, Told.STANDING, _NEXT, kind="dataschema"),
            "never to be recognised",
        ),
        (
            _Runs()
            .unknown(1, category="initsync")
            .told(1, Told.STANDING, _NEXT, category="initsync"),
            "never to be recognised",
        ),
        # Removals are the last of a pass: what has not come again by then is new.
        (_Runs().unknown(1).stored(0, _NEXT, **_REMOVAL).stored(1, _NEXT), None),
        (
            _Runs()
            .unknown(1)
            .stored(0, _NEXT, **_REMOVAL)
            .told(1, Told.STANDING, _NEXT),
            "swallowed",
        ),
        # Another producer's count, too, and its initsyncs.
        (
            _Runs().unknown(1).stored(0, _OTHER_PRODUCER, **_REMOVAL).stored(1, _AFTER),
            None,
        ),
        (
            _Runs()
            .unknown(1)
            .stored(0, _OTHER_PRODUCER, category="initsync", kind="init-stop")
            .stored(1, _AFTER),
            None,
        ),
        # One that never came to stand took nothing with it.
        (
            _Runs()
            .unknown(1)
            .told(0, Told.UNKNOWN, _NEXT, **_REMOVAL)
            .told(1, Told.STANDING, _NEXT),
            None,
        ),
        (
            _Runs()
            .unknown(1, kind="removed")
            .stored(0, _NEXT, **_REMOVAL)
            .stored(1, _NEXT, kind="removed"),
            "doubled",
        ),
        # The same bytes again: a double, or a source that went back.
        (_Runs().unknown(1).stored(1, _NEXT), "doubled"),
        (_Runs().unknown(1).unknown(1, _NEXT), "doubled"),
        (_Runs().unknown(1).told(1, Told.UNKNOWN).stored(1, _NEXT), "doubled"),
        (_Runs().unknown(1).stored(1, _LATER), None),
        (_Runs().unknown(1).told(2, Told.UNKNOWN, _NEXT).stored(1, _NEXT), None),
        (_Runs().unknown(1).stored(2, _NEXT).stored(1, _NEXT), None),
        (
            _Runs().unknown(1).told(1, Told.STANDING, _NEXT).stored(1, _LATER),
            None,
        ),
        (
            _Runs().unknown(1, kind="dataschema").stored(1, _NEXT, kind="dataschema"),
            None,
        ),
        (_Runs().unknown(1).stored(1, _KILLED), None),
        (_Runs().unknown(1).told(1, Told.STANDING, _KILLED), None),
    ],
)
def test_the_checker_knows_each_violation(runs: _Runs, found: str | None) -> None:
    violations = check(runs.attempts, runs.messages).violations
    if found is None:
        assert not violations
    else:
        assert any(found in each for each in violations), violations


def test_what_stands_without_having_been_sent_is_found() -> None:
    runs = _Runs().stored(1)
    another = Message(2, "another key", _body(1))
    found = check(runs.attempts, [*runs.messages, another]).violations
    assert found == ["nobody sent what stands at offset 2"]
    found = check(runs.attempts, [replace(runs.messages[0], body=_body(2))]).violations
    assert found == ["another event stands at offset 1"]


def test_what_a_killed_process_had_not_saved_may_come_again_and_is_counted() -> None:
    runs = _Runs().stored(1).stored(1, _KILLED)
    verdict = check(runs.attempts, runs.messages, forgotten={0})
    assert not verdict.violations
    assert verdict.repeats == {"killed": 1}
    assert not check(runs.attempts, runs.messages).repeats  # it is new
    runs = _Runs().stored(1).told(1, Told.STANDING, _KILLED)
    assert not check(runs.attempts, runs.messages, forgotten={0}).violations


@pytest.mark.parametrize(
    ("began_at", "second", "is_stale"),
    [(10.0, 9, False), (10.0, 11, True), (12.0, 11, False)],
)
def test_a_pass_stores_nothing_behind_anothers_event_that_came_in_it(
    began_at: float, second: int, *, is_stale: bool
) -> None:
    runs = _Runs().told(1, Told.STORED, Pass(began_at=began_at), 1).at(0, 10)
    runs = runs.told(2, Told.STORED, _OTHER_PRODUCER, 2).at(1, second)
    runs = runs.told(3, Told.STORED, Pass(began_at=began_at), 3).at(2, 20)
    found = check(runs.attempts, runs.messages).violations
    assert [each.partition(":")[0] for each in found] == ["stale"] * is_stale


@pytest.mark.parametrize(
    ("runs", "unseen", "cache", "is_right"),
    [
        (_Runs().stored(1).stored(2), set(), 2, True),
        (_Runs().stored(1).stored(2), set(), 1, False),
        (_Runs().stored(1), set(), None, False),
        (_Runs().stored(1).stored(1, kind="removed"), set(), None, True),
        (_Runs().stored(1).stored(1, category="initsync"), set(), 1, True),
        (_Runs().stored(1).unknown(2), {1}, 1, True),
        (_Runs().unknown(1).stored(2), {0}, 1, False),
        (_Runs(), set(), 1, False),
    ],
)
def test_a_target_that_applies_the_stream_ends_with_what_hermes_knows(
    runs: _Runs, unseen: set[int], cache: int | None, *, is_right: bool
) -> None:
    known = {} if cache is None else {("Users", 1): cache}
    found = check_targets(runs.attempts, runs.messages, unseen, known)
    assert (not found) is is_right


# -- The model of Hermes, and the relay ------------------------------------------------


def _pass(source: Source) -> list[bytes]:
    """Let a pass go through, and give the bodies of its events."""
    bodies = []
    for group in source.difference():
        for planned in group:
            source.commit(planned)
            bodies.append(planned.body)
    return bodies


@pytest.mark.usefixtures("hermes_home")
def test_a_source_goes_back_to_older_values_and_its_events_are_the_same() -> None:
    source = Source("Users", Random(1))  # noqa: S311 - to be repeatable
    bodies = []
    for _ in range(40):
        source.change()
        bodies += _pass(source)
        assert source.cache == source.values
        assert not _pass(source)
    assert len(bodies) > 300
    assert len(set(bodies)) < len(bodies) / 2


@pytest.mark.usefixtures("hermes_home")
def test_a_killed_hermes_computes_again_what_it_had_not_saved() -> None:
    source = Source("Users", Random(1))  # noqa: S311 - to be repeatable
    source.change()
    _pass(source)
    source.save()
    source.change()
    lost = set(_pass(source))
    source.restart()
    source.secrets.clear()  # these were wiped where they came from
    assert {each for each in lost if b"password" not in each} <= set(_pass(source))


@pytest.mark.parametrize("split", [1, 8, 40])
def test_a_relay_tells_an_earlier_state_and_passes_on_all_else(split: int) -> None:
    def reply(last: int) -> bytes:
        document = {
            "type": "io.nats.jetstream.api.v1.stream_info_response",
            "state": {"last_seq": last, "num": 1},
            "created": "today",
        }
        body = json.dumps(document, separators=(",", ":")).encode()
        return b"MSG _INBOX.a 1 %d\r\n%b\r\n" % (len(body), body)

    before, after = b"MSG _INBOX.b 1 2\r\nok\r\n", b"PING\r\n"
    whole = before + reply(1_000_000) + after

    async def relay() -> bytes:
        far = asyncio.StreamReader()
        link = Link(None, None, None, far, None)  # type: ignore[arg-type]
        far.feed_data(whole[-split:])
        far.feed_eof()
        return await link._lag(whole[:-split], {"last_seq": 7}) + await far.read()

    assert asyncio.run(relay()) == before + reply(7) + after


# -- Replicas that their server damaged ------------------------------------------------


def _copy(*placed: tuple[int, int]) -> list[Message]:
    """Make a copy of events by number and expected last, from offset 1 on."""
    return [
        Message(offset, f"key {number}", _body(number), expected)
        for offset, (number, expected) in enumerate(placed, 1)
    ]


_RIGHT = _copy((1, 0), (2, 1), (3, 2))
_TWICE = _copy((1, 0), (2, 1), (2, 1), (3, 2))
_LACKING = _copy((1, 0), (3, 2))
_SHORT = _copy((1, 0), (2, 1))
_OTHER = _copy((1, 0), (2, 1), (4, 2))


@pytest.mark.parametrize(
    ("copies", "stream", "damaged", "found"),
    [
        ([_RIGHT], _RIGHT, [], []),
        ([_RIGHT] * 3, _RIGHT, [], []),
        ([_TWICE, _RIGHT, _RIGHT], _RIGHT, ["n1: 2 events"], []),
        ([_RIGHT, _RIGHT, _TWICE], _RIGHT, ["n3: 2 events"], []),
        ([_RIGHT, _LACKING, _RIGHT], _RIGHT, ["n2: 1 events"], []),
        # Not proven: nothing stands in the wrong place.
        ([_RIGHT, _RIGHT, _SHORT], _RIGHT, [], ["n3 holds another"]),
        ([_RIGHT, _OTHER, _RIGHT], _RIGHT, [], ["n2 holds another"]),
        # Not proven: no majority is left, or it does not agree.
        ([_TWICE], _TWICE, [], ["n1: 2 events"]),
        ([_TWICE] * 3, _TWICE, [], ["n1: 2 events", "n2: 2", "n3: 2"]),
        (
            [_RIGHT, _TWICE, _LACKING],
            _RIGHT,
            [],
            ["n2 holds another", "n3 holds another", "n2: 2 events", "n3: 1 events"],
        ),
        (
            [_RIGHT, _TWICE, _SHORT],
            _RIGHT,
            [],
            ["n2 holds another", "n3 holds another", "n2: 2 events"],
        ),
    ],
)
def test_a_replica_is_damaged_by_its_server_only_where_a_sound_majority_proves_it(
    copies: list[list[Message]],
    stream: list[Message],
    damaged: list[str],
    found: list[str],
) -> None:
    names = [f"n{number}" for number in range(1, len(copies) + 1)]
    replicas = compare(dict(zip(names, copies, strict=True)))
    assert replicas.messages == stream
    for texts, wanted in (
        ([str(each) for each in replicas.damages], damaged),
        (replicas.violations, found),
    ):
        assert len(texts) == len(wanted)
        assert all(each in text for text, each in zip(texts, wanted, strict=True))


_SUBJECT = "_INBOX_hermes_both.x"
_FRAMES = [
    (f"{_SUBJECT}.1_a", b"", b'{"stream":"hermes","seq":8}'),
    (
        f"{_SUBJECT}.2_b",
        b"NATS/1.0\r\nNats-Stream: hermes\r\nNats-Sequence: 8\r\n\r\n",
        b"{}",
    ),
    (f"{_SUBJECT}.3_c", b"", b'{"type":"io.nats.jetstream.api.v1.x_response"}'),
]


@pytest.mark.parametrize("seed", range(30))
def test_spoilt_answers_are_whole_messages_and_guess_no_token(seed: int) -> None:
    forger = Forger(Random(seed))  # noqa: S311 - to be repeatable
    for subject, block, data in _FRAMES:
        frame = forge.frame(subject.encode(), b"1", Reply(block, data))
        assert forger.spoil(frame[:-1]) == (frame[:-1], 1)
        spoilt, lacks_bytes = forger.spoil(frame + b"PING\r\n")
        split = split_messages(spoilt)
        assert not lacks_bytes
        assert spoilt[split.end :] == b"PING\r\n"
        assert split.messages
        others = {one[0] for one in split.messages} - {subject}
        assert not others & {each[0] for each in _FRAMES}


def test_a_damage_is_told_with_what_proves_it() -> None:
    damages = compare({"n1": _RIGHT, "n2": _TWICE, "n3": _RIGHT}).damages
    assert damages[0].pairs == ((3, 1), (4, 2))
    run = {"seed": 5, "topology": "cluster", "server_version": "2.12.8"}
    row = run | {"server_damage": [asdict(damages[0])]}
    assert page([row | _COUNTS]).count("| n2 | 3 | 2 | 3 (1), 4 (2) |") == 1
    assert "damage" not in page([run | _COUNTS]).partition("## Faults")[2]


_COUNTS: dict[str, Any] = dict.fromkeys(
    (
        *("acknowledged", "standing", "not_stored"),
        *("unknown_stored", "unknown_absent", "killed", "read", "scans"),
    ),
    0,
) | {"late": {}, "faults": {}, "repeats": {}, "violations": []}


@pytest.mark.parametrize(
    ("seen", "was_refused", "is_right"),
    [
        ([(1, 1), (2, 2), (3, 3)], False, True),
        ([(1, 1), (2, 2)], False, False),
        ([(1, 1), (2, 2)], True, True),
        ([], True, True),
        ([(1, 1), (2, 2), (3, 2)], True, False),
        ([(1, 1), (2, 2), (3, 3), (4, 3)], True, False),
    ],
)
def test_a_reader_may_be_refused_but_never_be_given_a_displaced_event(
    seen: list[tuple[int, int]], *, was_refused: bool, is_right: bool
) -> None:
    named = [(offset, name_of(_body(number))) for offset, number in seen]
    found = check_reader("reader", named, _RIGHT, was_refused=was_refused)
    assert (not found) is is_right
