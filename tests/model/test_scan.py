# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from support.initsyncs import KINDS, histories

from sidecar.model.publish_reply import StoredMessage
from sidecar.model.scan import UNKNOWN, Complete, Open, Scan, read_header, scan_at

STAMP = "1970-01-01T00:00:00Z"


def scans(letters: str, scan: Scan = Scan(), first: int = 1) -> list[Scan]:  # noqa: B008 - it is frozen
    """Say where the scan stands before and after each event from offset `first` on."""
    stands = [scan]
    for offset, letter in enumerate(letters, first):
        category, kind = KINDS[letter]
        if category == "initsync":
            scan = scan.after(offset, kind)
        stands.append(scan)
    return stands


def scanned(letters: str, scan: Scan = Scan(), first: int = 1) -> Scan:  # noqa: B008 - as above
    """Say where the scan stands after all of them."""
    return scans(letters, scan, first)[-1]


def by_scan(letters: str, first: int = 1) -> tuple[int, int] | None:
    """Do what hermes-client does (`__canBeInitialized`, 1.0.9, clients/__init__.py).

    tests/hermes compares with the real one.
    """
    start = found = None
    for offset, letter in enumerate(letters[first - 1 :], first):
        category, kind = KINDS[letter]
        if category != "initsync":
            continue
        if kind == "init-start":
            start = offset
        elif kind == "init-stop" and start is not None:
            found, start = (start, offset), None
    return found


def by_header(letters: str, first: int, stands: list[Scan]) -> tuple[int, int] | None:
    """Judge by the header of the newest event of the category that is still there."""
    newest = len(letters)
    while newest >= first and KINDS[letters[newest - 1]][0] != "initsync":
        newest -= 1
    if newest < first:
        return None
    last = read_header(stands[newest].header).last
    return last[:2] if last is not None and last.start >= first else None


@pytest.mark.parametrize(
    ("letters", "header"),
    [
        ("", ""),
        ("bxy", ""),
        ("S", "open=1,0"),
        ("Saa", "open=1,2"),
        ("SE", "last=1-2,0"),
        ("SaaE", "last=1-4,2"),
        ("bSabbaEb", "last=2-7,2"),
        ("SaESaaE", "last=4-7,2"),
        ("SaESaa", "open=4,2; last=1-3,1"),
        ("SaEbS", "open=5,0; last=1-3,1"),
        ("SaaSaE", "last=4-6,1"),
        ("SaaSa", "open=4,1"),
        ("SaEaE", "last=1-3,1"),
        ("SaEE", "last=1-3,1"),
        ("aaE", ""),
        ("xaE", ""),
        ("Say", "open=1,1"),
        ("S?E", "last=1-3,1"),
        ("aESaEaa", "last=3-5,1"),
    ],
)
def test_the_header_says_where_the_scan_stands(letters: str, header: str) -> None:
    assert scanned(letters).header == header
    assert read_header(header) == scanned(letters)


@pytest.mark.parametrize(
    ("letters", "header"),
    [
        ("", None),
        ("a", None),
        ("E", None),
        ("aaE", None),
        ("S", "open=9,0; last=?"),
        ("Sa", "open=9,1; last=?"),
        ("aSaS", "open=12,0; last=?"),
        ("SaE", "last=9-11,1"),
        ("aaESaES", "open=15,0; last=12-14,1"),
    ],
)
def test_after_events_without_it_all_is_unknown_until_an_initsync_was_whole(
    letters: str, header: str | None
) -> None:
    scan = scanned(letters, UNKNOWN, first=9)
    assert scan.header == header
    assert read_header(header) == scan


@pytest.mark.parametrize(
    "header",
    [
        None,
        "; ",
        " ",
        "open=1,2last=3-4,5",
        "open=1,2; ",
        "; last=1-2,0",
        "open=01,2",
        "open=1",
        "open=1,2;last=3-4,5",
        "last=?",
        "last=1-2",
        "last=1-2,3; open=4,5",
        "open=1,2 ",
        "open=\u0661,2",
        "open=1,2; last=-2,0",
        "open=12345678901234567890,0",
    ],
)
def test_what_we_would_not_write_says_nothing(header: str | None) -> None:
    assert read_header(header) == UNKNOWN


def test_the_newest_event_says_it_where_it_stands_as_it_was_written_for() -> None:
    newest = StoredMessage(
        9, "hermes.initsync", "k", STAMP, b"{}", initsync="open=7,2; last=1-3,1"
    )
    scan = Scan(Open(7, 2), Complete(1, 3, 1))
    assert scan_at(newest) == scan
    assert scan_at(newest._replace(after=8)) == scan
    assert scan_at(newest._replace(after=7)) == UNKNOWN
    assert scan_at(newest._replace(initsync=None)) == UNKNOWN
    assert scan_at(None) == Scan()


def test_in_every_history_and_under_retention_the_header_says_what_a_scan_finds() -> (
    None
):
    for letters in histories(300):
        stands = scans(letters)
        for end in range(len(letters) + 1):
            part = letters[:end]
            for first in {1, 2, end // 3 + 1, end // 2 + 1, end or 1, end + 1}:
                found = by_header(part, first, stands)
                assert found == by_scan(part, first), (part, first)


def test_four_hundred_back_to_back_are_told_apart_while_retention_takes_them() -> None:
    letters = "SaaE" * 400
    stands = scans(letters)
    for first in range(1, len(letters) + 2):
        assert by_header(letters, first, stands) == by_scan(letters, first)
