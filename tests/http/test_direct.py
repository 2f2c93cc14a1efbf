# SPDX-License-Identifier: Apache-2.0
"""Which requests go the direct way, and that the others lose nothing by it."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import TYPE_CHECKING

import pytest
from starlette.responses import PlainTextResponse, Response
from support.process import wait_until
from support.wire import BODY, GET, HEAD, WHOLE, in_a_crowd, wire

from sidecar.http import protocol
from sidecar.http.protocol import BoundedProtocol, UvicornsProtocol

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

CHUNKED = HEAD.partition(b"Content-Length")[0] + b"Transfer-Encoding: chunked\r\n\r\n"


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


async def test_a_stranger_is_not_served_directly() -> None:
    async with wire() as one:
        one.is_known = False
        one.protocol.data_received(WHOLE)
        assert (await one.read()).startswith(b"HTTP/1.1 200 OK\r\n")
        assert (one.direct, one.asgi) == ([], [b""])


async def test_of_a_strangers_chunks_none_is_parsed() -> None:
    parsed = []

    class Counts(BoundedProtocol):
        def on_body(self, body: bytes) -> None:
            parsed.append(body)

    chunks = b"1\r\nx\r\n" * 10_000
    async with wire(Counts) as one:
        one.is_known = False
        one.protocol.data_received(CHUNKED + chunks)
        one.protocol.data_received(chunks)
        assert (await one.read_to(b"by uvicorn")).count(b"HTTP/1.1") == 1
        assert await one.read() == b""
        assert (parsed, one.asgi, one.direct) == ([], [b""], [])


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


async def test_who_leaves_while_its_requests_wait_leaves_nothing() -> None:
    async with wire() as one:
        one.is_known = False
        in_a_crowd(one)
        arrival = one.protocol.arrival
        assert arrival is not None
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
