# SPDX-License-Identifier: Apache-2.0
"""Another producer stores in the middle of a pass."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from support.fake_sidecar import (
    NO_ANSWER,
    FakeSidecar,
    L,
    matches,
    stands,
    stored,
    taken,
)
from support.hermes import new_event
from support.producer_passes import ANOTHER, a_pass, lose, send, user


def test_an_event_of_another_producer_ends_the_pass_and_the_next_one_goes_on(
    plugin: Any, fake: FakeSidecar
) -> None:
    """What is left of the pass was computed before it (issue 28, case 57)."""
    fake.then(stands(L), stored(L + 1), taken("theirs", L + 4))
    assert a_pass(plugin, user(pkey=1), user(pkey=2), user(pkey=3)) == ANOTHER
    assert len(fake.posts) == 2
    fake.then(stands(L + 5), stored(L + 6))
    assert a_pass(plugin, user(pkey=2)) is None
    assert fake.posts[-1].headers["if-match"] == f'"{L + 5}"'


@pytest.mark.parametrize("last", [L, L + 1])  # the first lags behind
def test_nothing_more_of_that_pass_is_sent_whoever_tries(
    plugin: Any, fake: FakeSidecar, last: int
) -> None:
    fake.then(stands(L), taken("theirs", last), stored(L + 2))
    with plugin:
        assert send(plugin, user(pkey=1)) == ANOTHER
        assert send(plugin, user(pkey=2)) == ANOTHER
    assert len(fake.posts) == 1


def test_another_producer_after_an_unanswered_copy_leaves_no_doubt(
    plugin: Any, fake: FakeSidecar
) -> None:
    fake.then(stands(L), NO_ANSWER, taken("theirs", L + 1))
    assert a_pass(plugin, user()) == ANOTHER
    fake.then(stands(L + 1), stored(L + 2))
    assert a_pass(plugin, user()) is None
    assert fake.posts[-1].headers["if-match"] == f'"{L + 1}"'


def test_a_lost_event_whose_place_another_producer_took_is_dead(
    plugin: Any, fake: FakeSidecar
) -> None:
    removed = user("removed")
    lose(plugin, fake, removed)
    fake.then(stands(L + 1), taken("theirs", L + 1), stored(L + 2))
    assert a_pass(plugin, removed) == ANOTHER
    fake.then(stands(L + 1), stored(L + 2))
    assert a_pass(plugin, removed) is None
    assert fake.posts[-1].headers["if-match"] == f'"{L + 1}"'
    assert fake.posts[-1].body == removed.to_json().encode()


def test_a_lost_event_that_stands_before_another_producers_is_not_the_end(
    plugin: Any, fake: FakeSidecar
) -> None:
    removed = user("removed")
    key = lose(plugin, fake, removed)
    fake.then(stands(L + 2), taken(key, L + 2), stored(L + 3))
    assert a_pass(plugin, removed) == ANOTHER
    fake.then(stands(L + 2), matches(L + 2, matches=False), stored(L + 3))
    assert a_pass(plugin, removed) is None
    assert fake.posts[-1].headers["if-match"] == f'"{L + 2}"'


def test_another_producer_ends_an_initsync(plugin: Any, fake: FakeSidecar) -> None:
    start, added, stop = (
        new_event("initsync", kind) for kind in ("init-start", "added", "init-stop")
    )
    fake.then(stands(L), stored(L + 1), taken("theirs", L + 2), stored(L + 3))
    assert a_pass(plugin, start, added, stop) == ANOTHER
    assert len(fake.posts) == 2


def test_a_lost_event_is_no_second_producer(
    plugin: Any, fake: FakeSidecar, caplog: pytest.LogCaptureFixture
) -> None:
    key = lose(plugin, fake, user(a=1))
    caplog.clear()
    fake.then(stands(L + 1), taken(key, L + 1), stored(L + 2))
    with caplog.at_level(logging.WARNING):
        assert a_pass(plugin, user(a=2)) is None
    assert "Another producer" not in caplog.text
