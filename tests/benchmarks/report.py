# SPDX-License-Identifier: Apache-2.0
"""Turns the results into a page; what a hand wrote below the mark stays."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Any

from . import initsync, variants
from .beside import EVENTS_A_SECOND, FEW, MANY
from .growth import READING
from .pyspy import Profile
from .results import Results, Target, kilobytes, targets

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from .large import Large
    from .measure import Spread

BY_HAND = "<!-- Below this line: written by hand, kept by `make bench`. -->"
_RUNS = "## Runs"
_RUNS_KEPT = 5
_OPENING = """\
<!-- SPDX-License-Identifier: Apache-2.0 -->
<!-- Written by tests/benchmarks; only what stands below its last mark is by hand. -->
# Benchmarks

For those who compare the speed of buses, and for developers who change the hot path.

Hermes sends one event, waits for its acknowledgement and sends the next, so the round
trip is the throughput. All variants below were measured in turn, in small rounds of one
run: the ratios count, the times belong to this machine.
"""
_QUIET = """\
Taking turns spreads other load on the processor over all variants, but other load on
the disk slows only those that wait for it (SQLite, sync always) and would flatter the
rest. So each ratio is given twice: of the medians over all rounds, and of each
variant's quietest round. It holds only if both do.
"""
_WHAT = """\
What is compared, each with a stream or file of its own in the same directory:

- *ours*: the real producer plugin's `_send`, the real sidecar process, each publish
  conditional on the last offset.
- *nats-py in a thread*: what one would write instead, nats-py on an event loop in a
  thread of the process, `js.publish` with expected stream and message id.
- *SQLite commit*: an insert and a commit, as Hermes' own SQLite bus does.
- *raw socket*: the same conditional publish as ours on a blocking socket, the floor.
- *naive bridge*: FastAPI with a pydantic model, httpx, `js.publish`, defaults.

Each includes the event's `to_json()`. Times are of one call, in microseconds.
"""


def page(results: Results, before: str) -> str:
    """Write the page anew; `before` is what stood there."""
    by_hand = before.partition(BY_HAND)[2]
    parts = [
        _OPENING,
        _machine(results),
        _reach(targets(results)),
        _runs(results, before),
        _latency(results),
        _initsyncs(results),
        _reading(results),
        _beside(results),
        _growth(results),
        _memory(results),
        _profile(results),
        BY_HAND + (by_hand or "\n"),
    ]
    return "\n".join(part for part in parts if part)


def _table(head: Iterable[Any], rows: Iterable[Iterable[Any]]) -> str:
    cells = [str(each) for each in head]
    lines = [cells, ["---"] + ["---:"] * (len(cells) - 1)]
    lines += [[str(each) for each in row] for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _machine(results: Results) -> str:
    rows = [
        ("Command", f"`{results.command}`"),
        ("Date", results.date),
        *results.machine.items(),
    ]
    lines = "".join(f"- {name}: {value}\n" for name, value in rows)
    return lines + "".join(f"- Left out: {each}\n" for each in results.skipped)


def _reach(found: list[Target]) -> str:
    rows = [
        (
            each.name,
            _figure(each),
            "-" if each.quiet is None else f"{each.quiet:.2f}",
            _limit(each, each.must),
            _word(each.holds),
            _limit(each, each.aim),
            _word(each.is_aimed),
        )
        for each in found
    ]
    head = (
        "what",
        "this run",
        "quietest rounds",
        "must reach",
        "holds",
        "aim",
        "reached",
    )
    return f"## What must be reached\n\n{_QUIET}\n{_table(head, rows)}"


def _limit(target: Target, limit: float) -> str:
    return f"{'at least' if target.is_least else 'at most'} {limit:g}{target.unit}"


def _figure(target: Target) -> str:
    return "-" if target.found is None else f"{target.found:.2f}{target.unit}"


def _word(truth: bool | None) -> str:
    return {True: "yes", False: "**no**", None: "not measured"}[truth]


def _runs(results: Results, before: str) -> str:
    """Keep a line for each of the last runs, this one below the others."""
    found = targets(results)
    width = len(found) + 2
    section = before.partition(f"{_RUNS}\n")[2].partition("\n## ")[0]
    old = [
        [cell.strip() for cell in line.strip("| ").split("|")]
        for line in section.splitlines()
        if line.startswith("| 2")
    ]
    kept = [row for row in old if len(row) == width][1 - _RUNS_KEPT :]
    marks = (f"{_figure(each)}{' !' * (each.holds is False)}" for each in found)
    kept.append([results.date, results.scale, *marks])
    head = ("run", "scale", *(f"({n})" for n in range(1, len(found) + 1)))
    names = ", ".join(f"({n}) {each.name}" for n, each in enumerate(found, 1))
    return f"{_RUNS}\n\n{names}; `!` marks what misses.\n\n{_table(head, kept)}"


def _latency(results: Results) -> str:
    text = f"## `_send`\n\n{_WHAT}\n![Latency by variant](benchmarks-latency.png)\n"
    for environment, by_size in results.latencies.items():
        rows = [
            (kilobytes(size), name, *_times(each), *_ratios(by_variant, each))
            for size, by_variant in by_size.items()
            for name, each in by_variant.items()
        ]
        head = (
            *("event", "variant", "p50 us", "p99 us", "quietest round us", "sends"),
            *("p50 / thread", "p50 / SQLite"),
        )
        text += f"\n### {environment}\n\n{_table(head, rows)}"
    return text


def _times(each: Spread) -> tuple[str, str, str, int]:
    return f"{each.p50:.0f}", f"{each.p99:.0f}", f"{each.quiet:.0f}", each.count


def _ratios(by_variant: dict[str, Spread], each: Spread) -> tuple[str, str]:
    thread, sqlite = by_variant[variants.IN_PROCESS], by_variant[variants.SQLITE]
    return f"{each.p50 / thread.p50:.2f}", f"{each.p50 / sqlite.p50:.2f}"


def _initsyncs(results: Results) -> str:
    text = "## Initsync of a real hermes-server\n\n"
    if results.initsyncs is None:
        return text + "Not measured: set HERMES_HOME.\n"
    medians = {bus: median(each) for bus, each in results.initsyncs.items()}
    rows = [
        (
            bus,
            f"{medians[bus]:.0f}",
            " ".join(f"{rate:.0f}" for rate in rates),
            *(
                f"{medians[bus] / medians[other]:.2f}"
                for other in (initsync.NONE, initsync.SQLITE)
            ),
        )
        for bus, rates in results.initsyncs.items()
    ]
    head = ("bus", "events/s, median", "each initsync", "/ none", "/ SQLite bus")
    what = (
        "From the init-start to the init-stop, by a plugin that clocks the one it "
        "passes events to.\nThe hermes-servers took turns. Where nothing else is said, "
        "one node, default sync.\n"
    )
    if results.kafka is not None:
        what += f"The broker of Hermes' Kafka bus: {results.kafka}.\n"
    return f"{text}{what}\n{_table(head, rows)}{_large(results.large)}"


def _large(large: Large | None) -> str:
    if large is None:
        return ""
    rows = [
        (part, " ".join(f"{megabytes:.0f}" for megabytes in marks))
        for part, marks in large.memory_mb.items()
    ]
    return (
        f"\nAn initsync of {large.users:,} users, one node, sync always: "
        f"{large.rate:.0f} events/s. A sidecar that starts behind it knows where it "
        f"stands {large.lookup_seconds:.1f} s after its start. Resident memory "
        f"meanwhile, at even distances:\n\n{_table(('process', 'MB'), rows)}"
    )


def _reading(results: Results) -> str:
    if (reading := results.reading) is None:
        return ""
    rows = [
        (
            kilobytes(size),
            bus,
            f"{each.rate:.0f}",
            f"{each.reader_mb:.1f}",
            "-" if each.sidecar_mb is None else f"{each.sidecar_mb:.1f}",
        )
        for size, by_bus in reading.replays.items()
        for bus, each in by_bus.items()
    ]
    head = ("event", "consumer plugin", "events/s", "reader grew by MB")
    idle, idle_with = (f"{percent:.1f} %" for percent in reading.idle_percent.values())
    return (
        "## Reading\n\nReplay from the beginning in a process of its own; growth is "
        "that of the peak.\n\n"
        f"{_table((*head, 'sidecar grew by MB'), rows)}\n"
        "From the call of `_send` to the event in a waiting consumer plugin: "
        f"{reading.waited.p50:.1f} ms median, {reading.waited.p99:.1f} ms p99.\n\n"
        f"Sidecar with no reader: {idle} of a core; "
        f"with {max(reading.idle_percent)} idle waiting readers: {idle_with}.\n"
    )


def _beside(results: Results) -> str:
    if (beside := results.beside) is None:
        return ""
    old, waiting = beside.catching_up, beside.waiting
    quiet, live = zip(*beside.following, strict=True)
    windows = {
        "no client": old.quiet,
        "one client that catches up": old.beside,
        "no client, another stream": quiet,
        f"{FEW} clients that follow": live,
    }
    rows = [
        (
            name,
            f"{median(each.rate for each in found):.0f}",
            f"{median(each.send.p50 for each in found):.2f}",
            f"{median(each.send.p99 for each in found):.2f}",
        )
        for name, found in windows.items()
    ]
    head = ("beside", "events/s", "`_send` p50 ms", "p99 ms")
    return (
        "## Clients beside the sender\n\nOne `_send` after the other, in windows of "
        f"two seconds that took turns.\n\n{_table(head, rows)}\n"
        f"The client that catches up read {median(old.client_beside):.0f} events/s "
        f"beside the sender, and {median(old.client_alone):.0f} alone.\n\n"
        f"{MANY} clients that wait, {EVENTS_A_SECOND} events/s: sidecar "
        f"{waiting.percent:.0f} % of a core; from the POST to each of them "
        f"{waiting.delay.p50:.0f} ms median, {waiting.delay.p99:.0f} ms p99. NATS gets "
        f"{waiting.nats_idle:.1f} messages/s of all while idle, "
        f"{waiting.nats_busy:.0f} then, events included.\n\n"
        f"NATS with {beside.sidecars} idle sidecars, each with a waiting client: "
        f"{beside.nats_percent:.1f} % of a core.\n"
    )


def _growth(results: Results) -> str:
    if (growth := results.growth) is None:
        return ""
    rows = [
        (
            f"{count:,}",
            *(
                f"{each.p50:.0f} / {each.p99:.0f}"
                for each in (by_reading[reading] for reading in READING)
            ),
            f"{growth.memory_mb[count]:.1f}",
        )
        for count, by_reading in growth.latencies.items()
    ]
    head = ("events in the stream", *(f"{each}, us" for each in READING))
    return (
        "## Growth\n\n`_send` of 0.5 KB, p50 / p99, and the sidecar's peak.\n\n"
        f"{_table((*head, 'sidecar MB'), rows)}\n"
        f"First event of the longest stream: {growth.first_event_ms.p50:.0f} ms median,"
        f" {growth.first_event_ms.p99:.0f} ms p99, opening included.\n\n"
        "![Growth](benchmarks-growth.png)\n"
    )


def _memory(results: Results) -> str:
    text = "## Memory and start\n\n"
    if marks := results.publishes:
        text += (
            f"Sidecar before any publish {marks[0][1]:.1f} MB, after half of "
            f"{marks[-1][0]:,} publishes {marks[len(marks) // 2][1]:.1f} MB, after all "
            f"{marks[-1][1]:.1f} MB; peak of the latency rounds "
            f"{results.peak_mb:.1f} MB.\n\n"
        )
    if start := results.start_seconds:
        text += (
            f"Start to ready: {start.p50:.2f} s median of {start.count}, "
            f"{start.p99:.2f} s longest.\n"
        )
    return text


def _profile(results: Results) -> str:
    text = "## Where the sidecar's time goes\n\n"
    found = results.profile
    if not isinstance(found, Profile):
        return f"{text}{found or 'Not measured.'}\n"
    rows = [
        (f"{own:.1%}", f"`{own_name}`", f"{inclusive:.1%}", f"`{name}`")
        for (own_name, own), (name, inclusive) in zip(
            found.own, found.inclusive, strict=False
        )
    ]
    head = ("own time", "function", "inclusive", "function")
    return (
        f"{text}py-spy, {found.samples:,} samples on the processor while 0.5 KB events "
        "were sent; C code\n(uvloop, the system calls) counts for the Python function "
        f"that called it.\n\n{_table(head, rows)}"
    )


def save(path: Path, results: Results) -> None:
    before = path.read_text("utf-8") if path.exists() else ""
    path.write_text(page(results, before), "utf-8")
