# SPDX-License-Identifier: Apache-2.0
"""What a killed hermes-server had sent is to be known for it, and nothing else is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from simulation.clients import Target
from simulation.events import new_event, schema
from simulation.history import Outcome, Told
from simulation.invariants import End
from simulation.killed import NO_REPEAT, Why
from support.story import ONE, OTHER, TWO, USER, Story, added, removed

if TYPE_CHECKING:
    from collections.abc import Callable

NOTE = ("Notes", 1)
DOCUMENTATION = Path(__file__).resolve().parents[2] / "docs" / "simulation.md"


@pytest.fixture
def killed(story: Story) -> Story:
    """Tell of a process that was killed in its second pass, after an event or two."""
    story.send(event=added(("Users", 3), ONE))
    story.end()
    story.begin()
    story.send(Told.STORED)
    story.send(Told.KILLED, added(OTHER, ONE), stands=True)
    return story


def test_what_a_dead_process_had_stored_is_not_to_be_stored_again(
    killed: Story,
) -> None:
    killed.begin_anew()
    killed.send()
    assert killed.names() == {"doubled_change"}


def test_what_a_dead_process_had_stored_is_recognised(killed: Story) -> None:
    killed.begin_anew()
    killed.send(Told.STANDING)
    killed.send(Told.STANDING, added(OTHER, ONE))
    killed.end()
    assert killed.names() == set()
    assert not killed.forgiven


@pytest.mark.parametrize("told", [Told.STORED, Told.STANDING])
def test_what_was_in_flight_is_known_too_and_which_pass_it_began(
    story: Story, told: Told
) -> None:
    """It was the first of its pass, and came after the next process had asked."""
    story.send(event=added(OTHER, ONE))
    story.end()
    story.begin()
    story.send(Told.KILLED, key="k")
    story.begin_anew()
    story.send(Told.NOT_STORED)
    story.end(failure="another wrote")
    story.store(added(USER, ONE), "k")
    story.begin()
    story.send(told)
    assert story.names() == (set() if told is Told.STANDING else {"doubled_change"})


@pytest.mark.parametrize("told", [Told.STORED, Told.STANDING])
def test_a_process_goes_on_with_the_pass_that_it_found_and_those_begun_since(
    killed: Story, told: Told
) -> None:
    """Another hermes-server runs meanwhile."""
    killed.begin("b")
    killed.send(Told.UNKNOWN, added(("Groups", "b"), ONE), server="b", stands=True)
    killed.end("b", failure="unknown")
    let_a_pass_go_through(killed)
    killed.begin()
    killed.send(event=added(("Groups", "a"), ONE))
    killed.begin("b")
    killed.send(told, server="b")
    killed.send(told, added(("Groups", "a"), ONE), server="b")
    assert killed.names() == (set() if told is Told.STANDING else {"doubled_change"})
    assert not killed.forgiven[Why.OLDER]


@pytest.mark.parametrize("lives", [1, 3])
@pytest.mark.parametrize("told", [Told.STORED, Told.STANDING])
def test_a_row_of_deaths_is_one_pass(killed: Story, lives: int, told: Told) -> None:
    """Each process knows some, and sends one that it has no time to save."""
    for number in range(lives):
        killed.begin_anew()
        killed.send(Told.STANDING).is_forgotten = True
        killed.send(event=added(("Groups", f"g{number}"), ONE))
    killed.begin_anew()
    for number in range(lives):
        killed.send(told, event=added(("Groups", f"g{number}"), ONE))
    killed.send(Told.STANDING)
    assert killed.names() == (set() if told is Told.STANDING else {"doubled_change"})


def test_another_server_knows_what_the_dead_one_had_sent(killed: Story) -> None:
    """A standby takes over, with a cache that was copied before."""
    killed.begin("b")
    killed.send(Told.STANDING, server="b")
    assert killed.names() == set()
    killed.send(event=added(OTHER, ONE), server="b")
    assert killed.names() == {"doubled_change"}


def test_an_event_that_is_not_the_newest_of_its_object_is_new(killed: Story) -> None:
    killed.begin_anew()
    killed.send(event=added(USER, TWO))
    killed.begin_anew()
    killed.send()
    assert killed.names() == set()
    killed.history.sends[-1].told = Told.STANDING
    del killed.stored[-1]
    assert killed.names() == {"swallowed"}


def test_what_is_not_the_same_to_the_byte_is_new(killed: Story) -> None:
    killed.begin_anew()
    killed.send(Told.STANDING, added(USER, TWO))
    assert killed.names() == {"swallowed"}


def test_the_documentation_has_each_reason() -> None:
    text = DOCUMENTATION.read_text("utf-8")
    table = text.partition("| an event comes again, or never |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| ([^|]+) \| [^|]+ \|$", table, re.MULTILINE)
    assert rows == [why.value for why in Why if why not in NO_REPEAT]


# -- What cannot be helped -------------------------------------------------------------


def let_a_pass_go_through(story: Story) -> None:
    story.begin_anew()
    story.end()


def send_of_another_pass(story: Story) -> None:
    story.begin()
    story.end()
    story.begin()
    story.send(event=added(("Groups", "g"), ONE))


def let_another_server_run(story: Story) -> None:
    """Its passes go on: what comes behind that is no first pass of anybody."""
    story.begin("b")
    story.end("b")
    story.begin("b")


def post_by_hand(story: Story) -> None:
    story.send(event=added(NOTE, ONE), server="person").is_fenced = False


def send_an_initsync(story: Story) -> None:
    story.initsync(server="b")


def send_a_schema(story: Story) -> None:
    event = new_event("base", "dataschema", None, schema(2))
    story.send(event=event, server="b")


def try_a_schema(story: Story) -> None:
    story.begin_anew()
    event = new_event("base", "dataschema", None, schema(2))
    story.send(Told.NOT_STORED, event)


def remove_another(story: Story) -> None:
    story.send(event=removed(OTHER), server="b")


def remove_in_the_next_attempt(story: Story) -> None:
    """Not know that the first attempt had sent what the removal may take with it."""
    story.end(failure="the source")
    story.begin()
    story.send(event=removed(OTHER))


def try_another_event(story: Story) -> None:
    story.begin_anew()
    story.send(Told.UNKNOWN, added(USER, TWO))


def try_a_removal(story: Story) -> None:
    story.begin_anew()
    story.send(Told.UNKNOWN, removed(OTHER))


@pytest.mark.parametrize(
    ("happen", "server", "why"),
    [
        (let_a_pass_go_through, "a", Why.THROUGH),
        (let_another_server_run, "b", Why.SERVERS),
        (send_of_another_pass, "", Why.OLDER),
        (post_by_hand, "", Why.PERSON),
        (send_an_initsync, "", Why.INITSYNC),
        (send_a_schema, "", Why.SCHEMA),
        (try_a_schema, "a", Why.SCHEMA),
        (remove_another, "", Why.REMOVAL),
        (remove_in_the_next_attempt, "", Why.REMOVAL),
        (try_another_event, "a", Why.TRIED),
        (try_a_removal, "a", Why.TRIED),
    ],
)
def test_an_event_may_come_again_for_a_reason_alone(
    killed: Story, happen: Callable[[Story], None], server: str, why: Why
) -> None:
    """With the same reason it is not to be recognised. No `server`: a new process."""
    happen(killed)
    if server:
        killed.begin(server)
    else:
        killed.begin_anew()
    send = killed.send(server=server or "a")
    assert killed.names() == set()
    assert killed.forgiven[why] == 1
    send.told = Told.STANDING
    del killed.stored[-1]
    assert killed.names() == {"swallowed"}


def test_a_removal_is_recognised_behind_another_one(story: Story) -> None:
    story.send(event=removed(USER))
    story.send(event=removed(OTHER), server="b")
    story.begin_anew()
    story.send(Told.STANDING, removed(USER))
    assert story.names() == set()
    story.begin_anew()
    story.send(event=removed(USER))
    assert story.names() == {"doubled_change"}


def test_what_a_process_removed_itself_ends_none_of_its_other_events(
    killed: Story,
) -> None:
    """It would have removed with it what depends on it, by events of their own."""
    killed.send(event=removed(OTHER))
    killed.begin_anew()
    killed.send(Told.STANDING)
    assert killed.names() == set()


@pytest.mark.parametrize("told", [Told.STORED, Told.STANDING])
@pytest.mark.parametrize("event", [added(USER, TWO), removed(OTHER)])
def test_behind_what_was_refused_an_event_may_be_known_or_not(
    killed: Story, told: Told, event: Any
) -> None:
    killed.begin_anew()
    killed.send(Told.NOT_STORED, event)
    killed.send(told)
    assert killed.names() == set()
    assert killed.forgiven[Why.IN_VAIN] == (told is Told.STORED)


@pytest.mark.parametrize("told", [Told.STORED, Told.STANDING])
def test_what_comes_when_its_object_was_tried_may_be_known_or_not(
    killed: Story, told: Told
) -> None:
    killed.send(Told.KILLED, added(USER, TWO), key="k")
    killed.begin_anew()
    killed.send(Told.NOT_STORED, added(USER, TWO))
    killed.end(failure="another wrote")
    killed.store(added(USER, TWO), "k")
    killed.begin()
    killed.send(told, added(USER, TWO))
    assert killed.names() == set()
    assert killed.forgiven[Why.IN_VAIN] == (told is Told.STORED)


def test_a_restored_stream_is_no_reason_to_know_less(killed: Story) -> None:
    """What stands in the backup is the newest; whether it is repeated is not judged."""
    killed.tick()
    killed.epoch += 1
    killed.note_ends()
    killed.begin_anew()
    killed.send(Told.STANDING)
    assert killed.names(restored=frozenset({1})) == set()
    killed.send(event=added(OTHER, ONE))
    assert killed.names(restored=frozenset({1})) == set()
    assert killed.forgiven[Why.RESTORED] == 1


def test_what_has_expired_is_new(killed: Story) -> None:
    killed.purge(killed.last + 1)
    killed.begin_anew()
    killed.send()
    assert killed.names() == set()
    killed.send(Told.STANDING, added(OTHER, ONE))
    assert killed.names() == {"swallowed"}


def test_passes_of_two_servers_that_began_at_one_offset_are_one(story: Story) -> None:
    """A sidecar sees the offset alone; the event is the newest all the same."""
    story.begin("b")
    story.end("b")
    story.begin("b")
    story.begin()
    story.end()
    story.begin()
    story.send(event=added(OTHER, ONE), server="b", key="b-100-1")
    story.send(key="a-100-1")
    story.begin_anew()
    story.send(Told.STANDING, added(OTHER, ONE))
    assert "swallowed" not in story.names()
    story.stored[-1] = story.stored[-1]._replace(key="a-101-1")
    story.history.sends[1].keys = ["a-101-1"]
    assert "swallowed" in story.names()


# -- Targets ---------------------------------------------------------------------------


def end_of(story: Story, target: Target) -> End:
    """Come to rest: a pass goes through, and the client has read all."""
    story.begin()
    story.end()
    target.next_offset = story.last + 1
    story.ask(story.last + 1, Outcome.END)
    return End(story.source, {"c": target}, ["a"])


@pytest.mark.parametrize("is_helped", [True, False])
def test_a_trashbin_is_emptied_by_what_cannot_be_helped_alone(
    story: Story, *, is_helped: bool
) -> None:
    start, stop = story.initsync((USER, ONE))
    story.begin()
    story.send(event=removed(USER), before=ONE)
    if not is_helped:
        let_a_pass_go_through(story)
        story.begin()
    else:
        story.begin_anew()
    story.send(event=removed(USER), before=ONE)
    target = Target(None, start, stop)
    target.destroyed = [(USER, stop + 1, stop + 2)]
    found = story.names(end_of(story, target))
    assert found == ({"doubled_change", "destroyed"} if is_helped else set())


@pytest.mark.parametrize(
    ("is_known", "is_lost"), [(False, True), (True, False), (True, True)]
)
def test_a_source_that_went_back_after_a_kill_cannot_be_helped(
    story: Story, *, is_known: bool, is_lost: bool
) -> None:
    """But where a later process knew the event, and saved that, it sends another."""
    start, stop = story.initsync((USER, ONE))
    story.begin()
    story.send(event=removed(USER), before=ONE).is_forgotten = True
    story.begin_anew()
    if is_known:
        story.send(Told.STANDING, removed(USER)).is_forgotten = is_lost
    if is_lost:
        story.begin_anew()
    story.source.objects[USER] = ONE
    found = story.names(end_of(story, Target(None, start, stop)))
    assert found == (set() if is_lost else {"target_differs"})
    assert story.forgiven[Why.WENT_BACK] == is_lost
