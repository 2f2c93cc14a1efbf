# SPDX-License-Identifier: Apache-2.0
"""Limits of one HTTP connection that uvicorn leaves to a proxy we do not have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

if TYPE_CHECKING:
    import asyncio
    from asyncio import TimerHandle

MAX_HEAD_BYTES: Final = 16 * 1024
"""Request line and headers; as nginx' four buffers of 4 KB. Ours need 500 bytes."""

HEAD_SECONDS: Final = 20.0
"""How long a request may take from its first byte to the end of its headers."""

MAX_CONNECTIONS: Final = 2_000
"""On one listener. A further one is closed at once; idle ones cost 20 KB each."""


class BoundedProtocol(HttpToolsProtocol):
    """An HTTP connection that can neither fill the memory nor stay half a request."""

    _head_bytes = 0
    _is_in_head = False
    _head_timer: TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Refuse one connection too many."""
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        self._end_head()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bound the head; most come whole, and need no clock."""
        self._head_bytes += len(data)
        super().data_received(data)
        if not self._is_in_head:
            return
        if self._head_bytes > MAX_HEAD_BYTES:
            self.send_400_response("Headers are too large.")
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def on_message_begin(self) -> None:
        """Know that headers follow."""
        self._is_in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Stop the clock; the body has limits of its own."""
        self._is_in_head = False
        self._end_head()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Count anew for the next request on this connection."""
        self._head_bytes = 0
        super().on_message_complete()

    def _end_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
