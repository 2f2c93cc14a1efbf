# SPDX-License-Identifier: Apache-2.0
"""The short form of tests/chaos: one mixed run, and proof that its checker sees."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from chaos.checker import Attempt, Message, Told, check
from chaos.faults import FAULTS, fitting
from chaos.options import Options
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
    hermes_home: Path, publisher: str, fault: str
) -> None:
    options = Options(
        seed=7, seconds=20, events=80, faults=(fault,), publisher=publisher, readers=0
    )
    result = run(options, hermes_home)
    assert any("stand" in each or "twice" in each for each in result.violations)
    text = summary(result)
    assert "VIOLATION, seed 7" in text
    assert options.command in text


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
