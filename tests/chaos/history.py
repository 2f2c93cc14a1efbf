# SPDX-License-Identifier: Apache-2.0
"""What the producers were told, kept as it happens."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from .checker import Attempt, Told

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class History:
    """All attempts of all producers; whoever waits is woken by each."""

    def __init__(self) -> None:
        self.attempts: list[Attempt] = []
        self.forgotten: set[int] = set()  # numbers of attempts: see checker.check
        self.failed_opens: list[tuple[int, str]] = []  # attempts before it, text
        self.acknowledged = 0
        self.acknowledged_at = 0.0
        self._changed = threading.Condition()

    def add(self, attempt: Attempt) -> int:
        """Keep an attempt, and give its number."""
        with self._changed:
            self.attempts.append(attempt)
            if attempt.told is Told.STORED:
                self.acknowledged += 1
                self.acknowledged_at = time.monotonic()
            self._changed.notify_all()
            return len(self.attempts) - 1

    def add_key(self, number: int, key: str) -> None:
        """Keep a key under which an event went later than its attempt ended."""
        with self._changed:
            attempt = self.attempts[number]
            keys = dict.fromkeys((*attempt.keys, key))
            self.attempts[number] = replace(attempt, keys=tuple(keys))

    def forget(self, numbers: Iterable[int]) -> None:
        """Keep that a process died before it had saved what these told it."""
        self.forgotten.update(numbers)

    def add_failed_open(self, text: str) -> None:
        with self._changed:
            self.failed_opens.append((len(self.attempts), text))
            self._changed.notify_all()

    def wait_for(self, condition: Callable[[], bool], seconds: float) -> bool:
        with self._changed:
            return self._changed.wait_for(condition, seconds)

    def wait_acknowledged(self, count: int, seconds: float) -> bool:
        """Wait for that many more acknowledged events."""
        goal = self.acknowledged + count
        return self.wait_for(lambda: self.acknowledged >= goal, seconds)
