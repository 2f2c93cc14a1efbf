# SPDX-License-Identifier: Apache-2.0
"""A real process that a test starts, freezes, kills, and always ends by its own pid."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


def wait_until(
    condition: Callable[[], object],
    seconds: float = 20,
    what: str = "",
    *,
    pause_seconds: float = 0.01,
) -> None:
    """Poll until the condition holds; fail with `what` when it does not in time."""
    ends_at = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > ends_at:
            raise AssertionError(f"not in {seconds} s: {what or condition}")
        time.sleep(pause_seconds)


def quickest(action: Callable[[], object], tries: int = 3) -> float:
    """Give the seconds of the quickest try: the machine's pauses are not ours."""
    took = []
    for _ in range(tries):
        started_at = time.monotonic()
        action()
        took.append(time.monotonic() - started_at)
    return min(took)


def memory_kib(pid: int, field: str = "VmRSS") -> int:
    """Give what a process holds (VmRSS) or held at most (VmHWM)."""
    status = Path(f"/proc/{pid}/status").read_text("ascii")
    found = re.search(rf"^{field}:\s+(\d+) kB", status, re.MULTILINE)
    assert found is not None
    return int(found[1])


def _is_stopped(task: Path) -> bool:
    try:
        state = (task / "stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:  # a thread that has just ended
        return True
    return state in "TZX"


class Process:
    """One process with its stderr in a file; a context manager ends it."""

    def __init__(
        self,
        arguments: Sequence[str | Path],
        log: Path,
        environ: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self.arguments = arguments
        self.log = log
        self.environ = environ
        self.cwd = cwd
        self.popen: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.popen = subprocess.Popen(
                self.arguments, stdout=log, stderr=log, env=self.environ, cwd=self.cwd
            )

    @property
    def running(self) -> subprocess.Popen[bytes]:
        assert self.popen is not None, "not started"
        return self.popen

    @property
    def is_alive(self) -> bool:
        return self.popen is not None and self.popen.poll() is None

    def output(self) -> str:
        return self.log.read_text("utf-8", "replace") if self.log.exists() else ""

    def freeze(self) -> None:
        """Stop it, and return when each of its threads stands still."""
        self.running.send_signal(signal.SIGSTOP)
        tasks = Path(f"/proc/{self.running.pid}/task")
        wait_until(lambda: all(map(_is_stopped, tasks.iterdir())), what="frozen")

    def thaw(self) -> None:
        self.running.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self.running.kill()
        self.running.wait()

    def terminate(self, seconds: float = 30) -> int:
        """Send SIGTERM and give the exit status."""
        self.running.terminate()
        return self.running.wait(seconds)

    def stop(self) -> None:
        """End it whatever state it is in."""
        if self.is_alive:
            self.thaw()
            self.running.terminate()
            try:
                self.running.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()
