# SPDX-License-Identifier: Apache-2.0
"""What one run found, and how far it is from what must be reached."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING

from . import initsync, replay, variants
from .growth import ALONE
from .scale import ONE, REPLAY_SIZES, SIZES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .beside import Beside, Window
    from .growth import Growth
    from .large import Large
    from .latency import Latencies
    from .measure import Spread
    from .pyspy import Profile
    from .replay import Reading


_FEW, _MANY = 1_000, 1_000_000

_INITSYNC = {
    initsync.MODES["default sync"]: {
        initsync.NONE: (0.75, 0.9),
        initsync.IN_PROCESS: (1.9, 2.3),
        initsync.SQLITE: (2.8, 3.5),
    },
    initsync.MODES["sync always"]: {
        initsync.NONE: (0.6, 0.85),
        initsync.IN_PROCESS: (2.1, 3.0),
        initsync.SQLITE: (2.4, 3.5),
    },
    initsync.REPLICAS: {initsync.IN_PROCESS: (3.0, 5.0)},
}
"""Our rate in a mode, by another bus: what it must be of that one's, and the aim."""

_SIDECARS = 100
_BESIDE = {
    "events/s beside one client that catches up / alone": (0.5, 0.8, True, ""),
    "`_send` p99 beside one client that catches up / alone": (4, 2, False, ""),
    "events/s of that client beside the sender": (4_000, 8_000, True, ""),
    "sidecar with 300 clients, 10 events/s, of a core": (40, 20, False, " %"),
    "POST to each of 300 clients, p50": (30, 15, False, " ms"),
    "POST to each of 300 clients, p99": (100, 50, False, " ms"),
    "messages/s to NATS, 300 idle clients": (3, 2, False, ""),
    "events/s beside ten clients that follow / alone": (0.7, 0.9, True, ""),
    f"NATS with {_SIDECARS} idle sidecars, a client each, of a core": (
        5,
        3,
        False,
        " %",
    ),
}
"""What must be reached, the aim, whether at least, and the unit."""


@dataclass
class Results:
    """Everything measured; None for what was left out, and `skipped` says why."""

    scale: str
    command: str
    date: str
    machine: dict[str, str]
    latencies: dict[str, Latencies] = field(default_factory=dict)
    profile: Profile | str = ""
    peak_mb: float = 0.0
    initsyncs: dict[str, list[float]] | None = None
    large: Large | None = None
    kafka: str | None = None
    """Which broker."""
    reading: Reading | None = None
    beside: Beside | None = None
    growth: Growth | None = None
    publishes: list[tuple[int, float]] = field(default_factory=list)
    start_seconds: Spread | None = None
    skipped: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Target:
    """One figure that must be reached: at most, or with `is_least` at least.

    Load from elsewhere on the disk slows only variants that wait for it, and so would
    flatter us. `quiet` compares each variant's quietest round; both must hold.
    """

    name: str
    found: float | None
    must: float
    aim: float
    is_least: bool = False
    unit: str = ""
    quiet: float | None = None

    @property
    def holds(self) -> bool | None:
        """Tell whether it was reached; None where it was not measured."""
        return self._reaches(self.must)

    @property
    def is_aimed(self) -> bool | None:
        """Tell whether the aim was reached too."""
        return self._reaches(self.aim)

    def _reaches(self, limit: float) -> bool | None:
        figures = [each for each in (self.found, self.quiet) if each is not None]
        if not figures:
            return None
        if self.is_least:
            return min(figures) >= limit
        return max(figures) <= limit


def targets(results: Results) -> list[Target]:
    """Compare with what must be reached: ratios of this run, default sync, one node."""
    start = results.start_seconds
    return [
        *_send_targets(results.latencies[ONE][SIZES[0]]),
        *_initsync_targets(results.initsyncs or {}),
        *_reading_targets(results.reading),
        *_beside_targets(results.beside),
        *_memory_targets(results),
        Target(
            "start to ready, NATS up", start.p50 if start else None, 1.5, 0.8, unit=" s"
        ),
        *_growth_targets(results.growth),
    ]


def _send_targets(found: dict[str, Spread]) -> list[Target]:
    ours = found[variants.UNIX]
    limits = {variants.IN_PROCESS: (1.35, 1.0), variants.SQLITE: (0.65, 0.5)}
    return [
        Target(
            f"`_send` p50, {kilobytes(SIZES[0])} / {name}",
            ours.p50 / found[name].p50,
            must,
            aim,
            quiet=ours.quiet / found[name].quiet,
        )
        for name, (must, aim) in limits.items()
    ]


def _initsync_targets(rates: dict[str, list[float]]) -> list[Target]:
    middle = {bus: median(each) for bus, each in rates.items()}
    quiet = {bus: max(each) for bus, each in rates.items()}
    return [
        Target(
            f"initsync events/s / {other}{where}",
            _rate(middle, f"{initsync.OURS}{behind}", _other(other, behind)),
            must,
            aim,
            is_least=True,
            quiet=_rate(quiet, f"{initsync.OURS}{behind}", _other(other, behind)),
        )
        for behind, limits in _INITSYNC.items()
        for other, (must, aim) in limits.items()
        for where in (behind or ", default sync",)
    ]


def _other(bus: str, behind: str) -> str:
    return bus + behind if bus == initsync.IN_PROCESS else bus


def _rate(rates: dict[str, float], ours: str, other: str) -> float | None:
    return rates[ours] / rates[other] if {ours, other} <= rates.keys() else None


def _reading_targets(reading: Reading | None) -> list[Target]:
    p50 = reading.waited.p50 if reading else None
    p99 = reading.waited.p99 if reading else None
    found = [
        Target("`_send` to a waiting client, p50", p50, 5, 3, unit=" ms"),
        Target("`_send` to a waiting client, p99", p99, 20, 10, unit=" ms"),
    ]
    for size in REPLAY_SIZES:
        by_bus = reading.replays[size] if reading else {}
        middle = {bus: each.rate for bus, each in by_bus.items()}
        quiet = {bus: each.quiet_rate for bus, each in by_bus.items()}
        found.append(
            Target(
                f"replay events/s, {kilobytes(size)} / Hermes' SQLite consumer",
                _rate(middle, replay.OURS, replay.SQLITE),
                *(1.0, 1.2, True),
                quiet=_rate(quiet, replay.OURS, replay.SQLITE),
            )
        )
    return found


def _beside_targets(beside: Beside | None) -> list[Target]:
    found: dict[str, float | None] = dict.fromkeys(_BESIDE)
    if beside is not None:
        old, waiting = beside.catching_up, beside.waiting
        quiet, live = zip(*beside.following, strict=True)
        figures = [
            _middle_rate(old.beside) / _middle_rate(old.quiet),
            _middle_p99(old.beside) / _middle_p99(old.quiet),
            median(old.client_beside),
            waiting.percent,
            waiting.delay.p50,
            waiting.delay.p99,
            waiting.nats_idle,
            _middle_rate(live) / _middle_rate(quiet),
            beside.nats_percent if beside.sidecars == _SIDECARS else None,
        ]
        found = dict(zip(_BESIDE, figures, strict=True))
    return [
        Target(name, found[name], must, aim, is_least=is_least, unit=unit)
        for name, (must, aim, is_least, unit) in _BESIDE.items()
    ]


def _middle_rate(windows: Sequence[Window]) -> float:
    return median(each.rate for each in windows)


def _middle_p99(windows: Sequence[Window]) -> float:
    return median(each.send.p99 for each in windows)


def _memory_targets(results: Results) -> list[Target]:
    peaks = [results.peak_mb, *(mb for _, mb in results.publishes)]
    if results.growth:
        peaks += results.growth.memory_mb.values()
    marks = results.publishes
    grown = marks[-1][1] - marks[len(marks) // 2][1] if marks else None
    return [
        Target("sidecar memory, highest", max(peaks), 80, 60, unit=" MB"),
        Target(
            "sidecar memory, growth in the second half of the publishes (flat)",
            grown,
            *(2, 0.5),
            unit=" MB",
        ),
    ]


def _growth_targets(growth: Growth | None) -> list[Target]:
    ratio = quiet = first_ms = None
    if growth and max(growth.latencies) == _MANY and min(growth.latencies) == _FEW:
        few, many = (growth.latencies[count][ALONE] for count in (_FEW, _MANY))
        ratio, quiet = many.p50 / few.p50, many.quiet / few.quiet
        first_ms = growth.first_event_ms.p50
    return [
        Target("`_send` p50 at 10^6 events / at 10^3", ratio, 1.1, 1.0, quiet=quiet),
        Target("first event of 10^6", first_ms, 100, 100, unit=" ms"),
    ]


def kilobytes(size: int) -> str:
    return f"{size / 1024:g} KB"
