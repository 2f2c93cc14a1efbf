# SPDX-License-Identifier: GPL-3.0-or-later
"""The objects of an initsync, sent many in one request.

Hermes needs the acknowledgement of none of them: it saves nothing for them, it repeats
the whole sequence after any error, and clients use none without its init-stop. So it
makes the next ones while the sidecar stores a batch. One batch at most is under way:
the precondition of a second one would be a number, whatever came to stand there.
"""

from __future__ import annotations

from collections.abc import Callable

from .doubts import Sent

MOST_EVENTS = 128
MOST_BYTES = 256 * 1024
"""From either on a batch is sent; what is larger than that goes alone. A sidecar takes
1,000 events and 1 MiB. Held are those under way and those gathered meanwhile."""

EVENT_SECONDS = 0.05
"""What a sidecar adds to the time of a request for each."""


class Batch(Sent):
    """Objects on their way together, in their order, under one key and one L."""

    media_type = "application/json-seq"  # RFC 7464
    may_come_again = False
    is_of_initsync = False  # each of its objects is

    def __init__(self, objects: list[Sent]) -> None:
        self.key = objects[0].key
        self.kind, self.object = "added", (None, None)
        self.objects = objects
        self.count = len(objects)
        self.more_seconds = 1.0 + EVENT_SECONDS * self.count

    @property
    def body(self) -> bytes:  # type: ignore[override] # not held beside the objects
        """Give the texts, each between RS and LF. JSON escapes an RS."""
        return b"".join([b"\x1e%b\n" % each.body for each in self.objects])

    def at(self, index: int) -> Sent | None:
        """Give the object that the sidecar names, under the key that it has there."""
        if not 0 < index <= self.count:
            return None
        sent = self.objects[index - 1]
        sent.key = f"{self.key}.{index}"
        return sent


class Gathered:
    """The objects after an init-start, until all of them stand.

    `begin` sends a batch and does not wait. `store` returns when a batch or an event
    stands, or raises; of a batch it sends only what `begin` did not.
    """

    def __init__(
        self, begin: Callable[[Batch], None], store: Callable[[Sent], object]
    ) -> None:
        self._begin, self._store = begin, store
        self._objects: list[Sent] = []
        self._size_bytes = 0
        self._under_way: Batch | None = None

    def add(self, sent: Sent) -> None:
        """Take an object; send what was gathered if that is enough."""
        if len(sent.body) > MOST_BYTES:
            self.store()
            self._store(sent)
            return
        self._objects.append(sent)
        self._size_bytes += len(sent.body)
        if len(self._objects) >= MOST_EVENTS or self._size_bytes >= MOST_BYTES:
            self._send()

    def store(self) -> None:
        """Return when all of them stand."""
        self._send()
        self._wait()

    def pop_under_way(self) -> Batch | None:
        """Give the batch of which nobody knows how much stands."""
        batch, self._under_way = self._under_way, None
        return batch

    def _send(self) -> None:
        self._wait()
        if self._objects:
            self._under_way = Batch(self._objects)
            self._objects, self._size_bytes = [], 0
            self._begin(self._under_way)

    def _wait(self) -> None:
        if (batch := self.pop_under_way()) is not None:
            self._store(batch)
