# SPDX-License-Identifier: Apache-2.0
"""The models of hermes-server and hermes-client, on a bus in memory."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from simulation.clients import Target
from simulation.events import new_event
from simulation.history import Told
from simulation.source import SECRET
from support.memory_world import MemoryWorld

if TYPE_CHECKING:
    from simulation.claims import Violation
    from support.hermes_bench import Bench

SEEDS = int(os.environ.get("SIMULATED_HERMES_SEEDS", "40"))
HELD = 12
"""Seeds whose runs are kept: several tests look at them."""

BROKEN = {
    "drops": "lost",
    "doubles": "doubled",
    "doubles under another key": "doubled",
    "reorders": "wrong_place",
    "says not stored": "not_stored_stands",
    "recognises nothing": "doubled_change",
    "remembers for ever": "swallowed",
    "repeats the dead": "doubled_change",
    "begins a pass of its own": "doubled_change",
    "knows any pass": "swallowed",
    "knows older ones": "swallowed",
    "compares no bytes": "swallowed",
    "no precondition": "behind_foreign",
    "no fence": "behind_foreign",
    "offsets again": "offsets",
    "ends falsely": "false_end",
    "refuses falsely": "reader_refused",
    "skips": "reader_skipped",
    "repeats": "reader_skipped",
    "alters": "reader_altered",
    "finds nothing": "false_end",
    "finds the second": "reader_skipped",
}


Run = tuple[MemoryWorld, "list[Violation]"]


def run(seed: int) -> Run:
    world = MemoryWorld(seed)
    return world, world.run()


@pytest.fixture(scope="module")
def held() -> list[Run]:
    return [run(seed) for seed in range(HELD)]


def test_no_seed_shows_a_violation_on_a_right_bus(held: list[Run]) -> None:
    others = map(run, range(HELD, SEEDS))
    for seed, (world, violations) in enumerate(itertools.chain(held, others)):
        assert not violations, f"seed {seed}: {violations[0]}\n{world.told()}"


@pytest.mark.parametrize("how", BROKEN)
def test_a_bus_that_is_broken_is_found(how: str) -> None:
    found: Counter[str] = Counter()
    for seed in range(60):
        found += Counter(each.name for each in MemoryWorld(seed, how).run())
        if found[BROKEN[how]]:
            return
    pytest.fail(f"{how}: found only {found}")


def test_the_same_seed_gives_the_same_run(held: list[Run]) -> None:
    assert run(3)[0].told() == held[3][0].told()


def test_runs_hold_what_they_are_for(held: list[Run]) -> None:
    """Byte-identical events, doubts, kills, two servers, aborted initsyncs."""
    seen: Counter[str] = Counter()
    for world, _ in held:
        history = world.history
        bodies = Counter(s.body for s in history.sends if s.category == "base")
        seen["recurring"] += sum(count > 2 for count in bodies.values())
        seen.update(send.told for send in history.sends)
        seen["forgotten"] += sum(send.is_forgotten for send in history.sends)
        seen["standby"] += len({send.server for send in history.sends}) - 1
        seen["schemas"] += sum(send.kind == "dataschema" for send in history.sends)
        seen["aborted initsyncs"] += sum(
            each.kind == "initsync" and not each.went_through for each in history.passes
        )
        seen["secrets"] += sum(SECRET.encode() in send.body for send in history.sends)
        seen["killed"] += sum(each.was_killed for each in history.restarts)
        seen["refused"] += sum(
            asking.outcome == "refused" for asking in history.askings
        )
    for what in (
        *("recurring", "forgotten", "standby", "schemas", "aborted initsyncs"),
        *("secrets", "killed", "refused"),
        *(Told.STORED, Told.STANDING, Told.NOT_STORED, Told.UNKNOWN),
    ):
        assert seen[what], f"no {what} in {HELD} seeds: {seen}"


def test_the_first_pass_ever_fills_the_cache_and_sends_nothing(bench: Bench) -> None:
    bench.actors.spawn("server", bench.server.run)
    bench.run_until(10.0)
    assert not bench.history.sends
    assert bench.server.disk.objects == bench.source.objects


def test_an_initsync_is_one_event_for_each_object_between_its_ends(
    bench: Bench,
) -> None:
    bench.actors.spawn("server", bench.server.run)
    bench.run_until(10.0)
    bench.server.wants_initsync = True
    bench.run_until(29.0)
    assert bench.kinds() == ["init-start", "added", "added", "init-stop"]


def test_an_initsync_waits_for_the_first_fetch(bench: Bench) -> None:
    bench.supervisor.fault_chance = 1.0
    bench.actors.spawn("server", bench.server.run)
    bench.run_until(5.0)
    bench.server.wants_initsync = True
    bench.supervisor.fault_chance = 0.0
    bench.run_until(200.0)
    assert bench.kinds() == ["init-start", "added", "added", "init-stop"]


def test_a_secret_is_wiped_once_sent_and_reaches_the_client_alone(
    bench: Bench,
) -> None:
    user = ("Users", 1)
    bench.actors.spawn("server", bench.server.run)
    bench.actors.spawn("client", bench.client.run)
    bench.run_until(10.0)
    bench.server.wants_initsync = True
    bench.run_until(29.0)
    bench.source.objects[user] = {"state": 1, SECRET: "s"}
    bench.run_until(40.0)
    assert bench.source.objects[user] == {"state": 1}
    assert bench.server.disk.objects[user] == {"state": 1}
    assert bench.client.target.objects[user] == {"state": 1, SECRET: "s"}
    bench.run_until(100.0)  # and no later pass takes it back
    assert bench.kinds().count("modified") == 1


def test_a_secret_of_the_first_cache_is_wiped_with_another_change(
    bench: Bench,
) -> None:
    """No event has it; the model says so, and which send had it wiped."""
    user = ("Users", 1)
    bench.source.objects[user] = {"state": 1, SECRET: "s"}
    bench.actors.spawn("server", bench.server.run)
    bench.run_until(10.0)
    assert bench.history.filled == {("server", 1, user, "s")}
    assert not bench.history.wiped
    bench.source.objects[user] = {"state": 2, SECRET: "s"}
    bench.run_until(40.0)
    assert bench.source.objects[user] == {"state": 2}
    [send] = bench.history.sends
    assert SECRET.encode() not in send.body
    assert bench.history.wiped == {(user, "s"): send}


def test_a_killed_server_forgets_what_it_sent_since_the_cache_was_saved(
    bench: Bench,
) -> None:
    actor = bench.actors.spawn("server", bench.server.run)
    bench.run_until(10.0)
    bench.source.objects |= {("Users", 3): {"state": 0}, ("Users", 4): {"state": 0}}
    bench.loop.call_at(30.003 + 0.0014, bench.actors.kill, actor)
    bench.run_until(40.0)
    assert [send.told for send in bench.history.sends] == [Told.STORED, Told.KILLED]
    assert bench.history.sends[0].is_forgotten
    bench.actors.spawn("server", bench.server.run)
    bench.run_until(80.0)
    assert bench.kinds() == ["added", "added", "added", "added"]


def test_a_failed_pass_saves_what_was_sent_and_is_computed_anew(bench: Bench) -> None:
    bench.actors.spawn("server", bench.server.run)
    bench.run_until(10.0)
    bench.source.objects |= {("Users", 3): {"state": 0}, ("Users", 4): {"state": 0}}
    bench.loop.call_at(30.004, setattr, bench.supervisor, "fault_chance", 1.0)
    bench.run_until(31.0)
    bench.supervisor.fault_chance = 0.0
    del bench.source.objects["Users", 2]
    bench.run_until(200.0)
    failed, passed = bench.history.passes[1:3]
    assert not failed.went_through
    assert passed.began - failed.ended == pytest.approx(60.0)
    sends = bench.history.sends
    told = (Told.STORED, Told.STANDING)
    sent = [send.object for send in sends if send.told in told]
    assert Counter(sent) == Counter([("Users", 3), ("Users", 4), ("Users", 2)])


def test_a_stopped_server_ends_its_pass_first(bench: Bench) -> None:
    actor = bench.actors.spawn("server", bench.server.run)
    bench.run_until(10.0)
    bench.source.objects |= {("Users", 3): {"state": 0}, ("Users", 4): {"state": 0}}
    bench.loop.call_at(30.002, setattr, bench.server, "is_stopping", True)
    bench.run_until(40.0)
    assert actor.is_done
    assert bench.kinds() == ["added", "added"]
    assert bench.history.passes[-1].went_through


def test_a_client_takes_its_cache_back_when_killed(bench: Bench) -> None:
    bench.actors.spawn("server", bench.server.run)
    bench.run_until(10.0)
    bench.server.wants_initsync = True
    actor = bench.actors.spawn("client", bench.client.run)
    bench.run_until(29.0)
    saved = bench.client.disk.next_offset
    bench.source.objects["Users", 1] = {"state": 0}
    bench.run_until(31.0)
    bench.actors.kill(actor)
    bench.run_until(32.0)
    assert bench.client.disk.next_offset == saved
    bench.actors.spawn("client", bench.client.run)
    bench.run_until(50.0)
    assert bench.client.target.objects["Users", 1] == {"state": 0}


def _event(kind: str, offset: int, attrs: Any) -> Any:
    event = new_event("base", kind, ("Users", 1), attrs)
    event.offset = offset
    return event


def test_a_second_removed_destroys_what_the_trashbin_held() -> None:
    target = Target()
    target.apply(_event("added", 1, {"state": 1}))
    target.apply(_event("removed", 2, {}))
    assert target.trashbin == {("Users", 1): ({"state": 1}, 2)}
    target.apply(_event("removed", 3, {}))
    assert not target.trashbin
    assert target.destroyed == [(("Users", 1), 2, 3)]


def test_an_object_comes_back_out_of_the_trashbin() -> None:
    target = Target()
    target.apply(_event("added", 1, {"state": 1}))
    target.apply(_event("removed", 2, {}))
    target.apply(_event("added", 3, {"state": 2}))
    assert target.objects == {("Users", 1): {"state": 2}}
    assert not target.destroyed
