# SPDX-License-Identifier: Apache-2.0
"""The short form of tests/chaos: one mixed run, and proof that its checker sees."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import pytest
from chaos.checker import Attempt, Message, Told, check, check_reader
from chaos.damage import compare
from chaos.faults import FAULTS, fitting
from chaos.options import Options
from chaos.report import page
from chaos.run import run, summary

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
    result = run(Options(seed=7, seconds=10, faults=QUICK), hermes_home)
    assert not result.violations, summary(result)
    assert result.acknowledged > 100
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
        faults=(fault,),
        publisher=publisher,
        readers=0,
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
    assert len(rows) >= 80
    for row in map(json.loads, rows):
        assert row["expected"] == row["offset"] - 1
        assert row["key"]
        assert row["time"]
        assert row["body"].startswith("number ")


def test_the_same_faults_do_not_hurt_the_real_publisher(hermes_home: Path) -> None:
    faults = ("http_late_before_request", "http_cut_in_answer")
    result = run(Options(seed=7, seconds=20, events=80, faults=faults), hermes_home)
    assert not result.violations, summary(result)


def test_each_fault_runs_in_some_topology() -> None:
    assert all(fault.topologies for fault in FAULTS.values())


def _body(number: int) -> bytes:
    return b'{"objattrs": {"number": %d}}' % number


def _attempt(
    number: int, told: Told, offset: int | None = None, **more: bool
) -> Attempt:
    again, is_new = more.get("again", False), more.get("is_new", False)
    body = _body(number)
    return Attempt(0, body, "Users 1", told, offset, again=again, is_new=is_new)


def _stream(*numbers: int) -> list[Message]:
    return [
        Message(offset, f"key {offset}", _body(number))
        for offset, number in enumerate(numbers, 1)
    ]


@pytest.mark.parametrize(
    ("attempts", "numbers", "found"),
    [
        ([_attempt(1, Told.STORED, 1)], [1], None),
        ([_attempt(1, Told.STORED, 1)], [], "lost"),
        ([_attempt(1, Told.STORED, 1)], [2], "holds another event"),
        ([_attempt(1, Told.STORED, 1)], [1, 1], "twice"),
        ([_attempt(1, Told.STORED, 1)], [1, 2], "nobody sent"),
        ([_attempt(1, Told.NOT_STORED)], [], None),
        ([_attempt(1, Told.NOT_STORED)], [1], "reported not stored"),
        ([_attempt(1, Told.UNKNOWN)], [], None),
        ([_attempt(1, Told.UNKNOWN)], [1], None),
        ([_attempt(1, Told.UNKNOWN)], [1, 1], "twice"),
        (
            [_attempt(1, Told.UNKNOWN), _attempt(2, Told.STORED, 1)],
            [2, 1],
            "out of order",
        ),
        (
            [_attempt(1, Told.UNKNOWN), _attempt(2, Told.UNKNOWN)],
            [2, 1],
            "out of order",
        ),
        (
            [_attempt(1, Told.STORED, 2), _attempt(2, Told.STORED, 1)],
            [2, 1],
            "did not rise",
        ),
        ([_attempt(1, Told.UNKNOWN), _attempt(1, Told.STANDING)], [1], None),
        ([_attempt(1, Told.UNKNOWN), _attempt(1, Told.STANDING)], [], "swallowed"),
        ([_attempt(1, Told.STORED, 1), _attempt(1, Told.STANDING)], [1], "swallowed"),
        (
            [_attempt(1, Told.UNKNOWN), _attempt(1, Told.STANDING, is_new=True)],
            [1],
            "swallowed",
        ),
        (
            [_attempt(1, Told.UNKNOWN), _attempt(1, Told.STORED, 2, again=True)],
            [1, 1],
            "doubled",
        ),
        ([_attempt(1, Told.UNKNOWN), _attempt(1, Told.STORED, 2)], [1, 1], None),
    ],
)
def test_the_checker_knows_each_violation(
    attempts: list[Attempt], numbers: list[int], found: str | None
) -> None:
    violations = check(attempts, _stream(*numbers)).violations
    if found is None:
        assert not violations
    else:
        assert any(found in each for each in violations), violations


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
        *("unknown_stored", "unknown_absent", "read"),
    ),
    0,
) | {"late": {}, "faults": {}, "violations": []}


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
    found = check_reader("reader", seen, _RIGHT, was_refused=was_refused)
    assert (not found) is is_right
