# SPDX-License-Identifier: Apache-2.0
"""Clients beside Hermes: what they cost the sender, the sidecar and NATS."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from array import array
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from support.jetstream import wait_jetstream
from support.nats import NatsProcess, free_port

from .measure import Spread, cpu_seconds, spread
from .scale import SIZES, Scale
from .variants import OurBus, create_stream, sidecar_process
from .world import event_of, fill_stream

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.sidecar import SidecarProcess

    from .readers import Readers

MANY, FEW = 300, 10
EVENTS_A_SECOND = 10
FULL_SPEED = 10_000
_STORED = 150_000
_WINDOW_SECONDS = 2.0
_WAITING_SECONDS = 6.0
_SETTLE_SECONDS = 1.2
"""After the last event is stored: the sidecar makes room for Hermes as long."""


@dataclass
class Window:
    """What a sender did in one window of time; times in milliseconds."""

    rate: float
    send: Spread


@dataclass
class CatchingUp:
    """One client that reads what is old: events/s beside the sender, and alone."""

    quiet: list[Window] = field(default_factory=list)
    beside: list[Window] = field(default_factory=list)
    client_beside: list[float] = field(default_factory=list)
    client_alone: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Waiting:
    """Many clients, ten events a second; milliseconds from the POST to each of them."""

    percent: float
    """Of a core, the sidecar's."""
    delay: Spread
    nats_idle: float
    """Messages a second that NATS gets, events included."""
    nats_busy: float


@dataclass(frozen=True)
class Beside:
    """All of it."""

    catching_up: CatchingUp
    waiting: Waiting
    following: list[tuple[Window, Window]]
    """Quiet, and beside ten who follow at full speed."""
    nats_percent: float
    """Of a core, nats-server's, with idle sidecars, each with a client."""
    sidecars: int


class _Sender:
    """A hermes-server's way to send, whose passes hold no more than one window."""

    def __init__(self, home: Path, url: str) -> None:
        self.bus = OurBus(home, url)
        self.event = event_of(SIZES[0])
        self.sent: dict[int, float] = {}

    def send(self, seconds: float, events_a_second: float = FULL_SPEED) -> Window:
        self.sent.clear()
        series = array("d")
        self.bus.open()
        began = time.monotonic()
        while (now := time.monotonic()) - began < seconds:
            due = began + len(series) / events_a_second
            if due > now:
                time.sleep(due - now)
            asked = time.monotonic()
            self.sent[self.bus.plugin._send(self.event)] = asked
            series.append((time.monotonic() - asked) * 1e3)
        taken = time.monotonic() - began
        self.bus.close()
        return Window(len(series) / taken, spread(series))

    @property
    def last(self) -> int:
        return max(self.sent)


def measure_beside(
    home: Path, readers: Readers, directory: Path, scale: Scale
) -> Beside:
    monitor = free_port()
    extra = f"http: 127.0.0.1:{monitor}"
    with NatsProcess(directory / "nats", extra=extra) as node:
        wait_jetstream(node.port)
        create_stream(node, "old")
        create_stream(node, "live")
        fill_stream(node, "old", event_of(SIZES[0]).to_json().encode(), _STORED)
        with sidecar_process(directory / "old", node, "old") as sidecar:
            catching_up = _catching_up(home, readers, sidecar, scale.beside_rounds)
        with sidecar_process(directory / "live", node, "live") as sidecar:
            sender = _Sender(home, sidecar.url)
            sender.send(0.5)
            waiting = _waiting(sender, sidecar, monitor)
            following = [
                _following(sender, sidecar) for _ in range(scale.beside_rounds)
            ]
        nats_percent = _idle_sidecars(directory / "idle", node, scale)
    return Beside(catching_up, waiting, following, nats_percent, scale.sidecars)


def _catching_up(
    home: Path, readers: Readers, sidecar: SidecarProcess, rounds: int
) -> CatchingUp:
    found, sender = CatchingUp(), _Sender(home, sidecar.url)
    for _ in range(rounds):
        found.quiet.append(sender.send(_WINDOW_SECONDS))
        with readers.catching_up(sidecar.url):
            before = _read(sidecar)
            window = sender.send(_WINDOW_SECONDS)
            found.beside.append(window)
            found.client_beside.append((_read(sidecar) - before) / _WINDOW_SECONDS)
        time.sleep(_SETTLE_SECONDS)
        with readers.catching_up(sidecar.url):
            before = _read(sidecar)
            time.sleep(_WINDOW_SECONDS / 2)
            alone = (_read(sidecar) - before) / (_WINDOW_SECONDS / 2)
            found.client_alone.append(alone)
    return found


def _read(sidecar: SidecarProcess) -> float:
    """Give how many events readers were sent."""
    with sidecar.client() as http:
        text = http.get("/metrics").text
    name = "\nhermes_sidecar_events_read_total "
    return float(text.partition(name)[2].partition("\n")[0])


@contextmanager
def following(
    sidecar: SidecarProcess, count: int, offset: int
) -> Iterator[list[tuple[int, float]]]:
    """Let so many clients follow from an offset on; at the end, what came when."""
    seen: list[tuple[int, float]] = []
    here = Path(__file__).parent / "following_process.py"
    command: list[Any] = [sys.executable, here, sidecar.socket, str(count), str(offset)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        yield seen
        process.stdin.close()
        seen.extend(map(tuple, json.loads(process.stdout.read())))


def _waiting(sender: _Sender, sidecar: SidecarProcess, monitor: int) -> Waiting:
    pid = sidecar.running.pid
    with following(sidecar, MANY, sender.last + 1) as seen:
        time.sleep(1)
        marks = [(time.monotonic(), _messages(monitor), cpu_seconds(pid))]
        time.sleep(_WAITING_SECONDS / 2)
        marks.append((time.monotonic(), _messages(monitor), cpu_seconds(pid)))
        sender.send(_WAITING_SECONDS, EVENTS_A_SECOND)
        marks.append((time.monotonic(), _messages(monitor), cpu_seconds(pid)))
        time.sleep(0.5)
    delays = [(at - sender.sent[offset]) * 1e3 for offset, at in seen]
    assert len(delays) == MANY * len(sender.sent), len(delays)
    (_, idle, _), (began, busy, used), (ended, end, used_then) = marks
    seconds = ended - began
    return Waiting(
        percent=(used_then - used) / seconds * 100,
        delay=spread(delays),
        nats_idle=(busy - idle) / (_WAITING_SECONDS / 2),
        nats_busy=(end - busy) / seconds,
    )


def _following(sender: _Sender, sidecar: SidecarProcess) -> tuple[Window, Window]:
    quiet = sender.send(_WINDOW_SECONDS)
    with following(sidecar, FEW, sender.last + 1) as seen:
        beside = sender.send(_WINDOW_SECONDS)
        time.sleep(0.5)
    assert len(seen) == FEW * len(sender.sent), len(seen)
    return quiet, beside


def _idle_sidecars(directory: Path, node: NatsProcess, scale: Scale) -> float:
    """Give the share of a core that many sidecars with a waiting client cost NATS."""
    pid = node.running.pid
    with ExitStack() as stack:
        for number in range(scale.sidecars):
            place = directory / str(number)
            sidecar = stack.enter_context(
                sidecar_process(place, node, "live", "consumer")
            )
            with sidecar.client() as http:
                offset = http.get("/v1/stream").json()["next_offset"]
            stack.enter_context(following(sidecar, 1, offset))
        time.sleep(2)
        before = cpu_seconds(pid)
        time.sleep(scale.idle_seconds)
        return (cpu_seconds(pid) - before) / scale.idle_seconds * 100


def _messages(monitor: int) -> int:
    url = f"http://127.0.0.1:{monitor}/varz"
    with urllib.request.urlopen(url) as response:
        return int(json.load(response)["in_msgs"])
