# SPDX-License-Identifier: Apache-2.0
"""Runs our commands, and checks the one sentence that a mistake shows."""

from __future__ import annotations

import signal
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from .sidecar import COMMAND, environment

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Ran = subprocess.CompletedProcess[str]
SECRET = "c0rrect-horse"


class Run(Protocol):
    def __call__(self, *arguments: str | Path, **settings: object) -> Ran: ...


def run_process(*arguments: str | Path, **settings: object) -> Ran:
    return subprocess.run(
        [*COMMAND, *arguments],
        env=environment(**settings),
        capture_output=True,
        text=True,
        timeout=15,
        check=False,
    )


@contextmanager
def interruptible(
    *arguments: str, environ: dict[str, str]
) -> Iterator[subprocess.Popen[str]]:
    """Start a command in a session of its own, as a terminal does.

    pytest-xdist ignores SIGINT, which a child would inherit; a handler it does not.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(
            [*COMMAND, *arguments],
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
    finally:
        signal.signal(signal.SIGINT, before)
    with process:
        try:
            yield process
        finally:
            process.kill()


def assert_complaint(ran: Ran, status: int, *words: str) -> None:
    """One sentence, or a few, on one line of stderr, and no more."""
    assert "Traceback" not in ran.stderr, ran.stderr
    assert ran.returncode == status, ran.stderr
    lines = ran.stderr.splitlines()
    assert len(lines) == 1, ran.stderr
    assert lines[0].startswith("hermes-nats-sidecar: ")
    assert lines[0].endswith((".", "?"))
    for word in words:
        assert word in lines[0]
    assert SECRET not in ran.stderr + ran.stdout
