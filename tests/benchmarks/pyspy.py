# SPDX-License-Identifier: Apache-2.0
"""Where a process spends its time, by py-spy's samples of its stacks."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_RATE = 250
_SHOWN = 20
_START = ("<frozen runpy>", "sidecar/__main__.py", "sidecar/cli.py")
"""Frames that hold all of the time and say nothing."""


@dataclass(frozen=True)
class Profile:
    """Shares of the time on the processor, by function, the largest first."""

    samples: int
    own: list[tuple[str, float]]
    inclusive: list[tuple[str, float]]


def profile(
    pid: int, seconds: int, stacks: Path, work: Callable[[], object]
) -> Profile | str:
    """Sample the process while doing the work again and again; or say why not."""
    beside = Path(sys.executable).parent / "py-spy"
    program = str(beside) if beside.exists() else shutil.which("py-spy")
    if program is None:
        return "py-spy is not installed."
    arguments = ["record", "--format", "raw", "--function"]
    arguments += ["--pid", str(pid), "--duration", str(seconds), "--rate", str(_RATE)]
    with subprocess.Popen(
        [program, *arguments, "--output", stacks],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as process:
        while process.poll() is None:
            work()
        errors = process.stderr.read() if process.stderr else b""
    if process.returncode or not stacks.exists():
        words = errors.decode("utf-8", "replace").split("\n")
        return f"py-spy could not sample: {words[0][:200]}"
    return _read(stacks.read_text("utf-8"))


def _read(text: str) -> Profile | str:
    own: Counter[str] = Counter()
    inclusive: Counter[str] = Counter()
    for line in text.splitlines():
        stack, _, count = line.rpartition(" ")
        functions = [_short(frame) for frame in stack.split(";")]
        own[functions[-1]] += int(count)
        for function in {each for each in functions if not _is_start(each)}:
            inclusive[function] += int(count)
    total = own.total()
    if not total:
        return "py-spy saw no samples."

    def largest(counter: Counter[str]) -> list[tuple[str, float]]:
        return [(name, n / total) for name, n in counter.most_common(_SHOWN)]

    return Profile(total, largest(own), largest(inclusive))


def _is_start(function: str) -> bool:
    return any(place in function for place in _START)


def _short(frame: str) -> str:
    """Name a function by its file's last two parts: no path of this machine."""
    function, _, place = frame.partition(" (")
    file = "/".join(Path(place.rstrip(")").partition(":")[0]).parts[-2:])
    return f"{function} ({file})" if file else function
