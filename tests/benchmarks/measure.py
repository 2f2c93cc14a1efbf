# SPDX-License-Identifier: Apache-2.0
"""Figures of processes and of series of figures."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import time
from array import array
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from support.process import memory_kib

from sidecar.jetstream.embedded_server import find_nats_server

from .scale import WARM_UP

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Series = array  # of float, one figure each


@dataclass(frozen=True)
class Spread:
    """Median and 99th percentile of a series, and the median of its quietest round."""

    p50: float
    p99: float
    count: int
    quiet: float


def spread(series: Sequence[float], round_size: int = 1) -> Spread:
    ordered = sorted(series)
    rounds = range(0, len(series), round_size)
    return Spread(
        median(ordered),
        ordered[int(0.99 * len(ordered))],
        len(ordered),
        min(median(series[start : start + round_size]) for start in rounds),
    )


def time_sends(
    send: Callable[[Any], object], event: Any, count: int, series: array[float]
) -> None:
    """Send the event again and again; add the microseconds of each send."""
    for _ in range(WARM_UP):
        send(event)
    clock = time.perf_counter
    for _ in range(count):
        began = clock()
        send(event)
        series.append((clock() - began) * 1e6)


def memory_mb(pid: int, field: str = "VmRSS") -> float:
    """Give what a process holds (VmRSS) or held at most (VmHWM)."""
    return memory_kib(pid, field) * 1024 / 1e6


def forget_peak(pid: int) -> None:
    """Let VmHWM of a process begin anew, where the kernel allows it."""
    with suppress(OSError):
        Path(f"/proc/{pid}/clear_refs").write_text("5", "ascii")


def cpu_seconds(pid: int) -> float:
    """Give the processor time that a process has used."""
    words = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def machine() -> dict[str, str]:
    """Say what it was measured on: no host name, no path."""
    cpu = re.search(
        r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE
    )
    memory = re.search(r"(\d+) kB", Path("/proc/meminfo").read_text("ascii"))
    server = subprocess.run(
        [find_nats_server(), "--version"], check=True, capture_output=True, text=True
    ).stdout
    libraries = ("fastapi", "uvicorn", "uvloop", "httptools", "nats-py", "httpx")
    return {
        "Processor": f"{cpu[1] if cpu else platform.machine()}, {os.cpu_count()} cores",
        "Memory": f"{int(memory[1]) / 1e6:.0f} GB" if memory else "unknown",
        "Kernel": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        "nats-server": server.split()[-1],
        "Libraries": ", ".join(f"{name} {version(name)}" for name in libraries),
    }


def turned(names: Sequence[str], number: int) -> list[str]:
    """Give the names in the order of this round: each comes first in turn."""
    first = number % len(names)
    return [*names[first:], *names[:first]]
