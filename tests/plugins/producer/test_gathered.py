# SPDX-License-Identifier: Apache-2.0
"""The objects of an initsync: what goes in one request, when, and what is dropped."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from support.fake_sidecar import (
    NO_ANSWER,
    FakeSidecar,
    L,
    Reply,
    problem,
    stands,
    stored,
    stored_minimally,
    taken,
    unknown,
)
from support.hermes import new_event
from support.process import wait_until
from support.producer_passes import ANOTHER, a_pass, send, user

KEY = "idempotency-key"
REFUSED = problem(413, "event_too_large", "not_stored", index=2)


def mark(kind: str) -> Any:
    return new_event("initsync", kind, objtype=None, objpkey=None)


START, STOP = "init-start", "init-stop"


def added(pkey: int, size: int = 0) -> Any:
    return new_event("initsync", "added", objpkey=pkey, objattrs={"a": "x" * size})


def initsync(count: int) -> list[Any]:
    return [mark(START), *map(added, range(count)), mark(STOP)]


def texts(*events: Any) -> list[bytes]:
    return [event.to_json().encode() for event in events]


@pytest.fixture(autouse=True)
def small(plugin: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let two objects, or 1,000 bytes, be enough for a request."""
    folder = type(plugin).__mro__[1].__module__.rpartition(".")[0]
    module = sys.modules[f"{folder}.gathered"]
    monkeypatch.setattr(module, "MOST_EVENTS", 2)
    monkeypatch.setattr(module, "MOST_BYTES", 1000)
    return module


def test_objects_go_together_each_request_after_the_one_before(
    plugin: Any, fake: FakeSidecar
) -> None:
    events = initsync(5)
    answers = [stored_minimally(L + n) for n in (1, 3, 5, 6, 7)]
    fake.then(stands(L), *answers)
    assert a_pass(plugin, *events) is None
    assert [post.texts for post in fake.posts] == [
        texts(*events[:1]),
        texts(*events[1:3]),
        texts(*events[3:5]),
        texts(*events[5:6]),
        texts(*events[6:]),
    ]
    assert [post.headers["if-match"] for post in fake.posts] == [
        f'"{L + n}"' for n in (0, 1, 3, 5, 6)
    ]
    assert len({post.headers[KEY] for post in fake.posts}) == 5
    types = [post.headers["content-type"] for post in fake.posts]
    assert set(types[1:4]) == {"application/json-seq"}
    assert {types[0], types[4]} == {"application/json"}
    assert fake.connections == 1


def test_hermes_does_not_wait_for_a_request(plugin: Any, fake: FakeSidecar) -> None:
    """Nobody reads its answer before the next is to be sent."""
    fake.then(stands(L), stored(L + 1), unknown(), stored(L + 3))
    with plugin:
        plugin.send(mark(START))
        plugin.send(added(1))
        assert len(fake.posts) == 1
        assert plugin._send(added(2)) is None
        wait_until(lambda: len(fake.posts) == 2)
        assert plugin._send(added(3)) is None
        assert plugin._send(added(4)) is None  # waits for the first, and tries it again
        assert len(fake.posts) >= 3
        assert fake.posts[2].texts == fake.posts[1].texts
        assert fake.posts[2].headers[KEY] == fake.posts[1].headers[KEY]


def test_an_initsync_of_nothing_is_two_events(plugin: Any, fake: FakeSidecar) -> None:
    fake.then(stands(L), stored(L + 1), stored(L + 2))
    assert a_pass(plugin, *initsync(0)) is None
    assert len(fake.posts) == 2


def test_an_object_outside_of_an_initsync_goes_alone(
    plugin: Any, fake: FakeSidecar
) -> None:
    fake.then(stands(L), stored(L + 1))
    with plugin:
        assert plugin._send(added(1)) == L + 1
    assert fake.posts[0].headers["content-type"] == "application/json"


@pytest.mark.parametrize("size", [800, 2000], ids=["enough", "too large for others"])
def test_so_many_bytes_are_enough_and_what_is_larger_goes_alone(
    plugin: Any, fake: FakeSidecar, small: Any, size: int
) -> None:
    small.MOST_EVENTS = 3
    events = [mark(START), added(1), added(2, size), added(3), mark(STOP)]
    sizes = (1, 3, 4, 5) if size == 800 else (1, 2, 3, 4, 5)
    fake.then(stands(L), *(stored(L + n) for n in sizes))
    assert a_pass(plugin, *events) is None
    assert [text for post in fake.posts for text in post.texts] == texts(*events)
    assert len(fake.posts) == len(sizes)
    large = next(post for post in fake.posts if len(post.body) > size)
    is_alone = large.headers["content-type"] == "application/json"
    assert is_alone is (size == 2000)


# -- What is dropped -------------------------------------------------------------------


def interrupted(plugin: Any, fake: FakeSidecar, *answers: Reply | str) -> str:
    """End a pass with two objects under way and one gathered; give their key."""
    fake.then(stands(L), stored(L + 1), *answers)
    plugin.open()
    for event in initsync(3)[:-1]:
        plugin.send(event)
    wait_until(lambda: len(fake.posts) == 2)
    plugin.close()
    assert len(fake.posts) == 2  # close() sends nothing
    return fake.posts[-1].headers[KEY]


@pytest.mark.parametrize("end", ["close", "open", "init-start", "base event"])
def test_what_was_gathered_is_dropped(plugin: Any, fake: FakeSidecar, end: str) -> None:
    """And what is sent next has the L of what is under way: it is a doubt."""
    fake.then(stands(L), stored(L + 1), unknown())
    plugin.open()
    for event in initsync(3)[:-1]:
        plugin.send(event)
    wait_until(lambda: len(fake.posts) == 2)
    fake.then(stored(L + 2), stored(L + 3), stored(L + 4))
    if end == "close":
        plugin.close()
    elif end == "open":
        fake.then(stands(L + 1), stored(L + 2), stored(L + 3))
        plugin.open()
    else:
        plugin.send(mark(START) if end == "init-start" else user())
    plugin.send(added(9))
    if end == "init-start":
        plugin.send(mark(STOP))
    last = fake.posts[-1]
    assert fake.posts[2].headers["if-match"] == f'"{L + 1}"'
    assert texts(added(2))[0] not in [text for p in fake.posts for text in p.texts]
    if end != "init-start":  # nothing is gathered any more
        assert last.body == texts(added(9))[0]


def test_what_was_under_way_and_stands_is_found_at_the_next_open(
    plugin: Any, fake: FakeSidecar
) -> None:
    key = interrupted(plugin, fake, stored(L + 3))
    fake.then(stands(L + 3, f"{key}.2"), *map(stored, (L + 4, L + 6, L + 7, L + 8)))
    assert a_pass(plugin, *initsync(3)) is None
    assert fake.posts[2].headers["if-match"] == f'"{L + 3}"'


def test_what_was_under_way_may_go_on_behind_what_stands(
    plugin: Any, fake: FakeSidecar
) -> None:
    """A sidecar that wakes up; whoever comes first at an offset, nobody is misled."""
    key = interrupted(plugin, fake, unknown())
    fake.then(
        *(stands(L + 2, f"{key}.1"), taken(f"{key}.2", L + 3)),
        *map(stored, (L + 4, L + 6, L + 7, L + 8)),
    )
    assert a_pass(plugin, *initsync(3)) is None
    fences = [post.headers["if-match"] for post in fake.posts[2:4]]
    assert fences == [f'"{L + 2}"', f'"{L + 3}"']


def test_what_was_under_way_is_dead_where_its_first_place_is_taken(
    plugin: Any, fake: FakeSidecar
) -> None:
    key = interrupted(plugin, fake, unknown())
    fake.then(stands(L + 1), stored(L + 2), taken(f"{key}.2", L + 3))
    assert a_pass(plugin, user(pkey=1), user(pkey=2)) == ANOTHER


def test_what_nats_server_left_out_of_a_batch_ends_one_pass_alone(
    plugin: Any, fake: FakeSidecar
) -> None:
    """It restores what follows, at wrong offsets: docs/adr/0014."""
    key = interrupted(plugin, fake, unknown())
    fake.then(stands(L + 2, f"{key}.2"), taken(f"{key}.2", L + 2))
    assert a_pass(plugin, *initsync(3)) == ANOTHER
    fake.then(stands(L + 2), *map(stored, (L + 3, L + 5, L + 6, L + 7)))
    assert a_pass(plugin, *initsync(3)) is None


def test_what_another_producer_wrote_behind_it_ends_the_next_pass(
    plugin: Any, fake: FakeSidecar
) -> None:
    key = interrupted(plugin, fake, unknown())
    fake.then(stands(L + 3, "theirs"), taken(f"{key}.1", L + 3), taken("theirs", L + 3))
    assert a_pass(plugin, *initsync(3)) == ANOTHER
    fake.then(stands(L + 3), *map(stored, (L + 4, L + 6, L + 7, L + 8)))
    assert a_pass(plugin, *initsync(3)) is None


# -- What goes wrong -------------------------------------------------------------------


@pytest.mark.parametrize("answer", [unknown(), NO_ANSWER, REFUSED])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_no_init_stop_is_sent_unless_all_stand(
    plugin: Any, fake: FakeSidecar, answer: Reply | str, size: int
) -> None:
    fake.then(stands(L), stored(L + 1), answer)
    text = a_pass(plugin, *initsync(size))
    assert text is not None
    assert text.startswith("Event not" if answer is REFUSED else "It is not known")
    assert texts(mark(STOP))[0] not in [post.body for post in fake.posts]
    assert {post.headers["if-match"] for post in fake.posts[1:]} == {f'"{L + 1}"'}


def test_an_event_of_another_producer_among_them_ends_the_pass(
    plugin: Any, fake: FakeSidecar
) -> None:
    stands_there = problem(
        *(412, "precondition_failed", "not_stored"),
        key="theirs",
        offset=L + 3,
        last_offset=L + 3,
        index=2,
    )
    fake.then(stands(L), stored(L + 1), stands_there, stored(L + 3))
    assert a_pass(plugin, *initsync(4)) == ANOTHER
    assert len(fake.posts) == 2


@pytest.mark.parametrize("kinds", [[STOP], ["added", "added"], ["base event"]])
def test_after_a_failure_nothing_more_of_the_pass_is_sent(
    plugin: Any, fake: FakeSidecar, kinds: list[str]
) -> None:
    makes = {STOP: mark(STOP), "added": added(7), "base event": user()}
    more = [makes[kind] for kind in kinds]
    fake.then(stands(L), stored(L + 1), REFUSED)
    with plugin:
        for event in initsync(2)[:-1]:
            plugin.send(event)
        text = send(plugin, mark(STOP))
        assert text is not None
        count = len(fake.posts)
        fake.then(stored(L + 2))
        said = [send(plugin, each) for each in more]
    assert said == [None] * (len(more) - 1) + [text]
    assert len(fake.posts) == count


def test_it_says_which_type_was_refused_and_the_same_each_time(
    plugin: Any, fake: FakeSidecar
) -> None:
    said = "Event not stored: Title of event_too_large. Mend it. (event_too_large) "
    for last in (L, L + 3):
        fake.then(stands(last), stored(last + 1), stored(last + 3), REFUSED)
        text = a_pass(plugin, *initsync(5)[:-2], added(11, 10), added(12), mark(STOP))
        assert text == f"{said}Its type is Users, its category initsync."
        plugin._refused = type(plugin._refused)()


@pytest.mark.parametrize("index", [0, 3, None])
def test_a_refusal_that_names_no_object_of_the_request_is_told_all_the_same(
    plugin: Any, fake: FakeSidecar, index: int | None
) -> None:
    refused = problem(422, "not_a_batch", "not_stored", index=index or 0)
    if index is None:
        del refused.document["index"]
    fake.then(stands(L), stored(L + 1), refused)
    text = "Event not stored: Title of not_a_batch. Mend it. (not_a_batch)"
    assert a_pass(plugin, *initsync(2)) == text


def test_a_sidecar_that_knows_no_batches_gets_them_one_by_one(
    plugin: Any, fake: FakeSidecar
) -> None:
    old = problem(415, "unsupported_media_type", "not_stored")
    events = initsync(3)
    stored_three = (stored(L + 2), stored(L + 3), old, stored(L + 4), stored(L + 5))
    fake.then(stands(L), stored(L + 1), old, *stored_three)
    assert a_pass(plugin, *events) is None
    alone = [p for p in fake.posts if p.headers["content-type"] == "application/json"]
    assert [post.body for post in alone] == texts(*events)
    assert len({post.headers[KEY] for post in alone}) == 5


def test_a_request_that_gets_on_has_its_time_anew(
    plugin: Any, fake: FakeSidecar
) -> None:
    """Over a slow link: each repetition stores more of it."""
    slow = [
        problem(503, "batch_unfinished", "not_stored", "20", index=index)
        for index in (1, 2)
    ]
    fake.then(stands(L), stored(L + 1), *slow, stored(L + 3), stored(L + 4))
    assert a_pass(plugin, *initsync(2)) is None
    again = problem(503, "batch_unfinished", "not_stored", "20", index=1)
    fake.then(stands(L + 4), stored(L + 5), *[again] * 4, stored(L + 7))
    assert a_pass(plugin, *initsync(2)) is not None  # it does not get on


def test_no_large_object_goes_alone_while_another_is_refused(
    plugin: Any, fake: FakeSidecar
) -> None:
    """It would stand in the stream without an init-start."""
    fake.then(stands(L), stored(L + 1), REFUSED)
    assert a_pass(plugin, *initsync(2)) is not None
    fake.then(stands(L + 2), REFUSED)
    count = len(fake.posts)
    assert a_pass(plugin, mark(START), added(1, 2000), mark(STOP)) is not None
    assert len(fake.posts) == count + 1  # it was asked whether that is refused still
