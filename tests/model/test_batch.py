# SPDX-License-Identifier: Apache-2.0
"""What a JSON text sequence (RFC 7464) holds, and what of it is a batch."""

from __future__ import annotations

import pytest
from support.sidecar import event

from sidecar.errors import NOT_A_BATCH, Outcome, Problem
from sidecar.model.batch import MAX_BYTES, MAX_EVENTS, check, key_of, split
from sidecar.model.event import parse_event

RS = b"\x1e"


@pytest.mark.parametrize(
    ("body", "texts"),
    [
        (b"\x1e{}\n", [b"{}"]),
        (b"\x1e{}\n\x1e[1]\n", [b"{}", b"[1]"]),
        # As Hermes writes it, over several lines.
        (b'\x1e{\n    "a": 1\n}\n\x1e{\n}\n', [b'{\n    "a": 1\n}', b"{\n}"]),
        # White space around a text belongs to it: its bytes stay.
        (b"\x1e {} \n\n\x1e{}\r\n", [b" {} \n", b"{}\r"]),
        # No JSON: who reads the texts says so.
        (b"\x1e\n", [b""]),
        (b"\x1e{}\n\x1e\n\x1e{}\n", [b"{}", b"", b"{}"]),
        (b"\x1e{}\njunk\n", [b"{}\njunk"]),
        (b"\x1e\xff\n", [b"\xff"]),
        (b"\x1e{}\n" * MAX_EVENTS, [b"{}"] * MAX_EVENTS),
        (RS + b"x" * (MAX_BYTES - 2) + b"\n", [b"x" * (MAX_BYTES - 2)]),
    ],
)
def test_each_text_between_rs_and_lf_is_given_byte_for_byte(
    body: bytes, texts: list[bytes]
) -> None:
    assert split(body) == texts


@pytest.mark.parametrize(
    ("body", "index"),
    [
        pytest.param(b"", None, id="nothing"),
        pytest.param(b"{}\n", None, id="no RS"),
        pytest.param(b"\n\x1e{}\n", None, id="something before the first RS"),
        pytest.param(b"\xef\xbb\xbf\x1e{}\n", None, id="byte order mark"),
        pytest.param(RS, 1, id="RS alone"),
        pytest.param(b"\x1e{}", 1, id="no LF"),
        pytest.param(b"\x1e{}\r", 1, id="CR for LF"),
        pytest.param(b'\x1e{"a": \x1e{}\n', 1, id="cut, and another begins"),
        pytest.param(b'\x1e{}\n\x1e{"a": ', 2, id="cut at the end"),
        pytest.param(b"\x1e{}\n\x1e", 2, id="cut after RS"),
        pytest.param(b"\x1e\x1e{}\n", 1, id="RS twice"),
        pytest.param(b"\x1e{}\n\x1e\x1e{}\n", 2, id="RS twice in the middle"),
        pytest.param(b"\x1e{}\njunk", 1, id="more after the last LF"),
        pytest.param(b"\x1e{}\n\0", 1, id="NUL after the last LF"),
        pytest.param(b"\x1e{}\n" * (MAX_EVENTS + 1), None, id="one too many"),
        pytest.param(RS * 100_000, None, id="many RS"),
        pytest.param(RS + b"x" * (MAX_BYTES - 1) + b"\n", None, id="one byte too many"),
    ],
)
def test_what_is_no_whole_sequence_is_refused(body: bytes, index: int | None) -> None:
    with pytest.raises(Problem) as caught:
        split(body)
    assert (caught.value.cause, caught.value.outcome) == (
        NOT_A_BATCH,
        Outcome.NOT_STORED,
    )
    assert caught.value.members == ({} if index is None else {"index": index})


@pytest.mark.parametrize(
    ("category", "kind", "is_taken"),
    [
        ("initsync", "added", True),
        ("initsync", "init-start", False),
        ("initsync", "init-stop", False),
        ("initsync", "modified", False),
        ("initsync", "removed", False),
        ("initsync", "Added", False),
        ("initsync", None, False),
        ("initsync", ["added"], False),
        ("base", "added", False),
        ("Initsync", "added", False),
    ],
)
def test_objects_of_an_initsync_are_taken_and_nothing_else(
    category: str, kind: object, is_taken: bool
) -> None:
    one = parse_event(event(category, eventtype=kind))
    if is_taken:
        check(one)
        return
    with pytest.raises(Problem) as caught:
        check(one)
    assert caught.value.cause is NOT_A_BATCH


def test_the_key_of_an_event_says_where_it_is_to_stand() -> None:
    assert [key_of("k", index) for index in (1, 2, 1000)] == ["k.1", "k.2", "k.1000"]
