# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: T201 - a command prints
"""`make bench`: measures all variants in one run and writes docs/benchmarks.md."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from support.hermes import make_hermes_home, use_hermes_home

from . import kafka, report
from .beside import measure_beside
from .growth import measure_growth, measure_publishes, measure_starts
from .initsync import measure_initsync
from .large import measure_large
from .latency import measure_latency
from .measure import machine
from .options import add_shared
from .plots import save_plots
from .readers import Readers
from .replay import measure_reading
from .results import Results, targets
from .scale import DEFAULT, FULL, QUICK, Scale

if TYPE_CHECKING:
    from collections.abc import Iterator

_PAGE = Path("docs/benchmarks.md")


def main() -> None:
    options = _options()
    if options.hermes_home:
        os.environ["HERMES_HOME"] = str(options.hermes_home.absolute())
    scale = QUICK if options.quick else FULL if options.full else DEFAULT
    out = options.out or (None if options.quick else _PAGE)
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        results = _measure(scale, Path(directory))
        page = out or Path(directory) / "benchmarks.md"
        if sentence := save_plots(page, results):
            results.skipped.append(sentence)
        report.save(page, results)
        print(page.read_text("utf-8").partition(report.BY_HAND)[0])
    print(f"Written: {out}" if out else "Not written: a quick run needs --out.")
    missed = [each.name for each in targets(results) if each.holds is False]
    for name in missed:
        print(f"Missed: {name}")
    sys.exit(1 if missed and options.strict else 0)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    scale = parser.add_mutually_exclusive_group()
    scale.add_argument(
        "--quick", action="store_true", help="a minute: no cluster, no growth"
    )
    scale.add_argument("--full", action="store_true", help="everything, half an hour")
    add_shared(parser, _PAGE)
    return parser.parse_args()


def _measure(scale: Scale, directory: Path) -> Results:
    is_hermes = bool(os.environ.get("HERMES_HOME"))
    python = Path(os.environ.get("HERMES_PYTHON") or sys.executable).absolute()
    home = make_hermes_home(directory)
    use_hermes_home(home)
    readers = Readers(home, python, has_sqlite=is_hermes)
    results = Results(
        scale=scale.name,
        command=_command(scale, is_hermes),
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        machine=machine(),
    )
    for number, environment in enumerate(scale.environments):
        with _step(directory, f"_send: {environment.name}") as place:
            latencies, peak_mb, profile = measure_latency(
                home, place, environment, scale
            )
        results.latencies[environment.name] = latencies
        if number == 0:
            results.peak_mb, results.profile = peak_mb, profile
    if is_hermes:
        with _step(directory, "initsync") as place:
            results.initsyncs = measure_initsync(home, python, place, scale)
        results.kafka = kafka.name()
        if scale.large_users:
            with _step(directory, "a large initsync") as place:
                results.large = measure_large(home, python, place, scale.large_users)
    else:
        results.skipped.append("initsync and SQLite consumer: HERMES_HOME is not set.")
    with _step(directory, "reading") as place:
        results.reading = measure_reading(home, readers, place, scale)
    with _step(directory, "clients beside the sender") as place:
        results.beside = measure_beside(home, readers, place, scale)
    with _step(directory, "publishes") as place:
        results.publishes = measure_publishes(home, place, scale)
    with _step(directory, "starts") as place:
        results.start_seconds = measure_starts(place, scale)
    if scale.growth_events:
        with _step(directory, "growth") as place:
            results.growth = measure_growth(home, readers, place, scale)
    else:
        results.skipped.append(f"three nodes and growth: a {scale.name} run.")
    return results


@contextmanager
def _step(directory: Path, name: str) -> Iterator[Path]:
    """Give a step a directory that is gone after it, and say how long it took."""
    print(f"{name} ... ", end="", file=sys.stderr, flush=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(dir=directory) as place:
        yield Path(place)
    print(f"{time.monotonic() - began:.0f} s", file=sys.stderr)


def _command(scale: Scale, is_hermes: bool) -> str:
    words = ["make bench"]
    if is_hermes:
        words.append("HERMES_HOME=...")
    if scale is not DEFAULT:
        words.append(f"ARGS=--{scale.name}")
    return " ".join(words)


main()
