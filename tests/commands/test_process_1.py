# SPDX-License-Identifier: Apache-2.0
"""The commands as process 1 of a container, whom no signal ends by default."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.process import wait_until
from support.sidecar import COMMAND, SidecarProcess, environment, event, post

if TYPE_CHECKING:
    from collections.abc import Iterator

AS_PROCESS_1 = ["unshare", "--map-root-user", "--pid", "--fork", "--kill-child"]


@pytest.fixture(params=[signal.SIGTERM, signal.SIGINT])
def number(request: pytest.FixtureRequest) -> Iterator[signal.Signals]:
    """Give a signal that ends a command.

    pytest-xdist ignores SIGINT, which a child would inherit; a handler it does not.
    """
    if subprocess.run([*AS_PROCESS_1, "true"], check=False).returncode != 0:
        pytest.skip("NOT TESTED: this machine allows no pid namespace")
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield request.param
    signal.signal(signal.SIGINT, before)


@contextmanager
def started(*arguments: str, **settings: object) -> Iterator[subprocess.Popen[bytes]]:
    outside = subprocess.Popen(
        [*AS_PROCESS_1, *COMMAND, *arguments],
        env=environment(**settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with outside:
        try:
            yield outside
        finally:
            outside.kill()


def inside(outside: subprocess.Popen[bytes]) -> int:
    children = Path(f"/proc/{outside.pid}/task/{outside.pid}/children")
    wait_until(children.read_text, what="it runs")
    return int(children.read_text())


def test_it_ends_while_python_still_imports(
    number: signal.Signals, tmp_path: Path
) -> None:
    with started("serve", unix_socket=tmp_path / "s") as outside:
        pid = inside(outside)
        maps = Path(f"/proc/{pid}/maps")
        # Mapped by the import of pydantic, half a second before it could serve.
        wait_until(lambda: "pydantic_core" in maps.read_text(), what="it imports")
        os.kill(pid, number)
        _, complaint = outside.communicate(timeout=10)
        assert outside.returncode == 128 + number
        assert complaint == b""


def test_tail_follow_ends(number: signal.Signals, sidecar: SidecarProcess) -> None:
    with sidecar.client() as http:
        post(http, event()).raise_for_status()
    settings = {"unix_socket": sidecar.socket}
    with started("tail", "--follow", "--from=-1", **settings) as outside:
        assert outside.stdout is not None
        assert outside.stdout.readline()
        os.kill(inside(outside), number)
        _, complaint = outside.communicate(timeout=10)
        assert outside.returncode == 128 + number
        assert complaint == b""


def test_nothing_slow_is_imported_before_it_takes_a_signal() -> None:
    script = "import sys; import sidecar.__main__; print(*sys.modules)"
    ran = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )
    loaded = set(ran.stdout.split())
    assert "sidecar.__main__" in loaded
    assert loaded & {"typing", "argparse", "importlib.metadata", "sidecar.cli"} == set()


def test_ctrl_c_is_raised_into_nobodys_lock() -> None:
    """As a KeyboardInterrupt that could leave httpx's locked, and end by waiting."""
    script = (
        "import signal, sidecar.__main__ as entry, sidecar.cli as cli\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "cli.main = lambda: signal.raise_signal(signal.SIGINT)\n"
        "try:\n    entry.main()\nfinally:\n    print('raised')\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script], check=False, capture_output=True, text=True
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (130, "", "")
