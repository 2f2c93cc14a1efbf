# SPDX-License-Identifier: GPL-3.0-or-later
"""Hermes message bus producer: hands each event to hermes-nats-sidecar.

Each request carries the last offset this plugin knows, L, as If-Match. So at most one
event can ever become L + 1, and every late copy of a request is refused for ever. What
is left to know is whose event holds L + 1, and the sidecar says it. That of another
producer ends the pass: Hermes computed what is left of it before that event.
"""

from __future__ import annotations

import builtins
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from typing import Any, NoReturn

from lib.datamodel.event import Event
from lib.plugins import AbstractMessageBusProducerPlugin

from .doubts import Doubts, Sent
from .refused import Refused
from .sidecar_http import NOT_STORED, UNKNOWN, Answer, SidecarHttp
from .stopping import Stopping

HERMES_PLUGIN_CLASSNAME: str | None = "NatsSidecarProducerPlugin"
"""The plugin class name defined in this module file"""

ATTEMPT_SECONDS = 15.0
"""How long one answer is waited for; the sidecar is told, and answers before."""

LEAST_SECONDS = 3.0
"""No attempt is shorter: a sidecar needs two to see that NATS is silent."""

FINAL_SECONDS = 10.0
"""How long a final answer is asked for again, since a token is changed on one side
first. Nothing is raised earlier: Hermes tries some things again without any pause."""

MIXED_UP = "the sidecar answers with an offset that was not asked for"
ANOTHER_WROTE = "another producer wrote to the stream, so Hermes has to compute anew"
ENDS_BEFORE = "the stream ends before what was stored in it: was it restored?"
SOURCE_WENT_BACK = (
    "%d events of a pass that was cut off are in the stream and did not come again: "
    "their source went back meanwhile. Clients keep what these events say until the "
    "objects change once more."
)
STOPPED = "hermes-server is stopping, and goes on from here at its next start"

TAKEN, AHEAD, GONE = 412, 409, 410
OF_THE_EVENT = (400, 413, 422)
FINAL = (*OF_THE_EVENT, 401, 403, 404, 405, 415, 421, 428)
"""Answers that the same request would get again."""


class NatsSidecarError(Exception):
    """An event was not stored, or nobody knows; the text is constant for a cause."""


class NatsSidecarProducerPlugin(AbstractMessageBusProducerPlugin):
    """Sends Hermes' events to a NATS JetStream stream, each exactly once."""

    _now = staticmethod(time.monotonic)
    _sleep = staticmethod(time.sleep)

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__(settings)
        self._http = SidecarHttp(settings)
        self._last = 0  # L; open() asks for it
        self._doubts = Doubts()
        self._refused = Refused()
        self._stopping = Stopping(self._now)
        self._ended = ""  # why this pass sends nothing more
        self._is_initsync = False
        self._went_through = False  # the last pass, if it was one of base events
        # To count on from one UUID takes less time than one for each event.
        self._keys_start = str(uuid.uuid4())[:24]
        self._numbers = count()

    def open(self) -> None:
        """Learn the last offset; wait for a sidecar that can tell it."""
        self._stopping.listen()
        with self._unhurried():
            # What was refused may have gone with the last pass: /health is told.
            last_pass = ";whole" if self._went_through else ""
            stream = self._ask_stream({"Hermes-Producer": self._keys_start + last_pass})
            self._went_through = False
            last: int = stream["last_offset"]
            if self._doubts.stored_count and last > self._last:
                self._forget_written(stream)
        if not self._doubts.are_open:  # else the next event must be sent with their L
            self._last = max(last, self._last)  # what was stored is not behind the end
        self._ended = ""

    @contextmanager
    def _unhurried(self) -> Iterator[None]:
        """Raise nothing before FINAL_SECONDS have passed."""
        started_at = self._now()
        try:
            yield
        except Exception:
            if (left_seconds := self._left_seconds(started_at, False, True)) > 0:
                self._sleep(left_seconds)
            raise

    def _ask_stream(self, headers: dict[str, str] | None = None) -> dict[str, Any]:
        answer = self._ask("/v1/stream", headers)
        if answer.status != 200:
            raise NatsSidecarError(f"No message bus: {answer.reason}")
        return answer.document

    def _ask(self, path: str, headers: dict[str, str] | None = None) -> Answer:
        """Give a good answer or a final one; raise if none comes in time."""
        started_at = self._now()
        while True:
            answer = self._http.ask(path, ATTEMPT_SECONDS, headers)
            pause_seconds = answer.retry_after or 0.5
            is_final = answer.status in (*FINAL, AHEAD, GONE)
            left_seconds = self._left_seconds(started_at, False, is_final)
            if answer.status == 200 or (is_final and left_seconds < pause_seconds):
                return answer
            if left_seconds < pause_seconds:
                raise NatsSidecarError(f"No message bus: {answer.reason}")
            self._sleep(pause_seconds)

    def close(self) -> None:
        """End the pass."""
        self._http.close()
        if sys.exc_info()[0] is None:  # __exit__ calls us: the pass went through
            # They would have come again by now; an initsync has ended it before.
            if count := self._doubts.stored_count:
                vars(builtins)["__hermes__"].logger.warning(SOURCE_WENT_BACK, count)
            self._doubts.end_recognition()
            self._refused = Refused()
            self._went_through = not self._is_initsync
        self._is_initsync = False

    def _send(self, event: Event) -> int | None:
        """Store the event and return its offset; None if it is stored already."""
        self._stop_in_time(event)
        with self._unhurried():
            if self._ended:
                raise NatsSidecarError(self._ended)
            sent = Sent(self._new_key(), event)
            self._is_initsync = event.evcategory == "initsync"
            if self._is_initsync and event.eventtype == "init-start":
                ask = partial(self._post, ATTEMPT_SECONDS)
                self._ended = self._refused.text(ask, self._now())
                if self._ended:
                    return None  # the next one raises: another place is another e-mail
            return self._store(sent)

    def _stop_in_time(self, event: Event) -> None:
        """End a long pass between two events; Hermes saves what was sent until then.

        Not while it would lose what is known of a doubt, nor an initsync, which nobody
        would ask for again.
        """
        if (
            self._stopping.is_due
            and event.evcategory == "base"
            and not (self._doubts.are_open or self._doubts.stored_count)
        ):
            raise self._error(False, STOPPED)

    def _store(self, sent: Sent) -> int | None:
        stored = self._doubts.recognise(sent)
        if stored is not None and self._stands(stored):
            return None
        started_at = self._now()
        in_doubt, is_elsewhere, is_final = False, True, False
        answer = Answer(0, NOT_STORED, "", {})
        while (left_seconds := self._left_seconds(started_at, in_doubt, is_final)) > 0:
            try:
                answer = self._post(left_seconds, sent, self._last)
            except BaseException:
                self._doubts.add(sent)  # whatever ended it: the request may be out
                raise
            is_elsewhere = is_elsewhere and answer.status == AHEAD
            if answer.status in (200, 201):
                self._last += 1
                self._doubts.end()
                return self._last
            if answer.status == TAKEN:
                in_doubt = False  # no copy that was sent with this L can land any more
                self._learn(answer)
                if self._doubts.recognise(sent) is not None:
                    return None  # it was shown just now
                # nats-server 2.11 may call the id of a refused copy "in process".
                sent.key = self._new_key()
                continue
            if answer.status == GONE:
                break  # no server's stream ever begins earlier: nobody will know more
            in_doubt = in_doubt or answer.outcome != NOT_STORED
            # An old leader may say it for a moment: what is remembered outlives that.
            is_other = is_elsewhere and not (
                self._doubts.are_open or self._doubts.stored_count
            )
            is_final = is_other or answer.status in FINAL
            least_seconds = 1.0 if is_final else 0.2
            self._sleep(min(answer.retry_after or least_seconds, left_seconds))
        error = self._error(in_doubt or answer.outcome != NOT_STORED, answer.reason)
        if answer.status == GONE or (is_elsewhere and not in_doubt):
            self._forget_stream()
            self._ended = str(error)
        elif in_doubt:
            self._doubts.add(sent)
        elif answer.status in OF_THE_EVENT and sent.is_of_initsync:
            self._refused.remember(sent, self._last, str(error), self._now())
        raise error

    def _new_key(self) -> str:
        return f"{self._keys_start}{next(self._numbers):012x}"

    def _left_seconds(self, started_at: float, in_doubt: bool, is_final: bool) -> float:
        limit = self._settings["unknown_timeout" if in_doubt else "send_timeout"]
        if is_final and not in_doubt:
            limit = min(limit, FINAL_SECONDS)
        return float(started_at + limit - self._now())

    def _post(self, left_seconds: float, sent: Sent, last: int) -> Answer:
        wait_seconds = max(min(left_seconds, ATTEMPT_SECONDS), LEAST_SECONDS)
        headers = {
            "Content-Type": "application/json",
            "Idempotency-Key": sent.key,
            "If-Match": f'"{last}"',
            # The offset is in the ETag; the answer comes while we wait for it.
            "Prefer": f"return=minimal, wait={int(wait_seconds)}",
        }
        answer = self._http.store(sent.body, headers, last + 1, wait_seconds)
        if answer.status in (200, 201) and answer.document["offset"] != last + 1:
            self._http.close()  # it was the answer to something else
            return Answer(0, UNKNOWN, MIXED_UP, {})
        return answer

    def _learn(self, answer: Answer) -> None:
        """See whose event holds L + 1; that of another producer ends the pass."""
        is_ours = self._doubts.end(answer.document.get("key"), self._last)
        if is_ours:
            self._last += 1
        if not is_ours or answer.document.get("last_offset", 0) > self._last:
            self._end_pass(ANOTHER_WROTE)

    def _end_pass(self, reason: str) -> NoReturn:
        error = self._error(False, reason)
        self._ended = str(error)
        raise error

    def _stands(self, stored: Sent) -> bool:
        """Ask for an event that is to be recognised, by its own request once more.

        False where something else stands there: another stream, or one restored.
        """
        self._doubts.remember(stored)  # until it is known
        self._need_the_end()
        started_at = self._now()
        while (left_seconds := self._left_seconds(started_at, False, False)) > 0:
            answer = self._post(left_seconds, stored, stored.last)
            if answer.status in (200, 201):
                self._doubts.forget(stored)
                return True
            if answer.status in (TAKEN, GONE):
                self._doubts.forget_stored()
                return False
            self._sleep(min(answer.retry_after or 0.2, left_seconds))
        raise self._error(False, answer.reason)

    def _need_the_end(self) -> None:
        """End the pass if another producer wrote; no fence sees it here."""
        started_at = self._now()
        while (stream := self._ask_stream())["last_offset"] < self._last:
            # An old leader may say so for a moment; else the stream was restored.
            if self._left_seconds(started_at, False, False) <= 0:
                self._forget_stream()
                self._end_pass(ENDS_BEFORE)
            self._sleep(0.5)
        if not self._is_all_ours(stream):
            self._end_pass(ANOTHER_WROTE)

    def _forget_stream(self) -> None:
        """Begin anew, since all that is known is of another stream."""
        self._doubts = Doubts()
        self._last = 0

    def _is_all_ours(self, stream: dict[str, Any]) -> bool:
        """Tell whether nothing is behind L but what was told unknown."""
        is_behind = self._doubts.may_hold(stream.get("last_key"))
        return bool(stream["last_offset"] == self._last + is_behind)

    def _forget_written(self, stream: dict[str, Any]) -> None:
        """Recognise nothing that another producer wrote anew behind L."""
        if self._is_all_ours(stream):
            return
        offset, until = self._last + 1, self._now() + ATTEMPT_SECONDS
        while self._doubts.stored_count and offset <= stream["last_offset"]:
            if self._now() > until:
                self._doubts.forget_stored()
                return
            # It waits for a replica that lags; what comes may be only a part.
            page = self._ask(f"/v1/events?offset={offset}&limit=5000&wait=5")
            offset = self._doubts.forget_written(page.document, offset)

    @staticmethod
    def _error(in_doubt: bool, reason: str) -> NatsSidecarError:
        what = "It is not known whether the event was" if in_doubt else "Event not"
        return NatsSidecarError(f"{what} stored: {reason}")
