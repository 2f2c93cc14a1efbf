# SPDX-License-Identifier: Apache-2.0
"""What is measured now, and how far it is: lines on standard error."""

from __future__ import annotations

import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_SECONDS = 10.0


class Progress:
    """Says each step with the time since the start, and a long one again."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def say(self, text: str) -> None:
        minutes, seconds = divmod(int(time.monotonic() - self._began), 60)
        sys.stderr.write(f"[{minutes:2}:{seconds:02}] {text}\n")
        sys.stderr.flush()

    @contextmanager
    def watch(self, text: str, total: int, count: Callable[[], int]) -> Iterator[None]:
        """Say a step, and every ten seconds how many of its events are stored."""
        is_over = threading.Event()
        self.say(f"{text}: {total:,} events")

        def run() -> None:
            while not is_over.wait(_SECONDS):
                self.say(f"  {text}: {count():,} of {total:,}")

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()
