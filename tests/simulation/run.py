# SPDX-License-Identifier: Apache-2.0
"""One run: a scenario in, violations and a history out."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from . import seams
from .broken import broken
from .claims import Stored, Violation
from .invariants import End, Facts, Limits, check
from .nemesis import NEED_A_NEW_LEADER, SLOW_ALONE, STALE_PAGES
from .scenario import Scenario, draw
from .verdicts import NO_HEADER
from .world import World

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .messages import StoredMessage


@dataclass
class Result:
    """What a run came to."""

    scenario: Scenario
    violations: list[Violation]
    events: int
    faults: int
    seconds: float  # virtual
    lines: list[tuple[float, str, str, tuple[Any, ...]]] = field(repr=False)
    forgiven: Counter[str]
    """What of killed hermes-servers could not be helped, by its reason."""

    def history_lines(self) -> Iterator[str]:
        """Give the history, a line a message."""
        for at, who, text, arguments in self.lines:
            yield f"{at:10.4f} {who:>10} {text % arguments if arguments else text}"


def run(scenario: Scenario) -> Result:
    """Run a scenario; the same one gives the same result, line by line."""
    was_collecting = gc.isenabled()
    gc.disable()  # a run is short, and what it leaves is collected at its end
    world = World(scenario)
    asyncio.set_event_loop(world.loop)
    try:
        with ExitStack() as stack:
            stack.enter_context(
                seams.replaced(
                    world.loop,
                    world.hop.module(),
                    world.nats_client,
                    world.record,
                    scenario.batch_events,
                )
            )
            stack.enter_context(broken(scenario.broken))
            world.loop.run_until_complete(world.live())
            world.end_unseen()
            forgiven = Counter[str]()
            violations = _check(world, forgiven)
            world.end()
    finally:
        asyncio.set_event_loop(None)
        world.loop.close()
        if was_collecting:
            gc.enable()
    return Result(
        scenario,
        violations,
        len(world.cluster.everything()),
        world.faults_injected,
        world.loop.time(),
        world.lines,
        forgiven,
    )


def _check(world: World, forgiven: Counter[str]) -> list[Violation]:
    stored = [
        Stored(
            epoch,
            message.sequence,
            message.subject.rpartition(".")[2],
            message.key or "",
            message.body,
            at,
            _scan_of(message),
        )
        for (epoch, message), at in zip(
            world.cluster.everything(), world.cluster.committed_at, strict=True
        )
    ]
    end = End(
        world.source,
        {client.name: client.disk for client in world.clients},
        ["hermes-1"],
        world.open_requests(),
    )
    scenario = world.scenario
    # A restored stream ends before an event in doubt: that is asked for so long.
    waits = scenario.send_timeout + scenario.unknown_timeout
    # A reading of the status page that takes three seconds serves for a minute.
    names = {fault.name for fault in scenario.faults}
    limits = Limits(
        not_ready_in_vain_seconds=60.0 + waits,
        page_seconds=64.0 if names & STALE_PAGES else 3.0,
        verdict_seconds=_verdict_seconds(names),
    )
    restored = frozenset(world.cluster.restored)
    facts = Facts(stored, restored, limits, names <= SLOW_ALONE, forgiven)
    violations = check(world.history, facts, end)
    now = world.loop.time()
    violations += [
        Violation("failed", f"{actor.name}: {actor.failure!r}", now)
        for actor in world.actors.all
        if actor.failure is not None
    ]
    violations += [Violation("unhandled", text, at) for at, text in world.unhandled]
    violations += [Violation("given_up", text, at) for at, text in world.hop.given_up]
    violations += [
        Violation("internal", text % arguments, at)
        for at, who, text, arguments in world.lines
        if who == "INTERNAL" or (who == "UNFORESEEN" and "odd_replies" not in names)
    ]
    return violations


def _scan_of(message: StoredMessage) -> str | None:
    if not message.subject.endswith(".initsync"):
        return None
    header = message.headers.get(b"Hermes-Initsync")
    return NO_HEADER if header is None else header.decode()


def _verdict_seconds(names: set[str]) -> float:
    """Say how long a verdict may be late: see Limits."""
    if "slow_links" in names:
        return 200.0  # each of three questions stands behind two pages at 8 KB/s
    if names & {*NEED_A_NEW_LEADER}:
        return 30.0  # so long an old leader that is cut off may believe in itself
    return 9.0


class Batch(NamedTuple):
    """What some runs came to."""

    runs: int
    events: int
    faults: Counter[str]
    violated: list[int]
    forgiven: Counter[str]


def run_batch(seeds: list[int], broken: str = "") -> Batch:
    """Run some seeds one after the other."""
    results = [run(draw(seed, broken)) for seed in seeds]
    return Batch(
        len(results),
        sum(result.events for result in results),
        Counter(fault.name for result in results for fault in result.scenario.faults),
        [result.scenario.seed for result in results if result.violations],
        sum((result.forgiven for result in results), Counter()),
    )


def run_and_collect(seeds: list[int], broken: str = "") -> Batch:
    """Run some seeds in a process without a collector; collect once, at the end."""
    batch = run_batch(seeds, broken)
    gc.collect()
    gc.freeze()  # what is left now stays: modules, caches
    return batch
