# SPDX-License-Identifier: Apache-2.0
"""What a reader may be told, by what a copy sent and what the leader said. Pure.

Rule of this file: a copy proves at most what is there. A direct get is answered by any
replica, frozen or behind, and by every mirror that has joined (nats-server sets
`mirror_direct` by itself). `Nats-Stream` says who it was, in messages alone: an answer
that holds none is nobody's. So what is not there, and where a category goes on, is the
leader's word alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from sidecar import errors

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sidecar.errors import Cause
    from sidecar.model.publish_reply import Position, StoredMessage

End = Literal["marked", "late", "stranger", "unreadable", "unasked"]
"""Why no more came of a copy: its end mark, nothing for a second, another stream's
answer, a message that is no text or was not asked for, or that no copy was asked."""

REST_SECONDS: Final = {"late": 10.0, "stranger": 10.0, "marked": 0.5}
"""How long copies are left alone after one that gave nothing of what the leader has.

One that lags has it soon; one that is frozen, or a mirror, answers as badly again.
"""


class Asked(NamedTuple):
    """What is read: the first events at or after an offset, of all or one category."""

    start: int
    category: str | None = None


@dataclass(frozen=True)
class Came:
    """What one copy sent: messages of our stream, and why no more of them.

    `last`: where that copy ended, if its newest message was asked for. `stranger`:
    whose the answer was, where it was not ours.
    """

    messages: list[StoredMessage]
    end: End
    last: int = 0
    stranger: str = ""


UNASKED: Final = Came([], "unasked")


@dataclass(frozen=True)
class Said:
    """What the leader said: the stream's ends, and the first of what is read.

    The two may come from two servers: for a moment an old leader answers, too.
    `first_again`: where the stream began after that message was found. Where it was
    not found, `newest`: what a copy gave as the category's newest, and `is_settled`: no
    copy shows the end, but one leader has led for long enough and says it again.
    """

    position: Position
    message: StoredMessage | None
    first_again: int | None = None
    newest: Came | None = None
    is_settled: bool = False


class Silent(NamedTuple):
    """The leader was asked and did not say."""


SILENT: Final = Silent()


class AskCopy(NamedTuple):
    """Ask for a page from there on, whoever answers."""

    start: int


class AskLeader(NamedTuple):
    """Ask the leader for its ends and the first of what is read (STREAM.MSG.GET)."""


class AskFirst(NamedTuple):
    """Ask the leader again where the stream begins: it may have moved since."""


class AskNewest(NamedTuple):
    """Ask a copy for the newest event of the category."""


@dataclass(frozen=True)
class Serve:
    """Give these; `is_leaders` where no copy had any."""

    events: list[StoredMessage]
    is_leaders: bool = False


class Ended(NamedTuple):
    """Say that the stream has nothing of this after the offset."""


class Retry(NamedTuple):
    """Say that nobody knows yet."""


class Refuse(NamedTuple):
    """Say why this offset cannot be read."""

    cause: Cause
    offset: int


Step = AskCopy | AskLeader | AskFirst | AskNewest | Serve | Ended | Retry | Refuse


def decide(asked: Asked, came: Came | None, said: Said | Silent | None) -> Step:
    """Say what follows from what came and what was said; None: not asked yet."""
    if isinstance(said, Silent):
        return Retry()
    start = asked.start
    if said is not None:
        verdict = _judge(asked, said)
        if verdict is not None:
            return verdict
        assert said.message is not None  # noqa: S101 - _judge ends without one
        start = said.message.sequence
    elif asked.category is not None:
        return AskLeader()
    if came is None:
        return AskCopy(start)
    events = contiguous(start, came.messages, filtered=asked.category is not None)
    if events:
        return Serve(events)
    if said is None or said.message is None:
        return AskLeader()
    return Serve([said.message], is_leaders=True)


def _judge(asked: Asked, said: Said) -> Step | None:
    """Say what the leader's word settles; None: the message may be given."""
    position, message = said.position, said.message
    if asked.start < position.first:
        return Refuse(errors.OFFSET_GONE, asked.start)
    if message is None and asked.category is not None:
        if said.newest is None:
            return AskNewest()
        is_ended = said.is_settled or is_end(asked, position.last, said.newest)
        return Ended() if is_ended else Retry()
    if message is None or asked.start > position.last:
        return Retry()  # two servers, or two moments
    if asked.category is None and message.sequence > asked.start:
        if said.first_again is None:
            return AskFirst()
        is_gone = asked.start < said.first_again
        return Refuse(errors.OFFSET_GONE if is_gone else errors.HOLE, asked.start)
    if message.is_displaced:
        return Refuse(errors.DISPLACED, message.sequence)
    if not message.is_readable:
        return Refuse(errors.UNREADABLE, message.sequence)
    return None


def is_end(asked: Asked, last: int, newest: Came) -> bool:
    """Tell whether a category has nothing more, up to the stream's last offset.

    That a leader finds nothing more proves nothing: it may be an old one, which lacks
    what another has stored. One answer that has come as far proves it, whoever gave it.
    """
    return newest.last >= last and newest.messages[-1].sequence < asked.start


def contiguous(
    start: int, batch: list[StoredMessage], *, filtered: bool
) -> list[StoredMessage]:
    """Keep what stands at `start`, and what is known to have no hole before it.

    Without a filter each sequence follows the one before. With one, each message
    names the message before it in the batch; see `jumps`.
    """
    kept: list[StoredMessage] = []
    expected, before = start, 0
    for message in batch:
        if filtered and kept and message.previous == before < message.sequence:
            expected = message.sequence
        if message.sequence != expected or message.is_displaced:
            break
        kept.append(message)
        before = expected
        expected += 1
    return kept


def jumps(events: list[StoredMessage]) -> list[int]:
    """Give each offset that a page passes over, and at which it would have gone on."""
    return [
        before.sequence + 1
        for before, after in pairwise(events)
        if after.sequence != before.sequence + 1
    ]


def agreed(
    events: list[StoredMessage], nexts: Mapping[int, int | None]
) -> list[StoredMessage]:
    """Keep the events up to a jump of which the leader did not say where it goes.

    `nexts`: by an offset of `jumps`, where the leader says that the category goes on.
    """
    for place, event in enumerate(events[1:], start=1):
        after = events[place - 1].sequence + 1
        if event.sequence not in (after, nexts.get(after)):
            return events[:place]
    return events


class Copies:
    """Whether copies may be asked, and what they did; times come in.

    Counted are those that gave nothing within a second (`late`), those that lacked what
    the leader has (`behind`), and answers of other streams (`strangers`).
    """

    def __init__(self) -> None:
        self._rest_until = 0.0
        self.late = 0
        self.behind = 0
        self.strangers = 0
        self.stranger = ""
        self.stranger_at: float | None = None
        self.late_at: float | None = None
        self.asked_at: float | None = None

    def may_be_asked(self, now: float) -> bool:
        """Tell whether no copy was found wanting lately."""
        return now >= self._rest_until

    def gave(self, came: Came, now: float) -> None:
        """Take what a copy gave, whatever of it was of use."""
        self.asked_at = now
        if came.end == "late":
            self.late += 1
            self.late_at = now
        elif came.end == "stranger":
            self.strangers += 1
            self.stranger = came.stranger
            self.stranger_at = now

    def lacked(self, came: Came, now: float) -> None:
        """Take that the leader had what a copy did not give: leave copies alone."""
        if came.end == "marked":
            self.behind += 1
        seconds = REST_SECONDS.get(came.end, 0.0)
        self._rest_until = max(self._rest_until, now + seconds)
