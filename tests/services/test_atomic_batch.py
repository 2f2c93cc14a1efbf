# SPDX-License-Identifier: Apache-2.0
"""What is sent as one atomic batch, and what each reply leaves open.

The connection is the test's own. What real servers reply, and what stands afterwards,
is in tests/services/publisher/test_atomic_real.py.
"""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from support.sidecar import event

from sidecar import errors
from sidecar.errors import Problem
from sidecar.model.decisions import InDoubt, Stored
from sidecar.model.event import parse_event
from sidecar.model.publish_reply import (
    Acknowledged,
    Disconnected,
    NoAnswer,
    NotSent,
    TooLarge,
    Undecided,
)
from sidecar.model.scan import Open, Scan
from sidecar.services.atomic_batch import (
    BYTES_A_SECOND,
    EVENT_SECONDS,
    LEAST_EVENTS,
    store_at_once,
)
from sidecar.services.publisher import MAX_IN_FLIGHT

if TYPE_CHECKING:
    from sidecar.model.event import Event
    from sidecar.model.publish_reply import Answer

LAST = 41
COUNT = LEAST_EVENTS
ACKNOWLEDGED = Acknowledged(LAST + COUNT, duplicate=False)


class Parts:
    """A publisher with all that it asks, on a stream that allows atomic batches."""

    def __init__(self, reply: Answer = ACKNOWLEDGED) -> None:
        self.reply = reply
        self.sent: list[list[tuple[str, Event]]] = []
        self.recorded: list[tuple[str, int]] = []
        self.doubts: dict[object, float] = {}
        self.allows_atomic = True
        self.dropped = self.in_flight = 0
        self.knows = self.ends_at_last = True
        self.failure: Problem | None = None
        self.context = SimpleNamespace(
            copy_seconds=2.0,
            supervisor=self,
            scans=self,
            doubts=self.doubts,
            no_batch_until=0.0,
        )

    async def store(self, count: int = COUNT, seconds: float = 60) -> Stored | InDoubt:
        events = [
            (f"k.{number}", parse_event(event("initsync", objpkey=number)))
            for number in range(1, count + 1)
        ]
        publisher: Any = self
        ends_at = time.monotonic() + seconds
        result = await store_at_once(publisher, events, LAST, ends_at)
        assert (self.doubts, self.in_flight % MAX_IN_FLIGHT) == ({}, 0)
        return result

    # As the publisher, its supervisor, connection and scans:

    def record_stored(self, _: Event, key: str, stored: Stored, __: float) -> None:
        assert not stored.duplicate
        self.recorded.append((key, stored.offset))

    def connection(self) -> Parts:
        if self.failure is not None:
            raise self.failure
        return self

    def drop(self, _: object) -> None:
        self.dropped += 1

    def known(self, event: Event, *_: object) -> Event | None:
        return event._replace(scan=Scan(Open(1, 5))) if self.knows else None

    async def learn(self, event: Event, _: int) -> Event | None:
        return event._replace(scan=Scan(Open(1, 5))) if self.ends_at_last else None

    async def publish_atomic(
        self, events: list[tuple[str, Event]], last: int, seconds: float
    ) -> Answer:
        assert (last, self.in_flight, len(self.doubts)) == (LAST, 1, 1)
        size_bytes = sum(len(each.body) for _, each in events)
        slow_seconds = EVENT_SECONDS * len(events) + size_bytes / BYTES_A_SECOND
        assert seconds == 2.0 + slow_seconds
        self.sent.append(events)
        return self.reply


@pytest.mark.parametrize("knows", [True, False])
async def test_an_acknowledged_batch_is_stored_event_by_event(knows: bool) -> None:
    parts = Parts()
    parts.knows = knows
    assert await parts.store() == Stored(LAST + COUNT, duplicate=False)
    (sent,) = parts.sent
    numbers = range(1, COUNT + 1)
    assert [key for key, _ in sent] == [f"k.{number}" for number in numbers]
    scans = [each.scan and each.scan.open for _, each in sent]
    assert scans == [Open(1, 4 + number) for number in numbers]
    assert parts.recorded == [(f"k.{number}", LAST + number) for number in numbers]


@pytest.mark.parametrize(
    ("reply", "leaves"),
    [
        *(
            (Undecided(errors.PUBLISH_REFUSED, code), InDoubt.YES)
            for code in (10071, 10201, 10164, 10174, 10176, 10199, 10077)
        ),
        (Undecided(errors.FOREIGN_ANSWER), InDoubt.YES),
        (NoAnswer(), InDoubt.YES),
        (Disconnected(), InDoubt.YES),
        (NotSent(), InDoubt.NO),
        (TooLarge(9, 8), InDoubt.NO),
    ],
    ids=repr,
)
async def test_whatever_has_left_and_is_not_acknowledged_is_in_doubt(
    reply: Answer, leaves: InDoubt
) -> None:
    parts = Parts(reply)
    assert await parts.store() is leaves
    assert (len(parts.sent), parts.recorded) == (1, [])
    assert parts.dropped == isinstance(reply, NoAnswer)


async def test_few_events_are_not_sent_at_once() -> None:
    parts = Parts()
    assert await parts.store(LEAST_EVENTS - 1) is InDoubt.NO
    assert parts.sent == []


async def test_none_is_sent_that_would_outlast_its_request() -> None:
    parts = Parts()
    assert await parts.store(seconds=2.1) is InDoubt.NO
    assert parts.sent == []


@pytest.mark.parametrize(
    "what",
    [
        {"allows_atomic": False},
        {"in_flight": MAX_IN_FLIGHT},
        {"failure": Problem(errors.NATS_DOWN)},
        {"knows": False, "ends_at_last": False},
    ],
    ids=str,
)
async def test_none_is_sent_where_it_cannot_be_stored(what: dict[str, Any]) -> None:
    parts = Parts()
    vars(parts).update(what)
    assert await parts.store() is InDoubt.NO
    assert parts.sent == []


async def test_after_one_without_a_reply_none_is_tried_for_a_while() -> None:
    parts = Parts(NoAnswer())
    assert await parts.store() is InDoubt.YES
    parts.reply = ACKNOWLEDGED
    assert await parts.store() is InDoubt.NO
    assert (len(parts.sent), parts.dropped) == (1, 1)
    parts.context.no_batch_until = time.monotonic()
    assert await parts.store() == Stored(LAST + COUNT, duplicate=False)
