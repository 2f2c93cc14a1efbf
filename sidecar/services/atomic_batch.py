# SPDX-License-Identifier: Apache-2.0
"""Events of an initsync, stored at once by an atomic batch of NATS (ADR-50).

The stream stores all of them or none, fenced by L as one event is: where the first of
them is stored alone the batch never can be, and the other way round. So whatever comes
back but its acknowledgement is a doubt about each of them, which is settled by storing
them one by one (docs/adr/0014-a-batch-of-an-initsync.md).
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from sidecar.errors import Problem
from sidecar.model.decisions import InDoubt, Stored
from sidecar.model.publish_reply import Acknowledged, NoAnswer, NotSent, TooLarge
from sidecar.services.publisher import MAX_IN_FLIGHT

if TYPE_CHECKING:
    from sidecar.jetstream.connection import Connection
    from sidecar.model.event import Event
    from sidecar.services.publisher import Publisher

Keyed = list[tuple[str, "Event"]]
"""Events, each after its key."""

LEAST_EVENTS: Final = 32
"""Fewer are not faster on every server that knows atomic batches (ADR 14)."""

EVENT_SECONDS: Final = 0.005
BYTES_A_SECOND: Final = 50_000
"""What each event adds to the time of an atomic batch, and its bytes: a slow link."""

REST_SECONDS: Final = 60.0
"""How long none is tried after one without a reply, which costs the connection."""

SCAN_SECONDS: Final = 2.0


async def store_at_once(
    publisher: Publisher, events: Keyed, last: int, ends_at: float
) -> Stored | InDoubt:
    """Store events after `last`, or say whether they may stand or still land.

    Nothing is sent where the stream does not take it, or the time (monotonic) is short.
    """
    context, started_at = publisher.context, time.monotonic()
    size_bytes = sum(len(event.body) for _, event in events)
    seconds = context.copy_seconds + EVENT_SECONDS * len(events)
    seconds += size_bytes / BYTES_A_SECOND
    is_early = started_at < context.no_batch_until
    if is_early or len(events) < LEAST_EVENTS or started_at + seconds > ends_at:
        return InDoubt.NO
    try:
        connection = context.supervisor.connection()
        if not connection.allows_atomic or publisher.in_flight >= MAX_IN_FLIGHT:
            return InDoubt.NO
        events = await _with_scans(publisher, events, last)
    except (Problem, TimeoutError):
        return InDoubt.NO  # who stores the first alone says why
    if not events:
        return InDoubt.NO
    return await _send(publisher, connection, events, last, seconds)


async def _send(
    publisher: Publisher,
    connection: Connection,
    events: Keyed,
    last: int,
    seconds: float,
) -> Stored | InDoubt:
    context, sent_at, doubt = publisher.context, time.monotonic(), object()
    publisher.in_flight += 1
    context.doubts[doubt] = sent_at
    try:
        answer = await connection.publish_atomic(events, last, seconds)
    finally:
        publisher.in_flight -= 1
        del context.doubts[doubt]
    match answer:
        case NotSent() | TooLarge():
            return InDoubt.NO
        case Acknowledged(sequence):
            for offset, (key, event) in enumerate(events, last + 1):
                stored = Stored(offset, duplicate=False)
                publisher.record_stored(event, key, stored, sent_at)
            return Stored(sequence, duplicate=False)
        case NoAnswer():
            context.no_batch_until = time.monotonic() + REST_SECONDS
            context.supervisor.drop(connection)
    return InDoubt.YES


async def _with_scans(publisher: Publisher, events: Keyed, last: int) -> Keyed:
    """Say of each event where the scan stands after it.

    Nothing where the stream does not end at `last`. Raises Problem or TimeoutError.
    """
    (key, first), *others = events
    scans = publisher.context.scans
    known = scans.known(first, last, time.monotonic())
    if known is None:
        async with asyncio.timeout(SCAN_SECONDS):
            known = await scans.learn(first, last)
    if known is None or known.scan is None:
        return []
    scan, keyed = known.scan, [(key, known)]
    for offset, (key, event) in enumerate(others, last + 2):
        scan = scan.after(offset, event.type)
        keyed.append((key, event._replace(scan=scan)))
    return keyed
