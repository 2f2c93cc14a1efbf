# SPDX-License-Identifier: Apache-2.0
"""What ends that an event whose outcome is unknown is recognised."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from support.fake_sidecar import (
    Clock,
    FakeSidecar,
    L,
    matches,
    stands,
    stored,
    taken,
    unknown,
)
from support.hermes import new_event
from support.producer_passes import (
    ANOTHER,
    a_pass,
    lose,
    lose_and_learn,
    send,
    user,
)


@pytest.mark.parametrize("is_recognised", [True, False])
def test_the_sidecar_sees_whether_another_producer_ended_that_it_is_recognised(
    plugin: Any, fake: FakeSidecar, *, is_recognised: bool
) -> None:
    removed = user("removed")
    lose_and_learn(plugin, fake, removed)
    count = len(fake.posts)
    then = [matches(L + 2, matches=is_recognised), stored(L + 3)]
    fake.then(stands(L + 2), *then)
    assert a_pass(plugin, removed) is None
    asked = [each.path for each in fake.posts[count:]]
    match = f"/v1/match?offset={L + 1}&newest=true"
    assert asked == [match, *([] if is_recognised else ["/v1/events"])]


def test_a_newer_event_of_one_object_ends_nothing_of_another(
    plugin: Any, fake: FakeSidecar
) -> None:
    """Found by the simulation, seed 502267: it was removed twice."""
    removed, added = user("removed", pkey=2), user(pkey=5)
    key = lose(plugin, fake, removed)
    fake.then(stands(L + 1), taken(key, L + 1), unknown())
    assert a_pass(plugin, added) is not None
    key = fake.posts[-1].headers["idempotency-key"]
    fake.then(stands(L + 3), taken(key, L + 3))  # another producer's is behind it
    assert a_pass(plugin, added) == ANOTHER
    newer = matches(L + 3, its_key=key, matches=False)
    fake.then(stands(L + 3), newer, stored(L + 4), matches(L + 4))
    assert a_pass(plugin, added, removed) is None
    assert fake.posts[-1].path == f"/v1/match?offset={L + 1}&newest=true"


def test_an_event_of_another_producer_counts_also_where_one_is_in_doubt(
    plugin: Any, fake: FakeSidecar
) -> None:
    removed = user("removed")
    key = lose(plugin, fake, removed)
    fake.then(stands(L + 1), taken(key, L + 1), unknown())
    assert a_pass(plugin, user(pkey=2)) is not None
    count = len(fake.posts)
    fake.then(stands(L + 2), matches(L + 2, its_key="theirs", matches=False))
    assert a_pass(plugin, removed) == ANOTHER
    fake.then(stands(L + 2), matches(L + 2, matches=False), stored(L + 3))
    assert a_pass(plugin, removed) is None
    asked = [each.path for each in fake.posts[count:]]
    match = f"/v1/match?offset={L + 1}&newest=true"
    assert asked == [match, f"/v1/match?offset={L + 2}", match, "/v1/events"]


def test_the_same_password_set_twice_is_two_events(
    plugin: Any, fake: FakeSidecar
) -> None:
    password = user(password="x")
    fake.then(stands(L), stored(L + 1), stored(L + 2))
    assert a_pass(plugin, password, password) is None
    assert len(fake.posts) == 2


def test_the_same_password_lost_and_set_twice_more_is_one_more_event(
    plugin: Any, fake: FakeSidecar
) -> None:
    password = user(password="x")
    key = lose(plugin, fake, password)
    count = len(fake.posts)
    fake.then(stands(L + 1), taken(key, L + 1), stored(L + 2))
    assert a_pass(plugin, password, password) is None
    assert len(fake.posts) == count + 2


def test_a_lost_event_that_is_shown_when_the_time_is_up_is_still_recognised(
    plugin: Any, fake: FakeSidecar, clock: Clock
) -> None:
    removed = user("removed")
    key = lose(plugin, fake, removed)
    fake.then(stands(L + 1), taken(key, L + 1))
    with plugin:
        plugin._http.store = partial(late, plugin._http.store, clock)
        assert send(plugin, user(pkey=2)) is not None
        count = len(fake.posts)
        fake.then(matches(L + 1))
        assert send(plugin, removed) is None
    assert len(fake.posts) == count + 1


def late(store: Any, clock: Clock, *request: Any) -> Any:
    clock.sleep(31)
    return store(*request)


def test_an_event_with_other_bytes_is_not_taken_for_the_lost_one(
    plugin: Any, fake: FakeSidecar
) -> None:
    key = lose(plugin, fake, user(a=1))
    fake.then(stands(L + 1), taken(key, L + 1), stored(L + 2))
    assert a_pass(plugin, user(a=2)) is None
    assert fake.posts[-1].headers["if-match"] == f'"{L + 1}"'


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
    plugin: Any, fake: FakeSidecar, category: str, kind: str
) -> None:
    event = new_event(category, kind)
    key = lose(plugin, fake, event)
    fake.then(stands(L + 1), taken(key, L + 1), stored(L + 2))
    assert a_pass(plugin, event) is None
    assert fake.posts[-1].headers["if-match"] == f'"{L + 1}"'
    assert fake.posts[-1].body == event.to_json().encode()


def test_an_initsync_repeated_after_an_abort_is_sent_whole(
    plugin: Any, fake: FakeSidecar
) -> None:
    start, added, stop = (
        new_event("initsync", kind) for kind in ("init-start", "added", "init-stop")
    )
    fake.then(stands(L), stored(L + 1), unknown())
    assert a_pass(plugin, start, added, stop) is not None
    key = fake.posts[-1].headers["idempotency-key"] + ".1"
    count = len(fake.posts)
    fake.then(stands(L + 2), taken(key, L + 2), *map(stored, range(L + 3, L + 6)))
    assert a_pass(plugin, start, added, stop) is None
    assert [request.texts for request in fake.posts[count:]] == [
        [event.to_json().encode()] for event in (start, start, added, stop)
    ]


@pytest.mark.parametrize("is_resolved", [True, False])
@pytest.mark.parametrize("is_stop_lost", [True, False])
def test_an_initsync_ends_that_lost_events_are_recognised(
    plugin: Any, fake: FakeSidecar, *, is_resolved: bool, is_stop_lost: bool
) -> None:
    """Hermes makes it of its cache, which lacks them: a new client needs them again."""
    added = user("added")
    start, stop = (
        new_event("initsync", kind, objtype=None, objpkey=None)
        for kind in ("init-start", "init-stop")
    )
    if is_resolved:
        lose_and_learn(plugin, fake, added)
        learns = []
    else:
        learns = [taken(lose(plugin, fake, added), L + 1)]
    stop_answer = unknown() if is_stop_lost else stored(L + 3)
    fake.then(stands(L + 1), *learns, stored(L + 2), stop_answer)
    assert (a_pass(plugin, start, stop) is not None) is is_stop_lost
    key = fake.posts[-1].headers["idempotency-key"]
    learns = [taken(key, L + 3)] if is_stop_lost else []
    fake.then(stands(L + 3), *learns, stored(L + 4))
    assert a_pass(plugin, added) is None
    assert fake.posts[-1].body == added.to_json().encode()
    assert fake.posts[-1].headers["if-match"] == f'"{L + 3}"'
