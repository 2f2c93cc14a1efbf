# SPDX-License-Identifier: Apache-2.0
"""What a new process of hermes-server sends again of what a dead one had sent. Pure.

A process that dies before its cache is saved is followed by one that computes the same
events. Until a pass of that one has gone through, an event that is its object's newest
is new only where a reason holds: the rule of the producer plugin, judged by what is
true and not by what keys say.
"""

from __future__ import annotations

from collections import defaultdict
from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple

from .claims import Timeline, Violation, backups
from .history import Told

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterator, Sequence

    from .claims import Claims, Stored
    from .history import History, Object, Pass, Send

    Life = tuple[str, int]
    """A process: the name of its server, and which of that server's lives it is."""


class Why(StrEnum):
    """Why an event is new, though one like it of another process may be the newest.

    docs/simulation.md has a table of those that cannot be helped; a test compares.
    """

    FIRST = "no event of the object stands"
    OTHER = "another event is the object's newest"
    OWN = "the newest is of the same process"
    THROUGH = "a pass of the new process went through without it"
    SERVERS = "another hermes-server sent it, and a pass of this one went through"
    OLDER = "it is of an earlier pass"
    PERSON = "somebody else sent the newest base event"
    RESTORED = "the stream was restored or made anew after it"
    INITSYNC = "an initsync ended after it"
    SCHEMA = "a schema was sent after it"
    REMOVAL = "another attempt at a pass removed something after it"
    TRIED = "the new process tried another event of the object, or a removal"
    IN_VAIN = "the new process tried one of these in vain"
    WENT_BACK = "its source went back, so the new process sends nothing"


_CHANGES: Final = ("added", "modified", "removed")

NO_REPEAT: Final = (Why.FIRST, Why.OTHER, Why.OWN)
"""With these no process repeats another; with the others it cannot be helped."""

MAY_BE_KNOWN: Final = (None, Why.RESTORED, Why.IN_VAIN)
"""With these an event may be taken for stored."""


class Time(NamedTuple):
    """When a pass began, as far as it is known."""

    earliest: float
    latest: float


class Content(NamedTuple):
    """What the stream held at a moment: places in the order of commits."""

    epoch: int
    places: list[int]


class Contents:
    """What the stream held at any moment."""

    def __init__(self, history: History, stored: Sequence[Stored]) -> None:
        self._stored = stored
        self.timeline = Timeline(history.ends)
        held = backups(stored, history.ends)
        by_name = {(each.epoch, each.offset): at for at, each in enumerate(stored)}
        self._of_epoch: dict[int, list[int]] = {
            epoch: [by_name[name] for name in names if name in by_name]
            for epoch, names in held.items()
        }
        self._before: list[tuple[int, int]] = []  # of each place: epoch, how many
        for place, message in enumerate(stored):
            places = self._of_epoch.setdefault(message.epoch, [])
            self._before.append((message.epoch, len(places)))
            places.append(place)

    def before(self, place: int) -> Content:
        """Give what it held when a message was stored; what expired is gone."""
        epoch, count = self._before[place]
        first = self.timeline.at(self._stored[place].time).first
        held = self._of_epoch[epoch][:count]
        return Content(epoch, [at for at in held if self._stored[at].offset >= first])

    def within(self, began: float, ended: float) -> Iterator[Content]:
        """Give what it held at each moment of a time, the newest first."""
        for ends in reversed(self.timeline.within(began, ended)):
            places = self._of_epoch.get(ends.epoch, [])
            held = [at for at in places if self._stored[at].offset <= ends.last]
            held = [at for at in held if self._stored[at].offset >= ends.first]
            yield Content(ends.epoch, held)


class LastPasses:
    """Knows of which pass each event is, and what a new process is to recognise."""

    def __init__(
        self, history: History, stored: Sequence[Stored], claims: Claims
    ) -> None:
        self.history = history
        self.stored = stored
        self.owners = claims.owners
        self.contents = Contents(history, stored)
        self._through: dict[Life, list[int]] = defaultdict(list)  # numbers of passes
        for each in history.passes:
            if each.went_through:
                self._through[each.server, each.life].append(each.number)
        self._sends: dict[Life, list[Send]] = defaultdict(list)  # of base events
        for send in history.sends:
            if send.category == "base" and send.is_fenced:
                self._sends[life_of(send)].append(send)
        self._opened = {each.number: each.opened for each in history.passes}
        self._taken_up: dict[Life, Time] = {}

    def first_through_after(self, send: Send) -> Pass | None:
        """Give the first pass of its server's later processes that went through."""
        for each in self.history.passes:
            is_later = each.server == send.server and each.life > send.life
            if is_later and each.kind == "base" and each.went_through:
                return each
        return None

    def why_new(self, send: Send, content: Content) -> Why | None:
        """Say why an event is to be stored behind all this; None if it stands there."""
        stream = content.places
        at = self._newest(send, stream)
        if at is None:
            return Why.FIRST
        place = stream[at]
        owner = self.owners[place]
        if owner is None or self.stored[place].body != send.body:
            return Why.OTHER
        if life_of(owner) == life_of(send):
            return Why.OWN
        if self._is_over(send):
            return Why.THROUGH if owner.server == send.server else Why.SERVERS
        newest = self._newest_base(stream)
        if newest is None or not self._is_hermes(newest):
            return Why.PERSON
        if self.stored[place].epoch != content.epoch:
            return Why.RESTORED
        is_first = self._newest(send, stream[:at]) is None
        return (
            self._why_ended(send, owner, stream[at + 1 :])
            or self._why_older(place, newest, send, content.epoch)
            or self._why_tried(send, self.stored[place].time, is_first=is_first)
        )

    def _newest(self, send: Send, stream: Sequence[int]) -> int | None:
        for at in range(len(stream) - 1, -1, -1):
            owner = self.owners[stream[at]]
            is_base = self.stored[stream[at]].category == "base"
            if is_base and owner is not None and owner.object == send.object:
                return at
        return None

    def _newest_base(self, stream: Sequence[int]) -> int | None:
        return next(
            (at for at in reversed(stream) if self.stored[at].category == "base"), None
        )

    def _is_hermes(self, place: int) -> bool:
        owner = self.owners[place]
        return owner is not None and owner.is_fenced

    def _is_over(self, send: Send) -> bool:
        through = self._through[life_of(send)]
        return bool(through) and through[0] < send.pass_number

    # -- Passes ------------------------------------------------------------------------

    def _why_older(self, place: int, newest: int, send: Send, epoch: int) -> Why | None:
        """Say whether an event is of an earlier pass than its process goes on with."""
        its = self._began(place)
        ours = self._take_up(life_of(send))
        if self.contents.timeline.at(self._asked_until(life_of(send))).epoch != epoch:
            ours = _both(ours, self._began(newest))  # it may have begun anew
        one, other = self.owners[place], self.owners[newest]
        assert one is not None
        assert other is not None
        is_same = _start_of(self.stored[place].key) == _start_of(
            self.stored[newest].key
        )
        if its.earliest >= ours.latest or (one.server != other.server and is_same):
            return None  # with one offset, passes of two servers are one to a sidecar
        return Why.OLDER if its.latest < ours.earliest else Why.IN_VAIN

    def _began(self, place: int) -> Time:
        """Give when the pass of an event began, with all that was sent since."""
        owner = self.owners[place]
        assert owner is not None
        through = [
            each for each in self._through[life_of(owner)] if each < owner.pass_number
        ]
        if not through:
            return self._take_up(life_of(owner))
        first = next(
            each
            for each in self._sends[life_of(owner)]
            if each.pass_number > through[-1]
        )
        opened = self._opened[first.pass_number]
        return Time(opened, opened)

    def _take_up(self, life: Life) -> Time:
        """Give when the pass began that a new process goes on with.

        It asks for it with its first event, or in vain; something may come meanwhile.
        """
        if life not in self._taken_up:
            first = self._sends[life][0]
            own = self._taken_up[life] = Time(first.began, first.began)
            if first.kind != "dataschema":
                found = [
                    own if newest is None else self._began(newest)
                    for each in self.contents.within(
                        first.began, self._asked_until(life)
                    )
                    for newest in [self._newest_of_another(each, life)]
                ]
                self._taken_up[life] = Time(
                    min(each.earliest for each in found),
                    max(each.latest for each in found),
                )
        return self._taken_up[life]

    def _asked_until(self, life: Life) -> float:
        """Give when a process has asked at the latest; its asking may have failed."""
        sends = self._sends[life]
        asked = (each for each in sends if each.told is not Told.NOT_STORED)
        return next(asked, sends[-1]).ended

    def _newest_of_another(self, content: Content, life: Life) -> int | None:
        for place in reversed(content.places):
            owner = self.owners[place]
            is_own = owner is not None and life_of(owner) == life
            if self.stored[place].category == "base" and not is_own:
                return place if self._is_hermes(place) else None
        return None

    # -- What ends it ------------------------------------------------------------------

    def _why_ended(self, send: Send, owner: Send, later: Sequence[int]) -> Why | None:
        owners = [each for at in later if (each := self.owners[at]) is not None]
        kinds = {each.kind for each in owners}
        if "init-stop" in kinds:
            return Why.INITSYNC
        if "dataschema" in kinds | {each.kind for each in self._tried_before(send)}:
            return Why.SCHEMA
        is_removed_with = any(
            each.kind == "removed" and _attempt_of(each) != _attempt_of(owner)
            for each in owners
        )
        return Why.REMOVAL if is_removed_with and send.kind != "removed" else None

    def _tried_before(self, send: Send) -> list[Send]:
        """Give what its process tried in vain, or in a way that may have stored it."""
        return [
            each
            for each in self._sends[life_of(send)]
            if each.number < send.number and each.told is not Told.STANDING
        ]

    def _why_tried(self, send: Send, since: float, *, is_first: bool) -> Why | None:
        """Look at what its process tried, before and behind the event that stands."""
        tried = self._tried_before(send)
        early = [e for e in tried if e.object == send.object and e.began < since]
        counting = [] if is_first else early
        late = [each for each in tried if each.began >= since]
        counting += [
            each
            for each in late
            if each.object == send.object and each.body != send.body
        ]
        if send.kind != "removed":
            counting += [each for each in tried if each.kind == "removed"]
        if any(e.told is not Told.NOT_STORED and e not in early for e in counting):
            return Why.TRIED
        return Why.IN_VAIN if counting else None


def _both(one: Time, other: Time) -> Time:
    earliest = min(one.earliest, other.earliest)
    return Time(earliest, max(one.latest, other.latest))


def life_of(send: Send) -> Life:
    """Name the process that sent an event."""
    return (send.server, send.life)


def _attempt_of(send: Send) -> tuple[Life, int]:
    """Name the process that sent an event, and which of its tries to end a pass."""
    return (life_of(send), send.pass_number)


def _start_of(key: str) -> str:
    """Give what a key says of where its pass began."""
    return "".join(key.rsplit("-", 3)[1:2])


def check_repeats(passes: LastPasses, forgiven: Counter[str]) -> Iterator[Violation]:
    """See that what a dead process had stored stands once, and count why it may not."""
    for place, message in enumerate(passes.stored):
        owner = passes.owners[place]
        if owner is None or not owner.is_fenced or owner.kind not in _CHANGES:
            continue
        if message.category != "base":
            continue
        why = passes.why_new(owner, passes.contents.before(place))
        if why is None:
            text = f"{owner} stands at {message.offset}, as a dead process had sent it"
            yield Violation("doubled_change", text, message.time)
        elif why not in NO_REPEAT:
            forgiven[why] += 1


def count_went_back(passes: LastPasses, forgiven: Counter[str]) -> None:
    """Count the events that a dead process had stored and that nobody computed again.

    Their caches on disk do not know them, so the source has the value from before.
    """
    known: dict[tuple[str, Object], list[Send]] = defaultdict(list)
    for send in passes.history.sends:
        if not _is_lost(send):
            known[send.server, send.object].append(send)
    for owner in {each.number: each for each in passes.owners if each}.values():
        if owner.kind not in _CHANGES or not _is_lost(owner):
            continue
        through = passes.first_through_after(owner)
        if through is not None and not any(
            owner.number < each.number and each.pass_number <= through.number
            for each in known[owner.server, owner.object]
        ):
            forgiven[Why.WENT_BACK] += 1


def _is_lost(send: Send) -> bool:
    return send.is_forgotten or send.told is Told.KILLED
