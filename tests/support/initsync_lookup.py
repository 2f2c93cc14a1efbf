# SPDX-License-Identifier: Apache-2.0
"""The retention guard on a stream that holds initsyncs, and what a scan finds there."""

from __future__ import annotations

import json
import uuid
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from sidecar.jetstream.callbacks import await_callback
from sidecar.jetstream.credentials import NatsServer
from sidecar.jetstream.supervisor import StreamSupervisor
from sidecar.model.event import parse_event
from sidecar.model.stream import StreamPlan
from sidecar.services.daemon import Daemon
from sidecar.services.initsync_lookup import RetentionGuard
from sidecar.settings import Settings

from .initsyncs import KINDS
from .jetstream import RawNatsClient
from .sidecar import event
from .tasks import running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sidecar.errors import Problem
    from sidecar.model.decisions import Stored
    from sidecar.model.initsync import Verdict
    from sidecar.model.scan import Scan

    from .nats import NatsProcess


def fill(nats: NatsProcess, stream: str, letters: str, scan: Scan | None) -> None:
    """Store what `KINDS` says; with what a sidecar writes, if there is a scan."""
    with RawNatsClient(nats.port) as operator:
        offset = operator.state(stream)["last_seq"] + 1
        for letter in letters:
            category, kind = KINDS[letter]
            headers = {"Hermes-Event-Type": kind} if kind else {}
            if category == "initsync" and scan is not None:
                scan = scan.after(offset, kind)
                headers["Hermes-Initsync"] = scan.header or ""
            operator.publish(f"{stream}.{category}", b"{}", headers)
            offset += 1


@asynccontextmanager
async def running_bus(
    nats: NatsProcess, stream: str
) -> AsyncIterator[StreamSupervisor]:
    bus = StreamSupervisor(
        "test", NatsServer((nats.url,)), StreamPlan(stream, stream, 1, 0)
    )
    async with running(bus.run()):
        await bus.wait()
        yield bus


@asynccontextmanager
async def running_daemon(nats: NatsProcess, stream: str) -> AsyncIterator[Daemon]:
    settings = Settings(stream=stream, subject_prefix=stream)
    daemon = Daemon(settings, NatsServer((nats.url,)))
    async with running(daemon.run()):
        await daemon.supervisor.wait()
        yield daemon


async def store(
    daemon: Daemon, letter: str, last: int | str, key: str | None = None
) -> Stored | Problem:
    """Store what `KINDS` says, as a request does."""
    category, kind = KINDS[letter]
    body = event(category, eventtype=kind)
    key = key or str(uuid.uuid4())
    return await await_callback(
        partial(daemon.publisher.start, parse_event(body), key, last)
    )


async def scanned(bus: StreamSupervisor) -> tuple[int, int] | None:
    """Read the stream from its beginning, and do what hermes-client does with it."""
    start = found = None
    first, last = await bus.leader.position()
    for offset in range(first, last + 1):
        message = await bus.leader.message(offset)
        assert message is not None
        document = json.loads(message.body)
        if document["evcategory"] != "initsync":
            continue
        if document["eventtype"] == "init-start":
            start = offset
        elif document["eventtype"] == "init-stop" and start is not None:
            found, start = (start, offset), None
    return found


def ends(verdict: Verdict) -> tuple[int, int] | None:
    assert verdict.is_known
    initsync = verdict.initsync
    return (initsync.start.offset, initsync.stop.offset) if initsync else None


async def fresh_verdict(nats: NatsProcess, stream: str) -> Verdict:
    """Ask as a sidecar does that has just been started."""
    async with running_bus(nats, stream) as bus:
        return await RetentionGuard(bus).known(await bus.leader.stream_info())
