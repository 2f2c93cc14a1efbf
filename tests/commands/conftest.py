# SPDX-License-Identifier: Apache-2.0
"""Commands that run here, and what they are run on."""

from __future__ import annotations

import os
import sys
import uuid
from typing import TYPE_CHECKING

import pytest
from support.commands import SECRET, Ran, Run, run_process
from support.jetstream import wait_jetstream
from support.nats import NatsProcess
from support.sidecar import environment

from sidecar.cli import main

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command: `serve` as a process, the others here, which is much faster.

    What the command would show as a traceback is raised into the test.
    """

    def run_it(*arguments: str | Path, **settings: object) -> Ran:
        if arguments[:1] == ("serve",):
            return run_process(*arguments, **settings)
        wanted = environment(**settings)
        for name in set(os.environ) - set(wanted):
            monkeypatch.delenv(name)
        for name, value in wanted.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", ["hermes-nats-sidecar", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return Ran(arguments, ended.value.code, out, err)

    return run_it


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsProcess]:
    """One server that wants the password c0rrect-horse of the user hermes."""
    users = f"authorization {{ user: hermes, password: {SECRET} }}"
    with NatsProcess(tmp_path_factory.mktemp("locked"), extra=users) as server:
        yield server


@pytest.fixture
def private(tmp_path: Path) -> Path:
    tmp_path.chmod(0o700)
    return tmp_path


@pytest.fixture
def stream(nats: NatsProcess) -> dict[str, object]:
    """Give settings for a stream of its own that is not there yet."""
    wait_jetstream(nats.port)
    name = f"s{uuid.uuid4().hex[:12]}"
    return {"nats_url": nats.url, "stream": name, "subject_prefix": name}
