# SPDX-License-Identifier: Apache-2.0
"""Compares the whole stream with what the producers were told. Pure."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class Told(StrEnum):
    """What `_send` told Hermes."""

    STORED = "stored"
    STANDING = "stands already"
    NOT_STORED = "not stored"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Attempt:
    """One `_send`, in the order of sending within its producer.

    `again`: Hermes sends what failed with an unknown outcome once more, before any
    pass went through and before another event of that object. `is_new`: it must be
    stored whatever stands, since Hermes computed it after a pass that went through.
    """

    producer: int
    body: bytes
    object: str
    told: Told
    offset: int | None = None
    text: str = ""
    again: bool = False
    is_new: bool = False


@dataclass(frozen=True)
class Message:
    """What the stream holds at an offset; its publish was conditional on `expected`."""

    offset: int
    key: str
    body: bytes
    expected: int | None = None
    time: str = field(default="", compare=False)


@dataclass
class Verdict:
    """What was found; `unknown_stored` holds the numbers of attempts."""

    violations: list[str] = field(default_factory=list)
    unknown_stored: set[int] = field(default_factory=set)
    claims: dict[int, int] = field(default_factory=dict)


def check(attempts: Sequence[Attempt], messages: Sequence[Message]) -> Verdict:
    """Say what in the stream differs from what the producers were told."""
    verdict = Verdict()
    _check_offsets(messages, verdict)
    _claim_stored(attempts, messages, verdict)
    _claim_unknown(attempts, messages, verdict)
    _check_order(attempts, verdict)
    _check_recognised(attempts, messages, verdict)
    _check_doubled(attempts, verdict)
    return verdict


def check_reader(
    name: str,
    seen: Sequence[tuple[int, int]],
    messages: Sequence[Message],
    *,
    was_refused: bool = False,
) -> list[str]:
    """Say where a reader's events differ from the stream, by offset and number.

    One that was refused may lack the end.
    """
    expected = [(message.offset, number_of(message.body)) for message in messages]
    if was_refused:
        expected = expected[: len(seen)]
    if list(seen) == expected:
        return []
    for place, (got, want) in enumerate(zip(seen, expected, strict=False)):
        if got != want:
            return [f"{name}: event {place} is {got}, the stream has {want}"]
    return [f"{name}: saw {len(seen)} events, the stream has {len(expected)}"]


def number_of(body: bytes) -> int:
    """Give the number that tells an event from all others."""
    return int(json.loads(body)["objattrs"]["number"])


def _check_offsets(messages: Sequence[Message], verdict: Verdict) -> None:
    for before, after in pairwise(messages):
        if after.offset != before.offset + 1:
            verdict.violations.append(f"hole: {before.offset} then {after.offset}")
    for key, count in Counter(message.key for message in messages).items():
        if count > 1:
            offsets = [each.offset for each in messages if each.key == key]
            verdict.violations.append(f"one _send stands {count} times: at {offsets}")


def _claim_stored(
    attempts: Sequence[Attempt], messages: Sequence[Message], verdict: Verdict
) -> None:
    standing = {message.offset: message for message in messages}
    highest: dict[int, int] = defaultdict(int)
    for number, attempt in enumerate(attempts):
        if attempt.told is not Told.STORED:
            continue
        offset = attempt.offset or 0
        message = standing.get(offset)
        if message is None:
            verdict.violations.append(f"lost: offset {offset} of {_name(attempt)}")
        elif message.body != attempt.body:
            verdict.violations.append(
                f"offset {offset} of {_name(attempt)} holds another event"
            )
        elif offset in verdict.claims:
            verdict.violations.append(f"offset {offset} was given to two events")
        else:
            verdict.claims[offset] = number
        if offset <= highest[attempt.producer]:
            verdict.violations.append(f"offset {offset} did not rise")
        highest[attempt.producer] = max(offset, highest[attempt.producer])


def _claim_unknown(
    attempts: Sequence[Attempt], messages: Sequence[Message], verdict: Verdict
) -> None:
    """Every other message must be an event of unknown outcome, at its place."""
    ranges = _ranges(attempts)
    candidates: dict[bytes, list[int]] = defaultdict(list)
    for number, attempt in enumerate(attempts):
        if attempt.told is Told.UNKNOWN:
            candidates[attempt.body].append(number)
    for message in messages:
        if message.offset in verdict.claims:
            continue
        for number in candidates[message.body]:
            after, before = ranges[number]
            if number not in verdict.unknown_stored and (
                after < message.offset < before
            ):
                verdict.unknown_stored.add(number)
                verdict.claims[message.offset] = number
                break
        else:
            verdict.violations.append(_why_foreign(attempts, message))


def _check_order(attempts: Sequence[Attempt], verdict: Verdict) -> None:
    """See that what stands of each producer stands in the order of sending."""
    last: dict[int, int] = defaultdict(lambda: -1)
    for offset, number in sorted(verdict.claims.items()):
        producer = attempts[number].producer
        if number < last[producer]:
            verdict.violations.append(f"out of order: offset {offset}")
        last[producer] = number


def _why_foreign(attempts: Sequence[Attempt], message: Message) -> str:
    told = {attempt.told for attempt in attempts if attempt.body == message.body}
    offset = message.offset
    if Told.STORED in told or Told.UNKNOWN in told:
        return f"twice or out of order: offset {offset} holds an event once more"
    if Told.NOT_STORED in told:
        return f"reported not stored, but stands: offset {offset}"
    return f"nobody sent what stands at offset {offset}"


def _ranges(attempts: Sequence[Attempt]) -> dict[int, tuple[int, float]]:
    """Give for each attempt the stored offsets before and after it in its producer."""
    before: dict[int, tuple[int, float]] = {}
    last: dict[int, int] = defaultdict(int)
    for number, attempt in enumerate(attempts):
        before[number] = (last[attempt.producer], float("inf"))
        if attempt.told is Told.STORED:
            last[attempt.producer] = attempt.offset or 0
    following: dict[int, float] = defaultdict(lambda: float("inf"))
    for number in reversed(range(len(attempts))):
        attempt = attempts[number]
        before[number] = (before[number][0], following[attempt.producer])
        if attempt.told is Told.STORED:
            following[attempt.producer] = attempt.offset or 0
    return before


def _check_recognised(
    attempts: Sequence[Attempt], messages: Sequence[Message], verdict: Verdict
) -> None:
    """See that what was called standing is the last of its object, and was unknown."""
    ranges = _ranges(attempts)
    by_object: dict[str, list[tuple[int, Message]]] = defaultdict(list)
    for message in messages:
        claim = verdict.claims.get(message.offset)
        if claim is not None:
            by_object[attempts[claim].object].append((claim, message))
    for number, attempt in enumerate(attempts):
        if attempt.told is not Told.STANDING:
            continue
        before = ranges[number][1]
        standing = _last(
            message
            for claim, message in by_object[attempt.object]
            if claim < number and message.offset < before
        )
        if standing is None or standing.body != attempt.body:
            verdict.violations.append(f"swallowed: {_name(attempt)} does not stand")
        elif verdict.claims[standing.offset] not in verdict.unknown_stored:
            verdict.violations.append(f"swallowed: {_name(attempt)} was acknowledged")
        elif attempt.is_new:
            verdict.violations.append(f"swallowed: {_name(attempt)} is new")


def _last(messages: Iterable[Message]) -> Message | None:
    found = None
    for found in messages:  # noqa: B007 - the last one is wanted
        pass
    return found


def _check_doubled(attempts: Sequence[Attempt], verdict: Verdict) -> None:
    """See that what stood, was unknown and came again was not stored again."""
    last_of_object: dict[str, int] = {}
    for offset, number in sorted(verdict.claims.items()):
        attempt = attempts[number]
        before = last_of_object.get(attempt.object)
        if (
            attempt.again
            and before is not None
            and before in verdict.unknown_stored
            and attempts[before].body == attempt.body
        ):
            verdict.violations.append(
                f"doubled: offset {offset} repeats an event that stood already"
            )
        last_of_object[attempt.object] = number


def _name(attempt: Attempt) -> str:
    return f"event {number_of(attempt.body)} of producer {attempt.producer}"
