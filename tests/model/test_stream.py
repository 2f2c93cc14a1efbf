# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import pytest

from sidecar.model.reply import Position
from sidecar.model.stream import (
    StreamPlan,
    first_offset,
    parse_stream_info,
    server_too_old,
    server_unfitness,
    unfitness,
)

PLAN = StreamPlan(name="hermes", subject_prefix="hermes", replicas=1, max_age_days=90)
SECOND = 1_000_000_000


def config(**changes: Any) -> dict[str, Any]:
    return PLAN.config(first_offset=1) | changes


def document(
    cluster: dict[str, Any] | None = None, replicas: int = 1, **state: Any
) -> dict[str, Any]:
    return {
        "config": config(num_replicas=replicas),
        "created": "2026-11-23T09:48:26.881698198Z",
        "state": {"messages": 2, "bytes": 99, "first_seq": 8, "last_seq": 9} | state,
    } | ({} if cluster is None else {"cluster": cluster})


def test_a_planned_stream_keeps_events_for_ninety_days_and_lets_nobody_delete() -> None:
    assert PLAN.config(first_offset=1_795_427_233_892_123) == {
        "name": "hermes",
        "subjects": ["hermes.*"],
        "description": "Hermes events; written by hermes-nats-sidecar alone",
        "storage": "file",
        "retention": "limits",
        "discard": "new",
        "max_age": 90 * 24 * 3600 * SECOND,
        "max_bytes": -1,
        "max_msgs": -1,
        "max_msgs_per_subject": -1,
        "max_msg_size": -1,
        "max_consumers": -1,
        "num_replicas": 1,
        "deny_delete": True,
        "deny_purge": True,
        "allow_direct": True,
        "first_seq": 1_795_427_233_892_123,
    }


def test_a_category_is_the_last_token_of_its_subject() -> None:
    assert PLAN.subject_of("base") == "hermes.base"


def test_zero_days_keep_for_ever() -> None:
    plan = StreamPlan("hermes", "hermes", replicas=3, max_age_days=0)
    assert plan.config(1)["max_age"] == 0
    assert plan.config(1)["num_replicas"] == 3


@pytest.mark.parametrize(
    ("now_seconds", "last_seen", "first"),
    [
        (1_795_427_233.5, None, 1_795_427_233_500_000),
        (1_795_427_233.0, 41, 1_795_427_233_000_000),
        (1_795_427_233.0, 1_795_427_233_000_000, 1_795_427_233_000_001),
        (1_795_427_233.0, 1_999_999_999_999_999, 2_000_000_000_000_000),
        (0.0, 41, 42),
        (0.0, None, 1),
    ],
)
def test_a_new_stream_starts_above_every_offset_that_was_seen(
    now_seconds: float, last_seen: int | None, first: int
) -> None:
    assert first_offset(now_seconds, last_seen) == first


def test_a_stream_made_anew_starts_above_one_that_took_a_million_events_a_second() -> (
    None
):
    made, seconds = 1_795_427_233.0, 2.0
    last = first_offset(made, None) + int(seconds * 1_000_000) - 1
    assert first_offset(made + seconds, None) > last


def test_an_offset_is_exact_in_a_float_for_two_hundred_years() -> None:
    assert first_offset(1_795_427_233.0 + 200 * 366 * 86_400, None) < 2**53


def test_the_planned_stream_is_fit() -> None:
    assert unfitness(PLAN, config(), "2.15.1") == []


@pytest.mark.parametrize(
    ("changes", "start"),
    [
        ({"first_seq": 2**53}, "first_seq is over"),
        ({"storage": "memory"}, "Storage is not file"),
        ({"retention": "workqueue"}, "Retention is not limits"),
        ({"retention": "interest"}, "Retention is not limits"),
        ({"subjects": []}, "Subject hermes.* is missing"),
        ({"subjects": None}, "Subject hermes.* is missing"),
        ({"subjects": ["hermes.*", "other"]}, "There are further subjects"),
        ({"max_msgs_per_subject": 1}, "max_msgs_per_subject is set"),
        ({"discard": "old", "max_bytes": 1}, "Discard is old"),
        ({"discard": "old", "max_msgs": 1}, "Discard is old"),
        ({"persist_mode": "async"}, "persist_mode is async"),
        ({"sealed": True}, "The stream is sealed"),
        ({"no_ack": True}, "no_ack is set"),
        ({"subject_transform": {"src": "a", "dest": "b"}}, "A subject transform is"),
        ({"republish": {"dest": "b"}}, "Republish is set"),
        ({"sources": [{"name": "other"}]}, "Sources are set"),
        ({"mirror": {"name": "other"}}, "It is a mirror"),
        ({"allow_rollup_hdrs": True}, "allow_rollup_hdrs is set"),
        ({"allow_msg_ttl": True}, "allow_msg_ttl is set"),
        ({"allow_msg_counter": True}, "allow_msg_counter is set"),
        ({"allow_direct": False}, "allow_direct is not set"),
    ],
)
def test_each_unfitness_is_a_sentence(changes: dict[str, Any], start: str) -> None:
    (sentence,) = unfitness(PLAN, config(**changes), "2.15.1")
    assert sentence.startswith(start)
    assert sentence.endswith(".")


MIRROR = {"subjects": None, "mirror": {"name": "hermes"}}


@pytest.mark.parametrize(
    ("changes", "is_fit"),
    [
        ({"sealed": True, "discard": "new"}, True),
        (MIRROR, True),
        (MIRROR | {"discard": "old", "max_bytes": 10_000}, True),
        (MIRROR | {"mirror": {"name": "hermes", "filter_subject": "a"}}, False),
        (MIRROR | {"mirror": {"name": "hermes", "subject_transforms": [1]}}, False),
        (MIRROR | {"allow_direct": False}, False),
        (MIRROR | {"max_msgs_per_subject": 1}, False),
        ({"no_ack": True}, True),
        ({"persist_mode": "async"}, True),
        ({"allow_msg_counter": True}, True),
        ({"subjects": ["hermes.*", "other"]}, False),
        ({"sources": [{"name": "other"}]}, False),
        ({"subject_transform": {"src": "a", "dest": "b"}}, False),
        ({"republish": {"dest": "b"}}, False),
    ],
)
def test_who_only_reads_needs_less(changes: dict[str, Any], *, is_fit: bool) -> None:
    changed = config(**changes)
    assert unfitness(PLAN, changed, "2.15.1")  # a writer needs more
    assert (unfitness(PLAN, changed, "2.15.1", writes=False) == []) is is_fit


@pytest.mark.parametrize("subjects", [["other.*"], ["hermes.base"]])
def test_another_subject_is_one_too_many_and_not_ours(subjects: list[str]) -> None:
    sentences = unfitness(PLAN, config(subjects=subjects), "2.15.1")
    assert [sentence.partition(" ")[0] for sentence in sentences] == [
        "There",
        "Subject",
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {"max_age": 0},
        {"max_bytes": 10_000},
        {"max_msgs": 10},
        {"discard": "old"},
        {"discard": "old", "max_bytes": 0, "max_msgs": 0},
        {"num_replicas": 3},
        {"max_msg_size": 1000},
        {"duplicate_window": SECOND},
        {"first_seq": 0},
        {"first_seq": 2**53 - 1},
        {"compression": "s2"},
        {"placement": {"cluster": "c"}},
        {"max_msgs_per_subject": 0},
        {"deny_delete": False},
        {"metadata": {"_nats.ver": "2.15.1"}},
    ],
)
def test_what_loses_or_changes_no_event_is_fit(changes: dict[str, Any]) -> None:
    assert unfitness(PLAN, config(**changes), "2.15.1") == []


@pytest.mark.parametrize(
    ("version", "old"),
    [
        ("1.99.0", True),
        ("2.9.0", True),
        ("2.10.26", True),
        ("2.11.0", True),
        ("2.11.1", True),
        ("2.11.10", True),
        ("2.11.11-RC.1", True),  # before what it is to become
        ("2.11.11-dev+abc", True),
        ("2.11.11", False),
        ("2.11.11+abc-1", False),
        ("2.11.12-RC.1", False),
        ("2.12.3", False),
        ("2.15.0-dev", False),
        ("2.100.0", False),
        ("3.0.0", False),
        ("", True),
        ("dev", True),
        ("2.15", True),
        ("2.15.1.1", True),
        ("v2.15.1", True),  # no nats-server says so
    ],
)
def test_a_server_before_2_11_11_or_of_no_known_version_is_too_old(
    version: str, old: bool
) -> None:
    assert server_too_old(version) is old
    named = [
        sentence
        for sentence in server_unfitness(version)
        if sentence.endswith("is not known to be 2.11.11 or later: upgrade it.")
    ]
    assert len(named) == old
    assert all(f"NATS server {version}" in sentence for sentence in named)
    assert bool(unfitness(PLAN, config(), version)) is old


REPLICATED = {"num_replicas": 3}
LIMITED = {"num_replicas": 3, "max_bytes": 1}


@pytest.mark.parametrize(
    ("version", "changes", "sources"),
    [
        ("2.10.26", {}, []),  # refused for its age; when it was mended is not kept
        ("2.11.0-RC.1", {}, ["#6753"]),
        ("2.11.0", {}, ["#6753"]),
        ("2.11.1", {}, ["#6753"]),
        ("2.11.2-RC.1", {}, ["#6753"]),
        ("2.11.2", {}, []),
        ("2.11.1", LIMITED, ["#6753", "#7608"]),
        ("2.11.11", REPLICATED, []),
        ("2.11.11", LIMITED, ["#7608"]),
        ("2.11.11", {"num_replicas": 2, "max_msgs": 1}, ["#7608"]),
        ("2.11.11", {"max_bytes": 1, "max_msgs": 1}, []),
        ("2.12.0", {}, []),
        ("2.12.0-preview.1", REPLICATED, ["#7424", "#7594"]),
        ("2.12.0", REPLICATED, ["#7424", "#7594"]),
        ("2.12.1", REPLICATED, ["#7594"]),
        ("2.12.2", REPLICATED, ["#7594"]),
        ("2.12.2", LIMITED, ["#7594", "#7608"]),
        ("2.12.3-RC.1", REPLICATED, ["#7594"]),
        ("2.12.3", REPLICATED, []),
        ("2.13.9", LIMITED, ["#7608"]),
        ("2.14.0-RC.1", LIMITED, ["#7608"]),
        ("2.14.0", LIMITED, []),
        ("3.0.0", LIMITED, []),
        ("dev", LIMITED, []),
    ],
)
def test_a_version_that_is_known_to_lose_is_named_with_its_source(
    version: str, changes: dict[str, Any], sources: list[str]
) -> None:
    sentences = server_unfitness(version, config(**changes))
    named = [sentence for sentence in sentences if "#" in sentence]
    assert [sentence.split("nats-server ")[1][:5] for sentence in named] == sources
    assert unfitness(PLAN, config(**changes), version) == sentences
    assert all(sentence.startswith(f"NATS server {version} ") for sentence in named)


def test_a_defect_says_what_happens_and_what_to_use() -> None:
    (sentence,) = unfitness(PLAN, config(**LIMITED), "2.13.9")
    assert sentence == (
        "NATS server 2.13.9 can lose events when a size limit is raised "
        "(nats-server #7608): use 2.14.0 or later, or remove the limit before the "
        "stream is full."
    )


@pytest.mark.parametrize("leader", ["2.11.1", "2.12.2"])
def test_the_leader_may_be_older_than_the_server_that_we_are_connected_to(
    leader: str,
) -> None:
    changed = config(**REPLICATED, metadata={"_nats.ver": leader, "_nats.level": "1"})
    sentences = unfitness(PLAN, changed, "2.15.1")
    assert sentences
    assert sentences == server_unfitness(leader, config(**REPLICATED))
    assert unfitness(PLAN, changed, leader) == sentences  # said once


def test_a_stream_as_planned_differs_in_nothing() -> None:
    assert PLAN.differences(config()) == []


def test_a_field_that_the_server_does_not_name_is_no_difference() -> None:
    assert PLAN.differences({}) == []


def test_limits_that_the_server_does_not_name_bound_nothing() -> None:
    bare = config(discard="old")
    del bare["max_bytes"], bare["max_msgs"], bare["max_msgs_per_subject"]
    assert unfitness(PLAN, bare, "2.15.1") == []


def test_a_stream_whose_replicas_are_not_named_is_not_replicated() -> None:
    bare = config(max_bytes=1)
    del bare["num_replicas"]
    assert unfitness(PLAN, bare, "2.13.9") == []


def test_neither_description_nor_first_offset_is_a_difference() -> None:
    assert PLAN.differences(config(description="ours", first_seq=7)) == []


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"max_age": 0}, "max_age is 0; the settings require 7776000000000000."),
        ({"num_replicas": 3}, "num_replicas is 3; the settings require 1."),
        ({"max_bytes": 1000}, "max_bytes is 1000; the settings require -1."),
        ({"discard": "old"}, "discard is old; the settings require new."),
        ({"deny_delete": False}, "deny_delete is False; the settings require True."),
        ({"deny_purge": False}, "deny_purge is False; the settings require True."),
        (
            {"subjects": ["hermes.>"]},
            "subjects is ['hermes.>']; the settings require ['hermes.*'].",
        ),
    ],
)
def test_each_difference_is_a_sentence_that_names_the_field(
    changes: dict[str, Any], sentence: str
) -> None:
    assert PLAN.differences(config(**changes)) == [sentence]


def test_a_stream_of_one_server_has_its_majority() -> None:
    info = parse_stream_info(document())
    assert info.position == Position(8, 9)
    assert (info.messages, info.size_bytes) == (2, 99)
    assert (info.replicas, info.live_replicas, info.has_majority) == (1, 1, True)
    assert info.config == config(num_replicas=1)
    assert info.leader is None
    assert info.created == "2026-11-23T09:48:26.881698198Z"
    assert info.categories == {}


@pytest.mark.parametrize(
    ("first_seq", "last_seq", "first"),
    [(0, 0, 1), (1000, 999, 1000), (42, 41, 42)],
    ids=["made by hand", "made by us", "emptied by age"],
)
def test_an_empty_stream_begins_one_past_its_last(
    first_seq: int, last_seq: int, first: int
) -> None:
    info = parse_stream_info(
        document(messages=0, first_seq=first_seq, last_seq=last_seq)
    )
    assert info.position == Position(first, last_seq)


@pytest.mark.parametrize(
    ("followers", "live", "majority"),
    [
        pytest.param([{"active": 10}, {"active": 20}], 3, True, id="all"),
        pytest.param(
            [{"active": 0, "current": True}, {"active": 4 * SECOND, "current": True}],
            2,
            True,
            id="one silent",
        ),
        pytest.param(
            [
                {"active": 4 * SECOND, "current": True},
                {"active": 9 * SECOND, "current": True},
            ],
            1,
            False,
            id="both silent though current",
        ),
        pytest.param(
            [{"active": 1, "offline": True}, {"active": 1, "offline": True}],
            1,
            False,
            id="both offline",
        ),
        pytest.param([{"active": 2_900_000_000}, {}], 3, True, id="just in time"),
        pytest.param([{"active": 3 * SECOND}, {"active": 10}], 2, True, id="at limit"),
        pytest.param([], 1, False, id="followers not named"),
        pytest.param(None, 1, False, id="no followers"),
    ],
)
def test_a_replica_counts_as_live_only_when_it_was_heard_lately(
    followers: list[dict[str, Any]] | None, live: int, majority: bool
) -> None:
    cluster = {"leader": "n1", "replicas": followers}
    info = parse_stream_info(document(cluster, replicas=3))
    assert info.leader == "n1"
    assert (info.replicas, info.live_replicas) == (3, live)
    assert info.has_majority is majority


@pytest.mark.parametrize(
    ("leader", "followers", "is_leaders"),
    [
        ("n1", ["n2", "n3"], True),
        ("n1", [], True),
        ("n2", ["n2", "n3"], False),
        ("n3", ["n2", "n3"], False),
        (None, ["n1", "n2", "n3"], False),
        (None, [], False),
    ],
)
@pytest.mark.parametrize("replicas", [3, 1], ids=["three", "to be one"])
def test_who_names_its_leader_among_its_replicas_is_a_follower(
    leader: str | None, followers: list[str], is_leaders: bool, replicas: int
) -> None:
    cluster = {"leader": leader, "replicas": [{"name": name} for name in followers]}
    info = parse_stream_info(document(cluster, replicas=replicas))
    assert info.has_leader is (is_leaders or (replicas == 1 and not followers))
    assert info.leader == (leader if is_leaders else None)


@pytest.mark.parametrize(
    ("replicas", "followers", "majority"),
    [(2, [], False), (2, [{}], True), (4, [{}], False), (4, [{}, {}], True)],
)
def test_half_of_the_replicas_are_no_majority(
    replicas: int, followers: list[dict[str, Any]], majority: bool
) -> None:
    cluster = {"leader": "n1", "replicas": followers}
    info = parse_stream_info(document(cluster, replicas=replicas))
    assert info.has_majority is majority


def test_a_stream_whose_replicas_are_not_named_has_one() -> None:
    bare = document()
    del bare["config"]["num_replicas"]
    assert parse_stream_info(bare).replicas == 1


def test_categories_are_counted_by_their_last_token() -> None:
    info = parse_stream_info(
        document(subjects={"hermes.base": 7, "pre.fix.initsync": 3})
    )
    assert info.categories == {"base": 7, "initsync": 3}
