# SPDX-License-Identifier: Apache-2.0
"""The checker of tests/chaos sees each violation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
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
from support.chaos_replicas import RIGHT, body

_FIRST = Pass()
_NEXT = Pass(number=1)
_LATER = Pass(number=1, age=1)
_KILLED = Pass(number=1, process=1, ended="killed")
_KILLED_LATER = Pass(number=2, age=1, process=1, ended="killed")
_REMOVAL: dict[str, Any] = {"kind": "removed", "pkey": 2}
_AFTER = Pass(number=1, began_at=200.0)
_OTHER_PRODUCER = Pass(producer=1, began_at=100.0)


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
        sent = body(value, **event)
        attempt = Attempt(sent, told, (key,), offset, during=during)
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
        (_Runs().unknown(1).stored(1, _KILLED), "doubled"),
        (_Runs().unknown(1).stored(1, _KILLED_LATER), None),
        # Behind another producer's event nobody knows which pass was the last.
        (
            _Runs().unknown(1).stored(2, _OTHER_PRODUCER).stored(1, _KILLED),
            None,
        ),
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
    another = Message(2, "another key", body(1))
    found = check(runs.attempts, [*runs.messages, another]).violations
    assert found == ["nobody sent what stands at offset 2"]
    found = check(runs.attempts, [replace(runs.messages[0], body=body(2))]).violations
    assert found == ["another event stands at offset 1"]


def test_what_a_killed_process_had_not_saved_stands_once() -> None:
    runs = _Runs().stored(1).stored(1, _KILLED)
    (violation,) = check(runs.attempts, runs.messages, forgotten={0}).violations
    assert violation.startswith("doubled")
    assert not check(runs.attempts, runs.messages).violations  # it is new
    runs = _Runs().stored(1).told(1, Told.STANDING, _KILLED)
    assert not check(runs.attempts, runs.messages, forgotten={0}).violations


def test_what_comes_again_after_the_first_pass_is_counted() -> None:
    """Its source may have gone back before, so that no event came."""
    runs = _Runs().stored(1).stored(1, _KILLED_LATER)
    verdict = check(runs.attempts, runs.messages, forgotten={0})
    assert not verdict.violations
    assert verdict.repeats == {"killed": 1}


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
    named = [(offset, name_of(body(number))) for offset, number in seen]
    found = check_reader("reader", named, RIGHT, was_refused=was_refused)
    assert (not found) is is_right
