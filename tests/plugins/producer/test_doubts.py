# SPDX-License-Identifier: Apache-2.0
"""An event whose outcome is unknown, when the next pass brings it again."""

from __future__ import annotations

from typing import Any

import pytest
from support.fake_sidecar import (
    FakeSidecar,
    L,
    Reply,
    matches,
    problem,
    stands,
    stored,
    taken,
    unknown,
)
from support.producer_passes import (
    ANOTHER,
    REFUSED,
    a_pass,
    hermes_fails,
    lose,
    user,
)


def test_the_next_event_is_sent_with_the_offset_of_the_lost_one(
    plugin: Any, fake: FakeSidecar
) -> None:
    lose(plugin, fake, user(pkey=1))
    fake.then(stands(L + 1), stored(L + 1))  # the stream has moved meanwhile
    assert a_pass(plugin, user(pkey=2)) is None
    assert fake.posts[-1].headers["if-match"] == f'"{L}"'


def test_a_lost_event_whose_place_was_taken_is_dead_and_sent_anew(
    plugin: Any, fake: FakeSidecar
) -> None:
    lost = user("removed")
    lose(plugin, fake, lost)
    fake.then(stands(L), stored(L + 1), stored(L + 2))
    count = len(fake.posts)
    assert a_pass(plugin, user(pkey=2), lost) is None
    assert [request.headers["if-match"] for request in fake.posts[count:]] == [
        f'"{L}"',
        f'"{L + 1}"',
    ]
    assert fake.posts[-1].body == lost.to_json().encode()


def test_a_lost_event_that_was_stored_is_swallowed_once_when_it_comes_again(
    plugin: Any, fake: FakeSidecar
) -> None:
    removed = user("removed")
    key = lose(plugin, fake, removed)
    count = len(fake.posts)
    fake.then(stands(L + 1), taken(key, L + 1))
    assert a_pass(plugin, removed) is None
    assert len(fake.posts) == count + 1  # its question; the answer was "stored"
    fake.then(stands(L + 1), stored(L + 2))
    assert a_pass(plugin, removed) is None
    assert fake.posts[-1].headers["if-match"] == f'"{L + 1}"'
    assert len(fake.posts) == count + 2


def test_a_lost_event_that_was_stored_is_recognised_anywhere_in_the_next_pass(
    plugin: Any, fake: FakeSidecar
) -> None:
    removed = user("removed", pkey=1)
    key = lose(plugin, fake, removed)
    count = len(fake.posts)
    fake.then(
        stands(L + 1),
        taken(key, L + 1),
        stored(L + 2),
        matches(L + 2),
        stored(L + 3),
    )
    others = [user(pkey=2), user(pkey=3)]
    assert a_pass(plugin, others[0], removed, others[1]) is None
    bodies = [request.body for request in fake.posts[count:]]
    assert bodies == [
        others[0].to_json().encode(),  # with L: refused, the lost one stands there
        others[0].to_json().encode(),
        removed.to_json().encode(),  # whether it is there
        others[1].to_json().encode(),
    ]
    assert fake.posts[-2].path == f"/v1/match?offset={L + 1}&newest=true"


def test_a_lost_event_is_still_recognised_when_the_next_pass_fails(
    plugin: Any, fake: FakeSidecar
) -> None:
    removed = user("removed", pkey=1)
    key = lose(plugin, fake, removed)
    fake.then(stands(L + 1), taken(key, L + 1), problem(413, "too_large", "not_stored"))
    assert a_pass(plugin, user(pkey=2)) is not None
    count = len(fake.posts)
    fake.then(stands(L + 1), matches(L + 1), stored(L + 2))
    assert a_pass(plugin, removed, user(pkey=2)) is None
    assert len(fake.posts) == count + 2


def test_a_lost_event_is_not_recognised_behind_an_event_of_another_producer(
    plugin: Any, fake: FakeSidecar
) -> None:
    """Nothing is sent, so no fence sees that it is no longer the newest."""
    removed = user("removed")
    key = lose(plugin, fake, removed)
    fake.then(stands(L + 1), taken(key, L + 1), stored(L + 2), matches(L + 3))
    assert a_pass(plugin, user(pkey=2), removed) == ANOTHER
    fake.then(stands(L + 3), matches(L + 3, matches=False), stored(L + 4))
    count = len(fake.posts)
    assert a_pass(plugin, removed) is None
    assert len(fake.posts) == count + 2


@pytest.mark.parametrize("is_ours", [True, False])
def test_a_lost_event_is_recognised_though_the_next_one_is_in_doubt(
    plugin: Any, fake: FakeSidecar, *, is_ours: bool
) -> None:
    removed = user("removed")
    key = lose(plugin, fake, removed)
    fake.then(stands(L + 1), taken(key, L + 1), unknown())
    assert a_pass(plugin, user(pkey=2)) is not None
    key = fake.posts[-1].headers["idempotency-key"]
    count = len(fake.posts)
    end = Reply(200, {"last_offset": L + 2, "last_key": key if is_ours else "theirs"})
    fake.then(end, matches(L + 2, key=key if is_ours else "theirs"))
    assert a_pass(plugin, removed) == (None if is_ours else ANOTHER)
    assert fake.is_matched
    # The second one asks whose event follows, so that the doubt is not open for ever.
    assert len(fake.posts) == count + (1 if is_ours else 2)
    assert plugin._doubts.are_open is is_ours


@pytest.mark.parametrize("is_recognised", [True, False])
def test_a_removal_ends_that_what_is_no_removal_is_recognised(
    plugin: Any, fake: FakeSidecar, *, is_recognised: bool
) -> None:
    """A target that removes a user may remove its memberships too."""
    lost = user("removed" if is_recognised else "added")
    key = lose(plugin, fake, lost)
    fake.then(stands(L + 1), taken(key, L + 1), stored(L + 2), REFUSED)
    assert a_pass(plugin, user("removed", pkey=2), user(pkey=3)) is not None
    count = len(fake.posts)
    then = [matches(L + 2)] if is_recognised else [stored(L + 3)]
    fake.then(stands(L + 2), *then)
    assert a_pass(plugin, lost) is None
    assert len(fake.posts) == count + 1
    assert fake.is_matched is is_recognised


def test_a_lost_event_is_forgotten_after_a_pass_that_did_not_bring_it_again(
    plugin: Any, fake: FakeSidecar
) -> None:
    removed = user("removed", pkey=1)
    key = lose(plugin, fake, removed)
    fake.then(stands(L + 1), taken(key, L + 1), stored(L + 2))
    assert a_pass(plugin, user(pkey=2)) is None
    count = len(fake.posts)
    fake.then(stands(L + 2), stored(L + 3))
    assert a_pass(plugin, removed) is None
    assert len(fake.posts) == count + 1


def test_a_lost_event_that_lands_after_such_a_pass_is_not_recognised(
    plugin: Any, fake: FakeSidecar
) -> None:
    added = user("added")
    key = lose(plugin, fake, added)
    fake.then(stands(L))
    assert a_pass(plugin) is None  # the source went back
    fake.then(stands(L + 1), taken(key, L + 1), stored(L + 2))
    assert a_pass(plugin, added) is None
    assert fake.posts[-1].headers["if-match"] == f'"{L + 1}"'


def test_one_two_one_are_three_events_though_the_first_was_lost_and_stored(
    plugin: Any, fake: FakeSidecar
) -> None:
    one, two = user(a=1), user(a=2)
    key = lose(plugin, fake, one)
    count = len(fake.posts)
    fake.then(stands(L + 1), taken(key, L + 1), stored(L + 2), stored(L + 3))
    assert a_pass(plugin, two, one) is None
    assert [request.body for request in fake.posts[count:]] == [
        two.to_json().encode(),
        two.to_json().encode(),
        one.to_json().encode(),
    ]


def test_one_two_one_are_three_events_though_the_first_two_were_lost(
    plugin: Any, fake: FakeSidecar
) -> None:
    one, two = user(a=1), user(a=2)
    first_key = lose(plugin, fake, one)
    lose(plugin, fake, two)  # with the same L: one of both stands there, or none
    count = len(fake.posts)
    fake.then(stands(L + 1), taken(first_key, L + 1), stored(L + 2), stored(L + 3))
    assert a_pass(plugin, two, one) is None
    bodies = [request.body for request in fake.posts[count:]]
    assert bodies[-2:] == [two.to_json().encode(), one.to_json().encode()]


@pytest.mark.parametrize("end", [unknown(), REFUSED], ids=["unknown", "refused"])
def test_any_later_event_of_the_object_ends_that_it_is_recognised(
    plugin: Any, fake: FakeSidecar, end: Reply
) -> None:
    """The source goes back: what then looks the same comes after the other (P2)."""
    one, two = user(a=1), user(a=2)
    key = lose(plugin, fake, one)
    fake.then(stands(L + 1), taken(key, L + 1), end)
    assert a_pass(plugin, two) is not None
    count = len(fake.posts)
    fake.then(stands(L + 1), stored(L + 2))
    assert a_pass(plugin, one) is None
    assert [request.body for request in fake.posts[count:]] == [one.to_json().encode()]


# -- A pass that Hermes itself ends ----------------------------------------------------


@pytest.mark.parametrize("is_noted", [True, False])
def test_a_pass_that_hermes_itself_ends_stores_nothing_twice(
    plugin: Any, fake: FakeSidecar, caplog: pytest.LogCaptureFixture, is_noted: bool
) -> None:
    fake.then(stands(L), stored(L + 1), stored(L + 2))
    hermes_fails(plugin, user("removed", pkey=1), user("removed", pkey=2))
    fake.then(stands(L + 2), *([] if is_noted else [matches(L + 2)]), stored(L + 3))
    events = [] if is_noted else [user("removed", pkey=2)]
    assert a_pass(plugin, *events, user(pkey=3)) is None
    paths = [each.path for each in fake.posts]
    assert paths.count("/v1/events") == 3
    assert f"/v1/match?offset={L + 2}&newest=true" in paths or is_noted
    assert not caplog.text


def test_an_event_that_is_recognised_when_hermes_ends_the_pass_is_so_again(
    plugin: Any, fake: FakeSidecar
) -> None:
    removed = user("removed", pkey=1)
    fake.then(stands(L), stored(L + 1), stands(L + 1), matches(L + 1))
    for _ in range(3):
        hermes_fails(plugin, removed)
        fake.then(stands(L + 1), matches(L + 1))
    assert a_pass(plugin, removed) is None
    assert [each.path for each in fake.posts].count("/v1/events") == 1


def test_what_hermes_ends_itself_is_new_after_another_event_of_the_object(
    plugin: Any, fake: FakeSidecar
) -> None:
    fake.then(stands(L), stored(L + 1))
    hermes_fails(plugin, user("removed", pkey=1))
    fake.then(stands(L + 1), stored(L + 2), stored(L + 3))
    assert a_pass(plugin, user("added", pkey=1), user("removed", pkey=1)) is None
    assert [each.path for each in fake.posts].count("/v1/events") == 3
