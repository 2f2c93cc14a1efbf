# SPDX-License-Identifier: Apache-2.0
"""A stream that ends before the producer plugin's offset: a moment, or a restore."""

from __future__ import annotations

from typing import Any

import pytest
from support.fake_sidecar import (
    NO_ANSWER,
    Clock,
    FakeSidecar,
    L,
    Reply,
    matches,
    problem,
    stands,
    stored,
    taken,
)
from support.producer_passes import (
    AHEAD,
    GONE,
    NOTHING,
    a_pass,
    lose,
    lose_and_learn,
    send,
    user,
)


def test_an_offset_that_is_ahead_is_asked_for_again_while_in_doubt(
    plugin: Any, fake: FakeSidecar
) -> None:
    """An old leader may have said it, while the event stands (P1)."""
    fake.then(stands(L), NO_ANSWER, AHEAD, AHEAD, stored(L + 1))
    assert a_pass(plugin, user()) is None
    assert len({request.headers["idempotency-key"] for request in fake.posts}) == 1
    assert len(fake.posts) == 4


def test_an_event_in_doubt_is_kept_though_its_offset_is_ahead(
    plugin: Any, fake: FakeSidecar, clock: Clock
) -> None:
    removed = user("removed")
    fake.then(stands(L), NO_ANSWER, AHEAD)
    started_at = clock.now()
    text = a_pass(plugin, removed)
    assert 59 <= clock.now() - started_at <= 61
    assert text is not None
    assert text.startswith("It is not known whether the event was stored")
    key = fake.posts[-1].headers["idempotency-key"]
    count = len(fake.posts)
    fake.then(stands(L + 1), AHEAD, taken(key, L + 1))
    assert a_pass(plugin, removed) is None
    assert {request.headers["if-match"] for request in fake.posts[count:]} == {f'"{L}"'}


def test_what_is_remembered_of_another_stream_is_forgotten_in_the_end(
    plugin: Any, fake: FakeSidecar, clock: Clock
) -> None:
    removed = user("removed")
    lose(plugin, fake, removed)
    fake.then(stands(L + 1), AHEAD)
    started_at = clock.now()
    assert a_pass(plugin, user(pkey=2)) is not None
    assert clock.now() - started_at == 30
    fake.then(stands(7), stored(8))
    assert a_pass(plugin, removed) is None
    assert fake.posts[-1].headers["if-match"] == '"7"'
    assert not plugin._doubts.are_open


@pytest.mark.parametrize("before", [[], [NO_ANSWER]], ids=["sure", "in doubt"])
def test_an_offset_that_is_gone_ends_all_that_is_remembered_at_once(
    plugin: Any, fake: FakeSidecar, clock: Clock, before: list[Reply]
) -> None:
    """A stream never begins earlier than it did: nobody will ever know more."""
    lose(plugin, fake, user("removed"))
    fake.then(stands(L + 1), *before, GONE)
    started_at, count = clock.now(), len(fake.posts)
    text = a_pass(plugin, user(pkey=2))
    assert text is not None
    assert text.startswith("It is not known whether the event was stored")
    assert clock.now() - started_at == pytest.approx(10)
    assert len(fake.posts) - count == 1 + len(before)
    fake.then(stands(7), stored(8))
    assert a_pass(plugin, user("removed")) is None
    assert fake.posts[-1].headers["if-match"] == '"7"'


@NOTHING
def test_a_stored_event_of_another_stream_is_not_recognised(
    plugin: Any, fake: FakeSidecar, nothing: Reply
) -> None:
    removed = user("removed")
    key = lose(plugin, fake, removed)
    fake.then(stands(L + 1), taken(key, L + 1), nothing)
    assert a_pass(plugin, user(pkey=2)) is not None
    fake.then(stands(L + 1), nothing)
    assert a_pass(plugin, user(pkey=2)) is not None
    count = len(fake.posts)
    assert send(plugin, removed) is not None
    assert len(fake.posts) == count  # nor is anything sent before it is asked for
    fake.then(stands(7), stored(8))
    assert a_pass(plugin, removed) is None
    assert len(fake.posts) == count + 1
    assert not any("?" in request.path for request in fake.requests)


def test_a_stored_event_outlives_what_an_old_leader_says_for_a_moment(
    plugin: Any, fake: FakeSidecar
) -> None:
    removed = user("removed")
    lose_and_learn(plugin, fake, removed)
    fake.then(stands(L + 1), AHEAD, stored(L + 2), matches(L + 2))
    count = len(fake.posts)
    assert a_pass(plugin, user(pkey=3), removed) is None
    assert len(fake.posts) == count + 3


def test_a_passing_answer_among_them_shows_that_it_may_pass(
    plugin: Any, fake: FakeSidecar
) -> None:
    """The sidecar or the cluster has just come back: an old leader may answer."""
    removed = user("removed")
    key = lose(plugin, fake, removed)
    down = problem(503, "nats_down", "not_stored", "29")
    fake.then(stands(L + 1), down, AHEAD)
    assert a_pass(plugin, user(pkey=2)) is not None
    fake.then(stands(L + 1), taken(key, L + 1))
    assert a_pass(plugin, removed) is None


def test_an_offset_that_is_ahead_of_an_unanswered_copy_is_a_doubt(
    plugin: Any, fake: FakeSidecar
) -> None:
    """The sidecar sent a copy that had no answer, then an old leader answered."""
    ahead = problem(409, "offset_ahead", "unknown")
    fake.then(stands(L), ahead, AHEAD, stored(L + 1, duplicate=True))
    assert a_pass(plugin, user()) is None
    assert len(fake.posts) == 3


def test_an_end_before_what_was_stored_is_not_believed(
    plugin: Any, fake: FakeSidecar
) -> None:
    fake.then(stands(L), stored(L + 1), stands(L), stored(L + 2))
    assert a_pass(plugin, user()) is None
    assert a_pass(plugin, user()) is None
    assert fake.posts[-1].headers["if-match"] == f'"{L + 1}"'


def test_a_lost_event_that_a_restore_took_away_is_sent_again(
    plugin: Any, fake: FakeSidecar
) -> None:
    added = user("added")
    key = lose_and_learn(plugin, fake, added)
    fake.then(stands(L + 1), matches(L + 1, matches=False), stored(L + 2))
    assert a_pass(plugin, added) is None
    assert fake.posts[-1].body == added.to_json().encode()
    assert fake.posts[-1].headers["if-match"] == f'"{L + 1}"'
    assert fake.posts[-1].headers["idempotency-key"] != key


def test_a_lost_event_of_which_nothing_can_be_learned_is_kept(
    plugin: Any, fake: FakeSidecar
) -> None:
    added = user("added")
    lose_and_learn(plugin, fake, added)
    fake.then(stands(L + 1), problem(503, "nats_down", None, "1"))
    text = a_pass(plugin, added)
    assert text is not None
    assert text.startswith("No message bus: ")  # this one was never sent
    fake.then(stands(L + 1), matches(L + 1))
    assert a_pass(plugin, added) is None
    assert fake.is_matched


def test_a_stream_restored_to_before_a_lost_event_is_said_once(
    plugin: Any, fake: FakeSidecar
) -> None:
    added = user("added")
    lose_and_learn(plugin, fake, added)
    fake.then(stands(L - 3), matches(L - 3, matches=False))
    assert a_pass(plugin, added) == (
        "Event not stored: "
        "the stream ends before an event that was stored in it: was it restored?"
    )
    fake.then(stands(L - 3), stored(L - 2))
    assert a_pass(plugin, added) is None
    assert fake.posts[-1].headers["if-match"] == f'"{L - 3}"'


def test_an_end_before_a_lost_event_may_be_an_old_leaders(
    plugin: Any, fake: FakeSidecar
) -> None:
    added = user("added")
    lose_and_learn(plugin, fake, added)
    fake.then(stands(L), matches(L), matches(L), matches(L + 1))
    assert a_pass(plugin, added) is None
    assert fake.requests[-4].path == "/v1/stream"


def test_a_source_that_went_back_from_a_lost_event_is_told(
    plugin: Any, fake: FakeSidecar, caplog: pytest.LogCaptureFixture
) -> None:
    key = lose(plugin, fake, user("added", pkey=1))
    fake.then(stands(L + 1), taken(key, L + 1), stored(L + 2))
    assert a_pass(plugin, user(pkey=2)) is None
    assert "1 events of an interrupted pass" in caplog.text
    caplog.clear()
    fake.then(stands(L + 2), stored(L + 3))
    assert a_pass(plugin, user(pkey=2)) is None
    assert "interrupted" not in caplog.text


def test_no_pass_begins_before_that_is_known(plugin: Any, fake: FakeSidecar) -> None:
    removed = user("removed")
    lose_and_learn(plugin, fake, removed)
    count = len(fake.posts)
    fake.then(stands(L + 2), problem(503, "nats_down", None, "1"))
    text = a_pass(plugin, removed)
    assert text == "No message bus: Title of nats_down. Mend it. (nats_down)"
    fake.then(stands(L + 2), NO_ANSWER, matches(L + 2))
    assert a_pass(plugin, removed) is None
    assert {each.path.partition("?")[0] for each in fake.posts[count:]} == {"/v1/match"}
