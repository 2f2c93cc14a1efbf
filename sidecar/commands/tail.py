# SPDX-License-Identifier: Apache-2.0
"""Shows stored events as one line each, without what they hold."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sidecar.commands.http_client import client
from sidecar.commands.stored_events import (
    TIMEOUT_SECONDS,
    Found,
    NothingFoundError,
    find,
    first_since,
    last_offsets,
)
from sidecar.commands.table import Table
from sidecar.model.wanted import Wanted

if TYPE_CHECKING:
    from sidecar.settings import Settings

_HEADER = ("OFFSET", "TIME", "CATEGORY", "TYPE", "OBJECT TYPE", "BYTES")
_WHERE = {
    "first": "The stream holds no such event.",
    "next": "There is no such event after the last one.",
}


@dataclass(frozen=True)
class View:
    """What to show: start is first, next, an offset, or -N for the last N offsets.

    It is of no matter where `wanted` says since when.
    """

    start: str
    wanted: Wanted
    follow: bool
    as_json: bool
    show_payload: bool


def tail(settings: Settings, view: View) -> None:
    """Print events, and with follow go on until interrupted.

    Raises DaemonError; and NothingFoundError where nothing of what is wanted is there.
    """
    if view.show_payload:
        print(
            "Warning: attributes are shown; they may contain passwords.",
            file=sys.stderr,
        )
    table = Table(*_HEADER, *["ATTRIBUTES"] * view.show_payload)
    count = 0
    with client(settings, timeout_seconds=TIMEOUT_SECONDS) as http:
        if view.wanted.since is not None:
            start = first_since(http, view.wanted.since)
        elif view.start.startswith("-"):
            start = last_offsets(http, -int(view.start))
        else:
            start = view.start
        for page in find(http, start, view.wanted, follow=view.follow):
            count += len(page)
            if view.as_json:
                for found in page:
                    print(json.dumps(_document(found, view)), flush=True)
            else:
                table.show([_row(found, view) for found in page])
    if not count:
        _tell_nothing(start, view)


def _tell_nothing(start: str, view: View) -> None:
    """Say that there is nothing; it is a failure where something was looked for."""
    text = _WHERE.get(start, f"There is no such event from offset {start} on.")
    if view.wanted == Wanted():
        print(text.replace("such ", ""), file=sys.stderr)
        return
    if view.start.startswith("-") and view.wanted.since is None:
        text += " Look through the whole stream with --from first."
    raise NothingFoundError(text)


def _document(found: Found, view: View) -> dict[str, Any]:
    return _shown(found) | ({"event": found.event} if view.show_payload else {})


def _row(found: Found, view: View) -> tuple[str, ...]:
    cells = ["-" if value is None else str(value) for value in _shown(found).values()]
    if view.show_payload:
        cells.append(json.dumps(found.event.get("objattrs")))
    return tuple(cells)


def _shown(found: Found) -> dict[str, Any]:
    return {
        "offset": found.offset,
        "timestamp": found.timestamp,
        "category": found.category,
        "type": found.type,
        "object_type": found.object_type,
        "size_bytes": len(found.data.encode("utf-8", "surrogateescape")),
    }
