# SPDX-License-Identifier: Apache-2.0
"""Results of runs: merged into a JSON file, and from there docs/fault-matrix.md.

`python -m chaos.report RESULTS.json docs/fault-matrix.md` writes the page.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import statistics
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .nemesis import FAULTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Run = dict[str, Any]

_ROOT = Path(__file__).resolve().parents[2]

_HEAD = """\
<!-- SPDX-License-Identifier: Apache-2.0 -->
<!-- Written by tests/chaos/report.py; do not edit. -->
# Fault matrix

For those who are to trust the guarantees, and for developers of the protocol.

This page shows what happens to events under faults. The real producer plugin sends
through real sidecars to real nats-servers, while the faults below are injected in an
order drawn from a seed. Then the whole stream is read and compared with the result of
each `_send`. The duplicate window of the stream is 0.1 s, so that nothing depends on
JetStream's deduplication. The plugin's timeouts are 1 and 2 s instead of 30 and 60, so
that failures and unknown outcomes reach Hermes.

Hermes is a model with the rules of the real one: it computes each pass from a source
and its cache, saves the cache when the real one does, and computes again after a
failure. The source has few objects with few values: it returns to older values, removes
objects and adds them again, so byte-identical events are frequent and valid. Hermes is
stopped, killed and frozen like all other processes.

Checked in each run, by the key of each `_send` and by the events of each object:

- each `_send` that returned is stored exactly once, at its offset, in the order of
  sending; no event that was reported as not stored is in the stream; no event with an
  unknown outcome, or in flight when hermes-server was killed, is stored twice; there
  are no other events;
- an event that was sent again after an unknown outcome, or by a new process of a
  hermes-server that was killed, is stored once; an event that is recognised as stored
  is the newest of its object, and Hermes did not know of it;
- of two hermes-servers, neither stores after an event of the other one within its pass;
- a target that applies the whole stream ends with the state that Hermes knows;
- offsets increase without a gap, and a stream that is deleted and provisioned again
  after 20,000 events at once reuses none (at the end of each run of `single`);
- all replicas are equal, except those that are proven to be damaged by their own
  server, which are counted;
- each reader (the real consumer plugin, opened and positioned again through all faults)
  saw the same events, once, in order, and was never told that its offset is not in the
  stream;
- a new client (the real consumer plugin again, which repeatedly starts at the first
  offset, as a hermes-client's first start does, and seeks what it has found) got a part
  of the stream without a gap; an end that it got was the end at some moment of its
  request; and no initsync that was complete when it started is newer than the one that
  it would take.

Counted (*Repeated*): events that a hermes-server had stored but not saved when it was
killed, and that come again only after the first successful pass of its next process, or
after a schema or an initsync. Their source went back meanwhile, so they are new.
"""


def code() -> str:
    """Name the code that a run tests, and tests with."""
    digest = hashlib.sha256()
    for folder in ("sidecar", "plugin_stub", "tests/chaos"):
        for file in sorted((_ROOT / folder).rglob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def merge(file: Path, result: Run) -> None:
    """Add a run to those of the same code; runs may end at the same moment."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a+", encoding="utf-8") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        stream.seek(0)
        text = stream.read()
        runs = json.loads(text)["runs"] if text else []
        runs = [
            run
            for run in runs
            if run.get("code") == result["code"] and run["command"] != result["command"]
        ]
        stream.truncate(0)
        json.dump({"runs": [*runs, result]}, stream)


def load(file: Path) -> list[Run]:
    """Give the runs of this code with the real publisher; none without the file."""
    if not file.exists():
        return []
    with file.open(encoding="utf-8") as stream:
        fcntl.flock(stream, fcntl.LOCK_SH)
        text = stream.read()
    runs: list[Run] = json.loads(text)["runs"] if text else []
    now = code()
    return [
        run for run in runs if run["publisher"] == "real" and run.get("code") == now
    ]


def fault_times(runs: Iterable[Run]) -> Counter[str]:
    """Count how often each fault was run."""
    times: Counter[str] = Counter()
    for run in runs:
        for name, count in run["faults"].items():
            times[name] += count["times"]
    return times


def page(runs: Sequence[Run]) -> str:
    """Write the whole page."""
    return "\n".join(
        [_HEAD, *_totals(runs), *_damages(runs), *_faults(runs), *_runs(runs), ""]
    )


def _totals(runs: Sequence[Run]) -> list[str]:
    late: Counter[str] = Counter()
    for run in runs:
        late.update(run["late"])
    stored = sum(late[code] for code in ("200", "201", "stored"))
    answers = ", ".join(f"{count} {answer}" for answer, count in late.most_common())
    return [
        (
            f"In {len(runs)} runs with {len({run['seed'] for run in runs})} seeds and "
            f"{sum(fault_times(runs).values()):,} faults, "
            f"{_sum(runs, 'acknowledged'):,} "
            "events were acknowledged; "
            f"**{sum(len(run['violations']) for run in runs)} "
            "violations**."
        ),
        "",
        (
            f"{sum(late.values()):,} requests and publishes were delayed and delivered "
            f"after their sender had continued. Their responses: {answers}. "
            f"The {stored} responses 200, 201 and stored are attempts of an event that "
            "is stored once, by this attempt or by an earlier one; 412 and 10071 are "
            "refusals."
        ),
        "",
    ]


def _damages(runs: Sequence[Run]) -> list[str]:
    rows = [
        _damage_row(run, damage)
        for run in runs
        for damage in run.get("server_damage", ())
    ]
    if not rows:
        return []
    return [
        "## Server damage",
        "",
        (
            f"{len(rows)} replicas held events at offsets that their preconditions do "
            "not allow. No publish can cause this; their nats-server did. A majority "
            "of the replicas had no such event and agreed; it, and the events given "
            "to the readers, were checked as above."
        ),
        "",
        (
            "| Seed | Topology | nats-server | Fault before it | Replica | From offset "
            "| Events | Sequence (expected last) of the first |"
        ),
        "|--:|---|---|---|---|--:|--:|---|",
        *rows,
        "",
    ]


def _damage_row(run: Run, damage: dict[str, Any]) -> str:
    cells = [
        f"{run['seed']}",
        *(run["topology"], run["server_version"], f"`{damage['fault']}`"),
        *(damage["replica"], f"{damage['first_offset']}", f"{damage['count']:,}"),
        ", ".join(f"{offset} ({last})" for offset, last in damage["pairs"]),
    ]
    return "| " + " | ".join(cells) + " |"


def _faults(runs: Sequence[Run]) -> list[str]:
    counts: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for run in runs:
        for name, count in run["faults"].items():
            counts[name].append(count)
    lines = [
        "## Faults",
        "",
        (
            "*Caller sees*: what `_send`, or `open` at the start of a pass, raised "
            "between this fault and the next; all others returned their offset. "
            "*Stream holds*: each acknowledged event once, and this number of events "
            "with unknown outcome. *Ready again*: seconds from the end of the fault "
            "(or from its start, if it has no end) to the next acknowledged event, "
            "median and longest."
        ),
        "",
        (
            "| Fault | What is done | Times | Acknowledged | Caller sees | Stream "
            "holds | "
            "Ready again (s) | Violations |"
        ),
        "|---|---|--:|--:|---|---|--:|--:|",
    ]
    lines += [_fault_row(name, counts[name]) for name in FAULTS if name in counts]
    return [*lines, ""]


def _fault_row(name: str, counts: list[dict[str, Any]]) -> str:
    told: Counter[str] = Counter()
    for count in counts:
        told.update(count["told"])
    ready = [seconds for count in counts for seconds in count["ready_seconds"]]
    stored, absent = _sum(counts, "unknown_stored"), _sum(counts, "unknown_absent")
    sees = "; ".join(f"{count:,} {text}" for text, count in told.most_common(5))
    cells = [
        f"`{name}`",
        FAULTS[name].does,
        f"{_sum(counts, 'times'):,}",
        f"{_sum(counts, 'acknowledged'):,}",
        sees or "nothing",
        f"{stored} unknown stored, {absent} not" if stored + absent else "no unknown",
        f"{statistics.median(ready):.2f}, {max(ready):.2f}" if ready else "",
        f"{_sum(counts, 'violations')}",
    ]
    return "| " + " | ".join(cells) + " |"


def _runs(runs: Sequence[Run]) -> list[str]:
    groups: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in runs:
        groups[run["topology"], run["server_version"]].append(run)
    rows = [_run_row(key, groups[key]) for key in sorted(groups)]
    by_topology: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        by_topology[run["topology"]].append(run)
    rows += [_run_row((name, "all"), by_topology[name]) for name in sorted(by_topology)]
    return [
        "## Runs",
        "",
        (
            "| Topology | nats-server | Seeds | Acknowledged | Recognised | Not "
            "stored | Unknown, stored | Unknown, not stored | Killed in a `_send` "
            "| Repeated | Read | Scans | Violations |"
        ),
        "|---|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
        *rows,
        "",
        (
            "*Recognised*: events that Hermes sent again after an unknown outcome "
            "and that were already stored. *Repeated*: events that a hermes-server "
            "stored again after its start. *Read*: events read by the readers. "
            "*Scans*: of new clients, from the first offset to an end."
        ),
        "",
        "`make chaos` repeats all of this. To repeat one run, use its seed:",
        "",
        (
            "    PYTHONPATH=tests python -m chaos.run --topology cluster --seed 1 "
            "--server-version 2.12.8 --seconds 240"
        ),
    ]


def _run_row(key: tuple[str, str], runs: list[Run]) -> str:
    names = ("acknowledged", "standing", "not_stored", "unknown_stored")
    numbers = [_sum(runs, name) for name in (*names, "unknown_absent", "killed")]
    numbers.append(sum(sum(run["repeats"].values()) for run in runs))
    numbers += [_sum(runs, "read"), _sum(runs, "scans")]
    numbers.append(sum(len(run["violations"]) for run in runs))
    seeds = sorted({run["seed"] for run in runs})
    shown = f"{len(seeds)}: {seeds[0]} to {seeds[-1]}" if seeds[1:] else f"{seeds[0]}"
    cells = [*key, shown, *(f"{number:,}" for number in numbers)]
    return "| " + " | ".join(cells) + " |"


def _sum(rows: Iterable[dict[str, Any]], name: str) -> int:
    return sum(row[name] for row in rows)


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(page(load(Path(sys.argv[1]))), "utf-8")
