# SPDX-License-Identifier: Apache-2.0
"""Which events somebody looks for, and how keys and times are typed."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from support.sidecar import event

from sidecar.model.wanted import ObjectKey, Wanted, read_key, read_time

NOW = datetime(2026, 11, 28, 16, tzinfo=UTC)


# -- Keys ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "stored", "is_it"),
    [
        ("1234", 1234, True),
        ("1234", "1234", True),
        ("1234", 12345, False),
        ("1234", [1234], False),
        ('"1234"', 1234, True),
        ("jdoe", "jdoe", True),
        ('"jdoe"', "jdoe", True),
        ("jdoe", "JDOE", False),
        ("jdoe", '"jdoe"', False),
        ("Zoé", "Zoé", True),
        ('"Zo\\u00e9"', "Zoé", True),
        ("/ ()", "/ ()", True),
        ("-5", -5, True),
        ("1.50", 1.5, False),
        ("007", "007", True),
        ("007", 7, False),
        ("true", True, True),
        ("null", None, True),
        ('["INSA", 12]', ["INSA", 12], True),
        ('["INSA", 12]', ["INSA", "12"], True),
        ('["INSA", 12]', [12, "INSA"], False),
        ('["INSA", 12]', ["INSA"], False),
        ('["INSA", 12]', '["INSA", 12]', False),
        ('"[1]"', "[1]", True),
        ("[]", [], True),
        ("1", {"1": 1}, False),
    ],
)
@pytest.mark.parametrize("is_escaped", [True, False])
def test_a_key_is_compared_as_text(
    typed: str, stored: object, is_it: bool, is_escaped: bool
) -> None:
    document = {"objtype": "Users", "objpkey": stored}
    data = json.dumps(document, ensure_ascii=is_escaped)
    key = read_key(typed)
    assert key.matches(stored) is is_it
    found = Wanted(object_type="Users", key=key).find("", data)
    assert found == (document if is_it else None)


@pytest.mark.parametrize(
    "typed", ["", "[INSA, 12]", '["INSA", [12]]', '"jdoe', "{INSA}", '{"a": 1}']
)
def test_a_key_that_would_be_found_nowhere_is_refused(typed: str) -> None:
    with pytest.raises(ValueError, match=r"empty|single quotes"):
        read_key(typed)


@pytest.mark.parametrize(
    ("texts", "hint"),
    [("jean.dupont", "dupont"), (("INSA", "12"), "INSA"), ("é", ""), ((), "")],
)
def test_the_hint_is_what_every_json_writes_alike(
    texts: str | tuple[str, ...], hint: str
) -> None:
    assert ObjectKey(texts).hint == hint


# -- Times -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "at"),
    [
        ("30s", NOW - timedelta(seconds=30)),
        ("30m", NOW - timedelta(minutes=30)),
        ("2h", NOW - timedelta(hours=2)),
        ("3d", NOW - timedelta(days=3)),
        ("2026-11-28T16:00:00Z", NOW),
        ("2026-11-28T17:00:00+01:00", NOW),
        ("2026-11-28T16:00:00.000000001Z", NOW),
    ],
)
def test_a_time_is_rfc_3339_or_how_long_ago(typed: str, at: datetime) -> None:
    assert read_time(typed, NOW) == at


@pytest.mark.parametrize(
    "typed", ["", "2", "h", "-2h", "2 h", "2w", "2026-11-28T16:00:00", "999999999d"]
)
def test_any_other_time_is_refused(typed: str) -> None:
    with pytest.raises(ValueError, match="with its zone"):
        read_time(typed, NOW)


# -- Events ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("looked_for", "is_it"),
    [
        ({}, True),
        ({"object_type": "Users"}, True),
        ({"object_type": "Groups"}, False),
        ({"object_type": "added"}, False),
        ({"key": ObjectKey("7")}, True),
        ({"key": ObjectKey("secret")}, False),
        ({"since": NOW}, True),
        ({"since": NOW + timedelta(microseconds=1)}, False),
        ({"until": NOW}, True),
        ({"until": NOW - timedelta(microseconds=1)}, False),
    ],
)
def test_an_event_is_found_by_what_is_looked_for(
    looked_for: dict[str, Any], is_it: bool
) -> None:
    data = event(objpkey=7, objattrs={"password": "secret"}).decode()
    found = Wanted(**looked_for).find("2026-11-28T16:00:00.000000999Z", data)
    assert found == (json.loads(data) if is_it else None)


@pytest.mark.parametrize(
    ("wanted", "hint"),
    [
        (Wanted(), ""),
        (Wanted(category="base", until=NOW), ""),
        (Wanted(object_type="Users"), "Users"),
        (Wanted(key=ObjectKey("jdoe")), "jdoe"),
        (Wanted(object_type="Users", key=ObjectKey("jdoe")), "jdoe"),
        (Wanted(object_type="Users", key=ObjectKey("/ ()")), "Users"),
    ],
)
def test_what_is_wanted_has_its_key_or_else_its_type(wanted: Wanted, hint: str) -> None:
    assert wanted.hint == hint


@pytest.mark.parametrize("data", ["", "[1]", "{", "Users 1", "[" * 100_000])
def test_what_is_no_event_is_found_by_its_time_alone(data: str) -> None:
    assert Wanted().find("", data) == {}
    assert Wanted(object_type="Users", key=ObjectKey("1")).find("", data) is None
