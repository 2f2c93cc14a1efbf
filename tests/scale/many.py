# SPDX-License-Identifier: Apache-2.0
"""What hermes-server's stand-in sends: a million objects; initsyncs, first and later.

And a stream as it is after ninety days, which is only filled.
"""

from __future__ import annotations

import time
from itertools import chain
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks.measure import memory_mb
from support.jetstream import wait_jetstream

from .bus import START_SECONDS, Bus, Sampler
from .campus import one_start
from .clients import Clients
from .population import Campus, initsync, night_events, night_of
from .stand_in import Producer, fill

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .campus import Lab
    from .population import StandInEvent

_SECONDS = 1_200.0
_QUIET_SECONDS = 3.0
_WARM_UP = 500
"""Changes: all parts are new, and a first initsync alone is not to pay for that."""


def measure_many(lab: Lab, directory: Path, nodes: int) -> dict[str, Any]:
    """Send an initsync of a million objects while some clients read."""
    sizes, campus = lab.sizes, Campus(lab.sizes.many_objects[nodes])
    with Bus(directory, nodes) as bus:
        bus.create()
        with bus.sidecars(sizes.sidecars) as (first, others):
            reading = Clients(lab.home, lab.python, others[: sizes.many_clients], 1)
            producer = Producer(lab.home, first)
            with reading, Sampler(bus, first) as sampler:
                with lab.progress.watch("initsync", campus.objects, lambda: bus.last):
                    seconds = producer.send(initsync(campus))
                assert bus.last == campus.objects + 2, bus.last
                lab.progress.say("clients read it")
                reading.wait("initialised", _SECONDS)
            lab.progress.say("a new client starts")
            start = one_start(lab, others[0])
            found = {
                "nodes": nodes,
                "objects": campus.objects,
                "sidecars": sizes.sidecars,
                "clients": reading.count,
                "seconds": seconds,
                "rate": (campus.objects + 2) / seconds,
                "one_start": start,
                "memory_mb": {
                    "nats-server": bus.memory_mb(),
                    "sidecar of hermes-server": memory_mb(first.running.pid, "VmHWM"),
                    "sidecar of clients": max(
                        memory_mb(each.running.pid, "VmHWM") for each in others
                    ),
                },
                "disk_mb": {"nats-server": bus.disk_mb},
                "bytes_an_event": bus.state()["bytes"] / bus.last,
                "samples": sampler.rows,
            }
        found["fresh_requests"] = _fresh_start(lab, bus)
        found["restart_seconds"] = _restart(lab, bus)
    return found


def measure_first(lab: Lab, directory: Path) -> dict[str, Any]:
    """Compare the first initsync of a stream with a later one, and peaks of memory."""
    sizes, found = lab.sizes, {}
    with Bus(directory, 1) as bus:
        for each in (0, 1):
            rounds = [
                _round(lab, bus, f"hermes{each}{number}", each)
                for number in range(sizes.rounds)
            ]
            found["with clients" if each else "alone"] = {
                "first": [first for first, _, _ in rounds],
                "later": [later for _, later, _ in rounds],
                "ratio": median(first / later for first, later, _ in rounds),
                "requests": median(requests for _, _, requests in rounds),
            }
    peaks = {
        count: _peak(lab, directory / f"peak{count}", count)
        for count in (0, sizes.sidecars)
    }
    return {
        "sidecars": sizes.sidecars,
        "objects": sizes.round_objects,
        "peak_objects": sizes.peak_objects,
        "peak_mb": [peaks[0], peaks[sizes.sidecars]],
        "peak_ratio": peaks[sizes.sidecars] / peaks[0],
        **found,
    }


def _round(lab: Lab, bus: Bus, stream: str, each: int) -> tuple[float, float, float]:
    """Give events/s of a first initsync and of a later one; requests in the first."""
    sizes, campus = lab.sizes, Campus(lab.sizes.round_objects)
    lab.progress.say(f"two initsyncs of {campus.objects:,}, {each} clients a sidecar")
    bus.create(stream)
    with bus.sidecars(sizes.sidecars, stream) as (first, others):
        producer = Producer(lab.home, first)
        producer.send(night_events(campus, night_of(_WARM_UP)))
        # A real hermes-server computes its events: here they are made before.
        events = list(initsync(campus))
        with Clients(lab.home, lab.python, others if each else [], each) as clients:
            before = bus.sent
            seconds = producer.send(events)
            requests = bus.sent.since(before).by_clients / seconds
            if each:
                clients.wait("initialised", _SECONDS)
            later_seconds = producer.send(events)
    rates = len(events) / seconds, len(events) / later_seconds
    return *rates, requests / sizes.sidecars


def _peak(lab: Lab, directory: Path, count: int) -> float:
    """Give nats-server's peak in an initsync, and when so many clients start then."""
    campus = Campus(lab.sizes.peak_objects)
    with Bus(directory, 1) as bus:
        bus.create()
        with bus.sidecars(count) as (first, others):
            text = f"initsync with {count} sidecars of clients"
            with lab.progress.watch(text, campus.objects, lambda: bus.last):
                Producer(lab.home, first).send(initsync(campus))
            lab.progress.say("their clients start, all at once")
            with Clients(lab.home, lab.python, others, 1) as clients:
                clients.wait("initialised", _SECONDS)
            return bus.memory_mb()


def measure_retention(lab: Lab, directory: Path) -> dict[str, Any]:
    """Fill a stream as ninety days would, and see what it takes to live with it."""
    sizes, campus = lab.sizes, Campus(lab.sizes.kept_objects)
    # What is on disk does not depend on when it is written there.
    with Bus(directory, 1, sync_always=False) as bus:
        bus.create()
        total = sizes.kept_initsyncs * (campus.objects + 2)
        total += sizes.kept_nights * sizes.night_changes
        with lab.progress.watch("ninety days", total, lambda: bus.last):
            fill(bus, _kept(lab, campus), total)
        assert bus.last == total, (bus.last, total)
        found = {
            "objects": campus.objects,
            "initsyncs": sizes.kept_initsyncs,
            "nights": sizes.kept_nights,
            "changes": sizes.night_changes,
            "events": total,
            "disk_mb": {"nats-server": bus.disk_mb},
            "bytes_an_event": bus.state()["bytes"] / total,
            "restart_seconds": _restart(lab, bus),
            "fresh_requests": _fresh_start(lab, bus),
        }
        with bus.sidecars(1) as (_, (sidecar,)):
            with sidecar.client() as http:
                stands = http.get("/v1/stream").json()["last_complete_initsync"]
            assert stands["objects"] == campus.objects, stands
            lab.progress.say("a new client starts")
            found["one_start"] = one_start(lab, sidecar)
            found["memory_mb"] = {
                "nats-server": bus.memory_mb(),
                "sidecar of clients": memory_mb(sidecar.running.pid, "VmHWM"),
            }
    return found


def _kept(lab: Lab, campus: Campus) -> Iterator[StandInEvent]:
    """Give initsyncs, and after each the nights until the next one."""
    sizes = lab.sizes
    nights = [list(night_events(campus, night_of(sizes.night_changes)))]
    done = 0
    for number in range(1, sizes.kept_initsyncs + 1):
        until = sizes.kept_nights * number // sizes.kept_initsyncs
        yield from chain(initsync(campus), *(nights * (until - done)))
        done = until


def _fresh_start(lab: Lab, bus: Bus) -> int:
    """Count what a sidecar of clients, the only one, asks of NATS when it starts."""
    lab.progress.say("a sidecar starts")
    sidecar = bus.sidecar("fresh", "consumer")
    with sidecar:
        time.sleep(_QUIET_SECONDS)
        return sum(bus.sent)


def _restart(lab: Lab, bus: Bus) -> float:
    """Kill nats-server and give the seconds until a change is stored again."""
    lab.progress.say("nats-server is killed and started again")
    with bus.sidecars(0) as (first, _):
        producer = Producer(lab.home, first)
        producer.probe()
        node = bus.nodes[0]
        began = time.monotonic()
        node.kill()
        node.start()
        producer.probe()
        seconds = time.monotonic() - began
        wait_jetstream(node.port, START_SECONDS)
        return seconds
