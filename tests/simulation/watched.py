# SPDX-License-Identifier: Apache-2.0
"""The modelled cluster, whose true ends are noted whenever they change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .history import NO_STREAM
from .jetstream import Cluster

if TYPE_CHECKING:
    from .history import History
    from .messages import StoredMessage
    from .raft import Entry


class WatchedCluster(Cluster):
    """Notes in the history what the true stream begins and ends with."""

    def __init__(self, history: History, *arguments: Any, **options: Any) -> None:
        self._history = history
        self._noted: tuple[int, int, int] | None = None
        self.restored: set[int] = set()
        self.committed_at: list[float] = []  # of everything(), in virtual seconds
        super().__init__(*arguments, **options)

    def note(self) -> None:
        """Note the ends if they changed, and when what is new was committed."""
        news = len(self.everything()) - len(self.committed_at)
        if news:
            self.committed_at += [self.now()] * news
        last = self.last if self.stream_exists else NO_STREAM
        ends = (self.epoch, self.first, last)
        if ends != self._noted:
            self._noted = ends
            self._history.note_ends(*ends)

    def can_store(self) -> bool:
        """Tell whether a publish would be stored now."""
        leader, trouble = self.leader, self.trouble
        return (
            self.stream_exists
            and leader is not None
            and self.has_majority(leader)
            and not trouble.running
        )

    def assign(self, *arguments: Any, **options: Any) -> None:
        """Begin a stream."""
        super().assign(*arguments, **options)
        if options.get("content") is not None:
            self.restored.add(self.epoch)
        self.note()

    def unassign(self) -> None:
        """End a stream."""
        super().unassign()
        self.note()

    def store(self, epoch: int, message: StoredMessage) -> None:
        """See what the only replica stored."""
        super().store(epoch, message)
        self.note()

    def commit(self, epoch: int, log: list[Entry], index: int) -> None:
        """See how far a leader has committed."""
        super().commit(epoch, log, index)
        self.note()

    def expire(self, below: int) -> None:
        """Let old messages go."""
        super().expire(below)
        self.note()
