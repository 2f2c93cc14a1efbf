# SPDX-License-Identifier: Apache-2.0
"""The next page is asked for while this one is handled, and nothing is lost by it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from support.consumer_pages import consumer_of, more, page
from support.fake_sidecar import NO_ANSWER, Clock, FakeSidecar, problem
from support.process import wait_until

if TYPE_CHECKING:
    from pathlib import Path


def test_the_next_page_is_asked_for_while_this_one_is_handled(
    hermes_home: Path, fake: FakeSidecar, clock: Clock
) -> None:
    with consumer_of(hermes_home, fake.url, clock) as plugin:
        fake.then(more(1, 2, last=3), page(3))
        events = iter(plugin)
        next(events)
        wait_until(lambda: len(fake.requests) == 3, what="asked ahead")  # 1: open()
        assert [next(events).offset, next(events).offset] == [2, 3]
        assert "offset=3&" in fake.requests[2].path
        assert len(fake.requests) == 3  # what was asked ahead was taken


def test_without_a_link_pages_are_asked_for_one_by_one(
    hermes_home: Path, fake: FakeSidecar, clock: Clock
) -> None:
    with consumer_of(hermes_home, fake.url, clock) as plugin:
        fake.then(page(1, 2), page(3))
        events = iter(plugin)
        next(events)
        next(events)
        assert len(fake.requests) == 2  # 1: open()
        assert next(events).offset == 3


def test_a_link_to_elsewhere_is_not_mistaken_for_the_next_page(
    hermes_home: Path, fake: FakeSidecar, clock: Clock
) -> None:
    with consumer_of(hermes_home, fake.url, clock) as plugin:
        wrong = more(1, last=9)
        wrong.headers["Link"] = '</v1/events?offset=7>; rel="next"'
        fake.then(wrong, page(7), page(2))
        events = iter(plugin)
        first = next(events).offset
        wait_until(lambda: len(fake.answers) == 1, what="asked ahead")
        assert [first, next(events).offset] == [1, 2]


def test_a_seek_forgets_what_was_asked_ahead(one_by_one: Any, first: int) -> None:
    assert next(iter(one_by_one)).offset == first
    one_by_one.seek(first + 10)
    assert [one.offset for one in one_by_one] == list(range(first + 10, first + 20))


def test_a_find_forgets_what_was_asked_ahead(one_by_one: Any, first: int) -> None:
    assert next(iter(one_by_one)).offset == first
    assert one_by_one.findNextEventOfCategory("nobody") is None
    assert [one.offset for one in one_by_one] == list(range(first + 1, first + 20))


def test_what_was_asked_ahead_in_vain_is_asked_again(
    hermes_home: Path, fake: FakeSidecar, clock: Clock
) -> None:
    with consumer_of(hermes_home, fake.url, clock) as plugin:
        fake.then(
            more(1, last=2), problem(503, "nats_down", None, "1"), NO_ANSWER, page(2)
        )
        plugin.setTimeout(10_000)
        events = iter(plugin)
        assert [next(events).offset, next(events).offset] == [1, 2]
