# SPDX-License-Identifier: Apache-2.0
"""How long the producer plugin tries, and what it raises then."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import pytest
from support.fake_sidecar import (
    NO_ANSWER,
    BlackHole,
    Clock,
    FakeSidecar,
    L,
    Reply,
    problem,
    stands,
    stored,
    taken,
    timed,
)
from support.hermes import load_plugin
from support.nats import free_port
from support.producer_passes import (
    FAMILY,
    SECRET,
    a_pass,
    long_started,
    lose,
    send,
    user,
)

if TYPE_CHECKING:
    from pathlib import Path


def test_what_is_not_stored_is_raised_after_send_timeout(
    plugin: Any, fake: FakeSidecar, clock: Clock
) -> None:
    fake.then(stands(L), problem(503, "stream_full", "not_stored", "5"))
    started_at = clock.now()
    text = a_pass(plugin, user())
    assert clock.now() - started_at == 30
    assert text == "Event not stored: Title of stream_full. Mend it. (stream_full)"


def test_what_is_unknown_is_raised_after_unknown_timeout(
    plugin: Any, fake: FakeSidecar, clock: Clock
) -> None:
    started_at = clock.now()
    lose(plugin, fake, user())
    assert clock.now() - started_at == 60


@pytest.mark.parametrize(
    ("send_timeout", "waits"), [(30, [15, 15, 10]), (35, [15, 15, 15, 5]), (1, [3])]
)
def test_the_sidecar_is_told_how_long_each_attempt_waits(
    hermes_home: Path, clock: Clock, send_timeout: float, waits: list[int]
) -> None:
    """One that answers in that time is heard, in the last attempt too."""
    settings = {"url": "http://localhost", "send_timeout": send_timeout}
    plugin = long_started(timed(load_plugin(hermes_home, FAMILY, settings), clock))
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
    plugin: Any, fake: FakeSidecar, clock: Clock
) -> None:
    fake.then(stands(L), NO_ANSWER, problem(503, "nats_down", "not_stored", "1"))
    started_at = clock.now()
    text = a_pass(plugin, user())
    assert 59 <= clock.now() - started_at <= 61
    assert text is not None
    assert text.startswith("It is not known whether the event was stored")


@pytest.mark.parametrize("status", [400, 401, 403, 405, 413, 415, 422, 428])
def test_a_final_answer_is_raised_after_ten_seconds(
    plugin: Any, fake: FakeSidecar, clock: Clock, status: int
) -> None:
    fake.then(stands(L), problem(status, "final", "not_stored"))
    assert a_pass(plugin, user()) == (
        "Event not stored: Title of final. Mend it. (final)"
    )
    assert clock.slept == [1] * 10


def test_a_final_answer_after_an_unanswered_copy_proves_nothing(
    plugin: Any, fake: FakeSidecar
) -> None:
    fake.then(stands(L), NO_ANSWER, problem(401, "final", "not_stored"), stored(L + 1))
    assert a_pass(plugin, user()) is None


@pytest.mark.parametrize(
    ("status", "code"), [(409, "offset_ahead"), (410, "offset_gone")]
)
def test_an_offset_that_means_nothing_is_raised_and_asked_anew(
    plugin: Any, fake: FakeSidecar, status: int, code: str
) -> None:
    outcome = "not_stored" if status == 409 else "unknown"
    fake.then(stands(L), problem(status, code, outcome, last_offset=7))
    text = a_pass(plugin, user())
    assert len(fake.posts) == (10 if status == 409 else 1)
    what = "Event not" if status == 409 else "It is not known whether the event was"
    assert text is not None
    assert text.startswith(f"{what} stored: Title of {code}.")
    assert "7" not in text
    fake.then(stands(7), stored(8))
    assert a_pass(plugin, user()) is None
    assert fake.posts[-1].headers["if-match"] == '"7"'


def test_open_gives_up_after_send_timeout(
    plugin: Any, fake: FakeSidecar, clock: Clock
) -> None:
    fake.then(problem(503, "nats_down", None, "1"))
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
    assert texts == {f"No message bus: no sidecar at {url}: connection refused"}


def test_ten_minutes_without_a_stream_are_one_text(
    plugin: Any, fake: FakeSidecar, clock: Clock
) -> None:
    texts = set()
    ends_at = clock.now() + 600
    offset = L
    while clock.now() < ends_at:
        offset += 1
        full = problem(503, "stream_full", "not_stored", "5", jetstream_code=offset)
        fake.then(stands(offset), full)
        texts.add(a_pass(plugin, user(n=offset)))
        clock.sleep(60)
    assert texts == {"Event not stored: Title of stream_full. Mend it. (stream_full)"}


def test_a_sidecar_that_dies_while_it_is_asked_leaves_it_unknown(
    hermes_home: Path,
) -> None:
    with BlackHole() as hole:
        settings = {"url": hole.url, "send_timeout": 1, "unknown_timeout": 1}
        plugin = long_started(load_plugin(hermes_home, FAMILY, settings))
        text = send(plugin, user())
    assert text == (
        "It is not known whether the event was stored: the sidecar does not answer"
    )


@pytest.mark.parametrize("text", ["<html>Welcome</html>", "[]", "", "{}"])
def test_something_else_that_answers_200_is_no_sidecar(
    plugin: Any, fake: FakeSidecar, text: str
) -> None:
    fake.then(Reply(200, text=text))
    answer = a_pass(plugin, user())
    assert answer is not None
    assert answer.startswith("No message bus: ")
    fake.then(stands(L), Reply(200, text=text))
    answer = a_pass(plugin, user())
    assert answer is not None
    assert answer.startswith("It is not known whether the event was stored: ")


def test_whatever_ends_a_request_leaves_its_event_in_doubt(
    plugin: Any, fake: FakeSidecar
) -> None:
    """As a signal does, or an answer that no JSON parser takes."""
    removed = user("removed")
    fake.then(stands(L), stored(L + 1))
    store = plugin._http.store

    def store_and_end(*request: Any) -> Any:
        store(*request)
        raise KeyboardInterrupt

    plugin.open()
    plugin._http.store = store_and_end
    with pytest.raises(KeyboardInterrupt):
        plugin.send(removed)
    plugin._http.store = store
    key = fake.posts[-1].headers["idempotency-key"]
    fake.then(stands(L + 1), taken(key, L + 1))
    assert a_pass(plugin, removed) is None
    assert len(fake.posts) == 2


def test_a_deep_answer_is_no_answer(plugin: Any, fake: FakeSidecar) -> None:
    fake.then(stands(L), Reply(201, text="[" * 100_000), stored(L + 1))
    assert a_pass(plugin, user()) is None
    assert len(fake.posts) == 2


@pytest.mark.parametrize("offset", [L, L + 2, str(L + 1), None])
def test_a_whole_answer_with_another_offset_is_not_believed(
    plugin: Any, fake: FakeSidecar, offset: Any
) -> None:
    odd = Reply(201, {"offset": offset, "duplicate": False})
    fake.then(stands(L), odd, stored(L + 1))
    assert a_pass(plugin, user()) is None
    assert len(fake.posts) == 2


def test_a_repetition_behind_a_lost_event_has_a_key_of_its_own(
    plugin: Any, fake: FakeSidecar
) -> None:
    """nats-server 2.11 holds the id of a copy that it refused as it applied it."""
    key = lose(plugin, fake, user())
    fake.then(stands(L + 1), taken(key, L + 1), stored(L + 2))
    assert a_pass(plugin, user(pkey=2)) is None
    refused, repeated = (post.headers["idempotency-key"] for post in fake.posts[-2:])
    assert refused != repeated


def test_an_event_that_is_no_json_is_raised_without_its_value(plugin: Any) -> None:
    event = user()
    event.objattrs["odd"] = object()
    text = send(plugin, event)
    assert text is not None
    assert SECRET not in text
