# SPDX-License-Identifier: Apache-2.0
"""The data of a NATS server, taken apart; what is no message is nats-py's."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.jetstream.client import (
    NatsClient,
    header_block,
    header_fields,
    only,
    split_messages,
    status,
)

BLOCK = b"NATS/1.0\r\nA: b\r\n\r\n"
MSG = b"MSG in.7 1 5\r\nhello\r\n"
ODD = b"MSG in.9 1 11\r\nMSG x 1 0\r\n\r\n"
HMSG = b"HMSG in.8 1 %d %d\r\n%shello\r\n" % (len(BLOCK), len(BLOCK) + 5, BLOCK)


@pytest.mark.parametrize(
    ("data", "messages", "end", "lacks_bytes"),
    [
        (b"", [], 0, 0),
        (MSG, [("in.7", b"", b"hello")], 21, 0),
        (b"MSG in.7 1 re.ply 5\r\nhello\r\n", [("in.7", b"", b"hello")], 28, 0),
        (b"MSG in.7 1 0\r\n\r\n", [("in.7", b"", b"")], 16, 0),
        (b"MSG in.7 1 9\r\nMSG x 1 1\r\n", [("in.7", b"", b"MSG x 1 1")], 25, 0),
        (HMSG, [("in.8", BLOCK, b"hello")], len(HMSG), 0),
        (HMSG.replace(b" 1 ", b" 1 55 "), [("in.8", BLOCK, b"hello")], 47, 0),
        (MSG + HMSG, [("in.7", b"", b"hello"), ("in.8", BLOCK, b"hello")], 65, 0),
        (MSG[:-1], [], 0, 1),
        (MSG[:14], [], 0, 7),
        (MSG[:13], [], 0, 1),
        (b"M", [], 0, 1),
        (b"H", [], 0, 1),
        (MSG + b"HMSG in.8 1 ", [("in.7", b"", b"hello")], 21, 1),
        (MSG + b"PING\r\n", [("in.7", b"", b"hello")], 21, 0),
        (b"PING\r\n" + MSG, [], 0, 0),
        (b"-ERR 'x'\r\n", [], 0, 0),
        (b"+OK\r\n", [], 0, 0),
        (b"MSG in.7 one 5\r\nhello\r\n", [], 0, 0),
        (b"MSG " + b"x" * 5000, [], 0, 0),
    ],
)
def test_messages_are_split_off(
    data: bytes,
    messages: list[tuple[str, bytes, bytes]],
    end: int,
    lacks_bytes: int,
) -> None:
    assert split_messages(data)[:3] == (messages, end, lacks_bytes)


@pytest.mark.parametrize(
    ("data", "requests"),
    [
        (MSG + HMSG, []),
        (b"MSG in.7 1 re.ply 5\r\nhello\r\n" + MSG, [("in.7", "re.ply")]),
        (HMSG.replace(b" 1 ", b" 1 55 "), [("in.8", "55")]),
        (b"MSG \xff 1 \xfe 0\r\n\r\n", [("\xff", "\xfe")]),
        (b"MSG in.7 1 re.ply 5\r\nhel", []),
    ],
)
def test_where_to_reply_to_is_told_of_a_request(
    data: bytes, requests: list[tuple[str, str]]
) -> None:
    assert split_messages(data).requests == requests
    asked: list[tuple[str, str]] = []
    client = NatsClient(lambda *_: None)
    client.on_request = lambda *request: asked.append(request)
    client._unread = bytearray()
    client._split(data)
    assert asked == requests


OTHERS = [b"PING\r\n", b"+OK\r\n", b"PONG\r\n"]
FRAMES = st.lists(st.sampled_from([MSG, HMSG, ODD, *OTHERS]))


@settings(deadline=None)  # it is the machine's time, not ours
@given(FRAMES, st.data())
def test_whatever_the_pieces_each_message_is_taken_once_and_in_order(
    frames: list[bytes], choice: st.DataObject
) -> None:
    stream = b"".join(frames)
    cuts = choice.draw(st.lists(st.integers(0, len(stream))))
    edges = sorted({0, len(stream), *cuts})
    taken = []

    async def feed() -> None:
        client = NatsClient(lambda *message: taken.append(message))
        reader = asyncio.StreamReader()
        client._transport = SimpleNamespace(_io_reader=reader)  # type: ignore[assignment]
        client._process_ping = client._process_pong = _nothing  # type: ignore[method-assign]
        client.read_directly(lambda _: None)
        for begin, end in pairwise(edges):
            reader.feed_data(stream[begin:end])
            if choice.draw(st.booleans()):  # nats-py's read loop comes when it comes
                await client._ps.parse(_drain(reader))
        await client._ps.parse(_drain(reader))

    asyncio.run(feed())
    expected = {
        MSG: ("in.7", b"", b"hello"),
        HMSG: ("in.8", BLOCK, b"hello"),
        ODD: ("in.9", b"", b"MSG x 1 0\r\n"),
    }
    assert taken == [expected[frame] for frame in frames if frame in expected]


async def _nothing() -> None:
    pass


def _drain(reader: asyncio.StreamReader) -> bytes:
    data = bytes(reader._buffer)  # type: ignore[attr-defined]
    reader._buffer.clear()  # type: ignore[attr-defined]
    return data


def test_a_payload_that_looks_like_a_message_is_none_though_nats_py_read_its_line() -> (
    None
):
    taken = []
    line = ODD.index(b"\n") + 1

    async def feed() -> None:
        client = NatsClient(lambda *message: taken.append(message))
        reader = asyncio.StreamReader()
        client._transport = SimpleNamespace(_io_reader=reader)  # type: ignore[assignment]
        client._process_ping = _nothing  # type: ignore[method-assign]
        client.read_directly(lambda _: None)
        for piece in (b"PING\r\n" + ODD[:line], ODD[line:]):
            reader.feed_data(piece)
            await client._ps.parse(_drain(reader))

    asyncio.run(feed())
    assert taken == [("in.9", b"", b"MSG x 1 0\r\n")]


def test_a_large_message_is_put_together_from_its_pieces() -> None:
    taken = []

    async def feed() -> None:
        client = NatsClient(lambda *message: taken.append(message))
        reader = asyncio.StreamReader()
        client._transport = SimpleNamespace(_io_reader=reader)  # type: ignore[assignment]
        client.read_directly(lambda _: None)
        large = b"x" * 1_000_000
        stream = b"MSG in 1 %d\r\n%s\r\n%s" % (len(large), large, MSG)
        for begin in range(0, len(stream), 65_536):
            reader.feed_data(stream[begin : begin + 65_536])
        assert [len(data) for _, _, data in taken] == [len(large), 5]

    asyncio.run(feed())


def test_headers_are_read_as_they_were_written() -> None:
    headers = {b"Nats-Msg-Id": b"a:b", b"Empty": b"", b"N": b"7"}
    assert header_fields(header_block(headers)) == headers
    assert status(header_block(headers)) is None


@pytest.mark.parametrize(
    ("block", "code", "fields"),
    [
        (b"NATS/1.0 503\r\n\r\n", "503", {}),
        (b"NATS/1.0 204 EOB\r\nNats-X: 1\r\n\r\n", "204", {b"Nats-X": b"1"}),
        (b"NATS/1.0\r\nA:b\r\nA:  c\r\n\r\n", None, {b"A": b"c"}),
        (b"NATS/1.0\r\nno field\r\nB: c\r\n\r\n", None, {b"B": b"c"}),
    ],
)
def test_a_status_and_fields_are_read(
    block: bytes, code: str | None, fields: dict[bytes, bytes]
) -> None:
    assert (status(block), header_fields(block)) == (code, fields)


def test_fields_that_nobody_wants_are_passed_over() -> None:
    block = b"NATS/1.0\r\nNats-A: 1\r\nA: 2\r\nAB: 3\r\nB:4\r\nA:\t5\r\n\r\n"
    assert header_fields(block, only(b"A", b"B")) == {b"A": b"5", b"B": b"4"}
