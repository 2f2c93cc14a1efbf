# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sidecar import errors
from sidecar.model.clients import Client
from sidecar.model.health import Check, Facts, Reading, assess, document, is_ready
from sidecar.model.initsync import Initsync, Mark
from sidecar.model.memory_budget import Full
from sidecar.model.producers import Failure
from sidecar.model.publish_reply import Position
from sidecar.model.stream import StreamInfo

DAY = 86_400.0
CHECKS = [
    *("sidecar", "stream", "replicas", "initsync", "callers", "room", "socket"),
    *("outcomes", "refusals", "writers"),
]
INITSYNC = Initsync(
    Mark(1, "initsync", "init-start", 0), Mark(2, "initsync", "init-stop", 1), 0
)
INFO = StreamInfo(
    config={"max_age": 90 * 86_400 * 10**9},
    position=Position(1, 41),
    messages=41,
    size_bytes=1,
    created="",
    leader="n1",
    replicas=3,
    live_replicas=3,
    categories={},
)
WELL = Facts(
    stopping=False,
    writes=True,
    cause=None,
    faults=[],
    info=INFO,
    last_offset=41,
    round_trip_age=0.5,
    acknowledgement_age=None,
    doubt_age=None,
    second_writer_age=None,
)


def test_a_well_writer_is_ready_and_every_check_passes() -> None:
    assert document(replace(WELL, acknowledgement_age=1.26)) == {
        "status": "ready",
        "checks": [
            {"name": name, "status": "pass", "reason": None, "remedy": None}
            for name in CHECKS
        ],
        "last_offset": 41,
        "round_trip_age_seconds": 0.5,
        "acknowledgement_age_seconds": 1.3,
    }


FULL = errors.STREAM_FULL
UNKNOWN = Failure(errors.UNKNOWN_OUTCOME, "k", since=0)
TOO_LARGE = Failure(
    errors.EVENT_TOO_LARGE,
    "k",
    since=0,
    category="initsync",
    name="Groups",
    size_bytes=2000,
    limit_bytes=1000,
)
WHICH = (
    "The event's type is Groups, its category initsync. "
    "It has 2000 bytes, the limit 1000."
)
ASK = "Check the NATS servers; the request is repeated until the outcome is known."


@pytest.mark.parametrize(
    ("changes", "check", "reason", "remedy"),
    [
        (
            {"stopping": True},
            "sidecar",
            errors.STOPPING.title,
            errors.STOPPING.remedy,
        ),
        (
            {"cause": errors.NATS_DOWN, "info": replace(INFO, replicas=1)},
            "stream",
            errors.NATS_DOWN.title,
            errors.NATS_DOWN.remedy,
        ),
        (
            {"cause": errors.STREAM_UNFIT, "faults": ["One is wrong.", "So is this."]},
            "stream",
            f"{errors.STREAM_UNFIT.title} One is wrong. So is this.",
            errors.STREAM_UNFIT.remedy,
        ),
        *(
            (
                {"round_trip_age": age},
                "stream",
                errors.JETSTREAM_UNAVAILABLE.title,
                errors.JETSTREAM_UNAVAILABLE.remedy,
            )
            for age in (None, 5.01)
        ),
        (
            {"info": replace(INFO, live_replicas=1)},
            "replicas",
            "Only 1 of 3 replicas are live.",
            "Start the missing NATS servers.",
        ),
        (
            {"info": replace(INFO, leader=None)},
            "replicas",
            "The stream has no leader.",
            "Check the NATS servers.",
        ),
        (
            {"doubt_age": 2.01},
            "outcomes",
            "The outcome of a publish is not known yet.",
            ASK,
        ),
        *(
            (
                {"failure": Failure(cause, "k", 0), "failure_age": 0.0},
                "refusals",
                f"Hermes is blocked: {cause.title}",
                cause.remedy,
            )
            for cause in (
                *(errors.NATS_PERMISSION, errors.STREAM_FULL, errors.STORAGE_FULL),
                *(errors.EVENT_TOO_LARGE, errors.PUBLISH_REFUSED, errors.KEY_REUSED),
            )
        ),
        (
            {"failure": TOO_LARGE, "failure_age": 3600.0},
            "refusals",
            f"Hermes is blocked: {errors.EVENT_TOO_LARGE.title} {WHICH}",
            errors.EVENT_TOO_LARGE.remedy,
        ),
        (
            {"failure": replace(UNKNOWN, tries=2), "failure_age": 0.0},
            "refusals",
            f"Hermes is blocked: {errors.UNKNOWN_OUTCOME.title}",
            errors.UNKNOWN_OUTCOME.remedy,
        ),
        *(
            (
                {"failure": Failure(cause, "k", 0), "failure_age": 2.01},
                "refusals",
                f"Hermes cannot store its event: {cause.title}",
                cause.remedy,
            )
            for cause in (
                *(errors.UNKNOWN_OUTCOME, errors.JETSTREAM_UNAVAILABLE),
                errors.NATS_DOWN,
            )
        ),
    ],
)
def test_each_reason_not_to_be_ready_is_a_sentence_with_a_remedy(
    changes: dict[str, Any], check: str, reason: str, remedy: str
) -> None:
    answer = document(replace(WELL, **changes))
    assert answer["status"] == "not_ready"
    assert [each["name"] for each in answer["checks"]] == CHECKS
    (bad,) = [each for each in answer["checks"] if each["status"] != "pass"]
    assert bad["status"] == "fail"
    assert (bad["name"], bad["reason"], bad["remedy"]) == (check, reason, remedy)


@pytest.mark.parametrize(
    "changes",
    [
        {"round_trip_age": 5.0},
        {"info": replace(INFO, leader=None, replicas=1, live_replicas=1)},
        {"doubt_age": 2.0},
        {"failure": UNKNOWN, "failure_age": 2.0},
        {"second_writer_age": 600.01},
        {"full": Full(0.0, "192.0.2.7", 64), "full_age": 60.01},
        {"is_initsync_known": True, "initsync": INITSYNC, "initsync_stays": None},
        {"is_initsync_known": True, "initsync": INITSYNC, "initsync_stays": 7.1 * DAY},
        {"is_initsync_known": True, "cause": None, "info": None},
        {"acknowledgement_age": 999_999.0},
    ],
)
def test_what_has_passed_or_is_bearable_leaves_it_ready_without_a_word(
    changes: dict[str, Any],
) -> None:
    checks = assess(replace(WELL, **changes))
    assert is_ready(checks)
    assert checks == [Check(name, None) for name in CHECKS]


@pytest.mark.parametrize(
    ("changes", "warning"),
    [
        (
            {"info": replace(INFO, live_replicas=2)},
            Check(
                "replicas",
                "Only 2 of 3 replicas are live.",
                "Start the missing NATS servers.",
                blocks=False,
            ),
        ),
        (
            {"info": replace(INFO, behind_replicas=1)},
            Check(
                "replicas",
                "A replica has not caught up yet.",
                "Stop no other NATS server until it has.",
                blocks=False,
            ),
        ),
        (
            {"is_initsync_known": False},
            Check(
                "initsync",
                "It is not known whether the stream holds a complete initsync: an "
                "older sidecar or another program stored events of one.",
                "Run hermes-server-cli initsync.",
                blocks=False,
            ),
        ),
        (
            {"is_initsync_known": True},
            Check(
                "initsync",
                "The stream holds no complete initsync: no new client can start.",
                "Run hermes-server-cli initsync.",
                blocks=False,
            ),
        ),
        *(
            (
                {
                    "is_initsync_known": True,
                    "initsync": INITSYNC,
                    "initsync_stays": days * DAY,
                },
                Check(
                    "initsync",
                    "The last complete initsync expires soon: then no new client can "
                    "start.",
                    "Run hermes-server-cli initsync.",
                    blocks=False,
                ),
            )
            for days in (6.9, 7)
        ),
        *(
            (
                changes,
                Check(
                    "refusals",
                    "An event that Hermes' plugin did not send was refused: "
                    f"{FULL.title}",
                    FULL.remedy,
                    blocks=False,
                ),
            )
            for changes in (
                {"other_failure": FULL},
                {"other_failure": FULL, "failure": UNKNOWN, "failure_age": 2.0},
            )
        ),
        (
            {"refused_caller": errors.UNAUTHORIZED},
            Check(
                "callers",
                "A caller was refused in the last ten minutes: "
                f"{errors.UNAUTHORIZED.title}",
                errors.UNAUTHORIZED.remedy,
                blocks=False,
            ),
        ),
        (
            {"full": Full(0.0, "192.0.2.7", 64), "full_age": 60.0},
            Check(
                "room",
                "A caller was refused for lack of memory in the last minute: 192.0.2.7 "
                "held 64 bytes.",
                "Check that this caller reads its responses; the others retry.",
                blocks=False,
            ),
        ),
        (
            {"second_writer_age": 600.0},
            Check(
                "writers",
                "Another producer wrote to this stream in the last ten minutes.",
                "Let one hermes-server write to a stream, and no other program: find "
                "who else may publish on its subjects. The log line refused has the "
                "keys of both events.",
                blocks=False,
            ),
        ),
    ],
)
def test_what_events_can_flow_with_is_a_warning(
    changes: dict[str, Any], warning: Check
) -> None:
    checks = assess(replace(WELL, **changes))
    assert is_ready(checks)
    assert [check for check in checks if check.status != "pass"] == [warning]
    assert warning.status == "warn"


@pytest.mark.parametrize(
    "changes",
    [
        {"doubt_age": 60.0},
        {"failure": TOO_LARGE, "failure_age": 1.0},
        {"other_failure": FULL},
        {"second_writer_age": 1.0},
    ],
)
def test_a_role_that_does_not_write_skips_the_writers_part(
    changes: dict[str, Any],
) -> None:
    checks = assess(replace(WELL, writes=False, **changes))
    assert checks == [Check(name, None) for name in CHECKS[:7]]


def test_an_initsync_is_missed_also_where_nothing_is_written() -> None:
    checks = assess(replace(WELL, writes=False, is_initsync_known=True))
    assert [check.name for check in checks if check.status == "warn"] == ["initsync"]


def test_health_before_the_first_connection_names_no_offset() -> None:
    unseen = replace(WELL, info=None, last_offset=None, round_trip_age=None)
    answer = document(replace(unseen, cause=errors.NATS_DOWN))
    assert answer["last_offset"] is None
    assert answer["round_trip_age_seconds"] is None


@pytest.mark.parametrize(
    ("reads", "status", "text"),
    [
        (Reading(), "pass", ""),
        (Reading(refused=errors.NATS_PERMISSION), "fail", "lacks"),
        (Reading(None, errors.UNREADABLE, 7, 599), "warn", "stop at offset 7: The m"),
        (Reading(None, errors.UNREADABLE, 7, 601), "pass", ""),
        (Reading(stranger="backup", stranger_age=599), "warn", "Stream backup answers"),
        (Reading(stranger="backup", stranger_age=601), "pass", ""),
        (Reading(late_age=59), "warn", "does not answer reads"),
        (Reading(late_age=61), "pass", ""),
        (Reading(coming_seconds=2.1), "warn", "is slow"),
        (Reading(coming_seconds=1.9), "pass", ""),
    ],
)
def test_reads_are_tested_by_what_serves_them(
    reads: Reading, status: str, text: str
) -> None:
    checks = assess(replace(WELL, reads=reads))
    check = next(check for check in checks if check.name == "reads")
    assert check.status == status
    assert text in (check.reason or "")
    assert is_ready(checks) is (status != "fail")
    assert "reads" not in [check.name for check in assess(WELL)]


LOST = replace(WELL, reads=Reading())


def stranded(name: str, cause: errors.Cause = errors.OFFSET_GONE) -> Client:
    return Client(name, "stranded", 7, 35, 1.0, cause)


@pytest.mark.parametrize(
    ("clients", "words"),
    [
        ([], None),
        ([Client("a", "silent", 7, 35, 900.0)], None),
        (
            [Client("a", "waiting", 42, 0, 1.0), stranded("b")],
            "b cannot read on from offset 7: The stream no longer holds this offset.",
        ),
        (
            [stranded("a", errors.OFFSET_AHEAD), *map(stranded, "bcdefgh")],
            (
                "a cannot read on from offset 7: The stream ends before this offset. "
                "Nor can b, c, d, e, f and 2 more."
            ),
        ),
    ],
)
def test_a_stranded_client_is_named_and_stops_nobody_else(
    clients: list[Client], words: str | None
) -> None:
    checks = assess(replace(LOST, clients=clients))
    found = next(check for check in checks if check.name == "clients")
    assert (found.reason, found.blocks) == (words, words is None)
    assert is_ready(checks)
