# SPDX-License-Identifier: Apache-2.0
"""What a hermes-server that was killed had sent and may send again. Pure.

Hermes saves its cache when a pass ends. One that is killed before computes the same
events anew at its next start, and only the stream knows that they are stored. Inside
one pass an object has one event: so what stands already is the newest event of its
object, where that is of the pass that was cut off.
docs/adr/0015-a-killed-hermes-server.md.
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sidecar.model.event import parse_head
from sidecar.model.producer_key import ProducerKey, parse_producer_key
from sidecar.model.scan import INITSYNC, STOP

if TYPE_CHECKING:
    from sidecar.model.publish_reply import Position, StoredMessage

BASE: Final = "base"
MAX_MESSAGES: Final = 100_000
"""Of a pass that is read; of a longer one nothing is recognised."""

_CHANGES = ("added", "modified", "removed")
_OBJECT = ("objtype", "objpkey")


class LastPass(NamedTuple):
    """The pass that began after the offset `start`: None where there is none.

    `objects` are sorted texts `DIGEST OFFSET`; none and not `is_complete` where the
    pass is too long.
    """

    start: int | None
    objects: list[str]
    is_complete: bool
    position: Position


class _Newest(NamedTuple):
    """The newest event of an object; `attempt` is None for a removal."""

    sequence: int
    attempt: ProducerKey | None


class PassReader:
    """Takes the messages after a pass' start in their order; keeps digests alone."""

    def __init__(self, start: int, process: str) -> None:
        """Look for this pass, or one begun since, of any process but the asking one."""
        self._start = start
        self._process = process
        self._newest: dict[str, _Newest] = {}  # by the object's digest
        self._remover: ProducerKey | None = None
        self._removed = 0  # the newest removal, which is of that attempt
        self._removed_before = 0  # the newest of any other
        self.newest_base: int | None = None

    def take(self, message: StoredMessage | None) -> None:
        """Take the next message; None where it is missing."""
        head = {} if message is None else parse_head(message.body)
        if message is not None and message.category == BASE:
            self.newest_base = message.sequence
        if message is None or _ends_all(message, head):
            self._newest.clear()
        elif message.category == BASE:
            self._take_base(message, head)

    def _take_base(self, message: StoredMessage, head: dict[str, Any]) -> None:
        change = head["eventtype"]
        key = parse_producer_key(message.key)
        if change == "removed":
            if key != self._remover:
                self._removed_before = self._removed
            self._remover, self._removed = key, message.sequence
        digest = digest_of(self._process, head.get("objtype"), head.get("objpkey"))
        self._newest.pop(digest, None)
        # One begun since: what was in flight when its process died comes last.
        if (
            key
            and self._start <= key.pass_start < message.sequence
            and key.process != self._process
        ):
            attempt = None if change == "removed" else key
            self._newest[digest] = _Newest(message.sequence, attempt)

    def objects(self) -> list[str]:
        """Give each object whose newest event is of the pass, and that one's offset."""
        return sorted(
            f"{digest} {newest.sequence}"
            for digest, newest in self._newest.items()
            if newest.attempt is None or newest.sequence > self._removed_after(newest)
        )

    def _removed_after(self, newest: _Newest) -> int:
        """Give the newest removal that may have taken this object with it.

        As a user's memberships: their own attempt removes those by their own events.
        """
        is_own = newest.attempt == self._remover
        return self._removed_before if is_own else self._removed


def ends(message: StoredMessage | None, body: bytes) -> bool:
    """Tell whether an event is new, if this message was stored behind one like it.

    None for one that is missing, which may have been anything.
    """
    if message is None:
        return True
    head, ours = parse_head(message.body), parse_head(body)
    if _ends_all(message, head):
        return True
    if message.category != BASE:
        return False
    is_of_object = all(head.get(name) == ours.get(name) for name in _OBJECT)
    is_removal = head["eventtype"] == "removed"
    return is_of_object or (is_removal and ours.get("eventtype") != "removed")


def _ends_all(message: StoredMessage, head: dict[str, Any]) -> bool:
    """Tell whether each event before this message is new when it comes again."""
    change = head.get("eventtype")
    if message.category == INITSYNC:
        return change == STOP  # clients begin with it, and it was made without them
    # A schema, or what nobody can read.
    return message.category == BASE and change not in _CHANGES


def is_same_event(one: bytes, other: bytes) -> bool:
    """Tell whether two texts are one event as two processes of Hermes write it.

    Each gives the attributes of an added object in an order of its own: they come out
    of a set. Whatever else differs, be it white space, is another event.
    """
    if len(one) != len(other):
        return False
    return one == other or _ordered(one) == _ordered(other)


def _ordered(body: bytes) -> tuple[bytes, list[bytes], bytes]:
    """Take apart what json.dumps(indent=4) wrote; no string holds a line's end."""
    head, _, rest = body.partition(b'\n    "objattrs": {')
    members, _, tail = rest.partition(b"\n    }")
    return head, sorted((b"," + members).split(b',\n        "')), tail


def digest_of(process: str, object_type: object, object_key: object) -> str:
    """Give eleven characters that stand for an object between us and one process."""
    text = json.dumps([object_type, object_key]).encode()
    digest = blake2b(text, digest_size=8, key=process.encode()).digest()
    return urlsafe_b64encode(digest)[:11].decode()
