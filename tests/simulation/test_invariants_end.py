# SPDX-License-Identifier: Apache-2.0
"""Each invariant of targets, of the end and of /health finds what is wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from simulation.clients import Target
from simulation.events import parsed
from simulation.history import Outcome, Sample, Told
from simulation.invariants import End
from simulation.source import SECRET
from support.story import (
    ONE,
    OTHER,
    TWO,
    USER,
    Story,
    added,
    modified,
    removed,
)

if TYPE_CHECKING:
    from collections.abc import Callable


# -- The end ---------------------------------------------------------------------------


def target_of(story: Story, start: int, stop: int) -> Target:
    """Give what a right client makes of the stream."""
    target = Target(story.last + 1, start, stop)
    for message in story.stored:
        event = parsed(message.body)
        event.offset = message.offset
        is_in_initsync = start < message.offset < stop
        if is_in_initsync or (message.offset > stop and message.category == "base"):
            target.apply(event)
    return target


@pytest.fixture
def ended(story: Story) -> Callable[[], End]:
    """Come to rest: an initsync, a change, a pass that went through."""
    start, stop = story.initsync((USER, ONE))
    story.begin()
    story.send(event=added(OTHER, ONE | {SECRET: "s"}))
    story.end()
    story.source.objects = {USER: ONE, OTHER: ONE}
    story.source.last_secret = {OTHER: "s"}

    def end() -> End:
        story.ask(story.last + 1, Outcome.END)
        targets = {"c": target_of(story, start, stop)}
        return End(story.source, targets, ["a"])

    return end


def test_a_target_that_equals_the_source_passes(
    story: Story, ended: Callable[[], End]
) -> None:
    assert story.names(ended()) == set()


@pytest.mark.parametrize("values", [None, TWO])
def test_a_target_that_differs_from_the_source_is_found(
    story: Story, ended: Callable[[], End], values: Any
) -> None:
    if values is None:
        del story.source.objects[USER]
    else:
        story.source.objects[USER] = values
    assert story.names(ended()) == {"target_differs"}


def test_a_target_that_lacks_an_object_is_found(
    story: Story, ended: Callable[[], End]
) -> None:
    end = ended()
    del end.targets["c"].objects[USER]
    assert story.names(end) == {"target_differs"}


def test_a_secret_that_stands_nowhere_is_found(
    story: Story, ended: Callable[[], End]
) -> None:
    story.source.last_secret = {USER: "wiped"}
    assert story.names(ended()) == {"secret_lost"}


@pytest.mark.parametrize(
    ("life", "values", "is_lost"),
    [(1, TWO, False), (2, TWO, True), (1, TWO | {SECRET: "wiped"}, True)],
)
def test_a_secret_of_a_first_cache_that_was_never_sent_cannot_be_helped(
    story: Story, ended: Callable[[], End], life: int, values: Any, is_lost: bool
) -> None:
    """It is wiped with the next change; only where that cache itself began with it."""
    story.source.last_secret = {USER: "wiped"}
    story.history.filled.add(("a", life, USER, "wiped"))
    end = ended()
    assert "secret_lost" in story.names(end)
    send = story.send(event=modified(USER, ONE, values))
    story.history.wiped[USER, "wiped"] = send
    if is_lost and life == 1:  # what was told sent is a promise
        del story.stored[-1]
    assert ("secret_lost" in story.names(end)) is is_lost


def test_a_secret_that_did_not_reach_a_target_is_found(
    story: Story, ended: Callable[[], End]
) -> None:
    end = ended()
    end.targets["c"].objects[OTHER] = ONE
    assert story.names(end) == {"secret_lost"}


def test_a_source_that_went_back_behind_a_doubt_cannot_be_helped(
    story: Story, ended: Callable[[], End]
) -> None:
    story.begin()
    event = modified(USER, ONE, TWO)
    story.send(Told.UNKNOWN, event, stands=True, before=ONE)
    story.end(failure="unknown")
    story.begin()
    story.end()
    assert story.names(ended()) == set()


def test_two_memories_of_one_object_cannot_be_helped(
    story: Story, ended: Callable[[], End]
) -> None:
    """A standby's older cache has the object; it tells only what differs from that."""
    name = {"state": 1, "name": "b"}
    story.begin("b")
    story.send(event=modified(USER, TWO, ONE), server="b", before=TWO | {"name": "b"})
    story.end("b")
    story.source.objects[USER] = name
    end = ended()._replace(servers=["a", "b"])
    assert story.names(end) == set()


def test_a_client_from_before_a_backup_should_have_been_made_new(
    story: Story, ended: Callable[[], End]
) -> None:
    story.source.objects[USER] = TWO
    end = ended()
    story.epoch += 1
    story.note_ends()  # the backup holds all that stood
    assert story.names(end, restored=frozenset({1})) == set()
    assert story.names(end) == {"target_differs"}


def test_what_a_restored_stream_has_lost_is_told_nobody(
    story: Story, ended: Callable[[], End]
) -> None:
    """A client that began after the backup was restored equals the source."""
    ended()
    story.begin()
    story.send(event=modified(USER, ONE, TWO), before=ONE)
    story.end()
    story.epoch, story.last = 1, 2
    story.note_ends()
    start, stop = story.initsync((USER, TWO), (OTHER, ONE))
    story.source.objects[USER] = TWO
    story.begin()
    story.end()
    story.ask(stop + 1, Outcome.END)
    target = Target(stop + 1, start, stop, {USER: TWO, OTHER: ONE})
    end = End(story.source, {"c": target}, ["a"])
    assert story.names(end, restored=frozenset({1})) == set()
    target.objects[USER] = ONE
    assert story.names(end, restored=frozenset({1})) == {"target_differs"}


def test_a_removed_that_came_twice_and_destroys_is_found(
    story: Story, ended: Callable[[], End]
) -> None:
    story.begin()
    for _ in range(2):
        story.send(event=removed(USER), before=ONE)
    story.end()
    del story.source.objects[USER]
    assert story.names(ended()) == {"destroyed"}


def test_a_server_that_does_not_get_on_is_found(
    story: Story, ended: Callable[[], End]
) -> None:
    story.source.changed_at = story.now
    assert story.names(ended()) == {"stuck"}


def test_a_client_that_does_not_get_on_is_found(
    story: Story, ended: Callable[[], End]
) -> None:
    end = ended()
    del story.history.askings[-1]
    assert story.names(end) == {"stuck"}


def test_a_request_that_is_still_open_is_found(
    story: Story, ended: Callable[[], End]
) -> None:
    assert story.names(ended()._replace(open_requests=["POST"])) == {"outlived"}


# -- Beside the stream -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("is_ready", "can_publish", "seconds", "found"),
    [
        (True, False, 29, set()),
        (True, False, 32, {"ready_in_vain"}),
        (False, True, 59, set()),
        (False, True, 62, {"not_ready_in_vain"}),
        (True, True, 100, set()),
        (False, False, 100, set()),
    ],
)
def test_health_tells_the_truth_within_its_delay(
    story: Story, is_ready: bool, can_publish: bool, seconds: int, found: set[str]
) -> None:
    for second in range(seconds):
        sample = Sample("s", float(second), is_ready, ("why",), can_publish)
        story.history.samples.append(sample)
    assert story.names() == found


def test_health_that_changes_in_time_is_no_lie(story: Story) -> None:
    for second in range(100):
        sample = Sample("s", float(second), second % 20 > 2, (), second % 20 > 2)
        story.history.samples.append(sample)
        wrong = Sample("t", float(second), second % 20 > 2, (), False)
        story.history.samples.append(wrong)
    assert story.names() == set()


@pytest.mark.parametrize(("pause", "found"), [(0.002, {"spins"}), (1.0, set())])
def test_a_schema_that_is_tried_again_at_once_is_found(
    story: Story, pause: float, found: set[str]
) -> None:
    for _ in range(30):
        begun = story.history.begin_pass("a", 1, "dataschema", story.now)
        story.history.end_pass(begun, RuntimeError("refused"))
        story.now += pause
    assert story.names() == found


def test_a_failure_counts_where_nothing_but_a_link_was_slow(three: Story) -> None:
    assert three.names(is_only_slow=True) == set()
    three.ask(2, Outcome.FAILED)
    assert three.names() == set()
    assert three.names(is_only_slow=True) == {"starved"}


def test_a_failed_open_counts_where_nothing_but_a_link_was_slow(three: Story) -> None:
    three.history.no_bus.append((three.tick(), "c", "No message bus"))
    assert three.names() == set()
    assert three.names(is_only_slow=True) == {"starved"}
