# SPDX-License-Identifier: Apache-2.0
"""The decision table of a publish: what follows from a reply, and from what stands.

Every copy of an event carries `Nats-Expected-Last-Sequence: L`, so at most one message
can ever be stored as L + 1, and the server refuses every late copy for ever. The only
question left is whose message stands at L + 1. A copy without a definite reply is in
doubt, and a doubt ends only when L + 1 is taken. docs/adr/0002-conditional-publish.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from sidecar import errors
from sidecar.errors import Cause, Outcome, Problem
from sidecar.model.publish_reply import (
    Acknowledged,
    Answer,
    Disconnected,
    InProcess,
    NoAnswer,
    NotSent,
    Observation,
    Refused,
    TooLarge,
    Unavailable,
    Undecided,
    WrongLast,
)


class InDoubt(IntEnum):
    """Whether copies of an event may stand or still land, the worst of them."""

    NO = 0
    REFUSED = 1
    """Each was refused, perhaps by an old leader, or was one of two with an equal id: a
    leader that stays, and says that the stream ends before L, has refused them all."""
    YES = 2


class Expected(NamedTuple):
    """An event that is to become L + 1, and what is known of its copies.

    `anywhere`: the caller sent If-Match: *, so its key may stand at any offset.
    """

    key: str
    body: bytes
    last: int
    anywhere: bool = False
    in_doubt: InDoubt = InDoubt.NO

    def __repr__(self) -> str:
        return f"<Expected {self.key} after {self.last}>"

    @property
    def next(self) -> int:
        """The offset that the event is to take."""
        return self.last + 1


@dataclass(frozen=True)
class Stored:
    """The event stands at this offset."""

    offset: int
    duplicate: bool


@dataclass(frozen=True)
class Retry:
    """Send the same copy again; `cause` is what keeps it from being stored."""

    in_doubt: InDoubt
    pause_seconds: float
    cause: Cause
    jetstream_code: int | None = None


@dataclass(frozen=True)
class Inspect:
    """Ask the leader what stands at this sequence; `otherwise` if it does not say."""

    sequence: int
    in_doubt: InDoubt
    otherwise: Retry | None = None


Result = Stored | Problem
"""How a publish ends: a Problem has the outcome not_stored or unknown."""

Step = Result | Retry | Inspect
"""What comes next."""


def decide(expected: Expected, answer: Answer) -> Step:
    """Say what follows from the answer to one copy."""
    in_doubt = expected.in_doubt
    match answer:
        case Acknowledged(sequence, duplicate=False) if sequence == expected.next:
            return Stored(sequence, duplicate=False)
        case Acknowledged(duplicate=False):
            # Whoever answered did not apply our precondition.
            return Retry(InDoubt.YES, 0.1, errors.FOREIGN_ANSWER)
        case Acknowledged(sequence) if sequence == expected.next:
            # Deduplication compares ids alone: look whether the bytes are ours.
            return Inspect(sequence, InDoubt.YES)
        case Acknowledged(sequence):
            # An old leader may know our id where it never came to stand.
            return Inspect(sequence, max(in_doubt, InDoubt.REFUSED))
        case WrongLast(of_several):
            leaves = InDoubt.REFUSED if of_several else InDoubt.NO
            return Inspect(expected.next, max(in_doubt, leaves))
        case InProcess():
            # The copy under way may be another request's: it can still land. Or it was
            # refused as it was applied: 2.11 on several replicas says this of such a
            # copy for as long as its leader leads, so only a look ends it.
            return _inspect(
                expected, InDoubt.REFUSED, errors.JETSTREAM_UNAVAILABLE, None
            )
        case Unavailable():
            return Retry(in_doubt, 0.25, errors.JETSTREAM_UNAVAILABLE)
        case Refused(cause, code):
            return _refuse(expected, cause, jetstream_code=code)
        case TooLarge(size_bytes, limit_bytes):
            return _refuse(
                expected,
                errors.EVENT_TOO_LARGE,
                size_bytes=size_bytes,
                limit_bytes=limit_bytes,
            )
        case Undecided(cause, code):
            return _inspect(expected, InDoubt.YES, cause, code)
        case NotSent():
            return Retry(in_doubt, 0.0, errors.NATS_DOWN)
        case NoAnswer() | Disconnected():
            return Retry(InDoubt.YES, 0.0, errors.JETSTREAM_UNAVAILABLE)


def resolve(expected: Expected, sequence: int, seen: Observation) -> Result | Retry:
    """Say what follows from what the leader shows at `sequence`."""
    in_doubt, message, position = expected.in_doubt, seen.message, seen.position
    ends = {"first_offset": position.first, "last_offset": position.last}
    is_next = sequence == expected.next
    if message is not None and message.sequence == sequence:
        if message.key != expected.key:
            if not is_next:
                # Where an old leader says that it stands. At L + 1 it may.
                return Retry(InDoubt.YES, 0.1, errors.JETSTREAM_UNAVAILABLE)
            return Problem(
                errors.PRECONDITION_FAILED,
                Outcome.NOT_STORED,
                offset=sequence,
                key=message.key,
                last_offset=position.last,
            )
        if (is_next or expected.anywhere) and message.body == expected.body:
            return Stored(sequence, duplicate=True)
        outcome = Outcome.NOT_STORED if is_next else _outcome(in_doubt)
        return Problem(errors.KEY_REUSED, outcome, offset=sequence)
    if message is not None or sequence < position.first:
        # It was taken and is gone: nobody can say any more by whom.
        return Problem(errors.OFFSET_GONE, Outcome.UNKNOWN, **ends)
    if sequence <= position.last:
        # It was taken, but who was asked for it has not come that far: an old leader
        # that a partition has just released.
        return Retry(InDoubt.YES, 0.1, errors.JETSTREAM_UNAVAILABLE)
    if position.last == expected.last:
        # Proposed by the leader, not yet committed: it may still be dropped. It may be
        # ours, of an earlier request with the same key.
        return Retry(InDoubt.YES, 0.05, errors.JETSTREAM_UNAVAILABLE)
    if seen.settled_last is None or seen.settled_last >= expected.last:
        # A thawed old leader was seen to answer from its past for a moment.
        return Retry(in_doubt, 0.5, errors.JETSTREAM_UNAVAILABLE)
    # One leader has said so for long enough: whoever refused the copies was right.
    return Problem(errors.OFFSET_AHEAD, _outcome(in_doubt), **ends)


def timed_out(
    in_doubt: InDoubt, bus_cause: Cause | None, cause: Cause, jetstream_code: int | None
) -> Problem:
    """Say what came of a request when its time is up; the stream's cause goes first.

    The outcome unknown has a reason, or nobody could mend it.
    """
    if in_doubt is not InDoubt.YES:
        return Problem(cause, Outcome.UNKNOWN if in_doubt else Outcome.NOT_STORED)
    reason = bus_cause or cause
    members: dict[str, int | str | None] = {"reason": reason.code}
    if bus_cause is None and jetstream_code is not None:
        members["jetstream_code"] = jetstream_code
    problem = Problem(errors.UNKNOWN_OUTCOME, Outcome.UNKNOWN, **members)
    problem.reason = reason
    return problem


def _refuse(
    expected: Expected, cause: Cause, **members: int | None
) -> Inspect | Problem:
    """Refuse for good, unless an earlier copy of this request may still land."""
    if expected.in_doubt:
        return _inspect(expected, InDoubt.NO, cause, members.get("jetstream_code"))
    known = {name: value for name, value in members.items() if value is not None}
    return Problem(cause, Outcome.NOT_STORED, **known)


def _inspect(
    expected: Expected, leaves: InDoubt, cause: Cause, jetstream_code: int | None
) -> Inspect:
    """Look whether a copy was stored; if not, try again, and not too often.

    Who answers in the stream's place does so before it, and what is under way lands
    soon: that is looked for soon again.
    """
    is_soon = cause in (errors.FOREIGN_ANSWER, errors.JETSTREAM_UNAVAILABLE)
    pause_seconds = 0.1 if is_soon else 0.5
    in_doubt = max(expected.in_doubt, leaves)
    again = Retry(in_doubt, pause_seconds, cause, jetstream_code)
    return Inspect(expected.next, in_doubt, otherwise=again)


def _outcome(in_doubt: InDoubt) -> Outcome:
    return Outcome.UNKNOWN if in_doubt is InDoubt.YES else Outcome.NOT_STORED
