# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sidecar.access import TokenFile

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "token"
    file.write_text("c0rrect-horse\n")
    return file


@pytest.mark.parametrize(
    ("authorization", "matches"),
    [
        ("Bearer c0rrect-horse", True),
        (None, False),
        ("", False),
        ("Bearer", False),
        ("Bearer ", False),
        ("Bearer c0rrect", False),
        ("Bearer c0rrect-horse-battery", False),
        ("Basic c0rrect-horse", False),
        ("c0rrect-horse", False),
        ("Bearer \xe9", False),
    ],
)
def test_only_the_very_token_matches(
    file: Path, authorization: str | None, matches: bool
) -> None:
    assert TokenFile(file).matches(authorization) is matches


@pytest.mark.parametrize("scheme", ["bearer", "BEARER"])
def test_the_scheme_is_read_whatever_its_case(file: Path, scheme: str) -> None:
    assert TokenFile(file).matches(f"{scheme} c0rrect-horse")


def test_a_token_that_changed_counts_at_once(file: Path) -> None:
    token = TokenFile(file)
    assert token.matches("Bearer c0rrect-horse")
    file.write_text("another")
    assert token.matches("Bearer another")
    assert not token.matches("Bearer c0rrect-horse")


@pytest.mark.parametrize("text", ["", "\n", "  "])
def test_an_empty_token_lets_nobody_in(file: Path, text: str) -> None:
    file.write_text(text)
    token = TokenFile(file)
    assert not token.matches("Bearer ")
    assert not token.matches("Bearer")
    assert not token.matches(None)


def test_a_token_file_that_vanished_lets_nobody_in_until_it_is_back(file: Path) -> None:
    token = TokenFile(file)
    assert token.matches("Bearer c0rrect-horse")
    file.unlink()
    assert not token.matches("Bearer c0rrect-horse")
    assert not token.matches("Bearer ")
    file.write_text("c0rrect-horse")
    assert token.matches("Bearer c0rrect-horse")
