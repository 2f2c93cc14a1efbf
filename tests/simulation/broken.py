# SPDX-License-Identifier: Apache-2.0
"""Known bugs, each put back alone, to show that the simulation finds it.

A bug is ten lines or so: the file is long because they are many.
"""

from __future__ import annotations

import itertools
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final
from unittest.mock import patch

from sidecar import errors
from sidecar.errors import Outcome, Problem
from sidecar.http import events
from sidecar.jetstream import connection, headers
from sidecar.jetstream.api_replies import ApiError, Batch
from sidecar.jetstream.client import header_fields
from sidecar.jetstream.leader import StreamLeader
from sidecar.jetstream.requests import NoReply, Requests
from sidecar.model import decisions, evidence, last_offset, publish_reply
from sidecar.model import stream as stream_module
from sidecar.model.event import LAST
from sidecar.model.evidence import AskCopy, AskLeader, Ended, Said, Serve
from sidecar.model.publish_reply import Refused
from sidecar.services import activity, publish_attempt, reader, scan_header
from sidecar.services.last_passes import LastPasses

from .broken_batches import BROKEN_BATCHES
from .broken_kills import BROKEN_KILLS
from .http_hop import VirtualSocket
from .nats_hop import VirtualNatsClient
from .seams import CONSUMERS, PRODUCERS, plugin_module

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from sidecar.model.publish_reply import Answer, Observation

    Context = AbstractContextManager[object]


async def _yes(*_: object) -> bool:
    return True


def _no_fence() -> Context:
    """Publish without Nats-Expected-Last-Sequence."""
    return patch.object(headers, "PRECONDITION_HEADER", b"Hermes-Nothing")


def _fences_itself() -> Context:
    """Let the sidecar read L itself, whatever the plugin sends."""
    return patch.object(events, "parse_precondition", lambda _: LAST)


@contextmanager
def _no_stable_id() -> Iterator[None]:
    """Send each repetition under a key of its own."""
    plugin = plugin_module(PRODUCERS).NatsSidecarProducerPlugin
    numbers = itertools.count()
    post = plugin._post

    def post_anew(self: Any, left_seconds: float, sent: Any, last: int) -> Any:
        sent.key = f"{self._keys_start}0-1-{next(numbers)}"
        return post(self, left_seconds, sent, last)

    with patch.object(plugin, "_post", post_anew):
        yield


@contextmanager
def _believes_any_leader() -> Iterator[None]:
    """P1: one answer that lags is `offset_ahead`, which is final (review.md)."""
    plugin = plugin_module(PRODUCERS)
    post = plugin.NatsSidecarProducerPlugin._post

    def post_finally(self: Any, *rest: Any) -> Any:
        response = post(self, *rest)
        if response.status == 409:
            self._doubts.end()
            raise plugin.NatsSidecarError("It is not known whether it was stored")
        return response

    with ExitStack() as stack:
        stack.enter_context(_sees_ahead_at_once())
        stack.enter_context(
            patch.object(plugin.NatsSidecarProducerPlugin, "_post", post_finally)
        )
        yield


@contextmanager
def _sees_ahead_at_once() -> Iterator[None]:
    """Say `offset_ahead` to a reader, or a publish, by the answer of a moment."""
    marks = last_offset.LastOffset
    with (
        patch.object(marks, "takes", lambda *_: True),
        patch.object(marks, "settled", lambda *_: 0),
        patch.object(stream_module.StreamInfo, "has_leader", new=True),
    ):
        yield


@contextmanager
def _swallows_an_older_value() -> Iterator[None]:
    """P2: what was stored unseen is remembered over a later event of its object.

    With it goes what was added later against events of another producer: it reads what
    stands after L, and so finds the later event, too.
    """
    plugin = plugin_module(PRODUCERS).NatsSidecarProducerPlugin
    doubts = plugin_module(PRODUCERS, "doubts").Doubts
    post = plugin._post

    def post_and_forget(self: Any, left_seconds: float, sent: Any, last: int) -> Any:
        response = post(self, left_seconds, sent, last)
        if response.status in (200, 201):
            self._doubts.forget(sent)
        return response

    def recognise(self: Any, sent: Any) -> Any:
        unseen = self._stored_unseen.get(sent.object)
        if unseen is None or unseen.body != sent.body:
            return None
        return self._stored_unseen.pop(sent.object)

    with (
        patch.object(plugin, "_post", post_and_forget),
        patch.object(doubts, "recognise", recognise),
        patch.object(LastPasses, "_is_newest", _yes),
    ):
        yield


@contextmanager
def _remembers_behind_an_initsync() -> Iterator[None]:
    """Take an event for sent that stands only before an initsync made without it."""

    def end_by(self: Any, event_object: Any, _: Any) -> None:
        self._stored_unseen.pop(event_object, None)

    doubts = plugin_module(PRODUCERS, "doubts").Doubts
    with (
        patch.multiple(doubts, _end_by=end_by, end_recognition=lambda _: None),
        patch.object(LastPasses, "_is_newest", _yes),
    ):
        yield


def _believes_a_foreign_refusal() -> Context:
    """P3: 10060 of somebody else's stream is a definite refusal."""

    def parse(payload: bytes, *rest: Any, **options: Any) -> Answer:
        if b'"err_code":10060' in payload.replace(b" ", b""):
            return Refused(errors.PUBLISH_REFUSED, 10060)
        return publish_reply.parse_answer(payload, *rest, **options)

    return patch.object(connection, "parse_answer", parse)


def _numbers_by_seconds() -> Context:
    """P5: a stream that is made anew begins inside the offsets of the one before.

    Scaled: milliseconds were too coarse for 1,000 events a second, seconds are for
    the few that a run has.
    """
    return patch.object(
        stream_module, "first_offset", lambda now, _: int(now) - 1_800_000_000 + 1
    )


@contextmanager
def _takes_two_answers_for_gone() -> Iterator[None]:
    """Take the position of one server and "no message" of another for: it is gone."""

    async def observe(self: StreamLeader, sequence: int) -> Observation | None:
        sight = await real_observe(self, sequence)
        if sight is None or not sight.position.first <= sequence <= sight.position.last:
            return sight
        try:
            message = await (await self._wait()).api.message(sequence)
        except (NoReply, ApiError):
            return None
        return replace(sight, message=message)

    def resolve(expected: Any, sequence: int, sight: Observation) -> Any:
        position = sight.position
        if sight.message is None and position.first <= sequence <= position.last:
            return Problem(errors.OFFSET_GONE, Outcome.UNKNOWN)
        return real_resolve(expected, sequence, sight)

    real_observe, real_resolve = StreamLeader.observe, decisions.resolve
    with (
        patch.object(StreamLeader, "observe", observe),
        patch.object(publish_attempt, "resolve", resolve),
    ):
        yield


def _believes_a_mirror() -> Context:
    """Serve a page without looking at who sent it."""
    real = Batch.add

    def add(self: Any, block: bytes, data: bytes) -> Any:
        name = header_fields(block).get(b"Nats-Stream", b"")
        self.named = b"\r\nNats-Stream: %s\r\n" % name
        return real(self, block, data)

    return patch.object(Batch, "add", add)


@contextmanager
def _believes_late_answers() -> Iterator[None]:
    """Take a late page for the one that is waited for, wherever it begins.

    On another connection, too: all have one reply subject.
    """
    plugin = plugin_module(CONSUMERS)
    real = plugin._is_page

    def contiguous(_: int, batch: Any, *, filtered: bool) -> Any:
        start = batch[0].sequence if batch else 0
        return real_contiguous(start, batch, filtered=filtered)

    def is_page(answer: Any, *_: Any) -> Any:
        return real(answer, "first")

    def on_message(self: Any, subject: str, block: bytes, data: bytes) -> None:
        inbox, _, token = subject.rpartition(".")
        if block and self._batches and token not in (*self._batches, *self._waiting):
            subject = f"{inbox}.{next(iter(self._batches))}"
        real_on_message(self, subject, block, data)

    real_contiguous, real_on_message = evidence.contiguous, Requests.on_message
    with (
        patch.object(Requests, "on_message", on_message),
        patch.object(VirtualNatsClient, "new_inbox", lambda self: self._inbox_prefix),
        patch.dict(evidence.REST_SECONDS, {"late": 0.0}),
        patch.object(evidence, "contiguous", contiguous),
        patch.object(plugin, "_is_page", is_page),
    ):
        yield


def _believes_a_forged_ack() -> Context:
    """Give replies a token that is a number, so that anybody knows the next."""

    def token(self: Any) -> str:
        return f"{next(self._numbers)}"

    return patch.object(Requests, "_token", token)


def _believes_headers() -> Context:
    """Take for an acknowledgement what has headers: an answer to a direct get."""
    real = Requests.on_message

    def on_message(self: Any, subject: str, block: bytes, data: bytes) -> None:
        if subject.rpartition(".")[2] in self._waiting and b" 503" not in block:
            block = b""
        real(self, subject, block, data)

    return patch.object(Requests, "on_message", on_message)


def _filters_by_a_copy() -> Context:
    """Believe a copy that a category begins, or ends, where it says."""
    real = evidence.decide

    def decide(asked: Any, came: Any, said: Any) -> Any:
        if asked.category is None:
            return real(asked, came, said)
        if came is None:
            return AskCopy(asked.start)
        return Serve(came.messages) if came.messages else Ended()

    return patch.object(reader, "decide", decide)


def _jumps_without_the_leader() -> Context:
    """Let a page of a category pass over what its copy did not have."""

    async def agreed(_: Any, events: Any, __: str) -> Any:
        return events

    return patch.object(reader.Reader, "_agreed", agreed)


def _tells_a_hole_at_once() -> Context:
    """Take two answers of the leader for one moment."""
    real = evidence.decide

    def decide(asked: Any, came: Any, said: Any) -> Any:
        if isinstance(said, Said) and said.first_again is None:
            said = replace(said, first_again=said.position.first)
        return real(asked, came, said)

    return patch.object(reader, "decide", decide)


def _keeps_a_page() -> Context:
    """Keep what the status page shows over the end of its stream."""

    async def forget_nothing(*_: Any) -> None:
        pass

    return patch.object(activity.Recent, "_forget_another", forget_nothing)


@contextmanager
def _limits_an_answer() -> Iterator[None]:
    """Give an answer up after five seconds, however much of it has come."""
    module = plugin_module(CONSUMERS, "sidecar_http")

    class Limited(VirtualSocket):
        ends_at = 0.0

        def sendall(self, data: bytes) -> None:
            self.ends_at = self._hop.loop.time() + 5.0
            super().sendall(data)

        def recv(self, size: int, flags: int = 0) -> bytes:
            left_seconds = self.ends_at - self._hop.loop.time()
            if left_seconds <= 0:
                raise TimeoutError
            self.settimeout(left_seconds)
            return super().recv(size, flags)

    with patch.object(module.socket, "socket", lambda _: Limited(module.socket._hop)):
        yield


def _limits_a_page() -> Context:
    """Wait a second for a page and two for the leader, whatever comes meanwhile."""
    return patch.object(Requests, "_left_seconds", lambda *_: 0.0)


def _takes_nothing_for_the_end() -> Context:
    """Tell a reader whose copy gave nothing that the stream ends there."""
    real = evidence.decide

    def decide(asked: Any, came: Any, said: Any) -> Any:
        step = real(asked, came, said)
        is_wanting = came is not None and not came.messages
        return Ended() if is_wanting and isinstance(step, AskLeader) else step

    return patch.object(reader, "decide", decide)


def _remembers_any_scan() -> Context:
    """Say of the scan what follows from the last event known here, wherever it was."""

    def known(self: Any, event: Any, last: int, _: float) -> Any:
        if self._known is None:
            return None
        scan = self._known.scan.after(last + 1, event.type)
        self._known = self._known._replace(offset=last)
        return event._replace(scan=scan)

    return patch.object(scan_header.Scans, "known", known)


BROKEN: Final[dict[str, Callable[[], Context]]] = {
    "": nullcontext,
    "no-fence": _no_fence,
    "no-stable-id": _no_stable_id,
    "fences-itself": _fences_itself,
    "believes-any-leader": _believes_any_leader,
    "swallows-an-older-value": _swallows_an_older_value,
    "remembers-behind-an-initsync": _remembers_behind_an_initsync,
    "believes-a-foreign-refusal": _believes_a_foreign_refusal,
    "numbers-by-seconds": _numbers_by_seconds,
    "sees-ahead-at-once": _sees_ahead_at_once,
    "takes-two-answers-for-gone": _takes_two_answers_for_gone,
    "remembers-any-scan": _remembers_any_scan,
    "believes-a-mirror": _believes_a_mirror,
    "takes-nothing-for-the-end": _takes_nothing_for_the_end,
    "believes-late-answers": _believes_late_answers,
    "filters-by-a-copy": _filters_by_a_copy,
    "jumps-without-the-leader": _jumps_without_the_leader,
    "tells-a-hole-at-once": _tells_a_hole_at_once,
    "keeps-a-page": _keeps_a_page,
    "limits-an-answer": _limits_an_answer,
    "limits-a-page": _limits_a_page,
    "believes-a-forged-ack": _believes_a_forged_ack,
    "believes-headers": _believes_headers,
    **BROKEN_BATCHES,
    **BROKEN_KILLS,
}


def broken(name: str) -> Context:
    """Put a known bug back for a while."""
    return BROKEN[name]()
