# SPDX-License-Identifier: Apache-2.0
"""A table on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.commands.table import Table

if TYPE_CHECKING:
    import pytest


def test_columns_are_even_under_one_header(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("OFFSET", "TYPE", "LAST")
    table.show([("1", "modified", "x"), ("2", "added", "")])
    table.show([("3", "added", "y")])
    table.show([("4" * 8, "added", "z")])
    assert capsys.readouterr().out.splitlines() == [
        "OFFSET  TYPE      LAST",
        "1       modified  x",
        "2       added",
        "3       added     y",
        "44444444  added     z",
    ]


def test_without_rows_there_is_no_header(capsys: pytest.CaptureFixture[str]) -> None:
    Table("OFFSET").show([])
    assert capsys.readouterr().out == ""
