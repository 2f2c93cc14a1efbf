# SPDX-License-Identifier: Apache-2.0
"""docs/support.md and the command that says what stands in it."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import matrix
import pytest
from matrix import PARTS, Row, last_words, run
from support.checkout import ROOT

PAGE = (ROOT / "docs" / "support.md").read_text("utf-8")
NO_HERMES = Path("/nonexistent")


def test_the_page_has_a_row_for_each_that_the_command_runs() -> None:
    parts = [PARTS[part] for part in PARTS if part != "hermes"]
    rows = [row for part in parts for row in part(NO_HERMES)]
    assert len(rows) > 10
    for row in rows:
        assert f"| {row.part} | {row.version} |" in PAGE
    releases = re.findall(r"^\| Hermes \| v(\S+)", PAGE, re.MULTILINE)
    assert releases == [f"1.0.{patch}" for patch in range(5, 10)]


@pytest.mark.parametrize(
    ("printed", "words"),
    [
        ("....\n7 passed, 1 skipped in 3.10s (0:01)\n", "7 passed, 1 skipped"),
        ("1 failed, 3 passed in 3.10s\nmake: *** [test] Error 1", "1 failed, 3 passed"),
        (
            "5 passed in 1s\ncluster, s: 812 acknowledged, 0",
            "5 passed; 812 acknowledged",
        ),
        ("make: no such thing", ""),
    ],
)
def test_the_last_words_of_a_target_are_found(printed: str, words: str) -> None:
    assert last_words(printed) == words


@pytest.mark.parametrize(
    ("command", "is_good", "outcome"),
    [
        ((sys.executable, "-c", "print('2 passed in 1s')"), True, "2 passed (0 min)"),
        (
            (sys.executable, "-c", "exit('1 failed')"),
            False,
            "**failed**: 1 failed (0 min)",
        ),
        ((), True, "not on this machine: not tested"),
    ],
)
def test_a_row_says_what_came_out(
    command: tuple[str, ...],
    is_good: bool,
    outcome: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(matrix, "CACHE", tmp_path)
    assert run(Row("what", "1", command)) == (is_good, f"| what | 1 | {outcome} |")
