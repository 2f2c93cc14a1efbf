# SPDX-License-Identifier: Apache-2.0
"""Who has no token gets nothing, however it asks; who has one smuggles nothing."""

from __future__ import annotations

import socket
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

import pytest
from support.process import memory_kib
from support.sidecar import event, last_offset, post, sidecar_on

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import httpx
    from support.nats import NatsProcess
    from support.sidecar import SidecarProcess

TOKEN = "c0rrect-horse"
SECRET = b"battery-staple"
JSON = b"Content-Type: application/json\r\nIf-Match: *\r\nIdempotency-Key: k\r\n"


@pytest.fixture(scope="module")
def guarded(
    nats: NatsProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SidecarProcess]:
    """Serve the API over TCP for a token, with one event."""
    directory = tmp_path_factory.mktemp("guarded")
    (directory / "token").write_text(TOKEN)
    with sidecar_on(nats, directory, token_file=directory / "token") as process:
        with process.client() as http:
            assert post(http, event(objpkey=SECRET.decode())).status_code == 201
        yield process


@pytest.fixture
def http(guarded: SidecarProcess) -> Iterator[httpx.Client]:
    with guarded.client() as client:
        yield client


def ask(sidecar: SidecarProcess, request: bytes) -> bytes:
    """Write this over TCP and no more; give all that is answered."""
    answer = b""
    with (
        socket.create_connection(("127.0.0.1", sidecar.tcp_port), 10) as one,
        suppress(ConnectionError),  # refused before it was all written
    ):
        one.sendall(request)
        one.shutdown(socket.SHUT_WR)
        while piece := one.recv(65536):
            answer += piece
    return answer


def statuses(answer: bytes) -> list[int]:
    return [int(part[:3]) for part in answer.split(b"HTTP/1.1 ")[1:]]


# -- Paths and methods -----------------------------------------------------------------

TARGETS = [
    *(b"/v1/events", b"/v1/stream", b"/v1/events/", b"/v1/", b"//v1/events"),
    *(b"///v1//events", b"/./v1/events", b"/x/../v1/events", b"/health/../v1/events"),
    *(b"/metrics/../v1/stream", b"/health/..%2fv1/events", b"/%2e%2e/v1/events"),
    *(b"/%2e/v1/events", b"/v1%2fevents", b"/%76%31/events", b"/%2fv1/events"),
    *(b"/v1/%65vents", b"/v1/events%0a", b"/%0av1/events", b"/%0d%0a/v1/events"),
    *(b"/v1/events%00", b"/%00/v1/events", b"/v1/events;x", b"/v1/events%3fa", b"*"),
    *(b"/v1\\events", b"\\v1\\events", b"/V1/EVENTS", b"/v1/events%20", b"v1/events"),
    *(b"/v1/events?offset=first", b"/v1/events#/health", b"/?/v1/events", b"?/v1/x"),
    *(b"http://localhost/v1/events", b"http://localhost:80/health/../v1/events"),
    *(b"http://a@localhost/v1/stream", b"https://[::1]/v1/stream", b"//localhost/v1"),
    *(b"/v1/events\t", b"/v1/events\x0b", b"/\xff/v1/events", b"/%ff/../v1/events"),
]
METHODS = [
    *(b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"TRACE"),
    *(b"CONNECT", b"PROPFIND", b"get"),
]


@pytest.mark.parametrize("method", METHODS)
def test_no_way_of_writing_a_path_leads_past_the_token(
    method: bytes, guarded: SidecarProcess, http: httpx.Client
) -> None:
    before, body = last_offset(http), event()
    for target in TARGETS:
        head = b"%b %b HTTP/1.1\r\nHost: localhost\r\n" % (method, target)
        length = b"Content-Length: %d\r\n\r\n" % len(body)
        for request in (head + b"\r\n", head + JSON + length + body):
            answer = ask(guarded, request)
            found = statuses(answer)
            assert SECRET not in answer
            assert b"next_offset" not in answer
            assert found or not answer, answer
            if b"/v1/" in target[:4] and method in METHODS[:8]:
                assert found[0] in (400, 401), (target, answer)
            is_page = target.startswith((b"/?", b"?"))  # the path is /
            assert is_page or not {200, 201} & set(found), (target, answer)
    assert last_offset(http) == before


# -- Authorisation ---------------------------------------------------------------------

BEARER = b"Authorization: Bearer c0rrect-horse\r\n"
AUTHORISATIONS = {
    "the token": (BEARER, 200),
    "white space around": (b"authorization:   bearer  c0rrect-horse \r\n", 200),
    "none": (b"", 401),
    "empty": (b"Authorization:\r\n", 401),
    "scheme alone": (b"Authorization: Bearer\r\n", 401),
    "scheme and space": (b"Authorization: Bearer \r\n", 401),
    "a prefix": (b"Authorization: Bearer c0rrect-hors\r\n", 401),
    "more": (b"Authorization: Bearer c0rrect-horse1\r\n", 401),
    "upper case": (b"Authorization: Bearer C0RRECT-HORSE\r\n", 401),
    "comma after": (b"Authorization: Bearer c0rrect-horse,\r\n", 401),
    "two in a list": (b"Authorization: Bearer x, Bearer c0rrect-horse\r\n", 401),
    "tab": (b"Authorization: Bearer\tc0rrect-horse\r\n", 401),
    "no scheme": (b"Authorization: c0rrect-horse\r\n", 401),
    "Basic": (b"Authorization: Basic c0rrect-horse\r\n", 401),
    "Token": (b"Authorization: Token c0rrect-horse\r\n", 401),
    "quoted": (b'Authorization: Bearer "c0rrect-horse"\r\n', 401),
    "parameter": (b"Authorization: Bearer token=c0rrect-horse\r\n", 401),
    "not ASCII": (b"Authorization: Bearer c0rrect-horse\xe9\r\n", 401),
    "percent": (b"Authorization: Bearer c0rrect%2dhorse\r\n", 401),
    "no-break space": (b"Authorization: Bearer\xa0c0rrect-horse\r\n", 401),
    "Proxy": (b"Proxy-" + BEARER, 401),
    "forwarded": (b"X-Forwarded-" + BEARER, 401),
    "underscore": (b"Authorization_: Bearer c0rrect-horse\r\n", 401),
    "cookie": (b"Cookie: Authorization=Bearer c0rrect-horse\r\n", 401),
    "wrong, then right": (b"Authorization: Bearer x\r\n" + BEARER, 401),
    "right, then wrong": (BEARER + b"Authorization: Bearer x\r\n", 200),
    "folded": (b"Authorization: Bearer\r\n c0rrect-horse\r\n", 400),
    "space before the colon": (b"Authorization : Bearer c0rrect-horse\r\n", 400),
    "NUL": (b"Authorization: Bearer c0rrect-horse\0\r\n", 400),
    "vertical tab": (b"Authorization: Bearer\x0bc0rrect-horse\r\n", 400),
}


@pytest.mark.parametrize(
    ("fields", "status"), AUTHORISATIONS.values(), ids=AUTHORISATIONS
)
def test_only_a_whole_bearer_token_lets_in(
    fields: bytes, status: int, guarded: SidecarProcess
) -> None:
    for target in (b"/v1/stream", b"/v1/events"):
        head = b"GET %b HTTP/1.1\r\nHost: localhost\r\n%b\r\n" % (target, fields)
        answer = ask(guarded, head)
        assert statuses(answer) == [status], answer


@pytest.mark.parametrize("name", ["token", "access_token", "authorization", "bearer"])
def test_a_token_in_the_query_is_none(name: str, guarded: SidecarProcess) -> None:
    target = f"/v1/stream?{name}={TOKEN}"
    head = f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n"
    assert statuses(ask(guarded, head.encode())) == [401]


def test_whatever_the_token_file_is_nobody_gets_in_by_it(
    guarded: SidecarProcess,
) -> None:
    file: Path = guarded.socket.parent / "token"
    head = b"GET /v1/stream HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer"
    guesses = (b"", b" ", b" c0rrect-horse", b" second", b" c0rrect-horse second")

    def let_in() -> set[int]:
        asked = (ask(guarded, head + guess + b"\r\n\r\n") for guess in guesses)
        return {status for answer in asked for status in statuses(answer)}

    try:
        for content in (b"", b" \n\t", b"c0rrect-horse\nsecond\n", b"c0rrect-horse\0x"):
            file.write_bytes(content)
            assert let_in() == {401}, content
        file.unlink()
        assert let_in() == {401}
        file.mkdir()
        assert let_in() == {401}
        file.rmdir()
        file.write_text("second")
        assert let_in() == {200, 401}
    finally:
        file.write_text(TOKEN)
    assert statuses(ask(guarded, head + b" c0rrect-horse\r\n\r\n")) == [200]


# -- Browsers --------------------------------------------------------------------------


@pytest.mark.parametrize("target", [b"/v1/events", b"/v1/stream", b"/", b"/health"])
def test_a_browser_of_another_origin_is_allowed_nothing(
    target: bytes, guarded: SidecarProcess, http: httpx.Client
) -> None:
    origin = b"Host: localhost\r\nOrigin: https://evil.example\r\n"
    preflight = (
        b"OPTIONS %b HTTP/1.1\r\n%bAccess-Control-Request-Method: POST\r\n"
        b"Access-Control-Request-Headers: authorization\r\n\r\n" % (target, origin)
    )
    simple = b"POST %b HTTP/1.1\r\n%bContent-Type: text/plain\r\n" % (target, origin)
    simple += b"Content-Length: 2\r\n\r\n{}"
    for request in (preflight, simple):
        answer = ask(guarded, request)
        refused = [401] if target.startswith(b"/v1") else [405]
        assert statuses(answer) == refused
        assert b"access-control" not in answer.lower()
    allowed = simple.replace(b"\r\n\r\n", b"\r\n" + BEARER + b"\r\n")
    if target == b"/v1/events":
        assert statuses(ask(guarded, allowed)) == [415]
    headers = http.get(target.decode(), headers={"Origin": "https://evil.example"})
    assert not [name for name in headers.headers if name.startswith("access-control")]


# -- Requests --------------------------------------------------------------------------

HIDDEN = event()
INNER = (
    b"POST /v1/events HTTP/1.1\r\nHost: localhost\r\n%b%bContent-Length: %d\r\n\r\n%b"
    % (BEARER, JSON.replace(b": k", b": hidden"), len(HIDDEN), HIDDEN)
)
CHUNKED = b"Transfer-Encoding: chunked\r\n"
FRAMES = {
    **{
        f"length {text!r}": b"Content-Length: %b\r\n\r\n" % text
        for text in (
            *(b"-1", b"+0", b"0x0", b"0, 0", b"0,5", b"0 0", b"0;", b"1e1", b"0.0"),
            *(b"\xd9\xa0", b"9" * 40, b"18446744073709551616", b"0\x0b", b"0\0", b"a"),
        )
    },
    **{
        f"coding {text!r}": b"Transfer-Encoding: %b\r\n\r\n0\r\n\r\n" % text
        for text in (
            *(b"xchunked", b"chunked, identity", b"gzip", b"chunked;q=1", b'"chunked"'),
            *(
                b"identity, chunkedx",
                b"chunked\0",
                b"\x0bchunked",
                b"chunk",
                b"chunked,x",
            ),
        )
    },
    **{
        f"size {text!r}": CHUNKED + b"\r\n%b\r\nhello\r\n0\r\n\r\n" % text
        for text in (
            *(b"zz", b"-5", b"+5", b"0x5", b"5 5", b"f" * 17, b"", b" 5", b"\xd9\xa5"),
            *(b"5\r", b"5\0", b"_5", b"05g"),
        )
    },
    "both": b"Content-Length: 0\r\n" + CHUNKED + b"\r\n0\r\n\r\n",
    "both, the other order": CHUNKED + b"Content-Length: 5\r\n\r\n0\r\n\r\n",
    "two lengths": b"Content-Length: 0\r\nContent-Length: 5\r\n\r\n",
    "two lengths, one empty": b"Content-Length:\r\nContent-Length: 0\r\n\r\n",
    "two codings": CHUNKED + b"Transfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "space before the colon": b"Content-Length : 0\r\n\r\n",
    "a space first": b" Content-Length: 0\r\n\r\n",
    "a folded length": b"Content-Length:\r\n 0\r\n\r\n",
    "a folded coding": b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "no colon": b"Content-Length 0\r\n\r\n",
    "a bare return": b"X: a\rContent-Length: 0\r\n\r\n",
    "chunk without its end": CHUNKED + b"\r\n5\r\nhelloX0\r\n\r\n",
    "a longer chunk": CHUNKED + b"\r\n4\r\nhello\r\n0\r\n\r\n",
    "a shorter chunk": CHUNKED + b"\r\n6\r\nhello\r\n0\r\n\r\n",
    "a trailer without colon": CHUNKED + b"\r\n0\r\ntrailer\r\n\r\n",
}


@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES)
def test_behind_an_ambiguous_end_nothing_is_served(
    frame: bytes, guarded: SidecarProcess, http: httpx.Client
) -> None:
    """What one parser takes for a body, another could take for a request."""
    before = last_offset(http)
    outer = b"POST /v1/events HTTP/1.1\r\nHost: localhost\r\n" + BEARER + JSON
    answer = ask(guarded, outer + frame + INNER)
    found = statuses(answer)
    assert len(found) < 2
    assert set(found) <= {400}
    assert last_offset(http) == before


@pytest.mark.parametrize(
    "version", [b"HTTP/1.0", b"HTTP/0.9", b"HTTP/2.0", b"HTTP/1.2", b"HTTP/1.1x", b""]
)
def test_another_version_is_refused_or_answered_once(
    version: bytes, guarded: SidecarProcess
) -> None:
    request = b"GET /health/live %b\r\nHost: localhost\r\n\r\n" % version
    assert len(statuses(ask(guarded, request + INNER))) < 2


# -- Bodies ----------------------------------------------------------------------------


def test_half_bodies_of_who_may_take_bounded_memory_and_good_events_go_on(
    guarded: SidecarProcess, http: httpx.Client
) -> None:
    before_kib = memory_kib(guarded.running.pid)
    sizes = [200_000] * 300 + [7_900_000] * 9
    with ExitStack() as stack:
        for size in sizes:
            one = stack.enter_context(socket.socket(socket.AF_UNIX))
            one.connect(str(guarded.socket))
            one.settimeout(10)
            head = b"POST /v1/events HTTP/1.1\r\nHost: a\r\n" + JSON
            with suppress(OSError):  # refused: so much together has no room
                one.sendall(head + b"Content-Length: %d\r\n\r\n" % (size + 1))
                one.sendall(b" " * size)
        assert post(http).status_code == 201
        assert memory_kib(guarded.running.pid) - before_kib < 150 * 1024


def test_an_event_as_large_as_the_limit_is_stored_and_one_byte_more_is_not(
    http: httpx.Client,
) -> None:
    most = 8 * 2**20  # as NATS counts it: with our headers
    near = event(photo="x" * (most - 300))
    headers = post(http, near).json()["size_bytes"] - len(near)
    fits = event(photo="x" * (most - headers - len(event(photo=""))))
    assert post(http, fits + b" ").status_code == 413
    assert post(http, fits).status_code == 201
