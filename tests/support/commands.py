# SPDX-License-Identifier: Apache-2.0
"""Runs our commands, and checks the one sentence that a mistake shows."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING, Protocol
from unittest.mock import patch

import pytest

from sidecar.cli import main

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


def run_here(*arguments: str | Path, **settings: object) -> Ran:
    """Run a command in this process, which is much faster: not for `serve`.

    What the command would show as a traceback is raised into the test.
    """
    out, err = io.StringIO(), io.StringIO()
    with (
        patch.dict(os.environ, environment(**settings), clear=True),
        patch.object(sys, "argv", ["hermes-nats-sidecar", *map(str, arguments)]),
        redirect_stdout(out),
        redirect_stderr(err),
        pytest.raises(SystemExit) as ended,
    ):
        main()
    assert isinstance(ended.value.code, int)
    return Ran(arguments, ended.value.code, out.getvalue(), err.getvalue())


def run_command(*arguments: str | Path, **settings: object) -> Ran:
    """Run a command: `serve` as a process, the others here."""
    run = run_process if arguments[:1] == ("serve",) else run_here
    return run(*arguments, **settings)


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
