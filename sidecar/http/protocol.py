# SPDX-License-Identifier: Apache-2.0
"""One HTTP connection: its limits, and a direct way for the request of each event.

uvicorn leaves such limits to a proxy, which we do not have. Whatever a connection makes
us keep has a bound in bytes, and each of its phases a clock (sidecar.http.clocks).

It is longer than 400 lines: the parser's callbacks share one state, and each bound is
checked in one of them.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
import struct
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

from httptools import (
    HttpParserError,
    HttpParserUpgrade,
    HttpRequestParser,
    parse_url,
)

from sidecar.http.clocks import (
    KEEP_ALIVE_SECONDS,
    STRANGERS_IDLE_SECONDS,
    ClockedProtocol,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.responses import Response
    from starlette.types import Receive, Scope, Send
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

    from sidecar.http.strangers import Arrival, Turns
    from sidecar.services.waiters import Waiter

    Respond = Callable[[Response], None]
    Serve = Callable[[list[tuple[bytes, bytes]], bytes, Respond], None]
    """Serves a whole POST to EVENTS: its headers, its body, what to do at its end."""
    GoOn = Callable[[float], None]
    """Serves a request as any other; it was asked at this moment (monotonic)."""
    Wait = Callable[[bytes, list[tuple[bytes, bytes]], Respond, GoOn], Waiter | None]
    """Lets a GET of EVENTS wait: its query, its headers, and how it ends. None where it
    is to be served as any other at once."""

EVENTS: Final = "/v1/events"
_URL = EVENTS.encode()
_URL_OF_PAGE = _URL + b"?"
_STATUS_LINES = {
    each.value: b"HTTP/1.1 %d %s\r\n" % (each, each.phrase.encode())
    for each in HTTPStatus
}
_CLOSE = (b"connection", b"close")
_TUNNEL = b"CONNECT"
_SAYS_BODY = (b"content-length", b"transfer-encoding")

UNIX: Final = "unix"
"""The host of a client that has a process id in place of a port."""

MAX_HEAD_BYTES: Final = 16 * 1024
"""Request line and headers, or what is no body at a body's end. Ours need 500 bytes."""

MAX_HEADERS: Final = 100
"""As Apache httpd has it: each costs more than its bytes."""

MAX_UNANSWERED: Final = 4
"""Requests on one connection; the consumer plugin asks one ahead."""

ASKED_AT: Final = "asked_at"
"""In the state of a scope: when it was asked, monotonic, if it has waited since."""

_PIECE_BYTES = 16 * 1024  # what is parsed before limits are looked at


def path_of(target: bytes) -> str:
    """Give the path as the application gets it, whatever form the target has."""
    if target.startswith(b"/") and b"%" not in target:
        return target.decode("latin-1")
    try:
        return unquote((parse_url(target).path or b"").decode("latin-1"))
    except HttpParserError:
        return ""


class _TooMuch(Exception):  # noqa: N818 - nobody sees it
    """More than a connection may make us keep; it ends the parser's work."""


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


def _is_gone(transport: asyncio.Transport) -> bool:
    """Tell whether the other side reads no more; over TCP that cannot be seen."""
    end = transport.get_extra_info("socket")
    poll = select.poll()
    poll.register(end.fileno(), 0)
    return any(found & select.POLLHUP for _, found in poll.poll(0))


class _Direct:
    """A request served directly, as far as uvicorn looks at one (RequestResponseCycle).

    While response_complete is False it lets the next request of the connection wait.
    """

    def __init__(self) -> None:
        self.response_started = self.response_complete = False
        self.disconnected = False
        self.keep_alive = True
        self.message_event = asyncio.Event()


class BoundedProtocol(ClockedProtocol):
    """An HTTP connection that can neither fill the memory nor stay half a request.

    A POST to EVENTS that arrives in one piece is served directly, but not a stranger's:
    uvicorn's and FastAPI's layers cost a fifth of an acknowledged event (docs/adr/0007,
    0010); so is a probe, which in a crowd would wait for ever. What is less plain goes
    their way.
    """

    arrival: Arrival | None = None
    _is_first = True  # of its requests
    _is_in_head = False
    _is_in_message = False
    _loose_bytes = 0  # of a head, or since the last piece of a body
    _unanswered = 0
    _is_deaf = False  # nothing more is read: its body would be parsed for nothing
    _may_probe = True  # once each time that bytes come: more would be for nothing
    _body: list[bytes] | None = None  # of a request that may be served directly
    _plain_head: bytes | None = None  # of a request that asks for another protocol
    _has_ended = False  # the other side says nothing more, and may still read
    _served: RequestResponseCycle | None = None  # the request that is being answered
    _turn: asyncio.Future[None] | None = None  # that a stranger's request waits for
    _waiter: Waiter | None = None  # of the request that waits for an event

    def __init__(
        self,
        serve_directly: Serve,
        probes: Callable[[bytes, bool], Response | None],
        admits: Callable[[str, list[tuple[bytes, bytes]]], bool],
        wait_directly: Wait | None = None,
        **uvicorns: Any,
    ) -> None:
        super().__init__(**uvicorns)
        self._serve_directly = serve_directly
        self._probes = probes
        self._admits = admits
        self._wait_directly = wait_directly
        self._whole_app: Any = self.app
        self.timeout_keep_alive = STRANGERS_IDLE_SECONDS  # type: ignore[assignment]

    # -- Its life ----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for a first request, and not for ever."""
        super().connection_made(transport)
        if self.client is None:
            self.client = (UNIX, _process_of(transport))
        self._limit_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clocks; end the request under way, and keep nothing.

        uvicorn tells the last request alone, which may wait behind another. What refers
        to itself would lie in memory until Python looks for such, seldom and late.
        """
        self._end_input()
        self._end_reader()
        if self.arrival is not None:
            self.arrival.has_left()
        self._unset_keepalive_if_required()  # uvicorn leaves it after a reset
        super().connection_lost(exc)
        if self._served is not None:
            self._served.disconnected = True
            self._served.message_event.set()
        if self._turn is not None and not self._turn.done():
            self._turn.set_result(None)
        if self._waiter is not None:
            self._waiter.forget()
            self._waiter = None
        self.pipeline.clear()
        self.app, self._body = self._whole_app, None
        self._served = self._turn = self.cycle = None  # type: ignore[assignment]

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._served = cycle
        super()._start_asgi_task(cycle, app)

    def eof_received(self) -> bool:  # type: ignore[override]
        """Answer what was asked before the other side ended its own half."""
        if self.scheme == "https" or not self._has_whole() or _is_gone(self.transport):
            return False
        self._is_deaf = self._has_ended = True
        self._end_input()
        return True

    def _has_whole(self) -> bool:
        """Tell whether a whole request waits for its answer."""
        return self._unanswered > int(self._is_in_message)

    # -- What comes in -----------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Parse it, and bound what is not yet a whole request."""
        self._may_probe = True
        if len(data) <= _PIECE_BYTES:
            self._parse(data)
        else:
            view = memoryview(data)
            for start in range(0, len(data), _PIECE_BYTES):
                self._parse(view[start : start + _PIECE_BYTES])
        if self._body is not None:  # more of it is to come: no direct way
            body, self._body = self._body, None
            if not self.transport.is_closing():
                self._go_uvicorns_way()
                for piece in body:
                    self.on_body(piece)
        if self._is_in_message and self._input_timer is None:
            if self._is_in_head:
                self._limit_head()
            else:
                self._begin_body()

    def _parse(self, data: bytes | memoryview) -> None:
        if self._is_deaf or self.transport.is_closing():
            return
        self._loose_bytes += len(data)
        self._unset_keepalive_if_required()
        rest: bytes | memoryview | None = data
        while rest is not None:
            rest = self._feed(rest)
        if self._is_in_message and self._loose_bytes > MAX_HEAD_BYTES:
            self.send_400_response("Headers are too large.")

    def _feed(self, data: bytes | memoryview) -> bytes | memoryview | None:
        """Parse data; give what is to be parsed anew.

        We know no other protocol, and go on in this one (RFC 9110 7.8). The parser
        takes what follows such a head for the other protocol: so the head is given to
        a new one, without what asks for it.
        """
        try:
            self.parser.feed_data(data)
        except HttpParserUpgrade as upgrade:
            head, self._plain_head = self._plain_head, None
            if head is None:
                return None  # a tunnel, to which we are deaf
            self._unanswered -= 1  # it begins again
            self.parser = HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
            return head + data[upgrade.args[0] :]
        except HttpParserError:
            if not self._is_deaf:
                self.logger.warning("Invalid HTTP request received.")
                self.send_400_response("Invalid HTTP request received.")
        return None

    def send_400_response(self, msg: str) -> None:
        """Refuse and close; into the answer to an earlier request write nothing."""
        self._is_deaf = True
        if self._has_answer_under_way():
            self.transport.abort()
        elif not self.transport.is_closing():
            super().send_400_response(msg)

    def _has_answer_under_way(self) -> bool:
        if self._has_whole():
            return True
        cycle = self.cycle
        return bool(cycle and cycle.response_started and not cycle.response_complete)

    def on_message_begin(self) -> None:
        """Know that headers follow; what waits is served while its own are known."""
        if self._waiter is not None:
            self._waiter.end()
        self._body_bytes = 0
        self._is_in_head = self._is_in_message = True
        self._unanswered += 1
        if not self._is_known and self.arrival is not None:
            self.arrival.has_begun()
        if self._unanswered > MAX_UNANSWERED:
            raise _TooMuch
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header. Trailers are none: what follows a body says nothing to us."""
        if not self._is_in_head:
            return
        if len(self.headers) >= MAX_HEADERS:
            raise _TooMuch
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Stop the clock of the head; learn who asks."""
        self._is_in_head = False
        if self._input_timer is not None:
            self._end_input()
        if not self._is_known and self._admits(path_of(self.url), self.headers):
            self._is_known = True
            self.timeout_keep_alive = KEEP_ALIVE_SECONDS
            if self.arrival is not None:
                self.arrival.is_known()
        if self._may_be_direct():
            self._body = []
        elif self._may_wait() and self._waits():
            self._is_first = False
        elif self._is_probe() and (response := self._probe()) is not None:
            self._may_probe = self._is_first = False
            self.cycle = direct = _Direct()  # type: ignore[assignment]
            direct.keep_alive = self.parser.should_keep_alive()
            self._respond(direct, response)
        elif self.parser.should_upgrade() and self.parser.get_method() != _TUNNEL:
            self._plain_head = self._head_without_upgrade()
        else:
            self._go_uvicorns_way()

    def _head_without_upgrade(self) -> bytes:
        fields = []
        for name, value in self.headers:
            kept = value
            if name == b"connection":
                tokens = [token.strip() for token in value.split(b",")]
                kept = b", ".join(one for one in tokens if one.lower() != b"upgrade")
            if name != b"upgrade" and kept:
                fields.append(b"%s: %s\r\n" % (name, kept))
        line = b"%s %s HTTP/%s\r\n" % (
            self.parser.get_method(),
            self.url,
            self.parser.get_http_version().encode(),
        )
        return b"".join((line, *fields, b"\r\n"))

    def _go_uvicorns_way(self) -> None:
        if not self._is_known and self.arrival is not None:
            self.app = partial(self._in_turn, self.arrival.turns, self._is_first)
        else:
            self.app = self._whole_app
        self._is_first = False
        super().on_headers_complete()
        if self.expect_100_continue or self.parser.get_method() == _TUNNEL:
            # Whoever is refused before it sent the body may send it or not, so what
            # follows cannot be told from it (RFC 9110 10.1.1). A tunnel has no end.
            self.cycle.keep_alive = False
            self._is_deaf = self.parser.get_method() == _TUNNEL
        if not self._is_known and any(
            name == b"transfer-encoding" for name, _ in self.headers
        ):
            self.cycle.keep_alive = False
            self._is_deaf = True
            self.on_message_complete()
            raise _TooMuch  # small chunks take long to parse, and nobody wants them

    async def _in_turn(
        self, turns: Turns, is_first: bool, scope: Scope, receive: Receive, send: Send
    ) -> None:
        self._turn = turns.ask(is_first=is_first)
        await self._turn
        if not self.transport.is_closing():
            await self._whole_app(scope, receive, send)
            return
        while (await receive())["type"] != "http.disconnect":
            pass  # uvicorn wants an answer as long as it has not seen that

    def _may_be_direct(self) -> bool:
        return self.url == _URL and self._may_stay() and self._is_plain(b"POST")

    def _may_wait(self) -> bool:
        return (
            self._wait_directly is not None
            and self.url.startswith(_URL_OF_PAGE)
            and self._may_stay()
            and self._is_plain(b"GET")
            and not self._says_body()
        )

    def _may_stay(self) -> bool:
        return self._is_known and self.parser.should_keep_alive()

    def _is_plain(self, method: bytes) -> bool:
        return (
            self.parser.get_method() == method
            and self.parser.get_http_version() == "1.1"
            and not self.parser.should_upgrade()
            and not self.expect_100_continue
            and not self.flow.write_paused
            and (self.cycle is None or self.cycle.response_complete)
        )

    def _says_body(self) -> bool:
        return any(name in _SAYS_BODY for name, _ in self.headers)

    def _waits(self) -> bool:
        """Let the request wait, if it can, without anything of uvicorn's."""
        assert self._wait_directly is not None  # noqa: S101 - it may wait
        query, direct = self.url[len(_URL_OF_PAGE) :], _Direct()
        respond = partial(self._respond, direct)
        self._waiter = self._wait_directly(query, self.headers, respond, self._go_on)
        if self._waiter is None:
            return False
        self.cycle = direct  # type: ignore[assignment]
        return True

    def _go_on(self, asked_at: float) -> None:
        direct, self._waiter = self.cycle, None
        self.cycle = None  # type: ignore[assignment]
        if not self.transport.is_closing():
            self.scope["state"][ASKED_AT] = asked_at
            self._go_uvicorns_way()
            super().on_message_complete()
            self.cycle.keep_alive = direct.keep_alive

    def _probe(self) -> Response | None:
        is_local = self.client is not None and self.client[0] == UNIX
        return self._probes(self.url, not (self._is_known or is_local))

    def _is_probe(self) -> bool:
        return self._may_probe and self._is_plain(b"GET") and not self._says_body()

    def on_body(self, body: bytes) -> None:
        """Keep what is served directly, and no body of a stranger."""
        self._loose_bytes = 0
        if self._body is not None:
            self._body.append(body)
        elif self._is_known:
            self._body_bytes += len(body)
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Count anew for the next request on this connection; serve a whole one."""
        if self._plain_head is not None:
            return
        self._is_in_message = False
        self._loose_bytes = 0
        if self._input_timer is not None:
            self._end_input()
        if self._body is None:
            super().on_message_complete()
            return
        body, self._body = b"".join(self._body), None
        self.cycle = direct = _Direct()  # type: ignore[assignment]
        self._serve_directly(self.headers, body, partial(self._respond, direct))

    # -- What goes out -----------------------------------------------------------------

    def on_response_complete(self) -> None:
        """Count an answer; close after the last one that somebody waits for."""
        self._unanswered -= 1
        super().on_response_complete()
        if self._has_ended and not self._has_whole():
            self.transport.close()

    def _respond(self, direct: _Direct, response: Response) -> None:
        if direct.response_complete or self.transport.is_closing():
            return  # nobody is there; or a second answer, to be taken for the next one
        direct.response_complete = True
        self._waiter = None
        headers = response.raw_headers
        if not direct.keep_alive and _CLOSE not in headers:
            headers = [*headers, _CLOSE]
        fields = b"".join([b"%s: %s\r\n" % field for field in headers])
        self.transport.write(
            b"%s%s\r\n%s" % (_STATUS_LINES[response.status_code], fields, response.body)
        )
        if _CLOSE in headers:
            self.transport.close()
        self.on_response_complete()


class UvicornsProtocol(BoundedProtocol):
    """The same without the direct way, where uvicorn lacks what that needs."""

    def _may_be_direct(self) -> bool:
        return False

    def _is_probe(self) -> bool:
        return False

    def _may_wait(self) -> bool:
        return False
