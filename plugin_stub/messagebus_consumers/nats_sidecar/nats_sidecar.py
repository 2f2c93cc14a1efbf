# SPDX-License-Identifier: GPL-3.0-or-later
"""Hermes message bus consumer: reads events from hermes-nats-sidecar by offset.

The plugin holds its own offset and the sidecar holds nothing, so a client may pause
for hours between two events.
"""

from __future__ import annotations

import builtins
import json
import re
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from operator import index
from typing import Any
from urllib.parse import urlencode

from lib.datamodel.event import Event
from lib.plugins import AbstractMessageBusConsumerPlugin

from .sidecar_http import Answer, SidecarHttp

HERMES_PLUGIN_CLASSNAME: str | None = "NatsSidecarConsumerPlugin"
"""The plugin class name defined in this module file"""

ANSWER_SECONDS = 5.0
"""How long an answer may take beyond the time the sidecar was asked to wait."""

LONGEST_WAIT_SECONDS = 20.0
PATIENCE_SECONDS = 10.0
"""How long open() and seek() bear a sidecar or a NATS that is just restarting."""

MORE_SECONDS = 20.0
"""How long beyond Hermes' timeout an end is asked for that nobody can say."""

MAX_OFFSET = 2**53 - 1

ERROR_PAUSE_SECONDS = 5.0
"""Hermes tries a failed seek or read again at once, and tells of it each time."""

NO_END = (
    "No message bus: for 20 seconds it was not known whether there are more events. "
    "Look at /health of the sidecar"
)
NO_PAGE = "what answers at the plugin's url gives no page of events"
NO_EVENT = (
    "The message at the next offset is no Hermes event: another program wrote to the "
    "stream. Reset this client, see docs/operations.md of hermes-nats-sidecar"
)

_ESCAPED_ASCII = re.compile(r"\\u00[0-7]")
"""As \\u0048, which would be an H too; of these Hermes writes control characters."""

PAGE_BYTES = 256 * 1024
"""Whatever batch_size says: the page asked ahead waits in the socket's buffer, and not
in the sidecar's memory, while Hermes takes its time."""

NOT_IN_STREAM = (409, 410)
STRANGERS = 502
UNAUTHORIZED = 401
"""Passing, but told after PATIENCE_SECONDS: a token is changed on one side first."""

PASSING = (0, UNAUTHORIZED, 429, STRANGERS, 503, 504)
"""No answer, or none of the stream. 502 is also what no sidecar has written: the page
of a gateway while the sidecar restarts, or a page that was cut in the middle."""

DAMAGED = ("hole", "displaced", "unreadable")
"""Codes of a 503 that waiting does not mend."""


class NatsSidecarError(Exception):
    """The stream cannot be read; the text is constant for a cause."""


class NatsSidecarConsumerPlugin(AbstractMessageBusConsumerPlugin):
    """Reads Hermes' events from a NATS JetStream stream."""

    _now = staticmethod(time.monotonic)
    _sleep = staticmethod(time.sleep)

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__(settings)
        appname = getattr(vars(builtins).get("__hermes__"), "appname", "")
        self._http = SidecarHttp(settings, _agent(appname))
        self._offset: int | str = "first"
        self._rows: deque[dict[str, Any]] = deque()  # read ahead, from _offset on
        self._timeout_seconds: float | None = 1.0

    def open(self) -> None:
        """Make sure that the stream can be read."""
        self._ask_patiently({"offset": "next", "limit": 1})

    def close(self) -> None:
        """Close the connection; the offset stays."""
        self._http.close()
        self._rows.clear()

    def seekToBeginning(self) -> None:
        """Go to the oldest event."""
        self._go_to("first")

    def seek(self, offset: int) -> None:
        """Go to an offset in [first, last + 1]; raise IndexError for any other."""
        # None is outside: 0 reads as "gone", the other end as "ahead".
        self._go_to(min(max(offset, 0), MAX_OFFSET))
        self._take(self._ask_patiently(self._query()))

    def setTimeout(self, timeout_ms: int | None) -> None:
        """Set how long iteration waits for the next event; None: for ever.

        Hermes comes again at once, so that with 0 it would do nothing else.
        """
        self._timeout_seconds = (
            None if timeout_ms is None else (timeout_ms or 1000) / 1000
        )

    def findNextEventOfCategory(self, category: str) -> Event | None:
        """Find the first event of a category from here on; None if none comes."""
        self._rows.clear()
        offset, found = self._offset, None
        try:
            found = next(self._events(category), None)
        finally:
            self._rows.clear()  # what was read ahead lacks the other categories
            if found is None:  # however far the filter has looked
                self._offset = offset
        return found

    def __iter__(self) -> Iterator[Event]:
        """Give each event from here on, until none has come for the timeout.

        It ends only after an answer that says that nothing stands after this offset:
        Hermes takes its end for the stream's, and what came for all there is.
        """
        return self._events(None)

    def _events(self, category: str | None) -> Iterator[Event]:
        ends_at = self._ends_at()
        while True:
            while self._rows:
                event = self._event(self._rows[0])  # raises and stays where it is
                self._offset = self._rows.popleft()["offset"] + 1
                yield event
                if not self._rows:
                    ends_at = self._ends_at()
            answer = self._http.take_ahead(_path(self._query(category=category)))
            if answer is None:
                left_seconds = ends_at - self._now()
                wait_seconds = max(0.0, min(left_seconds, LONGEST_WAIT_SECONDS))
                path = _path(self._query(wait_seconds, category))
                more_seconds = max(1.0, left_seconds + MORE_SECONDS)
                answer = self._http.ask_page(
                    path, min(wait_seconds + ANSWER_SECONDS, more_seconds)
                )
            if answer.status == UNAUTHORIZED:
                answer = self._ask_patiently(self._query(category=category))
            if _is_page(answer, self._offset, category):
                self._take(answer)
                if self._rows:
                    continue
                if answer.document["next_offset"] > answer.document["last_offset"]:
                    if self._now() >= ends_at:
                        return
                    continue  # it has waited with its answer
            elif not _is_passing(answer):
                raise self._error(answer)
            pause_seconds = _pause_seconds(answer)
            asked_until = self._now() + pause_seconds - ends_at
            if asked_until > MORE_SECONDS:  # no pause: so many seconds have passed
                is_known = answer.status != STRANGERS
                raise NatsSidecarError(
                    NO_END if is_known else f"No message bus: {answer.reason}"
                )
            self._sleep(pause_seconds)

    def _go_to(self, offset: int | str) -> None:
        self._offset = offset
        self._rows.clear()

    def _query(self, wait_seconds: float = 0, category: str | None = None) -> Any:
        query = {
            "offset": self._offset,
            "limit": self._settings["batch_size"],
            "max_bytes": PAGE_BYTES,
        }
        if wait_seconds:
            query["wait"] = f"{wait_seconds:.3f}"
        if category is not None:
            query["category"] = category
        return query

    def _take(self, answer: Answer) -> None:
        document = answer.document
        self._rows.extend(document["events"])
        # How far a filter has looked; the first stays that of whatever stream is there.
        has_moved = document["next_offset"] != document.get("first_offset")
        if not self._rows and (has_moved or self._offset != "first"):
            self._offset = document["next_offset"]

    def _ask_patiently(self, query: dict[str, Any]) -> Answer:
        ends_at = self._now() + PATIENCE_SECONDS
        while True:
            answer = self._http.ask(_path(query), ANSWER_SECONDS)
            if _is_page(answer, query["offset"], query.get("category")):
                return answer
            pause_seconds = _pause_seconds(answer)
            if not _is_passing(answer) or self._now() + pause_seconds > ends_at:
                raise self._error(answer)
            self._sleep(pause_seconds)

    def _event(self, row: dict[str, Any]) -> Event:
        try:
            return _event(row)
        except Exception:  # noqa: BLE001 - whatever Hermes trips on; nothing of it is told
            self._sleep(ERROR_PAUSE_SECONDS)
            raise NatsSidecarError(NO_EVENT) from None

    def _error(self, answer: Answer) -> Exception:
        self._sleep(ERROR_PAUSE_SECONDS)
        if answer.status in NOT_IN_STREAM:
            return IndexError(f"Offset not in the stream: {answer.reason}")
        return NatsSidecarError(f"No message bus: {answer.reason or NO_PAGE}")

    def _ends_at(self) -> float:
        if self._timeout_seconds is None:
            return float("inf")
        return self._now() + self._timeout_seconds


def _agent(appname: object) -> str:
    """Give what the sidecar is to call this client."""
    return re.sub("[^A-Za-z0-9._-]", "-", str(appname))[:64]


def _is_page(answer: Answer, offset: int | str, category: str | None = None) -> bool:
    """Tell whether it is a page that begins at the offset and has no hole."""
    document = answer.document
    events = document.get("events")
    if not (
        answer.status == 200
        and isinstance(events, list)
        and isinstance(document.get("next_offset"), int)
        and isinstance(document.get("last_offset"), int)
    ):
        return False
    if not events or category is not None:
        return True
    with suppress(LookupError, TypeError):
        offsets = [row["offset"] for row in events]
        first = offset if isinstance(offset, int) else offsets[0]
        if offsets == list(range(first, first + len(offsets))):
            return True
    # A row without an offset is no event: that is told where it is read.
    begins = {
        row["offset"] - place
        for place, row in enumerate(events)
        if isinstance(row, dict) and isinstance(row.get("offset"), int)
    }
    return begins <= {offset} if isinstance(offset, int) else len(begins) <= 1


def _is_passing(answer: Answer) -> bool:
    """Tell whether the same question may be answered later; never of a page."""
    return answer.status == 200 or (
        answer.status in PASSING and answer.document.get("code") not in DAMAGED
    )


def _pause_seconds(answer: Answer) -> float:
    return min(answer.retry_after or 0.2, ERROR_PAUSE_SECONDS)


def _event(row: dict[str, Any]) -> Event:
    event = Event.from_json(_document(row["data"]))
    event.offset = index(row["offset"])
    event.timestamp = _local_time(row["timestamp"])
    return event


def _document(text: str) -> str | dict[str, Any]:
    """Spare Hermes the search of each value for a HermesDatetime() or HermesBytes().

    It takes two thirds of the time that an event costs; most events have none of them.
    """
    if "Hermes" in text or ("\\" in text and _ESCAPED_ASCII.search(text)):
        return text
    try:
        document = json.loads(text)
    except ValueError:
        return text  # Hermes says what is wrong with it
    return document if type(document) is dict else text


def _local_time(text: str) -> datetime:
    """Read RFC 3339 with up to 9 decimals, which Python 3.10 cannot, as local time."""
    seconds, decimals = text[:19], text[20:-1]
    return _local_second(seconds) + timedelta(0, 0, int(f"{decimals}000000"[:6]))


@lru_cache(maxsize=16)
def _local_second(text: str) -> datetime:
    utc = datetime.fromisoformat(text).replace(tzinfo=timezone.utc)
    return utc.astimezone().replace(tzinfo=None)


def _path(query: dict[str, Any]) -> str:
    return f"/v1/events?{urlencode(query)}"
