# SPDX-License-Identifier: Apache-2.0
"""Whose word is taken for where the stream ends. Pure: times and answers come in.

Rule of this file: a server can prove what is there, never alone what is not. An old
leader that a partition has just released answers from its past, and a new one may for
a moment not have come as far as the old one had.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from sidecar.model.stream import StreamInfo

SETTLED_SECONDS: Final = 5.0
LONGEST_GAP_SECONDS: Final = 2.0


class LastOffset:
    """What is proven of the stream's last offset; the same for writers and readers.

    A mark is a last offset that a leader named, or that an acknowledgement, a page or a
    message has proven. An answer below a mark is an old leader's, and no ground for
    anything. But a stream that was restored does end earlier: so a mark ends after 5
    seconds of answers below it, which one leader with its majority gave without a gap.
    Those seconds begin anew with each other leader. The marks of a stream end with it:
    one that was made anew has another `created`.
    """

    def __init__(self) -> None:
        self._created: str | None = None
        self._leader: str | None = None
        self._since: float | None = None  # one leader has answered without a gap
        self._heard_at = 0.0
        self._marks: deque[tuple[float, int]] = deque()  # each later one is lower

    def least(self, now: float) -> int:
        """Give what a leader must name who is asked from now on."""
        self._end_marks(now)
        return self._marks[0][1] if self._marks else 0

    def settled(self, now: float) -> int | None:
        """Give the last offset that nothing lies beyond; None while it is not known."""
        self._end_marks(now)
        return self._marks[0][1] if self._is_agreed(now) else None

    def proven(self, last: int, now: float) -> None:
        """Take what was stored or read: the stream does not end before it."""
        while self._marks and self._marks[-1][1] <= last:
            self._marks.pop()
        self._marks.append((now, last))

    def takes(self, info: StreamInfo, least: int, now: float) -> bool:
        """Take an answer of STREAM.INFO; tell whether to believe where it ends.

        `least` is what was proven when it was asked for: what was stored since then
        may be missing in it.
        """
        is_other = info.created != self._created
        if is_other:
            self._marks.clear()
        is_agreed = info.has_leader and info.has_majority
        if is_other or not is_agreed or info.leader != self._leader:
            self._since = None
        if now - self._heard_at > LONGEST_GAP_SECONDS:
            self._since = None
        self._created = info.created
        self._leader = info.leader
        if is_agreed:
            self._since = now if self._since is None else self._since
            self._heard_at = now
            self.proven(info.position.last, now)
        return info.has_leader and (is_other or info.position.last >= least)

    def _is_agreed(self, now: float) -> bool:
        return (
            self._since is not None
            and self._heard_at - self._since >= SETTLED_SECONDS
            and now - self._heard_at <= LONGEST_GAP_SECONDS
        )

    def _end_marks(self, now: float) -> None:
        if self._is_agreed(now):
            while self._heard_at - self._marks[0][0] >= SETTLED_SECONDS:
                self._marks.popleft()
