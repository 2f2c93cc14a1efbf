# SPDX-License-Identifier: Apache-2.0
"""Whoever else answers at a plugin's url: it neither hangs Hermes, nor fills it."""

from __future__ import annotations

import gzip
import json
import resource
import socket
import sys
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from support.fake_sidecar import Clock, FakeSidecar, Reply, stands, timed
from support.hermes import load_plugin, new_event

from sidecar import errors
from sidecar.errors import Cause

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

FAMILIES = ["messagebus_producers", "messagebus_consumers"]
TIMEOUT_SECONDS = 0.25
MOST_BYTES = 110 * 2**20
"""The largest page, and what is on its way."""

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


class Way(NamedTuple):
    """What somebody writes at first, and then for ever."""

    start: bytes
    then: bytes = b""
    pause_seconds: float = 0.0


WAYS = {
    "silent": Way(b""),
    "dripping status": Way(b"HTTP/1.1 200", b"0", 0.1),
    "dripping head": Way(OK + b"a: ", b"x", 0.1),
    "dripping body": Way(OK + b"Content-Length: 100000\r\n\r\n", b"x", 0.1),
    "dripping page": Way(OK + b"Content-Length: 100000\r\n\r\n  {", b"x", 0.1),
    "dripping chunks": Way(CHUNKED, b"1\r\nx\r\n", 0.1),
    "dripping trailer": Way(CHUNKED + b"0\r\na: ", b"x", 0.1),
    "endless head": Way(OK + b"a: ", b"x" * 4096),
    "endless headers": Way(OK, b"a: b\r\n" * 1000),
    "endless 100 Continue": Way(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
    "dripping 100 Continue": Way(b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.1),
    "endless body": Way(OK + b"\r\n", b"x" * 2**20),
    "endless chunks": Way(CHUNKED, b"100000\r\n" + b"x" * 2**20 + b"\r\n"),
    "endless small chunks": Way(CHUNKED, b"1\r\nx\r\n" * 10_000),
    "endless chunk": Way(CHUNKED + b"f" * 21 + b"\r\n", b"x" * 2**20),
    "endless extension": Way(CHUNKED + b"5;", b"x" * 65_536),
    "negative chunk": Way(CHUNKED + b"-5\r\nhello\r\n", b"0\r\n\r\n", 0.1),
    "endless trailers": Way(CHUNKED + b"0\r\n", b"a: b\r\n" * 1000),
    "endless length": Way(OK + b"Content-Length: 1" + b"0" * 20 + b"\r\n\r\n", b"x"),
    "long length": Way(OK + b"Content-Length: 1" + b"0" * 12 + b"\r\n\r\n", b"x"),
    "length of many digits": Way(
        OK + b"Content-Length: " + b"9" * 6000 + b"\r\n\r\n", b"x", 0.1
    ),
    "status of many digits": Way(b"HTTP/1.1 " + b"2" * 1000 + b" OK\r\n\r\n"),
}
"""Each answers nothing."""

DOCUMENTS = {
    "deep list": "[" * 200_000,
    "deep object": '{"offset":' * 100_000,
    "wide": '{"code":[' + "[]," * 100_000 + "1]}",
    "many digits": '{"offset":' + "9" * 4300 + ',"last_offset":' + "9" * 4300 + "}",
    "beyond 2^53": json.dumps(
        {"offset": 2**53, "last_offset": 2**53, "next_offset": 2**53, "events": []}
    ),
    "below zero": '{"offset":-1,"last_offset":-1,"next_offset":-1,"events":[]}',
    "not ASCII": '{"offset":1,"last_offset":1,"next_offset":1,"events":["é"]}',
    "code of escapes": json.dumps({"code": "\x1b[2Jx", "title": "t", "remedy": "r"}),
    "title of two lines": json.dumps({"code": "x", "title": "t\n2026 CRITICAL forged"}),
    "title of escapes": json.dumps({"code": "x", "title": "\x1b]0;PWN\x07"}),
    "endless title": json.dumps({"code": "x", "title": "t" * 1000}),
    "remedy of a line end": json.dumps({"code": "x", "remedy": "\r"}),
    "turned text": json.dumps({"code": "x", "remedy": "\u202e"}),
}


@contextmanager
def false_sidecar(way: Way) -> Iterator[tuple[str, Callable[[], int]]]:
    """Give its url, and how many bytes it could write."""
    written, stopped = [0], threading.Event()

    def answer(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.recv(65_536)
            connection.sendall(way.start)
            while way.then and not stopped.is_set():
                connection.sendall(way.then)
                written[0] += len(way.then)
                if way.pause_seconds:
                    stopped.wait(way.pause_seconds)
            stopped.wait()

    def accept() -> None:
        with suppress(OSError):
            while True:
                connection, _ = server.accept()
                threading.Thread(target=answer, args=(connection,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}", lambda: written[0]
        stopped.set()
        server.shutdown(socket.SHUT_RDWR)


def requests(http: Any, seconds: float = 20) -> dict[str, Callable[[], Any]]:
    """Give each way of asking."""
    key = {"Idempotency-Key": "k", "If-Match": '"6"'}
    return {
        "stream": lambda: http.ask("/v1/stream", seconds),
        "event": lambda: http.store(b"{}", key, 7, seconds),
        "page": lambda: http.ask_page("/v1/events?offset=7", seconds),
        "seek": lambda: http.ask("/v1/events?offset=7", seconds),
    }


@pytest.mark.parametrize("what", ["stream", "event", "page"])
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_an_answer_has_an_end_in_time_and_in_bytes(
    hermes_home: Path, way: Way, what: str
) -> None:
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with false_sidecar(way) as (url, written):
        http = load_plugin(hermes_home, FAMILIES[0], {"url": url})._http
        started_at = time.monotonic()
        answer = requests(http, TIMEOUT_SECONDS)[what]()
        took_seconds = time.monotonic() - started_at
        http.close()
    assert (answer.outcome, answer.document) == ("unknown", {})
    assert took_seconds < TIMEOUT_SECONDS + 10  # the ways have no end
    assert written() < MOST_BYTES
    after_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert after_kib - before_kib < 2 * MOST_BYTES / 1024


@pytest.mark.parametrize("status", [200, 201, 400, 412, 503])
@pytest.mark.parametrize("text", DOCUMENTS.values(), ids=DOCUMENTS)
def test_a_document_that_no_sidecar_writes_leaves_it_unknown(
    hermes_home: Path, text: str, status: int
) -> None:
    with FakeSidecar(Reply(status, text=text)) as fake:
        http = load_plugin(hermes_home, FAMILIES[0], {"url": fake.url})._http
        for ask in requests(http).values():
            answer = ask()
            assert (answer.status, answer.outcome, answer.document) == (
                502,
                "unknown",
                {},
            )
            assert answer.reason == (
                f"what answers at the plugin's url is no sidecar ({status})"
            )
        http.close()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_who_leads_elsewhere_is_not_followed(hermes_home: Path, status: int) -> None:
    with FakeSidecar(Reply(200, {"last_offset": 6})) as elsewhere:
        there = Reply(status, headers={"Location": f"{elsewhere.url}/v1/stream"})
        with FakeSidecar(there) as fake:
            http = load_plugin(hermes_home, FAMILIES[0], {"url": fake.url})._http
            for ask in requests(http).values():
                assert (ask().status, ask().outcome) == (502, "unknown")
            http.close()
    assert elsewhere.connections == 0


def test_what_is_packed_is_not_unpacked(hermes_home: Path) -> None:
    """A megabyte of gzip may be a gigabyte."""
    packed = gzip.compress(json.dumps({"offset": 7, "last_offset": 7}).encode())
    head = OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed)
    for what in ("stream", "event", "page"):
        with false_sidecar(Way(head + packed)) as (url, _):
            http = load_plugin(hermes_home, FAMILIES[0], {"url": url})._http
            assert requests(http, 5)[what]().outcome == "unknown"
            http.close()


@pytest.mark.parametrize("seconds", ["1000000000", "9" * 400, "-1", "nan", "\xb2"])
@pytest.mark.parametrize("family", FAMILIES)
def test_nobody_makes_hermes_pause_for_long_or_not_at_all(
    hermes_home: Path, family: str, seconds: str
) -> None:
    full = errors.Problem(errors.STREAM_FULL, errors.Outcome.NOT_STORED).document()
    refused, clock = Reply(503, full, seconds), Clock()
    with FakeSidecar(stands(6)) as fake:
        plugin = load_plugin(hermes_home, family, {"url": fake.url})
        plugin = timed(plugin, clock)
        if family == FAMILIES[0]:
            plugin.open()
            fake.then(refused)
            with pytest.raises(Exception, match="not stored"):
                plugin.send(new_event("base", "added", objtype="Users", objpkey=1))
            assert 10 <= sum(clock.slept) <= 60
            clock.slept.clear()
        fake.then(refused)
        with pytest.raises(Exception, match="No message bus"):
            plugin.open()
        assert 10 <= sum(clock.slept) <= 60
        plugin.close()


def test_a_wide_page_costs_no_more_than_its_bytes(hermes_home: Path) -> None:
    """A list of three bytes takes sixty in memory: these would take 250 MB."""
    wide = '{"last_offset":1,"next_offset":2,"events":[' + "[]," * 4_000_000 + "1]}"
    strings = '{"last_offset":1,"next_offset":2,"events":[' + '"",' * 4_000_000 + "1]}"
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for text in (wide, strings):
        with FakeSidecar(Reply(200, text=text)) as fake:
            http = load_plugin(hermes_home, FAMILIES[1], {"url": fake.url})._http
            assert http.ask_page("/v1/events?offset=1", 20).status == 502
            http.close()
    after_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert after_kib - before_kib < 5 * len(wide) / 1024


def test_a_large_event_is_read_whole(hermes_home: Path) -> None:
    row = {"offset": 1, "data": json.dumps({"objattrs": {"photo": '"' * 2**22}})}
    large = {"events": [row], "next_offset": 2, "last_offset": 1}
    with FakeSidecar(Reply(200, large)) as fake:
        http = load_plugin(hermes_home, FAMILIES[1], {"url": fake.url})._http
        assert http.ask_page("/v1/events?offset=1", 20).document == large
        http.close()


@contextmanager
def slow_link(pause_seconds: float, pieces: int) -> Iterator[str]:
    """Take so many pieces of 64 KiB of an event, then answer that it stands."""

    def take() -> None:
        connection, _ = server.accept()
        with connection, suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
            for _ in range(pieces):
                time.sleep(pause_seconds)
                assert connection.recv(65_536, socket.MSG_WAITALL)
            connection.sendall(b"HTTP/1.1 201 Created\r\ncontent-length: 0\r\n")
            connection.sendall(b'etag: "7"\r\n\r\n')
            connection.recv(1)

    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        server.bind(("127.0.0.1", 0))
        server.listen()
        taking = threading.Thread(target=take, daemon=True)
        taking.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
    taking.join(10)


def test_a_large_event_may_go_slowly_as_long_as_it_goes(hermes_home: Path) -> None:
    with slow_link(0.02, 150) as url:
        http = load_plugin(hermes_home, FAMILIES[0], {"url": url})._http
        started_at = time.monotonic()
        answer = http.store(b"x" * (150 * 65_536), {"If-Match": '"6"'}, 7, 1.5)
        took_seconds = time.monotonic() - started_at
        http.close()
    assert (answer.status, answer.document) == (201, {"offset": 7})
    assert took_seconds > 1.5


def test_a_large_event_of_which_nothing_is_taken_is_unknown_in_time(
    hermes_home: Path,
) -> None:
    with slow_link(2, 1) as url:
        http = load_plugin(hermes_home, FAMILIES[0], {"url": url})._http
        started_at = time.monotonic()
        answer = http.store(b"x" * (150 * 65_536), {"If-Match": '"6"'}, 7, 0.3)
        took_seconds = time.monotonic() - started_at
        http.close()
    assert (answer.status, answer.outcome) == (0, "unknown")
    assert took_seconds < 1.5


def test_white_space_before_a_page_is_a_sign_that_it_comes(
    hermes_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sidecar writes it while NATS is slow; nobody else's answer may begin so."""
    way = Way(CHUNKED, b"1\r\n \r\n", 0.1)
    with false_sidecar(way) as (url, _):
        plugin = load_plugin(hermes_home, FAMILIES[1], {"url": url})
        module = sys.modules[type(plugin._http).__module__]
        monkeypatch.setattr(module, "PAGE_SECONDS", 1.5)
        took = {}
        for what in ("stream", "page", "seek"):
            started_at = time.monotonic()
            assert requests(plugin._http, TIMEOUT_SECONDS)[what]().status == 0
            took[what] = time.monotonic() - started_at
        plugin._http.close()
    assert took["stream"] < 1.4 < took["page"]
    assert took["seek"] > 1.4


def test_a_false_answer_leaves_the_event_in_doubt(hermes_home: Path) -> None:
    odd = Reply(400, text=DOCUMENTS["title of two lines"])
    with FakeSidecar(stands(6)) as fake:
        plugin = load_plugin(hermes_home, FAMILIES[0], {"url": fake.url})
        plugin = timed(plugin, Clock())
        plugin.open()
        fake.then(odd)
        with pytest.raises(Exception, match="not known") as caught:
            plugin.send(new_event("base", "added", objtype="Users", objpkey=1))
        assert "CRITICAL" not in str(caught.value)
        assert plugin._doubts.are_open
        plugin.close()


@pytest.mark.parametrize(
    "link",
    [
        '</v1/events?offset=8 HTTP/1.1\r\n X: y>; rel="next"',
        '<http://evil/>; rel="next"',
        '</v1/stream?>; rel="next"',
        "</v1/events?a=" + "x" * 600 + '>; rel="next"',
        "</v1/events?offset=8>",
    ],
)
def test_only_a_page_of_events_is_asked_ahead(hermes_home: Path, link: str) -> None:
    page = Reply(200, {"events": [], "next_offset": 8, "last_offset": 9})
    page.headers["Link"] = link
    with FakeSidecar(page) as fake:
        http = load_plugin(hermes_home, FAMILIES[1], {"url": fake.url})._http
        assert requests(http)["page"]().status == 200
        assert http._asked_ahead == ""
        http.close()
        assert len(fake.requests) == 1


@pytest.mark.parametrize(
    "cause", [each for each in vars(errors).values() if isinstance(each, Cause)]
)
def test_each_problem_of_the_sidecar_is_one_that_the_plugin_tells(
    hermes_home: Path, cause: Cause
) -> None:
    document = errors.Problem(cause).document()
    with FakeSidecar(Reply(cause.status, document)) as fake:
        http = load_plugin(hermes_home, FAMILIES[0], {"url": fake.url})._http
        answer = http.ask("/v1/stream", 5)
        http.close()
    assert (answer.status, answer.document) == (cause.status, document)
    assert answer.reason == f"{cause.title} {cause.remedy} ({cause.code})"
