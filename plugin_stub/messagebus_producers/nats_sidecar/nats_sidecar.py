# SPDX-License-Identifier: GPL-3.0-or-later
"""Hermes message bus producer: hands each event to hermes-nats-sidecar.

Each request carries the last offset this plugin knows, L, as If-Match. So at most one
event can ever become L + 1, and every late copy of a request is refused for ever. What
is left to know is whose event holds L + 1, and the sidecar says it. That of another
producer ends the pass: Hermes computed what is left of it before that event.

_send of an object of an initsync returns before it is stored. All of them stand when
_send of the init-stop returned.

Long because it is the one class that Hermes loads: each method needs L and the doubts.
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

from .doubts import ENDS_ALL, Doubts, Sent
from .gathered import Batch, Gathered
from .last_pass import LastPass
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
ANOTHER_WROTE = (
    "another producer wrote to the stream; Hermes computes its changes again"
)
ENDS_BEFORE = "the stream ends before an event that was stored in it: was it restored?"
SOURCE_WENT_BACK = (
    "%d events of an interrupted pass are in the stream and did not come again: their "
    "source has returned to the old values. Clients keep the values of these events "
    "until the objects change again."
)
RECOGNISED = "recognised %d events that a killed hermes-server had sent"
NOT_AGAIN = (
    "%d further events of the pass in which hermes-server was killed did not come "
    "again: its cache was saved after them, or their source went back meanwhile. In "
    "the second case clients keep what these events say: an initsync corrects it."
)
TOO_LONG = (
    "since the last pass that is known to have ended more than %d events were stored: "
    "if hermes-server was killed meanwhile, those that come again are stored twice"
)
MOST_EVENTS = 100_000
STOPPED = "hermes-server is stopping; it sends the rest after its next start"

TAKEN, AHEAD, GONE = 412, 409, 410
OF_THE_EVENT = (400, 413, 422)
NO_BATCHES = 415  # of a sidecar of before they were
FINAL = (*OF_THE_EVENT, 401, 403, 404, 405, NO_BATCHES, 421, 428)
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
        self._gathered: Gathered | None = None  # in an initsync
        self._stopping = Stopping(self._now)
        self._ended = ""  # why this pass sends nothing more
        self._is_initsync = False
        self._went_through = False  # the last pass, if it was one of base events
        # To count on from one UUID takes less time than one for each event.
        self._keys_start = str(uuid.uuid4())[:24]
        self._attempt = 0
        self._numbers = count()
        self._pass: int | None = None  # after which offset it began; a part of its keys
        self._last_pass = LastPass(self._keys_start)
        self._newest: Sent | None = None  # that stands; Hermes may not know it yet

    def open(self) -> None:
        """Learn the last offset; wait for a sidecar that can tell it."""
        self._stopping.listen()
        self._drop_gathered()
        with self._unhurried():
            # What was refused may have gone with the last pass: /health is told.
            last_pass = ";whole" if self._went_through else ""
            stream = self._document(
                "/v1/stream", {"Hermes-Producer": self._keys_start + last_pass}
            )
            self._went_through = False
            last: int = stream["last_offset"]
        key = stream.get("last_key")
        if self._doubts.is_in_a_batch(key) and self._doubts.offset_of(key) == last:
            self._doubts.end(key)  # all of it before that stands too
            self._last = max(last, self._last)
        if not self._doubts.are_open:  # else the next event must be sent with their L
            self._last = max(last, self._last)  # what was stored is not behind the end
        self._ended = ""
        self._attempt += 1
        self._last_pass.is_known = False

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

    def _document(
        self,
        path: str,
        headers: dict[str, str] | None = None,
        body: bytes = b"",
        wanted: str = "last_offset",
    ) -> dict[str, Any]:
        """Give the document of a good answer; raise if none comes in time."""
        started_at = self._now()
        while True:
            answer = self._http.ask(path, ATTEMPT_SECONDS, headers, body, wanted)
            if answer.status == 200:
                return answer.document
            pause_seconds = answer.retry_after or 0.5
            is_final = answer.status in (*FINAL, AHEAD, GONE)
            if self._left_seconds(started_at, False, is_final) < pause_seconds:
                raise NatsSidecarError(f"No message bus: {answer.reason}")
            self._sleep(pause_seconds)

    def close(self) -> None:
        """End the pass. Hermes would not hear of what went wrong: nothing is sent."""
        self._drop_gathered()
        self._http.close()
        if sys.exc_info()[0] is None:  # __exit__ calls us: the pass went through
            # They would have come again by now; an initsync has ended it before.
            self._warn(SOURCE_WENT_BACK, self._doubts.unseen_count)
            self._doubts.end_recognition()
            if self._last_pass.recognised_count:
                self._warn(NOT_AGAIN, self._last_pass.left_count)
            self._end_last_pass()
            self._pass = None
            self._refused = Refused()
            self._went_through = not self._is_initsync
        elif self._newest is not None:
            # Hermes failed, not we: before or after it noted that this one was sent.
            self._doubts.remember(self._newest, is_seen=True)
        self._newest = None
        self._is_initsync = False

    def _end_last_pass(self) -> None:
        self._warn(RECOGNISED, self._last_pass.recognised_count)
        self._last_pass.end()

    @staticmethod
    def _warn(text: str, count: int) -> None:
        if count:
            vars(builtins)["__hermes__"].logger.warning(text, count)

    def _send(self, event: Event) -> int | None:
        """Store the event and return its offset; None if it is stored already.

        None for an object of an initsync, too, which is stored until its init-stop.
        """
        self._newest = None
        self._stop_in_time(event)
        with self._unhurried():
            if self._gathered is not None:
                if event.evcategory == "initsync" and event.eventtype == "added":
                    sent = Sent(self._new_key(), event)
                    self._doubts.recognise(sent)  # what was stored unseen is older
                    self._gathered.add(sent)
                    return None
                if event.eventtype == "init-stop":
                    self._gathered.store()
                self._drop_gathered()
            if self._ended:
                raise NatsSidecarError(self._ended)
            if event.eventtype in ENDS_ALL:
                self._end_last_pass()
            if event.evcategory == "base":
                self._begin_pass()
            sent = Sent(self._new_key(), event)
            self._is_initsync = event.evcategory == "initsync"
            if self._is_initsync and event.eventtype == "init-start":
                ask = partial(self._post, ATTEMPT_SECONDS)
                self._ended = self._refused.text(ask, self._now())
                self._gathered = Gathered(self._begin, self._store)
                if self._ended:
                    return None  # a later one raises: another place is another e-mail
            offset = self._store(sent)
            self._newest = sent if sent.may_come_again else None
            return offset

    def _begin(self, batch: Batch) -> None:
        """Send a batch; _store takes the answer."""
        if self._ended:
            raise NatsSidecarError(self._ended)
        batch.is_begun = True  # whatever ends this: the request may be out
        wait_seconds = self._wait_seconds(batch, self._settings["send_timeout"])
        headers = self._headers(batch, self._last, wait_seconds)
        self._http.begin_store(batch.body, headers, wait_seconds)

    def _drop_gathered(self) -> None:
        """Send nothing more of it. Of what is under way a part may stand."""
        gathered, self._gathered = self._gathered, None
        batch = None if gathered is None else gathered.pop_under_way()
        if batch is not None and batch.is_begun:
            self._doubts.add(batch, self._last)

    def _begin_pass(self) -> None:
        """Learn what a process that was killed had sent, and which pass this one is."""
        last_pass = self._last_pass
        if not (last_pass.is_over or last_pass.is_known):
            start = "last" if self._pass is None else self._pass
            producer = {"Hermes-Producer": self._keys_start}
            document = self._document(f"/v1/passes/{start}", producer, wanted="objects")
            if not last_pass.learn(document["objects"]):
                raise NatsSidecarError(MIXED_UP)
            if not document["complete"]:
                self._warn(TOO_LONG, MOST_EVENTS)
                self._end_last_pass()  # the next attempt would hear the same
            if self._pass is None:
                # Its events may come again: should we be killed, ours are of one pass.
                self._pass = document["start"]
        if self._pass is None:
            self._pass = self._last

    def _stop_in_time(self, event: Event) -> None:
        """End a long pass between two events; Hermes saves what was sent until then.

        Not while it would lose what is known of a doubt, nor an initsync, which nobody
        would ask for again.
        """
        if (
            self._stopping.is_due
            and event.evcategory == "base"
            and not (self._doubts.are_open or self._doubts.unseen_count)
        ):
            raise self._error(False, STOPPED)

    def _store(self, sent: Sent) -> int | None:
        if self._ended:
            raise NatsSidecarError(self._ended)
        if self._is_recognised(sent):
            return None
        started_at = self._now()
        in_doubt, is_elsewhere, is_final, index = False, True, False, 0
        answer = Answer(0, NOT_STORED, "", {})
        while (left_seconds := self._left_seconds(started_at, in_doubt, is_final)) > 0:
            try:
                answer = self._post(left_seconds, sent, self._last)
            except BaseException:
                # Whatever ended it: the request may be out.
                self._doubts.add(sent, self._last)
                raise
            is_elsewhere = is_elsewhere and answer.status == AHEAD
            if answer.status in (200, 201):
                sent.last = self._last
                self._last += sent.count
                self._doubts.end()
                return self._last
            if answer.status == TAKEN:
                in_doubt = False  # no copy that was sent with this L can land any more
                self._learn(answer.document)
                if (stored := self._doubts.recognise(sent)) is not None:
                    sent.last = stored.last
                    return None  # it was shown just now
                # nats-server 2.11 may call the id of a refused copy "in process".
                sent.key = self._new_key()
                continue
            if answer.status == GONE:
                break  # no server's stream ever begins earlier: nobody will know more
            if isinstance(sent, Batch):
                if answer.status == NO_BATCHES and not in_doubt:
                    return self._store_alone(sent.objects)
                if answer.document.get("index", 0) > index:  # it gets on
                    index, started_at = answer.document["index"], self._now()
            in_doubt = in_doubt or answer.outcome != NOT_STORED
            # An old leader may say it for a moment: what is remembered outlives that.
            is_other = is_elsewhere and not (
                self._doubts.are_open or self._doubts.stored_count
            )
            is_final = is_other or answer.status in FINAL
            least_seconds = 1.0 if is_final else 0.2
            self._sleep(min(answer.retry_after or least_seconds, left_seconds))
        raise self._failed(sent, answer, in_doubt=in_doubt, is_elsewhere=is_elsewhere)

    def _failed(
        self, sent: Sent, answer: Answer, *, in_doubt: bool, is_elsewhere: bool
    ) -> NatsSidecarError:
        """Remember what was not stored, or is unknown, and say so."""
        one: Sent | None = sent
        is_unknown = in_doubt or answer.outcome != NOT_STORED
        text = str(self._error(is_unknown, answer.reason))
        if isinstance(sent, Batch):
            one = sent.at(answer.document.get("index", 0))
            if one is not None and answer.status in OF_THE_EVENT:
                text += f" Its type is {one.object[0]}, its category initsync."
        if answer.status == GONE or (is_elsewhere and not in_doubt):
            self._forget_stream()
            self._ended = text
        elif in_doubt:
            self._doubts.add(sent, self._last)
        if isinstance(sent, Batch):
            self._ended = text  # a part of it may stand: the next open() learns that
        is_refused = answer.status in OF_THE_EVENT and not in_doubt
        if is_refused and one is not None and one.is_of_initsync:
            self._refused.remember(one, self._last, text, self._now())
        return NatsSidecarError(text)

    def _store_alone(self, objects: list[Sent]) -> int:
        """Store them by a sidecar that is older than this plugin."""
        for sent in objects:
            self._store(sent)
        return self._last

    def _new_key(self) -> str:
        start = self._last if self._pass is None else self._pass
        number = next(self._numbers)
        return f"{self._keys_start}{start}-{self._attempt}-{number}"

    def _left_seconds(self, started_at: float, in_doubt: bool, is_final: bool) -> float:
        limit = self._settings["unknown_timeout" if in_doubt else "send_timeout"]
        if is_final and not in_doubt:
            limit = min(limit, FINAL_SECONDS)
        return float(started_at + limit - self._now())

    def _post(self, left_seconds: float, sent: Sent, last: int) -> Answer:
        offset = last + sent.count
        if sent.is_begun:
            sent.is_begun = False
            answer = self._http.end_store(offset)
        else:
            wait_seconds = self._wait_seconds(sent, left_seconds)
            headers = self._headers(sent, last, wait_seconds)
            answer = self._http.store(sent.body, headers, offset, wait_seconds)
        if answer.status in (200, 201) and answer.document["offset"] != offset:
            self._http.close()  # it was the answer to something else
            return Answer(0, UNKNOWN, MIXED_UP, {})
        return answer

    @staticmethod
    def _wait_seconds(sent: Sent, left_seconds: float) -> float:
        wait_seconds = max(min(left_seconds, ATTEMPT_SECONDS), LEAST_SECONDS)
        return wait_seconds + sent.more_seconds

    @staticmethod
    def _headers(sent: Sent, last: int, wait_seconds: float) -> dict[str, str]:
        return {
            "Content-Type": sent.media_type,
            "Idempotency-Key": sent.key,
            "If-Match": f'"{last}"',
            # The offset is in the ETag; the answer comes while we wait for it.
            "Prefer": f"return=minimal, wait={int(wait_seconds)}",
        }

    def _learn(self, document: dict[str, Any]) -> None:
        """See whose event holds L + 1; that of another producer ends the pass."""
        key = document.get("key")
        is_ours = self._doubts.offset_of(key) == self._last + 1
        # Of a batch at another place no rest follows: nats-server left out its own.
        is_misplaced = self._doubts.is_in_a_batch(key) and not is_ours
        self._doubts.end(None if is_misplaced else key)
        if is_ours:
            self._last += 1
            if self._doubts.are_open:
                return  # the batch may go on behind it
        if not is_ours or document.get("last_offset", 0) > self._last:
            self._end_pass(ANOTHER_WROTE)

    def _end_pass(self, reason: str) -> NoReturn:
        error = self._error(False, reason)
        self._ended = str(error)
        raise error

    def _is_recognised(self, sent: Sent) -> bool:
        """Tell whether Hermes sends again what is stored."""
        if not sent.may_come_again:
            return self._is_known(sent)
        offset = self._last_pass.find(sent)
        is_recognised = self._is_known(sent)
        if not is_recognised and offset is not None:
            is_recognised = bool(self._look(sent, offset)["matches"])
            sent.last = offset - 1
        self._last_pass.note(sent, is_recognised=is_recognised)
        return is_recognised

    def _is_known(self, sent: Sent) -> bool:
        """Tell whether it was told unknown by this process, and is stored."""
        stored = self._doubts.recognise(sent)
        if stored is None:
            return False
        self._doubts.remember(stored)  # until it is known
        # Another producer may have written since: an event of this object, say.
        found = self._look(sent, stored.last + 1, "&newest=true")
        if found["matches"]:
            sent.last = stored.last
        elif found.get("key") != stored.key:
            self._doubts.forget_stored()  # another stream, or one restored
        self._doubts.forget(stored)
        return bool(found["matches"])

    def _look(self, sent: Sent, offset: int, newest: str = "") -> dict[str, Any]:
        """Ask whether the event at this offset is this one.

        End the pass if another producer wrote: nothing is sent, so no fence sees it.
        Learn first what an open doubt became, or the next pass would end here as well.
        """
        started_at = self._now()
        while True:
            path = f"/v1/match?offset={offset}{newest}"
            stream = self._document(path, body=sent.body, wanted="matches")
            if stream["last_offset"] >= self._last:
                break
            # An old leader may say so for a moment; else the stream was restored.
            if self._left_seconds(started_at, False, False) <= 0:
                self._forget_stream()
                self._end_pass(ENDS_BEFORE)
            self._sleep(0.5)
        if not self._is_all_ours(stream):
            self._learn_behind(sent)
            self._end_pass(ANOTHER_WROTE)
        return stream

    def _learn_behind(self, sent: Sent) -> None:
        """Learn whose events are behind L while a doubt is open."""
        while self._doubts.are_open:
            path = f"/v1/match?offset={self._last + 1}"
            stream = self._document(path, body=sent.body, wanted="key")
            if stream["first_offset"] > self._last + 1:
                self._forget_stream()  # nobody will know more
            elif stream["last_offset"] > self._last:
                self._learn(stream)
            else:
                return  # an old leader, or the rest of a batch is to come

    def _forget_stream(self) -> None:
        """Begin anew, since all that is known is of another stream."""
        self._doubts = Doubts()
        self._last, self._pass = 0, None

    def _is_all_ours(self, stream: dict[str, Any]) -> bool:
        """Tell whether nothing is behind L but what was told unknown."""
        offset = self._doubts.offset_of(stream.get("last_key"))
        return bool(stream["last_offset"] == (offset or self._last))

    @staticmethod
    def _error(in_doubt: bool, reason: str) -> NatsSidecarError:
        what = "It is not known whether the event was" if in_doubt else "Event not"
        return NatsSidecarError(f"{what} stored: {reason}")
