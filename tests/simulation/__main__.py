# SPDX-License-Identifier: Apache-2.0
"""`make simulate`: many runs, each from a seed; stops at the first violation."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import sys
import time
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from .broken import BROKEN
from .run import Result, run
from .scenario import Scenario, draw
from .shrink import shrink

if TYPE_CHECKING:
    from collections.abc import Iterator

_BATCH = 10  # runs of one process between two reports


class Batch(NamedTuple):
    """What some runs came to."""

    runs: int
    events: int
    faults: int
    by_fault: Counter[str]
    violated: list[int]


def main() -> int:
    """Run as the arguments say; the exit status is 1 after a violation."""
    options = _options()
    if options.seed is not None:
        return _one(_scenario(options))
    first = options.first_seed
    if first is None:
        first = random.SystemRandom().randrange(1 << 40)
    print(f"seeds from {first} on, {options.jobs} at once")
    total = Counter[str]()
    by_fault = Counter[str]()
    started_at = time.monotonic()
    with multiprocessing.Pool(options.jobs, maxtasksperchild=20) as pool:
        batches = _batches(options, first, started_at)
        for batch in pool.imap_unordered(_run_batch, batches):
            total.update(runs=batch.runs, events=batch.events, faults=batch.faults)
            by_fault.update(batch.by_fault)
            if batch.violated:
                pool.terminate()
                _tell(total, by_fault, started_at)
                return _one(draw(batch.violated[0], options.broken))
    _tell(total, by_fault, started_at)
    return 0


def _batches(
    options: argparse.Namespace, first: int, started_at: float
) -> Iterator[tuple[list[int], str]]:
    seed = first
    while (
        seed < first + options.runs
        if options.runs
        else time.monotonic() - started_at < options.minutes * 60
    ):
        seeds = list(range(seed, seed + _BATCH))
        if options.runs:
            seeds = [each for each in seeds if each < first + options.runs]
        yield seeds, options.broken
        seed += _BATCH
        if not options.runs:
            _wait_for_room(options, seed - first, started_at)


def _wait_for_room(options: argparse.Namespace, given: int, started_at: float) -> None:
    """Do not draw far ahead of the processes: imap would take all batches at once."""
    per_second = 3.0 * options.jobs
    ahead = given / per_second - (time.monotonic() - started_at)
    if ahead > 10:  # noqa: PLR2004 - seconds of work that wait
        time.sleep(ahead - 10)


def _run_batch(work: tuple[list[int], str]) -> Batch:
    seeds, broken = work
    events = faults = 0
    by_fault = Counter[str]()
    violated = []
    for seed in seeds:
        result = run(draw(seed, broken))
        events += result.events
        faults += result.faults
        by_fault.update(fault.name for fault in result.scenario.faults)
        if result.violations:
            violated.append(seed)
    return Batch(len(seeds), events, faults, by_fault, violated)


def _tell(total: Counter[str], by_fault: Counter[str], started_at: float) -> None:
    seconds = time.monotonic() - started_at
    print(
        f"{total['runs']} runs, {total['events']} events, {total['faults']} faults "
        f"in {seconds:.0f} s"
    )
    print(", ".join(f"{name} {times}" for name, times in sorted(by_fault.items())))


def _one(scenario: Scenario) -> int:
    result = run(scenario)
    if not result.violations:
        print(f"no violation: {result.events} events, {result.faults} faults")
        return 0
    names = {violation.name for violation in result.violations}
    print(f"seed {scenario.seed} violates: {', '.join(sorted(names))}; shrinking ...")

    def still_fails(smaller: Scenario) -> bool:
        return any(each.name in names for each in run(smaller).violations)

    smallest = shrink(scenario, still_fails)
    result = run(smallest)
    _print(result)
    return 1


def _print(result: Result) -> None:
    for line in result.history_lines():
        print(line)
    for violation in result.violations:
        print(f"VIOLATION {violation}")
    print(f"faults: {' '.join(map(str, result.scenario.faults)) or 'none'}")
    print(f"repeat it: {result.scenario.command}")


def _scenario(options: argparse.Namespace) -> Scenario:
    scenario = draw(options.seed, options.broken)
    if options.keep is not None:
        numbers = [] if options.keep == "none" else options.keep.split(",")
        kept = tuple(scenario.faults[int(number)] for number in numbers)
        scenario = replace(scenario, faults=kept)
    changes = options.changes or scenario.changes
    return replace(
        scenario, changes=changes, clients=options.clients or scenario.clients
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
    parser.add_argument("--seed", type=int, help="one run, shown if it violates")
    parser.add_argument("--keep", help="of --seed: the faults to keep, by number")
    parser.add_argument("--changes", type=int, help="of --seed: changes at the source")
    parser.add_argument("--clients", type=int, help="of --seed: how many clients")
    parser.add_argument("--broken", choices=sorted(BROKEN), default="")
    return parser.parse_args()


if __name__ == "__main__":
    # Strings hash anew in each process: a set of them must not decide anything.
    if os.environ.get("PYTHONHASHSEED") != "0":
        environment = {**os.environ, "PYTHONHASHSEED": "0"}
        os.execve(  # noqa: S606 - ourselves, with the same arguments
            sys.executable, [sys.executable, "-m", "simulation", *sys.argv[1:]],
            environment,
        )
    sys.exit(main())
