# SPDX-License-Identifier: GPL-3.0-or-later
"""Hermes message bus producer: hands each event to hermes-nats-sidecar.

Each request carries the last offset this plugin knows, L, as If-Match. So at most one
event can ever become L + 1, and every late copy of a request is refused for ever. What
is left to know is whose event holds L + 1, and the sidecar says it.
"""

from __future__ import annotations

import builtins
import sys
import time
import uuid
from itertools import count
from typing import Any

from lib.datamodel.event import Event
from lib.plugins import AbstractMessageBusProducerPlugin

from .sidecar_http import NOT_STORED, UNKNOWN, Answer, SidecarHttp

HERMES_PLUGIN_CLASSNAME: str | None = "NatsSidecarProducerPlugin"
"""The plugin class name defined in this module file"""

ATTEMPT_SECONDS = 15.0
"""How long one answer is waited for: longer than a sidecar holds a request."""

MIXED_UP = "the sidecar answers with an offset that was not asked for"

TAKEN = 412
OFFSETS_MEAN_NOTHING = (409, 410)
FINAL = (400, 401, 403, 405, 413, 415, 422, 428)
"""Answers that the same request would get again."""


class NatsSidecarError(Exception):
    """An event was not stored, or nobody knows; the text is constant for a cause."""


class _Sent:
    """One event on its way, and what makes it known when it comes again."""

    def __init__(self, key: str, event: Event) -> None:
        self.key = key
        self.body = event.to_json().encode()
        self.object = (event.objtype, event.objpkey)
        # A new initsync needs all its events; a schema is never taken for sent.
        self.may_come_again = (
            event.evcategory == "base" and event.eventtype != "dataschema"
        )


class NatsSidecarProducerPlugin(AbstractMessageBusProducerPlugin):
    """Sends Hermes' events to a NATS JetStream stream, each exactly once."""

    _now = staticmethod(time.monotonic)
    _sleep = staticmethod(time.sleep)

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__(settings)
        self._http = SidecarHttp(settings)
        self._last = 0  # L; open() asks for it
        self._unknown: dict[str, _Sent] = {}  # by key; each was sent with this L
        self._stored_unseen: dict[Any, _Sent] = {}  # by object; Hermes does not know
        self._is_initsync = False
        self._went_through = False  # the last pass, if it was one of base events
        # To count on from one UUID takes less time than one for each event.
        self._keys_start = str(uuid.uuid4())[:24]
        self._numbers = count()

    def open(self) -> None:
        """Learn the last offset; wait for a sidecar that can tell it."""
        ends_at = self._now() + self._settings["send_timeout"]
        while True:
            answer = self._http.ask("/v1/stream", ATTEMPT_SECONDS, self._name())
            if answer.status == 200:
                break
            pause_seconds = answer.retry_after or 0.5
            if self._now() + pause_seconds > ends_at or answer.status in FINAL:
                raise NatsSidecarError(f"No message bus: {answer.reason}")
            self._sleep(pause_seconds)
        self._went_through = False
        if not self._unknown:  # else the next event must be sent with their L
            self._last = answer.document["last_offset"]

    def _name(self) -> dict[str, str]:
        """Tell the sidecar who opens: what was refused may have gone with a pass."""
        last_pass = ";whole" if self._went_through else ""
        return {"Hermes-Producer": self._keys_start + last_pass}

    def close(self) -> None:
        """End the pass."""
        self._http.close()
        pass_went_through = sys.exc_info()[0] is None  # __exit__ calls us
        if pass_went_through and not self._is_initsync:
            self._stored_unseen.clear()  # they would have come again by now
            self._went_through = True
        self._is_initsync = False

    def _send(self, event: Event) -> int | None:
        """Store the event and return its offset; None if it stood there already."""
        sent = _Sent(f"{self._keys_start}{next(self._numbers):012x}", event)
        self._is_initsync |= event.evcategory == "initsync"
        if self._stands_already(sent):
            return None
        started_at = self._now()
        in_doubt = False
        reason = ""
        while (left_seconds := self._left_seconds(started_at, in_doubt)) > 0:
            answer = self._post(sent, min(left_seconds, ATTEMPT_SECONDS))
            reason = answer.reason
            if answer.status in (200, 201):
                self._last = answer.document["offset"]
                self._unknown.clear()
                self._stored_unseen.pop(sent.object, None)
                return self._last
            if answer.status == TAKEN:
                in_doubt = False  # no copy that was sent with this L can land any more
                self._learn(answer)
                if self._stands_already(sent):
                    return None
                continue
            in_doubt = in_doubt or answer.outcome != NOT_STORED
            if answer.status in OFFSETS_MEAN_NOTHING:
                self._unknown.clear()  # the next open() asks anew
                raise self._error(in_doubt, reason)
            if answer.status in FINAL and not in_doubt:
                break
            self._sleep(min(answer.retry_after or 0.2, left_seconds))
        if in_doubt:
            self._unknown[sent.key] = sent
        raise self._error(in_doubt, reason)

    def _left_seconds(self, started_at: float, in_doubt: bool) -> float:
        limit = self._settings["unknown_timeout" if in_doubt else "send_timeout"]
        return float(started_at + limit - self._now())

    def _post(self, sent: _Sent, timeout_seconds: float) -> Answer:
        headers = {
            "Content-Type": "application/json",
            "Idempotency-Key": sent.key,
            "If-Match": f'"{self._last}"',
            "Prefer": "return=minimal",  # the offset is in the ETag
        }
        offset = self._last + 1
        answer = self._http.store(sent.body, headers, offset, timeout_seconds)
        is_tag = answer.status in (200, 201) and "duplicate" not in answer.document
        if is_tag and answer.document.get("offset") != offset:
            self._http.close()  # it was the answer to something else
            return Answer(0, UNKNOWN, MIXED_UP, {})
        return answer

    def _learn(self, answer: Answer) -> None:
        """Take the new last offset, and see whose event holds the one after L."""
        stored = self._unknown.get(answer.document.get("key") or "")
        self._unknown.clear()
        self._last = answer.document["last_offset"]
        if stored is None:
            builtins.__hermes__.logger.warning(  # type: ignore[attr-defined]
                "Another producer writes to the stream of this Hermes"
            )
        elif stored.may_come_again:
            self._stored_unseen[stored.object] = stored

    def _stands_already(self, sent: _Sent) -> bool:
        """Tell whether Hermes sends again what was stored although it was told unknown.

        A later event of the same object ends this: what then looks the same is new.
        """
        unseen = self._stored_unseen.get(sent.object)
        if unseen is None or unseen.body != sent.body:
            return False
        del self._stored_unseen[sent.object]
        return True

    @staticmethod
    def _error(in_doubt: bool, reason: str) -> NatsSidecarError:
        what = "It is not known whether the event was" if in_doubt else "Event not"
        return NatsSidecarError(f"{what} stored: {reason}")
