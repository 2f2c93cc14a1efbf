# SPDX-License-Identifier: Apache-2.0
"""A name with several addresses, of which some are dead."""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from support.nats import free_port

from sidecar.jetstream.dial import dial, first, in_turn, resolve

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidecar.jetstream.dial import Address

V4, V6 = socket.AF_INET, socket.AF_INET6


@contextmanager
def listening(host: str = "127.0.0.1") -> Iterator[Address]:
    family = V6 if ":" in host else V4
    with socket.create_server((host, 0), family=family) as listener:
        yield family, (host, listener.getsockname()[1])


@contextmanager
def silent() -> Iterator[Address]:
    """Give an address that answers nothing: its queue is full, so SYNs are lost."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        where = listener.getsockname()
        waiting = []
        for _ in range(4):
            one = socket.socket()
            one.setblocking(False)
            one.connect_ex(where)
            waiting.append(one)
        try:
            yield V4, where
        finally:
            for one in waiting:
                one.close()


def refused() -> Address:
    return V4, ("127.0.0.1", free_port())


@pytest.mark.parametrize("dead", [1, 3])
async def test_an_address_that_is_silent_does_not_hide_one_that_answers(
    dead: int,
) -> None:
    with silent() as one, listening() as alive:
        connected = await first([one] * dead + [alive])
        with connected:
            assert connected.getpeername() == alive[1]


async def test_an_address_that_refuses_makes_way_at_once() -> None:
    with listening() as alive, await first([refused(), alive]) as connected:
        assert connected.getpeername() == alive[1]


async def test_where_all_are_dead_the_last_one_s_error_is_raised() -> None:
    with pytest.raises(ConnectionRefusedError):
        await first([refused(), refused()])
    with pytest.raises(socket.gaierror):
        await first([])


async def test_it_ends_in_time() -> None:
    with silent() as (_, (host, port)), pytest.raises(TimeoutError):
        await dial(host, port, 0.3)


async def test_who_waits_for_a_name_server_is_told_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answers.wait(30) and [])
    with pytest.raises(socket.gaierror) as caught:
        await dial("nats.example.org", 4222, 0.1)
    assert caught.value.errno == socket.EAI_AGAIN
    answers.set()


async def test_an_error_of_several_addresses_names_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    port = free_port()
    infos = [(V4, 0, 0, "", (host, port)) for host in ("127.0.0.1", "127.0.0.2")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: infos)
    with pytest.raises(ConnectionRefusedError) as caught:
        await dial("nats.example.org", port, 2)
    assert caught.value.__notes__ == ["127.0.0.1, 127.0.0.2"]


async def test_a_name_of_both_families_is_reached_on_either() -> None:
    for _, (host, *_) in await resolve("localhost", 1):
        with listening(host) as (_, (_, port)), await dial("localhost", port, 2) as up:
            assert up.getpeername()[0] == host


async def test_what_is_no_name_is_unknown() -> None:
    for host in ("nobody.invalid", "a" * 70 + ".test", "..", "\udcff"):
        with pytest.raises(socket.gaierror) as caught:
            await resolve(host, 1)
        assert caught.value.errno in (socket.EAI_NONAME, socket.EAI_AGAIN)


@pytest.mark.parametrize(
    ("given", "order"),
    [
        ("", ""),
        ("a", "a"),
        ("ABc", "AcB"),
        ("abC", "aCb"),
        ("ABCd", "AdBC"),
    ],
)
def test_the_families_take_turns(given: str, order: str) -> None:
    addresses = [(V6 if one.isupper() else V4, (one,)) for one in given]
    assert "".join(where[0] for _, where in in_turn(addresses)) == order


async def test_what_is_written_is_sent_at_once() -> None:
    """With Nagle's algorithm an event waits 40 ms for the ACK of the one before."""
    with listening() as (_, (host, port)):
        _, writer = await asyncio.open_connection(sock=await dial(host, port, 5))
        connected = writer.get_extra_info("socket")
        assert connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        writer.close()
        await writer.wait_closed()
