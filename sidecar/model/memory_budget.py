# SPDX-License-Identifier: Apache-2.0
"""Bounds what the requests of the moment hold in memory together."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from sidecar import errors
from sidecar.errors import Problem

if TYPE_CHECKING:
    from sidecar.errors import Outcome

MAX_BYTES: Final = 64 * 1024 * 1024
"""One event may be as large as NATS allows; a larger one than this is then alone."""


class Full(NamedTuple):
    """That somebody was refused: when, and who held most at that moment."""

    at: float
    name: str
    bytes: int


class MemoryBudget:
    """Counts the bytes that are held; `outcome` is told where there is no room."""

    def __init__(self, outcome: Outcome | None = None) -> None:
        self.bytes = 0
        self.outcome = outcome
        self.full: Full | None = None
        self._by_name: Counter[str] = Counter()

    def reserve(self, name: str = "somebody") -> Reservation:
        """Count what one request of `name` holds, until its end."""
        return Reservation(self, name)

    def change(self, name: str, size_bytes: int) -> None:
        """Count more bytes of somebody, or fewer."""
        self.bytes += size_bytes
        self._by_name[name] += size_bytes
        if not self._by_name[name]:
            del self._by_name[name]

    def refuse(self) -> Problem:
        """Note that there is no room, and who is to blame."""
        ((name, size_bytes),) = self._by_name.most_common(1)
        self.full = Full(time.monotonic(), name, size_bytes)
        return Problem(errors.BUSY, self.outcome)


class Reservation:
    """What one request holds so far; a context manager that gives it back."""

    def __init__(self, budget: MemoryBudget, name: str) -> None:
        self._budget = budget
        self._name = name
        self.bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Hold nothing any more."""
        if self.bytes:
            self._budget.change(self._name, -self.bytes)
        self.bytes = 0

    def add(self, size_bytes: int) -> None:
        """Count more bytes; raise Problem if all requests together hold too many."""
        has_others = self._budget.bytes > self.bytes
        if has_others and self._budget.bytes + size_bytes > MAX_BYTES:
            raise self._budget.refuse()
        self.bytes += size_bytes
        self._budget.change(self._name, size_bytes)
