# SPDX-License-Identifier: Apache-2.0
"""In which order connections are opened, and which one gives way to others."""

from __future__ import annotations

import asyncio
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import uvloop
from support.arrivals import crowd_of
from support.wire import GET

from sidecar.http import strangers
from sidecar.http.strangers import (
    _ITERATIONS_TO_READ,
    _OPENED_AT_ONCE,
    MAX_STRANGERS,
    Arrival,
    Arrivals,
)

if TYPE_CHECKING:
    import pytest


async def test_nobody_waits_for_ever_and_the_newest_not_for_a_crowd() -> None:
    with crowd_of(9) as crowd:
        await crowd.open_all()
        assert crowd.opened == [8, 0, 7, 1, 6, 2, 5, 3, 4]


async def test_however_often_they_come_few_are_opened_in_one_iteration() -> None:
    with crowd_of(9) as crowd:
        crowd.arrivals._take_all = lambda: None  # type: ignore[method-assign]
        for _ in range(3):
            crowd.arrivals._take()
        await asyncio.sleep(0)
        assert len(crowd.arrivals.strangers) == 4
        await crowd.open_all()


async def test_in_a_crowd_who_has_hung_up_is_not_opened() -> None:
    with crowd_of(9) as crowd:
        for number in (0, 3, 8):
            crowd.pairs[number][1].close()
        crowd.pairs[1][1].shutdown(socket.SHUT_WR)
        await crowd.open_all()
        assert sorted(crowd.opened) == [2, 4, 5, 6, 7]
        assert len(crowd.arrivals.all) == 5
        assert crowd.pairs[0][0].fileno() == -1


async def test_where_nobody_waits_who_has_sent_all_is_opened() -> None:
    with crowd_of(4) as crowd:
        crowd.pairs[1][1].shutdown(socket.SHUT_WR)
        await crowd.open_all()
        assert sorted(crowd.opened) == [0, 1, 2, 3]


async def test_room_is_made_by_the_oldest_stranger_but_not_by_one_just_opened() -> None:
    just_opened = 3 * _ITERATIONS_TO_READ
    with crowd_of(just_opened + 3, at_once=3) as crowd:
        for arrival in list(crowd.arrivals.unopened)[: just_opened + 1]:
            del crowd.arrivals.unopened[arrival]
            crowd.arrivals.strangers[arrival] = None
        oldest, *others = crowd.arrivals.strangers
        for _ in range(2):
            crowd.arrivals._make_room()
        assert list(crowd.arrivals.strangers) == others
        assert oldest not in crowd.arrivals.all
        assert crowd.waiting == [just_opened + 2]
        assert len(crowd.arrivals.all) == just_opened + 1


class Reads(asyncio.Protocol):
    """A connection that says whether it was read, and when that is decided."""

    arrival: Arrival
    transport: asyncio.BaseTransport
    was_read = False

    def __init__(self) -> None:
        self.is_decided = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:  # noqa: ARG002
        self.was_read = True
        self.is_decided.set()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self.is_decided.set()


def test_a_stranger_gives_way_after_it_was_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On the daemon's loop; with tenths, for a machine that allows few files."""
    monkeypatch.setattr(strangers, "_OPENED_AT_ONCE", _OPENED_AT_ONCE // 10)
    monkeypatch.setattr(strangers, "MAX_STRANGERS", MAX_STRANGERS // 10)
    count = 4 * MAX_STRANGERS // 10

    async def serve_a_crowd() -> list[bool]:
        protocols: asyncio.Queue[Any] = asyncio.Queue()

        def protocol() -> Any:
            protocols.put_nowait(one := Reads())
            return one

        with ExitStack() as stack:
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            listener.listen(count)
            for _ in range(count):
                caller = socket.create_connection(listener.getsockname())
                stack.enter_context(caller).sendall(GET)
            arrivals = Arrivals(listener, protocol, None)
            arrivals.start()
            were_read = []
            async with asyncio.timeout(20):
                for _ in range(count):
                    one = await protocols.get()
                    await one.is_decided.wait()
                    were_read.append(one.was_read)
            assert len(arrivals.strangers) <= MAX_STRANGERS // 10
            arrivals.stop()
        return were_read

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert all(runner.run(serve_a_crowd()))
