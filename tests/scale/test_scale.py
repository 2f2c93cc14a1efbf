# SPDX-License-Identifier: Apache-2.0
"""`make scale` without its load: the campus, the judgements, the page."""

from __future__ import annotations

import hashlib
import importlib
import json
import sqlite3
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from scale.figures import FIRST, MANY, RETENTION, checks, limits, megabytes
from scale.figures import shares as shares_of
from scale.page import page
from scale.plots import POINTS, rates, thinned
from scale.population import (
    GROUPS,
    MEMBERS,
    USERS,
    Campus,
    change_database,
    initsync,
    night_events,
    night_of,
    user,
    write_database,
)
from scale.sizes import FULL, QUICK

if TYPE_CHECKING:
    from collections.abc import Iterable

    from scale.population import StandInEvent

ROOT = Path(__file__).resolve().parents[2]
GIVEN = limits(ROOT / "deploy" / "kubernetes")
STORED = json.loads((ROOT / "docs" / "scale.json").read_text("utf-8"))
CAMPUS = Campus(1_000)
NIGHT = night_of(100)


def digest(events: Iterable[StandInEvent]) -> str:
    return hashlib.sha256("".join(each.text for each in events).encode()).hexdigest()


# -- the campus ------------------------------------------------------------------------


def test_the_same_campus_comes_each_time() -> None:
    assert digest(initsync(CAMPUS)) == digest(initsync(Campus(1_000)))
    assert digest(initsync(CAMPUS)) != digest(initsync(Campus(1_001)))


@pytest.mark.parametrize("objects", [QUICK.campus_objects[1], FULL.campus_objects[1]])
def test_a_campus_has_just_so_many_objects(objects: int) -> None:
    campus = Campus(objects)
    rows = {kind: set(campus.rows(kind)) for kind in (GROUPS, MEMBERS)}
    assert campus.users + len(rows[GROUPS]) + len(rows[MEMBERS]) == objects
    groups = {row[0] for row in rows[GROUPS]}
    for group, member in rows[MEMBERS]:
        assert group in groups
        assert 1 <= member <= campus.users


def test_names_have_accents_and_one_user_in_five_a_photo() -> None:
    users = list(Campus(10_000).rows(USERS))
    photos = [row[-1] for row in users if row[-1] is not None]
    assert 0.15 < len(photos) / len(users) < 0.25
    assert all(3_000 <= len(photo) < 12_000 for photo in photos)
    accented = [row for row in users if not f"{row[2]}{row[3]}".isascii()]
    assert len(accented) > len(users) / 2


@pytest.mark.parametrize("campus", [CAMPUS, Campus(FULL.campus_objects[1])])
@pytest.mark.parametrize("changes", [100, 230])
def test_a_night_is_as_many_events_as_changes(campus: Campus, changes: int) -> None:
    night = night_of(changes)
    assert night.events == changes
    events = list(night_events(campus, night))
    assert len(events) == changes
    members, users = set(campus.rows(MEMBERS)), range(1, campus.users + 1)
    for event in events:
        stands = event.objpkey in (members if event.objtype == MEMBERS else users)
        assert stands == (event.eventtype != "added"), event
    objects = {(event.objtype, event.objpkey) for event in events}
    assert len(objects) == changes


def test_the_stand_in_writes_events_as_hermes_does(hermes_home: Path) -> None:
    assert hermes_home
    event_class = importlib.import_module("lib.datamodel.event").Event
    for event in chain(initsync(Campus(200)), night_events(CAMPUS, NIGHT)):
        read = event_class.from_json(event.text)
        assert read.to_json() == event.text
        assert (read.evcategory, read.eventtype) == (event.evcategory, event.eventtype)
        assert (read.objtype, read.objpkey) == (event.objtype, event.objpkey)
        if (event.objtype, event.evcategory) == (USERS, "initsync"):
            assert read.objattrs.get("photo") == user(event.objpkey)[-1]
            assert f"{read.objattrs['hired']}" == user(event.objpkey)[-2]


def test_hermes_server_reads_what_the_stand_in_sends(tmp_path: Path) -> None:
    path = tmp_path / "campus.sqlite"
    write_database(path, CAMPUS)
    assert tables(path) == {
        kind: {row[:2]: row for row in CAMPUS.rows(kind)}
        for kind in (USERS, GROUPS, MEMBERS)
    }


def test_a_night_changes_what_its_events_say(tmp_path: Path) -> None:
    path = tmp_path / "campus.sqlite"
    write_database(path, CAMPUS)
    before = tables(path)
    change_database(path, CAMPUS, NIGHT)
    after = tables(path)
    found = {
        (kind, change): len(rows)
        for kind in before
        for change, rows in (
            ("added", after[kind].keys() - before[kind].keys()),
            ("removed", before[kind].keys() - after[kind].keys()),
            (
                "modified",
                [
                    key
                    for key, row in before[kind].items()
                    if after[kind].get(key, row) != row
                ],
            ),
        )
        if rows
    }
    assert found == {
        (USERS, "added"): NIGHT.arrived,
        (USERS, "modified"): NIGHT.renamed,
        (MEMBERS, "added"): NIGHT.joined,
        (MEMBERS, "removed"): NIGHT.left,
    }


def tables(path: Path) -> dict[str, dict[Any, tuple[Any, ...]]]:
    """Give the rows of each type, by their first two columns, which are a key."""
    database = sqlite3.connect(path)
    found = {
        kind: {
            row[:2]: row
            for row in database.execute(f"SELECT * FROM {table}")  # noqa: S608
        }
        for kind, table in ((USERS, "users"), (GROUPS, "groups"), (MEMBERS, "members"))
    }
    database.close()
    return found


# -- what is computed ------------------------------------------------------------------


def results(**changed: Any) -> dict[str, Any]:
    """Give results in which each figure is at its limit, but for those changed."""
    at = {"ratio": 0.9, "crowded": 0.9, "requests": 5, "peak_ratio": 1.3}
    at |= {"nats_mb": 1_000.0, "fresh": 60} | changed
    first = {
        "alone": {"ratio": at["ratio"], "requests": at["requests"]},
        "with clients": {"ratio": at["crowded"], "requests": 500},
        "peak_ratio": at["peak_ratio"],
    }
    many = {"memory_mb": {"nats-server": at["nats_mb"]}, "fresh_requests": 9}
    few = {"memory_mb": {"nats-server": 1.0}, "fresh_requests": 9}
    kept = {"memory_mb": {"nats-server": 5_000.0}, "fresh_requests": at["fresh"]}
    found = {FIRST: first, MANY[1]: few, MANY[3]: many, RETENTION: kept}
    return {name: {"found": each} for name, each in found.items()}


def test_each_figure_may_be_at_its_limit() -> None:
    assert [each.holds for each in checks(results(), 1_000)] == [True] * 6


@pytest.mark.parametrize(
    ("place", "changed"),
    [
        (0, {"ratio": 0.89}),
        (1, {"crowded": 0.89}),
        (2, {"requests": 5.1}),
        (3, {"peak_ratio": 1.31}),
        (4, {"nats_mb": 1_001}),
        (5, {"fresh": 61}),
    ],
)
def test_each_figure_may_miss_its_limit(place: int, changed: dict[str, float]) -> None:
    missed = [each.holds is False for each in checks(results(**changed), 1_000)]
    assert missed == [number == place for number in range(6)]


def test_what_was_not_measured_neither_holds_nor_misses() -> None:
    assert [each.holds for each in checks({}, 1_000)] == [None] * 6


def test_a_picture_has_few_points_and_the_last_one() -> None:
    rows = [[float(number)] for number in range(3_000)]
    assert thinned(rows[:5]) == rows[:5]
    few = thinned(rows)
    assert len(few) <= POINTS + 1
    assert (few[0], few[-1]) == (rows[0], rows[-1])


def test_a_part_that_restarts_counts_anew() -> None:
    rows = [[0.0, 10.0], [2.0, 30.0], [3.0, 5.0], [4.0, 6.0]]
    assert rates(rows, 1) == [(2.0, 10.0), (3.0, 0.0), (4.0, 1.0)]


def test_quantities_are_read_as_kubernetes_does() -> None:
    assert megabytes("1Gi") == 1_073.741824
    assert megabytes("256Mi") == 268.435456


# -- the page --------------------------------------------------------------------------


def test_the_page_is_what_was_measured_and_is_deployed() -> None:
    text = (ROOT / "docs" / "scale.md").read_text("utf-8")
    assert text == page(STORED["parts"], STORED["machine"], GIVEN)


def test_a_quick_run_says_so() -> None:
    parts = {name: part | {"scale": "full"} for name, part in STORED["parts"].items()}
    assert "quick run" not in page(parts, {}, GIVEN)
    parts[next(iter(parts))] |= {"scale": "quick"}
    assert "**These are the figures of a quick run" in page(parts, {}, GIVEN)


def test_each_picture_of_the_page_is_there() -> None:
    for name, part in STORED["parts"].items():
        if "samples" in part["found"]:
            assert (ROOT / "docs" / f"scale-{name}.svg").exists(), name


def test_what_deploy_gives_is_a_quarter_more_than_was_measured() -> None:
    for share in shares_of(STORED["parts"], GIVEN):
        if share.most is not None:
            assert share.given_mb >= 1.25 * share.most[1], share
