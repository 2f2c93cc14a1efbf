# SPDX-License-Identifier: Apache-2.0
"""Commands that run here, and what they are run on."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import pytest
from support.commands import SECRET, Run, run_command
from support.jetstream import wait_jetstream
from support.nats import NatsProcess

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def run() -> Run:
    return run_command


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
