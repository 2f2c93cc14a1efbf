# SPDX-License-Identifier: Apache-2.0
"""A hermes-client around the real consumer plugin, which follows through all faults."""

from __future__ import annotations

import threading
from collections import Counter
from typing import TYPE_CHECKING, Any

from .checker import named

if TYPE_CHECKING:
    import random


class Reader(threading.Thread):
    """Reads from the beginning and keeps its own offset, as a hermes-client does."""

    def __init__(self, name: str, plugin: Any, rng: random.Random) -> None:
        super().__init__(name=name, daemon=True)
        self.plugin = plugin
        self.rng = rng
        self.seen: list[tuple[int, str]] = []  # offset, name
        self.failures: Counter[str] = Counter()
        self.violation: str | None = None
        self.stopping = threading.Event()

    def run(self) -> None:
        while not self.stopping.is_set():
            try:
                with self.plugin:
                    self._follow()
            except IndexError as error:
                self.violation = f"{self.name}: {error}"
                return
            except Exception as error:  # noqa: BLE001 - a hermes-client tries again
                self.failures[str(error)] += 1

    def _follow(self) -> None:
        """Read for some rounds; a hermes-client opens and seeks in each of its own."""
        self.plugin.setTimeout(200)
        if self.seen:
            self.plugin.seek(self.seen[-1][0] + 1)
        else:
            self.plugin.seekToBeginning()
        left = self.rng.randint(1, 2_000)
        while left > 0 and not self.stopping.is_set():
            left -= 100
            for event in self.plugin:
                self.seen.append((event.offset, name(event)))
                left -= 1
                if left < 0 or self.stopping.is_set():
                    return

    @property
    def was_refused(self) -> bool:
        """Tell whether it was told that an event stands in the wrong place."""
        return any(text.endswith("(displaced)") for text in self.failures)

    @property
    def offset(self) -> int:
        """The last offset that it saw."""
        return self.seen[-1][0] if self.seen else 0


def name(event: Any) -> str:
    """Name what the plugin gave as `checker.name_of` names what the stream holds."""
    return named(
        *(event.evcategory, event.eventtype, event.objtype, event.objpkey),
        event.objattrs,
    )
