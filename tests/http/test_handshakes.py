# SPDX-License-Identifier: Apache-2.0
"""Whose TLS handshake begins, and who gives way meanwhile."""

from __future__ import annotations

import asyncio
import ssl
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from support.arrivals import Crowd, crowd_of
from support.process import wait_until
from support.wire import GET, in_a_crowd, wire

from sidecar.http import strangers
from sidecar.http.strangers import _ITERATIONS_TO_READ

if TYPE_CHECKING:
    from collections.abc import Callable

TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)


def speak(crowd: Crowd, *numbers: int) -> None:
    for number in numbers:
        crowd.pairs[number][1].send(b"\x16")


async def until(is_so: Callable[[], bool]) -> None:
    await asyncio.to_thread(wait_until, is_so)


async def test_nobody_is_opened_who_has_sent_nothing() -> None:
    with crowd_of(9, tls=TLS) as crowd:
        speak(crowd, 3)
        await until(lambda: crowd.opened == [3])
        speak(crowd, 1)
        await until(lambda: crowd.opened == [3, 1])
        assert len(crowd.arrivals.silent) == 7
        assert not crowd.arrivals.unopened
        crowd.arrivals.stop()
        assert not crowd.arrivals.silent


async def test_few_handshakes_begin_in_one_iteration() -> None:
    with crowd_of(9, tls=TLS) as crowd:
        begun = [0]
        open_some = crowd.arrivals._open_some

        def counted() -> None:
            open_some()
            begun.append(len(crowd.arrivals.in_handshake))

        crowd.arrivals._open_some = counted  # type: ignore[method-assign]
        speak(crowd, *range(9))
        await until(lambda: len(crowd.opened) == 9)
        assert max(now - before for before, now in pairwise(begun)) == 4


async def test_who_stays_silent_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strangers, "HANDSHAKE_SECONDS", 0.01)
    with crowd_of(2, tls=TLS) as crowd:
        speak(crowd, 1)
        await until(lambda: not crowd.arrivals.silent)
        assert [crowd.numbers[one._socket] for one in crowd.arrivals.all] == [1]
        assert crowd.pairs[0][0].fileno() == -1


async def test_a_handshake_gives_way_to_others_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(strangers, "MAX_HANDSHAKES", 4)
    monkeypatch.setattr(strangers, "MAX_TLS_STRANGERS", 2)
    with crowd_of(8, tls=TLS) as crowd:
        arrivals = crowd.arrivals
        speak(crowd, *range(4))
        await until(lambda: len(crowd.opened) == 4)
        oldest, *others = arrivals.in_handshake
        for arrival in others:
            arrival.has_begun()
        assert list(arrivals.in_handshake) == [oldest]
        assert list(arrivals.strangers) == others[1:]
        speak(crowd, *range(4, 8))
        await until(lambda: len(crowd.opened) == 8)
        assert oldest not in arrivals.all
        assert list(arrivals.strangers) == others[1:]


async def test_it_ends_with_the_first_byte_of_a_request() -> None:
    async with wire() as one:
        one.is_known = False
        arrivals, arrival = in_a_crowd(one), one.protocol.arrival
        assert arrival is not None
        arrivals.in_handshake[arrival] = None
        one.protocol.data_received(b"\r\n")
        assert not arrivals.strangers
        one.protocol.data_received(GET[:1])
        assert (list(arrivals.in_handshake), list(arrivals.strangers)) == (
            [],
            [arrival],
        )


MANY = 3 * _ITERATIONS_TO_READ + 1


@pytest.mark.parametrize(
    ("silent", "unopened", "in_handshake", "asking", "gives_way"),
    [
        (MANY, 1, MANY, MANY, "silent"),
        (1, 1, MANY, MANY, "strangers"),
        (1, 1, MANY, 1, "in_handshake"),
        (1, 1, 1, 1, "unopened"),
        (1, 0, 1, 1, "silent"),
    ],
)
async def test_room_is_made_by_who_has_been_there_for_some_time(
    silent: int, unopened: int, in_handshake: int, asking: int, gives_way: str
) -> None:
    with crowd_of(
        silent + unopened + in_handshake + asking, at_once=3, tls=TLS
    ) as crowd:
        arrivals = crowd.arrivals
        for arrival in list(arrivals.silent)[silent:]:
            arrival.stop_listening()
            del arrivals.silent[arrival]
            if len(arrivals.unopened) < unopened:
                arrivals.unopened[arrival] = arrival._socket
            elif len(arrivals.in_handshake) < in_handshake:
                arrivals.in_handshake[arrival] = None
            else:
                arrivals.strangers[arrival] = None
        group = getattr(arrivals, gives_way)
        oldest = next(iter(group))
        arrivals._make_room()
        assert oldest not in arrivals.all
        assert len(arrivals.all) == silent + unopened + in_handshake + asking - 1
        arrivals.stop()
