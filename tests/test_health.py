# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sidecar import errors
from sidecar.answer import Position
from sidecar.health import Facts, assess, document, is_ready
from sidecar.initsync import Initsync, Mark
from sidecar.stream import StreamInfo

DAY = 86_400.0
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
    round_trip_age=0.5,
    acknowledgement_age=None,
    doubt_age=None,
    refusal=None,
    refusal_age=None,
    second_writer_age=None,
)


def failed(facts: Facts) -> dict[str, str | None]:
    return {check.name: check.reason for check in assess(facts) if check.reason}


def test_a_well_writer_is_ready_and_every_check_passes() -> None:
    answer = document(WELL)
    assert answer["status"] == "ready"
    assert {check["status"] for check in answer["checks"]} == {"pass"}
    assert answer["last_offset"] == 41
    assert answer["round_trip_age_seconds"] == 0.5
    assert answer["acknowledgement_age_seconds"] is None


@pytest.mark.parametrize(
    ("changes", "check", "words"),
    [
        ({"stopping": True}, "sidecar", "stopping"),
        ({"cause": errors.NATS_DOWN}, "stream", "no connection"),
        ({"cause": errors.STREAM_MISSING}, "stream", "does not exist"),
        (
            {"cause": errors.STREAM_UNFIT, "faults": ["Storage is not file."]},
            "stream",
            "Storage is not file.",
        ),
        ({"round_trip_age": None}, "stream", "does not answer"),
        ({"round_trip_age": 5.1}, "stream", "does not answer"),
        ({"info": replace(INFO, live_replicas=1)}, "replicas", "1 of 3"),
        ({"doubt_age": 2.1}, "outcomes", "no definite answer"),
        (
            {"refusal": errors.NATS_PERMISSION, "refusal_age": 1.0},
            "refusals",
            "permission",
        ),
        ({"refusal": errors.STREAM_FULL, "refusal_age": 179.0}, "refusals", "full"),
        ({"refusal": errors.STORAGE_FULL, "refusal_age": 0.0}, "refusals", "no room"),
        (
            {"refusal": errors.STREAM_FULL, "refusal_age": 0.0, "refusals": 2},
            "refusals",
            "Hermes is blocked: The stream is full.",
        ),
        (
            {"refusal": errors.EVENT_TOO_LARGE, "refusal_age": 9.0, "refusals": 2},
            "refusals",
            "Hermes is blocked: The event is larger than the limit.",
        ),
    ],
)
def test_each_reason_not_to_be_ready_is_a_sentence_with_a_remedy(
    changes: dict[str, Any], check: str, words: str
) -> None:
    answer = document(replace(WELL, **changes))
    assert answer["status"] == "not_ready"
    bad = [each for each in answer["checks"] if each["status"] == "fail"]
    assert [each["name"] for each in bad] == [check]
    assert words in bad[0]["reason"]
    assert bad[0]["remedy"]


@pytest.mark.parametrize(
    "changes",
    [
        {"round_trip_age": 4.9},
        {"info": replace(INFO, live_replicas=2)},
        {"doubt_age": 1.9},
        {"refusal": errors.STREAM_FULL, "refusal_age": 181.0},
        {"refusal": errors.EVENT_TOO_LARGE, "refusal_age": 0.0, "refusals": 1},
        {"refusal": errors.EVENT_TOO_LARGE, "refusal_age": 181.0, "refusals": 9},
        {"second_writer_age": 601.0},
        {"searched": True, "initsync": INITSYNC, "initsync_stays": None},
        {"searched": True, "initsync": INITSYNC, "initsync_stays": 7.1 * DAY},
        {"searched": True, "cause": None, "info": None},
        {"acknowledgement_age": 999_999.0},
    ],
)
def test_what_has_passed_or_is_bearable_leaves_it_ready_without_a_word(
    changes: dict[str, Any],
) -> None:
    facts = replace(WELL, **changes)
    assert is_ready(assess(facts))
    assert not failed(facts)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"searched": True}, "no complete initsync"),
        (
            {"searched": True, "initsync": INITSYNC, "initsync_stays": 6.9 * DAY},
            "leaves the stream soon",
        ),
    ],
)
@pytest.mark.parametrize("writes", [True, False])
def test_an_initsync_that_goes_or_is_gone_is_a_warning_in_each_role(
    changes: dict[str, Any], words: str, writes: bool
) -> None:
    answer = document(replace(WELL, writes=writes, **changes))
    assert answer["status"] == "ready"
    (warned,) = [each for each in answer["checks"] if each["status"] == "warn"]
    assert warned["name"] == "initsync"
    assert words in warned["reason"]
    assert "hermes-server-cli initsync" in warned["remedy"]


def test_a_second_writer_is_a_warning_and_leaves_it_ready() -> None:
    answer = document(replace(WELL, second_writer_age=1.0))
    assert answer["status"] == "ready"
    warned = [each for each in answer["checks"] if each["status"] == "warn"]
    assert [each["name"] for each in warned] == ["writers"]
    assert "Another producer" in warned[0]["reason"]


@pytest.mark.parametrize(
    "changes",
    [
        {"doubt_age": 60.0},
        {"refusal": errors.NATS_PERMISSION, "refusal_age": 1.0},
        {"second_writer_age": 1.0},
    ],
)
def test_a_role_that_does_not_write_skips_the_writers_part(
    changes: dict[str, Any],
) -> None:
    facts = replace(WELL, writes=False, **changes)
    assert is_ready(assess(facts))
    assert not failed(facts)


def test_health_before_the_first_connection_names_no_offset() -> None:
    facts = replace(WELL, cause=errors.NATS_DOWN, info=None, round_trip_age=None)
    answer = document(facts)
    assert answer["last_offset"] is None
    assert answer["round_trip_age_seconds"] is None


def test_a_stream_without_a_leader_is_not_ready() -> None:
    info = replace(INFO, leader=None)
    assert "replicas" in failed(replace(WELL, info=info))


def test_a_stream_of_one_server_outside_a_cluster_needs_no_leader_named() -> None:
    info = replace(INFO, leader=None, replicas=1, live_replicas=1)
    assert not failed(replace(WELL, info=info))
