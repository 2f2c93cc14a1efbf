# SPDX-License-Identifier: Apache-2.0
"""Reading: replay, the way of one event to a waiting reader, and what waiting costs."""

from __future__ import annotations

import json
import random
import time
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from .measure import Spread, cpu_seconds, forget_peak, memory_mb, spread
from .readers import NOBODY_WRITES, Readers, waiting_readers
from .scale import READERS, REPLAY_SIZES, SIZES, Scale
from .variants import OurBus, create_stream, sidecar_process
from .world import event_of, fill_sqlite, fill_stream, nats_servers

if TYPE_CHECKING:
    from pathlib import Path

    from support.nats import NatsProcess
    from support.sidecar import SidecarProcess


@dataclass(frozen=True)
class Replay:
    """Events per second, and by how much the peak of each process grew."""

    rate: float
    quiet_rate: float
    reader_mb: float
    sidecar_mb: float | None


@dataclass(frozen=True)
class Reading:
    """Replays by size and bus; milliseconds to a waiting reader; CPU in percent."""

    replays: dict[int, dict[str, Replay]]
    waited: Spread
    idle_percent: dict[int, float]


OURS, SQLITE = "ours, Unix socket", "Hermes' SQLite consumer"


def measure_reading(
    home: Path, readers: Readers, directory: Path, scale: Scale
) -> Reading:
    replays = {}
    with nats_servers(directory / "nats") as node:
        for size in REPLAY_SIZES:
            place = directory / f"replay{size}"
            place.mkdir()
            replays[size] = _replays(readers, node, place, size, scale)
        create_stream(node, "wait")
        with sidecar_process(directory / "wait", node, "wait") as sidecar:
            waited = _waited(home, readers, sidecar, scale.waited_events)
            idle = {
                count: _idle_percent(sidecar, count, scale.idle_seconds)
                for count in (0, READERS)
            }
    return Reading(replays, waited, idle)


def _replays(
    readers: Readers,
    node: NatsProcess,
    place: Path,
    size: int,
    scale: Scale,
) -> dict[str, Replay]:
    count, stream = scale.replay_events, f"replay{size}"
    text = event_of(size).to_json()
    create_stream(node, stream)
    fill_stream(node, stream, text.encode(), count)
    if readers.has_sqlite:
        fill_sqlite(place / "bus.sqlite", text, count)
    seen: dict[str, list[Any]] = {OURS: [], SQLITE: []}
    with sidecar_process(place, node, stream) as sidecar:
        pid = sidecar.running.pid
        forget_peak(pid)
        before_mb = memory_mb(pid)
        for _ in range(scale.replay_rounds):
            seen[OURS].append(readers.ours("replay", sidecar.url, count))
            if readers.has_sqlite:
                seen[SQLITE].append(readers.sqlite(place / "bus.sqlite", count))
        grew_mb = memory_mb(pid, "VmHWM") - before_mb
    return {
        name: _summary(runs, count, grew_mb if name == OURS else None)
        for name, runs in seen.items()
        if runs
    }


def _summary(runs: list[Any], count: int, sidecar_mb: float | None) -> Replay:
    return Replay(
        rate=count / median(run["seconds"] for run in runs),
        quiet_rate=count / min(run["seconds"] for run in runs),
        reader_mb=median(run["peak_mb"] - run["before_mb"] for run in runs),
        sidecar_mb=sidecar_mb,
    )


def _waited(
    home: Path, readers: Readers, sidecar: SidecarProcess, count: int
) -> Spread:
    """Time events from _send to a reader that waits; not in step with any polling."""
    event = event_of(SIZES[0])
    bus = OurBus(home, sidecar.url)
    bus.open()
    last = bus.plugin._send(event)
    sent = {}
    chance = random.Random(1)  # noqa: S311 - pauses, not secrets
    with readers.follow(sidecar.url, count, last + 1) as process:
        for _ in range(count):
            time.sleep(chance.uniform(0.005, 0.06))
            began = time.monotonic()
            sent[bus.plugin._send(event)] = began
        assert process.stdout is not None
        seen = json.loads(process.stdout.read())
    bus.close()
    return spread(
        [
            (moment - sent[offset]) * 1e3
            for offset, moment in zip(seen["offsets"], seen["moments"], strict=True)
        ]
    )


def _idle_percent(sidecar: SidecarProcess, count: int, seconds: float) -> float:
    """Give the share of one core that the sidecar uses while readers only wait."""
    pid = sidecar.running.pid
    with waiting_readers(sidecar.socket, count, NOBODY_WRITES):
        time.sleep(1)
        before = cpu_seconds(pid)
        time.sleep(seconds)
        return (cpu_seconds(pid) - before) / seconds * 100
