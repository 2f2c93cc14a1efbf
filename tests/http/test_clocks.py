# SPDX-License-Identifier: Apache-2.0
"""Clocks and bounds of a connection: who stalls, and who takes nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.responses import PlainTextResponse
from support.wire import BODY, GET, HEAD, WHOLE, wire

from sidecar.http import clocks


async def test_an_idle_connection_is_closed_after_a_direct_answer_too() -> None:
    async with wire() as one:
        one.protocol.data_received(WHOLE)
        assert one.protocol.timeout_keep_alive_task is None
        one.responds[0](PlainTextResponse("directly"))
        timer: Any = one.protocol.timeout_keep_alive_task
        assert timer is not None
        one.protocol.data_received(WHOLE)
        assert timer.cancelled()


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
    monkeypatch.setattr(clocks, "_SLACK_SECONDS", 0)
    monkeypatch.setattr(clocks, name, 0.05)
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
    monkeypatch.setattr(clocks, "READER_SECONDS", 0.05)
    async with wire() as one:
        one.is_known = is_known
        one.protocol.transport.write(b"x" * 4_000_000)
        await one.ends()


async def test_who_is_known_may_take_an_answer_slowly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(clocks, "READER_SECONDS", 0.2)
    monkeypatch.setattr(clocks, "TAKE_SECONDS", 0.05)
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
    monkeypatch.setattr(clocks, "READER_SECONDS", 0.2)
    monkeypatch.setattr(clocks, "PAGE_SECONDS", 0.3)
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
    monkeypatch.setattr(clocks, "READER_SECONDS", 0.2)
    monkeypatch.setattr(clocks, "TAKE_SECONDS", 0.3)
    async with wire() as one:
        one.protocol.transport.write(b"x" * 4_000_000)
        pieces = 0
        while not one.protocol.transport.is_closing():
            await asyncio.sleep(0.05)
            one.caller.recv(10_000)
            pieces += 1
        assert pieces < 60


@pytest.mark.parametrize(
    ("is_known", "seconds"),
    [(True, clocks.PAGE_SECONDS), (False, clocks.TAKE_SECONDS)],
)
async def test_an_answer_may_be_taken_for_so_long(
    is_known: bool, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    until: list[float] = []
    async with wire() as one:
        monkeypatch.setattr(
            one.protocol, "_watch_reader", lambda ends_at, _: until.append(ends_at)
        )
        one.is_known = is_known
        one.protocol.data_received(GET + b"\r\n")  # by which it is known, or not
        began_at = one.protocol.loop.time()
        one.protocol.transport.write(b"x" * 4_000_000)
        assert seconds <= until[0] - began_at < seconds + 10


async def test_a_stranger_that_is_idle_makes_room_sooner() -> None:
    async with wire() as one:
        one.is_known = False
        one.protocol.data_received(GET + b"\r\n")
        assert one.protocol.timeout_keep_alive < clocks.KEEP_ALIVE_SECONDS
        one.is_known = True
        one.protocol.data_received(WHOLE)
        assert one.protocol.timeout_keep_alive == clocks.KEEP_ALIVE_SECONDS


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
