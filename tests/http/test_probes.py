# SPDX-License-Identifier: Apache-2.0
"""Probes are answered directly, whatever a crowd asks for."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from starlette.responses import PlainTextResponse
from support.wire import Wire, in_a_crowd, wire

from sidecar.http import protocol
from sidecar.http.probes import Probes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

LIVE = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"


@asynccontextmanager
async def probed_wire() -> AsyncIterator[Wire]:
    async with wire() as one:
        one.is_known = False
        one.probes[b"/health/live"] = PlainTextResponse("directly")
        yield one


async def test_a_probe_is_answered_in_a_crowd_in_which_nobodys_turn_comes() -> None:
    async with probed_wire() as one:
        in_a_crowd(one)
        for _ in range(2 * protocol.MAX_UNANSWERED):
            one.protocol.data_received(LIVE)
            assert (await one.read()).endswith(b"directly")
        assert not one.asgi
        one.protocol.arrival = None


async def test_the_last_answer_to_a_probe_says_so_and_no_other() -> None:
    async with probed_wire() as one:
        last = LIVE.replace(b"Host", b"Connection: close\r\nHost")
        one.protocol.data_received(LIVE)
        assert b"connection" not in await one.read()
        one.protocol.data_received(last)
        assert b"\r\nconnection: close\r\n" in await one.read()
        assert await one.read() == b""
        answer = one.probes[b"/health/live"]
        assert (b"connection", b"close") not in answer.raw_headers


@pytest.mark.parametrize(
    "request_",
    [
        LIVE.replace(b"GET", b"HEAD"),
        LIVE.replace(b"HTTP/1.1", b"HTTP/1.0"),
        LIVE.replace(b"/live", b"/live?"),
        LIVE.replace(b"/live", b"/lives"),
        LIVE.replace(b"Host", b"Expect: 100-continue\r\nHost"),
        LIVE.replace(b"Host", b"Content-Length: 0\r\nHost"),
    ],
    ids=["HEAD", "1.0", "query", "other", "continue", "body"],
)
async def test_a_probe_that_is_less_plain_goes_uvicorns_way(request_: bytes) -> None:
    async with probed_wire() as one:
        one.protocol.data_received(request_)
        assert b"directly" not in await one.read()
        assert len(one.asgi) == 1


async def test_of_probes_in_a_pipeline_one_is_answered_directly() -> None:
    async with probed_wire() as one:
        one.protocol.data_received(LIVE * 3)
        answers = b""
        while answers.count(b"by uvicorn") < 2:
            answers += await one.read()
        assert answers.count(b"directly") == 1


async def test_strangers_share_a_look_of_50_ms_and_nobody_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who was just refused, and asks why, is told what holds now."""
    looks = 0

    def look(_: object) -> PlainTextResponse:
        nonlocal looks
        looks += 1
        return PlainTextResponse(str(looks))

    monkeypatch.setattr("sidecar.http.probes.ready_response", look)
    daemon: Any = None
    probes = Probes(daemon)

    def seen(*, is_stranger: bool) -> bytes:
        response = probes(b"/health", is_stranger)
        assert response is not None
        return bytes(response.body)

    assert [seen(is_stranger=True) for _ in range(3)] == [b"1"] * 3
    assert seen(is_stranger=False) == b"2"
    assert seen(is_stranger=False) == b"3"
    assert seen(is_stranger=True) == b"3"


@pytest.mark.parametrize(
    ("is_known", "host", "is_stranger"),
    [
        (True, "127.0.0.1", False),
        (False, protocol.UNIX, False),
        (False, "127.0.0.1", True),
    ],
)
async def test_a_stranger_is_who_came_over_tcp_and_was_never_authorised(
    is_known: bool, host: str, is_stranger: bool
) -> None:
    async with probed_wire() as one:
        one.is_known = is_known
        in_a_crowd(one)
        one.protocol.client = (host, 1)
        one.protocol.data_received(LIVE)
        assert one.probed_by_stranger == [is_stranger]
        one.protocol.arrival = None
