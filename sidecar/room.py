# SPDX-License-Identifier: Apache-2.0
"""Bounds the bodies that the requests of the moment hold in memory together."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from sidecar import errors
from sidecar.errors import Outcome, Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_BYTES: Final = 64 * 1024 * 1024
"""One body may be as large as NATS allows; a larger one than this is then alone."""


class Room:
    """Counts what is held; one for a daemon."""

    def __init__(self) -> None:
        self.bytes = 0

    @contextmanager
    def body(self) -> Iterator[Body]:
        """Hold a body that grows, until the request has ended."""
        body = Body(self)
        try:
            yield body
        finally:
            self.bytes -= len(body.data)


class Body:
    """The bytes of one request so far."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self.data = bytearray()

    def add(self, chunk: bytes) -> None:
        """Take more bytes; raise Problem if all bodies together are too many."""
        others = self._room.bytes - len(self.data)
        if others and self._room.bytes + len(chunk) > MAX_BYTES:
            raise Problem(errors.BUSY, Outcome.NOT_STORED)
        self.data += chunk
        self._room.bytes += len(chunk)
