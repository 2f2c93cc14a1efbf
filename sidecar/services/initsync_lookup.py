# SPDX-License-Identifier: Apache-2.0
"""The retention guard: knows the last complete initsync, and tells before it ages out.

The newest event of the category says which one it is (`scan`), so one read tells it
whenever the stream has moved. Its start and its stop are read once, for their times.
All reads are STREAM.MSG.GET, which every role may ask, and the stream's leader answers.
"""

from __future__ import annotations

import asyncio
import math
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from sidecar.errors import Problem
from sidecar.model.initsync import (
    REMEDY,
    Initsync,
    Mark,
    Verdict,
    judge,
    mark,
    max_age_seconds,
    warning_seconds,
)
from sidecar.model.last_offset import SETTLED_SECONDS
from sidecar.model.scan import INITSYNC, scan_at
from sidecar.telemetry.log import log

if TYPE_CHECKING:
    from sidecar.jetstream.supervisor import StreamSupervisor
    from sidecar.model.publish_reply import Position
    from sidecar.model.scan import Complete
    from sidecar.model.stream import StreamInfo

LOOK_SECONDS: Final = 1.0
"""How often it is looked whether the stream moved."""

KNOWN_SECONDS: Final = 3.0
"""How long an answer about the stream waits for a look that is still under way."""


class RetentionGuard:
    """Knows the last complete initsync of the stream; never asked by a publish."""

    def __init__(self, supervisor: StreamSupervisor) -> None:
        self._supervisor = supervisor
        self._leader = supervisor.leader
        self._monitor = supervisor.monitor
        self._asking = asyncio.Lock()
        self._seen: tuple[Any, ...] = ()
        self._stream: tuple[Any, ...] = ()
        self._again_at = math.inf
        self._told: tuple[Verdict, bool] | None = None
        self._verdict: Verdict | None = None

    @property
    def verdict(self) -> Verdict | None:
        """Give the verdict on the stream as it stands; None before the first look."""
        if self._verdict is None or self._monitor.info is None:
            return self._verdict
        return self._verdict.at(self._monitor.info.position)

    async def run(self) -> None:
        """Look again whenever the stream moved, until cancelled."""
        while True:
            info = self._monitor.info
            if self._monitor.cause is None and info is not None:
                try:
                    await self._look(info)
                    self._tell(max_age_seconds(info.config))
                except Problem:
                    pass  # the monitor logs it; the next round looks again
                except Exception as error:  # noqa: BLE001 - events flow without a guard
                    log.error("internal_error", error=type(error).__name__, where="")
            await asyncio.sleep(LOOK_SECONDS)

    async def known(self, info: StreamInfo) -> Verdict:
        """Ask, but not for long: who asks where the stream stands must not wait.

        All of it, whatever is known: a restored stream may stand where it stood.
        """
        with suppress(Problem, TimeoutError):
            async with asyncio.timeout(KNOWN_SECONDS):
                async with self._asking:
                    self._verdict = await self._ask(info.position, None)
        return (self._verdict or Verdict(is_known=False)).at(info.position)

    async def _look(self, info: StreamInfo) -> None:
        """Ask for the verdict if the stream moved since it was asked for.

        And once more when it has stood still: an old leader of several replicas may
        have answered the first time.
        """
        async with self._asking:
            stream = (info.created, self._supervisor.connections_made)
            state = (*stream, info.position, info.size_bytes)
            has_moved = state != self._seen
            if not has_moved and time.monotonic() < self._again_at:
                return
            if stream != self._stream:
                self._verdict = None
            self._verdict = await self._ask(info.position, self._verdict)
            self._stream, self._seen = stream, state
            is_doubtful = has_moved and info.replicas > 1
            self._again_at = (
                time.monotonic() + SETTLED_SECONDS if is_doubtful else math.inf
            )

    async def _ask(self, position: Position, before: Verdict | None) -> Verdict:
        newest = await self._leader.last_of(INITSYNC)
        scan = scan_at(newest)
        if scan.last is None:
            return Verdict(is_known=scan.is_known)
        if scan.last.start < position.first:
            return Verdict()
        if before is not None and _is_same(before.initsync, scan.last):
            return before
        start = await self._mark(scan.last.start)
        if newest is not None and newest.sequence == scan.last.stop:
            stop: Mark | None = mark(newest)
        else:
            stop = await self._mark(scan.last.stop)
        return judge(start, stop, scan.last.objects)

    async def _mark(self, offset: int) -> Mark | None:
        message = await self._leader.message(offset)
        return None if message is None else mark(message)

    def _tell(self, age_seconds: float) -> None:
        """Log a line when there is another one, and one before it goes."""
        verdict = self.verdict
        if verdict is None:
            return
        initsync = verdict.initsync
        stays = None
        if initsync is not None:
            stays = initsync.stays_seconds(age_seconds, time.time())
        is_ending = stays is not None and stays <= warning_seconds(age_seconds)
        if (verdict, is_ending) == self._told:
            return
        self._told = verdict, is_ending
        members = initsync.document(age_seconds) if initsync else {}
        if not verdict.is_known:
            log.warning("initsync_unknown", remedy=REMEDY)
        elif initsync is None:
            log.warning("initsync_missing", remedy=REMEDY)
        elif is_ending:
            log.warning("initsync_expiring", remedy=REMEDY, **members)
        else:
            log.info("initsync_complete", **members, **initsync.pace())


def _is_same(initsync: Initsync | None, last: Complete) -> bool:
    return initsync is not None and last == (
        initsync.start.offset,
        initsync.stop.offset,
        initsync.objects,
    )
