# SPDX-License-Identifier: Apache-2.0
"""What grows with the stream, with publishes, with readers; and how long a start takes.

A reader waits idle, for a category that nobody writes, or follows: it reads what was
stored as soon as the sidecar sees it, which is some events at a time.
"""

from __future__ import annotations

import socket
import time
from array import array
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .measure import Spread, memory_mb, spread, time_sends
from .readers import NOBODY_WRITES, Readers, waiting_readers
from .scale import READERS, SIZES, Scale
from .variants import OurBus, create_stream, sidecar_process
from .world import event_of, fill_stream, nats_servers

if TYPE_CHECKING:
    from pathlib import Path

    from support.nats import NatsProcess
    from support.sidecar import SidecarProcess

ALONE, IDLE, FOLLOWING = (
    "no reader",
    f"{READERS} idle readers",
    f"{READERS} readers following",
)
READING = {ALONE: (0, ""), IDLE: (READERS, NOBODY_WRITES), FOLLOWING: (READERS, "")}
TURNS = {ALONE: 10, IDLE: 1, FOLLOWING: 1}
"""Of each stream in one round. These machines change their speed by a third every few
seconds, and a turn without readers is over before that."""

_MARKS = 20


@dataclass(frozen=True)
class Growth:
    """Microseconds by events in the stream and by readers; MB by events."""

    latencies: dict[int, dict[str, Spread]]
    memory_mb: dict[int, float]
    first_event_ms: Spread


def measure_growth(
    home: Path, readers: Readers, directory: Path, scale: Scale
) -> Growth:
    """Compare sidecars on streams of different lengths, all on one server, in turn."""
    event = event_of(SIZES[0])
    body = event.to_json().encode()
    with nats_servers(directory / "nats") as node, ExitStack() as stack:
        sidecars: dict[int, SidecarProcess] = {}
        for count in scale.growth_events:
            stream = f"events{count}"
            create_stream(node, stream)
            fill_stream(node, stream, body, count)
            sidecars[count] = stack.enter_context(
                sidecar_process(directory / stream, node, stream)
            )
        longest = sidecars[max(sidecars)]
        first_ms = readers.ours("first", longest.url, scale.starts)
        series = {
            count: {reading: array("d") for reading in READING} for count in sidecars
        }
        for _ in range(scale.growth_rounds):
            for reading, turns in TURNS.items():
                for count in [*sidecars] * turns:
                    sends = series[count][reading]
                    _turn(home, sidecars[count], reading, scale.sends, sends)
        return Growth(
            {
                count: {
                    reading: spread(each, scale.sends * TURNS[reading])
                    for reading, each in by_reading.items()
                }
                for count, by_reading in series.items()
            },
            {
                count: memory_mb(sidecar.running.pid, "VmHWM")
                for count, sidecar in sidecars.items()
            },
            spread(first_ms),
        )


def _turn(
    home: Path, sidecar: SidecarProcess, reading: str, sends: int, series: array[float]
) -> None:
    count, query = READING[reading]
    bus = OurBus(home, sidecar.url)
    with waiting_readers(sidecar.socket, count, query):
        bus.open()
        time_sends(bus.send, event_of(SIZES[0]), sends, series)
        bus.close()


def measure_publishes(
    home: Path, directory: Path, scale: Scale
) -> list[tuple[int, float]]:
    """Give the sidecar's memory as the publishes through it grow in number."""
    event = event_of(SIZES[0])
    marks = []
    with nats_servers(directory / "nats") as node:
        create_stream(node, "publishes")
        with sidecar_process(directory / "sidecar", node, "publishes") as sidecar:
            bus = OurBus(home, sidecar.url)
            bus.open()
            for number in range(scale.publishes + 1):
                if number % (scale.publishes // _MARKS) == 0:
                    marks.append((number, memory_mb(sidecar.running.pid)))
                bus.send(event)
            bus.close()
    return marks


def measure_starts(directory: Path, scale: Scale) -> Spread:
    """Give the seconds from the start of the process to its first ready answer."""
    with nats_servers(directory / "nats") as node:
        create_stream(node, "starts")
        return spread(
            [_start(directory / "sidecar", node) for _ in range(scale.starts)]
        )


def _start(directory: Path, node: NatsProcess) -> float:
    sidecar = sidecar_process(directory, node, "starts")
    began = time.monotonic()
    sidecar.start()
    try:
        while not _is_ready(sidecar.socket):
            assert sidecar.is_alive, sidecar.output()[-3000:]
            time.sleep(0.005)
        return time.monotonic() - began
    finally:
        sidecar.stop()


def _is_ready(path: Path) -> bool:
    request = b"GET /health/ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(str(path))
            connection.sendall(request)
            return b" 200 " in connection.recv(4096).split(b"\r\n", 1)[0]
        except OSError:
            return False
