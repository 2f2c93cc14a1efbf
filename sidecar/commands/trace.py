# SPDX-License-Identifier: Apache-2.0
"""Follows a change: each event of one object, and which clients have passed it."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from sidecar.command_error import printable
from sidecar.commands.http_client import DaemonError, ask, client
from sidecar.commands.stored_events import (
    TIMEOUT_SECONDS,
    Found,
    NothingFoundError,
    find,
    first_since,
)
from sidecar.commands.table import Table

if TYPE_CHECKING:
    import httpx

    from sidecar.model.wanted import Wanted
    from sidecar.settings import Settings

_NOTHING = "No event of this type and key is stored. Upper and lower case differ."
_NO_CLIENT = "No client is known, so this is only what is stored."
_TWO_OBJECTS = (
    "Warning: these are events of several objects, whose keys have the same text: one "
    "is a number, another is not."
)


class _Client(NamedTuple):
    """A client that sidecars know; it reads `offset` next, None where not known."""

    name: str
    sidecar: str
    offset: int | None
    state: str

    def has_passed(self, found: Found) -> bool:
        """Tell whether it has read an event.

        One that is stranded ahead of the stream has read others at these offsets.
        """
        if self.offset is None or self.state == "stranded":
            return False
        return found.offset < self.offset


class _Progress:
    """Says on a terminal how far the reading is."""

    def __init__(self) -> None:
        self._is_shown = sys.stderr.isatty()
        self._first: int | None = None

    def note(self, page: dict[str, Any]) -> None:
        """Show how far this page is."""
        if not (self._is_shown and page["events"]):
            return
        if self._first is None:
            self._first = page["events"][0]["offset"]
        done = page["next_offset"] - self._first
        count = max(page["last_offset"] - self._first + 1, done)
        text = f"\r{done:,} of {count:,} events"
        print(text, end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        """Clear the line."""
        if self._first is not None:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def trace(settings: Settings, wanted: Wanted, *, as_json: bool) -> None:
    """Print what is stored of one object, and which clients have passed it.

    The clients are asked for last, since they read on meanwhile. Raises DaemonError,
    and NothingFoundError.
    """
    with client(settings, timeout_seconds=TIMEOUT_SECONDS) as http:
        found = _find_all(http, wanted)
        if len({json.dumps(each.event.get("objpkey")) for each in found}) > 1:
            print(_TWO_OBJECTS, file=sys.stderr)
        clients: list[_Client] = []
        trouble = None
        try:
            clients = _known_clients(http)
        except DaemonError as error:
            trouble = error
    if as_json:
        for each in found:
            print(json.dumps(_document(each, clients)))
    else:
        _show(found, clients)
    sys.stdout.flush()
    if trouble is not None:
        raise trouble
    if not clients:
        print(_NO_CLIENT, file=sys.stderr)


def _find_all(http: httpx.Client, wanted: Wanted) -> list[Found]:
    progress = _Progress()
    try:
        start = "first" if wanted.since is None else first_since(http, wanted.since)
        pages = find(http, start, wanted, on_page=progress.note)
        found = [each for page in pages for each in page]
    finally:
        progress.end()
    if not found:
        raise NothingFoundError(_NOTHING)
    return found


def _known_clients(http: httpx.Client) -> list[_Client]:
    """Ask for all clients; say it where some may be missing. None of an older daemon.

    Their names were chosen elsewhere.
    """
    try:
        document = ask(http, "/v1/clients")
    except DaemonError as error:
        if error.code != "not_found":
            raise
        return []
    if not document["complete"]:
        print(printable(str(document["reason"])), file=sys.stderr)
    return [
        _Client(
            printable(str(each["name"])),
            printable(str(each["sidecar"])),
            each["offset"],
            printable(str(each["state"])),
        )
        for each in document["clients"]
    ]


def _show(found: list[Found], clients: list[_Client]) -> None:
    header = ("OFFSET", "TIME", "CATEGORY", "TYPE")
    table = Table(*header, *(("PASSED BY", "NOT YET BY") if clients else ()))
    rows = []
    for each in found:
        passed = [f"{c.name}@{c.sidecar}" for c in clients if c.has_passed(each)]
        others = [
            f"{c.name}@{c.sidecar} ({c.state})"
            for c in clients
            if not c.has_passed(each)
        ]
        row = (str(each.offset), each.timestamp, each.category or "-", each.type or "-")
        lists = (", ".join(passed) or "-", ", ".join(others) or "-")
        rows.append(row + (lists if clients else ()))
    table.show(rows)


def _document(found: Found, clients: list[_Client]) -> dict[str, Any]:
    return {
        "offset": found.offset,
        "timestamp": found.timestamp,
        "category": found.category,
        "type": found.type,
        "clients": [
            {
                "name": each.name,
                "sidecar": each.sidecar,
                "state": each.state,
                "passed": each.has_passed(found),
            }
            for each in clients
        ],
    }
