# SPDX-License-Identifier: Apache-2.0
"""The bus as a campus has it: NATS, sync always, sidecars, and what they cost."""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Self

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
            for each in (first, *others):
                each.start()
                stack.callback(each.stop)
            for each in (first, *others):
                each.wait_ready(START_SECONDS)
            yield first, others

    @property
    def last(self) -> int:
        """The stream's last offset, by the monitor: no client asks for it."""
        return int(self.state()["last_seq"])

    def state(self, stream: str = STREAM) -> dict[str, Any]:
        document = self._monitored("/jsz?accounts=true&streams=true")[0]
        for account in document.get("account_details", ()):
            for detail in account.get("stream_detail", ()):
                if detail["name"] == stream:
                    return dict(detail["state"])
        return {"last_seq": 0, "bytes": 0}

    @property
    def messages(self) -> int:
        """What its present clients, that is the sidecars, have sent to NATS."""
        return sum(
            connection["in_msgs"]
            for document in self._monitored("/connz?limit=10000")
            for connection in document["connections"]
        )

    def _monitored(self, path: str) -> list[dict[str, Any]]:
        """Ask each node that answers."""
        found = []
        for port in self._monitors:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}") as answer:
                    found.append(json.load(answer))
            except OSError:
                continue
        return found or [{"connections": ()}]

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
        while not self._is_over.wait(1):
            self.rows.append(
                [
                    round(time.monotonic() - self._began, 1),
                    self._bus.last,
                    self._bus.messages,
                    round(self._bus.memory_mb("VmRSS"), 1),
                    round(memory_mb(self._sidecar.running.pid), 1),
                ]
            )
