# SPDX-License-Identifier: Apache-2.0
"""`demo`: it shows an initsync and leaves nothing behind, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.commands import interruptible
from support.process import wait_until
from support.sidecar import COMMAND, environment

from sidecar.commands import demo as demo_command

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def short() -> Iterator[Path]:
    """Make a directory whose path leaves room for that of a socket below it."""
    with tempfile.TemporaryDirectory(prefix="demo-") as name:
        yield Path(name)


def processes_of(directory: Path) -> list[bytes]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            line = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
        except OSError:
            continue
        if f"={directory}".encode() in line or f"{directory}/".encode() in line:
            found.append(line)
    return found


def demo_environment(directory: Path) -> dict[str, str]:
    """Give it a temporary directory and a home of its own, so that leftovers show."""
    home, tmp = directory / "home", directory / "tmp"
    home.mkdir()
    tmp.mkdir()
    return environment() | {"TMPDIR": str(tmp), "HOME": str(home)}


def assert_nothing_left(directory: Path) -> None:
    assert list((directory / "tmp").iterdir()) == []
    assert list((directory / "home").iterdir()) == []
    wait_until(lambda: not processes_of(directory), what="no process left")


def test_demo_shows_an_initsync_in_order_and_leaves_nothing(short: Path) -> None:
    ran = subprocess.run(
        [*COMMAND, "demo"],
        env=demo_environment(short),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert "in the order sent" in ran.stdout
    assert "init-start" in ran.stdout
    assert "init-stop" in ran.stdout
    assert "GroupsMembers" in ran.stdout
    assert ran.stderr == ""
    assert_nothing_left(short)


@pytest.mark.parametrize(
    ("line", "end"),
    [
        *(("Starting", signal.SIGINT), ("Sent", signal.SIGINT)),
        *(("Sent", signal.SIGTERM), ("Sent", signal.SIGHUP)),
    ],
)
def test_whatever_ends_the_demo_it_leaves_nothing(
    short: Path, line: str, end: signal.Signals
) -> None:
    environ = demo_environment(short) | {"PYTHONUNBUFFERED": "1"}
    with interruptible("demo", environ=environ) as demo:
        assert demo.stdout is not None
        while not (said := demo.stdout.readline()).startswith(line):
            assert said, demo.communicate()[1]
        if end is signal.SIGTERM:
            demo.send_signal(end)
        else:
            os.killpg(demo.pid, end)  # as a terminal does
        _, complaint = demo.communicate(timeout=30)
    assert complaint == ""
    assert demo.returncode in (128 + end, 0)
    assert_nothing_left(short)


def test_a_signal_before_the_new_process_is_the_sidecar_ends_it() -> None:
    def take_ctrl_c() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        others = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        os.kill(os.getpid(), signal.SIGINT)
        demo_command._take_signals(others)

    with subprocess.Popen(["/bin/true"], preexec_fn=take_ctrl_c) as process:  # noqa: PLW1509 - nothing that it does needs a lock
        assert process.wait(30) == -signal.SIGINT


def test_ctrl_c_while_python_still_imports_is_no_traceback() -> None:
    with interruptible("--help", environ=environment()) as command:
        maps = Path(f"/proc/{command.pid}/maps")
        # Mapped by the import of pydantic, half a second before the command runs.
        wait_until(lambda: "pydantic_core" in maps.read_text(), what="it imports")
        command.send_signal(signal.SIGINT)
        _, complaint = command.communicate(timeout=30)
    assert complaint == ""
    assert command.returncode in (0, 130, -signal.SIGINT)
