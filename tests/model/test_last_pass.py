# SPDX-License-Identifier: Apache-2.0
"""What of a stream's messages a hermes-server that starts may send again."""

from __future__ import annotations

import json

import pytest
from support.sidecar import event, plugin_key

from sidecar.model.last_pass import PassReader, digest_of, ends, is_same_event
from sidecar.model.publish_reply import StoredMessage

FIRST = "11111111-1111-4111-8111-"
SECOND = "22222222-2222-4222-8222-"
ASKS = "99999999-9999-4999-8999-"
CURL = "7e2d3c4b-5a6f-4d1e-9b8c-a1b2c3d4e5f6"
START = 40

KINDS = {"a": "added", "m": "modified", "r": "removed"}


def message(offset: int, letters: str) -> StoredMessage | None:
    """Read `1a7`: process 1, added, object 7; `c` for curl, `0` for ours.

    `<` and `>`: init-start and init-stop; `o` of another category; `s` a schema; `?` no
    event of Hermes; `-` is missing; `p` and `n` as a process: the first one's, of an
    earlier and a later pass; `a`: its next attempt; `f`: of one that begins behind it.
    """
    if letters == "-":
        return None
    who, kind, number = letters[0], letters[1:2], letters[2:]
    keys = {
        "1": plugin_key(offset, FIRST, START),
        "2": plugin_key(offset, SECOND, START),
        "0": plugin_key(offset, ASKS, START),
        "p": plugin_key(offset, FIRST, START - 9),
        "n": plugin_key(offset, FIRST, offset - 1),
        "f": plugin_key(offset, FIRST, offset),
        "a": plugin_key(offset, FIRST, START, attempt=2),
    }
    category, body = "base", b"{}"
    if who in "<>":
        category, eventtype = "initsync", "init-start" if who == "<" else "init-stop"
        body = event(category, eventtype=eventtype, objtype=None, objpkey=None)
    elif who == "o":
        category, body = "other", event("other", eventtype="removed")
    elif who == "s":
        body = event(eventtype="dataschema", objtype=None, objpkey=None)
    elif who != "?":
        body = event(eventtype=KINDS[kind], objpkey=int(number))
    key = keys.get(who, CURL)
    return StoredMessage(offset, f"hermes.{category}", key, "", body)


def found(*stream: str) -> dict[int, int]:
    """Give the offset of each object that is found, counted from the pass' start."""
    reader = PassReader(START, ASKS)
    for offset, letters in enumerate(stream, START + 1):
        reader.take(message(offset, letters))
    digests = {digest_of(ASKS, "Users", number): number for number in range(10)}
    pairs = [text.split() for text in reader.objects()]
    return {digests[digest]: int(offset) - START for digest, offset in pairs}


@pytest.mark.parametrize(
    ("stream", "objects"),
    [
        ("", {}),
        ("1a1 1m2 1r3", {1: 1, 2: 2, 3: 3}),  # its own order: all of one pass
        ("1m1 2m1", {1: 2}),  # the newest
        ("1m1 cm1", {}),  # a person's is the newest
        ("1m1 pm1", {}),  # an earlier pass'
        ("1m1 2m2 nm2", {1: 1, 2: 3}),  # it was in flight, the first of its pass
        ("1m1 0m1", {}),  # what asks has sent one since
        ("1m1 2m2", {1: 1, 2: 2}),  # a row of killed processes
        ("1m1 2r2", {2: 2}),  # another process' removal may have taken it with it
        ("1r1 2r2", {1: 1, 2: 2}),
        ("1a1 1m2 ar3", {3: 3}),  # an earlier attempt of the process: it knew of none
        ("1a1 aa2 ar3", {2: 2, 3: 3}),
        ("1a1 2r2 1r3", {2: 2, 3: 3}),
        ("1a1 1r2 2r3 1r4", {2: 2, 3: 3, 4: 4}),
        ("2r3 1a1 1r2", {1: 2, 2: 3, 3: 1}),
        ("fr1 1r2", {2: 2}),  # begins behind itself
        ("1r1 2m2 2r3", {1: 1, 2: 2, 3: 3}),
        ("1m1 cr2", {}),
        ("1m1 0r2", {}),
        ("1a1 1r1", {1: 2}),
        ("1r1 1a1", {1: 2}),
        ("1m1 <", {1: 1}),
        ("1r1 < >", {}),
        ("1r1 < > 1m2", {2: 4}),
        ("1r1 s 1m2", {2: 3}),
        ("1r1 ? 1m2", {2: 3}),
        ("1r1 - 1m2", {2: 3}),
    ],
)
def test_the_newest_event_of_an_object_may_come_again(
    stream: str, objects: dict[int, int]
) -> None:
    assert found(*stream.split()) == objects


def test_the_newest_base_event_is_noted_whoever_sent_it() -> None:
    reader = PassReader(START, ASKS)
    for offset, letters in enumerate(["1m1", "cm1", "<"], START + 1):
        reader.take(message(offset, letters))
    assert reader.newest_base == START + 2


def test_objects_are_sorted_and_show_nothing_of_a_key() -> None:
    reader = PassReader(START, ASKS)
    for offset in range(START + 1, START + 101):
        body = event(objpkey=f"c0rrect-horse {offset}")
        key = plugin_key(offset, FIRST, START)
        reader.take(StoredMessage(offset, "hermes.base", key, "", body))
    objects = reader.objects()
    assert objects == sorted(objects)
    assert len({text[:11] for text in objects}) == 100
    assert "horse" not in json.dumps(objects)


def test_a_digest_is_of_one_process_and_one_object_alone() -> None:
    digests = {
        digest_of(ASKS, "Users", 1),
        digest_of(FIRST, "Users", 1),
        digest_of(ASKS, "Groups", 1),
        digest_of(ASKS, "Users", "1"),
        digest_of(ASKS, "Users", [1]),
        digest_of("", None, None),
    }
    assert len(digests) == 6
    assert {len(digest) for digest in digests} == {11}


ADDED = event(objattrs={"id": 1, "jobs": ["a", "b"], "at": {"x": 1, "y": 2}})


@pytest.mark.parametrize(
    ("attributes", "is_same"),
    [
        ({"at": {"x": 1, "y": 2}, "jobs": ["a", "b"], "id": 1}, True),
        ({"jobs": ["a", "b"], "id": 1, "at": {"x": 1, "y": 2}}, True),
        ({"at": {"x": 1, "y": 2}, "jobs": ["b", "a"], "id": 1}, False),
        ({"at": {"x": 2, "y": 1}, "jobs": ["a", "b"], "id": 1}, False),
        ({"at": {"x": 1, "id": 2}, "jobs": ["a", "b"], "y": 1}, False),
        ({"at": {"x": 1, "y": 2}, "jobs": ["a", "b"], "id": 2}, False),
        ({"at": {"x": 1, "y": 2}, "jobs": ["a", "b"]}, False),
    ],
)
def test_an_object_added_by_two_processes_has_its_attributes_in_any_order(
    attributes: dict[str, object], *, is_same: bool
) -> None:
    assert is_same_event(ADDED, event(objattrs=attributes)) is is_same


@pytest.mark.parametrize(
    ("other", "is_same"),
    [
        (ADDED, True),
        (ADDED + b" ", False),
        (ADDED.replace(b'"step": 0', b'"step": 1'), False),
        (ADDED.replace(b'"objpkey": 1', b'"objpkey": 2'), False),
        (ADDED.replace(b'"id": 1', b'"id" :1'), False),
    ],
)
def test_nothing_else_of_them_may_differ(other: bytes, *, is_same: bool) -> None:
    assert is_same_event(ADDED, other) is is_same
    assert is_same_event(b"{}", b"{}")
    assert not is_same_event(b"{1", b"{2")


@pytest.mark.parametrize("attributes", [{}, {"added": {}, "modified": {"a": 1}}])
def test_so_it_is_of_a_removal_and_of_a_change(attributes: dict[str, object]) -> None:
    one, other = (event(objpkey=pkey, objattrs=attributes) for pkey in (1, 2))
    assert is_same_event(one, one)
    assert not is_same_event(one, other)


@pytest.mark.parametrize(
    ("later", "ended"),
    [
        ("1m1", {"added", "removed"}),  # of the object itself, whoever sent it
        ("cr1", {"added", "removed"}),
        ("1m2", set()),
        ("1r2", {"added"}),  # may have taken the object with it
        ("<", set()),
        (">", {"added", "removed"}),
        ("s", {"added", "removed"}),
        ("o", set()),
        ("?", {"added", "removed"}),
        ("-", {"added", "removed"}),
    ],
)
def test_what_is_stored_behind_an_event_may_make_the_same_one_new(
    later: str, ended: set[str]
) -> None:
    kinds = {"added", "removed"}
    found = {
        kind
        for kind in kinds
        if ends(message(START, later), event(eventtype=kind, objpkey=1))
    }
    assert found == ended
