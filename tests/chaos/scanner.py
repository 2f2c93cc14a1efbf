# SPDX-License-Identifier: Apache-2.0
"""New hermes-clients around the real consumer plugin, one after the other."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from .reader import name
from .scans import Row, Scan, taken

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

_CATEGORY: Final = "initsync"
_CATEGORY_SHARE, _MOST = 0.3, 40
"""How often it asks by category from the beginning, and for how many events of it, also
of an initsync: each takes a request of its own."""
_TIMEOUTS_MS: Final = (1, 1, 1, 20, 200)
"""Short: events come all the while, and a scan ends where none comes for so long."""
_PAUSE_SHARE: Final = 1.0
"""How long it pauses, in times that it read: it shares a processor with the run."""


class Scanner(threading.Thread):
    """Scans from the beginning again and again, as a hermes-client's first start does.

    It looks for the last complete initsync, seeks it, and reads it up to its end; and
    it asks for the category, which clients of other kinds do.
    """

    def __init__(self, title: str, plugin: Any, rng: random.Random) -> None:
        super().__init__(name=title, daemon=True)
        self.plugin = plugin
        self.rng = rng
        self.scans: list[Scan] = []
        self.told: list[tuple[float, int]] = []  # when an offset was met
        self.failures: Counter[str] = Counter()
        self.violation: str | None = None
        self.stopping = threading.Event()
        self._rows: dict[Row, Row] = {}  # most scans see the same: one of each

    def run(self) -> None:
        while not self.stopping.is_set():
            began = time.monotonic()
            try:
                with self.plugin:
                    self._begin_anew()
            except IndexError as error:
                self.violation = f"{self.name}: {error}"
                return
            except Exception as error:  # noqa: BLE001 - a hermes-client tries again
                self.failures[str(error)] += 1
            took_seconds = time.monotonic() - began
            self.stopping.wait(_PAUSE_SHARE * min(took_seconds, 2.0))

    def has_ended_since(self, moment: float) -> bool:
        """Tell whether a client that began after it has met an end."""
        return any(scan.is_whole and scan.began > moment for scan in self.scans)

    def _begin_anew(self) -> None:
        self.plugin.setTimeout(self.rng.choice(_TIMEOUTS_MS))
        self.plugin.seekToBeginning()
        found = taken(self._scan(iter(self.plugin)))
        if self.rng.random() < _CATEGORY_SHARE:
            self.plugin.seekToBeginning()
            self._scan(self._each_of_category(), most=_MOST, category=_CATEGORY)
        if found is not None:
            start, stop = found
            self.plugin.seek(start)
            self._scan(iter(self.plugin), most=stop - start + 1, start=start)
            self.plugin.seek(start)
            self._scan(
                self._each_of_category(), most=_MOST, start=start, category=_CATEGORY
            )

    def _each_of_category(self) -> Iterator[Any]:
        while event := self.plugin.findNextEventOfCategory(_CATEGORY):
            yield event

    def _scan(
        self,
        events: Iterator[Any],
        *,
        most: int = sys.maxsize,
        start: int | None = None,
        category: str | None = None,
    ) -> list[Row]:
        """Read so many, or up to the end; keep what came even of one that fails."""
        seen: list[Row] = []
        began = asked_at = time.monotonic()
        is_ended = False
        try:
            while not self.stopping.is_set() and len(seen) < most:
                asked_at = time.monotonic()
                event = next(events, None)
                if event is None:
                    is_ended = True
                    break
                row = (event.offset, name(event))
                seen.append(self._rows.setdefault(row, row))
        finally:
            if seen:
                self.told.append((time.monotonic(), seen[-1][0]))
            self.scans.append(
                Scan(self.name, seen, began, asked_at, is_ended, start, category)
            )
        return seen if is_ended else []
