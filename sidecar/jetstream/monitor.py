# SPDX-License-Identifier: Apache-2.0
"""What is known of the stream: its state, what is wrong with it, whose word is taken.

Nothing here asks: the supervisor says what it saw, and the leader's answers prove.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from sidecar import errors
from sidecar.model.last_offset import LONGEST_GAP_SECONDS, LastOffset
from sidecar.telemetry.log import log

if TYPE_CHECKING:
    from sidecar.errors import Cause
    from sidecar.model.publish_reply import Position
    from sidecar.model.stream import StreamInfo

COMING_SECONDS: Final = 1.0
"""How long what was told is looked for often."""

ACKNOWLEDGED_SECONDS: Final = 1.0
"""How long an acknowledgement counts: a restored stream may end before it."""

READER_SECONDS: Final = 0.00025
"""What it takes to answer one who waits, and to read its next request, four times: so
whoever sends has most of the time, however many follow."""

LONGEST_PAUSE_SECONDS: Final = 0.025

_MOST_LOGGED: Final = 64


class StreamMonitor:
    """The stream as it was seen last, for whoever asks, waits or reads the log."""

    def __init__(
        self, purpose: str, stream: str, last_offset: LastOffset | None = None
    ) -> None:
        self._purpose = purpose
        self._stream = stream
        self._last_offset = last_offset or LastOffset()
        self._moved = asyncio.Condition()
        self._readers_waiting = 0
        self._led_at: float | None = None
        self._lost_at: float | None = None
        self._logged: set[tuple[str, ...]] = set()
        self._was_fit = False
        self.reader_waits = asyncio.Event()
        """Set while somebody waits for an offset."""
        self.heard = asyncio.Event()
        """Set when something may stand that did not; whoever waits for it clears it."""
        self.stored = asyncio.Event()
        """Set from the moment that a sidecar tells that it stored something, until the
        leader is asked."""
        self.is_told = True
        """That whoever stores tells it: then the leader need not be asked all the time.
        Not so once the stream has moved without a word, until the next word."""
        self._was_told = False  # since the stream last moved
        self._acknowledged, self._acknowledged_at = 0, float("-inf")
        self._told_at = 0.0
        self._round_at = 0.0
        self._asked_at = 0.0  # what `info` says
        self.is_flapping = False
        """Connections end soon after they began: no more lines of that."""
        self.cause: Cause | None = errors.NATS_DOWN
        self.faults: list[str] = []
        self.info: StreamInfo | None = None
        self.round_trip_at: float | None = None
        self.server_name = ""
        self.server_version = ""
        self.server_url = ""

    @property
    def server(self) -> str:
        """Name the server and its version, for people."""
        return f"{self.server_name} {self.server_version}".strip()

    @property
    def info_age_seconds(self) -> float | None:
        """How long ago the leader was asked for `info`; None without one."""
        return None if self.info is None else time.monotonic() - self._asked_at

    def recent_info(self) -> StreamInfo | None:
        """Give what the leader said in the last 2 seconds; None if it did not."""
        if self._led_at is None:
            return None
        age_seconds = time.monotonic() - self._led_at
        return self.info if age_seconds <= LONGEST_GAP_SECONDS else None

    def position_since(self, moment: float) -> Position | None:
        """Give what the leader was asked for after a moment, if it still holds."""
        info = self.recent_info()
        return info.position if info and self._asked_at >= moment else None

    # -- Whose word is taken for where the stream ends ---------------------------------

    def has_one_leader(self) -> bool:
        """Tell whether no old leader answers beside the new one, as far as we know."""
        if self.info is not None and self.info.replicas == 1:
            return True
        return self._last_offset.settled(time.monotonic()) is not None

    def settled_last(self) -> int | None:
        """Give the last offset that nothing lies beyond; see LastOffset.

        A mirror does not know it: what it lacks may be on its way.
        """
        if self.info is not None and self.info.is_mirror:
            return None
        return self._last_offset.settled(time.monotonic())

    def proven(self, last: int) -> None:
        """Take what was stored or read: the stream does not end before it."""
        self._last_offset.proven(last, time.monotonic())

    def proven_last(self) -> int:
        """Give the last offset that was proven lately; 0 for none."""
        return self._last_offset.least(time.monotonic())

    def takes(self, info: StreamInfo, least: int) -> bool:
        """Take an answer of STREAM.INFO; tell whether to believe where it ends.

        `least` is what was proven when it was asked for.
        """
        return self._last_offset.takes(info, least, time.monotonic())

    # -- Waiting for an offset ---------------------------------------------------------

    async def wait_for(self, offset: int, timeout_seconds: float) -> None:
        """Wait until the stream holds the offset, as long as the timeout at most."""
        self.reader_came()
        try:
            async with asyncio.timeout(timeout_seconds), self._moved:
                await self._moved.wait_for(lambda: self.reaches(offset))
        except TimeoutError:
            pass
        finally:
            self.reader_left()

    def reader_came(self) -> None:
        """Count a reader who waits for an offset."""
        self._readers_waiting += 1
        self.reader_waits.set()

    def reader_left(self) -> None:
        """Count it no more."""
        self._readers_waiting -= 1
        if not self._readers_waiting:
            self.reader_waits.clear()

    def pause_seconds(self, least: float) -> float:
        """Say how long after one time all who wait may be woken again."""
        many = self._readers_waiting * READER_SECONDS
        return max(least, min(many, LONGEST_PAUSE_SECONDS))

    def reaches(self, offset: int) -> bool:
        """Tell whether the leader has said that the stream holds the offset."""
        return self.info is not None and self.info.position.last >= offset

    def acknowledged(self, offset: int) -> None:
        """Take that the leader has acknowledged what this process published."""
        self._acknowledged, self._acknowledged_at = offset, time.monotonic()
        self.heard.set()

    def standing_last(self) -> int:
        """Give the last offset by the leader's word: told, or acknowledged lately."""
        last = 0 if self.info is None else self.info.position.last
        age_seconds = time.monotonic() - self._acknowledged_at
        return (
            max(last, self._acknowledged)
            if age_seconds < ACKNOWLEDGED_SECONDS
            else last
        )

    def hear_stored(self) -> None:
        """Hear that something was stored; anybody on NATS may say so."""
        self.heard.set()
        self.stored.set()
        self.is_told = self._was_told = True
        self._told_at = time.monotonic()

    def is_urgent(self) -> bool:
        """Tell whether to ask often for readers: nobody tells, or it has not come yet.

        What was told may have come before the word, or be on its way to a mirror.
        """
        if not self.is_told:
            return True
        return self._was_told and time.monotonic() - self._told_at < COMING_SECONDS

    # -- What the supervisor saw -------------------------------------------------------

    def begin_round(self) -> None:
        """Note that the leader is asked from now on."""
        self.stored.clear()
        self._round_at = time.monotonic()

    async def note(self, info: StreamInfo) -> None:
        """Keep what the leader said, and wake whoever waits for an offset."""
        has_moved = self.info is None or self.info.position != info.position
        if self.info is not None and info.position.last > self.info.position.last:
            self.is_told, self._was_told = self._was_told, False
        self.info, self._asked_at = info, self._round_at
        self._led_at = time.monotonic() if info.has_majority else None
        if has_moved:  # waking a hundred readers for nothing costs more than asking
            self.heard.set()
            async with self._moved:
                self._moved.notify_all()

    def note_follower(self, info: StreamInfo) -> None:
        """Keep no more of an answer that was not the leader's than that it was not."""
        self._led_at = None
        if self.info is not None and not info.has_leader:
            self.info = replace(self.info, leader=None)

    def report(self, cause: Cause | None, faults: list[str]) -> None:
        """Keep how the stream is, and log a line when that changes."""
        changed = (cause, faults) != (self.cause, self.faults)
        self.cause, self.faults = cause, faults
        if cause is not None:
            if self._lost_at is None:
                self._lost_at = time.monotonic()
                self._logged.clear()
                changed = True
            if changed and self._should_log(cause, faults):
                log.warning(
                    cause.code,
                    purpose=self._purpose,
                    reason=cause.title,
                    remedy=cause.remedy,
                    faults=faults,
                )
        elif changed:
            lost_at, self._lost_at = self._lost_at, None
            if not self.is_flapping:
                log.info(
                    "nats_reconnected" if self._was_fit else "nats_connected",
                    purpose=self._purpose,
                    server=self.server_name,
                    server_version=self.server_version,
                    stream=self._stream,
                    after_seconds=round(time.monotonic() - lost_at, 1)
                    if lost_at
                    else 0,
                )
            self._was_fit = True

    def _should_log(self, cause: Cause, faults: list[str]) -> bool:
        """Tell whether this was not logged yet since events flowed last."""
        key = (cause.code, *faults)
        if key in self._logged or self.is_flapping:
            return False
        if len(self._logged) >= _MOST_LOGGED:
            self._logged.clear()
        self._logged.add(key)
        return True
