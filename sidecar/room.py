# SPDX-License-Identifier: Apache-2.0
"""Bounds what the requests of the moment hold in memory together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Self

from sidecar import errors
from sidecar.errors import Problem

if TYPE_CHECKING:
    from sidecar.errors import Outcome

MAX_BYTES: Final = 64 * 1024 * 1024
"""One event may be as large as NATS allows; a larger one than this is then alone."""


class Room:
    """Counts the bytes that are held; `outcome` is told where there is no room."""

    def __init__(self, outcome: Outcome | None = None) -> None:
        self.bytes = 0
        self.outcome = outcome

    def hold(self) -> Held:
        """Count what one request holds, until its end."""
        return Held(self)


class Held:
    """What one request holds so far; a context manager that gives it back."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self.bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.give_back()

    def give_back(self) -> None:
        """Hold nothing any more."""
        self._room.bytes -= self.bytes
        self.bytes = 0

    def add(self, size_bytes: int) -> None:
        """Count more bytes; raise Problem if all requests together hold too many."""
        has_others = self._room.bytes > self.bytes
        if has_others and self._room.bytes + size_bytes > MAX_BYTES:
            raise Problem(errors.BUSY, self._room.outcome)
        self.bytes += size_bytes
        self._room.bytes += size_bytes
