# SPDX-License-Identifier: Apache-2.0
"""What the stream is and what it must be: its creation, its fitness. Pure.

Values are the JSON of the JetStream API (NATS ADR-1, ADR-31): durations in
nanoseconds, sizes in bytes, -1 or 0 for no limit. It is longer than 400 lines: a table
of settings and one of defective servers are most of it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Literal, NamedTuple

from sidecar.model.event import MAX_OFFSET
from sidecar.model.publish_reply import Position

ATOMIC_SERVER: Final = (2, 12, 0)
"""The first that knows atomic batches (NATS ADR-50)."""

OLDEST_SERVER: Final = (2, 11, 11)
"""The lowest that the fault runs drive; batched direct get came with 2.11.0."""

LIVE_SECONDS: Final = 3.0
"""A replica not heard of for longer is not counted as live."""

LAG_LIMIT: Final = 1_000
"""A live replica that lacks more is catching up: one request stores no more at once."""

STRANGER: Final = (
    "Stream {} answers direct gets in place of this stream: replace this mirror by "
    "another kind of copy, see docs/nats.md."
)

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
_VERSION = re.compile(r"([0-9]{1,6})\.([0-9]{1,6})\.([0-9]{1,6})(-.*)?(?:\+.*)?")
_NANOSECONDS = 1_000_000_000
_SECONDS_PER_DAY = 86_400


def told_name(name: str) -> str:
    """Give a stream's name for people, if it is one: any server may write a header."""
    return name if _NAME.fullmatch(name) else "(of another name)"


@dataclass(frozen=True)
class StreamInfo:
    """One answer of STREAM.INFO; `leader` is None where no leader gave it."""

    config: dict[str, Any]
    position: Position
    messages: int
    size_bytes: int
    created: str
    leader: str | None
    replicas: int
    live_replicas: int
    categories: dict[str, int]
    behind_replicas: int = 0  # live, and still catching up
    deleted: frozenset[int] = frozenset()  # where it was asked for
    answered_at: str = ""  # by the server's clock (RFC 3339)

    @property
    def has_leader(self) -> bool:
        """Tell whether the answer is the leader's; see parse_stream_info."""
        return self.replicas == 1 or self.leader is not None

    @property
    def is_unused(self) -> bool:
        """Tell whether it has never held an event."""
        first = self.config.get("first_seq") or 1
        return self.messages == 0 and self.position == Position(first, first - 1)

    @property
    def is_full(self) -> bool:
        """Tell whether a limit of size is reached: no further event has room."""
        used = {"max_msgs": self.messages, "max_bytes": self.size_bytes}
        limits = {name: self.config.get(name, -1) for name in used}
        return any(0 < limits[name] <= used[name] for name in used)

    @property
    def is_mirror(self) -> bool:
        """Tell whether it may end before the stream that it mirrors."""
        return bool(self.config.get("mirror"))

    @property
    def has_majority(self) -> bool:
        """Tell whether the leader has heard from a majority lately."""
        return self.live_replicas * 2 > self.replicas


def parse_stream_info(document: dict[str, Any]) -> StreamInfo:
    """Read an answer of STREAM.INFO.

    `current` and `leader` lie for 20 s after a majority died; `active`, the time since
    a follower was heard, does not. It is 0 for one that this leader never heard, as the
    leader before it that died; that one is not current (seen on 2.15.1).

    A leader never lists itself among its own replicas. Who does is a follower: it
    found the stream without a leader, and the name of a new one a moment later
    (server/jetstream_api.go, jsStreamInfoRequest; 8 of 94 elections on 2.15.1).
    """
    config = document["config"]
    state = document["state"]
    cluster = document.get("cluster") or {}
    followers = cluster.get("replicas") or []
    live = [follower for follower in followers if _is_live(follower)]
    leader = cluster.get("leader")
    if leader in [follower.get("name") for follower in followers]:
        leader = None
    subjects = state.get("subjects") or {}
    return StreamInfo(
        config=config,
        # A stream made without first_seq says 0 for both until it holds a message.
        position=Position(
            first=state["first_seq"] or state["last_seq"] + 1, last=state["last_seq"]
        ),
        messages=state["messages"],
        size_bytes=state["bytes"],
        created=document["created"],
        leader=leader,
        # Of those that are to go, some may still answer.
        replicas=max(config.get("num_replicas", 1), 1 + len(followers)),
        live_replicas=1 + len(live),
        behind_replicas=sum(each.get("lag", 0) > LAG_LIMIT for each in live),
        categories={
            subject.rpartition(".")[2]: count for subject, count in subjects.items()
        },
        deleted=frozenset(state.get("deleted") or ()),
        answered_at=str(document.get("ts") or ""),
    )


def _is_live(follower: dict[str, Any]) -> bool:
    active = follower.get("active", 0)
    if follower.get("offline") or active >= LIVE_SECONDS * _NANOSECONDS:
        return False
    return bool(active) or follower.get("current") is not False


@dataclass(frozen=True)
class StreamPlan:
    """The stream as the settings want it; days and counts, 0 days keeps for ever."""

    name: str
    subject_prefix: str
    replicas: int
    max_age_days: int

    @property
    def subject(self) -> str:
        """The subject that takes every category."""
        return f"{self.subject_prefix}.*"

    @property
    def stored_subject(self) -> str:
        """The subject, of no stream, on which a sidecar tells that it stored events."""
        return f"hermes-nats-sidecar.stored.{self.name}"

    def subject_of(self, category: str) -> str:
        """Give the subject of a category's events."""
        return f"{self.subject_prefix}.{category}"

    def config(self, first_offset: int, *, server: str = "") -> dict[str, Any]:
        """Give the configuration for STREAM.CREATE on a server of this version."""
        version = _parse_version(server)
        is_atomic = version is not None and version >= (*ATOMIC_SERVER, True)
        atomic = {"allow_atomic": True} if is_atomic else {}
        return atomic | {
            "name": self.name,
            "subjects": [self.subject],
            "description": "Hermes events; written by hermes-nats-sidecar alone",
            "storage": "file",
            "retention": "limits",
            "discard": "new",
            "max_age": self.max_age_days * _SECONDS_PER_DAY * _NANOSECONDS,
            "max_bytes": -1,
            "max_msgs": -1,
            "max_msgs_per_subject": -1,
            "max_msg_size": -1,
            "max_consumers": -1,
            "num_replicas": self.replicas,
            "deny_delete": True,
            "deny_purge": True,
            "allow_direct": True,
            "first_seq": first_offset,
        }

    def differences(self, config: dict[str, Any]) -> list[str]:
        """Say where a fit stream differs from the plan, a sentence each."""
        planned = self.config(first_offset=1)
        same = ("description", "first_seq")  # neither changes what the stream does
        return [
            f"{name} is {config.get(name)}; the settings require {value}."
            for name, value in planned.items()
            if name not in same and config.get(name, value) != value
        ]


def first_offset(now_seconds: float, last_seen: int | None) -> int:
    """Choose where a new stream starts, so that no offset is ever used again.

    The microseconds since 1970: no stream takes a million events a second for as long
    as it lives, so one that was deleted ends before the next begins. Below 2^53 until
    the year 2255, so that whoever reads JSON numbers as floats reads them exactly.
    """
    return max(int(now_seconds * 1_000_000), (last_seen or 0) + 1)


class Defect(NamedTuple):
    """Versions that are known to lose what they acknowledged, and what is said of it.

    From `since` on, and before `mended`; of these a pre-release counts as both.
    """

    since: tuple[int, int, int]
    mended: tuple[int, int, int]
    streams: Literal["all", "replicated", "replicated and limited"]
    what: str
    source: str
    instead: str = ""


DEFECTS: Final = (
    Defect(
        (2, 11, 0),
        (2, 11, 2),
        "all",
        "empties a stream on restart while it still holds its first event",
        "nats-server #6753",
    ),
    Defect(
        (2, 12, 0),
        (2, 12, 1),
        "replicated",
        "can remove events that a majority holds, when a follower catches up",
        "nats-server #7424",
    ),
    Defect(
        (2, 12, 0),
        (2, 12, 3),
        "replicated",
        "can lose events of a replica that was paused",
        "nats-server #7594",
    ),
    Defect(
        (2, 11, 0),
        (2, 14, 0),
        "replicated and limited",
        "can lose events when a size limit is raised",
        "nats-server #7608",
        ", or remove the limit before the stream is full",
    ),
)


def unfitness(
    plan: StreamPlan, config: dict[str, Any], server: str, *, writes: bool = True
) -> list[str]:
    """Say why events could be lost or changed in this stream, a sentence each.

    Who only reads needs less: a sealed stream will do, or a mirror (docs/nats.md).
    The stream's leader may be of another version than the server that we are
    connected to: its own stands in the answer of STREAM.INFO.
    """
    leader = (config.get("metadata") or {}).get("_nats.ver", server)
    return [
        *(
            sentence
            for version in dict.fromkeys((server, leader))
            for sentence in server_unfitness(version, config)
        ),
        *(sentence for wrong, sentence in _stream_faults(plan, config) if wrong),
        *(
            sentence
            for wrong, sentence in _faults_for_writers(plan, config)
            if wrong and writes
        ),
    ]


def server_too_old(version: str) -> bool:
    """Tell whether the server is older than what we try, or does not say."""
    parsed = _parse_version(version)
    return parsed is None or parsed < (*OLDEST_SERVER, True)


def server_unfitness(version: str, config: dict[str, Any] | None = None) -> list[str]:
    """Say why this server could lose events, a sentence each.

    Those of every stream; with a configuration also those of such a stream.
    """
    sentences = []
    if server_too_old(version):
        sentences.append(
            f"NATS server {version or '(unknown version)'} is not known to be "
            f"{_dotted(OLDEST_SERVER)} or later: upgrade it."
        )
    return sentences + [
        f"NATS server {version} {defect.what} ({defect.source}): use "
        f"{_dotted(defect.mended)} or later{defect.instead}."
        for defect in DEFECTS
        if _is_hit(version, defect) and _is_meant(config or {}, defect)
    ]


@lru_cache(maxsize=4)  # it is asked for each second, of one server
def _parse_version(version: str) -> tuple[int, int, int, bool] | None:
    """Read a version; the last member is False for a pre-release: it comes first."""
    match = _VERSION.fullmatch(version)
    if match is None:
        return None
    major, minor, patch = (int(number) for number in match.group(1, 2, 3))
    return major, minor, patch, not match[4]


def _dotted(version: tuple[int, int, int]) -> str:
    return ".".join(map(str, version))


def _is_hit(version: str, defect: Defect) -> bool:
    parsed = _parse_version(version)
    if parsed is None:
        return False
    return (*defect.since, False) <= parsed < (*defect.mended, True)


def _is_meant(config: dict[str, Any], defect: Defect) -> bool:
    if defect.streams == "all":
        return True
    if config.get("num_replicas", 1) == 1:
        return False
    return defect.streams == "replicated" or _is_bounded(config)


def _stream_faults(plan: StreamPlan, config: dict[str, Any]) -> list[tuple[bool, str]]:
    mirror = config.get("mirror") or {}
    others = [
        subject for subject in config.get("subjects") or [] if subject != plan.subject
    ]
    return [
        (
            config.get("first_seq", 0) > MAX_OFFSET,
            f"first_seq is over {MAX_OFFSET}: JSON readers would round offsets.",
        ),
        (
            config.get("storage") != "file",
            "Storage is not file: a restart loses all events.",
        ),
        (
            config.get("retention") != "limits",
            "Retention is not limits: reading would remove events.",
        ),
        (
            bool(others),
            "There are further subjects: other messages would come between events.",
        ),
        (
            config.get("max_msgs_per_subject", -1) > 0,
            "max_msgs_per_subject is set: it removes events of a full category.",
        ),
        (
            bool(config.get("subject_transform")),
            "A subject transform is set: categories would change.",
        ),
        (
            bool(config.get("republish")),
            "Republish is set: events, passwords included, would be sent elsewhere.",
        ),
        (
            bool(config.get("sources")),
            "Sources are set: messages of other streams would come between events.",
        ),
        (
            bool(mirror.get("filter_subject") or mirror.get("subject_transforms")),
            "It mirrors only some subjects: events would be missing.",
        ),
        (
            bool(config.get("allow_rollup_hdrs")),
            "allow_rollup_hdrs is set: one message could remove all others.",
        ),
        (
            bool(config.get("allow_msg_ttl")),
            "allow_msg_ttl is set: single messages could expire.",
        ),
        (
            not config.get("allow_direct"),
            "allow_direct is not set: clients could not read.",
        ),
    ]


def _faults_for_writers(
    plan: StreamPlan, config: dict[str, Any]
) -> list[tuple[bool, str]]:
    is_mirror = bool(config.get("mirror"))
    subjects = config.get("subjects") or []
    return [
        (
            plan.subject not in subjects and not is_mirror,
            f"Subject {plan.subject} is missing: events would not be stored.",
        ),
        (
            config.get("discard") != "new" and _is_bounded(config),
            "Discard is old and a size limit is set: a full stream would lose events.",
        ),
        (
            config.get("persist_mode") == "async",
            "persist_mode is async: acknowledged events could be lost.",
        ),
        (bool(config.get("sealed")), "The stream is sealed: it stores no events."),
        (is_mirror, "It is a mirror: it stores no events."),
        (bool(config.get("no_ack")), "no_ack is set: nothing is acknowledged."),
        (
            bool(config.get("allow_msg_counter")),
            "allow_msg_counter is set: events are not counters and would be refused.",
        ),
    ]


def _is_bounded(config: dict[str, Any]) -> bool:
    return bool(config.get("max_bytes", -1) > 0 or config.get("max_msgs", -1) > 0)
