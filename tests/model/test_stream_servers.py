# SPDX-License-Identifier: Apache-2.0
"""A stream's servers: their versions, its replicas, its majority."""

from __future__ import annotations

from typing import Any

import pytest
from support.stream_documents import PLAN, SECOND, config, document

from sidecar.model.publish_reply import Position
from sidecar.model.stream import (
    parse_stream_info,
    server_too_old,
    server_unfitness,
    unfitness,
)


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
        pytest.param(
            [{"active": 0, "current": False, "lag": 9}, {"active": 4 * SECOND}],
            1,
            False,
            id="one never heard by this leader, one silent",
        ),
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
    ("follower", "behind"),
    [
        ({"active": 1, "current": True}, 0),
        ({"active": 1, "current": False, "lag": 1_000}, 0),
        ({"active": 1, "current": False, "lag": 1_001}, 1),
        ({"active": 4 * SECOND, "current": False, "lag": 1_001}, 0),
    ],
)
def test_a_live_replica_that_lacks_much_is_behind(
    follower: dict[str, Any], behind: int
) -> None:
    cluster = {"leader": "n1", "replicas": [{"active": 1}, follower]}
    info = parse_stream_info(document(cluster, replicas=3))
    assert info.behind_replicas == behind


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
