# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import importlib
import logging
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import threading
import uuid
from contextlib import contextmanager
from fcntl import ioctl
from functools import partial
from pathlib import Path
from termios import TIOCOUTQ
from typing import TYPE_CHECKING, Any

import pytest
from parts.answers import (
    NO_ANSWER,
    Clock,
    L,
    Mute,
    Player,
    Reply,
    problem,
    stands,
    stored,
    stored_minimally,
    taken,
    timed,
    unknown,
)
from parts.hermes import load_plugin, new_event
from parts.jetstream import Operator, wait_jetstream
from parts.nats import NatsProcess, free_port
from parts.process import wait_until
from parts.sidecar import event as event_bytes
from parts.sidecar import last_offset, sidecar_on

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from parts.sidecar import SidecarProcess

FAMILY = "messagebus_producers"
SECRET = "c0rrect-horse"
REFUSED = problem(413, "too_large", "not_stored")
OTHER_PYTHON = Path(__file__).resolve().parents[1] / "parts" / "other_python.py"


def failed() -> type[Exception]:
    error: type[Exception] = importlib.import_module(
        "lib.plugins"
    ).FailedToSendEventError
    return error


def send(plugin: Any, event: Any) -> str | None:
    """Send as hermes-server does; give the error's text, None for none."""
    try:
        plugin.send(event)
    except failed() as error:
        return clean(error)
    return None


def clean(error: Exception) -> str:
    """Give an error's text, which shows no payload, nor does what is behind it."""
    assert SECRET not in str(error)
    assert error.__suppress_context__ or error.__context__ is None
    return str(error)


def a_pass(
    plugin: Any, *events: Any, once_open: Callable[[], None] = lambda: None
) -> str | None:
    """One pass of hermes-server: it ends with the first event that fails."""
    try:
        with plugin:
            once_open()
            for event in events:
                plugin.send(event)
    except Exception as error:  # noqa: BLE001 - Hermes catches all there
        return clean(error)
    return None


def once(plugin: Any) -> str | None:
    """One pass of a plugin that is then thrown away."""
    text = a_pass(plugin, user())
    plugin.close()
    return text


def user(kind: str = "modified", pkey: int = 1, **attributes: Any) -> Any:
    return new_event(
        "base", kind, objpkey=pkey, objattrs={"secret": SECRET} | attributes
    )


def lose(plugin: Any, player: Player, event: Any, last: int = L) -> str:
    """Let a pass lose an event: nobody knows whether it was stored. Give its key."""
    player.then(stands(last), unknown())
    text = a_pass(plugin, event)
    assert text is not None
    assert text.startswith("It is not known whether the event was stored")
    return player.posts[-1].headers["idempotency-key"]


def lose_and_learn(plugin: Any, player: Player, event: Any) -> str:
    """Lose an event, and learn in a pass that fails that it stands at L + 1."""
    key = lose(plugin, player, event)
    player.then(stands(L + 1), taken(key, L + 1), REFUSED)
    assert a_pass(plugin, user(pkey=2)) is not None
    return key


# -- Settings --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"url": "unix:///run/hermes-nats-sidecar/api.sock"},
        {"url": "http://127.0.0.1:8480"},
        {"url": "http://[::1]:8480/"},
        {"url": "https://sidecar.example:8480"},
        {"url": "http://localhost", "token_file": "/t", "send_timeout": 5},
        {"url": "https://localhost", "cafile": "/ca.pem", "unknown_timeout": 1.5},
    ],
)
def test_good_settings_are_accepted_with_their_defaults(
    hermes_home: Path, settings: dict[str, Any]
) -> None:
    plugin = load_plugin(hermes_home, FAMILY, settings)
    assert (
        plugin._settings
        == {
            "send_timeout": 30,
            "unknown_timeout": 60,
            "batch_size": 500,
        }
        | settings
    )


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"url": None},
        {"url": ""},
        {"url": 7},
        {"url": "127.0.0.1:8480"},
        {"url": "ftp://h"},
        {"url": "unix://relative"},
        {"url": "http://"},
        {"url": "http://u:p@h"},
        {"url": "http://h/path"},
        {"url": "http://h?query"},
        {"url": "http://h", "token": "x"},
        {"url": "http://h", "token_file": ""},
        {"url": "http://h", "cafile": None},
        {"url": "http://h", "send_timeout": 0},
        {"url": "http://h", "send_timeout": "30"},
        {"url": "http://h", "unknown_timeout": 3601},
    ],
)
def test_bad_settings_are_refused_by_the_schema(
    hermes_home: Path, settings: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=r"\{"):
        load_plugin(hermes_home, FAMILY, settings)


# -- open, send, close -----------------------------------------------------------------


def test_an_event_is_posted_verbatim_with_its_precondition_and_a_key(
    plugin: Any, player: Player
) -> None:
    event = user(name="Zoé")
    player.then(stands(L), stored(L + 1))
    assert a_pass(plugin, event) is None
    (request,) = player.posts
    assert request.path == "/v1/events"
    assert request.body == event.to_json().encode()
    assert request.headers["if-match"] == f'"{L}"'
    assert request.headers["content-type"] == "application/json"
    assert len(request.headers["idempotency-key"]) == 36
    assert request.headers["host"] == player.url.partition("//")[2]
    assert request.headers["prefer"] == "return=minimal, wait=15"


def test_the_entity_tag_stands_for_the_answer_that_was_not_wanted(
    plugin: Any, player: Player
) -> None:
    player.then(stands(L), stored_minimally(L + 1), stored_minimally(L + 2))
    with plugin:
        assert [plugin._send(user()), plugin._send(user())] == [L + 1, L + 2]
    assert player.posts[1].headers["if-match"] == f'"{L + 1}"'


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
    plugin = timed(load_plugin(hermes_home, FAMILY, {"url": url}), clock)
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
        with load_plugin(hermes_home, FAMILY, {"url": url}) as plugin:
            monkeypatch.delattr("http.client.HTTPResponse")
            sent = [plugin._send(user(photo="x" * n)) for n in (1, 300_000, 1)]
            monkeypatch.undo()
    assert sent == [last + 1, last + 2, last + 3]


@pytest.mark.parametrize("offset", [1, L, L + 2])
def test_the_answer_to_something_else_is_no_answer(
    plugin: Any, player: Player, offset: int
) -> None:
    player.then(stands(L), stored_minimally(offset), stored_minimally(L + 1))
    with plugin:
        assert plugin._send(user()) == L + 1
    keys = {request.headers["idempotency-key"] for request in player.posts}
    assert (len(keys), len(player.posts), player.connections) == (1, 2, 2)


def test_a_sidecar_that_mixes_up_its_answers_leaves_it_unknown(
    plugin: Any, player: Player
) -> None:
    player.then(stands(L), stored_minimally(L + 7))
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
    plugin: Any, player: Player, answer: Reply
) -> None:
    player.then(stands(L), answer, stored(L + 1))
    assert a_pass(plugin, user()) is None
    assert len(player.posts) == 2


def test_keys_are_uuids_of_which_no_two_plugins_have_the_same(
    hermes_home: Path, player: Player, clock: Clock
) -> None:
    player.then(stands(L), *(stored_minimally(L + n) for n in range(1, 4)), stands(L))
    for _ in range(2):
        plugin = timed(load_plugin(hermes_home, FAMILY, {"url": player.url}), clock)
        assert a_pass(plugin, user(), user(), user()) is None
        player.then(stands(L), *(stored_minimally(L + n) for n in range(1, 4)))
    keys = {uuid.UUID(request.headers["idempotency-key"]) for request in player.posts}
    assert len(keys) == 6
    assert {key.version for key in keys} == {4}


def test_each_event_has_a_key_of_its_own_and_the_offset_before_it(
    plugin: Any, player: Player
) -> None:
    player.then(stands(L), stored(L + 1), stored(L + 2), stored(L + 3))
    assert a_pass(plugin, user(), user(), user()) is None
    assert [request.headers["if-match"] for request in player.posts] == [
        f'"{L}"',
        f'"{L + 1}"',
        f'"{L + 2}"',
    ]
    assert len({request.headers["idempotency-key"] for request in player.posts}) == 3
    assert player.connections == 1


def test_send_gives_the_offset(plugin: Any, player: Player) -> None:
    player.then(stands(L), stored(L + 1))
    with plugin:
        assert plugin._send(user()) == L + 1


def test_a_duplicate_is_as_good_as_stored(plugin: Any, player: Player) -> None:
    player.then(stands(L), stored(L + 1, duplicate=True), stored(L + 2))
    assert a_pass(plugin, user(), user()) is None
    assert player.posts[1].headers["if-match"] == f'"{L + 1}"'


def test_close_ends_the_connection_and_open_makes_another(
    plugin: Any, player: Player
) -> None:
    player.then(stands(L), stored(L + 1), stands(L + 1), stored(L + 2))
    assert a_pass(plugin, user()) is None
    assert a_pass(plugin, user()) is None
    assert player.connections == 2


def test_close_without_open_is_harmless(plugin: Any) -> None:
    plugin.close()
    plugin.close()


@pytest.mark.parametrize(
    "answer",
    [
        problem(503, "nats_down", "not_stored", "1"),
        problem(503, "stream_full", "not_stored", "5"),
        unknown(),
        NO_ANSWER,
        Reply(502, text="<html>Bad gateway</html>"),
        Reply(500, text=""),
    ],
    ids=["down", "full", "unknown", "cut", "proxy", "empty"],
)
def test_the_very_same_request_is_sent_until_it_is_stored(
    plugin: Any, player: Player, answer: Reply | str
) -> None:
    player.then(stands(L), answer, answer, stored(L + 1))
    assert a_pass(plugin, user()) is None
    assert len(player.posts) == 3
    headers = {tuple(sorted(request.headers.items())) for request in player.posts}
    assert len(headers) == len({request.body for request in player.posts}) == 1


def test_retry_after_is_honoured(plugin: Any, player: Player, clock: Clock) -> None:
    refused = problem(503, "stream_full", "not_stored", "7")
    player.then(stands(L), refused, refused, stored(L + 1))
    assert a_pass(plugin, user()) is None
    assert clock.slept == [7, 7]


def test_open_waits_for_a_sidecar_that_is_ready(
    plugin: Any, player: Player, clock: Clock
) -> None:
    down = problem(503, "nats_down", None, "1")
    player.then(down, down, NO_ANSWER, stands(L), stored(L + 1))
    assert a_pass(plugin, user()) is None
    assert clock.slept[:2] == [1, 1]
    assert player.posts[0].headers["if-match"] == f'"{L}"'


# -- Deadlines and texts ---------------------------------------------------------------


def test_what_is_not_stored_is_raised_after_send_timeout(
    plugin: Any, player: Player, clock: Clock
) -> None:
    player.then(stands(L), problem(503, "stream_full", "not_stored", "5"))
    started_at = clock.now()
    text = a_pass(plugin, user())
    assert clock.now() - started_at == 30
    assert text == "Event not stored: Title of stream_full. Mend it. (stream_full)"


def test_what_is_unknown_is_raised_after_unknown_timeout(
    plugin: Any, player: Player, clock: Clock
) -> None:
    started_at = clock.now()
    lose(plugin, player, user())
    assert clock.now() - started_at == 60


@pytest.mark.parametrize(
    ("send_timeout", "waits"), [(30, [15, 15, 10]), (35, [15, 15, 15, 5]), (1, [3])]
)
def test_the_sidecar_is_told_how_long_each_attempt_waits(
    hermes_home: Path, clock: Clock, send_timeout: float, waits: list[int]
) -> None:
    """One that answers in that time is heard, in the last attempt too."""
    settings = {"url": "http://localhost", "send_timeout": send_timeout}
    plugin = timed(load_plugin(hermes_home, FAMILY, settings), clock)
    asked = []

    def held(_: bytes, headers: dict[str, str], __: int, seconds: float) -> Any:
        asked.append((headers["Prefer"], seconds))
        clock.sleep(9)
        return answer(503, "not_stored", "It is held.", {}, 1.0)

    answer = importlib.import_module(type(plugin).__mro__[1].__module__).Answer
    plugin._http.store = held
    assert send(plugin, user()) == "Event not stored: It is held."
    assert asked == [(f"return=minimal, wait={wait}", wait) for wait in waits]


def test_one_unanswered_copy_keeps_it_unknown_whatever_comes_later(
    plugin: Any, player: Player, clock: Clock
) -> None:
    player.then(stands(L), NO_ANSWER, problem(503, "nats_down", "not_stored", "1"))
    started_at = clock.now()
    text = a_pass(plugin, user())
    assert 59 <= clock.now() - started_at <= 61
    assert text is not None
    assert text.startswith("It is not known whether the event was stored")


@pytest.mark.parametrize("status", [400, 401, 403, 405, 413, 415, 422, 428])
def test_a_final_answer_is_raised_after_ten_seconds(
    plugin: Any, player: Player, clock: Clock, status: int
) -> None:
    player.then(stands(L), problem(status, "final", "not_stored"))
    assert a_pass(plugin, user()) == (
        "Event not stored: Title of final. Mend it. (final)"
    )
    assert clock.slept == [1] * 10


def test_a_final_answer_after_an_unanswered_copy_proves_nothing(
    plugin: Any, player: Player
) -> None:
    player.then(
        stands(L), NO_ANSWER, problem(401, "final", "not_stored"), stored(L + 1)
    )
    assert a_pass(plugin, user()) is None


@pytest.mark.parametrize(
    ("status", "code"), [(409, "offset_ahead"), (410, "offset_gone")]
)
def test_an_offset_that_means_nothing_is_raised_and_asked_anew(
    plugin: Any, player: Player, status: int, code: str
) -> None:
    outcome = "not_stored" if status == 409 else "unknown"
    player.then(stands(L), problem(status, code, outcome, last_offset=7))
    text = a_pass(plugin, user())
    assert len(player.posts) == (10 if status == 409 else 1)
    what = "Event not" if status == 409 else "It is not known whether the event was"
    assert text is not None
    assert text.startswith(f"{what} stored: Title of {code}.")
    assert "7" not in text
    player.then(stands(7), stored(8))
    assert a_pass(plugin, user()) is None
    assert player.posts[-1].headers["if-match"] == '"7"'


AHEAD = problem(409, "offset_ahead", "not_stored")
GONE = problem(410, "offset_gone", "unknown")
NOTHING = pytest.mark.parametrize("nothing", [AHEAD, GONE], ids=["409", "410"])


def test_an_offset_that_is_ahead_is_asked_for_again_while_in_doubt(
    plugin: Any, player: Player
) -> None:
    """An old leader may have said it, while the event stands (P1)."""
    player.then(stands(L), NO_ANSWER, AHEAD, AHEAD, stored(L + 1))
    assert a_pass(plugin, user()) is None
    assert len({request.headers["idempotency-key"] for request in player.posts}) == 1
    assert len(player.posts) == 4


def test_an_event_in_doubt_is_kept_though_its_offset_is_ahead(
    plugin: Any, player: Player, clock: Clock
) -> None:
    removed = user("removed")
    player.then(stands(L), NO_ANSWER, AHEAD)
    started_at = clock.now()
    text = a_pass(plugin, removed)
    assert 59 <= clock.now() - started_at <= 61
    assert text is not None
    assert text.startswith("It is not known whether the event was stored")
    key = player.posts[-1].headers["idempotency-key"]
    count = len(player.posts)
    player.then(stands(L + 1), AHEAD, taken(key, L + 1))
    assert a_pass(plugin, removed) is None
    assert {request.headers["if-match"] for request in player.posts[count:]} == {
        f'"{L}"'
    }


def test_what_is_remembered_of_another_stream_is_forgotten_in_the_end(
    plugin: Any, player: Player, clock: Clock
) -> None:
    removed = user("removed")
    lose(plugin, player, removed)
    player.then(stands(L + 1), AHEAD)
    started_at = clock.now()
    assert a_pass(plugin, user(pkey=2)) is not None
    assert clock.now() - started_at == 30
    player.then(stands(7), stored(8))
    assert a_pass(plugin, removed) is None
    assert player.posts[-1].headers["if-match"] == '"7"'
    assert not plugin._doubts.are_open


@pytest.mark.parametrize("before", [[], [NO_ANSWER]], ids=["sure", "in doubt"])
def test_an_offset_that_is_gone_ends_all_that_is_remembered_at_once(
    plugin: Any, player: Player, clock: Clock, before: list[Reply]
) -> None:
    """A stream never begins earlier than it did: nobody will ever know more."""
    lose(plugin, player, user("removed"))
    player.then(stands(L + 1), *before, GONE)
    started_at, count = clock.now(), len(player.posts)
    text = a_pass(plugin, user(pkey=2))
    assert text is not None
    assert text.startswith("It is not known whether the event was stored")
    assert clock.now() - started_at == pytest.approx(10)
    assert len(player.posts) - count == 1 + len(before)
    player.then(stands(7), stored(8))
    assert a_pass(plugin, user("removed")) is None
    assert player.posts[-1].headers["if-match"] == '"7"'


@NOTHING
def test_a_stored_event_of_another_stream_is_not_recognised(
    plugin: Any, player: Player, nothing: Reply
) -> None:
    removed = user("removed")
    key = lose(plugin, player, removed)
    player.then(stands(L + 1), taken(key, L + 1), nothing)
    assert a_pass(plugin, user(pkey=2)) is not None
    player.then(stands(L + 1), nothing)
    assert a_pass(plugin, user(pkey=2)) is not None
    count = len(player.posts)
    assert send(plugin, removed) is not None
    assert len(player.posts) == count  # nor is anything sent before it is asked for
    player.then(stands(7), stored(8))
    assert a_pass(plugin, removed) is None
    assert len(player.posts) == count + 1
    assert not any("?" in request.path for request in player.requests)


def test_a_stored_event_outlives_what_an_old_leader_says_for_a_moment(
    plugin: Any, player: Player
) -> None:
    removed = user("removed")
    lose_and_learn(plugin, player, removed)
    player.then(stands(L + 1), AHEAD, stored(L + 2), stands(L + 2), AGAIN)
    count = len(player.posts)
    assert a_pass(plugin, user(pkey=3), removed) is None
    assert len(player.posts) == count + 3


def test_a_passing_answer_among_them_shows_that_it_may_pass(
    plugin: Any, player: Player
) -> None:
    """The sidecar or the cluster has just come back: an old leader may answer."""
    removed = user("removed")
    key = lose(plugin, player, removed)
    down = problem(503, "nats_down", "not_stored", "29")
    player.then(stands(L + 1), down, AHEAD)
    assert a_pass(plugin, user(pkey=2)) is not None
    player.then(stands(L + 1), taken(key, L + 1))
    assert a_pass(plugin, removed) is None


def test_an_offset_that_is_ahead_of_an_unanswered_copy_is_a_doubt(
    plugin: Any, player: Player
) -> None:
    """The sidecar sent a copy that had no answer, then an old leader answered."""
    ahead = problem(409, "offset_ahead", "unknown")
    player.then(stands(L), ahead, AHEAD, stored(L + 1, duplicate=True))
    assert a_pass(plugin, user()) is None
    assert len(player.posts) == 3


def test_an_end_before_what_was_stored_is_not_believed(
    plugin: Any, player: Player
) -> None:
    player.then(stands(L), stored(L + 1), stands(L), stored(L + 2))
    assert a_pass(plugin, user()) is None
    assert a_pass(plugin, user()) is None
    assert player.posts[-1].headers["if-match"] == f'"{L + 1}"'


def test_open_gives_up_after_send_timeout(
    plugin: Any, player: Player, clock: Clock
) -> None:
    player.then(problem(503, "nats_down", None, "1"))
    started_at = clock.now()
    text = a_pass(plugin, user())
    assert text == "No message bus: Title of nats_down. Mend it. (nats_down)"
    assert 28 <= clock.now() - started_at <= 30


def test_ten_minutes_without_a_sidecar_are_one_text(
    hermes_home: Path, clock: Clock
) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    plugin = timed(load_plugin(hermes_home, FAMILY, {"url": url}), clock)
    texts = set()
    ends_at = clock.now() + 600
    passes = 0
    while clock.now() < ends_at:
        texts.add(a_pass(plugin, user(passes=passes)))
        passes += 1
        clock.sleep(60)  # as hermes-server does after a failure
    assert passes >= 6
    assert texts == {"No message bus: no sidecar can be reached at the plugin's url"}


def test_ten_minutes_without_a_stream_are_one_text(
    plugin: Any, player: Player, clock: Clock
) -> None:
    texts = set()
    ends_at = clock.now() + 600
    offset = L
    while clock.now() < ends_at:
        offset += 1
        full = problem(503, "stream_full", "not_stored", "5", jetstream_code=offset)
        player.then(stands(offset), full)
        texts.add(a_pass(plugin, user(n=offset)))
        clock.sleep(60)
    assert texts == {"Event not stored: Title of stream_full. Mend it. (stream_full)"}


def test_a_sidecar_that_dies_while_it_is_asked_leaves_it_unknown(
    hermes_home: Path,
) -> None:
    with Mute() as mute:
        settings = {"url": mute.url, "send_timeout": 1, "unknown_timeout": 1}
        plugin = load_plugin(hermes_home, FAMILY, settings)
        text = send(plugin, user())
    assert text == (
        "It is not known whether the event was stored: the sidecar does not answer"
    )


@pytest.mark.parametrize("text", ["two\nlines", "sm\xf6rg\xe5s", "tab\there", "\x7f"])
def test_a_token_that_is_none_never_leaves(
    hermes_home: Path, player: Player, clock: Clock, tmp_path: Path, text: str
) -> None:
    file = tmp_path / "token"
    file.write_text(text, "utf-8")
    settings = {"url": player.url, "token_file": str(file)}
    plugin = timed(load_plugin(hermes_home, FAMILY, settings), clock)
    assert once(plugin) == "No message bus: the plugin's token_file holds no token"
    assert not player.requests


def test_an_unreadable_token_file_is_named(
    hermes_home: Path, player: Player, clock: Clock, tmp_path: Path
) -> None:
    settings = {"url": player.url, "token_file": str(tmp_path / "none")}
    plugin = timed(load_plugin(hermes_home, FAMILY, settings), clock)
    assert a_pass(plugin, user()) == (
        "No message bus: the plugin's token_file cannot be read"
    )
    assert player.requests == []


@pytest.mark.parametrize("text", ["<html>Welcome</html>", "[]", "", "{}"])
def test_something_else_that_answers_200_is_no_sidecar(
    plugin: Any, player: Player, text: str
) -> None:
    player.then(Reply(200, text=text))
    answer = a_pass(plugin, user())
    assert answer is not None
    assert answer.startswith("No message bus: ")
    player.then(stands(L), Reply(200, text=text))
    answer = a_pass(plugin, user())
    assert answer is not None
    assert answer.startswith("It is not known whether the event was stored: ")


def test_whatever_ends_a_request_leaves_its_event_in_doubt(
    plugin: Any, player: Player
) -> None:
    """As a signal does, or an answer that no JSON parser takes."""
    removed = user("removed")
    player.then(stands(L), stored(L + 1))
    store = plugin._http.store

    def store_and_end(*request: Any) -> Any:
        store(*request)
        raise KeyboardInterrupt

    plugin.open()
    plugin._http.store = store_and_end
    with pytest.raises(KeyboardInterrupt):
        plugin.send(removed)
    plugin._http.store = store
    key = player.posts[-1].headers["idempotency-key"]
    player.then(stands(L + 1), taken(key, L + 1))
    assert a_pass(plugin, removed) is None
    assert len(player.posts) == 2


def test_a_deep_answer_is_no_answer(plugin: Any, player: Player) -> None:
    player.then(stands(L), Reply(201, text="[" * 100_000), stored(L + 1))
    assert a_pass(plugin, user()) is None
    assert len(player.posts) == 2


@pytest.mark.parametrize("offset", [L, L + 2, str(L + 1), None])
def test_a_whole_answer_with_another_offset_is_not_believed(
    plugin: Any, player: Player, offset: Any
) -> None:
    odd = Reply(201, {"offset": offset, "duplicate": False})
    player.then(stands(L), odd, stored(L + 1))
    assert a_pass(plugin, user()) is None
    assert len(player.posts) == 2


def test_a_repetition_behind_a_lost_event_has_a_key_of_its_own(
    plugin: Any, player: Player
) -> None:
    """nats-server 2.11 holds the id of a copy that it refused as it applied it."""
    key = lose(plugin, player, user())
    player.then(stands(L + 1), taken(key, L + 1), stored(L + 2))
    assert a_pass(plugin, user(pkey=2)) is None
    refused, repeated = (post.headers["idempotency-key"] for post in player.posts[-2:])
    assert refused != repeated


def test_an_event_that_is_no_json_is_raised_without_its_value(plugin: Any) -> None:
    event = user()
    event.objattrs["odd"] = object()
    text = send(plugin, event)
    assert text is not None
    assert SECRET not in text


# -- What comes after an unknown -------------------------------------------------------


def test_the_next_event_is_sent_with_the_offset_of_the_lost_one(
    plugin: Any, player: Player
) -> None:
    lose(plugin, player, user(pkey=1))
    player.then(stands(L + 1), stored(L + 1))  # the stream has moved meanwhile
    assert a_pass(plugin, user(pkey=2)) is None
    assert player.posts[-1].headers["if-match"] == f'"{L}"'


def test_a_lost_event_whose_place_was_taken_is_dead_and_sent_anew(
    plugin: Any, player: Player
) -> None:
    lost = user("removed")
    lose(plugin, player, lost)
    player.then(stands(L), stored(L + 1), stored(L + 2))
    count = len(player.posts)
    assert a_pass(plugin, user(pkey=2), lost) is None
    assert [request.headers["if-match"] for request in player.posts[count:]] == [
        f'"{L}"',
        f'"{L + 1}"',
    ]
    assert player.posts[-1].body == lost.to_json().encode()


def test_a_lost_event_that_was_stored_is_swallowed_once_when_it_comes_again(
    plugin: Any, player: Player
) -> None:
    removed = user("removed")
    key = lose(plugin, player, removed)
    count = len(player.posts)
    player.then(stands(L + 1), taken(key, L + 1))
    assert a_pass(plugin, removed) is None
    assert len(player.posts) == count + 1  # its question; the answer was "stored"
    player.then(stands(L + 1), stored(L + 2))
    assert a_pass(plugin, removed) is None
    assert player.posts[-1].headers["if-match"] == f'"{L + 1}"'
    assert len(player.posts) == count + 2


def test_a_lost_event_that_was_stored_is_recognised_anywhere_in_the_next_pass(
    plugin: Any, player: Player
) -> None:
    removed = user("removed", pkey=1)
    key = lose(plugin, player, removed)
    count = len(player.posts)
    player.then(
        stands(L + 1),
        taken(key, L + 1),
        stored(L + 2),
        stands(L + 2),
        AGAIN,
        stored(L + 3),
    )
    others = [user(pkey=2), user(pkey=3)]
    assert a_pass(plugin, others[0], removed, others[1]) is None
    bodies = [request.body for request in player.posts[count:]]
    assert bodies == [
        others[0].to_json().encode(),  # with L: refused, the lost one stands there
        others[0].to_json().encode(),
        removed.to_json().encode(),  # its own request: it stands
        others[1].to_json().encode(),
    ]
    assert player.posts[-2].headers["idempotency-key"] == key
    assert player.posts[-2].headers["if-match"] == f'"{L}"'


def test_a_lost_event_is_still_recognised_when_the_next_pass_fails(
    plugin: Any, player: Player
) -> None:
    removed = user("removed", pkey=1)
    key = lose(plugin, player, removed)
    player.then(
        stands(L + 1), taken(key, L + 1), problem(413, "too_large", "not_stored")
    )
    assert a_pass(plugin, user(pkey=2)) is not None
    count = len(player.posts)
    player.then(stands(L + 1), stands(L + 1), AGAIN, stored(L + 2))
    assert a_pass(plugin, removed, user(pkey=2)) is None
    assert len(player.posts) == count + 2


def test_a_lost_event_is_not_recognised_behind_an_event_of_another_producer(
    plugin: Any, player: Player
) -> None:
    """Nothing is sent, so no fence sees that it is no longer the newest."""
    removed = user("removed")
    key = lose(plugin, player, removed)
    player.then(stands(L + 1), taken(key, L + 1), stored(L + 2), stands(L + 3))
    assert a_pass(plugin, user(pkey=2), removed) == ANOTHER
    player.then(stands(L + 3), written(1, end=L + 3), stored(L + 4))
    count = len(player.posts)
    assert a_pass(plugin, removed) is None
    assert len(player.posts) == count + 1


@pytest.mark.parametrize("is_ours", [True, False])
def test_a_lost_event_is_recognised_though_the_next_one_is_in_doubt(
    plugin: Any, player: Player, *, is_ours: bool
) -> None:
    removed = user("removed")
    key = lose(plugin, player, removed)
    player.then(stands(L + 1), taken(key, L + 1), unknown())
    assert a_pass(plugin, user(pkey=2)) is not None
    key = player.posts[-1].headers["idempotency-key"]
    count = len(player.posts)
    end = Reply(200, {"last_offset": L + 2, "last_key": key if is_ours else "theirs"})
    player.then(end, *([] if is_ours else [written(2, end=L + 2)]), end, AGAIN)
    assert a_pass(plugin, removed) == (None if is_ours else ANOTHER)
    assert len(player.posts) == count + is_ours


@pytest.mark.parametrize("is_recognised", [True, False])
def test_a_removal_ends_that_what_is_no_removal_is_recognised(
    plugin: Any, player: Player, *, is_recognised: bool
) -> None:
    """A target that removes a user may remove its memberships too."""
    lost = user("removed" if is_recognised else "added")
    key = lose(plugin, player, lost)
    player.then(stands(L + 1), taken(key, L + 1), stored(L + 2), REFUSED)
    assert a_pass(plugin, user("removed", pkey=2), user(pkey=3)) is not None
    count = len(player.posts)
    then = [stands(L + 2), AGAIN] if is_recognised else [stored(L + 3)]
    player.then(stands(L + 2), *then)
    assert a_pass(plugin, lost) is None
    assert len(player.posts) == count + 1
    is_again = player.posts[-1].headers["idempotency-key"] == key
    assert is_again is is_recognised


def test_a_lost_event_is_forgotten_after_a_pass_that_did_not_bring_it_again(
    plugin: Any, player: Player
) -> None:
    removed = user("removed", pkey=1)
    key = lose(plugin, player, removed)
    player.then(stands(L + 1), taken(key, L + 1), stored(L + 2))
    assert a_pass(plugin, user(pkey=2)) is None
    count = len(player.posts)
    player.then(stands(L + 2), stored(L + 3))
    assert a_pass(plugin, removed) is None
    assert len(player.posts) == count + 1


def test_a_lost_event_that_lands_after_such_a_pass_is_not_recognised(
    plugin: Any, player: Player
) -> None:
    added = user("added")
    key = lose(plugin, player, added)
    player.then(stands(L))
    assert a_pass(plugin) is None  # the source went back
    player.then(stands(L + 1), taken(key, L + 1), stored(L + 2))
    assert a_pass(plugin, added) is None
    assert player.posts[-1].headers["if-match"] == f'"{L + 1}"'


def test_one_two_one_are_three_events_though_the_first_was_lost_and_stored(
    plugin: Any, player: Player
) -> None:
    one, two = user(a=1), user(a=2)
    key = lose(plugin, player, one)
    count = len(player.posts)
    player.then(stands(L + 1), taken(key, L + 1), stored(L + 2), stored(L + 3))
    assert a_pass(plugin, two, one) is None
    assert [request.body for request in player.posts[count:]] == [
        two.to_json().encode(),
        two.to_json().encode(),
        one.to_json().encode(),
    ]


def test_one_two_one_are_three_events_though_the_first_two_were_lost(
    plugin: Any, player: Player
) -> None:
    one, two = user(a=1), user(a=2)
    first_key = lose(plugin, player, one)
    lose(plugin, player, two)  # with the same L: one of both stands there, or none
    count = len(player.posts)
    player.then(stands(L + 1), taken(first_key, L + 1), stored(L + 2), stored(L + 3))
    assert a_pass(plugin, two, one) is None
    bodies = [request.body for request in player.posts[count:]]
    assert bodies[-2:] == [two.to_json().encode(), one.to_json().encode()]


@pytest.mark.parametrize("end", [unknown(), REFUSED], ids=["unknown", "refused"])
def test_any_later_event_of_the_object_ends_that_it_is_recognised(
    plugin: Any, player: Player, end: Reply
) -> None:
    """The source goes back: what then looks the same comes after the other (P2)."""
    one, two = user(a=1), user(a=2)
    key = lose(plugin, player, one)
    player.then(stands(L + 1), taken(key, L + 1), end)
    assert a_pass(plugin, two) is not None
    count = len(player.posts)
    player.then(stands(L + 1), stored(L + 2))
    assert a_pass(plugin, one) is None
    assert [request.body for request in player.posts[count:]] == [
        one.to_json().encode()
    ]


AGAIN = stored(L + 1, duplicate=True)
"""What a lost event's own request is answered, where it stands behind L."""


def written(*pkeys: int, end: int) -> Reply:
    """Answer with a page that has an event of each of these users."""
    rows = [{"data": event_bytes(objpkey=pkey).decode()} for pkey in pkeys]
    return page_of(rows, end)


def page_of(rows: list[dict[str, Any]], end: int) -> Reply:
    ends = {"next_offset": end + 1, "last_offset": end}
    return Reply(200, {"events": rows} | ends)


@pytest.mark.parametrize(
    ("pages", "is_recognised"),
    [
        ([written(2, end=L + 2)], True),
        ([written(2, 1, end=L + 3)], False),
        ([written(2, end=L + 1)], False),
        ([problem(403, "wrong_role")] * 21, False),  # twice a second, for 10 s
        ([page_of([{"data": 7}], L + 9)], False),
        ([page_of([{"data": "[]"}], L + 9)], False),
    ],
    ids=["another", "the same", "cut", "role", "odd", "no event"],
)
def test_an_event_of_another_producer_ends_that_its_object_is_recognised(
    plugin: Any, player: Player, pages: list[Reply], *, is_recognised: bool
) -> None:
    """Where that cannot be known, an event twice is better than one lost."""
    removed = user("removed")
    key = lose_and_learn(plugin, player, removed)
    count = len(player.posts)
    then = [stands(L + 2), AGAIN] if is_recognised else [stored(L + 3)]
    player.then(stands(L + 2), *pages, *then)
    assert a_pass(plugin, removed) is None
    asked = {request.path for request in player.requests if "?" in request.path}
    assert asked == {f"/v1/events?offset={L + 2}&limit=5000&wait=5"}
    assert len(player.posts) == count + 1
    is_again = player.posts[-1].headers["idempotency-key"] == key
    assert is_again is is_recognised


@pytest.mark.parametrize(
    ("foreign", "is_recognised"),
    [
        ({"evcategory": "initsync", "eventtype": "init-start"}, True),
        ({"evcategory": "initsync", "eventtype": "init-stop"}, False),
        ({"eventtype": "dataschema"}, False),
        ({"eventtype": "removed", "objtype": "Groups", "objpkey": 9}, False),
        ({"eventtype": "added", "objtype": "Groups", "objpkey": 9}, True),
    ],
    ids=["start", "initsync", "schema", "removal", "another"],
)
def test_what_another_producer_did_ends_what_it_would_end_of_ours(
    plugin: Any, player: Player, foreign: dict[str, Any], *, is_recognised: bool
) -> None:
    added = user("added")
    key = lose_and_learn(plugin, player, added)
    rows = [
        {"data": event_bytes(**{"objtype": None, "objpkey": None} | foreign).decode()}
    ]
    end = L + 2
    then = [stands(end), AGAIN] if is_recognised else [stored(L + 3)]
    player.then(stands(end), page_of(rows, end), *then)
    assert a_pass(plugin, added) is None
    is_again = player.posts[-1].headers["idempotency-key"] == key
    assert is_again is is_recognised


@pytest.mark.parametrize("status", ["taken", "gone"])
def test_a_lost_event_that_a_restore_took_away_is_sent_again(
    plugin: Any, player: Player, status: str
) -> None:
    added = user("added")
    key = lose_and_learn(plugin, player, added)
    answer = taken("theirs", L + 1) if status == "taken" else GONE
    player.then(stands(L + 1), stands(L + 1), answer, stored(L + 2))
    assert a_pass(plugin, added) is None
    assert player.posts[-1].body == added.to_json().encode()
    assert player.posts[-1].headers["if-match"] == f'"{L + 1}"'
    assert player.posts[-1].headers["idempotency-key"] != key


def test_a_lost_event_of_which_nothing_can_be_learned_is_kept(
    plugin: Any, player: Player
) -> None:
    added = user("added")
    key = lose_and_learn(plugin, player, added)
    player.then(stands(L + 1), stands(L + 1), unknown())
    text = a_pass(plugin, added)
    assert text is not None
    assert text.startswith("Event not stored: ")  # this one was never sent
    player.then(stands(L + 1), stands(L + 1), AGAIN)
    assert a_pass(plugin, added) is None
    assert player.posts[-1].headers["idempotency-key"] == key


def test_a_stream_restored_to_before_a_lost_event_is_said_once(
    plugin: Any, player: Player
) -> None:
    added = user("added")
    lose_and_learn(plugin, player, added)
    player.then(stands(L - 3))
    assert a_pass(plugin, added) == (
        "Event not stored: "
        "the stream ends before what was stored in it: was it restored?"
    )
    player.then(stands(L - 3), stored(L - 2))
    assert a_pass(plugin, added) is None
    assert player.posts[-1].headers["if-match"] == f'"{L - 3}"'


def test_an_end_before_a_lost_event_may_be_an_old_leaders(
    plugin: Any, player: Player
) -> None:
    added = user("added")
    key = lose_and_learn(plugin, player, added)
    player.then(stands(L), stands(L), stands(L), stands(L + 1), AGAIN)
    assert a_pass(plugin, added) is None
    assert player.posts[-1].headers["idempotency-key"] == key


def test_a_source_that_went_back_from_a_lost_event_is_told(
    plugin: Any, player: Player, caplog: pytest.LogCaptureFixture
) -> None:
    key = lose(plugin, player, user("added", pkey=1))
    player.then(stands(L + 1), taken(key, L + 1), stored(L + 2))
    assert a_pass(plugin, user(pkey=2)) is None
    assert "1 events of a pass that was cut off" in caplog.text
    caplog.clear()
    player.then(stands(L + 2), stored(L + 3))
    assert a_pass(plugin, user(pkey=2)) is None
    assert "cut off" not in caplog.text


def test_no_pass_begins_before_that_is_known(plugin: Any, player: Player) -> None:
    removed = user("removed")
    lose_and_learn(plugin, player, removed)
    count = len(player.posts)
    player.then(stands(L + 2), problem(503, "nats_down", None, "1"))
    text = a_pass(plugin, removed)
    assert text == "No message bus: Title of nats_down. Mend it. (nats_down)"
    player.then(stands(L + 2), NO_ANSWER, written(2, end=L + 2), stands(L + 2), AGAIN)
    assert a_pass(plugin, removed) is None
    assert len(player.posts) == count + 1


def test_an_event_of_another_producer_counts_also_where_one_is_in_doubt(
    plugin: Any, player: Player
) -> None:
    removed = user("removed")
    key = lose(plugin, player, removed)
    player.then(stands(L + 1), taken(key, L + 1), unknown())
    assert a_pass(plugin, user(pkey=2)) is not None
    count = len(player.posts)
    player.then(stands(L + 2), written(1, end=L + 2), taken("theirs", L + 2))
    assert a_pass(plugin, removed) == ANOTHER
    assert len(player.posts) == count + 1


def test_the_same_password_set_twice_is_two_events(plugin: Any, player: Player) -> None:
    password = user(password="x")
    player.then(stands(L), stored(L + 1), stored(L + 2))
    assert a_pass(plugin, password, password) is None
    assert len(player.posts) == 2


def test_the_same_password_lost_and_set_twice_more_is_one_more_event(
    plugin: Any, player: Player
) -> None:
    password = user(password="x")
    key = lose(plugin, player, password)
    count = len(player.posts)
    player.then(stands(L + 1), taken(key, L + 1), stored(L + 2))
    assert a_pass(plugin, password, password) is None
    assert len(player.posts) == count + 2


def test_a_lost_event_that_is_shown_when_the_time_is_up_is_still_recognised(
    plugin: Any, player: Player, clock: Clock
) -> None:
    removed = user("removed")
    key = lose(plugin, player, removed)
    player.then(stands(L + 1), taken(key, L + 1))
    with plugin:
        plugin._http.store = partial(late, plugin._http.store, clock)
        assert send(plugin, user(pkey=2)) is not None
        count = len(player.posts)
        player.then(stands(L + 1), AGAIN)
        assert send(plugin, removed) is None
    assert len(player.posts) == count + 1


def late(store: Any, clock: Clock, *request: Any) -> Any:
    clock.sleep(31)
    return store(*request)


def test_an_event_with_other_bytes_is_not_taken_for_the_lost_one(
    plugin: Any, player: Player
) -> None:
    key = lose(plugin, player, user(a=1))
    player.then(stands(L + 1), taken(key, L + 1), stored(L + 2))
    assert a_pass(plugin, user(a=2)) is None
    assert player.posts[-1].headers["if-match"] == f'"{L + 1}"'


@pytest.mark.parametrize(
    ("category", "kind"),
    [
        ("initsync", "added"),
        ("initsync", "init-start"),
        ("initsync", "init-stop"),
        ("base", "dataschema"),
    ],
)
def test_initsync_and_dataschema_are_never_swallowed(
    plugin: Any, player: Player, category: str, kind: str
) -> None:
    event = new_event(category, kind)
    key = lose(plugin, player, event)
    player.then(stands(L + 1), taken(key, L + 1), stored(L + 2))
    assert a_pass(plugin, event) is None
    assert player.posts[-1].headers["if-match"] == f'"{L + 1}"'
    assert player.posts[-1].body == event.to_json().encode()


def test_an_initsync_repeated_after_an_abort_is_sent_whole(
    plugin: Any, player: Player
) -> None:
    start, added, stop = (
        new_event("initsync", kind) for kind in ("init-start", "added", "init-stop")
    )
    player.then(stands(L), stored(L + 1), unknown())
    assert a_pass(plugin, start, added, stop) is not None
    key = player.posts[-1].headers["idempotency-key"]
    count = len(player.posts)
    player.then(stands(L + 2), taken(key, L + 2), *map(stored, range(L + 3, L + 6)))
    assert a_pass(plugin, start, added, stop) is None
    assert [request.body for request in player.posts[count:]] == [
        event.to_json().encode() for event in (start, start, added, stop)
    ]


@pytest.mark.parametrize("is_resolved", [True, False])
@pytest.mark.parametrize("is_stop_lost", [True, False])
def test_an_initsync_ends_that_lost_events_are_recognised(
    plugin: Any, player: Player, *, is_resolved: bool, is_stop_lost: bool
) -> None:
    """Hermes makes it of its cache, which lacks them: a new client needs them again."""
    added = user("added")
    start, stop = (
        new_event("initsync", kind, objtype=None, objpkey=None)
        for kind in ("init-start", "init-stop")
    )
    if is_resolved:
        lose_and_learn(plugin, player, added)
        learns = []
    else:
        learns = [taken(lose(plugin, player, added), L + 1)]
    stop_answer = unknown() if is_stop_lost else stored(L + 3)
    player.then(stands(L + 1), *learns, stored(L + 2), stop_answer)
    assert (a_pass(plugin, start, stop) is not None) is is_stop_lost
    key = player.posts[-1].headers["idempotency-key"]
    learns = [taken(key, L + 3)] if is_stop_lost else []
    player.then(stands(L + 3), *learns, stored(L + 4))
    assert a_pass(plugin, added) is None
    assert player.posts[-1].body == added.to_json().encode()
    assert player.posts[-1].headers["if-match"] == f'"{L + 3}"'


# -- Another producer ------------------------------------------------------------------

ANOTHER = (
    "Event not stored: "
    "another producer wrote to the stream, so Hermes has to compute anew"
)


def test_an_event_of_another_producer_ends_the_pass_and_the_next_one_goes_on(
    plugin: Any, player: Player
) -> None:
    """What is left of the pass was computed before it (issue 28, case 57)."""
    player.then(stands(L), stored(L + 1), taken("theirs", L + 4))
    assert a_pass(plugin, user(pkey=1), user(pkey=2), user(pkey=3)) == ANOTHER
    assert len(player.posts) == 2
    player.then(stands(L + 5), stored(L + 6))
    assert a_pass(plugin, user(pkey=2)) is None
    assert player.posts[-1].headers["if-match"] == f'"{L + 5}"'


@pytest.mark.parametrize("last", [L, L + 1])  # the first lags behind
def test_nothing_more_of_that_pass_is_sent_whoever_tries(
    plugin: Any, player: Player, last: int
) -> None:
    player.then(stands(L), taken("theirs", last), stored(L + 2))
    with plugin:
        assert send(plugin, user(pkey=1)) == ANOTHER
        assert send(plugin, user(pkey=2)) == ANOTHER
    assert len(player.posts) == 1


def test_another_producer_after_an_unanswered_copy_leaves_no_doubt(
    plugin: Any, player: Player
) -> None:
    player.then(stands(L), NO_ANSWER, taken("theirs", L + 1))
    assert a_pass(plugin, user()) == ANOTHER
    player.then(stands(L + 1), stored(L + 2))
    assert a_pass(plugin, user()) is None
    assert player.posts[-1].headers["if-match"] == f'"{L + 1}"'


def test_a_lost_event_whose_place_another_producer_took_is_dead(
    plugin: Any, player: Player
) -> None:
    removed = user("removed")
    lose(plugin, player, removed)
    player.then(stands(L + 1), taken("theirs", L + 1), stored(L + 2))
    assert a_pass(plugin, removed) == ANOTHER
    player.then(stands(L + 1), stored(L + 2))
    assert a_pass(plugin, removed) is None
    assert player.posts[-1].headers["if-match"] == f'"{L + 1}"'
    assert player.posts[-1].body == removed.to_json().encode()


def test_a_lost_event_that_stands_before_another_producers_is_not_the_end(
    plugin: Any, player: Player
) -> None:
    removed = user("removed")
    key = lose(plugin, player, removed)
    player.then(stands(L + 2), taken(key, L + 2), stored(L + 3))
    assert a_pass(plugin, removed) == ANOTHER
    player.then(stands(L + 2), written(1, end=L + 2), stored(L + 3))
    assert a_pass(plugin, removed) is None
    assert player.posts[-1].headers["if-match"] == f'"{L + 2}"'


def test_another_producer_ends_an_initsync(plugin: Any, player: Player) -> None:
    start, added, stop = (
        new_event("initsync", kind) for kind in ("init-start", "added", "init-stop")
    )
    player.then(stands(L), stored(L + 1), taken("theirs", L + 2), stored(L + 3))
    assert a_pass(plugin, start, added, stop) == ANOTHER
    assert len(player.posts) == 2


def test_a_lost_event_is_no_second_producer(
    plugin: Any, player: Player, caplog: pytest.LogCaptureFixture
) -> None:
    key = lose(plugin, player, user(a=1))
    caplog.clear()
    player.then(stands(L + 1), taken(key, L + 1), stored(L + 2))
    with caplog.at_level(logging.WARNING):
        assert a_pass(plugin, user(a=2)) is None
    assert "Another producer" not in caplog.text


# -- Real sidecars ---------------------------------------------------------------------


def bodies(nats: NatsProcess, since: int) -> list[bytes]:
    with Operator(nats.port) as operator:
        last = operator.state("hermes")["last_seq"]
        return [operator.body("hermes", n) for n in range(since + 1, last + 1)]


def test_events_stand_in_the_stream_verbatim_and_in_order(
    hermes_home: Path, sidecar: SidecarProcess, nats: NatsProcess
) -> None:
    events = [user(pkey=number, name="Zoé") for number in range(20)]
    with sidecar.client() as http:
        last = last_offset(http)
    plugin = load_plugin(hermes_home, FAMILY, {"url": sidecar.url})
    with plugin:
        for event in events:
            plugin.send(event)
    assert bodies(nats, last) == [event.to_json().encode() for event in events]


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback")
def test_a_sidecar_on_ipv6_is_reached(
    hermes_home: Path, nats: NatsProcess, tmp_path: Path
) -> None:
    with sidecar_on(nats, tmp_path, http_host="::1", tcp_api="open") as process:
        url = f"http://[::1]:{process.tcp_port}"
        assert a_pass(load_plugin(hermes_home, FAMILY, {"url": url}), user()) is None


def certificate(directory: Path) -> tuple[Path, Path]:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl command")
    cert, key = directory / "cert.pem", directory / "key.pem"
    subprocess.run(
        [
            *(openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-keyout", key, "-out", cert, "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
        ],
        check=True,
        capture_output=True,
    )
    return cert, key


def test_a_sidecar_over_https_with_a_token_is_reached_and_its_certificate_checked(
    hermes_home: Path, nats: NatsProcess, tmp_path: Path, clock: Clock
) -> None:
    cert, key = certificate(tmp_path)
    token = tmp_path / "token"
    token.write_text("c0rrect-horse\n")
    with sidecar_on(
        nats,
        tmp_path / "s",
        token_file=token,
        tls_cert_file=cert,
        tls_key_file=key,
    ) as process:
        url = f"https://localhost:{process.tcp_port}"
        good = {"url": url, "cafile": str(cert), "token_file": str(token)}
        assert a_pass(load_plugin(hermes_home, FAMILY, good), user()) is None
        unchecked = {"url": url, "token_file": str(token)}
        text = once(timed(load_plugin(hermes_home, FAMILY, unchecked), clock))
        assert text is not None
        assert "can be reached" in text or "certificate" in text
        no_token = {"url": url, "cafile": str(cert)}
        text = once(timed(load_plugin(hermes_home, FAMILY, no_token), clock))
        assert text is not None
        assert "unauthorized" in text


def test_a_sidecar_over_http_with_a_token_is_reached(
    hermes_home: Path, nats: NatsProcess, tmp_path: Path, clock: Clock
) -> None:
    token = tmp_path / "token"
    token.write_text("c0rrect-horse\n")
    with sidecar_on(nats, tmp_path / "s", token_file=token) as process:
        settings = {
            "url": f"http://127.0.0.1:{process.tcp_port}",
            "token_file": str(token),
        }
        assert a_pass(load_plugin(hermes_home, FAMILY, settings), user()) is None
        (tmp_path / "wrong").write_text("wrong")
        settings["token_file"] = str(tmp_path / "wrong")
        text = once(timed(load_plugin(hermes_home, FAMILY, settings), clock))
        assert text is not None
        assert "unauthorized" in text


def test_an_event_lost_in_a_frozen_nats_and_stored_is_not_doubled(
    hermes_home: Path, tmp_path: Path
) -> None:
    with NatsProcess(tmp_path / "nats") as own:
        wait_jetstream(own.port)
        with sidecar_on(
            own, tmp_path / "s", "hermes", publish_timeout_seconds=1
        ) as process:
            settings = {"url": process.url, "send_timeout": 5, "unknown_timeout": 2}
            plugin = load_plugin(hermes_home, FAMILY, settings)
            with process.client() as http:
                last = last_offset(http)
            removed, other = user("removed"), user(pkey=2)
            text = a_pass(plugin, removed, once_open=own.freeze)
            own.thaw()
            assert text is not None
            assert text.startswith("It is not known")
            with Operator(own.port) as operator:
                wait_until(lambda: operator.state("hermes")["last_seq"] == last + 1)
            process.wait_stream()
            assert a_pass(plugin, other, removed) is None
            assert bodies(own, last) == [
                removed.to_json().encode(),
                other.to_json().encode(),
            ]


@pytest.fixture
def patient(nats: NatsProcess, tmp_path: Path) -> Iterator[SidecarProcess]:
    """Start a sidecar that would hold a request for longer than any attempt."""
    with sidecar_on(nats, tmp_path / "s", publish_timeout_seconds=60) as process:
        yield process


def test_a_patient_sidecar_says_not_stored_before_the_plugin_gives_up(
    hermes_home: Path, patient: SidecarProcess
) -> None:
    """It waits for 5 s of agreement until it says that the stream ends before L."""
    settings = {"url": patient.url, "send_timeout": 10, "unknown_timeout": 10}
    plugin = load_plugin(hermes_home, FAMILY, settings)
    with patient.client() as http:
        plugin._last = last_offset(http) + 10
    text = send(plugin, user())
    plugin.close()
    assert text is not None
    assert text.startswith("Event not stored: ")


def test_a_patient_sidecar_says_unknown_before_the_plugin_gives_up(
    hermes_home: Path, tmp_path: Path
) -> None:
    with NatsProcess(tmp_path / "nats") as own:
        wait_jetstream(own.port)
        with sidecar_on(own, tmp_path / "s", publish_timeout_seconds=60) as process:
            settings = {"url": process.url, "send_timeout": 1, "unknown_timeout": 1}
            with load_plugin(hermes_home, FAMILY, settings) as plugin:
                own.freeze()
                text = send(plugin, user())
                own.thaw()
    assert text is not None
    assert text.endswith("(unknown)")


def test_a_sidecar_killed_between_two_events_is_waited_for(
    hermes_home: Path, nats: NatsProcess, tmp_path: Path
) -> None:
    with sidecar_on(nats, tmp_path, "hermes") as process:
        plugin = load_plugin(hermes_home, FAMILY, {"url": process.url})
        with process.client() as http:
            last = last_offset(http)
        with plugin:
            plugin.send(user(pkey=1))
            process.kill()
            process.start()
            plugin.send(user(pkey=2))
        assert bodies(nats, last) == [
            user(pkey=1).to_json().encode(),
            user(pkey=2).to_json().encode(),
        ]


# -- Other Pythons ---------------------------------------------------------------------


def pythons() -> dict[str, str]:
    """Each Python from 3.10 that this machine has, by its version."""
    candidates = [sys.executable]
    candidates += filter(None, (shutil.which(f"python3.{n}") for n in range(10, 16)))
    candidates += map(str, Path.home().glob(".pyenv/versions/3.*/bin/python3"))
    found: dict[str, str] = {}
    for candidate in candidates:
        ran = subprocess.run(
            [candidate, "-c", "import sys, ssl; print('%d.%d' % sys.version_info[:2])"],
            capture_output=True,
            text=True,
            check=False,
        )
        version = ran.stdout.strip()
        if ran.returncode == 0 and tuple(map(int, version.split("."))) >= (3, 10):
            found.setdefault(version, candidate)
    return found


PYTHONS = pythons()


@pytest.mark.parametrize("python", PYTHONS.values(), ids=PYTHONS)
def test_both_plugins_work_on_each_python_of_this_machine(
    hermes_home: Path, sidecar: SidecarProcess, python: str
) -> None:
    ran = subprocess.run(
        [
            *(python, "-I", "-B", "-W", "error", OTHER_PYTHON, hermes_home),
            *(sysconfig.get_path("purelib"), sidecar.url),
        ],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env={"PATH": os.defpath},
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == ""
