# SPDX-License-Identifier: Apache-2.0
"""Where hermes-client's scan for an initsync stands after an event. Pure.

A hermes-client that starts reads the stream from its beginning and takes the last
`init-start` before an `init-stop`, in the category `initsync` alone
(`__canBeInitialized`). Every event of that category carries in a header where this scan
stands after it, so one read of the newest tells what the whole stream would. See
docs/adr/0013-the-stream-says-where-an-initsync-stands.md.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from sidecar.model.publish_reply import StoredMessage

INITSYNC: Final = "initsync"
START: Final = "init-start"
STOP: Final = "init-stop"

_NUMBER = "(0|[1-9][0-9]{0,18})"
_OPEN = f"open={_NUMBER},{_NUMBER}"
_LAST = rf"last=(?:(\?)|{_NUMBER}-{_NUMBER},{_NUMBER})"
_HEADER = re.compile(f"(?:{_OPEN})?(?:; )?(?:{_LAST})?", re.ASCII)


class Open(NamedTuple):
    """An initsync that has begun, and how many objects have come of it."""

    start: int
    objects: int


class Complete(NamedTuple):
    """An initsync that a client could start from."""

    start: int
    stop: int
    objects: int


class Scan(NamedTuple):
    """Where the scan stands.

    Where `is_known` is false, events without the header came before: an initsync that
    is neither `open` nor `last` may be there.
    """

    open: Open | None = None
    last: Complete | None = None
    is_known: bool = True

    def after(self, offset: int, event_type: str | None) -> Scan:
        """Say where it stands after an event of the category at an offset."""
        if event_type == START:
            return self._replace(open=Open(offset, 0))
        if self.open is None:
            return self  # a stop without its start ends nothing
        start, objects = self.open
        if event_type == STOP:
            return Scan(last=Complete(start, offset, objects))
        return self._replace(open=Open(start, objects + 1))

    @property
    def header(self) -> str | None:
        """Write it as Hermes-Initsync; None where nothing is known."""
        if self == UNKNOWN:
            return None
        parts = []
        if self.open is not None:
            parts.append("open={},{}".format(*self.open))
        if self.last is not None:
            parts.append("last={}-{},{}".format(*self.last))
        elif not self.is_known:
            parts.append("last=?")
        return "; ".join(parts)


UNKNOWN: Final = Scan(is_known=False)


def read_header(header: str | None) -> Scan:
    """Read Hermes-Initsync; UNKNOWN where it is missing or not written by us."""
    match = None if header is None else _HEADER.fullmatch(header)
    if match is None:
        return UNKNOWN
    start, count, unknown, *last = match.groups()
    scan = Scan(
        Open(int(start), int(count)) if start else None,
        Complete(*map(int, last)) if last[0] else None,
        is_known=unknown is None,
    )
    return scan if scan.header == header else UNKNOWN


def scan_at(newest: StoredMessage | None) -> Scan:
    """Say where the scan stands after the newest event of the category, or none.

    What stands elsewhere than it was written for says nothing.
    """
    if newest is None:
        return Scan()
    return UNKNOWN if newest.is_displaced else read_header(newest.initsync)
