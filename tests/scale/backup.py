# SPDX-License-Identifier: Apache-2.0
"""A backup of a stream, and its restore on another nats-server, as `nats` does them."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Any

from support.jetstream import RawNatsClient, wait_jetstream

from .bus import STREAM, Bus
from .population import USERS, make_event
from .stand_in import fill

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.nats import NatsProcess

    from .campus import Lab
    from .population import StandInEvent

_SECONDS = 600.0
_NOTE_BYTES = 135
"""In hex, which does not compress: an event of 0.5 KB."""


def measure_backup(lab: Lab, directory: Path) -> dict[str, Any]:
    """Fill a stream, back it up into a file, restore it elsewhere, and read it."""
    total = lab.sizes.backup_events
    file = directory / "backup"
    # What is on disk does not depend on when it is written there.
    with Bus(directory / "old", 1, sync_always=False) as old:
        old.create()
        with lab.progress.watch("events to back up", total, lambda: old.last):
            fill(old, _events(total), total)
        lab.progress.say("backup")
        before_mb, began = old.memory_mb("VmRSS"), time.monotonic()
        with RawNatsClient(old.nodes[0].port, seconds=_SECONDS) as operator:
            config, state, chunks = operator.backup(STREAM)
        file.write_bytes(b"".join(chunks))
        found = {
            "events": total,
            "bytes_an_event": old.state()["bytes"] / total,
            "disk_mb": {"nats-server": old.disk_mb},
            "backup_seconds": time.monotonic() - began,
            "backup_mb": file.stat().st_size / 1e6,
            "backup_more_mb": old.memory_mb() - before_mb,
        }
        whole = old.state()
    # With sync_interval: always nats-server 2.15 syncs each restored event.
    with Bus(directory / "new", 1, sync_always=False) as new:
        lab.progress.say("restore")
        before_mb, began = new.memory_mb("VmRSS"), time.monotonic()
        with RawNatsClient(new.nodes[0].port, seconds=_SECONDS) as operator:
            operator.restore(STREAM, config, state, chunks)
            found["restore_seconds"] = time.monotonic() - began
            stands = operator.state(STREAM)
        found["restore_more_mb"] = new.memory_mb() - before_mb
        for name in ("messages", "bytes", "first_seq", "last_seq"):
            assert stands[name] == whole[name], (name, stands, whole)
        found["restart_seconds"] = _restart(new.nodes[0])
        lab.progress.say("a sidecar starts, and a client reads")
        found |= _read(new, total)
    return found


def _events(count: int) -> Iterator[StandInEvent]:
    """Give changes of users, the same ones each time."""
    rng = random.Random(1)  # noqa: S311 - no secret
    for number in range(1, count + 1):
        changed = {"added": {}, "modified": {"note": rng.randbytes(_NOTE_BYTES).hex()}}
        attributes = changed | {"removed": {}}
        yield make_event("base", "modified", USERS, number, attributes)


def _restart(node: NatsProcess) -> float:
    """Stop the server, and start it as it is to run."""
    node.stop()
    node.jetstream = "sync_interval: always"
    began = time.monotonic()
    node.start()
    wait_jetstream(node.port, _SECONDS)
    return time.monotonic() - began


def _read(bus: Bus, total: int) -> dict[str, float]:
    """Give the seconds from a sidecar's start to the first page, and to the last."""
    sidecar = bus.sidecar("reader", "consumer")
    began = time.monotonic()
    with sidecar, sidecar.client(_SECONDS) as http:
        count, read_at = 0, []
        query: dict[str, Any] = {"offset": "first", "limit": 5000}
        while page := http.get("/v1/events", params=query).json()["events"]:
            read_at.append(time.monotonic() - began)
            count += len(page)
            query["offset"] = page[-1]["offset"] + 1
        assert count == total, count
        return {"first_page_seconds": read_at[0], "read_seconds": read_at[-1]}
