# SPDX-License-Identifier: Apache-2.0
"""What the producer plugin sends, and how often, until its event is stored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from support.fake_sidecar import (
    NO_ANSWER,
    Clock,
    FakeSidecar,
    L,
    Reply,
    problem,
    stands,
    stored,
    stored_minimally,
    timed,
    unknown,
)
from support.hermes import load_plugin
from support.producer_passes import FAMILY, a_pass, user

from sidecar.model.producer_key import producer_of

if TYPE_CHECKING:
    from pathlib import Path


def test_an_event_is_posted_verbatim_with_its_precondition_and_a_key(
    plugin: Any, fake: FakeSidecar
) -> None:
    event = user(name="Zoé")
    fake.then(stands(L), stored(L + 1))
    assert a_pass(plugin, event) is None
    (request,) = fake.posts
    assert request.path == "/v1/events"
    assert request.body == event.to_json().encode()
    assert request.headers["if-match"] == f'"{L}"'
    assert request.headers["content-type"] == "application/json"
    assert request.headers["host"] == fake.url.partition("//")[2]
    assert request.headers["prefer"] == "return=minimal, wait=15"


def test_a_key_says_process_pass_attempt_and_number(
    hermes_home: Path, fake: FakeSidecar, clock: Clock
) -> None:
    fake.then(stands(L), *(stored_minimally(L + n) for n in range(1, 4)), stands(L))
    for _ in range(2):
        plugin = timed(load_plugin(hermes_home, FAMILY, {"url": fake.url}), clock)
        assert a_pass(plugin, user(), user(), user()) is None
        fake.then(stands(L), *(stored_minimally(L + n) for n in range(1, 4)))
    keys = [request.headers["idempotency-key"] for request in fake.posts]
    processes = [key[:24] for key in keys]
    assert len(set(processes)) == 2
    assert [key[24:] for key in keys] == [f"{L}-1-{n}" for n in range(3)] * 2
    assert {producer_of(key) for key in keys} == set(processes)


def test_each_event_has_a_key_of_its_own_and_the_offset_before_it(
    plugin: Any, fake: FakeSidecar
) -> None:
    fake.then(stands(L), stored(L + 1), stored(L + 2), stored(L + 3))
    assert a_pass(plugin, user(), user(), user()) is None
    assert [request.headers["if-match"] for request in fake.posts] == [
        f'"{L}"',
        f'"{L + 1}"',
        f'"{L + 2}"',
    ]
    assert len({request.headers["idempotency-key"] for request in fake.posts}) == 3
    assert fake.connections == 1


def test_send_gives_the_offset(plugin: Any, fake: FakeSidecar) -> None:
    fake.then(stands(L), stored(L + 1))
    with plugin:
        assert plugin._send(user()) == L + 1


def test_a_duplicate_is_as_good_as_stored(plugin: Any, fake: FakeSidecar) -> None:
    fake.then(stands(L), stored(L + 1, duplicate=True), stored(L + 2))
    assert a_pass(plugin, user(), user()) is None
    assert fake.posts[1].headers["if-match"] == f'"{L + 1}"'


def test_close_ends_the_connection_and_open_makes_another(
    plugin: Any, fake: FakeSidecar
) -> None:
    fake.then(stands(L), stored(L + 1), stands(L + 1), stored(L + 2))
    assert a_pass(plugin, user()) is None
    assert a_pass(plugin, user()) is None
    assert fake.connections == 2


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
    plugin: Any, fake: FakeSidecar, answer: Reply | str
) -> None:
    fake.then(stands(L), answer, answer, stored(L + 1))
    assert a_pass(plugin, user()) is None
    assert len(fake.posts) == 3
    headers = {tuple(sorted(request.headers.items())) for request in fake.posts}
    assert len(headers) == len({request.body for request in fake.posts}) == 1


def test_retry_after_is_honoured(plugin: Any, fake: FakeSidecar, clock: Clock) -> None:
    refused = problem(503, "stream_full", "not_stored", "7")
    fake.then(stands(L), refused, refused, stored(L + 1))
    assert a_pass(plugin, user()) is None
    assert clock.slept == [7, 7]


def test_open_waits_for_a_sidecar_that_is_ready(
    plugin: Any, fake: FakeSidecar, clock: Clock
) -> None:
    down = problem(503, "nats_down", None, "1")
    fake.then(down, down, NO_ANSWER, stands(L), stored(L + 1))
    assert a_pass(plugin, user()) is None
    assert clock.slept[:2] == [1, 1]
    assert fake.posts[0].headers["if-match"] == f'"{L}"'
