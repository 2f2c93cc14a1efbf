# SPDX-License-Identifier: Apache-2.0
"""Which requests go the direct way, and that the others lose nothing by it.

A real transport on a socket pair; its protocol is fed by hand, so that it is the test
that says in which pieces a request arrives.
"""

from __future__ import annotations

import asyncio
import gc
import socket
import weakref
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import uvicorn
from parts.process import wait_until
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from uvicorn.server import ServerState

from sidecar.http import protocol
from sidecar.http.protocol import BoundedProtocol, UvicornsProtocol
from sidecar.http.strangers import Arrival

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.types import Receive, Scope, Send

    from sidecar.http.protocol import Respond

BODY = b'{"evcategory": "base"}'
HEAD = (
    b"POST /v1/events HTTP/1.1\r\nHost: localhost\r\nIf-Match: *\r\n"
    b"Content-Length: %d\r\n\r\n" % len(BODY)
)
WHOLE = HEAD + BODY


class Wire:
    """One connection: what came which way, and what was answered."""

    def __init__(self, caller: socket.socket) -> None:
        self.direct: list[bytes] = []
        self.headers: list[tuple[bytes, bytes]] = []
        self.responds: list[Respond] = []
        self.asgi: list[bytes] = []
        self.is_known = True
        self.probes: dict[bytes, Response] = {}
        self.caller = caller
        self.protocol: BoundedProtocol = None  # type: ignore[assignment]

    def serve_directly(
        self, headers: list[tuple[bytes, bytes]], body: bytes, respond: Respond
    ) -> None:
        self.direct.append(body)
        self.headers = headers
        self.responds.append(respond)

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
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
            one.probes.get,
            lambda _path, _headers: one.is_known,
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


async def test_a_whole_request_is_served_directly() -> None:
    async with wire() as one:
        one.protocol.data_received(WHOLE)
        assert one.direct == [BODY]
        assert (b"if-match", b"*") in one.headers
        one.responds[0](Response(b"{}", 201, {"ETag": '"7"'}, "application/json"))
        assert await one.read() == (
            b'HTTP/1.1 201 Created\r\netag: "7"\r\ncontent-length: 2\r\n'
            b"content-type: application/json\r\n\r\n{}"
        )
        one.protocol.data_received(WHOLE)
        assert one.direct == [BODY, BODY]
        assert not one.asgi


@pytest.mark.parametrize("cut", range(1, len(WHOLE)))
async def test_a_request_in_two_pieces_is_served_once_and_whole(cut: int) -> None:
    """Directly if its body came in one piece with the end of its head, else not."""
    async with wire() as one:
        one.protocol.data_received(WHOLE[:cut])
        assert not one.direct
        one.protocol.data_received(WHOLE[cut:])
        if cut < len(HEAD):
            assert (one.direct, one.asgi) == ([BODY], [])
            one.responds[0](PlainTextResponse("directly"))
        assert (await one.read()).startswith(b"HTTP/1.1 200 OK\r\n")
        if cut >= len(HEAD):
            assert (one.direct, one.asgi) == ([], [BODY])


async def test_a_body_in_many_pieces_is_put_together() -> None:
    async with wire() as one:
        one.protocol.data_received(HEAD + BODY[:1])
        for number in range(1, len(BODY)):
            one.protocol.data_received(BODY[number : number + 1])
        await one.read_to(b"by uvicorn")
        assert (one.direct, one.asgi) == ([], [BODY])


async def test_a_chunked_body_that_is_whole_is_put_together() -> None:
    chunks = b"5\r\n" + BODY[:5] + b"\r\n11\r\n" + BODY[5:] + b"\r\n0\r\n\r\n"
    head = b"POST /v1/events HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with wire() as one:
        one.protocol.data_received(head + chunks)
        assert one.direct == [BODY]


@pytest.mark.parametrize(
    "request_",
    [
        WHOLE.replace(b"HTTP/1.1", b"HTTP/1.0"),
        WHOLE.replace(b"Host", b"Connection: close\r\nHost"),
        WHOLE.replace(b"Host", b"Expect: 100-continue\r\nHost"),
        WHOLE.replace(b"POST", b"PUT"),
        WHOLE.replace(b"/v1/events", b"/v1/events?"),
        WHOLE.replace(b"/v1/events", b"/v1/%65vents"),
        WHOLE.replace(b"/v1/events", b"/v1/event"),
        WHOLE.replace(b"/v1/events", b"http://localhost/v1/events"),
    ],
    ids=["1.0", "close", "continue", "PUT", "query", "escaped", "other", "absolute"],
)
async def test_whatever_is_less_plain_goes_uvicorns_way(request_: bytes) -> None:
    async with wire() as one:
        one.protocol.data_received(request_)
        await one.read_to(b"by uvicorn")
        assert (one.direct, one.asgi) == ([], [BODY])


async def test_without_the_direct_way_a_whole_request_goes_uvicorns() -> None:
    async with wire(UvicornsProtocol) as one:
        one.protocol.data_received(WHOLE)
        assert b"by uvicorn" in await one.read()
        assert (one.direct, one.asgi) == ([], [BODY])


async def test_a_caller_that_reads_nothing_is_made_to_wait() -> None:
    async with wire() as one:
        one.protocol.pause_writing()
        one.protocol.data_received(WHOLE)
        assert not one.direct
        one.protocol.resume_writing()
        await one.read_to(b"by uvicorn")


@pytest.mark.parametrize("pieces", [1, 2])
async def test_a_request_behind_one_under_way_waits_for_its_answer(pieces: int) -> None:
    async with wire() as one:
        if pieces == 1:
            one.protocol.data_received(WHOLE + WHOLE)
        else:
            one.protocol.data_received(WHOLE)
            one.protocol.data_received(WHOLE)
        assert one.direct == [BODY]
        for _ in range(5):
            await asyncio.sleep(0)
        assert not one.asgi
        one.responds[0](PlainTextResponse("directly"))
        answers = await one.read_to(b"by uvicorn")
        assert answers.index(b"directly") < answers.index(b"by uvicorn")
        assert (one.direct, one.asgi) == ([BODY], [BODY])


async def test_an_answer_to_who_has_left_is_dropped() -> None:
    async with wire() as one:
        one.protocol.data_received(WHOLE)
        one.protocol.transport.abort()
        one.responds[0](PlainTextResponse("too late"))
        await asyncio.sleep(0)
        assert await one.read() == b""


async def test_a_shutdown_lets_what_is_under_way_end() -> None:
    async with wire() as one:
        one.protocol.data_received(WHOLE)
        one.protocol.shutdown()
        assert not one.protocol.transport.is_closing()
        one.responds[0](PlainTextResponse("directly"))
        assert b"\r\nconnection: close\r\n" in await one.read()
        assert await one.read() == b""


async def test_an_answer_that_ends_the_connection_ends_it() -> None:
    async with wire() as one:
        one.protocol.data_received(WHOLE)
        one.responds[0](PlainTextResponse("bye", headers={"Connection": "close"}))
        answer = await one.read()
        assert answer.count(b"connection: close") == 1
        assert await one.read() == b""


@pytest.mark.parametrize(
    "broken",
    [
        b"Transfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n",
    ],
)
async def test_a_body_that_is_broken_is_served_by_nobody(broken: bytes) -> None:
    async with wire() as one:
        one.protocol.data_received(b"POST /v1/events HTTP/1.1\r\n" + broken)
        assert (await one.read()).startswith(b"HTTP/1.1 400")
        await asyncio.sleep(0)
        assert (one.direct, one.asgi) == ([], [])


async def test_a_request_is_answered_once() -> None:
    async with wire() as one:
        one.protocol.data_received(WHOLE)
        one.responds[0](PlainTextResponse("first"))
        one.responds[0](PlainTextResponse("second"))
        one.protocol.data_received(WHOLE)
        one.responds[0](PlainTextResponse("second"))
        one.responds[1](PlainTextResponse("third"))
        answers = await one.read_to(b"third")
        assert b"second" not in answers


async def test_an_idle_connection_is_closed_after_a_direct_answer_too() -> None:
    async with wire() as one:
        one.protocol.data_received(WHOLE)
        assert one.protocol.timeout_keep_alive_task is None
        one.responds[0](PlainTextResponse("directly"))
        timer: Any = one.protocol.timeout_keep_alive_task
        assert timer is not None
        one.protocol.data_received(WHOLE)
        assert timer.cancelled()


# -- Probes ----------------------------------------------------------------------------

LIVE = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"


@asynccontextmanager
async def probed_wire() -> AsyncIterator[Wire]:
    async with wire() as one:
        one.is_known = False
        one.probes[b"/health/live"] = PlainTextResponse("directly")
        yield one


async def test_a_probe_is_answered_in_a_crowd_in_which_nobodys_turn_comes() -> None:
    async with probed_wire() as one:
        arrivals: Any = SimpleNamespace(turns=NoTurns())
        one.protocol.arrival = Arrival(arrivals, one.caller)
        for _ in range(2 * protocol.MAX_UNANSWERED):
            one.protocol.data_received(LIVE)
            assert (await one.read()).endswith(b"directly")
        assert not one.asgi
        one.protocol.arrival = None


async def test_the_last_answer_to_a_probe_says_so_and_no_other() -> None:
    async with probed_wire() as one:
        last = LIVE.replace(b"Host", b"Connection: close\r\nHost")
        one.protocol.data_received(LIVE)
        assert b"connection" not in await one.read()
        one.protocol.data_received(last)
        assert b"\r\nconnection: close\r\n" in await one.read()
        assert await one.read() == b""
        answer = one.probes[b"/health/live"]
        assert (b"connection", b"close") not in answer.raw_headers


@pytest.mark.parametrize(
    "request_",
    [
        LIVE.replace(b"GET", b"HEAD"),
        LIVE.replace(b"HTTP/1.1", b"HTTP/1.0"),
        LIVE.replace(b"/live", b"/live?"),
        LIVE.replace(b"/live", b"/lives"),
        LIVE.replace(b"Host", b"Expect: 100-continue\r\nHost"),
        LIVE.replace(b"Host", b"Content-Length: 0\r\nHost"),
    ],
    ids=["HEAD", "1.0", "query", "other", "continue", "body"],
)
async def test_a_probe_that_is_less_plain_goes_uvicorns_way(request_: bytes) -> None:
    async with probed_wire() as one:
        one.protocol.data_received(request_)
        assert b"directly" not in await one.read()
        assert len(one.asgi) == 1


async def test_of_probes_in_a_pipeline_one_is_answered_directly() -> None:
    async with probed_wire() as one:
        one.protocol.data_received(LIVE * 3)
        answers = b""
        while answers.count(b"by uvicorn") < 2:
            answers += await one.read()
        assert answers.count(b"directly") == 1


# -- Clocks and bounds -----------------------------------------------------------------

GET = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"


@pytest.mark.parametrize(
    ("name", "pieces"),
    [
        ("HEAD_SECONDS", []),
        ("HEAD_SECONDS", [GET]),
        ("HEAD_SECONDS", [WHOLE, GET]),
        ("BODY_SECONDS", [HEAD]),
        ("BODY_SECONDS", [HEAD + BODY[:5]]),
        ("BODY_SECONDS", [GET + b"Transfer-Encoding: chunked\r\n\r\n0\r\nA: b"]),
    ],
    ids=["silence", "head", "second head", "no body", "half a body", "trailers"],
)
async def test_whoever_stalls_is_cut_by_the_clock_of_that_phase(
    name: str, pieces: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "_SLACK_SECONDS", 0)
    monkeypatch.setattr(protocol, name, 0.05)
    async with wire() as one:
        for piece in pieces:
            one.protocol.data_received(piece)
            if piece == WHOLE:
                one.responds[0](PlainTextResponse("well"))
                await one.read_to(b"well")
        assert not one.protocol.transport.is_closing()
        await one.ends()


@pytest.mark.parametrize("is_known", [False, True])
async def test_an_answer_that_nobody_takes_ends_the_connection(
    is_known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "READER_SECONDS", 0.05)
    async with wire() as one:
        one.is_known = is_known
        one.protocol.transport.write(b"x" * 4_000_000)
        await one.ends()


async def test_who_is_known_may_take_an_answer_slowly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(protocol, "READER_SECONDS", 0.2)
    monkeypatch.setattr(protocol, "TAKE_SECONDS", 0.05)
    async with wire() as one:
        one.protocol.data_received(WHOLE)
        one.responds[0](PlainTextResponse("x" * 4_000_000))
        taken = b""
        while len(taken) < 4_000_000:
            await asyncio.sleep(0.001)
            taken += await one.read()


async def test_who_is_known_may_not_take_an_answer_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(protocol, "READER_SECONDS", 0.2)
    monkeypatch.setattr(protocol, "PAGE_SECONDS", 0.3)
    async with wire() as one:
        one.is_known = True
        one.protocol.data_received(WHOLE)
        one.responds[0](PlainTextResponse("x" * 4_000_000))
        while not one.protocol.transport.is_closing():
            await asyncio.sleep(0.05)
            one.caller.recv(10_000)


async def test_a_stranger_may_not_take_an_answer_slowly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(protocol, "READER_SECONDS", 0.2)
    monkeypatch.setattr(protocol, "TAKE_SECONDS", 0.3)
    async with wire() as one:
        one.protocol.transport.write(b"x" * 4_000_000)
        pieces = 0
        while not one.protocol.transport.is_closing():
            await asyncio.sleep(0.05)
            one.caller.recv(10_000)
            pieces += 1
        assert pieces < 60


async def test_a_stranger_that_is_idle_makes_room_sooner() -> None:
    async with wire() as one:
        one.is_known = False
        one.protocol.data_received(GET + b"\r\n")
        assert one.protocol.timeout_keep_alive < protocol.KEEP_ALIVE_SECONDS
        one.is_known = True
        one.protocol.data_received(WHOLE)
        assert one.protocol.timeout_keep_alive == protocol.KEEP_ALIVE_SECONDS


async def test_trailers_are_no_headers() -> None:
    head = WHOLE[: -len(BODY)].replace(
        b"Content-Length: 22", b"Transfer-Encoding: chunked"
    )
    async with wire() as one:
        one.protocol.data_received(
            head + b"16\r\n" + BODY + b'\r\n0\r\nIf-Match: "7"\r\n\r\n'
        )
        assert one.direct == [BODY]
        assert [v for name, v in one.headers if name == b"if-match"] == [b"*"]


async def test_a_refusal_is_not_written_into_the_answer_to_an_earlier_request() -> None:
    async with wire() as one:
        one.protocol.data_received(WHOLE + b"no request\r\n\r\n")
        assert one.protocol.transport.is_closing()
        assert await one.read() == b""


async def test_the_body_of_a_stranger_is_passed_over_and_the_next_request_served() -> (
    None
):
    async with wire() as one:
        one.is_known = False
        piece = b"x" * 100_000
        one.protocol.data_received(
            b"PUT /x HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(piece) + piece
        )
        await one.read_to(b"by uvicorn")
        assert one.asgi == [b""]
        one.protocol.data_received(GET + b"\r\n")
        await one.read_to(b"by uvicorn")


class NoTurns:
    """A crowd in which nobody's turn comes."""

    def ask(self, *, is_first: bool) -> asyncio.Future[None]:  # noqa: ARG002
        return asyncio.get_running_loop().create_future()


async def test_who_leaves_while_its_requests_wait_leaves_nothing() -> None:
    async with wire() as one:
        one.is_known = False
        arrivals: Any = SimpleNamespace(
            turns=NoTurns(), all={}, strangers={}, unopened={}
        )
        arrival = one.protocol.arrival = Arrival(arrivals, one.caller)
        arrival.protocol = one.protocol
        one.caller.sendall((GET + b"\r\n") * 2)
        await asyncio.to_thread(wait_until, lambda: bool(one.protocol.pipeline))
        tasks, kept = one.protocol.tasks, weakref.ref(one.protocol)
        assert len(tasks) == 1
        gc.disable()  # what refers to itself is freed seldom and late
        try:
            arrival.end()
            del one.protocol
            await asyncio.to_thread(wait_until, lambda: not tasks and kept() is None)
        finally:
            gc.enable()


async def test_a_request_with_another_behind_it_learns_that_its_caller_left() -> None:
    learned = asyncio.Event()

    async def serve(_: Scope, receive: Receive, __: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        learned.set()

    async with wire() as one:
        one.protocol._whole_app = serve
        one.caller.sendall((GET + b"\r\n") * 2)
        await asyncio.to_thread(wait_until, lambda: bool(one.protocol.pipeline))
        one.protocol.transport.abort()
        async with asyncio.timeout(5):
            await learned.wait()


@pytest.mark.parametrize(
    "target", [b"http://localhost/v1/events", b"/v1%2fevents", b"/%761/events?a=b"]
)
async def test_any_form_of_a_target_is_known_by_its_path(target: bytes) -> None:
    async with wire() as one:
        one.protocol._admits = lambda path, _: path.startswith("/v1/")
        one.caller.sendall(WHOLE.replace(b"/v1/events", target))
        await one.read_to(b"by uvicorn")
    assert one.asgi == [BODY]


@pytest.mark.parametrize("target", [b"*", b"localhost:80", b"http://", b"/", b"%"])
def test_a_target_without_the_path_of_the_api_is_a_strangers(target: bytes) -> None:
    assert not protocol.path_of(target).startswith("/v1/")
