# SPDX-License-Identifier: Apache-2.0
"""Compares the whole stream with what the producers were told. Pure.

A source goes back to older values, so the same bytes come again and again and say
nothing. What counts is the key of each `_send`, which the stream holds beside its
event, and the walk of each object: its events in the order of sending.

Long because it is one proof, each rule of which needs what the others found.
"""

from __future__ import annotations

import json
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence


class Told(StrEnum):
    """What `_send` told Hermes."""

    STORED = "stored"
    STANDING = "stands already"
    NOT_STORED = "not stored"
    UNKNOWN = "unknown"
    ACCEPTED = "accepted"
    """Of an initsync's object: it is stored until the init-stop is, or dropped."""
    KILLED = "killed"
    """Nothing: its process died in it."""


OPEN = (Told.UNKNOWN, Told.KILLED, Told.ACCEPTED)
"""What may stand, once, or not."""


@dataclass(frozen=True)
class Pass:
    """One pass of a hermes-server, which began at a moment of the wall clock.

    `age` counts the passes that went through before it and the initsyncs that began:
    what was not recognised by then is new. `process` counts the starts of its
    hermes-server, and `ended` is how the process before this one ended.
    """

    producer: int = 0
    process: int = 0
    ended: str = ""
    number: int = 0
    age: int = 0
    began_at: float = 0.0


@dataclass(frozen=True)
class Attempt:
    """One `_send`, in the order of sending within its producer.

    `keys` are all that it sent; one that was broken on purpose has several.
    """

    body: bytes
    told: Told
    keys: tuple[str, ...] = ()
    offset: int | None = None
    text: str = ""
    during: Pass = Pass()
    at: float = 0.0  # when it ended, monotonic


@dataclass(frozen=True)
class Message:
    """What the stream holds at an offset; its publish was conditional on `expected`."""

    offset: int
    key: str
    body: bytes
    expected: int | None = None
    time: str = field(default="", compare=False)
    is_of_batch: bool = field(default=False, compare=False)  # an atomic one


@dataclass
class Verdict:
    """What was found.

    `claims` gives for each offset the number of the attempt that stands there;
    `open_stored` holds those of them that nobody was told of. `repeats` counts what a
    hermes-server stored again after it was started anew, by how the one before ended.
    """

    violations: list[str] = field(default_factory=list)
    open_stored: set[int] = field(default_factory=set)
    claims: dict[int, int] = field(default_factory=dict)
    repeats: Counter[str] = field(default_factory=Counter)


def check(
    attempts: Sequence[Attempt],
    messages: Sequence[Message],
    forgotten: Collection[int] = (),
) -> Verdict:
    """Say what in the stream differs from what the producers were told.

    `forgotten`: the numbers of attempts that returned to a process which was killed
    before it had saved its cache.
    """
    verdict = Verdict()
    _check_offsets(messages, verdict)
    _claim(attempts, messages, verdict)
    _check_stored(attempts, verdict)
    _check_initsyncs(attempts, verdict)
    _check_order(attempts, verdict)
    _check_walks(attempts, set(forgotten), verdict)
    _check_passes(attempts, messages, verdict)
    return verdict


def check_reader(
    name: str,
    seen: Sequence[tuple[int, str]],
    messages: Sequence[Message],
    *,
    was_refused: bool = False,
) -> list[str]:
    """Say where a reader's events differ from the stream, by offset and content.

    One that was refused may lack the end.
    """
    expected = [(message.offset, name_of(message.body)) for message in messages]
    if was_refused:
        expected = expected[: len(seen)]
    if list(seen) == expected:
        return []
    for place, (got, want) in enumerate(zip(seen, expected, strict=False)):
        if got != want:
            return [f"{name}: event {place} is {got}, the stream has {want}"]
    return [f"{name}: saw {len(seen)} events, the stream has {len(expected)}"]


# -- What an event says ----------------------------------------------------------------


@lru_cache(maxsize=4096)  # the same bytes come often
def name_of(body: bytes) -> str:
    """Name an event by all that tells it from others."""
    event = json.loads(body)
    return named(*(event.get(name) for name in _NAMING))


def named(category: Any, kind: Any, objtype: Any, pkey: Any, attributes: Any) -> str:
    """Name an event; of what only fills its attributes, the size."""
    shown = repr(attributes)
    if len(shown) > _SHOWN:
        shown = f"{shown[:_SHOWN]}... {len(shown)}"
    return f"{category} {kind} {objtype} {pkey} {shown}"


_NAMING = ("evcategory", "eventtype", "objtype", "objpkey", "objattrs")
_SHOWN = 60


@lru_cache(maxsize=4096)
def _object_of(body: bytes) -> str:
    """Name what the next equal event may be recognised by; nothing for others."""
    event = json.loads(body)
    if event.get("evcategory") != "base" or event.get("eventtype") == "dataschema":
        return ""
    return f"{event.get('objtype')} {event.get('objpkey')}"


_REMOVAL: Final = ("base", "removed")
_ENDS_ALL: Final = (("initsync", "init-stop"), ("base", "dataschema"))


def _kind(attempt: Attempt) -> tuple[Any, Any]:
    event = json.loads(attempt.body)
    return event.get("evcategory"), event.get("eventtype")


def _is_removal(attempt: Attempt) -> bool:
    return _kind(attempt) == _REMOVAL


# -- Each message and its attempt ------------------------------------------------------


def _check_offsets(messages: Sequence[Message], verdict: Verdict) -> None:
    for before, after in pairwise(messages):
        if after.offset != before.offset + 1:
            verdict.violations.append(f"hole: {before.offset} then {after.offset}")


def _claim(
    attempts: Sequence[Attempt], messages: Sequence[Message], verdict: Verdict
) -> None:
    """Find whose each message is, and see that it may stand, there, and once."""
    # Whoever is recognised was asked for by the key of the first.
    numbers = {
        key: number
        for number in reversed(range(len(attempts)))
        for key in attempts[number].keys
    }
    offsets: dict[int, int] = {}
    for message in messages:
        number, offset = numbers.get(message.key), message.offset
        if number is None:
            verdict.violations.append(f"nobody sent what stands at offset {offset}")
            continue
        verdict.claims[offset] = number
        attempt = attempts[number]
        if number in offsets:
            verdict.violations.append(
                f"one _send stands twice: at offsets {offsets[number]} and {offset}"
            )
        offsets[number] = offset
        if message.body != attempt.body:
            verdict.violations.append(f"another event stands at offset {offset}")
        if attempt.told in OPEN:
            verdict.open_stored.add(number)
        elif attempt.told is Told.STANDING:
            verdict.violations.append(f"said to stand already, and stored: {offset}")
        elif attempt.told is Told.NOT_STORED:
            verdict.violations.append(
                f"reported not stored, but stands: offset {offset}, {attempt.text}"
            )


def _check_stored(attempts: Sequence[Attempt], verdict: Verdict) -> None:
    """See that what returned an offset stands at it, and that these rise."""
    highest: dict[int, int] = defaultdict(int)
    for number, attempt in enumerate(attempts):
        if attempt.told is not Told.STORED:
            continue
        offset, producer = attempt.offset or 0, attempt.during.producer
        if verdict.claims.get(offset) != number:
            verdict.violations.append(f"lost: offset {offset} of {_name(attempt)}")
        if offset <= highest[producer]:
            verdict.violations.append(f"offset {offset} did not rise")
        highest[producer] = max(offset, highest[producer])


def _check_initsyncs(attempts: Sequence[Attempt], verdict: Verdict) -> None:
    """See that all that was accepted before an init-stop that returned stands."""
    stands = set(verdict.claims.values())
    accepted: dict[tuple[int, int, int], list[int]] = defaultdict(list)
    for number, attempt in enumerate(attempts):
        during = attempt.during
        place = (during.producer, during.process, during.number)
        if attempt.told is Told.ACCEPTED:
            accepted[place].append(number)
        elif attempt.told is Told.STORED and _kind(attempt) == _ENDS_ALL[0]:
            verdict.violations += [
                f"lost: {_name(attempts[each])} was accepted, and its init-stop stands"
                for each in accepted[place]
                if each not in stands
            ]


def _check_order(attempts: Sequence[Attempt], verdict: Verdict) -> None:
    """See that what stands of each producer stands in the order of sending."""
    last: dict[int, int] = defaultdict(lambda: -1)
    for offset, number in sorted(verdict.claims.items()):
        producer = attempts[number].during.producer
        if number < last[producer]:
            verdict.violations.append(f"out of order: offset {offset}")
        last[producer] = number


# -- The walk of each object -----------------------------------------------------------


def _check_walks(
    attempts: Sequence[Attempt], forgotten: set[int], verdict: Verdict
) -> None:
    stands = set(verdict.claims.values())
    walks: dict[tuple[int, str], list[int]] = defaultdict(list)
    removals: dict[int, list[int]] = defaultdict(list)  # of each producer
    whole: dict[int, list[int]] = defaultdict(list)  # init-stop and schema of each
    for number, attempt in enumerate(attempts):
        kind = _kind(attempt)
        if kind == _REMOVAL:
            removals[attempt.during.producer].append(number)
        elif kind in _ENDS_ALL:
            whole[attempt.during.producer].append(number)
        if name := _object_of(attempt.body):
            walks[attempt.during.producer, name].append(number)
        elif attempt.told is Told.STANDING:
            verdict.violations.append(
                f"swallowed: {_name(attempt)} is never to be recognised"
            )
    for (producer, _), numbers in walks.items():
        others = [
            number
            for events in (removals, whole)
            for each, found in events.items()
            if each != producer
            for number in found
            if number in stands
        ]
        foreign = [
            number for number in stands if attempts[number].during.producer != producer
        ]
        verdict.violations += _walk(
            attempts,
            numbers,
            removals[producer],
            sorted(others),
            sorted(foreign),
            stands,
            forgotten,
            verdict.repeats,
        )


def _walk(  # noqa: PLR0917 - what a walk is judged by
    attempts: Sequence[Attempt],
    numbers: Sequence[int],
    removals: Sequence[int],
    others: Sequence[int],
    foreign: Sequence[int],
    stands: set[int],
    forgotten: set[int],
    repeats: Counter[str],
) -> Iterator[str]:
    """Follow one object, and see what was recognised and what came again.

    Recognised may be only the newest event of its object in the stream, byte for byte,
    of which Hermes does not know, while its pass is of the same age. And it has to be,
    unless another event of that object was tried meanwhile. Removals are the last of a
    pass: after one of them whatever was no removal and has not come again is new. It
    may be recognised all the same if none of them stands: nothing went with them then.
    What came again behind `others`, which are removals, initsyncs and schemas of other
    producers, may be new.

    The same holds over processes until one goes through a pass: later, what looks like
    an event that died with its process may be new, or its source went back meanwhile.
    Behind `foreign` events it is not known which pass was the last.
    """
    newest: Attempt | None = None
    place = 0  # of the newest
    is_known, is_next = False, False

    standing = [number for number in removals if number in stands]

    def is_new(number: int, removals: Sequence[int]) -> bool:
        assert newest is not None
        came_to_removals = bisect_left(removals, number) > bisect_right(removals, place)
        return _is_later(newest, attempts[number]) or (
            came_to_removals and not _is_removal(newest)
        )

    for number in numbers:
        attempt = attempts[number]
        is_equal = newest is not None and newest.body == attempt.body
        is_next = is_next and is_equal
        if attempt.told is Told.STANDING:
            if newest is None or not is_equal:
                yield f"swallowed: {_name(attempt)} does not stand"
            elif is_known:
                yield f"swallowed: {_name(attempt)} was known to stand"
            elif is_new(number, standing):
                yield f"swallowed: {_name(attempt)} is new"
            is_known = number not in forgotten
        if number not in stands:
            continue
        if newest is not None and is_next and not is_known:
            before, now = newest.during, attempt.during
            between = others if before.process == now.process else foreign
            if before.process != now.process and before.age != now.age:
                repeats[now.ended] += 1
            elif not is_new(number, removals) and (
                bisect_left(between, number) == bisect_right(between, place)
            ):
                yield f"doubled: {_name(attempt)} stood already, at {attempt.offset}"
        newest, place, is_next = attempt, number, True
        is_known = attempt.told is Told.STORED and number not in forgotten


def _is_later(before: Attempt, after: Attempt) -> bool:
    """Tell whether the same process grew older in between."""
    first, second = before.during, after.during
    return first.process == second.process and first.age != second.age


# -- Passes ----------------------------------------------------------------------------


def _check_passes(
    attempts: Sequence[Attempt], messages: Sequence[Message], verdict: Verdict
) -> None:
    """See that no pass stores behind another writer's event that came in it."""
    producers = {attempt.during.producer for attempt in attempts}
    if len(producers) < 2:
        return
    latest = dict.fromkeys(producers, 0.0)  # of the events of each producer
    ended: set[Pass] = set()
    for message in messages:
        number = verdict.claims.get(message.offset)
        if number is None:
            continue
        during = attempts[number].during
        foreign = max(at for each, at in latest.items() if each != during.producer)
        if foreign > during.began_at and during not in ended:
            ended.add(during)  # one of its events is enough
            verdict.violations.append(
                f"stale: offset {message.offset} was stored by a pass of producer "
                f"{during.producer} after another producer's event that came in it"
            )
        latest[during.producer] = datetime.fromisoformat(message.time).timestamp()


# -- The targets -----------------------------------------------------------------------


def check_targets(
    attempts: Sequence[Attempt],
    messages: Sequence[Message],
    unseen: Collection[int],
    cache: Mapping[tuple[str, int], Any],
) -> list[str]:
    """See that a target which applies the whole stream ends with what Hermes knows.

    `unseen`: the attempts that may stand without its knowing. Where one of them is the
    newest of its object and the source went back, no event comes: not to be helped.
    """
    target: dict[tuple[str, int], Any] = {}
    newest: dict[tuple[str, int], str] = {}
    for message in messages:
        event = json.loads(message.body)
        if event.get("evcategory") != "base" or event.get("objpkey") is None:
            continue
        place = (event["objtype"], event["objpkey"])
        newest[place] = message.key
        match event["eventtype"]:
            case "removed":
                target.pop(place, None)
            case "added":
                target[place] = event["objattrs"]["value"]
            case _ if "value" in event["objattrs"]["modified"]:
                target[place] = event["objattrs"]["modified"]["value"]
    unseen_keys = {key for number in unseen for key in attempts[number].keys}
    return [
        f"in the end {place} is {target.get(place)}, for Hermes {cache.get(place)}"
        for place in sorted(target.keys() | cache.keys())
        if target.get(place) != cache.get(place)
        and newest.get(place) not in unseen_keys
    ]


def _name(attempt: Attempt) -> str:
    return f"{name_of(attempt.body)} of producer {attempt.during.producer}"
