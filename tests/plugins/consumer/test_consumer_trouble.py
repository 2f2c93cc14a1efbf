# SPDX-License-Identifier: Apache-2.0
"""Each answer that the consumer plugin can get: what it is taken for, and how long."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import pytest
from support.consumer_pages import consumer_of, more, page
from support.fake_sidecar import NO_ANSWER, Clock, FakeSidecar, Reply, problem
from support.nats import free_port

from sidecar import errors
from sidecar.errors import Cause
from sidecar.http.models import GET_EVENTS

if TYPE_CHECKING:
    from pathlib import Path


def test_open_without_a_sidecar_raises_one_constant_text(
    hermes_home: Path, clock: Clock
) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    plugin = consumer_of(hermes_home, url, clock)
    texts = set()
    ends_at = clock.now() + 600
    while clock.now() < ends_at:
        with pytest.raises(Exception, match="No message bus") as caught:
            plugin.open()
        assert not isinstance(caught.value, IndexError)
        texts.add(str(caught.value))
    assert texts == {f"No message bus: no sidecar at {url}: connection refused"}


def test_open_waits_some_seconds_for_a_sidecar_that_restarts(
    hermes_home: Path, fake: FakeSidecar, clock: Clock
) -> None:
    plugin = consumer_of(hermes_home, fake.url, clock)
    down = problem(503, "nats_down", None, "2")
    fake.then(down, down, page())
    with plugin:
        pass
    assert clock.slept == [2, 2]


HTML = "<html><body>Bad Gateway</body></html>"
CUT = dataclasses.replace(page(1, 2, 3), missing_bytes=200)
CUT_UNSEEN = Reply(200, text=json.dumps(page(1, 2, 3).document)[:-200])
NOT_YET = Reply(200, {"events": [], "next_offset": 1, "last_offset": 1})
"""In the stream, and the copy that was asked does not have it."""


def failed_slowly(code: str) -> Reply:
    """Answer as a page that had begun with 200 before it failed."""
    failed = problem(503, code)
    return Reply(200, failed.document | {"status": 503})


ANSWERS: dict[str, list[Reply | str]] = {
    # What waiting mends: the plugin asks again.
    "passing": [
        *("batch_unfinished", "busy", "credentials_unreadable", "foreign_answer"),
        *("jetstream_unavailable", "nats_down", failed_slowly("jetstream_unavailable")),
        *("nats_limit", "nats_permission", "nats_refused", "nats_tls"),
        "publish_refused",
        *("server_too_old", "stopping", "storage_full", "stream_full"),
        *("stream_missing", "stream_unfit", NO_ANSWER, CUT, CUT_UNSEEN),
        *(Reply(status, text=HTML) for status in (200, 401, 404, 500, 502, 503, 504)),
        *(Reply(200, text=text) for text in ("", "{}", "[]", '{"code": 0}')),
        *(Reply(200, {"last_offset": each}) for each in (None, "7", True, 7)),
        Reply(401, {"code": 401}),
        Reply(200, {"events": None, "next_offset": 1, "last_offset": 0}),
        Reply(200, {"events": [], "next_offset": None, "last_offset": 0}),
        Reply(200, {"events": [], "next_offset": 1}),
    ],
    # The client's offset is gone: Hermes knows IndexError.
    "not in the stream": ["offset_ahead", "offset_gone"],
    # As a token that is changed on one side first.
    "passing for some seconds": ["unauthorized"],
    # What a person must mend.
    "final": [
        *("api_off", "displaced", "hole", "malformed_json", "malformed_key"),
        *("unreadable", failed_slowly("unreadable")),
        *("malformed_precondition", "malformed_query", "no_key"),
        *("wrong_host", "wrong_role", problem(404, "not_found")),
        *(problem(500, "internal"), problem(405, "method_not_allowed")),
    ],
}
CAUSES = {each.code: each for each in vars(errors).values() if isinstance(each, Cause)}


def answers(kind: str) -> list[Reply | str]:
    """Give those of a kind; a code stands for its problem, as the sidecar says it."""
    return [
        problem(CAUSES[each].status, each)
        if isinstance(each, str) and each in CAUSES
        else each
        for each in ANSWERS[kind]
    ]


def name_of(answer: Reply | str) -> str:
    if isinstance(answer, str):
        return answer
    name = answer.document.get("code") or answer.text or "page"
    return f"{answer.status} {name}"[:30]


def test_each_answer_to_a_reader_stands_in_the_table() -> None:
    statuses = set(GET_EVENTS)
    possible = {code for code, each in CAUSES.items() if each.status in statuses}
    rows = [row for rows in ANSWERS.values() for row in rows]
    assert possible == {row for row in rows if isinstance(row, str)} - {NO_ANSWER}


@pytest.mark.parametrize(
    "answer", answers("passing") + answers("passing for some seconds"), ids=name_of
)
def test_what_passes_is_asked_again_and_nothing_is_missed(
    hermes_home: Path, fake: FakeSidecar, clock: Clock, answer: Any
) -> None:
    plugin = consumer_of(hermes_home, fake.url, clock)
    plugin._timeout_seconds = 0.0  # even so
    fake.then(answer, page())
    with plugin:
        fake.then(answer, page(1))
        plugin.seek(1)
        fake.then(answer, page(2, 3))
        events = iter(plugin)
        assert [next(events).offset for _ in range(3)] == [1, 2, 3]
        fake.then(answer, answer, page(next_offset=4))
        assert list(events) == []
        fake.then(answer, page(7))
        assert plugin.findNextEventOfCategory("base").offset == 7
        fake.then(answer, page(next_offset=9))
        assert plugin.findNextEventOfCategory("base") is None
        assert plugin._offset == 8
    assert sum(clock.slept) < 20


@pytest.mark.parametrize("answer", answers("passing"), ids=name_of)
def test_what_does_not_pass_is_raised_in_time_and_never_spins(
    hermes_home: Path, fake: FakeSidecar, clock: Clock, answer: Any
) -> None:
    plugin = consumer_of(hermes_home, fake.url, clock)
    for ask, seconds in (
        (plugin.open, 15),
        (lambda: plugin.seek(7), 15),
        (lambda: list(plugin), 21),
        (lambda: plugin.findNextEventOfCategory("base"), 21),
    ):
        fake.then(answer)
        asked, started_at = len(fake.requests), clock.now()
        with pytest.raises(Exception, match=r"^No message bus: ") as caught:
            ask()
        assert not isinstance(caught.value, IndexError)
        assert seconds - 3 < clock.now() - started_at <= seconds
        assert len(fake.requests) - asked < 200
    plugin.close()


@pytest.mark.parametrize("answer", answers("passing for some seconds"), ids=name_of)
def test_what_passes_for_some_seconds_is_then_told(
    hermes_home: Path, fake: FakeSidecar, clock: Clock, answer: Any
) -> None:
    plugin = consumer_of(hermes_home, fake.url, clock)
    fake.then(answer)
    texts = set()
    for ask in (
        plugin.open,
        lambda: plugin.seek(7),
        lambda: list(plugin),
        lambda: plugin.findNextEventOfCategory("base"),
    ):
        started_at = clock.now()
        with pytest.raises(Exception, match=r"^No message bus: ") as caught:
            ask()
        texts.add(str(caught.value))
        assert 14 < clock.now() - started_at <= 15
    (text,) = texts
    assert "unauthorized" in text
    plugin.close()


@pytest.mark.parametrize("answer", answers("not in the stream"), ids=name_of)
def test_what_is_not_in_the_stream_is_an_index_error_after_a_pause(
    hermes_home: Path, fake: FakeSidecar, clock: Clock, answer: Any
) -> None:
    plugin = consumer_of(hermes_home, fake.url, clock)
    fake.then(answer)
    for ask in (lambda: plugin.seek(7), lambda: list(plugin)):
        started_at = clock.now()
        with pytest.raises(IndexError, match=r"^Offset not in the stream: "):
            ask()
        assert clock.now() - started_at == 5
    plugin.close()


@pytest.mark.parametrize("answer", answers("final"), ids=name_of)
def test_what_a_person_must_mend_is_raised_after_a_pause(
    hermes_home: Path, fake: FakeSidecar, clock: Clock, answer: Any
) -> None:
    plugin = consumer_of(hermes_home, fake.url, clock)
    fake.then(answer)
    for ask in (plugin.open, lambda: plugin.seek(7), lambda: list(plugin)):
        started_at = clock.now()
        with pytest.raises(Exception, match=r"^No message bus: ") as caught:
            ask()
        assert not isinstance(caught.value, IndexError)
        assert clock.now() - started_at == 5  # Hermes would try again at once
    plugin.close()


@pytest.mark.parametrize("category", [None, "base"])
def test_a_page_without_events_that_is_not_the_end_is_none(
    hermes_home: Path, fake: FakeSidecar, clock: Clock, category: str | None
) -> None:
    """The copy that was asked lags, or is none of the stream."""
    with consumer_of(hermes_home, fake.url, clock) as plugin:
        plugin._timeout_seconds = 0.0
        fake.then(*[NOT_YET] * 20, page(1), page(next_offset=2))
        if category is None:
            assert [one.offset for one in plugin] == [1]
        else:
            assert plugin.findNextEventOfCategory(category).offset == 1
        assert sum(clock.slept) > 2  # and it does not spin


@pytest.mark.parametrize("wrong", [page(8), page(7, 9), page(6, 7), page(7, 7)])
def test_a_page_that_is_not_at_the_offset_or_has_a_hole_is_none(
    hermes_home: Path, fake: FakeSidecar, clock: Clock, wrong: Reply
) -> None:
    with consumer_of(hermes_home, fake.url, clock) as plugin:
        fake.then(page(next_offset=7))
        plugin._timeout_seconds = 0.0
        plugin.seek(7)
        fake.then(wrong, page(7, 8), page(next_offset=9))
        assert [one.offset for one in plugin] == [7, 8]


def test_whatever_an_answer_asks_for_the_pause_is_some_seconds(
    hermes_home: Path, fake: FakeSidecar, clock: Clock
) -> None:
    with consumer_of(hermes_home, fake.url, clock) as plugin:
        fake.then(problem(503, "nats_down", None, "3600"), page(1))
        assert next(iter(plugin)).offset == 1
    assert clock.slept == [5]


def test_an_end_that_was_said_before_an_outage_is_none_after_it(
    hermes_home: Path, fake: FakeSidecar, clock: Clock
) -> None:
    """What was stored meanwhile stands after it."""
    with consumer_of(hermes_home, fake.url, clock) as plugin:
        plugin.setTimeout(2000)
        fake.then(page(next_offset=7), *[NO_ANSWER] * 20, page(7), problem(410, "x"))
        assert next(iter(plugin)).offset == 7


def test_a_page_asked_ahead_that_was_cut_ends_nothing(
    hermes_home: Path, fake: FakeSidecar, clock: Clock
) -> None:
    with consumer_of(hermes_home, fake.url, clock) as plugin:
        plugin._timeout_seconds = 0.0
        cut = dataclasses.replace(page(2, 3), missing_bytes=100)
        fake.then(more(1, last=3), cut, page(2, 3), page(next_offset=4))
        assert [one.offset for one in plugin] == [1, 2, 3]


def test_a_failed_find_leaves_the_offset_where_it_was(
    hermes_home: Path, fake: FakeSidecar, clock: Clock
) -> None:
    with consumer_of(hermes_home, fake.url, clock) as plugin:
        fake.then(page(5))
        assert next(iter(plugin)).offset == 5
        looked = Reply(200, {"events": [], "next_offset": 90, "last_offset": 95})
        for last in (problem(410, "offset_gone"), NO_ANSWER):
            fake.then(looked, last)
            with pytest.raises(Exception, match=r"."):
                plugin.findNextEventOfCategory("base")
            assert plugin._offset == 6


def test_a_hole_is_raised_and_never_skipped(
    hermes_home: Path, fake: FakeSidecar, clock: Clock
) -> None:
    with consumer_of(hermes_home, fake.url, clock) as plugin:
        fake.then(page(1, 2), problem(503, "hole", None, "5", offset=3))
        events = iter(plugin)
        assert [next(events).offset, next(events).offset] == [1, 2]
        with pytest.raises(Exception, match=r"No message bus: .*hole"):
            next(events)
    assert sum(clock.slept) >= 3  # Hermes would try again at once


def test_an_offset_that_vanishes_in_an_iteration_is_an_index_error_after_a_pause(
    hermes_home: Path, fake: FakeSidecar, clock: Clock
) -> None:
    with consumer_of(hermes_home, fake.url, clock) as plugin:
        fake.then(page(1), problem(410, "offset_gone"))
        events = iter(plugin)
        assert next(events).offset == 1
        with pytest.raises(IndexError):
            next(events)
    assert sum(clock.slept) >= 3


@pytest.mark.parametrize(("first", "asked"), [(1, "first"), (0, "1")])
def test_the_beginning_stays_that_of_whatever_stream_is_there(
    hermes_home: Path, fake: FakeSidecar, clock: Clock, first: int, asked: str
) -> None:
    """A stream that is made anew begins later; a filter goes on where it was."""
    plugin = consumer_of(hermes_home, fake.url, clock)
    nothing = dataclasses.replace(
        NOT_YET, document=NOT_YET.document | {"first_offset": first}
    )
    fake.then(page(), nothing, page(1))
    with plugin:
        plugin.seekToBeginning()
        assert next(iter(plugin)).offset == 1
    assert f"offset={asked}&" in fake.requests[-1].path
