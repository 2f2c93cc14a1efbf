# SPDX-License-Identifier: Apache-2.0
"""Each way to store an event: open, send one and have it acknowledged, close, stop."""

from __future__ import annotations

import json
import os
import sqlite3
import sys
import time
import uuid
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import httpx
from support.hermes import load_plugin
from support.jetstream import RawNatsClient
from support.nats import free_port
from support.process import Process, wait_until
from support.sidecar import SidecarProcess

from .inprocess import InProcessNats

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.nats import NatsProcess

UNIX, TCP = "ours, Unix socket", "ours, TCP"
IN_PROCESS = "nats-py in a thread"
SQLITE = "SQLite commit"
RAW = "raw socket"
NAIVE = "naive bridge"
_ELECTION_SECONDS = 0.5
NAMES = (UNIX, TCP, IN_PROCESS, SQLITE, RAW, NAIVE)


class StreamSupervisor(Protocol):
    """One variant."""

    def open(self) -> None: ...
    def send(self, event: Any) -> object: ...
    def close(self) -> None: ...


class OurBus:
    """The real producer plugin, opened and closed for each pass as Hermes does."""

    def __init__(self, home: Path, url: str) -> None:
        self.plugin = load_plugin(home, "messagebus_producers", {"url": url})
        self.open = self.plugin.open
        self.send = self.plugin._send
        self.close = self.plugin.close


class SqliteBus:
    """What Hermes' SQLite bus does for an event: one insert, one commit."""

    _TABLE = (
        "CREATE TABLE events (number INTEGER PRIMARY KEY AUTOINCREMENT, "
        "data TEXT NOT NULL, timestamp REAL NOT NULL)"
    )
    _INSERT = "INSERT INTO events (data, timestamp) VALUES (:data, :timestamp)"

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path)
        self._db.execute(self._TABLE)

    def open(self) -> None:
        pass

    def close(self) -> None:
        pass

    def send(self, event: Any) -> None:
        now = datetime.now().timestamp()  # noqa: DTZ005 - as Hermes does
        self._db.execute(self._INSERT, {"data": event.to_json(), "timestamp": now})
        self._db.commit()

    def stop(self) -> None:
        self._db.close()


class RawBus:
    """The floor: our conditional publish on a blocking socket, and its answer."""

    def __init__(self, port: int, stream: str) -> None:
        self._operator = RawNatsClient(port)
        self._stream = stream

    def open(self) -> None:
        self._last = int(self._operator.state(self._stream)["last_seq"])

    def close(self) -> None:
        pass

    def send(self, event: Any) -> None:
        answer = self._operator.ask(
            f"{self._stream}.{event.evcategory}",
            event.to_json().encode(),
            {
                "Nats-Msg-Id": str(uuid.uuid4()),
                "Nats-Expected-Stream": self._stream,
                "Nats-Expected-Last-Sequence": str(self._last),
            },
        )
        self._last = json.loads(answer)["seq"]

    def stop(self) -> None:
        self._operator.__exit__()


class NaiveBus:
    """httpx to the naive bridge."""

    def __init__(self, port: int) -> None:
        self._http = httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False)

    def open(self) -> None:
        pass

    def close(self) -> None:
        pass

    def send(self, event: Any) -> None:
        self._http.post(
            "/events",
            content=event.to_json(),
            headers={"Content-Type": "application/json"},
        ).raise_for_status()

    def answers(self) -> bool:
        try:
            return self._http.get("/openapi.json").is_success
        except httpx.HTTPError:
            return False

    def stop(self) -> None:
        self._http.close()


@contextmanager
def all_variants(
    home: Path, directory: Path, node: NatsProcess, replicas: int
) -> Iterator[tuple[dict[str, StreamSupervisor], SidecarProcess]]:
    """Start every variant on one NATS, each with a stream of its own."""
    for name in ("ours", "thread", "raw", "naive"):
        create_stream(node, name, replicas)
    with ExitStack() as stack:
        sidecar = stack.enter_context(
            sidecar_process(directory / "sidecar", node, "ours")
        )
        sqlite, raw = SqliteBus(directory / "bus.sqlite"), RawBus(node.port, "raw")
        thread = InProcessNats(node.url, "thread")
        thread.open()
        naive = stack.enter_context(_naive(directory, node))
        for bus in (sqlite, raw, thread):
            stack.callback(bus.stop)
        variants: dict[str, StreamSupervisor] = {
            UNIX: OurBus(home, sidecar.url),
            TCP: OurBus(home, f"http://127.0.0.1:{sidecar.tcp_port}"),
            IN_PROCESS: thread,
            SQLITE: sqlite,
            RAW: raw,
            NAIVE: naive,
        }
        yield variants, sidecar


def sidecar_process(
    directory: Path, node: NatsProcess, stream: str, role: str = "both"
) -> SidecarProcess:
    """Give a sidecar as it runs in production, for a stream that is there."""
    return SidecarProcess(
        directory,
        nats_url=node.url,
        stream=stream,
        role=role,
        subject_prefix=stream,
        tcp_api="open",
        log_level="info",
    )


def create_stream(node: NatsProcess, name: str, replicas: int = 1) -> None:
    """Create a stream as provision does; on a cluster with its leader on this node."""
    with RawNatsClient(node.port) as operator:
        operator.create(name, num_replicas=replicas, allow_atomic=True)
    if replicas > 1:
        wait_until(lambda: _leads(node, name), 60, "leader moves")


def _leads(node: NatsProcess, stream: str) -> bool:
    """Move the leader, else some variants would pay for one hop more than others."""
    request = json.dumps({"placement": {"preferred": node.name}}).encode()
    try:
        with RawNatsClient(node.port) as operator:
            leader = operator.api(f"STREAM.INFO.{stream}")["cluster"].get("leader")
            if leader and leader != node.name:
                operator.ask(f"$JS.API.STREAM.LEADER.STEPDOWN.{stream}", request)
    except (OSError, AssertionError):
        return False  # between two leaders nobody answers
    if leader != node.name:
        time.sleep(_ELECTION_SECONDS)
    return bool(leader == node.name)


@contextmanager
def _naive(directory: Path, node: NatsProcess) -> Iterator[NaiveBus]:
    port = free_port()
    process = Process(
        [
            *(sys.executable, "-m", "uvicorn"),
            *("--app-dir", str(Path(__file__).parent)),
            *("--port", str(port), "naive_app:app"),
        ],
        directory / "naive.log",
        os.environ | {"NAIVE_NATS_URL": node.url, "NAIVE_STREAM": "naive"},
    )
    process.start()
    bus = NaiveBus(port)
    try:
        wait_until(bus.answers, what="the naive bridge answers")
        yield bus
    finally:
        bus.stop()
        process.stop()
