# SPDX-License-Identifier: Apache-2.0
"""Derives the health checks from a snapshot. Pure: facts in, sentences out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from sidecar import errors
from sidecar.model.initsync import REMEDY, max_age_seconds, warning_seconds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidecar.errors import Cause
    from sidecar.model.clients import Client
    from sidecar.model.initsync import Initsync
    from sidecar.model.memory_budget import Full
    from sidecar.model.producers import Failure
    from sidecar.model.stream import StreamInfo

ROUND_TRIP_LIMIT_SECONDS: Final = 5.0
DOUBT_LIMIT_SECONDS: Final = 2.0

UNABLE_LIMIT_SECONDS: Final = 2.0
SECOND_WRITER_SECONDS: Final = 600.0
FULL_SECONDS: Final = 60.0
STRANGER_SECONDS: Final = 600.0
DAMAGE_SECONDS: Final = 600.0
LATE_SECONDS: Final = 60.0
SLOW_SECONDS: Final = 2.0

_SHOWN_CLIENTS = 5
_UNANSWERED: Final = (errors.NATS_DOWN, errors.JETSTREAM_UNAVAILABLE)
_RESET: Final = (
    "Reset this client on its host: stop it, remove its cache directory, run "
    "hermes-server-cli initsync, start it; see docs/operations.md."
)


@dataclass(frozen=True)
class Reading:
    """What is known of the reads: why they are refused, and who answers them.

    `stranger`: the name of the stream that last answered in the place of ours.
    `coming_seconds`: how long the oldest page under way has been coming.
    `damage`: why a reader was given nothing more at `damaged_offset`, and not by time.
    `late`, `behind`, `strangers`: how often that was met.
    """

    refused: Cause | None = None
    damage: Cause | None = None
    damaged_offset: int = 0
    damage_age: float | None = None
    stranger: str = ""
    stranger_age: float | None = None
    late_age: float | None = None
    coming_seconds: float | None = None
    late: int = 0
    behind: int = 0
    strangers: int = 0


@dataclass(frozen=True)
class Facts:
    """What the daemon knows at one moment; ages in seconds, None for never.

    `failure`: the worst of what keeps a hermes-server from storing, `other_failure`
    somebody else; `last_offset`: by the leader, or proven since it said so;
    `refused_caller`: why somebody may not use the API; `full`: who held
    most when there was no room.
    `socket_fault`: why nobody reaches the Unix socket, in a sentence.
    `is_initsync_known`: whether the stream says where its last complete initsync
    stands; None before it was asked. `initsync_stays`: for how many seconds that stays
    in the stream, None for ever.
    """

    stopping: bool
    writes: bool
    cause: Cause | None
    faults: list[str]
    info: StreamInfo | None
    last_offset: int | None
    round_trip_age: float | None
    acknowledgement_age: float | None
    doubt_age: float | None
    second_writer_age: float | None
    failure: Failure | None = None
    failure_age: float | None = None
    other_failure: Cause | None = None
    refused_caller: Cause | None = None
    full: Full | None = None
    full_age: float | None = None
    in_flight: int = 0
    readers_waiting: int = 0
    reads: Reading | None = None
    clients: Sequence[Client] = ()
    connections: int = 0
    is_initsync_known: bool | None = None
    socket_fault: str | None = None
    initsync: Initsync | None = None
    initsync_stays: float | None = None


@dataclass(frozen=True)
class Check:
    """One thing that must hold; `reason` says in a sentence why it does not."""

    name: str
    reason: str | None
    remedy: str | None = None
    blocks: bool = True

    @property
    def status(self) -> Literal["pass", "warn", "fail"]:
        """Say whether it holds, and how bad it is if not."""
        if self.reason is None:
            return "pass"
        return "fail" if self.blocks else "warn"


def is_ready(checks: list[Check]) -> bool:
    """Tell whether events can flow."""
    return not any(check.reason and check.blocks for check in checks)


def assess(facts: Facts) -> list[Check]:
    """Run every check that decides about readiness and warnings."""
    checks = [_sidecar(facts), _stream(facts), _leader(facts), _initsync(facts)]
    checks += [_callers(facts), _room(facts), _socket(facts)]
    if facts.reads is not None:
        checks += [_reads(facts.reads), _clients(facts.clients)]
    if facts.writes:
        checks += [_outcomes(facts), _refusals(facts), _second_writer(facts)]
    return checks


def document(facts: Facts) -> dict[str, Any]:
    """Give the body of /health."""
    checks = assess(facts)
    return {
        "status": "ready" if is_ready(checks) else "not_ready",
        "checks": [
            {
                "name": check.name,
                "status": check.status,
                "reason": check.reason,
                "remedy": check.remedy,
            }
            for check in checks
        ],
        "last_offset": facts.last_offset,
        "round_trip_age_seconds": _rounded(facts.round_trip_age),
        "acknowledgement_age_seconds": _rounded(facts.acknowledgement_age),
    }


def _sidecar(facts: Facts) -> Check:
    if facts.stopping:
        return _failed("sidecar", errors.STOPPING)
    return Check("sidecar", None)


def _socket(facts: Facts) -> Check:
    remedy = "The sidecar recreates it as soon as possible; see the log."
    return Check("socket", facts.socket_fault, remedy if facts.socket_fault else None)


def next_offset(facts: Facts) -> int | None:
    """Give the first offset that no client has read; None if it is not known.

    A client may have read what another sidecar stored, just before the stream was lost.
    """
    seen = [] if facts.last_offset is None else [facts.last_offset + 1]
    return highest(seen, facts.clients)


def highest(offsets: Sequence[int], clients: Sequence[Client]) -> int | None:
    """Give the highest of these offsets, and of those that clients ask for.

    A stranded client asks for what this stream may never have held.
    """
    asked = [
        each.offset
        for each in clients
        if each.offset is not None and each.state != "stranded"
    ]
    return max([*offsets, *asked], default=None)


def _lost(offset: int) -> Check:
    """Say how to go on where a stream is gone that was there."""
    reason = f"{errors.STREAM_MISSING.title} It is known up to its next offset "
    reason += f"{offset}, so it was deleted or lost."
    remedy = "Restore it from a backup. If there is none, run hermes-nats-sidecar "
    remedy += f"provision --first-offset {offset}: clients that had read everything "
    remedy += "go on, see docs/operations.md."
    return Check("stream", reason, remedy)


def _stream(facts: Facts) -> Check:
    offset = next_offset(facts)
    if facts.cause is errors.STREAM_MISSING and offset is not None:
        return _lost(offset)
    if facts.cause is not None:
        reason = " ".join([facts.cause.title, *facts.faults])
        return Check("stream", reason, facts.cause.remedy)
    age = facts.round_trip_age
    if age is None or age > ROUND_TRIP_LIMIT_SECONDS:
        return _failed("stream", errors.JETSTREAM_UNAVAILABLE)
    return Check("stream", None)


def _leader(facts: Facts) -> Check:
    info = facts.info
    if info is None:
        return Check("replicas", None)
    if facts.cause in _UNANSWERED and info.replicas > 1:
        return Check(
            "replicas",
            f"It is not known how many of {info.replicas} replicas are live.",
            "Start the missing NATS servers.",
        )
    if facts.cause is not None:
        return Check("replicas", None)
    if not info.has_leader:
        return Check("replicas", "The stream has no leader.", "Check the NATS servers.")
    if info.live_replicas < info.replicas:
        return Check(
            "replicas",
            f"Only {info.live_replicas} of {info.replicas} replicas are live.",
            "Start the missing NATS servers.",
            blocks=not info.has_majority,
        )
    if info.behind_replicas:
        return Check(
            "replicas",
            "A replica has not caught up yet.",
            "Stop no other NATS server until it has.",
            blocks=False,
        )
    return Check("replicas", None)


def _initsync(facts: Facts) -> Check:
    known = facts.is_initsync_known
    if facts.cause is not None or facts.info is None or known is None:
        return Check("initsync", None)
    if not known:
        return Check(
            "initsync",
            "It is not known whether the stream holds a complete initsync: an older "
            "sidecar or another program stored events of one.",
            REMEDY,
            blocks=False,
        )
    if facts.initsync is None:
        return Check(
            "initsync",
            "The stream holds no complete initsync: no new client can start.",
            REMEDY,
            blocks=False,
        )
    stays, age = facts.initsync_stays, max_age_seconds(facts.info.config)
    if stays is None or stays > warning_seconds(age):
        return Check("initsync", None)
    return Check(
        "initsync",
        "The last complete initsync expires soon: then no new client can start.",
        REMEDY,
        blocks=False,
    )


def _outcomes(facts: Facts) -> Check:
    if facts.doubt_age is None or facts.doubt_age <= DOUBT_LIMIT_SECONDS:
        return Check("outcomes", None)
    return Check(
        "outcomes",
        "The outcome of a publish is not known yet.",
        "Check the NATS servers; the request is repeated until the outcome is known.",
    )


def _refusals(facts: Facts) -> Check:
    failure = facts.failure
    if failure is not None and failure.is_blocked:
        reason = f"Hermes is blocked: {failure.cause.title}{_described(failure)}"
        return Check("refusals", reason, failure.cause.remedy)
    is_unable = facts.failure_age is not None and (
        facts.failure_age > UNABLE_LIMIT_SECONDS
    )
    if failure is not None and is_unable:
        reason = f"Hermes cannot store its event: {failure.cause.title}"
        return Check("refusals", reason, failure.cause.remedy)
    if facts.other_failure is not None:
        title = facts.other_failure.title
        reason = f"An event that Hermes' plugin did not send was refused: {title}"
        return Check("refusals", reason, facts.other_failure.remedy, blocks=False)
    return Check("refusals", None)


def _described(failure: Failure) -> str:
    """Say whose event it is, without its key, and how large."""
    text = ""
    if failure.name is not None:
        text = f" The event's type is {failure.name}, its category {failure.category}."
    if failure.size_bytes is not None and failure.limit_bytes is not None:
        text += f" It has {failure.size_bytes} bytes, the limit {failure.limit_bytes}."
    return text


def _callers(facts: Facts) -> Check:
    cause = facts.refused_caller
    if cause is None:
        return Check("callers", None)
    reason = f"A caller was refused in the last ten minutes: {cause.title}"
    return Check("callers", reason, cause.remedy, blocks=False)


def _room(facts: Facts) -> Check:
    if facts.full is None or facts.full_age is None or facts.full_age > FULL_SECONDS:
        return Check("room", None)
    reason = (
        f"A caller was refused for lack of memory in the last minute: "
        f"{facts.full.name} held {facts.full.bytes} bytes."
    )
    remedy = "Check that this caller reads its responses; the others retry."
    return Check("room", reason, remedy, blocks=False)


def _reads(reads: Reading) -> Check:
    if reads.refused is not None:
        return _failed("reads", reads.refused)
    if reads.damage is not None and _is_recent(reads.damage_age, DAMAGE_SECONDS):
        reason = f"Readers stop at offset {reads.damaged_offset}: {reads.damage.title}"
        return Check("reads", reason, reads.damage.remedy, blocks=False)
    if reads.stranger_age is not None and reads.stranger_age < STRANGER_SECONDS:
        return Check(
            "reads",
            f"Stream {reads.stranger} answers direct gets in place of this stream.",
            "Replace this mirror by another kind of copy, see docs/nats.md.",
            blocks=False,
        )
    if reads.late_age is not None and reads.late_age < LATE_SECONDS:
        return Check(
            "reads",
            "A replica of the stream does not answer reads: its leader is asked.",
            "Check the NATS servers: one may be frozen.",
            blocks=False,
        )
    if reads.coming_seconds is not None and reads.coming_seconds > SLOW_SECONDS:
        return Check(
            "reads",
            "The link to NATS is slow: a page of events takes more than 2 seconds.",
            "Check the network between sidecar and NATS; pages still arrive.",
            blocks=False,
        )
    return Check("reads", None)


def _clients(clients: Sequence[Client]) -> Check:
    stranded = [each for each in clients if each.stranded is not None]
    if not stranded:
        return Check("clients", None)
    first = stranded[0]
    cause = first.stranded
    assert cause is not None  # noqa: S101 - mypy does not see it
    reason = f"{first.name} cannot read on from offset {first.offset}: {cause.title}"
    if others := [each.name for each in stranded[1:]]:
        shown = ", ".join(others[:_SHOWN_CLIENTS])
        more = len(others) - _SHOWN_CLIENTS
        reason += f" Nor can {shown}" + (f" and {more} more." if more > 0 else ".")
    return Check("clients", reason, _RESET, blocks=False)


def _is_recent(age: float | None, limit_seconds: float) -> bool:
    return age is not None and age < limit_seconds


def _second_writer(facts: Facts) -> Check:
    age = facts.second_writer_age
    if age is None or age > SECOND_WRITER_SECONDS:
        return Check("writers", None)
    return Check(
        "writers",
        "Another producer wrote to this stream in the last ten minutes.",
        "Let one hermes-server write to a stream, and no other program: find who else "
        "may publish on its subjects. The log line refused has the keys of both "
        "events.",
        blocks=False,
    )


def _failed(name: str, cause: Cause) -> Check:
    return Check(name, cause.title, cause.remedy)


def _rounded(age: float | None) -> float | None:
    return None if age is None else round(age, 1)
