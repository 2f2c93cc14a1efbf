# SPDX-License-Identifier: Apache-2.0
"""The stream as it is planned, whether another one will do, and how they differ."""

from __future__ import annotations

from typing import Any

import pytest
from support.stream_documents import PLAN, SECOND, config, document

from sidecar.model.stream import (
    StreamPlan,
    first_offset,
    parse_stream_info,
    unfitness,
)


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
    ("server", "is_atomic"),
    [
        *(("", False), ("x", False), ("2.11.11", False), ("2.12.0-RC.1", False)),
        *(("2.12.0", True), ("2.12.8", True), ("2.15.1", True), ("3.0.0", True)),
    ],
)
def test_a_new_stream_allows_atomic_batches_where_the_server_knows_them(
    server: str, is_atomic: bool
) -> None:
    config = PLAN.config(1, server=server)
    assert config.get("allow_atomic", False) is is_atomic
    assert PLAN.differences(config) == []
    assert PLAN.differences(config | {"allow_atomic": True}) == []


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


def test_categories_are_counted_by_their_last_token() -> None:
    info = parse_stream_info(
        document(subjects={"hermes.base": 7, "pre.fix.initsync": 3})
    )
    assert info.categories == {"base": 7, "initsync": 3}
