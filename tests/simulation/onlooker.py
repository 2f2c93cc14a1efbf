# SPDX-License-Identifier: Apache-2.0
"""A person or a program that looks at pages: of a category, of the stream, for people.

Nothing of the plugins is in the way, which would notice much of what is wrong.
"""

from __future__ import annotations

import http.client
import json
import re
from contextlib import closing
from copy import copy
from functools import partial
from html import unescape
from typing import TYPE_CHECKING, Any, Final

from .events import parsed
from .history import FIRST, Outcome, Sight

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from .history import History

NAME: Final = "onlooker"
_SECONDS = 20.0
_MOST_PAGES = 5
_ROW = re.compile(
    r'<tr class="event"><td>([^<]*)</td><td>[^<]*</td>\s*<td>[^<]*</td>'
    r'<td>([^<]*)</td>\s*<td class="right">(\d+)</td>\s*'
    r'<td class="right">([^<]*)</td></tr>'
)


def rows_of(page: str) -> list[tuple[int, str, str, str]]:
    """Read offset, category, type and size of each event that a status page shows.

    A row that cannot be read is a mistake here: else nothing would be looked at.
    """
    rows = [
        (int(offset), unescape(category), unescape(kind), size)
        for kind, category, offset, size in _ROW.findall(page)
    ]
    shown = page.count('<tr class="event">')
    assert len(rows) == shown, "the page has other rows than we read"
    return rows


class Onlooker:
    """Looks at one page after the other, and notes what it is told."""

    def __init__(
        self,
        sockets: Any,
        path: str,
        rng: Random,
        sleep: Callable[[float], None],
        history: History,
    ) -> None:
        self._sockets = sockets
        self._path = path
        self._rng = rng
        self._sleep = sleep
        self._history = history

    def look(self) -> None:
        """Wait a while, then look at something."""
        self._sleep(self._rng.uniform(0.1, 1.5))
        looks = self._pages, self._pages, self._page, self._page, self._stream
        self._rng.choice(looks)()

    def _get(self, path: str) -> tuple[int, bytes]:
        request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"
        try:
            with closing(self._sockets.socket(self._sockets.AF_UNIX)) as connection:
                connection.settimeout(_SECONDS)
                connection.connect(self._path)
                connection.sendall(request.encode())
                response = http.client.HTTPResponse(connection)
                response.begin()
                return response.status, response.read()
        except (OSError, http.client.HTTPException):
            return 0, b""

    def _page(self) -> None:
        began = self._history.clock()
        _, text = self._get("/")
        rows = rows_of(text.decode())
        self._history.sights.append(Sight(began, self._history.clock(), rows))

    def _stream(self) -> None:
        began = self._history.clock()
        status, text = self._get("/v1/stream")
        if status != 200:
            return
        initsync = json.loads(text)["last_complete_initsync"]
        found = initsync and (initsync["start_offset"], initsync["stop_offset"])
        self._history.sights.append(Sight(began, self._history.clock(), [], found))

    def _pages(self) -> None:
        """Read pages from the beginning, of all or of one category."""
        category = self._rng.choice((None, "base", "base", "initsync"))
        limit = self._rng.choice((3, 20, 500))
        of_category = f"&category={category}" if category else ""
        position = at = FIRST
        for _ in range(_MOST_PAGES):
            began = self._history.clock()
            offset = "first" if at == FIRST else at
            path = f"/v1/events?offset={offset}&limit={limit}{of_category}"
            status, text = self._get(path)
            note = partial(self._note, category, began)
            document = _document(text)
            if "code" in document:
                is_refused = status in (409, 410)
                outcome = Outcome.REFUSED if is_refused else Outcome.FAILED
                note(position, outcome, text=f"({document['code']})")
            if "events" not in document:
                return
            for row in document["events"]:
                event = copy(parsed(row["data"].encode()))
                event.offset = row["offset"]
                note(position, Outcome.EVENT, event)
                position = event.offset + 1
            at = document["next_offset"]
            if not document["events"]:  # one that has some may not know of the newest
                if at > document["last_offset"]:
                    note(position, Outcome.END)
                return
            if category is None:
                position = at

    def _note(  # noqa: PLR0917 - bound in part
        self,
        category: str | None,
        began: float,
        position: int,
        outcome: Outcome,
        event: Any = None,
        text: str = "",
    ) -> None:
        asking = self._history.begin_asking(NAME, 1, position, category)
        asking.began = began
        self._history.end_asking(asking, outcome, event, text)


def _document(text: bytes) -> dict[str, Any]:
    return json.loads(text) if text.strip() else {}
