# SPDX-License-Identifier: Apache-2.0
"""Events of an initsync from one request, stored at once or one after the other.

At once where the stream takes that (atomic_batch). Else, and after any doubt, the next
is sent only when the one before was seen stored. A chain of publishes, written without
waiting, is not safe although each has its own precondition: it names a number, not what
stands there. Where the first is lost, an init-start may take its place, and the rest
follows that one (docs/adr/0014-a-batch-of-an-initsync.md).
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple

from sidecar import errors
from sidecar.errors import Outcome, Problem
from sidecar.jetstream.callbacks import await_callback
from sidecar.model.batch import check, key_of, split
from sidecar.model.decisions import Expected, InDoubt, Stored, resolve
from sidecar.model.event import too_large
from sidecar.services.atomic_batch import store_at_once
from sidecar.services.large_events import SMALL_BYTES

if TYPE_CHECKING:
    from sidecar.jetstream.leader import StreamLeader
    from sidecar.model.decisions import Result
    from sidecar.model.event import Event
    from sidecar.services.large_events import Apart
    from sidecar.services.publish_attempt import OnDone
    from sidecar.services.publisher import Publisher

EVENT_SECONDS: Final = 0.05
"""What each event adds to the time of a request: three disks and a slow link."""

LOOK_SECONDS: Final = 2.0
MOST_LOOKS: Final = 32
"""How many offsets are looked at together."""


class Batch(NamedTuple):
    """Texts that are to become L + 1, L + 2, ..., and how long each may be."""

    key: str
    last: int
    body: bytes
    limit_bytes: int


class Batches:
    """Stores batches by the publisher; keeps nothing of them."""

    def __init__(
        self,
        publisher: Publisher,
        leader: StreamLeader,
        apart: Apart,
        stopping: asyncio.Event,
        timeout_seconds: float,
    ) -> None:
        self._publisher = publisher
        self._leader = leader
        self._apart = apart
        self._stopping = stopping
        self._timeout_seconds = timeout_seconds

    def start(self, batch: Batch, on_done: OnDone, hold_seconds: float) -> None:
        """Store what does not stand yet of a batch.

        `on_done` gets the last event's offset, or the problem of the first event that
        is not stored, with its index, within `hold_seconds` if that is less than what
        the settings and the number of events allow. Those before it stand, unless it
        was refused as the batch was read: then nothing was sent.
        """
        self._publisher.context.run(self._store(batch, hold_seconds), on_done)

    async def _store(self, batch: Batch, hold_seconds: float) -> Result:
        started_at = time.monotonic()
        events = await self._parse(batch)
        seconds = self._timeout_seconds + EVENT_SECONDS * len(events)
        ends_at = started_at + min(seconds, hold_seconds)
        result: Stored | InDoubt = InDoubt.NO
        if not self._stopping.is_set():
            keyed = [
                (key_of(batch.key, index), event)
                for index, event in enumerate(events, 1)
            ]
            result = await store_at_once(self._publisher, keyed, batch.last, ends_at)
        if isinstance(result, Stored):
            return result
        return await self._store_one_by_one(batch, events, ends_at, result)

    async def _store_one_by_one(
        self, batch: Batch, events: list[Event], ends_at: float, in_doubt: InDoubt
    ) -> Result:
        """Store each when the one before was seen stored.

        An atomic batch that left is in doubt until one of its events was stored alone.
        What is seen of it may be a part, on a disk that failed, and nats-server stores
        the rest as it starts again.
        """
        started_at = time.monotonic()
        stored = 0
        looks = 0  # how many offsets to look at before anything is sent
        is_duplicate = True
        while stored < len(events):
            if looks:
                standing = await self._count_standing(batch, events, stored, looks)
                stored += standing
                looks = min(2 * looks, MOST_LOOKS) if standing == looks else 0
                continue
            event, index = events[stored], stored + 1
            end = self._why_to_end(ends_at, is_first=is_duplicate)
            result: Result
            if end is not None and not in_doubt:
                self._publisher.failed(
                    key_of(batch.key, index), end, event.body, started_at
                )
                result = end
            else:
                result = await self._send(batch, event, index, ends_at, in_doubt)
            if isinstance(result, Problem):
                result.members["index"] = index
                return result
            stored += 1
            if not result.duplicate:
                in_doubt = InDoubt.NO
            is_duplicate = is_duplicate and result.duplicate
            looks = int(result.duplicate)  # an earlier request sent it, and maybe more
        return Stored(batch.last + stored, duplicate=is_duplicate)

    async def _parse(self, batch: Batch) -> list[Event]:
        """Read every event before the first is sent; raise Problem."""
        try:
            texts = split(batch.body)
        except Problem as problem:
            index = int(problem.members.get("index") or 1)
            self._publisher.failed(key_of(batch.key, index), problem, batch.body[1:])
            raise
        events, came_bytes = [], 0
        for index, text in enumerate(texts, 1):
            try:
                if len(text) > batch.limit_bytes:
                    raise too_large(len(text), batch.limit_bytes)
                event = await self._apart.parse(text)
                check(event)
            except Problem as problem:
                problem.members["index"] = index
                self._publisher.failed(key_of(batch.key, index), problem, text)
                raise
            events.append(event)
            came_bytes += len(text)
            if came_bytes > SMALL_BYTES:  # let others have their turn
                came_bytes = 0
                await asyncio.sleep(0)
        return events

    def _why_to_end(self, ends_at: float, *, is_first: bool) -> Problem | None:
        """Say why no further event is sent, if so.

        At least one is, so that each repetition of a request comes further.
        """
        if self._stopping.is_set():
            return Problem(errors.STOPPING, Outcome.NOT_STORED)
        is_late = time.monotonic() + self._publisher.context.copy_seconds > ends_at
        if is_late and not is_first:
            return Problem(errors.BATCH_UNFINISHED, Outcome.NOT_STORED)
        return None

    async def _send(
        self,
        batch: Batch,
        event: Event,
        index: int,
        ends_at: float,
        in_doubt: InDoubt,
    ) -> Result:
        """Do with one event of a batch what is done with any."""
        key, last = key_of(batch.key, index), batch.last + index - 1
        left_seconds = ends_at - time.monotonic()
        begin = self._publisher.resolve if in_doubt else self._publisher.start
        return await await_callback(
            lambda on_done: begin(event, key, last, on_done, left_seconds)
        )

    async def _count_standing(
        self, batch: Batch, events: list[Event], stored: int, looks: int
    ) -> int:
        """Count those that stand already, from where an earlier request sent the next.

        Sending them again would tell the same, with three round trips for each.
        """
        looked_at = time.monotonic()
        asked = [
            Expected(key_of(batch.key, index), event.body, batch.last + index - 1)
            for index, event in enumerate(events[stored : stored + looks], stored + 1)
        ]
        seen = []
        with suppress(Problem, TimeoutError):
            async with asyncio.timeout(LOOK_SECONDS):
                seen = await asyncio.gather(
                    *(self._leader.observe(expected.next) for expected in asked)
                )
        count = 0
        for expected, observation in zip(asked, seen, strict=False):
            if observation is None:
                break
            result = resolve(expected, expected.next, observation)
            if not isinstance(result, Stored):
                break  # whoever sends it learns more
            event = events[stored + count]
            self._publisher.record_stored(event, expected.key, result, looked_at)
            count += 1
        return count
