# SPDX-License-Identifier: Apache-2.0
"""A client that waits does so without FastAPI's layers, and loses nothing by it."""

from __future__ import annotations

import json
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from starlette.responses import PlainTextResponse
from support.process import wait_until
from support.sidecar import SidecarProcess, event, last_offset, post, sidecar_on
from support.wire import BODY, WHOLE, wire

from sidecar.http.protocol import UvicornsProtocol

if TYPE_CHECKING:
    from pathlib import Path

    from support.nats import NatsProcess

WAIT = b"GET /v1/events?offset=7&wait=20.000 HTTP/1.1\r\nHost: x\r\n\r\n"
QUERY = b"offset=7&wait=20.000"


async def test_a_plain_read_waits_and_is_answered_with_nothing_of_uvicorns() -> None:
    async with wire() as one:
        for number in range(2):
            one.protocol.data_received(WAIT)
            assert (b"host", b"x") in one.headers
            one.waits.pop(QUERY).respond(PlainTextResponse(f"page {number}"))
            assert (await one.read()).endswith(b"\r\n\r\npage %d" % number)
        assert not one.asgi


@pytest.mark.parametrize(
    "request_",
    [
        WAIT.replace(b"HTTP/1.1", b"HTTP/1.0"),
        WAIT.replace(b"Host", b"Connection: close\r\nHost"),
        WAIT.replace(b"\r\n\r\n", b"\r\nContent-Length: 1\r\n\r\nx"),
        WAIT.replace(b"GET", b"HEAD"),
        WAIT.replace(b"?", b"/x?"),
        WAIT.replace(b"events", b"%65vents"),
    ],
    ids=["1.0", "close", "body", "HEAD", "path", "escaped"],
)
async def test_what_is_less_plain_goes_uvicorns_way(request_: bytes) -> None:
    async with wire() as one:
        one.protocol.data_received(request_)
        assert b"200 OK" in await one.read()
        assert (one.waits, one.asked_at) == ({}, [None])


@pytest.mark.parametrize("why", ["stranger", "nothing to wait for", "without insides"])
async def test_who_may_not_wait_so_is_served_as_any_other(why: str) -> None:
    kind = {"kind": UvicornsProtocol} if why == "without insides" else {}
    async with wire(**kind) as one:
        one.is_known = why != "stranger"
        one.may_wait = why != "nothing to wait for"
        one.protocol.data_received(WAIT)
        await one.read_to(b"by uvicorn")
        assert not one.waits


async def test_who_goes_on_is_served_as_one_who_asked_then() -> None:
    async with wire() as one:
        one.protocol.data_received(WAIT)
        one.waits[QUERY].end()
        await one.read_to(b"by uvicorn")
        assert one.asked_at == [7.0]
        one.waits[QUERY].respond(PlainTextResponse("late"))  # nobody waits for that
        one.protocol.data_received(WHOLE)
        assert one.direct == [BODY]
        one.responds[0](PlainTextResponse("stored"))
        assert (await one.read()).endswith(b"stored")


async def test_a_request_behind_one_that_waits_is_answered_after_it() -> None:
    async with wire() as one:
        one.protocol.data_received(WAIT)
        one.protocol.data_received(WAIT.replace(b"offset=7", b"offset=8"))
        answers = await one.read_to(b"by uvicorn")
        while answers.count(b"by uvicorn") < 2:
            answers += await one.read_to(b"by uvicorn")
        assert one.asked_at == [7.0, None]
        assert list(one.waits) == [QUERY]


@pytest.mark.parametrize(
    ("behind", "answers"),
    [
        (WAIT.replace(b"offset=7", b"offset=8"), 2),
        (WHOLE.replace(b"POST", b"PUT"), 2),
        (b"G", 1),
        (b"garbage\r\n\r\n", 0),
    ],
    ids=["the same", "with a body", "its first byte", "no request"],
)
async def test_what_comes_in_one_piece_behind_it_is_answered_after_it(
    behind: bytes, answers: int
) -> None:
    async with wire() as one:
        one.protocol.data_received(WAIT + behind)
        came = b""
        while came.count(b"by uvicorn") < answers:
            came += await one.read_to(b"by uvicorn")
        assert one.asked_at == [7.0, None][:answers]


@pytest.mark.parametrize("cut", range(1, len(WAIT), 7))
async def test_a_read_in_two_pieces_waits_like_a_whole_one(cut: int) -> None:
    async with wire() as one:
        one.protocol.data_received(WAIT[:cut])
        assert not one.waits
        one.protocol.data_received(WAIT[cut:])
        one.waits[QUERY].respond(PlainTextResponse("page"))
        assert (await one.read()).endswith(b"page")


async def test_who_leaves_is_forgotten_and_never_answered() -> None:
    async with wire() as one:
        one.protocol.data_received(WAIT)
        one.caller.close()
        await one.ends()
        waiter = one.waits[QUERY]
        assert waiter.is_forgotten
        waiter.respond(PlainTextResponse("nobody reads it"))
        waiter.end()
        assert not one.asked_at


# -- A real sidecar --------------------------------------------------------------------


def ask(sidecar: SidecarProcess, query: str, way: str = "keep-alive") -> bytes:
    """Give what a client is answered, byte for byte."""
    request = (
        f"GET /v1/events?{query} HTTP/1.1\r\nHost: localhost\r\n"
        f"User-Agent: hermes-client-ldap\r\nConnection: {way}\r\n\r\n"
    )
    with socket.socket(socket.AF_UNIX) as plain:
        plain.settimeout(20)
        plain.connect(str(sidecar.socket))
        plain.sendall(request.encode())
        answer = b""
        while not answer.endswith(b"}"):
            piece = plain.recv(65_536)
            assert piece, answer
            answer += piece
        return answer.replace(b"connection: close\r\n", b"")


def query_of(offset: int, wait: str = "20.000") -> str:
    return f"offset={offset}&limit=100&max_bytes=262144&wait={wait}"


def waiting(sidecar: SidecarProcess, count: int) -> None:
    with sidecar.client() as http:
        line = f"readers_waiting {count}.0"
        wait_until(lambda: line in http.get("/metrics").text, 10, line)


def test_a_page_is_the_same_whichever_way_it_goes(quiet: SidecarProcess) -> None:
    with quiet.client() as http, ThreadPoolExecutor(2) as pool:
        last = post(http, event()).json()["offset"]
        ways = [
            pool.submit(ask, quiet, query_of(last + 1), way)
            for way in ("keep-alive", "close")
        ]
        waiting(quiet, 2)
        post(http, event())
        direct, by_uvicorn = (way.result() for way in ways)
    assert direct == by_uvicorn
    page = json.loads(direct.partition(b"\r\n\r\n")[2])
    assert [row["offset"] for row in page["events"]] == [last + 1]


def test_nothing_comes_within_the_time_that_a_client_waits(
    quiet: SidecarProcess,
) -> None:
    with quiet.client() as http:
        last = post(http, event()).json()["offset"]
        answer = ask(quiet, query_of(last + 1, "0.300"))
        page = json.loads(answer.partition(b"\r\n\r\n")[2])
        assert page == {
            "events": [],
            "next_offset": last + 1,
            "first_offset": page["first_offset"],
            "last_offset": last,
        }
        (client,) = http.get("/v1/clients").json()["clients"]
        assert (client["name"], client["state"]) == ("hermes-client-ldap", "waiting")


def test_a_client_that_leaves_is_not_counted_any_more(quiet: SidecarProcess) -> None:
    with quiet.client() as http, socket.socket(socket.AF_UNIX) as plain:
        last = last_offset(http)
        plain.connect(str(quiet.socket))
        path = f"/v1/events?{query_of(last + 1)}"
        plain.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        waiting(quiet, 1)
        plain.close()
        waiting(quiet, 0)


def test_who_waits_is_told_that_the_sidecar_stops(
    nats: NatsProcess, tmp_path: Path
) -> None:
    with sidecar_on(nats, tmp_path) as sidecar, ThreadPoolExecutor(1) as pool:
        with sidecar.client() as http:
            last = post(http, event()).json()["offset"]
        answer = pool.submit(ask, sidecar, query_of(last + 1))
        waiting(sidecar, 1)
        sidecar.stop()
        assert b'"code": "stopping"' in answer.result()


def test_an_offset_that_is_gone_or_ahead_is_refused_and_does_not_wait(
    quiet: SidecarProcess,
) -> None:
    with quiet.client() as http:
        last = post(http, event()).json()["offset"]
        first = http.get("/v1/stream").json()["first_offset"]
    ahead = b'"code": "offset_ahead"'  # once it is sure that nothing stands there
    wait_until(lambda: ahead in ask(quiet, query_of(last + 2)), 20, "offset_ahead")
    assert b'"code": "offset_gone"' in ask(quiet, query_of(first - 1))


def test_a_page_too_large_to_share_is_whole(quiet: SidecarProcess) -> None:
    with quiet.client() as http, ThreadPoolExecutor(1) as pool:
        last = post(http, event()).json()["offset"]
        answer = pool.submit(ask, quiet, query_of(last + 1))
        waiting(quiet, 1)
        post(http, event(objattrs={"photo": "p" * 100_000}))
        page = json.loads(answer.result().partition(b"\r\n\r\n")[2])
    assert [row["offset"] for row in page["events"]] == [last + 1]
    assert len(page["events"][0]["data"]) > 100_000
