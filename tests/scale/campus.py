# SPDX-License-Identifier: Apache-2.0
"""A campus with a real hermes-server: its first initsync, a night, each part's share.

All hermes-clients wait for the first initsync, so they scan the stream while it grows.
"""

from __future__ import annotations

import subprocess
import time
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks.measure import cpu_seconds, memory_mb
from support.hermes_programs import HermesProgram
from support.process import wait_until

from . import population
from .bus import Bus, Sampler, Sent, size_mb
from .clients import Clients
from .population import Campus, night_of
from .stand_in import Producer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from support.process import Process
    from support.sidecar import SidecarProcess

    from .progress import Progress
    from .sizes import Sizes

_SECONDS = 1_200.0


@dataclass(frozen=True)
class Lab:
    """What every part of a run is given."""

    home: Path
    """A Hermes with our plugins, or the stand-in."""
    python: Path
    sizes: Sizes
    progress: Progress


class Server(HermesProgram):
    """A hermes-server that reads the campus when it is told to."""

    def __init__(self, lab: Lab, directory: Path, source: Path, url: str) -> None:
        super().__init__(lab.home, lab.python, directory, "server")
        plugins = {
            "messagebus": {"nats_sidecar": {"settings": {"url": url}}},
            "datasources": {
                "campus": {"type": "sqlite", "settings": {"uri": str(source)}}
            },
        }
        own = {"updateInterval": 86_400, "datamodel": population.datamodel()}
        self.configure(plugins, {"hermes-server": own}, verbosity="warning")

    def is_told(self, command: str) -> bool:
        """Give a command; False while it does not listen yet."""
        try:
            self.ask(command)
        except subprocess.SubprocessError:
            return False
        return True


@dataclass(frozen=True)
class _World:
    """A campus that runs."""

    lab: Lab
    bus: Bus
    first: SidecarProcess
    others: list[SidecarProcess]
    server: Server
    clients: Clients
    sampler: Sampler

    @property
    def parts(self) -> dict[str, Process]:
        return {
            "nats-server": self.bus.nodes[0],
            "sidecar of hermes-server": self.first,
            "sidecar of clients": self.others[0],
        }


def measure(lab: Lab, directory: Path, nodes: int) -> dict[str, Any]:
    sizes, campus = lab.sizes, Campus(lab.sizes.campus_objects[nodes])
    source = directory / "campus.sqlite"
    population.write_database(source, campus)
    bus = Bus(directory, nodes)
    with bus:
        bus.create()
        with bus.sidecars(sizes.sidecars) as (first, others):
            clients = Clients(lab.home, lab.python, others, sizes.clients)
            server = Server(lab, directory / "hermes", source, first.url)
            with clients, server, Sampler(bus, first) as sampler:
                world = _World(lab, bus, first, others, server, clients, sampler)
                return _measure(world, campus, source)


def _measure(world: _World, campus: Campus, source: Path) -> dict[str, Any]:
    sizes, server, say = world.lab.sizes, world.server, world.lab.progress.say
    say(f"hermes-server reads {campus.objects:,} objects")
    began = time.monotonic()
    server.wait_fetched(_SECONDS)
    fetch_seconds = time.monotonic() - began
    night = night_of(sizes.night_changes)
    found: dict[str, Any] = {
        "nodes": len(world.bus.nodes),
        "objects": campus.objects,
        "users": campus.users,
        "groups": campus.groups,
        "members": campus.members,
        "sidecars": sizes.sidecars,
        "clients": world.clients.count,
        "fetch_seconds": fetch_seconds,
        "idle_before": _idle(world),
        "initsync": _pass(world, "initsync", "initsync", campus.objects + 2),
    }
    say("clients read it")
    rows = world.clients.wait("initialised", _SECONDS)
    stored_at = found["initsync"].pop("ended_at")
    read_at = max(row["at"] for row in rows)
    found["initsync"]["clients_seconds"] = read_at - stored_at
    found["all_start"] = _start(rows)
    found["idle"] = _idle(world)
    population.change_database(source, campus, night)
    found["night"] = _pass(world, "night", "update", night.events)
    say("clients read it")
    at = world.clients.wait_at(world.bus.last, _SECONDS)
    # What the monitor shows is some hundredths of a second old.
    found["night"]["clients_seconds"] = max(0.0, at - found["night"].pop("ended_at"))
    say("a new client starts")
    found["one_start"] = one_start(world.lab, world.others[0])
    found["memory_mb"] = _memory(world)
    found["disk_mb"] = {
        "nats-server": world.bus.disk_mb,
        "hermes-server's cache": size_mb(server.directory / "cache"),
    }
    found["bytes_an_event"] = world.bus.state()["bytes"] / world.bus.last
    found["recovery"] = _recovery(world, source)
    found["failures"] = world.clients.failures
    found["samples"], found["marks"] = world.sampler.rows, world.sampler.marks
    return found


def one_start(lab: Lab, sidecar: SidecarProcess) -> dict[str, Any]:
    """Let one new client start, and give how long its scan and its reading took."""
    with Clients(lab.home, lab.python, [sidecar], 1) as client:
        return _start(client.wait("initialised", _SECONDS))


def _start(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "scan_seconds": median(row["scan_seconds"] for row in rows),
        "read_seconds": median(row["read_seconds"] for row in rows),
        "scanned": median(row["scanned"] for row in rows),
        "read": median(row["read"] for row in rows),
    }


def _idle(world: _World) -> dict[str, Any]:
    """Nothing is sent: NATS requests of a sidecar, and shares of a core."""
    seconds = world.lab.sizes.idle_seconds
    world.lab.progress.say(f"nothing happens for {seconds:.0f} s")
    pids = {name: part.running.pid for name, part in world.parts.items()}
    before = {name: cpu_seconds(pid) for name, pid in pids.items()}
    before_sent = world.bus.sent
    time.sleep(seconds)
    return {
        "requests": _requests(world, before_sent, seconds, 0),
        "percent": {
            name: (cpu_seconds(pid) - before[name]) / seconds * 100
            for name, pid in pids.items()
        },
    }


def _pass(world: _World, name: str, command: str, events: int) -> dict[str, Any]:
    """Tell hermes-server to send; give what that took until all is stored."""
    bus = world.bus
    before, before_sent = bus.last, bus.sent
    world.sampler.mark(name)
    told_at = time.monotonic()
    with world.lab.progress.watch(name, events, lambda: bus.last - before):
        world.server.ask(command)
        bus.wait_last(before + 1, _SECONDS, f"{name} begins")
        began_at = time.monotonic()
        bus.wait_last(before + events, _SECONDS, f"{name} ends")
        ended_at = time.monotonic()
    assert bus.last == before + events, (before, events, bus.last)
    seconds = ended_at - began_at
    return {
        "events": events,
        "prepare_seconds": began_at - told_at,
        "seconds": seconds,
        "rate": events / seconds,
        "requests": _requests(world, before_sent, ended_at - told_at, events),
        "ended_at": ended_at,
    }


def _requests(
    world: _World, before: Sent, seconds: float, events: int
) -> dict[str, float]:
    """Give what a sidecar sends to NATS each second besides events."""
    sent = world.bus.sent.since(before)
    return {
        "sidecar of hermes-server": (sent.by_server - events) / seconds,
        "sidecar of clients": sent.by_clients / seconds / len(world.others),
    }


def _memory(world: _World) -> dict[str, float]:
    sidecars = [memory_mb(each.running.pid, "VmHWM") for each in world.others]
    return {
        "nats-server": world.bus.memory_mb(),
        "sidecar of hermes-server": memory_mb(world.first.running.pid, "VmHWM"),
        "sidecar of clients": max(sidecars),
        "hermes-server": memory_mb(world.server.running.pid, "VmHWM"),
        "consumer plugin": world.clients.peak_mb,
    }


def _recovery(world: _World, source: Path) -> dict[str, list[float]]:
    """Kill each part and start it at once: seconds until a change is stored, and read.

    The producer plugin sends the change, again and again until it is stored.
    """
    producer = Producer(world.lab.home, world.first)
    found = {}
    for name, part in world.parts.items():
        found[name] = _recovered(world, name, part, producer.probe)
    found["hermes-server"] = _recovered(
        world, "hermes-server", world.server, _changes(world, source).__next__
    )
    return found


def _changes(world: _World, source: Path) -> Iterator[int]:
    """Give, each time, the offset of a change that hermes-server was told to find."""
    while True:
        before = world.bus.last
        population.rename_a_user(source, f"Récent-{before}")
        wait_until(lambda: world.server.is_told("update"), _SECONDS, "hermes-server")
        world.bus.wait_last(before + 1, _SECONDS, "a change of hermes-server")
        yield before + 1


def _recovered(
    world: _World, name: str, part: Process, probe: Callable[[], int]
) -> list[float]:
    world.lab.progress.say(f"{name} is killed and started again")
    world.sampler.mark(f"kill {name}")
    killed_at = time.monotonic()
    part.kill()
    part.start()
    offset = probe()
    stored_at = time.monotonic()
    read_at = world.clients.wait_at(offset, _SECONDS)
    return [stored_at - killed_at, max(read_at, stored_at) - killed_at]
