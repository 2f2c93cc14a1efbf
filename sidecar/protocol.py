# SPDX-License-Identifier: Apache-2.0
"""One HTTP connection: its limits, and a direct way for the request of each event.

uvicorn leaves such limits to a proxy, which we do not have.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import sys
from contextlib import suppress
from fcntl import ioctl
from functools import partial
from termios import TIOCOUTQ
from typing import TYPE_CHECKING, Any, Final

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

if TYPE_CHECKING:
    from asyncio import TimerHandle
    from collections.abc import Callable

    from starlette.responses import Response

    Respond = Callable[[Response], None]
    Serve = Callable[[list[tuple[bytes, bytes]], bytes, Respond], None]
    """Serves a whole POST to EVENTS: its headers, its body, what to do at its end."""

EVENTS: Final = "/v1/events"
_URL = EVENTS.encode()
_CLOSE = (b"connection", b"close")

UNIX: Final = "unix"
"""The host of a client that has a process id in place of a port."""

MAX_HEAD_BYTES: Final = 16 * 1024
"""Request line and headers; as nginx' four buffers of 4 KB. Ours need 500 bytes."""

HEAD_SECONDS: Final = 20.0
"""How long a request may take from its first byte to the end of its headers."""

READER_SECONDS: Final = 10.0
"""How long somebody may take nothing of an answer, which counts as held meanwhile: a
client that is paused asks again when it goes on."""

STOPPING_SECONDS: Final = 1.0
"""How long a sidecar that stops waits for whoever does not take what it answered."""

MAX_CONNECTIONS: Final = 2_000
"""On one listener. A further one is closed at once; idle ones cost 20 KB each."""


def _process_of(transport: asyncio.Transport) -> int:
    """Give who is at the other end of a Unix socket; 0 where that cannot be seen."""
    end = transport.get_extra_info("socket")
    if end is None:
        return 0
    with suppress(OSError), socket.socket(fileno=os.dup(end.fileno())) as same:
        size = struct.calcsize("3i")
        found = same.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
        process: int = struct.unpack("3i", found)[0]
        return process
    return 0


class _Direct:
    """A request served directly, as far as uvicorn looks at one (RequestResponseCycle).

    While response_complete is False it lets the next request of the connection wait.
    """

    def __init__(self) -> None:
        self.response_complete = False
        self.disconnected = False
        self.keep_alive = True
        self.message_event = asyncio.Event()


class BoundedProtocol(HttpToolsProtocol):
    """An HTTP connection that can neither fill the memory nor stay half a request.

    A POST to EVENTS that arrives in one piece is served directly: uvicorn's and
    FastAPI's layers cost a fifth of an acknowledged event (docs/adr/0007, 0010).
    Whatever is less plain goes their way.
    """

    _head_bytes = 0
    _is_in_head = False
    _head_timer: TimerHandle | None = None
    _reader_timer: TimerHandle | None = None
    _body: list[bytes] | None = None  # of a request that may be served directly

    def __init__(self, serve_directly: Serve, **uvicorns: Any) -> None:
        super().__init__(**uvicorns)
        self._serve_directly = serve_directly

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Refuse one connection too many."""
        super().connection_made(transport)
        if self.client is None:
            self.client = (UNIX, _process_of(transport))
        if len(self.connections) > MAX_CONNECTIONS:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clocks."""
        self._end_head()
        self._end_reader()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """Stop; whoever reads on does so now."""
        super().shutdown()
        if self.transport.get_write_buffer_size():
            self.loop.call_later(STOPPING_SECONDS, self._abort_unread)

    def _abort_unread(self) -> None:
        if self.transport.get_write_buffer_size():
            self.transport.abort()

    def pause_writing(self) -> None:
        """Look whether the reader goes on; a slow one may take its time."""
        super().pause_writing()
        self._watch_reader(self._unread_bytes())

    def resume_writing(self) -> None:
        """Stop looking."""
        self._end_reader()
        super().resume_writing()

    def _watch_reader(self, unread_bytes: int) -> None:
        self._reader_timer = self.loop.call_later(
            READER_SECONDS, self._check_reader, unread_bytes
        )

    def _check_reader(self, unread_before: int) -> None:
        unread_bytes = self._unread_bytes()
        if unread_bytes >= unread_before:
            self.transport.abort()
        else:
            self._watch_reader(unread_bytes)

    def _unread_bytes(self) -> int:
        """Count what the other side has not taken, in our buffer and in the kernel's.

        A slow link empties the kernel's long before ours gets smaller.
        """
        queued = bytearray(4)
        with suppress(OSError):
            ioctl(self.transport.get_extra_info("socket").fileno(), TIOCOUTQ, queued)
        kernels = int.from_bytes(queued, sys.byteorder)
        return self.transport.get_write_buffer_size() + kernels

    def data_received(self, data: bytes) -> None:
        """Bound the head; most come whole, and need no clock."""
        self._head_bytes += len(data)
        super().data_received(data)
        if self._body is not None:  # more of it is to come: no direct way
            body, self._body = self._body, None
            if not self.transport.is_closing():
                super().on_headers_complete()
                for piece in body:
                    super().on_body(piece)
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
        if self._may_be_direct():
            self._body = []
        else:
            super().on_headers_complete()

    def _may_be_direct(self) -> bool:
        return (
            self.url == _URL
            and self.parser.get_method() == b"POST"
            and self.parser.get_http_version() == "1.1"
            and self.parser.should_keep_alive()
            and not self.parser.should_upgrade()
            and not self.expect_100_continue
            and not self.flow.write_paused
            and (self.cycle is None or self.cycle.response_complete)
        )

    def on_body(self, body: bytes) -> None:
        """Keep what is served directly."""
        if self._body is None:
            super().on_body(body)
        else:
            self._body.append(body)

    def on_message_complete(self) -> None:
        """Count anew for the next request on this connection; serve a whole one."""
        self._head_bytes = 0
        if self._body is None:
            super().on_message_complete()
            return
        body, self._body = b"".join(self._body), None
        self.cycle = direct = _Direct()  # type: ignore[assignment]
        self._serve_directly(self.headers, body, partial(self._respond, direct))

    def _respond(self, direct: _Direct, response: Response) -> None:
        if direct.response_complete or self.transport.is_closing():
            return  # nobody is there; or a second answer, to be taken for the next one
        direct.response_complete = True
        headers = response.raw_headers
        if not direct.keep_alive and _CLOSE not in headers:
            headers.append(_CLOSE)
        fields = b"".join([b"%s: %s\r\n" % field for field in headers])
        self.transport.write(
            b"%s%s\r\n%s" % (STATUS_LINE[response.status_code], fields, response.body)
        )
        if _CLOSE in headers:
            self.transport.close()
        self.on_response_complete()

    def _end_reader(self) -> None:
        if self._reader_timer is not None:
            self._reader_timer.cancel()
            self._reader_timer = None

    def _end_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
