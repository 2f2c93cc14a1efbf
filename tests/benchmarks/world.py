# SPDX-License-Identifier: Apache-2.0
"""What is measured with: events of a size, NATS servers, streams that are full."""

from __future__ import annotations

import sqlite3
import time
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from support.hermes import new_event
from support.jetstream import RawNatsClient, wait_jetstream
from support.nats import NatsCluster, NatsProcess

from .scale import SIZES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_ATTRIBUTES = {
    "login": "jdupont",
    "first_name": "Jeanne",
    "last_name": "Dupont",
    "mail": "jeanne.dupont@example.org",
    "phones": ["+33 3 00 00 00 01"],
}
_WITHOUT_ANSWER = 499
"""nats-server buffers up to 10,000 messages for a stream and drops what is beyond."""


def event_of(size_bytes: int) -> Any:
    """Make an event whose to_json() has just that size."""
    attributes: dict[str, Any] = dict(_ATTRIBUTES)
    if size_bytes > SIZES[0]:
        attributes |= {f"attribute_{n:02}": "x" * 40 for n in range(20)}
    attributes["photo"] = ""
    padding = size_bytes - len(new_event(objattrs=attributes).to_json())
    assert padding >= 0
    event = new_event(objattrs=attributes | {"photo": "p" * padding})
    assert len(event.to_json()) == size_bytes
    return event


@contextmanager
def nats_servers(
    directory: Path, nodes: int = 1, *, sync_always: bool = False
) -> Iterator[NatsProcess]:
    """Run one server, or three; give the one to connect to."""
    jetstream = "sync_interval: always" if sync_always else ""
    if nodes == 1:
        with NatsProcess(directory, jetstream=jetstream) as server:
            wait_jetstream(server.port)
            yield server
        return
    with NatsCluster(directory, jetstream=jetstream) as cluster:
        for node in cluster.nodes:
            wait_jetstream(node.port)
        yield cluster.nodes[0]


def fill_stream(node: NatsProcess, stream: str, body: bytes, count: int) -> None:
    """Store events as the sidecar would, fast: most of them without an answer."""
    with RawNatsClient(node.port) as operator:
        subject = f"{stream}.base"
        for number in range(1, count + 1):
            headers = {
                "Nats-Msg-Id": str(uuid.uuid4()),
                "Nats-Expected-Stream": stream,
                "Hermes-Event-Type": "added",
                "Hermes-Object-Type": "Users",
            }
            if number % (_WITHOUT_ANSWER + 1) and number != count:
                operator.send(subject, body, headers)
            else:
                operator.ask(subject, body, headers)
        assert operator.state(stream)["messages"] == count


def fill_sqlite(path: Path, text: str, count: int) -> None:
    """Write the table that Hermes' SQLite consumer reads, all in one transaction."""
    now = time.time()
    database = sqlite3.connect(path)
    with database:
        database.execute(
            "CREATE TABLE hermesmessages (msgid INTEGER PRIMARY KEY AUTOINCREMENT, "
            "data TEXT NOT NULL, timestamp REAL NOT NULL)"
        )
        database.executemany(
            "INSERT INTO hermesmessages (data, timestamp) VALUES (?, ?)",
            ((text, now) for _ in range(count)),
        )
    database.close()
