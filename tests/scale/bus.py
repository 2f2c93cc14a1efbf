# SPDX-License-Identifier: Apache-2.0
"""The bus as a campus has it: NATS, sync always, sidecars, and what they cost."""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from benchmarks.measure import memory_mb
from benchmarks.variants import create_stream
from support.jetstream import wait_jetstream
from support.nats import NatsCluster, NatsProcess, free_port
from support.process import wait_until
from support.sidecar import SidecarProcess

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

STREAM = "hermes"
START_SECONDS = 120.0


class Sent(NamedTuple):
    """Messages to NATS, requests and events, by the sidecars of either kind."""

    by_server: int
    by_clients: int

    def since(self, before: Sent) -> Sent:
        return Sent(
            self.by_server - before.by_server, self.by_clients - before.by_clients
        )


class Bus:
    """One nats-server or three, with a monitor each, and one stream."""

    def __init__(
        self, directory: Path, nodes: int, *, sync_always: bool = True
    ) -> None:
        self.directory = directory
        jetstream = "sync_interval: always" if sync_always else ""
        self._servers: NatsProcess | NatsCluster
        if nodes == 1:
            self._servers = NatsProcess(directory / "nats", jetstream=jetstream)
            self.nodes = [self._servers]
        else:
            self._servers = NatsCluster(directory / "nats", jetstream=jetstream)
            self.nodes = self._servers.nodes
        self._of_server: set[tuple[int, int]] = set()
        self._monitors = []
        for node in self.nodes:
            self._monitors.append(port := free_port())
            node.extra += f"\nhttp: 127.0.0.1:{port}"

    def __enter__(self) -> Self:
        self._servers.__enter__()
        for node in self.nodes:
            wait_jetstream(node.port)
        return self

    def __exit__(self, *_: object) -> None:
        self._servers.__exit__()

    def create(self, stream: str = STREAM) -> None:
        create_stream(self.nodes[0], stream, len(self.nodes))

    def sidecar(self, name: str, role: str, stream: str = STREAM) -> SidecarProcess:
        """Give a sidecar as it runs in production, not started yet."""
        return SidecarProcess(
            self.directory / name,
            nats_url=",".join(node.url for node in self.nodes),
            stream=stream,
            subject_prefix=stream,
            role=role,
            log_level="info",
        )

    @contextmanager
    def sidecars(
        self, count: int, stream: str = STREAM
    ) -> Iterator[tuple[SidecarProcess, list[SidecarProcess]]]:
        """Run that of hermes-server, and so many of clients."""
        first = self.sidecar(f"{stream}-server", "producer", stream)
        others = [
            self.sidecar(f"{stream}-clients{number}", "consumer", stream)
            for number in range(count)
        ]
        with ExitStack() as stack:
            stack.enter_context(first)
            self._of_server = {place for place, _ in self._sent()}
            for each in others:
                each.start()
                stack.callback(each.stop)
            for each in others:
                each.wait_ready(START_SECONDS)
            yield first, others

    @property
    def last(self) -> int:
        """The stream's last offset, by the monitor: no client asks for it."""
        return int(self.state()["last_seq"])

    def state(self, stream: str = STREAM) -> dict[str, Any]:
        """Give the state of the replica that has most."""
        states = [
            dict(detail["state"])
            for document in self._monitored("/jsz?accounts=true&streams=true")
            for account in document.get("account_details", ())
            for detail in account.get("stream_detail", ())
            if detail["name"] == stream
        ]
        return max(
            states,
            key=lambda state: int(state["last_seq"]),
            default={"last_seq": 0, "bytes": 0},
        )

    @property
    def sent(self) -> Sent:
        """Count what the sidecars that are connected now have sent to NATS."""
        by_server = by_clients = 0
        for place, count in self._sent():
            if place in self._of_server:
                by_server += count
            else:
                by_clients += count
        return Sent(by_server, by_clients)

    def _sent(self) -> list[tuple[tuple[int, int], int]]:
        """Give the connections, each by node and number, and their messages."""
        return [
            ((number, connection["cid"]), connection["in_msgs"])
            for number, document in enumerate(self._monitored("/connz?limit=10000"))
            for connection in document.get("connections", ())
        ]

    def _monitored(self, path: str) -> list[dict[str, Any]]:
        """Ask each node; one that is down says nothing."""
        found = []
        for port in self._monitors:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}") as answer:
                    found.append(json.load(answer))
            except OSError:
                found.append({})
        return found

    def memory_mb(self, field: str = "VmHWM") -> float:
        """Give the memory of the node that has most."""
        return max(memory_mb(node.running.pid, field) for node in self.nodes)

    @property
    def disk_mb(self) -> float:
        """What the node that has most has on disk."""
        return max(size_mb(node.directory / "data") for node in self.nodes)

    def wait_last(self, offset: int, seconds: float, what: str) -> None:
        wait_until(lambda: self.last >= offset, seconds, what, pause_seconds=0.05)


def size_mb(directory: Path) -> float:
    """Give what files take of a disk; one that goes meanwhile takes nothing."""
    total = 0
    for file in directory.rglob("*"):
        try:
            total += file.lstat().st_blocks * 512
        except FileNotFoundError:
            continue
    return total / 1e6


class Sampler:
    """Looks at the bus each second, in a thread: what the pictures are drawn from."""

    def __init__(self, bus: Bus, sidecar: SidecarProcess) -> None:
        self._bus = bus
        self._sidecar = sidecar
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._began = time.monotonic()
        self.rows: list[list[float]] = []
        """Seconds, events stored, messages to NATS, MB of nats-server and sidecar."""
        self.marks: list[tuple[float, str]] = []

    def mark(self, name: str) -> None:
        self.marks.append((round(time.monotonic() - self._began, 1), name))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _run(self) -> None:
        last = 0
        while not self._is_over.wait(1):
            last = max(last, self._bus.last)  # nobody says it while all are down
            self.rows.append(
                [
                    round(time.monotonic() - self._began, 1),
                    last,
                    sum(self._bus.sent),
                    round(self._bus.memory_mb("VmRSS"), 1),
                    round(memory_mb(self._sidecar.running.pid), 1),
                ]
            )
