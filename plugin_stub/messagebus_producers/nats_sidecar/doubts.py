# SPDX-License-Identifier: GPL-3.0-or-later
"""Events of which nobody could say whether they are stored, and what became of them."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from lib.datamodel.event import Event

ENDS_ALL = ("init-stop", "dataschema")


class Sent:
    """One event on its way, and what makes it known when it comes again."""

    def __init__(self, key: str, event: Event) -> None:
        self.key = key
        self.last = 0  # where it was sent with this L and stands
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
    """All of them were sent with the same last offset, so one at most is stored."""

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

    def add(self, sent: Sent) -> None:
        """Remember an event; the next one is to be sent with its last offset."""
        self._unknown[sent.key] = sent

    def end(self, key: object = None, last: int = 0) -> bool:
        """Know whose event was stored, and no other will be; tell if it is of these."""
        stored = self._unknown.get(key) if isinstance(key, str) else None
        self._unknown.clear()
        if stored is not None and stored.may_come_again:
            stored.last = last
            self.remember(stored)
        return stored is not None

    def may_hold(self, key: object) -> bool:
        """Tell whether this is the key of one of them."""
        return isinstance(key, str) and key in self._unknown

    def remember(self, sent: Sent) -> None:
        """Recognise this event when it comes again."""
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

    def forget_written(self, page: dict[str, Any], offset: int) -> int:
        """Forget what is ended by these events of another producer.

        Give the offset to read on from. Nothing is recognised any more where the page
        cannot be read: an event twice is better than one lost.
        """
        with suppress(Exception):  # anything may stand there
            if page["next_offset"] > offset:
                events = [Event.from_json(each["data"]) for each in page["events"]]
                for event in events:
                    self._end_by((event.objtype, event.objpkey), event.eventtype)
                return int(page["next_offset"])
        self._stored_unseen.clear()
        return offset
