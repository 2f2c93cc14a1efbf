# SPDX-License-Identifier: Apache-2.0
"""The messages that one replica of the modelled stream holds, and how they are read."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Any

from .messages import (
    FULL_OF_BYTES,
    FULL_OF_MESSAGES,
    ZERO_TIME,
    Publish,
    Refusal,
    StoredMessage,
    rfc3339,
    status_block,
    stored_bytes,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

ALL = ">"
_SERVER_PENDING_BYTES = 64 << 20  # what max_bytes is where a request has none


class Store:
    """One replica's stream: a numbered sequence, ids inside a window, limits."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.first = config.get("first_seq") or 1
        self.last = self.first - 1
        self.size_bytes = 0
        self.ids: dict[str, tuple[int, int]] = {}  # id: sequence, 0 if staged; time
        self._messages: dict[int, StoredMessage] = {}
        self._order: list[int] = []
        self._by_subject: dict[str, list[int]] = {}
        self._last_time_ns = 0

    def __len__(self) -> int:
        return len(self._messages)

    @property
    def messages(self) -> list[StoredMessage]:
        """Give all that it holds, in order."""
        return list(self._messages.values())

    # -- Writing -----------------------------------------------------------------------

    def append(self, publish: Publish, time_ns: int) -> StoredMessage:
        """Store a message as the next."""
        self.last += 1
        message = StoredMessage(
            self.last,
            publish.subject,
            publish.key,
            time_ns,
            publish.body,
            publish.block,
        )
        self.put(message)
        if publish.key is not None:
            self.ids[publish.key] = self.last, time_ns
        return message

    def put(self, message: StoredMessage) -> None:
        """Store a message where it stands."""
        sequence = self.last = message.sequence
        self._messages[sequence] = message
        self._order.append(sequence)
        self._by_subject.setdefault(message.subject, []).append(sequence)
        self.size_bytes += message.size_bytes
        self._last_time_ns = message.time_ns

    def purge(self, below: int) -> int:
        """Remove all below a sequence; give how many."""
        below = min(below, self.last + 1)
        count = bisect_left(self._order, below)
        for sequence in self._order[:count]:
            self._remove(sequence)
        del self._order[:count]
        self.first = self._order[0] if self._order else max(self.first, below)
        return count

    def remove(self, sequence: int) -> bool:
        """Remove one message, which leaves a hole."""
        if sequence not in self._messages:
            return False
        self._remove(sequence)
        self._order.remove(sequence)
        if sequence == self.first:
            self.first = self._order[0] if self._order else self.last + 1
        return True

    def _remove(self, sequence: int) -> None:
        message = self._messages.pop(sequence)
        self.size_bytes -= message.size_bytes
        of_subject = self._by_subject[message.subject]
        del of_subject[bisect_left(of_subject, sequence)]

    # -- Deduplication -----------------------------------------------------------------

    def known(self, key: str, now_ns: int) -> int | None:
        """Give the sequence of an id inside the window; 0 while it is under way."""
        found = self.ids.get(key)
        if found is None:
            return None
        if now_ns - found[1] > self.config["duplicate_window"]:
            del self.ids[key]
            return None
        return found[0]

    def forget_staged(self) -> None:
        """Forget the ids under way, as a server does whose leader changes."""
        self.ids = {key: each for key, each in self.ids.items() if each[0]}

    def reload_ids(self, now_ns: int) -> None:
        """Know the ids that a started server knows: those of messages in the window."""
        oldest = now_ns - self.config["duplicate_window"]
        self.ids = {
            message.key: (message.sequence, message.time_ns)
            for message in self._messages.values()
            if message.key is not None and message.time_ns >= oldest
        }

    # -- Limits ------------------------------------------------------------------------

    def full(
        self, publish: Publish, more: int = 0, more_bytes: int = 0
    ) -> Refusal | None:
        """Say which limit keeps a message out; `more` are proposed before it."""
        messages, size_bytes = self.config["max_msgs"], self.config["max_bytes"]
        if 0 < messages < len(self._messages) + more + 1:
            return FULL_OF_MESSAGES
        if size_bytes > 0:
            size = stored_bytes(publish.subject, publish.block, publish.body)
            if self.size_bytes + more_bytes + size > size_bytes:
                return FULL_OF_BYTES
        return None

    def full_of(
        self, batch: list[Publish], more: int = 0, more_bytes: int = 0
    ) -> Refusal | None:
        """Say the same of a batch."""
        for publish in batch:
            refusal = self.full(publish, more, more_bytes)
            if refusal is not None:
                return refusal
            more += 1
            more_bytes += stored_bytes(publish.subject, publish.block, publish.body)
        return None

    # -- Reading -----------------------------------------------------------------------

    def get(self, sequence: int) -> StoredMessage | None:
        """Give a message."""
        return self._messages.get(sequence)

    def next_of(self, subject: str, sequence: int) -> StoredMessage | None:
        """Give the first message of a subject at or after a sequence."""
        order = self._of(subject)
        place = bisect_left(order, sequence)
        return self._messages[order[place]] if place < len(order) else None

    def last_of(self, subject: str) -> StoredMessage | None:
        """Give the newest message of a subject."""
        order = self._of(subject)
        return self._messages[order[-1]] if order else None

    def since(self, time_ns: int) -> int:
        """Give the sequence of the first message stored at or after a time."""
        for sequence in self._order:
            if self._messages[sequence].time_ns >= time_ns:
                return sequence
        return self.last + 1

    def pending(self, subject: str, sequence: int) -> int:
        """Count the messages of a subject at or after a sequence."""
        order = self._of(subject)
        return len(order) - bisect_left(order, sequence)

    def _of(self, subject: str) -> list[int]:
        if subject[-1] not in "*>":
            return self._by_subject.get(subject, [])
        if subject == ALL or subject in self.config["subjects"]:
            return self._order
        return []

    def subjects(self) -> dict[str, int]:
        """Count the messages of each subject."""
        return {name: len(order) for name, order in self._by_subject.items() if order}

    def state(self, *, details: bool = False) -> dict[str, Any]:
        """Give the state as STREAM.INFO shows it."""
        subjects = self.subjects()
        never = not self.last and not self._messages  # 0 until the first message
        document: dict[str, Any] = {
            "messages": len(self._messages),
            "bytes": self.size_bytes,
            "first_seq": 0 if never else self.first,
            "first_ts": self._time(self._order[0]) if self._order else ZERO_TIME,
            "last_seq": self.last,
            "last_ts": rfc3339(self._last_time_ns) if self._last_time_ns else ZERO_TIME,
            "consumer_count": 0,
        }
        if subjects:
            document["num_subjects"] = len(subjects)
            if details:
                document["subjects"] = subjects
        return document

    def _time(self, sequence: int) -> str:
        return rfc3339(self._messages[sequence].time_ns)

    def direct(
        self, name: str, request: dict[str, Any], version: tuple[int, int]
    ) -> Iterator[tuple[bytes, bytes]]:
        """Answer a direct get, of one message or a batch (ADR-31).

        getDirectRequest in server/stream.go. Before 2.12 what is pending counted the
        message itself, and the end mark one less than the last message said.
        """
        batch, subject = request.get("batch", 0), request.get("next_by_subj", "")
        sequence = request.get("seq", 0)
        if "multi_last" in request:
            yield from self._newest(name, request, version)
            return
        if not batch:
            yield self._single(name, request)
            return
        pending = self.pending(subject or ALL, sequence)
        limit = request.get("max_bytes") or _SERVER_PENDING_BYTES
        previous = sent = 0
        for number in range(batch):
            message = self.next_of(subject or ALL, sequence)
            if message is None:
                if number:
                    break
                yield status_block("404 Message Not Found"), b""
                return
            shown = pending if version < (2, 12) else pending - 1
            pending -= 1
            counts = ("Nats-Num-Pending", shown), ("Nats-Last-Sequence", previous)
            yield message.read(name, *counts), message.body
            previous, sequence = message.sequence, message.sequence + 1
            sent += len(message.subject) + len(message.block) + len(message.body)
            if sent >= limit:
                break
        yield (
            status_block(
                "204 EOB",
                ("Nats-Num-Pending", pending),
                ("Nats-Last-Sequence", previous),
            ),
            b"",
        )

    def _newest(
        self, name: str, request: dict[str, Any], version: tuple[int, int]
    ) -> Iterator[tuple[bytes, bytes]]:
        """Answer with the newest of each subject (getDirectMulti).

        Before 2.12 the end mark counted one less that is pending.
        """
        wanted = request["multi_last"]
        is_all = any(each in (ALL, *self.config["subjects"]) for each in wanted)
        found = sorted(
            order[-1]
            for subject, order in self._by_subject.items()
            if order and (is_all or subject in wanted)
        )
        if not found:
            yield status_block("404 No Results"), b""
            return
        pending, previous, sent = len(found), 0, 0
        limit = request.get("max_bytes") or _SERVER_PENDING_BYTES
        for sequence in found[: request.get("batch") or len(found)]:
            message = self.get(sequence)
            assert message is not None
            pending -= 1
            counts = ("Nats-Num-Pending", pending), ("Nats-Last-Sequence", previous)
            yield message.read(name, *counts), message.body
            previous = sequence
            sent += len(message.subject) + len(message.block) + len(message.body)
            if sent >= limit:
                break
        yield (
            status_block(
                "204 EOB",
                ("Nats-Num-Pending", max(pending - (version < (2, 12)), 0)),
                ("Nats-Last-Sequence", previous),
                ("Nats-UpTo-Sequence", self.last),
            ),
            b"",
        )

    def _single(self, name: str, request: dict[str, Any]) -> tuple[bytes, bytes]:
        message = self.wanted(request)
        if message is None:
            return status_block("404 Message Not Found"), b""
        return message.read(name), message.body

    def wanted(self, request: dict[str, Any]) -> StoredMessage | None:
        """Find the message that a STREAM.MSG.GET asks for."""
        sequence = request.get("seq", 0)
        if "next_by_subj" in request:
            return self.next_of(request["next_by_subj"], sequence)
        if "last_by_subj" in request:
            return self.last_of(request["last_by_subj"])
        return self.get(sequence)
