# SPDX-License-Identifier: Apache-2.0
"""Reads stored events from the running daemon, for commands that look for some."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sidecar.command_error import NO_EVENT, CommandError
from sidecar.commands.http_client import DaemonError, ask, get, read
from sidecar.model.event import plain_name
from sidecar.model.wanted import parse_timestamp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future
    from datetime import datetime

    import httpx

    from sidecar.model.wanted import Wanted

TIMEOUT_SECONDS: Final = 30.0
"""For the client that reads: longer than a page may take that waits for an event."""

PATIENCE_SECONDS: Final = 30.0
"""How long is asked for what nobody can say; then that is the end, and an error."""

NO_END: Final = (
    "It was not known for 30 seconds whether there are more events. "
    "See /health of the sidecar."
)

_EVENTS = "/v1/events"
_PAGE = 2_000  # smaller ones take the daemon more time, larger ones less no more
_BEGINS = b', {"offset": '
_WAIT_SECONDS = 20
_PAUSE_SECONDS = 0.2


class NothingFoundError(CommandError):
    """No event is there that was looked for; the text says where that was."""

    exit_status = NO_EVENT


class Found(NamedTuple):
    """One event as it is stored.

    The properties are what may be shown of it: None where that is no plain name.
    """

    offset: int
    timestamp: str
    stored_category: str
    data: str
    event: dict[str, Any]

    @property
    def category(self) -> str | None:
        """Give its category."""
        return plain_name(self.stored_category)

    @property
    def type(self) -> str | None:
        """Give its type."""
        return plain_name(self.event.get("eventtype"))

    @property
    def object_type(self) -> str | None:
        """Give the type of its object."""
        return plain_name(self.event.get("objtype"))

    def __repr__(self) -> str:
        return f"<Found {self.offset}>"


def find(
    http: httpx.Client,
    start: str,
    wanted: Wanted,
    *,
    follow: bool = False,
    on_page: Callable[[dict[str, Any]], None] = lambda _: None,
) -> Iterator[list[Found]]:
    """Give what is wanted of each page, from an offset, first or next on.

    It ends with the stream, unless it is to follow, or after the time that is wanted.
    Raises DaemonError.
    """
    query: dict[str, Any] = {"limit": _PAGE, "offset": start}
    if wanted.category is not None:
        query["category"] = wanted.category
    for page in _pages(http, query, wanted.hint, follow=follow):
        on_page(page)
        rows = page["events"]
        yield [found for row in rows if (found := _find(row, wanted))]
        if rows and wanted.is_over(rows[-1]["timestamp"]):
            return


def _find(row: dict[str, Any], wanted: Wanted) -> Found | None:
    event = wanted.find(row["timestamp"], row["data"])
    if event is None:
        return None
    return Found(row["offset"], row["timestamp"], row["category"], row["data"], event)


def last_offsets(http: httpx.Client, count: int) -> str:
    """Say where the last so many offsets begin."""
    stream = ask(http, "/v1/stream")
    return str(max(stream["first_offset"], stream["next_offset"] - count))


def first_since(http: httpx.Client, since: datetime) -> str:
    """Say where the events of a time begin.

    By halves: each offset of the stream holds an event, stored no earlier than the one
    before it.
    """
    stream = ask(http, "/v1/stream")
    low, high = stream["first_offset"], stream["next_offset"]
    while low < high:
        middle = (low + high) // 2
        # The first event may be gone by now: who asks for the first is given another.
        start = "first" if middle == stream["first_offset"] else str(middle)
        page = next(_pages(http, {"limit": 1, "offset": start}))
        if page["events"] and parse_timestamp(page["events"][0]["timestamp"]) < since:
            low = middle + 1
        else:
            high = middle
    return "first" if low == stream["first_offset"] else str(low)


def _pages(
    http: httpx.Client, query: dict[str, Any], hint: str = "", *, follow: bool = False
) -> Iterator[dict[str, Any]]:
    """Give each page that holds events, and the one that is known to be the last.

    Events without the hint may be left out. While a page is read the daemon works on
    the next, which the one before it names.
    """
    gives_up_at = time.monotonic() + PATIENCE_SECONDS
    ahead: Future[httpx.Response] | None = None
    with ThreadPoolExecutor(1) as thread:
        while True:
            left_seconds = gives_up_at - time.monotonic()
            try:
                asked, ahead = ahead, None
                answer = asked.result() if asked else get(http, _EVENTS, **query)
                if (link := answer.links.get("next")) and query["limit"] > 1:
                    ahead = thread.submit(get, http, link["url"])
                page = read(answer, _shortened(answer.content, hint))
            except DaemonError as error:
                ahead = None
                if not error.may_pass or left_seconds <= 0:
                    raise
                time.sleep(_PAUSE_SECONDS)
                continue
            query["offset"] = page["next_offset"]
            is_end = not page["events"] and page["next_offset"] > page["last_offset"]
            if page["events"] or is_end:
                yield page
                gives_up_at = time.monotonic() + PATIENCE_SECONDS
            elif left_seconds <= 0:
                raise DaemonError(NO_END)
            else:
                time.sleep(_PAUSE_SECONDS)
            if is_end and not follow:
                return
            if not page["events"]:
                query["wait"] = _WAIT_SECONDS if follow else 0


def _shortened(content: bytes, hint: str) -> bytes:
    """Leave events without the hint out of a page's JSON: to parse them takes longest.

    The first and the last one stay. A quote inside of a text is escaped, so an event
    begins nowhere else; a page that is written otherwise stays as it is.
    """
    first, *others = content.split(_BEGINS) if hint else [content]
    if not others:
        return content
    sought = hint.encode()
    kept = [each for each in others[:-1] if sought in each]
    return _BEGINS.join((first, *kept, others[-1]))
