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
    r'<tr><td class="right">(\d+)</td><td>[^<]*</td><td>([^<]*)</td>'
    r'<td>([^<]*)</td><td>[^<]*</td><td class="right">([^<]*)</td></tr>'
)


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
        look = self._rng.choice((self._category, self._category, self._page, self._stream))
        look()

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
        rows = [
            (int(offset), *map(unescape, rest))
            for offset, *rest in _ROW.findall(text.decode())
        ]
        self._history.sights.append(Sight(began, self._history.clock(), rows))

    def _stream(self) -> None:
        began = self._history.clock()
        status, text = self._get("/v1/stream")
        if status != 200:
            return
        initsync = json.loads(text)["last_complete_initsync"]
        found = initsync and (initsync["start_offset"], initsync["stop_offset"])
        self._history.sights.append(Sight(began, self._history.clock(), [], found))

    def _category(self) -> None:
        """Read pages of one category from the beginning, or from somewhere."""
        category = self._rng.choice(("base", "base", "initsync"))
        limit = self._rng.choice((3, 20, 500))
        position = FIRST
        for _ in range(_MOST_PAGES):
            at = "first" if position == FIRST else position
            began = self._history.clock()
            path = f"/v1/events?offset={at}&limit={limit}&category={category}"
            status, text = self._get(path)
            document = json.loads(text) if status == 200 else {}
            if "events" not in document:
                return
            for row in document["events"]:
                event = copy(parsed(row["data"].encode()))
                event.offset = row["offset"]
                self._note(position, category, began, event)
                position = row["offset"] + 1
            if document["next_offset"] > document["last_offset"]:
                self._note(position, category, began, None)
            if not document["events"] or document["next_offset"] > document["last_offset"]:
                return
            position = document["next_offset"]

    def _note(
        self, position: int, category: str, began: float, event: Any
    ) -> None:
        asking = self._history.begin_asking(NAME, 1, position, category)
        asking.began = began
        outcome = Outcome.END if event is None else Outcome.EVENT
        self._history.end_asking(asking, outcome, event)
