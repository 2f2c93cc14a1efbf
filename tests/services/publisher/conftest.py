# SPDX-License-Identifier: Apache-2.0
"""One server for the rows of the decision table, and a stream for each test."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import pytest
from support.jetstream import RawNatsClient, wait_jetstream
from support.nats import NatsProcess

from sidecar.jetstream.credentials import NatsServer

if TYPE_CHECKING:
    from collections.abc import Iterator

_USERS = """
authorization { users: [
  { user: all, password: all }
  { user: mute, password: mute, permissions: {
      publish: { deny: ["mute.>"] } } }
] }
"""


@pytest.fixture(scope="module")
def nats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsProcess]:
    """One server, whose user `all` is everybody who does not log in."""
    directory = tmp_path_factory.mktemp("nats")
    with NatsProcess(directory, extra=_USERS + "no_auth_user: all") as server:
        wait_jetstream(server.port)
        yield server


@pytest.fixture
def operator(nats: NatsProcess) -> Iterator[RawNatsClient]:
    with RawNatsClient(nats.port) as operator:
        yield operator


@pytest.fixture
def server(nats: NatsProcess) -> NatsServer:
    return NatsServer(urls=(nats.url,))


@pytest.fixture
def name(operator: RawNatsClient) -> str:
    """Give each test a stream of its own."""
    name = f"s{uuid.uuid4().hex[:12]}"
    operator.create(name)
    return name
