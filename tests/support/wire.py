# SPDX-License-Identifier: Apache-2.0
"""A real transport on a socket pair, whose protocol a test feeds by hand.

So it is the test that says in which pieces a request arrives.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import uvicorn
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from uvicorn.server import ServerState

from sidecar.http.protocol import BoundedProtocol
from sidecar.http.strangers import Arrival, Arrivals, Turns

from .process import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.responses import Response
    from starlette.types import Receive, Scope, Send

    from sidecar.http.protocol import GoOn, Respond

BODY = b'{"evcategory": "base"}'
HEAD = (
    b"POST /v1/events HTTP/1.1\r\nHost: localhost\r\nIf-Match: *\r\n"
    b"Content-Length: %d\r\n\r\n" % len(BODY)
)
WHOLE = HEAD + BODY


class Waiter:
    """One who waits, as long as the test wants; see `sidecar.services.waiters`."""

    def __init__(self, respond: Respond, go_on: GoOn) -> None:
        self.respond = respond
        self._go_on = go_on
        self.is_forgotten = False

    def forget(self) -> None:
        self.is_forgotten = True

    def end(self) -> None:
        self._go_on(7.0)


class Wire:
    """One connection: what came which way, and what was answered."""

    def __init__(self, caller: socket.socket) -> None:
        self.direct: list[bytes] = []
        self.headers: list[tuple[bytes, bytes]] = []
        self.responds: list[Respond] = []
        self.asgi: list[bytes] = []
        self.asked_at: list[float | None] = []
        self.may_wait = True
        self.waits: dict[bytes, Waiter] = {}
        self.is_known = True
        self.probes: dict[bytes, Response] = {}
        self.probed_by_stranger: list[bool] = []
        self.caller = caller
        self.protocol: BoundedProtocol = None  # type: ignore[assignment]

    def probe(self, target: bytes, is_stranger: bool) -> Response | None:
        self.probed_by_stranger.append(is_stranger)
        return self.probes.get(target)

    def serve_directly(
        self, headers: list[tuple[bytes, bytes]], body: bytes, respond: Respond
    ) -> None:
        self.direct.append(body)
        self.headers = headers
        self.responds.append(respond)

    def wait_directly(
        self,
        query: bytes,
        headers: list[tuple[bytes, bytes]],
        respond: Respond,
        go_on: GoOn,
    ) -> Waiter | None:
        if not self.may_wait:
            return None
        self.headers = headers
        self.waits[query] = waiter = Waiter(respond, go_on)
        return waiter

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.asked_at.append(scope["state"].get("asked_at"))
        body = await Request(scope, receive).body()
        self.asgi.append(body)
        await PlainTextResponse("by uvicorn")(scope, receive, send)

    async def read(self) -> bytes:
        async with asyncio.timeout(10):
            return await asyncio.get_running_loop().sock_recv(self.caller, 65_536)

    async def ends(self) -> None:
        """Wait until the sidecar has cut it."""
        async with asyncio.timeout(5):
            await asyncio.to_thread(
                wait_until, lambda: self.protocol not in self.protocol.connections
            )

    async def read_to(self, end: bytes) -> bytes:
        answers = b""
        while not answers.endswith(end):
            piece = await self.read()
            assert piece, answers
            answers += piece
        return answers


class _NoTurns(Turns):
    """A crowd in which nobody's turn comes."""

    def ask(self, *, is_first: bool) -> asyncio.Future[None]:  # noqa: ARG002
        return asyncio.get_running_loop().create_future()


def in_a_crowd(one: Wire) -> Arrivals:
    """Make it a stranger, one of those whose turn does not come."""
    arrivals = Arrivals(one.caller, lambda: one.protocol, None)
    arrivals.turns = _NoTurns()
    one.protocol.arrival = Arrival(arrivals, one.caller)
    one.protocol.arrival.protocol = one.protocol
    return arrivals


@asynccontextmanager
async def wire(
    kind: type[BoundedProtocol] = BoundedProtocol,
) -> AsyncIterator[Wire]:
    caller, server = socket.socketpair()
    caller.setblocking(False)
    one = Wire(caller)
    config = uvicorn.Config(
        one.serve,
        interface="asgi3",
        log_config=None,
        lifespan="off",
        ws="none",
        proxy_headers=False,
    )
    config.load()
    transport, one.protocol = await asyncio.get_running_loop().connect_accepted_socket(
        lambda: kind(
            one.serve_directly,
            one.probe,
            lambda _path, _headers: one.is_known,
            one.wait_directly,  # type: ignore[arg-type]
            config=config,
            server_state=ServerState(),
            app_state={},
        ),
        server,
    )
    try:
        yield one
    finally:
        transport.abort()
        caller.close()


GET = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"
