# SPDX-License-Identifier: Apache-2.0
"""A campus of any size, the same each time: users, groups, memberships, photos.

Of a hundred objects 23 are users, 2 groups and 75 memberships; one user in five has a
photo. Each row is a function of its number, so a million of them needs no memory.
"""

from __future__ import annotations

import base64
import json
import random
import sqlite3
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FIRST_NAMES = (
    *("Hélène", "Jérôme", "Zoé", "François", "Anaïs", "Noël", "Chloé", "Maël", "Inès"),
    *("Marie", "Thomas", "Björn", "Jürgen", "Åsa", "Łukasz", "Siân", "Ngozi", "Şule"),
    *("José", "João", "Thị Hương", "Иван", "محمد", "小明"),
)
LAST_NAMES = (
    *("Lefèvre", "Müller", "Dupont", "Schmitt", "D'Arçon", "Béranger", "Muñoz"),
    *("Nuñez-Gómez", "Ọkafọ", "Nguyễn", "Østergård", "Weiß", "Čapek", "Kowalski"),
    *("Gonçalves", "Le Gall", "Œuvrard", 'Martin "Jo"', "Петров", "حداد", "王"),
)
GROUP_NAMES = ("Élèves", "Étudiants", "Chercheurs", "Personnels", "Invités", "Anciens")

USERS, GROUPS, MEMBERS = "Users", "Groups", "GroupsMembers"
_PHOTO_BYTES = (3_000, 12_000)
_MEMBERS_MORE = 10
"""A membership that a night adds is this many turns beyond those that stand."""

_TABLES = {
    USERS: ("users", "id"),
    GROUPS: ("groups", "id"),
    MEMBERS: ("members", ["group_id", "user_id"]),
}
_COLUMNS = {
    USERS: (
        *("id", "login", "first_name", "last_name", "mail", "phone", "hired", "photo"),
    ),
    GROUPS: ("id", "name", "label"),
    MEMBERS: ("group_id", "user_id"),
}
_QUERY = "SELECT {{ REMOTE_ATTRIBUTES | join(', ') }} FROM TABLE"
_CREATE = """
CREATE TABLE users (
  id INTEGER PRIMARY KEY, login TEXT, first_name TEXT, last_name TEXT, mail TEXT,
  phone TEXT, hired datetime, photo BLOB
);
CREATE TABLE groups (id INTEGER PRIMARY KEY, name TEXT, label TEXT);
CREATE TABLE members (group_id INTEGER, user_id INTEGER);
CREATE INDEX members_by_user ON members (user_id, group_id);
"""


@dataclass(frozen=True)
class Night:
    """How many changes of each kind a night has; each is one event."""

    renamed: int
    left: int
    joined: int
    arrived: int

    @property
    def events(self) -> int:
        return self.renamed + self.left + self.joined + self.arrived


def night_of(changes: int) -> Night:
    renamed = changes * 3 // 10
    arrived = changes // 10
    left = changes * 3 // 10
    return Night(renamed, left, changes - renamed - left - arrived, arrived)


@dataclass(frozen=True)
class Campus:
    """So many objects: a real hermes-server reads them, or its stand-in sends them."""

    objects: int

    @property
    def users(self) -> int:
        return self.objects * 23 // 100

    @property
    def groups(self) -> int:
        return max(2 * _MEMBERS_MORE, self.objects * 2 // 100)

    @property
    def members(self) -> int:
        return self.objects - self.users - self.groups

    def rows(self, kind: str) -> Iterator[tuple[Any, ...]]:
        """Give the rows of a type, in the order of its columns."""
        if kind == USERS:
            return map(user, range(1, self.users + 1))
        if kind == GROUPS:
            return map(group, range(1, self.groups + 1))
        return (self.member(number) for number in range(self.members))

    def member(self, number: int) -> tuple[int, int]:
        """Give group and user; no two numbers of one night give the same pair."""
        turn, place = divmod(number, self.users)
        return (place * 7 + turn) % self.groups + 1, place + 1

    def joining(self, number: int) -> tuple[int, int]:
        """Give a membership that does not stand before the night."""
        return self.member(number + _MEMBERS_MORE * self.users)


def user(number: int) -> tuple[Any, ...]:
    rng = random.Random(number)  # noqa: S311 - the same each time
    first, last = rng.choice(FIRST_NAMES), rng.choice(LAST_NAMES)
    has_photo = rng.random() < 0.2
    login = f"u{number:07}"
    return (
        number,
        login,
        first,
        last,
        f"{login}@example.org",
        f"+33 3 {rng.randrange(10**8):08}",
        f"{rng.randrange(1990, 2026)}-09-01 08:00:00",
        rng.randbytes(rng.randrange(*_PHOTO_BYTES)) if has_photo else None,
    )


def group(number: int) -> tuple[Any, ...]:
    name = GROUP_NAMES[number % len(GROUP_NAMES)]
    return number, f"g{number:06}", f"{name} {number // len(GROUP_NAMES)}"


# -- for a real hermes-server ----------------------------------------------------------


def write_database(path: Path, campus: Campus) -> None:
    """Write the SQLite file that hermes-server reads."""
    database = sqlite3.connect(path)
    database.executescript(_CREATE)
    with database:
        for kind, (table, _) in _TABLES.items():
            marks = ", ".join("?" * len(_COLUMNS[kind]))
            database.executemany(
                f"INSERT INTO {table} VALUES ({marks})",  # noqa: S608 - our own names
                campus.rows(kind),
            )
    database.close()


def change_database(path: Path, campus: Campus, night: Night) -> None:
    """Let a night pass; hermes-server makes one event of each change."""
    database = sqlite3.connect(path)
    with database:
        database.executemany(
            "UPDATE users SET last_name = ? WHERE id = ?",
            ((f"Après-{number}", number) for number in range(1, night.renamed + 1)),
        )
        database.executemany(
            "DELETE FROM members WHERE group_id = ? AND user_id = ?",
            map(campus.member, range(night.left)),
        )
        database.executemany(
            "INSERT INTO members VALUES (?, ?)",
            map(campus.joining, range(night.joined)),
        )
        marks = ", ".join("?" * len(_COLUMNS[USERS]))
        database.executemany(
            f"INSERT INTO users VALUES ({marks})",  # noqa: S608 - our own names
            (user(campus.users + number) for number in range(1, night.arrived + 1)),
        )
    database.close()


def rename_a_user(path: Path, last_name: str) -> None:
    database = sqlite3.connect(path)
    with database:
        database.execute("UPDATE users SET last_name = ? WHERE id = 1", [last_name])
    database.close()


def datamodel() -> dict[str, Any]:
    """Tell hermes-server how to read that file."""
    return {
        kind: {
            "primarykeyattr": key,
            "sources": {
                "campus": {
                    "fetch": {
                        "type": "fetch",
                        "query": _QUERY.replace("TABLE", table),
                    },
                    "attrsmapping": {name: name for name in _COLUMNS[kind]},
                }
            },
        }
        for kind, (table, key) in _TABLES.items()
    }


# -- for its stand-in ------------------------------------------------------------------


@dataclass(frozen=True)
class StandInEvent:
    """An event as far as the producer plugin asks; its text is made already."""

    evcategory: str
    eventtype: str
    objtype: str | None
    objpkey: Any
    text: str

    def to_json(self) -> str:
        return self.text


def initsync(campus: Campus) -> Iterator[StandInEvent]:
    """Give a whole initsync of a campus, as hermes-server sends it."""
    yield make_event("initsync", "init-start", None, None, _schema())
    for kind in _TABLES:
        for row in campus.rows(kind):
            yield _of_row("initsync", "added", kind, row)
    yield make_event("initsync", "init-stop", None, None, {})


def night_events(campus: Campus, night: Night) -> Iterator[StandInEvent]:
    """Give the events of a night."""
    for number in range(night.arrived):
        yield _of_row("base", "added", USERS, user(campus.users + 1 + number))
    for number in range(night.joined):
        yield _of_row("base", "added", MEMBERS, campus.joining(number))
    for number in range(1, night.renamed + 1):
        changed = {"added": {}, "modified": {"last_name": f"Après-{number}"}}
        attributes = changed | {"removed": {}}
        yield make_event("base", "modified", USERS, number, attributes)
    for number in range(night.left):
        key = list(campus.member(number))
        yield make_event("base", "removed", MEMBERS, key, {})


def make_event(
    category: str, kind: str, objtype: str | None, key: Any, attributes: dict[str, Any]
) -> StandInEvent:
    document = {
        "evcategory": category,
        "eventtype": kind,
        "objtype": objtype,
        "objpkey": key,
        "objattrs": attributes,
        "step": 0,
        "isPartiallyProcessed": False,
    }
    key = tuple(key) if isinstance(key, list) else key
    return StandInEvent(
        category, kind, objtype, key, json.dumps(document, indent=4, default=_encode)
    )


def _of_row(
    category: str, kind: str, objtype: str, row: tuple[Any, ...]
) -> StandInEvent:
    attributes = {
        name: f"HermesDatetime({value.replace(' ', 'T')}Z)"
        if name == "hired"
        else value
        for name, value in zip(_COLUMNS[objtype], row, strict=True)
        if value is not None
    }
    key = list(row) if objtype == MEMBERS else row[0]
    return make_event(category, kind, objtype, key, attributes)


def _encode(value: bytes) -> str:
    return f"HermesBytes({base64.b64encode(value).decode('ascii')})"


def _schema() -> dict[str, Any]:
    return {
        kind: {
            "HERMES_ATTRIBUTES": sorted(_COLUMNS[kind]),
            "SECRETS_ATTRIBUTES": [],
            "PRIMARYKEY_ATTRIBUTE": key,
        }
        for kind, (_, key) in _TABLES.items()
    }
