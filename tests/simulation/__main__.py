# SPDX-License-Identifier: Apache-2.0
"""`make simulate`: many runs, each from a seed; stops at the first violation."""

from __future__ import annotations

import argparse
import gc
import os
import random
import sys
import time
from collections import Counter
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import replace

from .broken import BROKEN
from .run import Batch, Result, run, run_and_collect
from .scenario import Scenario, draw
from .shrink import shrink

_BATCH = 10  # runs of one process between two reports


class Totals:
    """What all runs came to, and how long they took."""

    def __init__(self) -> None:
        self.started_at = time.monotonic()
        self.runs = self.events = 0
        self.faults = Counter[str]()
        self.forgiven = Counter[str]()
        self.violated: list[int] = []

    def add(self, batch: Batch) -> None:
        """Add what some runs came to."""
        self.runs += batch.runs
        self.events += batch.events
        self.faults.update(batch.faults)
        self.forgiven.update(batch.forgiven)
        self.violated += batch.violated

    def __str__(self) -> str:
        seconds = time.monotonic() - self.started_at
        runs = f"{self.runs} runs, {self.events} events, {self.faults.total()} faults"
        return (
            f"{runs}, {len(self.violated)} violated, in {seconds:.0f} s\n"
            f"{_counted(self.faults)}\n"
            f"of killed hermes-servers: {_counted(self.forgiven) or 'nothing'}"
        )


def _counted(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {times}" for name, times in sorted(counter.items()))


def main() -> int:
    """Run as the arguments say; the exit status is 1 after a violation."""
    options = _options()
    if options.seed is not None:
        return show(_scenario(options))
    first = options.first_seed
    if first is None:
        first = random.SystemRandom().randrange(1 << 40)
    print(f"seeds from {first} on, {options.jobs} at once", flush=True)
    totals = _run_many(options, first)
    print(totals)
    if not totals.violated:
        return 0
    return show(draw(min(totals.violated), options.broken))


def _run_many(options: argparse.Namespace, first: int) -> Totals:
    totals = Totals()
    ends_at = totals.started_at + options.minutes * 60
    last = first + options.runs if options.runs else sys.maxsize
    under_way: set[Future[Batch]] = set()
    seed = first
    pool = ProcessPoolExecutor(
        options.jobs, max_tasks_per_child=20, initializer=gc.disable
    )
    with pool:
        while True:
            is_over = seed >= last or (not options.runs and time.monotonic() > ends_at)
            if not (is_over or totals.violated) and len(under_way) < options.jobs + 1:
                seeds = list(range(seed, min(seed + _BATCH, last)))
                under_way.add(pool.submit(run_and_collect, seeds, options.broken))
                seed += _BATCH
                continue
            if not under_way:
                return totals
            done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
            for each in done:
                totals.add(each.result())


def show(scenario: Scenario) -> int:
    """Run one, and where it violates something, the smallest that still does."""
    result = run(scenario)
    if not result.violations:
        print(f"no violation: {result.events} events, {result.faults} faults")
        return 0
    names = {violation.name for violation in result.violations}
    print(f"seed {scenario.seed} violates {', '.join(sorted(names))}; shrinking ...")

    def still_fails(smaller: Scenario) -> bool:
        return any(each.name in names for each in run(smaller).violations)

    _print(run(shrink(scenario, still_fails)))
    return 1


def _print(result: Result) -> None:
    for line in result.history_lines():
        print(line)
    for violation in result.violations:
        print(f"{violation.at:10.4f} VIOLATION {violation.name}: {violation.sentence}")
    print(f"faults: {' '.join(map(str, result.scenario.faults)) or 'none'}")
    print(f"repeat it: {result.scenario.command}")


def _scenario(options: argparse.Namespace) -> Scenario:
    scenario = draw(options.seed, options.broken)
    if options.keep is not None:
        numbers = [] if options.keep == "none" else options.keep.split(",")
        kept = tuple(scenario.faults[int(number)] for number in numbers)
        scenario = replace(scenario, faults=kept)
    if options.changes is not None:
        scenario = replace(scenario, changes=options.changes, events=0)
    without = options.without
    return replace(
        scenario,
        standby=scenario.standby and "standby" not in without,
        curl=scenario.curl and "curl" not in without,
        clients=1 if "clients" in without else scenario.clients,
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m simulation",
        description="Runs real plugins and sidecars on virtual time over a model of "
        "NATS, with faults, and checks the guarantees of the design.",
    )
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--runs", type=int, default=0, help="in place of --minutes")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--first-seed", type=int, help="default: a fresh one")
    parser.add_argument("--broken", choices=sorted(BROKEN), default="")
    one = parser.add_argument_group("one run")
    one.add_argument("--seed", type=int, help="its history, if it violates something")
    one.add_argument("--keep", help="of its faults: numbers, comma separated, or none")
    one.add_argument("--changes", type=int, help="at the source, at most")
    one.add_argument(
        "--without",
        action="append",
        default=[],
        choices=("standby", "curl", "clients"),
        help="leave out an actor; of the clients all but one",
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
