# SPDX-License-Identifier: Apache-2.0
"""Which reply the producer plugin takes for its event's offset."""

from __future__ import annotations

import socket
import threading
from contextlib import contextmanager
from fcntl import ioctl
from functools import partial
from termios import TIOCOUTQ
from typing import TYPE_CHECKING, Any

import pytest
from support.fake_sidecar import (
    Clock,
    FakeSidecar,
    L,
    Reply,
    stands,
    stored,
    stored_minimally,
    timed,
)
from support.hermes import load_plugin
from support.process import wait_until
from support.producer_passes import FAMILY, a_pass, long_started, user
from support.sidecar import last_offset, sidecar_on

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.nats import NatsProcess


def test_the_entity_tag_stands_for_the_answer_that_was_not_wanted(
    plugin: Any, fake: FakeSidecar
) -> None:
    fake.then(stands(L), stored_minimally(L + 1), stored_minimally(L + 2))
    with plugin:
        assert [plugin._send(user()), plugin._send(user())] == [L + 1, L + 2]
    assert fake.posts[1].headers["if-match"] == f'"{L + 1}"'


ANSWER = b'HTTP/1.1 201 Created\r\ncontent-length: 0\r\netag: "%d"\r\n\r\n'


CUTS = range(len(ANSWER % (L + 1)))


def is_read(connection: socket.socket) -> bool:
    """Tell whether the other end of a Unix socket has taken all."""
    return not any(ioctl(connection, TIOCOUTQ, bytes(4)))


@contextmanager
def server_of(path: Path, *answers: list[bytes]) -> Iterator[list[bytes]]:
    """Answer one request on each connection with these pieces; give the requests.

    A piece follows when the one before it was taken.
    """
    requests: list[bytes] = []
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()

        def serve() -> None:
            for pieces in answers:
                try:
                    connection, _ = server.accept()
                except OSError:  # the first was enough
                    return
                with connection:
                    requests.append(connection.recv(65_536))
                    for piece in pieces:
                        wait_until(partial(is_read, connection), 20)
                        connection.sendall(piece)

        serving = threading.Thread(target=serve)
        serving.start()
        try:
            yield requests
        finally:
            server.shutdown(socket.SHUT_RDWR)
            serving.join()


@pytest.fixture
def plain(hermes_home: Path, tmp_path: Path, clock: Clock) -> Iterator[Any]:
    """One plugin at tmp_path / "s" that believes in L."""
    url = f"unix://{tmp_path}/s"
    plugin = long_started(timed(load_plugin(hermes_home, FAMILY, {"url": url}), clock))
    plugin._last = L
    yield plugin
    plugin.close()


@pytest.mark.parametrize("cut", CUTS)
def test_an_answer_that_is_cut_off_never_gives_another_offset(
    plain: Any, tmp_path: Path, cut: int
) -> None:
    """http.client takes a head that ends anywhere for whole."""
    answer = ANSWER % (L + 1)
    with server_of(tmp_path / "s", [answer[:cut]], [answer]) as requests:
        assert plain._send(user()) == L + 1
        plain.close()
    says_it = cut > answer.rindex(b'"')
    assert requests == requests[:1] * (1 if says_it else 2)


@pytest.mark.parametrize("cut", CUTS[1:])
def test_an_answer_in_two_pieces_is_one_answer(
    plain: Any, tmp_path: Path, cut: int
) -> None:
    answer = ANSWER % (L + 1)
    with server_of(tmp_path / "s", [answer[:cut], answer[cut:]]) as requests:
        assert plain._send(user()) == L + 1
        plain.close()
    assert len(requests) == 1


@pytest.mark.parametrize("offset", [1, L, L + 2])
def test_only_the_very_next_offset_is_taken_for_stored(
    plain: Any, tmp_path: Path, offset: int
) -> None:
    answers = [ANSWER % offset], [ANSWER % (L + 1)]
    with server_of(tmp_path / "s", *answers) as requests:
        assert plain._send(user()) == L + 1
        plain.close()
    assert requests == requests[:1] * 2


def test_a_second_answer_is_never_the_next_events(plain: Any) -> None:
    another = b'HTTP/1.1 400 Bad Request\r\ncontent-length: 17\r\n\r\n{"code":"no_key"}'
    sidecar, plain._http._socket = socket.socketpair()
    plain._http._socket.settimeout(15.0)
    with sidecar:
        sidecar.sendall(ANSWER % (L + 1) + another)
        assert plain._send(user()) == L + 1
        sidecar.sendall(ANSWER % (L + 2))
        assert plain._send(user()) == L + 2


@pytest.mark.parametrize("family", ["unix", "tcp"])
def test_the_answer_that_almost_always_comes_needs_no_parser(
    hermes_home: Path,
    nats: NatsProcess,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    family: str,
) -> None:
    """What the sidecar writes is what the plugin compares with, both ways (ADR 10)."""
    with sidecar_on(nats, tmp_path, tcp_api="open") as process:
        tcp = f"http://127.0.0.1:{process.tcp_port}"
        with process.client() as http:
            last = last_offset(http)
        url = process.url if family == "unix" else tcp
        with long_started(load_plugin(hermes_home, FAMILY, {"url": url})) as plugin:
            monkeypatch.delattr("http.client.HTTPResponse")
            sent = [plugin._send(user(photo="x" * n)) for n in (1, 300_000, 1)]
            monkeypatch.undo()
    assert sent == [last + 1, last + 2, last + 3]


@pytest.mark.parametrize("offset", [1, L, L + 2])
def test_the_answer_to_something_else_is_no_answer(
    plugin: Any, fake: FakeSidecar, offset: int
) -> None:
    fake.then(stands(L), stored_minimally(offset), stored_minimally(L + 1))
    with plugin:
        assert plugin._send(user()) == L + 1
    keys = {request.headers["idempotency-key"] for request in fake.posts}
    assert (len(keys), len(fake.posts), fake.connections) == (1, 2, 2)


def test_a_sidecar_that_mixes_up_its_answers_leaves_it_unknown(
    plugin: Any, fake: FakeSidecar
) -> None:
    fake.then(stands(L), stored_minimally(L + 7))
    assert a_pass(plugin, user()) == (
        "It is not known whether the event was stored: "
        "the sidecar answers with an offset that was not asked for"
    )


@pytest.mark.parametrize(
    "answer",
    [
        Reply(200, text="", headers={"ETag": "17"}),
        Reply(200, text="", headers={"ETag": '"17'}),
        Reply(200, text="", headers={"ETag": 'W/"17"'}),
        Reply(200, text="", headers={"ETag": '"x"'}),
        Reply(412, text="", headers={"ETag": '"17"'}),
    ],
    ids=["bare", "cut", "weak", "text", "412"],
)
def test_an_entity_tag_counts_only_where_it_stands_for_an_offset(
    plugin: Any, fake: FakeSidecar, answer: Reply
) -> None:
    fake.then(stands(L), answer, stored(L + 1))
    assert a_pass(plugin, user()) is None
    assert len(fake.posts) == 2
