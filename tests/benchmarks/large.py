# SPDX-License-Identifier: Apache-2.0
"""One large initsync of a real hermes-server: how fast, and what each part holds."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .initsync import Server, fill_campus, install_bench, plugin_settings
from .measure import memory_mb
from .variants import create_stream, sidecar_process
from .world import nats_servers

if TYPE_CHECKING:
    from pathlib import Path

    from support.sidecar import SidecarProcess

_PARTS = ("hermes-server", "sidecar", "nats-server")
_MARKS = 8


@dataclass(frozen=True)
class Large:
    """Events a second of so many users; what each part held at marks, in MB."""

    users: int
    rate: float
    memory_mb: dict[str, list[float]]
    lookup_seconds: float
    """From the start of another sidecar until it knows where the initsync stands."""


def measure_large(home: Path, python: Path, directory: Path, users: int) -> Large:
    install_bench(home)
    campus = directory / "campus.sqlite"
    fill_campus(campus, users)
    with nats_servers(directory / "nats", sync_always=True) as node:
        create_stream(node, "large")
        with sidecar_process(directory / "sidecar", node, "large") as sidecar:
            server = Server(home, python, directory / "hermes")
            inner = plugin_settings(home, "messagebus_producers", sidecar.url)
            server.configure_bench(campus, {"kind": "nats_sidecar", "inner": inner})
            with server:
                server.wait_fetched(600)
                pids = [each.running.pid for each in (server, sidecar, node)]
                marks: dict[str, list[float]] = {part: [] for part in _PARTS}
                over = threading.Event()
                watch = threading.Thread(target=_watch, args=(pids, marks, over))
                watch.start()
                rate = server.initsync()
                over.set()
                watch.join()
        began = time.monotonic()
        with sidecar_process(directory / "another", node, "large") as another:
            while not _is_known(another, users):
                time.sleep(0.01)
            lookup_seconds = time.monotonic() - began
    return Large(
        users, rate, {name: _few(all_) for name, all_ in marks.items()}, lookup_seconds
    )


def _watch(
    pids: list[int], marks: dict[str, list[float]], over: threading.Event
) -> None:
    while not over.wait(1):
        for pid, series in zip(pids, marks.values(), strict=True):
            series.append(memory_mb(pid))


def _few(series: list[float]) -> list[float]:
    """Keep some of them, at even distances, with the last."""
    step = max(1, -(-len(series) // _MARKS))
    return series[::-step][::-1]


def _is_known(sidecar: SidecarProcess, users: int) -> bool:
    with sidecar.client() as http:
        found = http.get("/v1/stream").json()["last_complete_initsync"]
    return bool(found) and found["objects"] == users
