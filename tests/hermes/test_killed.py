# SPDX-License-Identifier: Apache-2.0
"""A real hermes-server that is killed at any point of a pass: each event stands once.

And a real hermes-client has every removed object in its trashbin: for a second
`removed` it would delete it for good.
"""

from __future__ import annotations

import json
import re
import signal
import sqlite3
from collections import Counter
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import pytest
from support import stream
from support.gate import WAIT_SECONDS, Gate, Place
from support.hermes_programs import HermesClient, HermesProgram

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.sidecar import SidecarProcess

TABLES = {
    "Users": ("id", "login", "name", "phone"),
    "Groups": ("id", "name", "mail", "site"),
    "GroupsMembers": ("group_id", "user_id", "role", "until"),
}
KEYS = {"GroupsMembers": ["group_id", "user_id"]}
QUERY = "SELECT {{ REMOTE_ATTRIBUTES | join(', ') }} FROM TABLE"
OBJECTS = {False: (1, 2, 3, 4, 5, 6), True: (1, 2, 3, 4, 7, 8)}
"""Of each type, before and after a change. 1 and 2 have other values, too."""

CHANGES = 3 * (2 + 2 + 2)
"""Two added, two modified and two removed of each type."""

SHARES = 5

SAVES = 3 * 3 + 1
"""Of a pass: Hermes' cache of each type after each kind of change, then its own."""

DIES_SAVING = """
import os, signal, sys

def look(event, arguments):
    if event == "os.rename" and os.path.exists("saves"):
        with open("saves") as file:
            left = int(file.read())
        if left == 0:
            os.remove("saves")
            os.kill(os.getpid(), signal.SIGKILL)
        with open("saves", "w") as file:
            file.write(str(left - 1))

sys.addaudithook(look)
"""
"""Python runs it at its start: the process dies instead of so many-th cache file."""


class Point(NamedTuple):
    """Where a process dies: at so many-th request of a path, or at a save."""

    path: str
    number: int
    place: Place | Literal["save"]


EVENT = "/v1/events"
POINTS = [
    *(
        Point(path, number, place)
        for path, last in (("/v1/stream", 1), ("/v1/passes", 1), (EVENT, CHANGES))
        for number in range(1, last + 1)
        for place in ("before", "unanswered")
    ),
    *(Point("", number, "save") for number in range(1, SAVES + 1)),
]


class School:
    """What hermes-server reads: three tables that change back and forth at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._db = sqlite3.connect(path)
        for table, columns in TABLES.items():
            self._db.execute(f"CREATE TABLE {table} ({', '.join(columns)})")
        self.is_changed = True
        self.toggle()

    def toggle(self) -> None:
        self.is_changed = not self.is_changed
        self.write(OBJECTS[self.is_changed], f"{self.is_changed}")

    def write(self, objects: tuple[int, ...], value: str) -> None:
        """Have these objects of each type; 1 and 2 with this value."""
        with self._db:
            for table in TABLES:
                self._db.execute(f"DELETE FROM {table}")  # noqa: S608
                self._db.executemany(
                    f"INSERT INTO {table} VALUES (?, ?, ?, ?)",  # noqa: S608
                    [(n, n, value if n < 3 else "same", f"é{n}") for n in objects],
                )

    def close(self) -> None:
        self._db.close()


class Server(HermesProgram):
    """A hermes-server that fetches again as soon as a pass is over."""

    def __init__(
        self, home: Path, python: Path, directory: Path, school: School, url: str
    ) -> None:
        super().__init__(home, python, directory, "server")
        (directory / "sitecustomize.py").write_text(DIES_SAVING, "utf-8")
        self.environ = {**(self.environ or {}), "PYTHONPATH": str(directory)}
        source = {"type": "sqlite", "settings": {"uri": str(school.path)}}
        bus = {"nats_sidecar": {"settings": {"url": url}}}
        self.configure(
            {"messagebus": bus, "datasources": {"school": source}},
            {"hermes-server": {"updateInterval": 0, "datamodel": server_datamodel()}},
            "info",
        )

    def die_at_save(self, number: int) -> None:
        (self.directory / "saves").write_text(str(number - 1), "utf-8")

    def wait_killed(self) -> None:
        assert self.running.wait(WAIT_SECONDS) == -signal.SIGKILL, self.output()[-3000:]


def server_datamodel() -> dict[str, Any]:
    return {
        name: {
            "primarykeyattr": KEYS.get(name, "id"),
            "sources": {
                "school": {
                    "fetch": {
                        "type": "fetch",
                        "query": QUERY.replace("TABLE", name),
                    },
                    "attrsmapping": {column: column for column in columns},
                }
            },
        }
        for name, columns in TABLES.items()
    }


def client_datamodel() -> dict[str, Any]:
    return {
        name: {
            "hermesType": name,
            "attrsmapping": {
                column: column
                for column in columns
                if column not in KEYS.get(name, ["id"])
            },
        }
        for name, columns in TABLES.items()
    }


class Killed:
    """A hermes-server with its school, its gate, and the stream that it fills."""

    def __init__(
        self, server: Server, school: School, gate: Gate, sidecar: SidecarProcess
    ) -> None:
        self.server, self.school, self.gate = server, school, gate
        self.sidecar = sidecar

    def start(self) -> None:
        """Start it, and hold it after its first pass."""
        self.gate.hold_after(1)
        self.server.start()
        self.gate.wait_held()

    def change(self) -> list[dict[str, Any]]:
        """Change the school and give the events of a pass that nobody kills."""
        last = self.last
        self.school.toggle()
        self.gate.hold_after(2)  # this one has fetched already
        self.gate.release()
        self.gate.wait_held()
        return self.events(last)

    def end_calmly(self, before: str) -> None:
        """End the process that is held, which has nothing left to send."""
        if before == "is stopped":
            self.server.running.terminate()
            self.gate.release()
            assert self.server.running.wait(WAIT_SECONDS) == 0
        else:
            self.server.kill()
            self.gate.release()

    def change_and_die(self, point: Point, before: str) -> None:
        """Change the school; let the process that is held, or the next one, die."""
        if before != "goes on":
            self.end_calmly(before)
        self.school.toggle()
        if before == "goes on":
            self.kill_at(point)
            self.gate.release()
            self.server.wait_killed()
        else:
            self.start_and_die(point)

    def start_and_die(self, point: Point) -> None:
        self.kill_at(point)
        self.server.start()
        self.server.wait_killed()

    def initsync(self) -> None:
        self.gate.release()
        self.server.ask("initsync")
        self.gate.hold_after(1)
        self.gate.wait_held()

    def kill_at(self, point: Point) -> None:
        if point.place == "save":
            self.server.die_at_save(point.number)
        else:
            self.gate.kill_at(self.server, point.path, point.number, point.place)

    @property
    def last(self) -> int:
        return int(stream.position(self.sidecar)["last_offset"])

    def events(self, last: int) -> list[dict[str, Any]]:
        """Give the events behind an offset."""
        with self.sidecar.client() as http:
            answer = http.get("/v1/events", params={"offset": last + 1, "limit": 5000})
        return [json.loads(row["data"]) for row in answer.json()["events"]]


def keys(rows: list[dict[str, Any]]) -> set[int]:
    """Give the numbers of these objects."""
    return {row["id"] if "id" in row else row["group_id"] for row in rows}


def in_order(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Give them in their order; among the modified of one type Hermes has none."""
    ordered = []
    for (kind, _), group in groupby(
        events, lambda each: (each["eventtype"], each["objtype"])
    ):
        is_set = kind == "modified"
        ordered += sorted(group, key=lambda each: is_set and str(each["objpkey"]))
    return ordered


@pytest.fixture
def killed(
    hermes_home: Path, hermes_python: Path, sidecar: SidecarProcess, tmp_path: Path
) -> Iterator[Killed]:
    """Give a hermes-server that has fetched its school once, and is held."""
    school = School(tmp_path / "school.sqlite")
    with Gate(tmp_path / "gate", sidecar) as gate:
        server = Server(
            hermes_home, hermes_python, tmp_path / "server", school, gate.url
        )
        killed = Killed(server, school, gate, sidecar)
        try:
            killed.start()
            yield killed
        finally:
            gate.release()
            server.kill()
            school.close()


@pytest.fixture
def client(
    hermes_home: Path, hermes_python: Path, sidecar: SidecarProcess, tmp_path: Path
) -> Iterator[HermesClient]:
    """Give a hermes-client with a trashbin."""
    client = HermesClient(
        hermes_home, hermes_python, tmp_path / "client", url=sidecar.url
    )
    client.configure(
        {"messagebus": {"nats_sidecar": {"settings": {"url": sidecar.url}}}},
        {
            "hermes-client": {
                "updateInterval": 1,
                "trashbin_retention": 30,
                "datamodel": client_datamodel(),
            }
        },
    )
    try:
        yield client
    finally:
        client.stop()


@pytest.mark.parametrize("share", range(SHARES))
def test_a_server_that_is_killed_twice_sends_each_event_once(
    killed: Killed, client: HermesClient, share: int
) -> None:
    """At each point of a pass, then at another one; the third process goes through."""
    killed.initsync()
    client.start()
    expected = [killed.change(), killed.change()]
    assert [len(events) for events in expected] == [CHANGES] * 2
    points = POINTS[share::SHARES]
    for number, point in enumerate(points):
        last = killed.last
        events = in_order(expected[killed.school.is_changed])
        before = ("is stopped", "goes on", "is killed")[number % 3]
        if point.path == "/v1/passes":
            before = "is stopped"  # nothing else asks for it
        killed.change_and_die(point, before)
        again = Point(
            "/v1/", 7 * number % CHANGES + 1, ("unanswered", "before")[number % 2]
        )
        killed.start_and_die(again)
        killed.start()
        assert in_order(killed.events(last)) == events, (before, point, again)

    client.wait_at(killed.last + 1)
    passes = 2 + len(points)
    assert client.output().count("_trashed(") == passes * CHANGES // 3
    assert re.findall(r"Calling 'on_\w+_removed", client.output()) == []
    here = set(OBJECTS[killed.school.is_changed])
    gone = set(OBJECTS[not killed.school.is_changed])
    for name in TABLES:
        assert keys(client.cached(name)) == here
        assert keys(client.cached(f"trashbin_{name}")) == gone - here


@pytest.mark.parametrize("number", [1, 6, 10, 16])
def test_an_event_that_comes_late_ends_a_pass_and_is_recognised_in_the_next(
    killed: Killed, number: int
) -> None:
    """It was on its way when its process was killed, and comes after the next start."""
    expected = [killed.change(), killed.change()]
    last = killed.last
    killed.change_and_die(Point(EVENT, number, "late"), "is killed")
    killed.server.start()
    killed.server.wait_logged("another producer wrote to the stream")
    killed.server.wait_logged("Waiting 60 seconds")
    killed.server.kill()
    killed.start()
    assert in_order(killed.events(last)) == in_order(expected[0])


def test_a_disk_that_is_full_through_many_starts_repeats_nothing(
    killed: Killed,
) -> None:
    """Hermes stores what it has, cannot save that it did, and ends; each time again."""
    expected = [killed.change(), killed.change()]
    last = killed.last
    killed.end_calmly("is stopped")
    killed.school.toggle()
    arguments = killed.server.arguments
    killed.server.arguments = ["prlimit", "--fsize=512", *arguments]
    for _ in range(5):
        killed.server.start()
        assert killed.server.running.wait(WAIT_SECONDS) > 0
        assert killed.events(last) == expected[0][: CHANGES // 3]
    killed.server.arguments = arguments
    killed.start()
    assert in_order(killed.events(last)) == in_order(expected[0])


def test_what_changed_while_it_was_dead_is_sent_and_what_went_back_is_told(
    killed: Killed,
) -> None:
    killed.change_and_die(Point(EVENT, CHANGES // 3, "unanswered"), "goes on")
    last = killed.last
    killed.school.write((1, 2, 3, 4, 5, 6, 7), "third")
    killed.start()
    assert Counter(map(stream.name, killed.events(last))) == Counter(
        f"modified {name} {[n, n] if name == 'GroupsMembers' else n}"
        for name in TABLES
        for n in (1, 2)
    )
    killed.server.wait_logged("recognised 3 events that a killed hermes-server had")
    killed.server.wait_logged("3 further events of the pass")
