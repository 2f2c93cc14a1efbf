# SPDX-License-Identifier: Apache-2.0
"""HTTP beside the plain POST: each request has one answer, a body is a body."""

from __future__ import annotations

import gzip
import socket
import struct
import time
import uuid
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.process import memory_kib, wait_until
from support.sidecar import event, last_offset, post

if TYPE_CHECKING:
    import httpx
    from support.sidecar import SidecarProcess

LIVE = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
UPGRADES = {
    "h2c": b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
    b"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n",
    "websocket": b"Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n",
    "other": b"upgrade: TLS/1.0\r\nconnection: upgrade\r\n",
}
INNER = event(objattrs={"x": "\r\n\r\nGET /v1/stream HTTP/1.1\r\nHost: a\r\n\r\n"})


def head(*fields: bytes, size: int | None = None) -> bytes:
    length = () if size is None else (b"Content-Length: %d\r\n" % size,)
    return b"".join(
        (
            b"POST /v1/events HTTP/1.1\r\nHost: localhost\r\n",
            b"Content-Type: application/json\r\nIf-Match: *\r\n",
            b"Idempotency-Key: %s\r\n" % str(uuid.uuid4()).encode(),
            *length,
            *fields,
            b"\r\n",
        )
    )


def whole(*fields: bytes, body: bytes = INNER) -> bytes:
    return head(*fields, size=len(body)) + body


def chunked(*fields: bytes, body: bytes = INNER) -> bytes:
    pieces = (body[:7], body[7:])
    chunks = b"".join(b"%x;a=b\r\n%s\r\n" % (len(one), one) for one in pieces)
    end = b"0\r\nTrailer: GET / HTTP/1.1\r\n\r\n"
    return head(b"Transfer-Encoding: chunked\r\n", *fields) + chunks + end


def connect(sidecar: SidecarProcess) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(10)
    connection.connect(str(sidecar.socket))
    return connection


def statuses(connection: socket.socket, count: int) -> list[int]:
    """Read until so many answers have come, or the end."""
    data = b""
    while data.count(b"HTTP/1.1 ") < count:
        piece = connection.recv(65536)
        if not piece:
            break
        data += piece
    return [int(part[:3]) for part in data.split(b"HTTP/1.1 ")[1:]]


@pytest.mark.parametrize("upgrade", UPGRADES)
@pytest.mark.parametrize("form", [whole, chunked])
def test_an_event_behind_an_upgrade_is_stored_and_what_follows_is_served(
    upgrade: str, form: object, sidecar: SidecarProcess, http: httpx.Client
) -> None:
    request = (whole if form is whole else chunked)(UPGRADES[upgrade])
    before = last_offset(http)
    with closing(connect(sidecar)) as connection:
        connection.sendall(request + LIVE)
        assert statuses(connection, 2) == [201, 200]
        connection.sendall(whole())
        assert statuses(connection, 1) == [201]
    assert last_offset(http) == before + 2


@pytest.mark.parametrize("upgrade", UPGRADES)
def test_a_get_that_asks_for_another_protocol_is_answered_in_this_one(
    upgrade: str, sidecar: SidecarProcess, http: httpx.Client
) -> None:
    before = last_offset(http)
    get = LIVE.replace(b"\r\n\r\n", b"\r\n" + UPGRADES[upgrade] + b"\r\n")
    with closing(connect(sidecar)) as connection:
        connection.sendall(get + whole() + get)
        assert statuses(connection, 3) == [200, 201, 200]
    assert last_offset(http) == before + 1


@pytest.mark.parametrize("upgrade", UPGRADES)
def test_cut_at_every_byte_the_answers_are_the_same(
    upgrade: str, sidecar: SidecarProcess, http: httpx.Client
) -> None:
    body = event()
    stream = whole(UPGRADES[upgrade], body=body) + LIVE
    before = last_offset(http)
    with closing(connect(sidecar)) as connection:
        for number in range(len(stream)):
            connection.sendall(stream[number : number + 1])
        assert statuses(connection, 2) == [201, 200]
    cuts = range(1, len(stream), 7)
    for cut in cuts:
        with closing(connect(sidecar)) as connection:
            again = whole(UPGRADES[upgrade], body=body) + LIVE
            connection.sendall(again[:cut])
            time.sleep(0.001)  # so that it mostly comes in two pieces
            connection.sendall(again[cut:])
            assert statuses(connection, 2) == [201, 200]
    assert last_offset(http) == before + 1 + len(cuts)


def test_a_tunnel_is_refused_and_nothing_in_it_is_served(
    sidecar: SidecarProcess, http: httpx.Client
) -> None:
    before = last_offset(http)
    with closing(connect(sidecar)) as connection:
        connection.sendall(
            b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n" + whole()
        )
        found = statuses(connection, 2)
        assert len(found) == 1
        assert found[0] >= 400
    assert last_offset(http) == before


def test_who_expects_a_continue_gets_it_and_an_end(
    sidecar: SidecarProcess, http: httpx.Client
) -> None:
    body = event()
    expecting = head(b"Expect: 100-continue\r\n", size=len(body))
    with closing(connect(sidecar)) as connection:
        connection.sendall(expecting)
        assert statuses(connection, 1) == [100]
        connection.sendall(body)
        assert statuses(connection, 2) == [201]  # and the end
    refused = expecting.replace(b"application/json", b"text/plain")
    before = last_offset(http)
    with closing(connect(sidecar)) as connection:
        connection.sendall(refused)
        assert statuses(connection, 1) == [415]
        with suppress(ConnectionError):
            connection.sendall(
                whole()
            )  # in the place of the body that it need not send
            assert statuses(connection, 1) == []
    assert last_offset(http) == before


@pytest.mark.parametrize("coding", ["gzip", "GZIP", "br", "gzip, identity", "x"])
def test_a_content_encoding_is_refused_by_name(coding: str, http: httpx.Client) -> None:
    answer = http.post(
        "/v1/events",
        content=gzip.compress(event()),
        headers={
            "Content-Type": "application/json",
            "Idempotency-Key": "k",
            "If-Match": "*",
            "Content-Encoding": coding,
        },
    )
    assert answer.status_code == 415
    assert "Content-Encoding" in answer.json()["title"]


@pytest.mark.parametrize(
    "path", ["/health", "/health/live", "/health/ready", "/metrics", "/", "/v1/stream"]
)
def test_head_is_get_without_a_body(path: str, http: httpx.Client) -> None:
    get, answer = http.get(path), http.head(path)
    assert answer.status_code == get.status_code == 200
    assert answer.content == b""
    assert answer.headers["content-type"] == get.headers["content-type"]


def test_allow_lists_each_method(http: httpx.Client) -> None:
    assert http.put("/v1/events").headers["allow"] == "GET, HEAD, POST"
    assert http.delete("/health").headers["allow"] == "GET, HEAD"
    assert "allow" not in http.get("/nowhere").headers


@pytest.mark.parametrize("tcp", [False, True])
@pytest.mark.parametrize("count", [1, 2])
def test_who_ends_its_own_half_gets_its_answers(
    tcp: bool, count: int, sidecar: SidecarProcess
) -> None:
    connection = (
        socket.create_connection(("127.0.0.1", sidecar.tcp_port), 10)
        if tcp
        else connect(sidecar)
    )
    requests = [LIVE if tcp else whole() for _ in range(count)]
    with closing(connection):
        connection.sendall(b"".join(requests))
        connection.shutdown(socket.SHUT_WR)
        assert statuses(connection, count + 1) == [200 if tcp else 201] * count


def test_half_a_request_and_an_end_is_none(
    sidecar: SidecarProcess, http: httpx.Client
) -> None:
    before = last_offset(http)
    with closing(connect(sidecar)) as connection:
        connection.sendall(whole()[:-1])
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(10) == b""
    assert last_offset(http) == before


def test_a_reset_leaves_nothing_behind(sidecar: SidecarProcess) -> None:
    def reset(times: int) -> None:
        for _ in range(times):
            one = socket.create_connection(("127.0.0.1", sidecar.tcp_port), 10)
            one.sendall(LIVE)
            assert statuses(one, 1) == [200]
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            one.close()

    reset(500)
    before_kib = memory_kib(sidecar.running.pid)
    reset(1000)
    assert memory_kib(sidecar.running.pid) - before_kib < 4000


def test_connections_over_tcp_are_kept_alive_by_the_kernel(
    sidecar: SidecarProcess,
) -> None:
    with socket.create_connection(("127.0.0.1", sidecar.tcp_port), 10) as one:
        one.sendall(LIVE)
        assert statuses(one, 1) == [200]
        local = one.getsockname()[1]
        table = Path("/proc/net/tcp").read_text("ascii").splitlines()[1:]
        rows = [row.split() for row in table]  # timer 02: keepalive
        ends = f":{sidecar.tcp_port:04X}", f":{local:04X}"
        mine = [row for row in rows if tuple(each[-5:] for each in row[1:3]) == ends]
        assert [row[5].partition(":")[0] for row in mine] == ["02"]


def test_a_caller_that_left_holds_no_wait(
    sidecar: SidecarProcess, http: httpx.Client
) -> None:
    post(http)
    with closing(connect(sidecar)) as connection:
        connection.sendall(
            b"GET /v1/events?offset=next&wait=20 HTTP/1.1\r\nHost: a\r\n\r\n"
        )
        wait_until(lambda: "readers_waiting 1" in http.get("/metrics").text)
    wait_until(lambda: "readers_waiting 0" in http.get("/metrics").text, 5)
