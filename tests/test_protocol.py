# SPDX-License-Identifier: Apache-2.0
"""One connection can neither fill the memory nor starve the others."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from parts.sidecar import post

if TYPE_CHECKING:
    import httpx
    from parts.sidecar import SidecarProcess

GOOD_HEAD = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n"


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


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n0\r\n\r\n",
        b"Content-Length: -1\r\n\r\n",
        b"Content-Length: 5, 6\r\n\r\nhello",
        b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    ],
    ids=["both", "bad chunk", "negative", "list", "twice"],
)
def test_a_smuggling_shape_is_refused_and_nothing_is_stored(
    head: bytes, sidecar: SidecarProcess, http: httpx.Client
) -> None:
    before = http.get("/v1/stream").json()["last_offset"]
    with connect(sidecar) as connection:
        connection.sendall(
            b"POST /v1/events HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: application/json\r\n" + head
        )
        answer = connection.recv(4096)
    assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 403"))
    assert http.get("/v1/stream").json()["last_offset"] == before
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
