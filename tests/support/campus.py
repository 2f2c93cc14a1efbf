# SPDX-License-Identifier: Apache-2.0
"""The data source of a small school, and how Hermes is told to read it."""

from __future__ import annotations

import re
import sqlite3
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from pathlib import Path

PHOTO = bytes(range(256))

_TABLES = """
CREATE TABLE users (
  id INTEGER PRIMARY KEY, login TEXT, first_name TEXT, last_name TEXT,
  hired datetime, photo BLOB, phone TEXT
);
CREATE TABLE groups (id INTEGER PRIMARY KEY, name TEXT);
CREATE TABLE members (group_id INTEGER, user_id INTEGER);
CREATE TABLE passwords (user_id INTEGER PRIMARY KEY, password TEXT);
"""

_INSERTS = {
    "users": "INSERT INTO users VALUES "
    "(:id, :login, :first_name, :last_name, :hired, :photo, :phone)",
    "groups": "INSERT INTO groups VALUES (:id, :name)",
    "members": "INSERT INTO members VALUES (:group_id, :user_id)",
    "passwords": "INSERT INTO passwords VALUES (:user_id, :password)",
}

USERS: list[dict[str, Any]] = [
    {
        "id": 1,
        "login": "hlefevre",
        "first_name": "Hélène",
        "last_name": "Lefèvre",
        "hired": "2019-09-01 08:00:00",
        "photo": PHOTO,
        "phone": "+33 3 00 00 00 01",
    },
    {
        "id": 2,
        "login": "jmuller",
        "first_name": "Jérôme",
        "last_name": 'Müller "Jo"',
        "hired": "2021-01-04 08:00:00",
        "phone": "+33 3 00 00 00 02",
    },
    {
        "id": 3,
        "login": "nokafor",
        "first_name": "Ngozi",
        "last_name": "Ọkafọ 😀",
        "hired": "2024-02-29 08:00:00",
        "phone": "+33 3 00 00 00 03",
    },
]
GROUPS = [{"id": 10, "name": "Élèves"}, {"id": 20, "name": "staff"}]
MEMBERS = [
    {"group_id": 10, "user_id": 3},
    {"group_id": 20, "user_id": 1},
    {"group_id": 20, "user_id": 2},
]


class Campus:
    """The SQLite file that hermes-server reads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._db = sqlite3.connect(path)
        self._db.executescript(_TABLES)

    def __enter__(self) -> Self:
        for table, rows in (("users", USERS), ("groups", GROUPS), ("members", MEMBERS)):
            for row in rows:
                self.insert(table, **row)
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def insert(self, table: str, **row: Any) -> None:
        """Insert a row; what it does not name is NULL."""
        statement = _INSERTS[table]
        names = re.findall(r":(\w+)", statement)
        with self._db:
            self._db.execute(statement, dict.fromkeys(names) | row)

    def insert_users(self, numbers: range) -> None:
        """Insert many users in one transaction."""
        rows = [(n, f"login{n}", f"First {n}", f"Last {n}") for n in numbers]
        statement = (
            "INSERT INTO users (id, login, first_name, last_name) VALUES (?, ?, ?, ?)"
        )
        with self._db:
            self._db.executemany(statement, rows)

    def rename_user(self, user_id: int, last_name: str) -> None:
        with self._db:
            self._db.execute(
                "UPDATE users SET last_name = ? WHERE id = ?", [last_name, user_id]
            )

    def rename_users(self, numbers: range, last_name: str) -> None:
        """Rename many users in one transaction."""
        with self._db:
            self._db.executemany(
                "UPDATE users SET last_name = ? WHERE id = ?",
                [(last_name, number) for number in numbers],
            )

    def delete_user(self, user_id: int) -> None:
        """Delete a user with all memberships in one transaction."""
        with self._db:
            self._db.execute("DELETE FROM members WHERE user_id = ?", [user_id])
            self._db.execute("DELETE FROM users WHERE id = ?", [user_id])


_QUERY = "SELECT {{ REMOTE_ATTRIBUTES | join(', ') }} FROM TABLE"

USER_ATTRIBUTES = ("id", "login", "first_name", "last_name", "hired", "photo")


def server_datamodel(user_attributes: tuple[str, ...]) -> dict[str, Any]:
    """Give the data model of hermes-server, in the order that Hermes keeps."""
    return {
        "Users": _type("users", "id", user_attributes),
        "UserPasswords": _type(
            "passwords", "user_id", ("user_id", "password"), secrets=("password",)
        ),
        "Groups": _type("groups", "id", ("id", "name")),
        "GroupsMembers": _type(
            "members", ["group_id", "user_id"], ("group_id", "user_id")
        ),
    }


def client_datamodel(user_attributes: tuple[str, ...]) -> dict[str, Any]:
    """Give the data model of a hermes-client; the primary key comes by itself."""
    return {
        "Users": _mapping("Users", user_attributes[1:]),
        "Groups": _mapping("Groups", ("name",)),
        "GroupsMembers": _mapping("GroupsMembers", ()),
    }


def _type(
    table: str,
    key: str | list[str],
    attributes: tuple[str, ...],
    secrets: tuple[str, ...] = (),
) -> dict[str, Any]:
    source = {
        "fetch": {
            "type": "fetch",
            "query": _QUERY.replace("TABLE", table),
        },
        "attrsmapping": {name: name for name in attributes},
        "secrets_attrs": list(secrets),
    }
    return {"primarykeyattr": key, "sources": {"campus": source}}


def _mapping(hermes_type: str, attributes: tuple[str, ...]) -> dict[str, Any]:
    return {
        "hermesType": hermes_type,
        "attrsmapping": {name: name for name in attributes},
    }
