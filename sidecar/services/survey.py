# SPDX-License-Identifier: Apache-2.0
"""Asks all sidecars which clients they know, when somebody wants to see them.

There is one question for all who look at the same moment, and one a second at most. If
nobody looks, nothing is sent.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sidecar.jetstream.service import Service
    from sidecar.model.clients import Client
    from sidecar.model.sidecars import Everyone, Sidecars

ANSWER_SECONDS: Final = 0.3
"""How long answers are waited for, unless all who answered of late have answered. One
that comes later counts for who looks next."""

PAUSE_SECONDS: Final = 1.0
"""From one question to the next: who looks meanwhile sees what was learnt."""


class Survey:
    """Asks over a service, and keeps what was answered."""

    def __init__(
        self, service: Service, sidecars: Sidecars, own: Callable[[], Sequence[Client]]
    ) -> None:
        self._service = service
        self._sidecars = sidecars
        self._own = own
        self._asking: asyncio.Task[None] | None = None
        self._next_at = 0.0
        self._is_over = asyncio.Event()
        service.on_answer, service.on_refused = self._hear, self._is_over.set

    async def look(self) -> Everyone:
        """Give the clients of all sidecars that answer."""
        now = time.monotonic()
        if now >= self._next_at:
            self._next_at = now + PAUSE_SECONDS
            self._asking = asyncio.create_task(self._ask())
        if self._asking is not None:
            await asyncio.wait({self._asking})
        lacks, now = self._service.lacks, time.monotonic()
        return self._sidecars.look(self._own(), lacks, now)

    async def _ask(self) -> None:
        self._sidecars.ask(time.monotonic())
        self._is_over.clear()
        if self._service.ask():
            with suppress(TimeoutError):
                async with asyncio.timeout(ANSWER_SECONDS):
                    await self._is_over.wait()

    def _hear(self, data: bytes) -> None:
        self._sidecars.hear(data, time.monotonic())
        if self._sidecars.have_all_answered():
            self._is_over.set()
