# SPDX-License-Identifier: Apache-2.0
"""Daemons that begin as forks of a process that has imported the sidecar.

Imports are most of a start's CPU time, and the tests start some hundred daemons. From
`main` on it runs as `python -m sidecar` does, in a process of its own.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from typing import TYPE_CHECKING

from sidecar.__main__ import main

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["uvloop", "sidecar.cli", "sidecar.http.server"])


class Forked(subprocess.Popen[bytes]):
    """One daemon, for those who know subprocess."""

    def __init__(
        self, arguments: Sequence[str], log: Path, environ: Mapping[str, str]
    ) -> None:
        self._process = _FORKS.Process(
            target=_run, args=(arguments, log, dict(environ)), daemon=True
        )
        self._process.start()
        assert self._process.pid is not None
        self.args = arguments
        self.pid = self._process.pid
        self.returncode = None

    def poll(self) -> int | None:
        """Give the exit status; None while it runs."""
        self.returncode = self._process.exitcode
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end and give the exit status; raise TimeoutExpired."""
        self._process.join(timeout)
        status = self.poll()
        if status is None:
            assert timeout is not None
            raise subprocess.TimeoutExpired(self.args, timeout)
        return status


def _run(arguments: Sequence[str], log: Path, environ: Mapping[str, str]) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for number in (1, 2):
        os.dup2(descriptor, number)
    os.close(descriptor)
    os.environ.clear()
    os.environ.update(environ)
    sys.argv = ["hermes-nats-sidecar", *arguments]
    main()
