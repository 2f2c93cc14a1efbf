# SPDX-License-Identifier: Apache-2.0
"""Each invariant of the stream finds what is wrong, and passes what is right."""

from __future__ import annotations

from pathlib import Path

import pytest
from simulation.events import new_event, schema
from simulation.history import Told
from simulation.invariants import GUARANTEES
from support.story import (
    ONE,
    OTHER,
    TWO,
    USER,
    Story,
    added,
    init,
    initsync_added,
    removed,
)

# -- What was sent and what stands -----------------------------------------------------


def test_what_is_right_passes(story: Story) -> None:
    story.begin()
    story.send()
    story.send(event=added(OTHER, ONE))
    story.send(Told.NOT_STORED, removed(USER))
    story.end(failure="not stored")
    story.begin()
    story.send(Told.UNKNOWN, removed(USER), stands=True)
    story.end(failure="unknown")
    story.begin()
    story.send(Told.STANDING, removed(USER))
    story.end()
    assert story.names() == set()


def test_an_event_that_was_told_stored_and_does_not_stand_is_lost(story: Story) -> None:
    story.send(stands=False).offset = 1
    assert story.names() == {"lost"}


def test_an_event_that_a_stream_took_with_it_while_it_was_made_anew_is_not_lost(
    story: Story,
) -> None:
    """Its leader was frozen, and acknowledged before it learned of the new one."""
    send = story.send(stands=False)
    send.offset = 1
    story.make_anew(2)
    send.ended = story.tick()
    assert story.names() == set()


def test_an_event_that_stands_elsewhere_than_told_is_found(story: Story) -> None:
    story.send(key="k").offset = 2
    assert story.names() == {"wrong_place"}


def test_an_offset_that_was_given_to_two_is_found(story: Story) -> None:
    story.send(key="k")
    story.send(stands=False, key="l").offset = 1
    assert story.names() == {"given_twice"}


def test_a_send_that_stands_twice_is_found(story: Story) -> None:
    story.send(Told.UNKNOWN, stands=True, key="k")
    assert story.names() == set()
    story.store(added(USER, ONE), "k")
    assert story.names() == {"doubled"}


def test_a_second_copy_under_another_key_is_found(story: Story) -> None:
    story.send(key="k")
    story.store(added(USER, ONE), "made anew")
    assert story.names() == {"doubled"}


def test_what_a_person_posted_may_stand_twice(story: Story) -> None:
    story.send(key="k").is_fenced = False
    story.store(added(USER, ONE), "k")
    assert story.names() == set()


def test_a_late_copy_of_what_was_told_not_stored_is_found(story: Story) -> None:
    story.send(Told.NOT_STORED, key="k")
    story.send(event=added(OTHER, ONE))
    assert story.names() == set()
    story.store(added(USER, ONE), "k")
    assert story.names() == {"not_stored_stands", "out_of_order"}


def test_what_a_restore_took_away_was_rightly_told_not_stored(story: Story) -> None:
    """Another event stands there in the older copy, and the same request learns it."""
    story.send(event=added(OTHER, ONE))
    story.begin("b")
    send = story.send(Told.NOT_STORED, event=added(USER, ONE), server="b", key="k")
    send.ended = float("inf")
    story.store(added(USER, ONE), "k")
    story.make_anew(2)
    story.store(added(OTHER, TWO))
    story.send(event=added(OTHER, ONE), server="a")
    send.ended = story.tick()
    assert "not_stored_stands" not in story.names(restored=frozenset({1}))
    send.ended = 0.0
    assert "not_stored_stands" in story.names(restored=frozenset({1}))


def test_without_keys_it_is_found_too(story: Story) -> None:
    story.send(Told.NOT_STORED)
    story.store(added(USER, ONE))
    assert story.names() == {"not_stored_stands"}


def test_what_nobody_sent_is_found(story: Story) -> None:
    story.store(added(USER, ONE))
    assert story.names() == {"nobody_sent"}


def test_what_stands_in_another_order_than_sent_is_found(story: Story) -> None:
    story.send(Told.UNKNOWN, key="k")
    story.send(event=added(OTHER, ONE), key="l")
    story.store(added(USER, ONE), "k")
    assert story.names() == {"out_of_order"}


def test_what_a_node_brings_back_after_a_restore_stands_in_its_own_order(
    story: Story,
) -> None:
    """Of a node that was cut off meanwhile: found by seed 702658."""
    story.send(event=added(OTHER, ONE))
    for event, key in ((added(USER, ONE), "k"), (added(OTHER, TWO), "l")):
        story.send(Told.STORED, event=event, key=key)
    story.make_anew(2)
    story.store(added(USER, ONE), "k")
    story.store(added(OTHER, TWO), "l")
    assert "out_of_order" not in story.names(restored=frozenset({1}))
    story.make_anew(2)
    story.store(added(OTHER, TWO), "l")
    story.store(added(USER, ONE), "k")
    assert "out_of_order" in story.names(restored=frozenset({1, 2}))


# -- One change ------------------------------------------------------------------------


def test_a_change_that_was_in_doubt_and_stands_twice_is_found(story: Story) -> None:
    story.begin()
    story.send(Told.UNKNOWN, stands=True)
    story.end(failure="unknown")
    story.begin()
    story.send()
    assert story.names() == {"doubled_change"}


def test_a_change_in_doubt_that_does_not_stand_may_come_again(story: Story) -> None:
    story.send(Told.UNKNOWN)
    story.send()
    assert story.names() == set()


def test_a_change_that_came_back_after_another_is_a_new_one(story: Story) -> None:
    story.send(Told.UNKNOWN, stands=True)
    story.send(Told.UNKNOWN, added(USER, TWO), stands=True)
    story.send()
    assert story.names() == set()


@pytest.mark.parametrize("is_removal", [True, False])
def test_a_change_behind_another_servers_removal_is_a_new_one(
    story: Story, *, is_removal: bool
) -> None:
    story.begin("b")
    story.send(Told.UNKNOWN, stands=True)
    story.send(
        event=(removed if is_removal else added)(OTHER, *[ONE] * (not is_removal)),
        server="b",
    )
    story.send()
    assert ("doubled_change" in story.names()) is not is_removal


def test_a_change_that_a_whole_pass_had_not_is_a_new_one(story: Story) -> None:
    story.send(Told.UNKNOWN, stands=True)
    story.end(failure="unknown")
    story.begin()
    story.end()
    story.begin()
    story.send()
    assert story.names() == set()


def test_a_repeat_of_what_was_purged_cannot_be_known(story: Story) -> None:
    story.send(Told.UNKNOWN, stands=True)
    story.purge(2)
    story.send()
    assert story.names() == set()


def test_an_event_that_was_swallowed_is_found(story: Story) -> None:
    story.send(Told.UNKNOWN)  # and never stored
    story.send(Told.STANDING)
    assert story.names() == {"swallowed"}


def test_an_event_behind_another_of_its_object_is_not_to_be_swallowed(
    story: Story,
) -> None:
    """P2: the stream ends with the second, Hermes' cache with the first."""
    story.send(Told.UNKNOWN, stands=True)
    story.send(Told.UNKNOWN, added(USER, TWO), stands=True)
    story.send(Told.STANDING)
    assert story.names() == {"swallowed"}


def test_an_event_that_was_told_stored_is_not_to_be_recognised(story: Story) -> None:
    story.send()
    story.send(Told.STANDING)
    assert story.names() == {"swallowed"}


def test_an_event_that_a_dead_process_stored_may_be_recognised(story: Story) -> None:
    story.send().is_forgotten = True
    story.lives["a"] = 2
    story.begin()
    story.send(Told.STANDING)
    assert story.names() == set()


def test_one_stored_event_is_recognised_once(story: Story) -> None:
    story.send(Told.UNKNOWN, stands=True)
    story.send(Told.STANDING)
    assert story.names() == set()
    story.send(Told.STANDING)
    assert story.names() == {"swallowed"}


def test_an_event_before_an_initsync_that_lacks_it_is_not_to_be_swallowed(
    story: Story,
) -> None:
    """Who begins with that initsync would never get it."""
    story.send(Told.UNKNOWN, stands=True)
    story.end(failure="unknown")
    story.initsync()
    story.begin()
    story.send(Told.STANDING)
    assert story.names() == {"swallowed"}
    del story.history.sends[-1]
    story.send()  # again: those who follow get it twice, which harms less
    assert story.names() == set()


def test_a_schema_is_never_recognised(story: Story) -> None:
    event = new_event("base", "dataschema", None, schema(2))
    story.send(Told.UNKNOWN, event, stands=True)
    story.send(Told.STANDING, event)
    assert story.names() == {"swallowed"}


# -- Initsyncs, offsets, the fence -----------------------------------------------------


@pytest.mark.parametrize("failure", ["", "unknown"])
def test_an_initsync_of_which_hermes_was_told_that_it_is_sent_has_its_stop(
    story: Story, failure: str
) -> None:
    story.begin(kind="initsync")
    story.send(event=init("init-start"))
    story.send(Told.NOT_STORED, init("init-stop"))
    story.end(failure=failure)
    if failure:
        assert story.names() == set()
    else:
        assert story.names() == {"lost_initsync"}


def test_a_whole_initsync_passes_and_one_that_lacks_an_event_is_found(
    story: Story,
) -> None:
    story.initsync((USER, ONE), (OTHER, ONE))
    assert story.names() == set()
    story.begin(kind="initsync")
    story.send(Told.ACCEPTED, init("init-start"))
    story.send(Told.ACCEPTED, initsync_added(USER, ONE), stands=False)
    story.send(event=init("init-stop"))
    assert story.names() == {"broken_initsync"}


def test_an_initsync_that_was_begun_anew_is_whole(story: Story) -> None:
    story.begin(kind="initsync")
    story.send(event=init("init-start"))
    story.send(Told.UNKNOWN, initsync_added(USER, ONE), stands=True)
    story.end(failure="unknown")
    story.initsync((USER, ONE))
    assert story.names() == set()


def test_offsets_that_come_again_are_found(story: Story) -> None:
    story.send()
    story.make_anew(2)
    story.send(event=added(OTHER, ONE))
    assert story.names() == set()
    story.make_anew(2)
    story.send(event=added(OTHER, TWO))
    assert story.names() == {"offsets"}
    assert story.names(restored=frozenset({2})) == set()


def test_an_offset_that_was_left_out_is_found(story: Story) -> None:
    story.send()
    story.last += 1
    story.send(event=added(OTHER, ONE))
    assert story.names() == {"offsets"}


def test_an_event_behind_a_foreign_one_inside_its_pass_is_found(story: Story) -> None:
    story.begin("b")
    story.send(server="a")
    story.begin("a")
    story.begin("b")
    story.send(event=added(OTHER, ONE), server="b")
    assert story.names() == set()
    story.send(event=added(OTHER, TWO), server="a")
    assert story.names() == {"behind_foreign"}


def test_an_event_in_an_older_copy_of_the_stream_is_behind_no_foreign_one(
    story: Story,
) -> None:
    story.send(server="a")
    story.begin("a")
    story.begin("b")
    story.send(event=added(OTHER, ONE), server="b")
    story.make_anew(2)
    story.send(event=added(OTHER, TWO), server="a")
    assert "behind_foreign" in story.names()
    assert story.names(restored=frozenset({1})) == set()


def test_each_guarantee_has_a_test_that_sees_it_broken() -> None:
    here = Path(__file__).parent
    text = "".join(each.read_text("utf-8") for each in here.glob("test_invariants*.py"))
    assert [name for name in GUARANTEES if f'{{"{name}"}}' not in text] == []
