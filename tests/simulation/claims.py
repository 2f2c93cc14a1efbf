# SPDX-License-Identifier: Apache-2.0
"""Whose event stands where: each stored message and the `_send` that it came of. Pure.

By its key where keys are known, else by its bytes and its place.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Final, NamedTuple

from .history import NO_STREAM, OPEN_OUTCOMES, Ends, Told

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .history import History, Send


class Stored(NamedTuple):
    """A message that was committed; `time` is when, in virtual seconds.

    `epoch` counts creations and restores of the stream. `scan` is what the header of an
    initsync's event says, verdicts.NO_HEADER without it; None where nobody looked.
    """

    epoch: int
    offset: int
    category: str
    key: str
    body: bytes
    time: float
    scan: str | None = None


class Violation(NamedTuple):
    """A guarantee that was broken: its name, a sentence and the virtual time."""

    name: str
    sentence: str
    at: float


@dataclass
class Claims:
    """Messages are named by their place in the order of commits, over all epochs."""

    owners: list[Send | None]
    places: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    """By the number of a send."""
    violations: list[Violation] = field(default_factory=list)

    def take(self, place: int, send: Send) -> None:
        """Note that a message came of a send."""
        self.owners[place] = send
        self.places[send.number].append(place)

    def has(self, send: Send) -> bool:
        """Tell whether a message came of it."""
        return send.number in self.places


def claim(history: History, stored: Sequence[Stored]) -> Claims:
    """Find the send of each message."""
    claims = Claims([None] * len(stored))
    held = backups(stored, history.ends)
    _by_key(history, stored, claims, held)
    _by_offset(history, stored, claims)
    _by_body(history, stored, claims)
    for send in history.sends:
        places = claims.places.get(send.number, ())
        for first, second in pairwise(places if send.is_fenced else ()):
            before, after = stored[first], stored[second]
            if before.epoch == after.epoch or (before.epoch, before.offset) in held.get(
                after.epoch, ()
            ):
                text = f"{send} stands at {before.offset} and at {after.offset}"
                claims.violations.append(Violation("doubled", text, send.began))
    return claims


def _by_key(
    history: History, stored: Sequence[Stored], claims: Claims, held: Held
) -> None:
    # Whoever is recognised was asked for by the key of the first.
    senders = {key: send for send in reversed(history.sends) for key in send.keys}
    timeline = Timeline(history.ends)

    def is_gone(send: Send, message: Stored) -> bool:
        """Tell whether it stood only in a stream that was restored away by then."""
        epoch = timeline.at(send.ended).epoch
        name = message.epoch, message.offset
        return message.epoch < epoch and name not in held.get(epoch, ())

    for place, message in enumerate(stored):
        send = senders.get(message.key)
        if send is not None and send.body == message.body:
            claims.take(place, send)
            if send.told is Told.NOT_STORED and not is_gone(send, message):
                claims.violations.append(_not_stored_stands(send, message))


def _by_offset(history: History, stored: Sequence[Stored], claims: Claims) -> None:
    """See that what was told stored stands where it was told."""
    at: dict[int, list[int]] = defaultdict(list)
    for place, message in enumerate(stored):
        at[message.offset].append(place)
    timeline = Timeline(history.ends)
    for send in history.sends:
        if send.told is not Told.STORED:
            continue
        places = at.get(send.offset, [])
        if any(claims.owners[place] is send for place in places):
            continue
        same = [place for place in places if stored[place].body == send.body]
        free = [place for place in same if claims.owners[place] is None]
        if free and not claims.has(send):
            claims.take(free[-1], send)
        elif claims.has(send):
            where = [stored[place].offset for place in claims.places[send.number]]
            text = f"{send} was told {send.offset} and stands at {where}"
            claims.violations.append(Violation("wrong_place", text, send.ended))
        elif same:
            text = f"offset {send.offset} was given to {send} and to another"
            claims.violations.append(Violation("given_twice", text, send.ended))
        elif timeline.at(send.began).epoch == timeline.at(send.ended).epoch:
            # Else its leader acknowledged it, which did not know yet that it is gone.
            what = "nothing" if not places else "another event"
            text = f"{send} was told {send.offset}, where {what} stands"
            claims.violations.append(Violation("lost", text, send.ended))


def _by_body(history: History, stored: Sequence[Stored], claims: Claims) -> None:
    candidates: dict[bytes, list[Send]] = defaultdict(list)
    for send in history.sends:
        candidates[send.body].append(send)
    between: dict[int, tuple[int, int]] = {}
    for place, message in enumerate(stored):
        if claims.owners[place] is not None:
            continue
        same = [send for send in candidates[message.body] if send.began <= message.time]
        free = [
            send for send in same if send.told in OPEN_OUTCOMES and not claims.has(send)
        ]
        if free:
            if not between:
                between = _between(history, claims)
            fitting = [s for s in free if between[s.number][0] < place]
            fitting = [s for s in fitting if place < between[s.number][1]]
            claims.take(place, (fitting or free)[0])
            continue
        refused = [send for send in same if send.told is Told.NOT_STORED]
        if refused:
            claims.take(place, refused[-1])
            claims.violations.append(_not_stored_stands(refused[-1], message))
        elif same:
            claims.take(place, same[-1])  # a second one: claim() tells of it
        else:
            text = f"nobody sent what stands at {message.offset}"
            claims.violations.append(Violation("nobody_sent", text, message.time))


def _between(history: History, claims: Claims) -> dict[int, tuple[int, int]]:
    """Give for each send the places of what stands before and after it in its life."""
    found: dict[int, tuple[int, int]] = {}
    before: dict[tuple[str, int], int] = {}
    for send in history.sends:
        life = (send.server, send.life)
        found[send.number] = (before.get(life, -1), len(claims.owners))
        if claims.has(send):
            before[life] = claims.places[send.number][0]
    after: dict[tuple[str, int], int] = {}
    for send in reversed(history.sends):
        life = (send.server, send.life)
        low, high = found[send.number]
        found[send.number] = (low, after.get(life, high))
        if claims.has(send):
            after[life] = claims.places[send.number][0]
    return found


def _not_stored_stands(send: Send, message: Stored) -> Violation:
    text = f"{send} was told not stored and stands at {message.offset}"
    return Violation("not_stored_stands", text, message.time)


def standing(stored: Sequence[Stored], ends: Sequence[Ends]) -> list[int]:
    """Give the places of what the stream would hold in the end if nothing expired.

    A stream that was made anew begins with nothing, a restored one with its backup.
    """
    begins: dict[int, Ends] = {}
    for each in ends:
        begins.setdefault(each.epoch, each)
    held: dict[int, int] = {}  # the newest place of an offset
    places: list[int] = []
    epoch = -1
    for place, message in enumerate(stored):
        if message.epoch != epoch:
            epoch = message.epoch
            places = _kept(held, begins.get(epoch))
            held = {stored[each].offset: each for each in places}
        places.append(place)
        held[message.offset] = place
    if ends and ends[-1].epoch != epoch:
        return _kept(held, begins[ends[-1].epoch])
    return places


Held = dict[int, dict[tuple[int, int], None]]
"""By epoch: the epoch and offset of each message that it began with, in order."""


def backups(stored: Sequence[Stored], ends: Sequence[Ends]) -> Held:
    """Give the epoch and offset of each message that a restored epoch began with."""
    begins: dict[int, Ends] = {}
    for each in ends:
        begins.setdefault(each.epoch, each)
    found: Held = {}
    held: dict[int, int] = {}
    place = 0
    for epoch, begin in sorted(begins.items()):
        while place < len(stored) and stored[place].epoch < epoch:
            held[stored[place].offset] = place
            place += 1
        kept = _kept(held, begin)
        held = {stored[each].offset: each for each in kept}
        names = [(stored[each].epoch, stored[each].offset) for each in kept]
        found[epoch] = dict.fromkeys(names)
    return found


def _kept(held: dict[int, int], begin: Ends | None) -> list[int]:
    if begin is None:
        return []
    return [
        place
        for offset, place in sorted(held.items())
        if begin.first <= offset <= begin.last
    ]


STALE_SECONDS: Final = 4.0
"""For so long a leader that is cut off has heard from its majority a moment ago, and
does not know that the stream was deleted, made anew or restored behind its back: no
answer tells it from a leader that is right. One that was frozen answers before it drops
what has passed its age."""


def _holds(ends: Ends, message: Stored, held: Held) -> bool:
    return ends.first <= message.offset <= ends.last and (
        ends.epoch == message.epoch
        or (message.epoch, message.offset) in held.get(ends.epoch, ())
    )


class Timeline:
    """What the true stream held at each moment."""

    def __init__(self, ends: Sequence[Ends]) -> None:
        self._ends = [Ends(float("-inf"), -1, 0, NO_STREAM), *ends]
        self._times = [each.time for each in self._ends]

    def within(self, began: float, ended: float) -> Sequence[Ends]:
        """Give what held at some moment from `began` to `ended`.

        Or, to whoever asks a server that cannot know better, held a moment before:
        see STALE_SECONDS.
        """
        first = bisect_right(self._times, began) - 1
        while first > 0 and self._times[first] == began:
            first -= 1
        moments = self._ends[first : bisect_right(self._times, ended)]
        return [*self._stale(first, began), *moments]

    def _stale(self, first: int, began: float) -> list[Ends]:
        now = self._ends[first]
        found = []
        for number in range(first - 1, -1, -1):
            until = self._times[number + 1]
            each = self._ends[number]
            if until <= began - STALE_SECONDS:
                break
            is_gone = NO_STREAM in (each.last, now.last)
            if each.epoch != now.epoch or is_gone:
                found.append(each)
            elif each.first != now.first:
                found.append(each._replace(last=now.last))
        return found

    def stale_moments(self, began: float) -> list[float]:
        """Give earlier times whose state a scan that began then may have been told."""
        first = bisect_right(self._times, began) - 1
        if not self._stale(first, began):
            return []
        return [
            time for time in self._times[1 : first + 1] if time > began - STALE_SECONDS
        ] + [began - STALE_SECONDS]

    def at(self, time: float) -> Ends:
        """Give what holds after all that happened at a moment."""
        return self._ends[bisect_right(self._times, time) - 1]

    def held(self, message: Stored, began: float, ended: float, held: Held) -> bool:
        """Tell whether the stream held a message at some moment of a time.

        Not only once, in a stream that was deleted or restored away before it.
        """
        return (
            _holds(self.at(ended), message, held)
            or any(_holds(each, message, held) for each in self.within(began, ended))
            or (message.time <= ended and self._is_late(message, began))
        )

    def _is_late(self, message: Stored, began: float) -> bool:
        """Tell whether it stands with whoever has not heard that the stream is gone.

        They committed it in that moment: so no state of the true stream holds it.
        """
        return message.time > began - STALE_SECONDS and not any(
            _holds(each, message, {}) for each in self._ends
        )

    def stands(self, message: Stored, began: float, ended: float) -> bool:
        """Tell whether a message stood the whole time from `began` to `ended`."""
        return message.time <= began and all(
            each.epoch == message.epoch and each.first <= message.offset <= each.last
            for each in self.within(began, ended)
        )
