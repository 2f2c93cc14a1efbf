# SPDX-License-Identifier: GPL-3.0-or-later
"""Events of which nobody could say whether they are stored, and what became of them."""

from __future__ import annotations

import re
from typing import Any

from lib.datamodel.event import Event

ENDS_ALL = ("init-stop", "dataschema")

_IN_A_BATCH = re.compile(r"(.+)\.([1-9][0-9]{0,3})", re.ASCII)
"""The key of a batch, and the place of a message in it."""


class Sent:
    """One event on its way, and what makes it known when it comes again."""

    media_type = "application/json"
    count = 1
    more_seconds = 0.0  # that its sidecar may take
    is_begun = False  # written, and its answer not read yet

    def __init__(self, key: str, event: Event) -> None:
        self.key = key
        self.last = 0  # L of a doubt, or of what stands
        self.is_seen = False  # stands, and Hermes may know it
        self.kind = event.eventtype
        self.body = event.to_json().encode()
        self.object = (event.objtype, event.objpkey)
        self.is_of_initsync = (event.evcategory, event.eventtype) == (
            "initsync",
            "added",
        )
        # A new initsync needs all its events; a schema is never taken for sent.
        self.may_come_again = (
            event.evcategory == "base" and event.eventtype != "dataschema"
        )


class Doubts:
    """All of them were sent with the same last offset, so one at most is stored.

    Of a batch a part may be, and more may follow while a sidecar still has it.
    """

    def __init__(self) -> None:
        self._unknown: dict[str, Sent] = {}  # by key
        self._stored_unseen: dict[Any, Sent] = {}  # by object; Hermes does not know

    @property
    def are_open(self) -> bool:
        """Tell whether one of them may still be stored."""
        return bool(self._unknown)

    @property
    def stored_count(self) -> int:
        """Count the events that are stored and that Hermes may send again."""
        return len(self._stored_unseen)

    @property
    def unseen_count(self) -> int:
        """Count those of them of which Hermes does not know that they are stored."""
        return sum(not sent.is_seen for sent in self._stored_unseen.values())

    def add(self, sent: Sent, last: int) -> None:
        """Remember an event; the next one is to be sent with its last offset."""
        sent.last = last
        self._unknown[sent.key] = sent

    def end(self, key: object = None) -> None:
        """Know whose event was stored, and no other will be but the rest of a batch."""
        stored, place = self._find(key)
        self._unknown.clear()
        if stored is None:
            return
        if stored.may_come_again:
            self.remember(stored)
        if place < stored.count:
            self._unknown[stored.key] = stored

    def offset_of(self, key: object) -> int | None:
        """Give the offset of a message with this key, if it is of one of them."""
        sent, place = self._find(key)
        return None if sent is None else sent.last + place

    def is_in_a_batch(self, key: object) -> bool:
        """Tell whether this is the key of a message of one of them, a batch."""
        sent, _ = self._find(key)
        return sent is not None and sent.key != key

    def _find(self, key: object) -> tuple[Sent | None, int]:
        """Find what a message with this key is of, and its place in that."""
        match = _IN_A_BATCH.fullmatch(str(key))
        if match is None:
            return self._unknown.get(str(key)), 1
        return self._unknown.get(match[1]), int(match[2])

    def remember(self, sent: Sent, *, is_seen: bool = False) -> None:
        """Recognise this event when it comes again."""
        sent.is_seen = is_seen
        self._stored_unseen[sent.object] = sent

    def recognise(self, sent: Sent) -> Sent | None:
        """Give what Hermes sends again, if it stands although it was told unknown."""
        unseen = self._stored_unseen.get(sent.object)
        self._end_by(sent.object, sent.kind)
        return unseen if unseen is not None and unseen.body == sent.body else None

    def _end_by(self, event_object: Any, kind: str | None) -> None:
        """Take what comes after an event for new, whatever becomes of that event.

        Any one of the same object. Whoever begins with an initsync lacks what it was
        made without, and a schema may drop objects. A removal may take others with it,
        as a user's memberships.
        """
        if kind in ENDS_ALL:
            self._stored_unseen.clear()
        self._stored_unseen.pop(event_object, None)
        if kind == "removed":
            self._stored_unseen = {
                each: stored
                for each, stored in self._stored_unseen.items()
                if stored.kind == "removed"
            }

    def forget(self, sent: Sent) -> None:
        """Recognise this event no more."""
        self._stored_unseen.pop(sent.object, None)

    def forget_stored(self) -> None:
        """Recognise nothing any more that is known to stand."""
        self._stored_unseen.clear()

    def end_recognition(self) -> None:
        """Take what comes from now on for new, whichever of these may stand."""
        self.forget_stored()
        for sent in self._unknown.values():
            sent.may_come_again = False
