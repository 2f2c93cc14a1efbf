# SPDX-License-Identifier: Apache-2.0
"""Where hermes-client's scan for an initsync stands at L."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, NamedTuple

from sidecar.model.scan import INITSYNC

if TYPE_CHECKING:
    from sidecar.jetstream.leader import StreamLeader
    from sidecar.model.event import Event
    from sidecar.model.scan import Scan

SCAN_SECONDS: Final = 1.0
"""How long it is remembered where a scan stands: a stream may be restored meanwhile."""


def needs_scan(event: Event) -> bool:
    """Tell whether no copy of an event may leave before its scan is known."""
    return event.category == INITSYNC and event.scan is None


class _Known(NamedTuple):
    """Where the scan stands after an offset, and when that was learned."""

    offset: int
    scan: Scan
    at: float


class Scans:
    """Remembers where the scan stands after the last event, or asks the leader."""

    def __init__(self, leader: StreamLeader) -> None:
        self._leader = leader
        self._known: _Known | None = None

    def known(self, event: Event, last: int, now: float) -> Event | None:
        """Give the event with where the scan stands after it; None if nobody knows.

        It is a matter of L and the event alone, so each copy says the same.
        """
        known = self._known
        if known is None or known.offset != last or now - known.at > SCAN_SECONDS:
            return None
        return event._replace(scan=known.scan.after(last + 1, event.type))

    async def learn(self, event: Event, last: int) -> Event | None:
        """Ask where the scan stands at L; None if the stream does not end there.

        Raises Problem if nobody answers. Nothing comes between what is learned and a
        copy that is fenced by L.
        """
        before = await self._leader.scan_at(last)
        if before is None:
            return None
        self._known = _Known(last, before, time.monotonic())
        return event._replace(scan=before.after(last + 1, event.type))

    def record_stored(self, event: Event, offset: int, now: float) -> None:
        """Remember where the scan stands after an event that is stored there."""
        known = self._known
        if (
            event.category == INITSYNC
            and known is not None
            and known.offset + 1 == offset
        ):
            self._known = _Known(offset, known.scan.after(offset, event.type), now)
