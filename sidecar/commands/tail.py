# SPDX-License-Identifier: Apache-2.0
"""Shows stored events as one line each, without what they hold."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sidecar.commands.http_client import DaemonError, ask, client
from sidecar.model.event import plain_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx

    from sidecar.settings import Settings

_PAGE = 500
_WAIT_SECONDS = 20
_PAUSE_SECONDS = 0.2

PATIENCE_SECONDS: Final = 30.0
"""How long is asked for what nobody can say; then that is the end, and an error."""

NO_END: Final = (
    "It was not known for 30 seconds whether there are more events. "
    "See /health of the sidecar."
)


@dataclass(frozen=True)
class View:
    """What to show: start is first, next, an offset, or -N for the last N offsets."""

    start: str
    category: str | None
    follow: bool
    as_json: bool
    show_payload: bool


def tail(settings: Settings, view: View) -> None:
    """Print events, and with follow go on until interrupted; raise DaemonError."""
    if view.show_payload:
        print(
            "Warning: attributes are shown; they may contain passwords.",
            file=sys.stderr,
        )
    with client(settings, timeout_seconds=_WAIT_SECONDS + 10) as http:
        for row in _rows(http, view):
            print(_line(row, view), flush=True)


def _rows(http: httpx.Client, view: View) -> Iterator[dict[str, Any]]:
    query: dict[str, Any] = {"limit": _PAGE, "offset": _offset(http, view.start)}
    if view.category is not None:
        query["category"] = view.category
    gives_up_at = time.monotonic() + PATIENCE_SECONDS
    while True:
        left_seconds = gives_up_at - time.monotonic()
        try:
            page = ask(http, "/v1/events", **query)
        except DaemonError as error:
            if not error.may_pass or left_seconds <= 0:
                raise
            time.sleep(_PAUSE_SECONDS)
            continue
        yield from page["events"]
        query["offset"] = page["next_offset"]
        is_end = not page["events"] and page["next_offset"] > page["last_offset"]
        if is_end and not view.follow:
            return
        if page["events"] or is_end:
            gives_up_at = time.monotonic() + PATIENCE_SECONDS
        elif left_seconds <= 0:
            raise DaemonError(NO_END)
        else:
            time.sleep(_PAUSE_SECONDS)
        if not page["events"]:
            query["wait"] = _WAIT_SECONDS if view.follow else 0


def _offset(http: httpx.Client, start: str) -> str:
    if not start.startswith("-"):
        return start
    stream = ask(http, "/v1/stream")
    return str(max(stream["first_offset"], stream["next_offset"] + int(start)))


def _line(row: dict[str, Any], view: View) -> str:
    event = _event(row["data"])
    shown = {
        "offset": row["offset"],
        "timestamp": row["timestamp"],
        "category": plain_name(row["category"]),
        "type": plain_name(event.get("eventtype")),
        "object_type": plain_name(event.get("objtype")),
        "size_bytes": len(row["data"].encode("utf-8", "surrogateescape")),
    }
    if view.as_json:
        return json.dumps(shown | ({"event": event} if view.show_payload else {}))
    cells = "{offset}  {timestamp}  {category!s:<9} {type!s:<11} {object_type!s:<16} "
    line = (cells + "{size_bytes}").format(**shown)
    return line + (
        f"  {json.dumps(event.get('objattrs'))}" if view.show_payload else ""
    )


def _event(text: str) -> dict[str, Any]:
    """Read an event; of what somebody else stored, and is none, there is nothing."""
    try:
        event = json.loads(text)
    except ValueError:
        return {}
    return event if isinstance(event, dict) else {}
