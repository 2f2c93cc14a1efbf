# SPDX-License-Identifier: Apache-2.0
"""Whatever NATS says, the daemon lives; and what was not asked is no reply."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from contextlib import suppress
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any, Self

import pytest
from support.odd import Reply, acknowledgement, odd
from support.sidecar import event

from sidecar import errors
from sidecar.jetstream import connection as jetstream
from sidecar.jetstream.api_replies import Batch, read_message
from sidecar.jetstream.client import NatsClient
from sidecar.jetstream.connection import Connection
from sidecar.jetstream.credentials import NatsServer
from sidecar.jetstream.requests import Requests
from sidecar.jetstream.supervisor import StreamSupervisor
from sidecar.model.event import parse_event
from sidecar.model.publish_reply import Acknowledged, StoredMessage, TooLarge, Undecided
from sidecar.model.stream import StreamPlan

if TYPE_CHECKING:
    from collections.abc import Callable

PLAN = StreamPlan("hermes", "hermes", 1, 0)
GREETING = {
    "server_id": "odd",
    "version": "2.15.1",
    "headers": True,
    "max_payload": 1_000_000,
}
STATE = {"messages": 1, "bytes": 9, "first_seq": 1, "last_seq": 1}
INFO = {
    "type": "io.nats.jetstream.api.v1.stream_info_response",
    "created": "2026-01-01T00:00:00Z",
    "config": PLAN.config(1),
    "state": STATE,
}


class OddNats:
    """Greets, and answers each request with one text, or with bytes of its own."""

    def __init__(
        self,
        greeting: bytes,
        answer: bytes | None = None,
        then: bytes = b"",
        at_event: bytes = b"",
    ) -> None:
        self._greeting, self._answer, self._then = greeting, answer, then
        self._at_event = at_event
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.connections = self.events = 0
        self.url = f"nats://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                taken, _ = self._listener.accept()
                self.connections += 1
                threading.Thread(target=self._greet, args=(taken,), daemon=True).start()

    def _greet(self, taken: socket.socket) -> None:
        with taken, suppress(OSError), taken.makefile("rb") as lines:
            taken.sendall(self._greeting)
            for line in lines:
                words = line.split()
                if line.startswith(b"PING"):
                    taken.sendall(b"PONG\r\n")
                elif line.startswith(b"HPUB"):
                    self.events += 1
                    taken.sendall(self._at_event)
                    return
                elif line.startswith(b"SUB"):
                    taken.sendall(self._then)
                elif line.startswith(b"PUB") and self._answer is not None:
                    head = b"MSG %s 1 %d\r\n" % (words[2], len(self._answer))
                    taken.sendall(head + self._answer + b"\r\n")


def greeting(**members: object) -> bytes:
    return b"INFO %s\r\n" % json.dumps(GREETING | members).encode()


def info(**members: object) -> bytes:
    return json.dumps(INFO | members).encode()


ODD = {
    "INFO is a list": (b"INFO [1]\r\n", None, b""),
    "INFO is a text": (b'INFO "x"\r\n', None, b""),
    "INFO is no JSON": (b"INFO {nope}\r\n", None, b""),
    "max_payload is a text": (greeting(max_payload="x"), info(), b""),
    "version has 5,000 digits": (greeting(version="9" * 5000), info(), b""),
    "answer is no JSON": (greeting(), b"nope", b""),
    "answer is empty": (greeting(), b"", b""),
    "answer is a list": (greeting(), b"[]", b""),
    "answer is deep": (greeting(), b"[" * 100_000, b""),
    "answer has a number of 5,000 digits": (greeting(), b"9" * 5000, b""),
    "answer has no type": (greeting(), info(type=None), b""),
    "error is a text": (greeting(), info(error="x"), b""),
    "last_seq is a text": (greeting(), info(state=STATE | {"last_seq": "9"}), b""),
    "subjects are a number": (
        greeting(),
        info(config=PLAN.config(1) | {"subjects": 5}),
        b"",
    ),
    "max_msg_size is a text": (
        greeting(),
        info(config=PLAN.config(1) | {"max_msg_size": "5"}),
        b"",
    ),
    "last_seq is below 0": (greeting(), info(state=STATE | {"last_seq": -1}), b""),
    "created is a list": (greeting(), info(created=["x"]), b""),
    "another stream": (greeting(), info(config=PLAN.config(1) | {"name": "x"}), b""),
    "cluster is a list": (greeting(), info(cluster=[1]), b""),
    "size has 5,000 digits": (greeting(), info(), b"MSG x 1 %b\r\n" % (b"9" * 5000)),
    "size of a terabyte": (greeting(), info(), b"MSG x 1 999999999999\r\n"),
    "size of a gigabyte": (greeting(), info(), b"MSG x 1 999999999\r\n"),
    "a later INFO is no JSON": (greeting(), info(), b"INFO {nope}\r\n"),
    "a later INFO is a list": (greeting(), info(), b"INFO [1]\r\n"),
    "an error is not UTF-8": (greeting(), info(), b"-ERR '\xff'\r\n"),
    "an error without a text": (greeting(), info(), b"-ERR \r\n"),
    "a later limit is a text": (
        greeting(),
        info(),
        b'INFO {"max_payload":"x"}\r\n-ERR\r\n',
    ),
    "a later limit is below 0": (
        greeting(),
        info(),
        b'INFO {"max_payload":-1}\r\n-ERR\r\n',
    ),
    "HTTP": (b"HTTP/1.1 400 Bad Request\r\n\r\n", None, b""),
    "SSH": (b"SSH-2.0-OpenSSH_9.2p1\r\n", None, b""),
    "TLS": (b"\x15\x03\x01\x00\x02\x02\x46", None, b""),
    "an error in the place of INFO": (b"-ERR 'no'\r\n", None, b""),
    "garbage": (greeting(), info(), b"\0\1garbage\r\n"),
}


@pytest.mark.parametrize("name", ODD)
async def test_what_nats_says_does_not_end_the_bus(name: str) -> None:
    with OddNats(*ODD[name]) as odd:
        bus = StreamSupervisor("test", NatsServer((odd.url,)), PLAN)
        running = asyncio.create_task(bus.run())
        ends_at = asyncio.get_running_loop().time() + 10
        while odd.connections < 2 and bus.monitor.cause is not errors.SERVER_TOO_OLD:
            await asyncio.wait({running}, timeout=0.01)
            assert not running.done()
            assert asyncio.get_running_loop().time() < ends_at, "it was believed"
        running.cancel()
        await asyncio.wait({running})


@pytest.mark.parametrize("at_event", [b"", b"-ERR 'Odd'\r\n"])
async def test_who_ends_the_connection_at_each_event_is_not_asked_without_a_pause(
    at_event: bytes,
) -> None:
    event = parse_event(b'{"evcategory": "base"}')
    with OddNats(greeting(), info(), at_event=at_event) as odd:
        bus = StreamSupervisor("writes", NatsServer((odd.url,)), PLAN)
        running = asyncio.create_task(bus.run())
        with suppress(TimeoutError):
            async with asyncio.timeout(7):
                while True:
                    connection = await bus.wait()
                    await connection.publish(event, "k", 1, 1.0)
                    await asyncio.sleep(0)
        assert 2 < odd.connections < 12  # and fewer each minute
        running.cancel()
        await asyncio.wait({running})


@pytest.mark.parametrize(
    ("holds_seconds", "sent"), [(60.0, [1, 1, 2, 2, 2]), (0.0, [1, 2, 3, 4, 5])]
)
async def test_a_limit_that_no_server_tells_ends_few_connections(
    holds_seconds: float, sent: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jetstream, "LIMIT_HOLDS_SECONDS", holds_seconds)
    small, large = (
        parse_event(b'{"evcategory": "base"%s}' % (b" " * spaces)) for spaces in (0, 9)
    )
    over = b"-ERR 'Maximum Payload Violation'\r\n"
    with OddNats(greeting(), info(), at_event=over) as odd:
        bus = StreamSupervisor("writes", NatsServer((odd.url,)), PLAN)
        running = asyncio.create_task(bus.run())
        for event, count in zip((large, large, small, small, large), sent, strict=True):
            async with asyncio.timeout(10):
                connection = await bus.wait()
                answer = await connection.publish(event, "k", 1, 1.0)
            assert isinstance(answer, TooLarge)
            assert odd.events == count
            bus.drop(connection)
        running.cancel()
        await asyncio.wait({running})


async def test_what_we_cannot_read_is_internal_and_passes_by_for_callers() -> None:
    with OddNats(greeting(), b"[]") as odd:
        bus = StreamSupervisor("test", NatsServer((odd.url,)), PLAN)
        running = asyncio.create_task(bus.run())
        async with asyncio.timeout(10):
            while bus.monitor.cause is not errors.INTERNAL:
                await asyncio.wait({running}, timeout=0.01)
        with pytest.raises(errors.Problem) as caught:
            bus.connection()
        assert caught.value.cause is errors.JETSTREAM_UNAVAILABLE
        running.cancel()
        await asyncio.wait({running})


@pytest.mark.parametrize("urls", [5, ["a:99999999"], ["[::1"], ["10.1.2.3:4222"]])
async def test_gossip_is_not_heard(urls: Any) -> None:
    with OddNats(greeting(connect_urls=urls), info()) as odd:
        bus = StreamSupervisor("test", NatsServer((odd.url,)), PLAN)
        running = asyncio.create_task(bus.run())
        async with asyncio.timeout(10):
            connection = await bus.wait()
        assert [srv.uri.netloc for srv in connection._client._server_pool] == [
            odd.url.removeprefix("nats://")
        ]
        running.cancel()
        await asyncio.wait({running})


def test_nobody_knows_the_token_of_a_reply_before() -> None:
    requests = Requests()
    tokens = [requests._token() for _ in range(1000)]
    secrets = {token.partition("_")[2] for token in tokens}
    assert len(secrets) == 1000
    assert {len(secret) for secret in secrets} == {32}


BLOCK = b"NATS/1.0\r\nNats-Stream: hermes\r\nNats-Sequence: 8\r\n\r\n"


@pytest.mark.parametrize(
    ("block", "is_believed"),
    [(b"", True), (b"NATS/1.0 503\r\n\r\n", True), (BLOCK, False)],
)
async def test_a_reply_with_headers_is_none(block: bytes, is_believed: bool) -> None:
    """Else the server's own answer to a direct get is taken for an acknowledgement."""
    connection = Connection(PLAN, "test")
    told: list[object] = []
    connection._client.send = lambda *_: None  # type: ignore[method-assign]
    connection.requests.ask("hermes.base", b"", b"", 10, told.append)
    (token,) = connection.requests._waiting
    connection.requests.on_message(
        f"_INBOX.{token}", block, b'{"stream":"hermes","seq":8}'
    )
    assert bool(told) is is_believed
    await connection.close()


@pytest.mark.parametrize("seed", range(200))
async def test_no_odd_reply_is_an_acknowledgement_or_a_refusal(seed: int) -> None:
    """Those of the simulation and of the chaos runs."""
    last = 7
    stored_last = Reply(b"", acknowledgement("hermes", last))
    rng = Random(seed)  # noqa: S311 - to be repeatable
    block, data = odd(stored_last, "hermes", last, rng)
    connection = Connection(PLAN, "test")
    told: list[Any] = []
    connection._client.send = lambda *_: None  # type: ignore[method-assign]
    connection.is_replicated = False  # a refusal would be definite
    sent = parse_event(event())
    connection._client._max_payload = 1_000_000
    connection.send(sent, "key", last, 10, told.append)
    (token,) = connection.requests._waiting
    connection.requests.on_message(f"_INBOX.{token}", block, data)
    for answer in told:
        match answer:
            case Acknowledged(sequence):
                assert sequence != last + 1
            case _:
                assert isinstance(answer, Undecided)
    await connection.close()


def message(sequence: int, subject: str = "hermes.base") -> StoredMessage:
    return StoredMessage(sequence, subject, None, "", b"x" * 10)


@pytest.mark.parametrize(
    ("came", "then", "is_asked"),
    [
        ([], message(5), True),
        ([message(5)], message(6), True),
        ([], message(5, "hermes.other"), False),
        ([message(5), message(6)], message(7), False),
    ],
)
def test_a_batch_holds_what_was_asked(
    came: list[StoredMessage], then: StoredMessage, is_asked: bool
) -> None:
    batch = Batch("hermes", 2, 100, "hermes.base", messages=came)
    assert batch.admits(then) is is_asked
    batch = Batch("hermes", 2, 9, "")
    assert not batch.admits(then), "more bytes than were asked"


def stored(
    sequence: Any, subject: Any = "hermes.base", **more: object
) -> dict[str, Any]:
    message = {"seq": sequence, "subject": subject, "time": ""}
    return {"message": message | more}


@pytest.mark.parametrize(
    ("request_", "document", "is_asked"),
    [
        ({"seq": 5}, stored(5), True),
        ({"seq": 5}, stored(6), False),
        ({"seq": 5, "next_by_subj": ">"}, stored(6), True),
        ({"seq": 5, "next_by_subj": ">"}, stored(4), False),
        ({"seq": 5, "next_by_subj": "hermes.base"}, stored(6), True),
        ({"seq": 5, "next_by_subj": "hermes.base"}, stored(6, "hermes.x"), False),
        ({"last_by_subj": "hermes.base"}, stored(6), True),
        ({"last_by_subj": "hermes.base"}, stored(6, "hermes.x"), False),
        ({"seq": 5}, stored("5"), False),
        ({"start_time": "t"}, stored(-1), False),
        ({"start_time": "t"}, stored(2**64), False),
        ({"seq": 5}, stored(5, ["x"]), False),  # else the page shows "['x']"
        ({"seq": 5}, stored(5, time=7), False),
        ({"seq": 5}, stored(5, data=None), False),
        ({"seq": 5}, stored(5, data="@@@@"), False),
        ({"seq": 5}, stored(5, hdrs="@@@@"), False),
        ({"start_time": "t"}, stored(9), True),
    ],
)
def test_a_message_is_the_one_that_was_asked(
    request_: dict[str, Any], document: dict[str, Any], is_asked: bool
) -> None:
    read: Callable[[], StoredMessage] = partial(read_message, request_, document)
    if is_asked:
        assert read().subject == document["message"]["subject"]
    else:
        with pytest.raises(ValueError):  # noqa: PT011 - of whatever text
            read()


async def test_an_endless_line_ends_the_connection() -> None:
    client = NatsClient(lambda *_: None)
    lost: list[object] = []
    client._transport = type("T", (), {"_io_reader": asyncio.StreamReader(limit=1)})()
    client._max_payload = 1
    client.read_directly(lost.append)
    feed = client._transport._io_reader.feed_data  # type: ignore[union-attr]
    feed(b"PING\r\n")  # nats-py has not read it yet
    client._ps.buf += b"x" * client.most_bytes
    feed(b"x")
    assert lost == [errors.INTERNAL]
