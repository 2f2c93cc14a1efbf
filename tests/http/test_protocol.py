# SPDX-License-Identifier: Apache-2.0
"""One connection can neither fill the memory nor starve the others."""

from __future__ import annotations

import asyncio
import inspect
import re
import select
import socket
import uuid
from contextlib import ExitStack, closing
from http.client import HTTPConnection
from typing import TYPE_CHECKING, Any

import pytest
from fuzz.crowd import GROWTH_KIB, tls_files, watch
from httptools import HttpRequestParser
from support.process import memory_kib
from support.sidecar import last_offset, post, sidecar_on
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from sidecar.http.protocol import BoundedProtocol
from sidecar.http.strangers import (
    _SERVED_AT_ONCE,
    HANDSHAKE_SECONDS,
    MAX_HANDSHAKES,
    MAX_STRANGERS,
    Turns,
)

if TYPE_CHECKING:
    from pathlib import Path

    import httpx
    from support.nats import NatsProcess
    from support.sidecar import SidecarProcess

GOOD_HEAD = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n"


def test_what_we_widen_is_there_in_the_libraries() -> None:
    ours = inspect.getsource(BoundedProtocol)
    widened = re.findall(r"super\(\)\.(\w+)\(", ours)
    assert "_start_asgi_task" in widened
    assert [name for name in widened if not hasattr(HttpToolsProtocol, name)] == []
    told = re.findall(r"self\.parser\.(\w+)\(", ours)
    assert [name for name in told if not hasattr(HttpRequestParser, name)] == []


def connect(sidecar: SidecarProcess) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", sidecar.tcp_port))
    connection.settimeout(10)
    return connection


def send_until_closed(connection: socket.socket, piece: bytes, pieces: int) -> int:
    """Send pieces until the peer closes; give how many left."""
    for number in range(pieces):
        try:
            connection.sendall(piece)
        except OSError:
            return number
    return pieces


@pytest.mark.parametrize(
    "start",
    [GOOD_HEAD + b"A: ", GOOD_HEAD + b"A", b"GET /"],
    ids=["header value", "header name", "url"],
)
def test_headers_without_end_are_refused(
    start: bytes, sidecar: SidecarProcess, http: httpx.Client
) -> None:
    with connect(sidecar) as connection:
        connection.sendall(start)
        assert send_until_closed(connection, b"x" * 1024, 100_000) < 100_000
    assert post(http).status_code == 201


CHUNKED = GOOD_HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
MIB = 2**20


@pytest.mark.parametrize(
    ("start", "piece"),
    [
        (CHUNKED + b"0\r\n", b"a:\r\n" * 256),
        (CHUNKED + b"0\r\nA: ", b"x" * 1024),
        (CHUNKED + b"5;", b"x" * 1024),
        (CHUNKED, b"1\r\nx\r\n" * 200),
        (GOOD_HEAD, b"a:\r\n" * 256),
        (b"", (GOOD_HEAD + b"\r\n") * 20),
    ],
    ids=["trailers", "trailer", "extension", "chunks", "headers", "pipeline"],
)
def test_what_has_no_end_is_cut_before_it_fills_the_memory(
    start: bytes, piece: bytes, sidecar: SidecarProcess, http: httpx.Client
) -> None:
    before_kib = memory_kib(sidecar.running.pid)
    with connect(sidecar) as connection:
        connection.sendall(start)
        pieces = 16 * MIB // len(piece)
        assert send_until_closed(connection, piece, pieces) < pieces
    assert memory_kib(sidecar.running.pid) - before_kib < 4 * 1024
    assert post(http).status_code == 201


def test_a_body_of_who_may_not_is_not_kept(
    sidecar: SidecarProcess, http: httpx.Client
) -> None:
    before_kib = memory_kib(sidecar.running.pid)
    with ExitStack() as stack:
        for _ in range(100):
            connection = stack.enter_context(connect(sidecar))
            connection.sendall(
                b"POST /v1/events HTTP/1.1\r\nHost: localhost\r\n"
                b"Content-Length: 9999999\r\n\r\n" + b"x" * 200_000
            )
            assert connection.recv(100).startswith(b"HTTP/1.1 403")
        assert memory_kib(sidecar.running.pid) - before_kib < 8 * 1024
        assert post(http).status_code == 201


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
def test_a_probe_gets_in_beside_thousands_of_every_kind(
    tls: bool, nats: NatsProcess, tmp_path: Path
) -> None:
    """The short form of `make crowd`."""
    settings: dict[str, Any] = {"token_file": tmp_path / "token"}
    (tmp_path / "token").write_text("a-token-of-nobody-here")
    if tls:
        files = tls_files(tmp_path)
        settings |= {"tls_cert_file": files[0], "tls_key_file": files[1]}
    with sidecar_on(nats, tmp_path, log_level="info", **settings) as sidecar:
        seen = watch(sidecar, 5, tls=tls)
    assert seen.grown_kib < GROWTH_KIB, seen
    assert not seen.failures, seen


HALF_A_HANDSHAKE = b"\x16\x03\x01\x02\x00\x01"


def test_half_a_handshake_counts_as_a_connection(
    nats: NatsProcess, tmp_path: Path
) -> None:
    files = tls_files(tmp_path)
    with (
        sidecar_on(
            nats, tmp_path, tls_cert_file=files[0], tls_key_file=files[1]
        ) as sidecar,
        ExitStack() as stack,
    ):
        crowd = []
        for _ in range(MAX_HANDSHAKES + 1):
            crowd.append(stack.enter_context(connect(sidecar)))
            crowd[-1].sendall(HALF_A_HANDSHAKE)
        # The oldest gives way; of a crowd the newest may be opened first.
        ended, _, _ = select.select(crowd, [], [], HANDSHAKE_SECONDS / 2)
        assert [each.recv(1) for each in ended] == [b""]


def test_who_is_known_stays_however_many_strangers_come(
    nats: NatsProcess, tmp_path: Path
) -> None:
    with (
        sidecar_on(nats, tmp_path, tcp_api="open") as sidecar,
        closing(HTTPConnection("127.0.0.1", sidecar.tcp_port, timeout=10)) as known,
        ExitStack() as stack,
    ):
        for crowd in (2 * MAX_STRANGERS, 0):
            known.request("GET", "/v1/stream")
            address = known.sock.getsockname()
            with known.getresponse() as answer:
                assert answer.status == 200
                answer.read()
            for _ in range(crowd):
                stack.enter_context(connect(sidecar))
        assert known.sock.getsockname() == address


EVENT = b'{"evcategory": "base"}'
CHUNKS = b"16\r\n" + EVENT + b"\r\n0\r\n\r\n"
LENGTH = b"Content-Length: %d\r\n" % len(EVENT)


def answer_to(sidecar: SidecarProcess, head: bytes) -> bytes:
    """Post over the socket, where what is in good form is stored."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(sidecar.socket))
        connection.sendall(
            b"POST /v1/events HTTP/1.1\r\nHost: localhost\r\n"
            b"Idempotency-Key: %s\r\nIf-Match: *\r\n"
            b"Content-Type: application/json\r\n" % uuid.uuid4().hex.encode() + head
        )
        return connection.recv(4096)


@pytest.mark.parametrize(
    "head",
    [
        LENGTH + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKS,
        b"Transfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n" + CHUNKS,
        b"Content-Length: -1\r\n\r\n" + EVENT,
        b"Content-Length: 22, 23\r\n\r\n" + EVENT,
        LENGTH + b"Content-Length: 23\r\n\r\n" + EVENT,
    ],
    ids=["both", "bad chunk", "negative", "list", "twice"],
)
def test_a_smuggling_shape_is_refused_and_nothing_is_stored(
    head: bytes, sidecar: SidecarProcess, http: httpx.Client
) -> None:
    chunked = b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKS
    for good in (LENGTH + b"\r\n" + EVENT, chunked):
        assert answer_to(sidecar, good).startswith(b"HTTP/1.1 201")
    before = last_offset(http)
    answer = answer_to(sidecar, head)
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"malformed_json" not in answer  # it was not read at all
    assert last_offset(http) == before
    assert post(http).status_code == 201


def test_a_thousand_idle_and_half_open_connections_do_not_stop_a_publish(
    sidecar: SidecarProcess, http: httpx.Client
) -> None:
    with ExitStack() as stack:
        for number in range(1000):
            connection = stack.enter_context(connect(sidecar))
            if number % 2:
                connection.sendall(GOOD_HEAD)
            if number % 4 == 1:
                connection.shutdown(socket.SHUT_WR)
        assert post(http).status_code == 201
        assert http.get("/health").status_code == 200


async def test_a_first_request_comes_before_all_others_and_the_newest_first() -> None:
    turns, served = Turns(), []

    async def ask(name: str, *, is_first: bool) -> None:
        await turns.ask(is_first=is_first)
        served.append(name)

    crowd = [f"later {number}" for number in range(20)]
    tasks = [asyncio.create_task(ask(name, is_first=False)) for name in crowd]
    tasks += [asyncio.create_task(ask(name, is_first=True)) for name in ("old", "new")]
    await asyncio.gather(*tasks)
    assert served == [
        *crowd[:_SERVED_AT_ONCE],
        "new",
        "old",
        *crowd[_SERVED_AT_ONCE:],
    ]


async def test_who_leaves_holds_no_turn() -> None:
    turns = Turns()
    for _ in range(_SERVED_AT_ONCE):
        await turns.ask(is_first=True)
    left = [turns.ask(is_first=number % 2 == 0) for number in range(1_000)]
    for turn in left:
        turn.set_result(None)
    stays = turns.ask(is_first=False)
    await asyncio.sleep(0)
    assert (list(turns._first), list(turns._later)) == ([], [])
    assert stays.done()
