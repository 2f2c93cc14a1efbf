# SPDX-License-Identifier: GPL-3.0-or-later
"""Hermes message bus producer: hands each event to hermes-nats-sidecar.

Each request carries the last offset this plugin knows, L, as If-Match. So at most one
event can ever become L + 1, and every late copy of a request is refused for ever. What
is left to know is whose event holds L + 1, and the sidecar says it. That of another
producer ends the pass: Hermes computed what is left of it before that event.
"""

from __future__ import annotations

import sys
import time
import uuid
from contextlib import suppress
from itertools import count
from typing import Any

from lib.datamodel.event import Event
from lib.plugins import AbstractMessageBusProducerPlugin

from .sidecar_http import NOT_STORED, UNKNOWN, Answer, SidecarHttp

HERMES_PLUGIN_CLASSNAME: str | None = "NatsSidecarProducerPlugin"
"""The plugin class name defined in this module file"""

ATTEMPT_SECONDS = 15.0
"""How long one answer is waited for; the sidecar is told, and answers before."""

LEAST_SECONDS = 3.0
"""No attempt is shorter: a sidecar needs two to see that NATS is silent."""

MIXED_UP = "the sidecar answers with an offset that was not asked for"
ANOTHER_WROTE = "another producer wrote to the stream, so Hermes has to compute anew"

TAKEN, AHEAD, GONE = 412, 409, 410
FINAL = (400, 401, 403, 405, 413, 415, 422, 428)
"""Answers that the same request would get again."""


class NatsSidecarError(Exception):
    """An event was not stored, or nobody knows; the text is constant for a cause."""


class _Sent:
    """One event on its way, and what makes it known when it comes again."""

    def __init__(self, key: str, event: Event) -> None:
        self.key = key
        self.is_removal = event.eventtype == "removed"
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
        self._ended = ""  # why this pass sends nothing more
        self._is_initsync = False
        self._went_through = False  # the last pass, if it was one of base events
        # To count on from one UUID takes less time than one for each event.
        self._keys_start = str(uuid.uuid4())[:24]
        self._numbers = count()

    def open(self) -> None:
        """Learn the last offset; wait for a sidecar that can tell it."""
        stream = self._ask_stream(self._name())
        self._went_through = False
        last = stream["last_offset"]
        if self._stored_unseen and last > self._last and not self._is_all_ours(stream):
            self._forget_written(last)
        if not self._unknown:  # else the next event must be sent with their L
            self._last = max(last, self._last)  # what was stored is not behind the end
        self._ended = ""

    def _ask_stream(self, headers: dict[str, str] | None = None) -> dict[str, Any]:
        answer = self._ask("/v1/stream", headers)
        if answer.status != 200 or type(answer.document.get("last_offset")) is not int:
            raise NatsSidecarError(f"No message bus: {answer.reason}")
        return answer.document

    def _ask(self, path: str, headers: dict[str, str] | None = None) -> Answer:
        ends_at = self._now() + self._settings["send_timeout"]
        while True:
            answer = self._http.ask(path, ATTEMPT_SECONDS, headers)
            pause_seconds = answer.retry_after or 0.5
            if answer.status in (200, *FINAL, AHEAD, GONE):
                return answer
            if self._now() + pause_seconds > ends_at:
                raise NatsSidecarError(f"No message bus: {answer.reason}")
            self._sleep(pause_seconds)

    def _name(self) -> dict[str, str]:
        """Tell the sidecar who opens: what was refused may have gone with a pass."""
        last_pass = ";whole" if self._went_through else ""
        return {"Hermes-Producer": self._keys_start + last_pass}

    def close(self) -> None:
        """End the pass."""
        self._http.close()
        if sys.exc_info()[0] is None:  # __exit__ calls us: the pass went through
            # They would have come again by now; or an initsync was made without them,
            # of Hermes' cache, and whoever begins with it needs them after it.
            self._stored_unseen.clear()
            self._went_through = not self._is_initsync
        self._is_initsync = False

    def _send(self, event: Event) -> int | None:
        """Store the event and return its offset; None if it stood there already."""
        if self._ended:
            raise NatsSidecarError(self._ended)
        sent = _Sent(self._new_key(), event)
        self._is_initsync = event.evcategory == "initsync"
        if self._stands_already(sent):
            self._stored_unseen[sent.object] = sent  # until nobody wrote after it
            self._need_the_end()
            del self._stored_unseen[sent.object]
            return None
        started_at = self._now()
        in_doubt, is_elsewhere = False, True
        answer = Answer(0, NOT_STORED, "", {})
        while (left_seconds := self._left_seconds(started_at, in_doubt)) > 0:
            answer = self._post(sent, left_seconds)
            is_elsewhere = is_elsewhere and answer.status == AHEAD
            if answer.status in (200, 201):
                self._last = answer.document["offset"]
                self._unknown.clear()
                return self._last
            if answer.status == TAKEN:
                in_doubt = False  # no copy that was sent with this L can land any more
                self._learn(answer)
                if self._stands_already(sent):
                    return None
                # nats-server 2.11 may call the id of a refused copy "in process".
                sent.key = self._new_key()
                continue
            if answer.status == GONE:
                break  # no server's stream ever begins earlier: nobody will know more
            in_doubt = in_doubt or answer.outcome != NOT_STORED
            # An old leader may say it for a moment: what is remembered outlives that.
            is_final = is_elsewhere and not (self._unknown or self._stored_unseen)
            if (is_final or answer.status in FINAL) and not in_doubt:
                break
            self._sleep(min(answer.retry_after or 0.2, left_seconds))
        error = self._error(in_doubt or answer.outcome != NOT_STORED, answer.reason)
        if answer.status == GONE or (is_elsewhere and not in_doubt):
            self._unknown.clear()  # all that is known is of another stream
            self._stored_unseen.clear()
            self._last = 0
            self._ended = str(error)
        elif in_doubt:
            self._unknown[sent.key] = sent
        raise error

    def _new_key(self) -> str:
        return f"{self._keys_start}{next(self._numbers):012x}"

    def _left_seconds(self, started_at: float, in_doubt: bool) -> float:
        limit = self._settings["unknown_timeout" if in_doubt else "send_timeout"]
        return float(started_at + limit - self._now())

    def _post(self, sent: _Sent, left_seconds: float) -> Answer:
        wait_seconds = max(min(left_seconds, ATTEMPT_SECONDS), LEAST_SECONDS)
        headers = {
            "Content-Type": "application/json",
            "Idempotency-Key": sent.key,
            "If-Match": f'"{self._last}"',
            # The offset is in the ETag; the answer comes while we wait for it.
            "Prefer": f"return=minimal, wait={int(wait_seconds)}",
        }
        offset = self._last + 1
        try:
            answer = self._http.store(sent.body, headers, offset, wait_seconds)
        except BaseException:
            self._unknown[sent.key] = sent  # whatever ended it: the request may be out
            raise
        if answer.status in (200, 201) and answer.document.get("offset") != offset:
            self._http.close()  # it was the answer to something else
            return Answer(0, UNKNOWN, MIXED_UP, {})
        return answer

    def _learn(self, answer: Answer) -> None:
        """See whose event holds L + 1; that of another producer ends the pass."""
        stored = self._unknown.get(answer.document.get("key") or "")
        self._unknown.clear()  # no other of them will ever stand
        if stored is not None:
            self._last += 1
            if stored.may_come_again:
                self._stored_unseen[stored.object] = stored
        if stored is None or answer.document.get("last_offset", 0) > self._last:
            self._end_pass()

    def _end_pass(self) -> None:
        self._ended = str(self._error(False, ANOTHER_WROTE))
        raise NatsSidecarError(self._ended)

    def _stands_already(self, sent: _Sent) -> bool:
        """Tell whether Hermes sends again what was stored although it was told unknown.

        Any event of the same object ends this, whatever becomes of it: what then looks
        the same is new. So does a removal, for it may take others with it: a user's
        memberships.
        """
        unseen = self._stored_unseen.pop(sent.object, None)
        if sent.is_removal:
            self._stored_unseen = {
                each: stored
                for each, stored in self._stored_unseen.items()
                if stored.is_removal
            }
        return unseen is not None and unseen.body == sent.body

    def _need_the_end(self) -> None:
        """End the pass if another producer wrote; no fence sees it here."""
        if not self._is_all_ours(self._ask_stream()):
            self._end_pass()

    def _is_all_ours(self, stream: dict[str, Any]) -> bool:
        """Tell whether nothing is behind L but what was told unknown."""
        is_behind = stream.get("last_key") in self._unknown
        return bool(stream["last_offset"] == self._last + is_behind)

    def _forget_written(self, last: int) -> None:
        """Forget the objects of which another producer stored an event after L.

        All of them where that cannot be read: an event twice is better than one lost.
        """
        # It waits for a replica that lags.
        path = f"/v1/events?offset={self._last + 1}&limit=5000&wait=5"
        page = self._ask(path).document
        with suppress(Exception):  # anything may stand there
            if page["next_offset"] > last:
                events = [Event.from_json(each["data"]) for each in page["events"]]
                for event in events:
                    self._stored_unseen.pop((event.objtype, event.objpkey), None)
                return
        self._stored_unseen.clear()

    @staticmethod
    def _error(in_doubt: bool, reason: str) -> NatsSidecarError:
        what = "It is not known whether the event was" if in_doubt else "Event not"
        return NatsSidecarError(f"{what} stored: {reason}")
