# SPDX-License-Identifier: Apache-2.0
"""A crowd that came to a listener, without one."""

from __future__ import annotations

import asyncio
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sidecar.http.strangers import Arrivals

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidecar.http.strangers import Arrival


class Crowd:
    """Those who came to a listener, by their numbers, and whom it opened."""

    def __init__(self, count: int, at_once: int, tls: Any) -> None:
        self.arrivals = Arrivals(socket.socket(), lambda: None, tls)  # type: ignore[arg-type, return-value]
        self.arrivals._at_once = at_once
        self.arrivals._open = self._open  # type: ignore[method-assign]
        self.opened: list[int] = []
        self.pairs = [socket.socketpair() for _ in range(count)]
        self.numbers = {ours: number for number, (ours, _) in enumerate(self.pairs)}
        for ours, _ in self.pairs:
            self.arrivals._add(ours)

    async def _open(self, arrival: Arrival, taken: socket.socket) -> None:  # noqa: ARG002
        self.opened.append(self.numbers[taken])

    @property
    def waiting(self) -> list[int]:
        return [self.numbers[taken] for taken in self.arrivals.unopened.values()]

    async def open_all(self) -> None:
        while self.arrivals.unopened:
            self.arrivals._open_some()
        await asyncio.gather(*self.arrivals._opening)


@contextmanager
def crowd_of(count: int, at_once: int = 4, tls: Any = None) -> Iterator[Crowd]:
    crowd = Crowd(count, at_once, tls)
    try:
        yield crowd
    finally:
        crowd.arrivals._listener.close()
        for pair in crowd.pairs:
            for end in pair:
                end.close()
