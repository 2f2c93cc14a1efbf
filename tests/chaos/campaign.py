# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: T201 - a command prints
"""The long form: runs of all topologies and versions until the goals are reached.

`python -m chaos.campaign --report .cache/chaos.json` goes on where the file ends, and
writes docs/fault-matrix.md after each run.
"""

from __future__ import annotations

import argparse
import itertools
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from .nemesis import FAULTS, fitting
from .options import TOPOLOGIES
from .report import Run, fault_times, load, page
from .servers import VERSIONS, nats_server

if TYPE_CHECKING:
    from collections.abc import Sequence

_TESTS = Path(__file__).resolve().parents[1]
MATRIX: Final = _TESTS.parent / "docs" / "fault-matrix.md"

_SHORTEST_SECONDS: Final = 20.0
_ENDING_SECONDS: Final = 600.0
"""How long a run may take beyond its time before it is ended."""


@dataclass(frozen=True)
class Goals:
    """What the runs must reach together; each topology has a share of the events."""

    events: int
    share: int
    times: int
    seeds: int


@dataclass(frozen=True)
class Job:
    topology: str
    version: str
    popen: subprocess.Popen[bytes]
    ends_at: float


def lacks(goals: Goals, runs: Sequence[Run]) -> list[str]:
    """Say what is still to be reached, a sentence each."""
    sentences = [
        f"{topology}: {count} of {goals.share} events"
        for topology, count in _acknowledged(runs).items()
        if count < goals.share
    ]
    events = _acknowledged(runs).total()
    if events < goals.events:
        sentences.append(f"{events} of {goals.events} events")
    times = fault_times(runs)
    possible = {name for topology in TOPOLOGIES for name in fitting(topology)}
    sentences += [
        f"{name}: {times[name]} of {goals.times} times"
        for name in FAULTS
        if name in possible and times[name] < goals.times
    ]
    for topology in TOPOLOGIES:
        done = {run["server_version"] for run in runs if run["topology"] == topology}
        sentences += [f"{topology}: never on {each}" for each in set(VERSIONS) - done]
    seeds = {run["seed"] for run in runs}
    if len(seeds) < goals.seeds:
        sentences.append(f"{len(seeds)} of {goals.seeds} seeds")
    return sentences


def _acknowledged(runs: Sequence[Run]) -> Counter[str]:
    counts = Counter(dict.fromkeys(TOPOLOGIES, 0))
    for run in runs:
        counts[run["topology"]] += run["acknowledged"]
    return counts


def _duties(topology: str) -> list[str]:
    """Give the faults that this topology is to run often enough.

    What runs anywhere is left to the topologies that are quicker.
    """
    return [
        name
        for name in fitting(topology)
        if topology != "cluster" or FAULTS[name].topologies == ("cluster",)
    ]


def _lacking_faults(goals: Goals, topology: str, runs: Sequence[Run]) -> list[str]:
    times = fault_times(runs)
    return [name for name in _duties(topology) if times[name] < goals.times]


def _lack(goals: Goals, topology: str, runs: Sequence[Run]) -> float:
    times = fault_times(runs)
    acknowledged = _acknowledged(runs)
    shares = [acknowledged[topology] / goals.share, acknowledged.total() / goals.events]
    shares += [
        times[name] / goals.times for name in _lacking_faults(goals, topology, runs)
    ]
    done = {run["server_version"] for run in runs if run["topology"] == topology}
    shares.append(len(done) / len(VERSIONS))
    return 1 - min(shares)


class Campaign:
    """Keeps some runs going at once until nothing lacks or the time is over."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.report: Path = arguments.report
        self.goals = Goals(
            arguments.events, arguments.share, arguments.times, arguments.seeds
        )
        self.seconds: float = arguments.seconds
        self.jobs: list[Job] = []
        seen = [run["seed"] for run in load(self.report)]
        self.seeds = itertools.count(max(seen, default=0) + 1)
        self.failed = False

    def choose(self) -> tuple[str, str, list[str]] | None:
        """Say what to run next: topology, version, faults."""
        runs = load(self.report)
        running = Counter(job.topology for job in self.jobs)
        scores = {
            topology: _lack(self.goals, topology, runs) - 0.2 * running[topology]
            for topology in TOPOLOGIES
            if _lack(self.goals, topology, runs) > 0
        }
        if not scores:
            return None
        topology = max(scores, key=scores.__getitem__)
        versions = Counter(
            run["server_version"] for run in runs if run["topology"] == topology
        )
        versions.update(job.version for job in self.jobs if job.topology == topology)
        version = min(VERSIONS, key=versions.__getitem__)
        lacking = _lacking_faults(self.goals, topology, runs)
        is_rest = 0 < len(lacking) <= len(fitting(topology)) / 2
        return topology, version, lacking if is_rest else []

    def start(
        self, topology: str, version: str, faults: list[str], seconds: float
    ) -> None:
        command = [
            *(sys.executable, "-m", "chaos.run"),
            *("--topology", topology),
            *("--server-version", version),
            *("--seed", str(next(self.seeds))),
            *("--seconds", f"{seconds:.0f}"),
            *("--report", str(self.report)),
            *(("--faults", ",".join(faults)) if faults else ()),
        ]
        environ = os.environ | {"PYTHONPATH": str(_TESTS)}
        popen = subprocess.Popen(command, env=environ)
        ends_at = time.monotonic() + seconds + _ENDING_SECONDS
        self.jobs.append(Job(topology, version, popen, ends_at))

    def reap(self) -> None:
        """Take the runs that ended, and write the page."""
        for job in self.jobs:
            if time.monotonic() > job.ends_at:
                print(f"a run of {job.topology} does not end", flush=True)
                job.popen.terminate()
        for job in [job for job in self.jobs if job.popen.poll() is not None]:
            self.jobs.remove(job)
            self.failed = self.failed or job.popen.returncode != 0
            runs = load(self.report)
            if runs:
                MATRIX.write_text(page(runs), "utf-8")
            print(f"still lacking: {len(lacks(self.goals, runs))}", flush=True)

    def run(self, at_once: int, minutes: float) -> None:
        ends_at = time.monotonic() + minutes * 60
        try:
            while True:
                self.reap()
                seconds = min(self.seconds, ends_at - time.monotonic())
                if len(self.jobs) < at_once and seconds > _SHORTEST_SECONDS:
                    chosen = self.choose()
                    if chosen is not None:
                        self.start(*chosen, seconds)
                        continue
                if not self.jobs:
                    return
                time.sleep(0.2)
        finally:
            self.stop()

    def stop(self) -> None:
        """End each run by its own process id; it ends what it started."""
        for job in self.jobs:
            job.popen.terminate()
        for job in self.jobs:
            job.popen.wait()


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m chaos.campaign")
    parser.add_argument("--report", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=50, help="end the runs after")
    parser.add_argument("--jobs", type=int, default=6, help="runs at once")
    parser.add_argument("--seconds", type=float, default=240, help="of one run")
    parser.add_argument("--events", type=int, default=1_000_000, help="together")
    parser.add_argument("--share", type=int, default=100_000, help="each topology")
    parser.add_argument("--times", type=int, default=200, help="each fault")
    parser.add_argument("--seeds", type=int, default=10)
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, _interrupt)
    for version in VERSIONS:
        nats_server(version)
    campaign = Campaign(arguments)
    try:
        campaign.run(arguments.jobs, arguments.minutes)
    except KeyboardInterrupt:
        print("interrupted; every run was ended")
        return 130
    missing = lacks(campaign.goals, load(campaign.report))
    print("\n".join(missing) or "every goal is reached")
    return 1 if campaign.failed or missing else 0


if __name__ == "__main__":
    sys.exit(main())
