# SPDX-License-Identifier: Apache-2.0
"""What must hold of every run: DESIGN.md's guarantees, judged by history and truth.

Pure. Each violation names what, where and the guarantee. It is longer than 400 lines: a
guarantee has one function.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Final, NamedTuple

from .claims import Claims, Stored, Timeline, Violation, claim
from .history import Told
from .killed import MAY_BE_KNOWN, LastPasses, check_repeats, count_went_back
from .readers import check_readers, check_starved
from .targets import check_targets
from .verdicts import check_verdicts

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from .clients import Target
    from .history import History, Object, Pass, Sample, Send
    from .source import Source

SPIN_TIMES: Final = 20
SPIN_SECONDS: Final = 1.0

GUARANTEES: Final[Mapping[str, str]] = {
    "lost": "what a _send returned stands in the stream",
    "wrong_place": "what a _send returned stands at its own offset",
    "given_twice": "an offset is given to one event",
    "out_of_order": "events stand in the order sent",
    "doubled": "each _send stands at most once",
    "doubled_change": "one computed change stands at most once",
    "swallowed": "only what stands, in doubt, and is its object's newest is recognised",
    "not_stored_stands": "not stored: nothing was or ever will be written",
    "nobody_sent": "only what was sent stands",
    "broken_initsync": "an initsync whose init-stop stands is whole and in order",
    "lost_initsync": "an initsync that Hermes was told is sent has its init-stop",
    "offsets": "offsets rise by one, and never come again but after a restore",
    "behind_foreign": "a foreign event inside a pass ends the pass",
    "reader_skipped": "a reader gets each event once, in order",
    "reader_altered": "a reader gets the bytes that our stream holds, while it does",
    "reader_refused": "IndexError only outside of [first, last + 1], on that side",
    "false_damage": "an event is told to be lost only where one is",
    "false_end": "an iteration ends only where nothing stands after it",
    "starved": "over a slow link all arrives, and no reader is told of a failure",
    "untrue_page": "pages tell of what the stream holds",
    "wrong_initsync": "a client begins with the last complete initsync of its scan",
    "wrong_header": "an event of an initsync says where a scan stands after it",
    "wrong_verdict": "a sidecar says which initsync a scan finds",
    "target_differs": "in the end each target equals the source",
    "secret_lost": "a secret that was wiped at its source stands in the stream",
    "destroyed": "no removed comes twice",
    "stuck": "once the faults are over everybody gets on",
    "outlived": "nothing outlives its request",
    "ready_in_vain": "ready only while events can be stored",
    "not_ready_in_vain": "not ready only while something is wrong",
    "spins": "nothing that Hermes calls without a pause may answer at once",
}


@dataclass(frozen=True)
class Limits:
    """How long a state may be told wrongly, in seconds."""

    ready_in_vain_seconds: float = 30.0
    not_ready_in_vain_seconds: float = 60.0
    verdict_seconds: float = 9.0
    """It looks once a second, and again after five: an old leader may have told it."""
    page_seconds: float = 3.0


class End(NamedTuple):
    """A run's end: faults over, the source still, a last pass gone through."""

    source: Source
    targets: Mapping[str, Target]
    servers: Sequence[str]  # those that run
    open_requests: Sequence[str] = ()


@dataclass(frozen=True)
class Facts:
    """What is true of the stream, beside what was said of it."""

    stored: Sequence[Stored]  # all that was ever committed, in order
    restored: frozenset[int] = frozenset()
    """Epochs that began with a backup: offsets come again."""
    limits: Limits = field(default_factory=Limits)
    is_only_slow: bool = False
    """Nothing was wrong but slow links."""
    forgiven: Counter[str] = field(default_factory=Counter)
    """Counts what cannot be helped, by its reason; check() adds to it."""


def check(history: History, facts: Facts, end: End | None = None) -> list[Violation]:
    """Give all violations, in the order of their time; `end` only at a run's end."""
    stored = facts.stored
    timeline = Timeline(history.ends)
    claims = claim(history, stored)
    passes = LastPasses(history, stored, claims)
    count_went_back(passes, facts.forgiven)
    found = [
        *claims.violations,
        *_check_order(history, stored, claims),
        *_check_changes(history, stored, claims, timeline),
        *check_repeats(passes, facts.forgiven),
        *_check_recognised(history, stored, claims, passes),
        *_check_initsyncs(history, stored, claims),
        *_check_sent_initsyncs(history, claims),
        *_check_offsets(stored, facts.restored),
        *_check_fence(history, stored, claims, facts.restored),
        *check_readers(history, stored, timeline, facts.limits.page_seconds),
        *(check_starved(history) if facts.is_only_slow else ()),
        *check_verdicts(history, stored, timeline, facts.limits.verdict_seconds),
        *_check_health(history.samples, facts.limits),
        *_check_spins(history),
    ]
    if end is not None:
        found += check_targets(passes, facts, end)
        found += [
            Violation("outlived", f"still open: {each}", history.clock())
            for each in end.open_requests
        ]
    told = [
        each._replace(sentence=f"{each.sentence} ({GUARANTEES[each.name]})")
        for each in found
    ]
    return sorted(told, key=lambda each: each.at)


def _check_order(
    history: History, stored: Sequence[Stored], claims: Claims
) -> Iterator[Violation]:
    """See that the order of each stream is that of the sends.

    An event may stand in two: a node that was cut off while the stream was restored
    brings back what it holds.
    """
    last: dict[tuple[str, int, int], tuple[int, Send]] = {}
    for send in history.sends:
        places = claims.places.get(send.number, ()) if send.is_fenced else ()
        for epoch, group in groupby(places, lambda place: stored[place].epoch):
            here = list(group)
            before = last.get((send.server, send.life, epoch))
            if before is not None and here[0] < before[0]:
                text = f"{send} stands before {before[1]}, which was sent earlier"
                yield Violation("out_of_order", text, send.ended)
            last[send.server, send.life, epoch] = (here[-1], send)


# -- One change, one event -------------------------------------------------------------


def _check_changes(
    history: History,
    stored: Sequence[Stored],
    claims: Claims,
    timeline: Timeline,
) -> Iterator[Violation]:
    """See that what Hermes computed again, not told that it stands, stands once."""
    for run in _runs(history, stored, claims):
        places = [p for each in run for p in claims.places.get(each.number, ())]
        for before, after in pairwise(places):
            if stored[before].epoch != stored[after].epoch:
                continue  # another stream: nobody could know
            if timeline.at(stored[after].time).first > stored[before].offset:
                continue  # it was gone already, or may have been
            if claims.owners[before] is claims.owners[after]:
                continue  # claim() tells of it
            between = claims.owners[before + 1 : after]
            if any(
                owner is not None
                and owner.server != run[0].server
                and _makes_new(owner, run[0])
                for owner in between
            ):
                continue
            text = (
                f"{claims.owners[before]} stands at {stored[before].offset}, and as "
                f"{claims.owners[after]} again at {stored[after].offset}"
            )
            yield Violation("doubled_change", text, stored[after].time)


def _makes_new(other: Send, send: Send) -> bool:
    """Tell whether what comes again behind another server's event is a new one."""
    return (
        other.object == send.object
        or other.kind in ("init-stop", "dataschema")
        or (other.kind == "removed" and send.kind != "removed")
    )


def _runs(
    history: History, stored: Sequence[Stored], claims: Claims
) -> Iterator[list[Send]]:
    """Give the sends of one computed change: the same bytes of an object in a row.

    A row ends where Hermes was told that it stands, at another event of that object,
    at a pass that went through without it, or came to its removals, which are the last
    of a pass, at an initsync that stands after it, and with the process: of what the
    next one repeats, killed.py tells.
    """
    through = {
        (each.server, each.life, each.number)
        for each in history.passes
        if each.went_through and each.kind == "base"
    }
    init_starts = _init_starts(stored, claims)
    rows: dict[tuple[str, Object], list[Send]] = {}
    removals: dict[str, int] = {}  # of each server the newest
    for send in history.sends:
        if send.category != "base" or send.kind == "dataschema" or not send.is_fenced:
            continue
        removed = removals.get(send.server, 0)
        if send.kind == "removed":
            removals[send.server] = send.number
        name = (send.server, send.object)
        row = rows.get(name)
        if row is not None and (
            row[-1].body != send.body
            or row[-1].told in (Told.STORED, Told.STANDING)
            or row[-1].life != send.life
            or (row[-1].kind != "removed" and row[-1].number < removed)
            or any(
                (send.server, send.life, number) in through
                for number in range(row[-1].pass_number + 1, send.pass_number)
            )
            or any(row[-1].began < time < send.began for time in init_starts[name[0]])
        ):
            yield row
            row = None
        if row is None:
            row = rows[name] = []
        row.append(send)
    yield from rows.values()


def _init_starts(stored: Sequence[Stored], claims: Claims) -> dict[str, list[float]]:
    """Give when each server's complete initsyncs began to stand."""
    found: dict[str, list[float]] = defaultdict(list)
    starts: dict[str, float] = {}
    for message, owner in zip(stored, claims.owners, strict=True):
        if owner is None or message.category != "initsync":
            continue
        if owner.kind == "init-start":
            starts[owner.server] = message.time
        elif owner.kind == "init-stop" and owner.server in starts:
            found[owner.server].append(starts.pop(owner.server))
    return found


def _check_recognised(
    history: History, stored: Sequence[Stored], claims: Claims, passes: LastPasses
) -> Iterator[Violation]:
    """See that what was taken for standing is what its object's newest event says."""
    of_object: dict[tuple[str, Object], list[tuple[Stored, Send]]] = defaultdict(list)
    for message, owner in zip(stored, claims.owners, strict=True):
        if owner is not None and message.category == "base":
            of_object[owner.server, owner.object].append((message, owner))
    init_starts = _init_starts(stored, claims)
    recognised: set[int] = set()
    for send in history.sends:
        if send.told is not Told.STANDING:
            continue
        before = [
            (message, owner)
            for message, owner in of_object[send.server, send.object]
            if owner.number < send.number and message.time <= send.ended
        ]
        why = "does not stand as the newest of its object"
        if before and before[-1][1].body == send.body:
            message, owner = before[-1]
            why = _why_not_in_doubt(send, owner, recognised)
            if any(message.time < at < send.began for at in init_starts[send.server]):
                why = f"stands only before an initsync that lacks it, at {message[1]}"
            recognised.add(owner.number)
        if send.kind == "dataschema":
            why = "is a schema, which always is sent"
        elif why and any(
            passes.why_new(send, content) in MAY_BE_KNOWN
            for content in passes.contents.within(send.began, send.ended)
        ):
            continue
        if why:
            yield Violation("swallowed", f"{send} {why}", send.ended)


def _why_not_in_doubt(send: Send, owner: Send, recognised: set[int]) -> str:
    """Say why its own process should take an event for new that stands already."""
    if owner.life != send.life:
        return f"is new: {owner} is of another process"
    if owner.told is Told.STORED:
        return f"is new: {owner} was told stored"
    return f"is new: {owner} was known already" * (owner.number in recognised)


def _check_initsyncs(
    history: History, stored: Sequence[Stored], claims: Claims
) -> Iterator[Violation]:
    sent: dict[tuple[str, int], list[bytes]] = defaultdict(list)
    for send in history.sends:
        if send.category == "initsync":
            sent[send.server, send.pass_number].append(send.body)
    sequence: list[bytes] = []
    for message, owner in zip(stored, claims.owners, strict=True):
        if message.category != "initsync" or owner is None:
            continue
        if owner.kind == "init-start":
            sequence = []
        sequence.append(message.body)
        if owner.kind == "init-stop":
            if sequence != sent[owner.server, owner.pass_number]:
                text = f"what stands before {owner}, at {message.offset}, is not it"
                yield Violation("broken_initsync", text, message.time)
            sequence = []


def _check_sent_initsyncs(history: History, claims: Claims) -> Iterator[Violation]:
    """See that what ended without an error is more than accepted."""
    went_through = {each.number for each in history.passes if each.went_through}
    for send in history.sends:
        is_sent = send.kind == "init-stop" and send.pass_number in went_through
        if is_sent and send.told is not Told.STORED and not claims.has(send):
            text = f"{send} was told {send.told}, and stands nowhere"
            yield Violation("lost_initsync", text, send.ended)


def _check_offsets(
    stored: Sequence[Stored], restored: frozenset[int]
) -> Iterator[Violation]:
    highest, epoch = 0, -1
    for message in stored:
        is_new = message.epoch != epoch
        epoch = message.epoch
        if is_new and epoch in restored:
            highest = message.offset - 1
        fits = message.offset > highest if is_new else message.offset == highest + 1
        if not fits:
            text = f"offset {message.offset} stands after {highest}"
            yield Violation("offsets", text, message.time)
        highest = message.offset


def _check_fence(
    history: History,
    stored: Sequence[Stored],
    claims: Claims,
    restored: frozenset[int],
) -> Iterator[Violation]:
    passes: dict[int, Pass] = {each.number: each for each in history.passes}
    for place, owner in enumerate(claims.owners):
        noted = passes.get(owner.pass_number) if owner is not None else None
        if owner is None or noted is None:
            continue
        for earlier in range(place - 1, -1, -1):
            if stored[earlier].time <= noted.opened:
                break
            if stored[earlier].epoch in restored:
                continue  # L may mean another event there, and fit
            is_another = stored[earlier].epoch != stored[place].epoch
            if is_another and stored[place].epoch in restored:
                continue  # the backup may be older than that event
            foreign = claims.owners[earlier]
            if foreign is None or (foreign.server, foreign.life) != (
                owner.server,
                owner.life,
            ):
                text = (
                    f"{owner} stands at {stored[place].offset}, after {foreign} at "
                    f"{stored[earlier].offset}, which came inside its pass"
                )
                yield Violation("behind_foreign", text, stored[place].time)
                break


# -- What is said beside the stream ----------------------------------------------------


def _check_health(samples: Sequence[Sample], limits: Limits) -> Iterator[Violation]:
    since: dict[tuple[str, bool], float] = {}  # of a wrong state; True: ready in vain
    for sample in samples:
        for is_ready, name, seconds in (
            (True, "ready_in_vain", limits.ready_in_vain_seconds),
            (False, "not_ready_in_vain", limits.not_ready_in_vain_seconds),
        ):
            state = (sample.where, is_ready)
            if sample.is_ready != is_ready or sample.can_publish == is_ready:
                since.pop(state, None)
                continue
            began = since.setdefault(state, sample.time)
            if sample.time - began > seconds:
                reasons = "; ".join(sample.reasons)
                text = f"{sample.where} for {sample.time - began:.0f} s: {reasons}"
                yield Violation(name, text, sample.time)
                since[state] = float("inf")  # told


def _check_spins(history: History) -> Iterator[Violation]:
    times: dict[str, list[float]] = defaultdict(list)
    for each in history.passes:
        if each.kind == "dataschema" and not each.went_through:
            times[each.server].append(each.began)
    for asking in history.askings:
        if asking.text:
            times[asking.client].append(asking.began)
    for who, began in times.items():
        for first, last in zip(began, began[SPIN_TIMES:], strict=False):
            if last - first < SPIN_SECONDS:
                text = f"{who} failed {SPIN_TIMES} times in {last - first:.2f} s"
                yield Violation("spins", text, last)
                break
