# SPDX-License-Identifier: Apache-2.0
"""A real hermes-server emits through our producer plugin, process by process."""

from __future__ import annotations

import importlib
import json
from typing import TYPE_CHECKING

import pytest
from support import stream
from support.campus import USER_ATTRIBUTES, USERS, Campus
from support.hermes_programs import HermesServer
from support.nats import NatsProcess
from support.process import wait_until
from support.sidecar import sidecar_on

if TYPE_CHECKING:
    from pathlib import Path

    from support.sidecar import SidecarProcess

INITSYNC = [
    "init-start",
    "added Users 1",
    "added Users 2",
    "added Users 3",
    "added Groups 10",
    "added Groups 20",
    "added GroupsMembers [10, 3]",
    "added GroupsMembers [20, 1]",
    "added GroupsMembers [20, 2]",
    "init-stop",
]
PASSWORD = "correct horse bättery"
MANY = range(1000, 2500)
SENDING = "Sending <Event("
MAIL = "Fail to send mail"
"""What Hermes logs for each e-mail here, where no mail server is."""


def test_the_first_fetch_sends_nothing_and_an_initsync_sends_everything_in_order(
    server: HermesServer, sidecar: SidecarProcess
) -> None:
    assert stream.position(sidecar)["messages"] == 0

    server.ask("initsync")

    stream.wait_stored(sidecar, len(INITSYNC))
    rows = stream.rows(sidecar)
    first = stream.position(sidecar)["first_offset"]
    assert [row["offset"] for row in rows] == list(range(first, first + len(INITSYNC)))
    assert {row["category"] for row in rows} == {"initsync"}
    assert stream.names(sidecar) == INITSYNC


def test_the_stored_bytes_are_those_that_hermes_itself_writes_for_the_event(
    server: HermesServer, sidecar: SidecarProcess
) -> None:
    server.ask("initsync")
    stream.wait_stored(sidecar, len(INITSYNC))
    event_class = importlib.import_module("lib.datamodel.event").Event

    rows = stream.rows(sidecar)

    events = [event_class.from_json(row["data"]) for row in rows]
    assert [event.to_json() for event in events] == [row["data"] for row in rows]
    helene = events[1].objattrs
    assert helene["last_name"] == USERS[0]["last_name"]
    assert helene["photo"] == USERS[0]["photo"]
    assert helene["hired"].isoformat(" ") == USERS[0]["hired"]
    assert events[3].objattrs["last_name"] == USERS[2]["last_name"]
    assert events[6].objpkey == (10, 3)


def test_changes_of_the_source_become_added_modified_and_removed_in_that_order(
    server: HermesServer, sidecar: SidecarProcess, campus: Campus
) -> None:
    server.ask("pause")  # so that one pass sees all of them
    campus.delete_user(3)
    campus.rename_user(2, "Muller-Roy")
    campus.insert("users", id=4, login="ldupont", first_name="Léa")
    server.ask("resume")

    stream.wait_stored(sidecar, 4)
    assert stream.names(sidecar) == [
        "added Users 4",
        "modified Users 2",
        "removed GroupsMembers [10, 3]",
        "removed Users 3",
    ]
    assert {row["category"] for row in stream.rows(sidecar)} == {"base"}
    assert stream.documents(sidecar)[1]["objattrs"] == {
        "added": {},
        "modified": {"last_name": "Muller-Roy"},
        "removed": {},
    }


def test_a_password_stands_in_the_stream_and_in_no_log(
    server: HermesServer, sidecar: SidecarProcess, campus: Campus
) -> None:
    campus.insert("passwords", user_id=1, password=PASSWORD)

    stream.wait_stored(sidecar, 1)
    assert stream.documents(sidecar)[0]["objattrs"]["password"] == PASSWORD
    with sidecar.client() as http:
        pages = [http.get(path).text for path in ("/health", "/v1/stream")]
    for text in (server.output(), sidecar.output(), *pages):
        assert PASSWORD not in text
        assert json.dumps(PASSWORD)[1:-1] not in text


def test_a_restarted_server_goes_on_behind_the_last_offset(
    server: HermesServer, sidecar: SidecarProcess, campus: Campus
) -> None:
    campus.rename_user(1, "Before")
    stream.wait_stored(sidecar, 1)

    assert server.terminate() == 0
    campus.rename_user(1, "While away")
    server.start()

    stream.wait_stored(sidecar, 2)
    campus.rename_user(1, "After")
    stream.wait_stored(sidecar, 3)
    offsets = [row["offset"] for row in stream.rows(sidecar)]
    assert offsets == list(range(offsets[0], offsets[0] + 3))


def test_a_new_attribute_sends_the_schema_and_then_the_values(
    server: HermesServer, sidecar: SidecarProcess
) -> None:
    assert server.terminate() == 0
    server.set_user_attributes((*USER_ATTRIBUTES, "phone"))

    server.start()

    stream.wait_stored(sidecar, 4)
    schema, *changes = stream.documents(sidecar)
    assert schema["eventtype"] == "dataschema"
    assert "phone" in schema["objattrs"]["Users"]["HERMES_ATTRIBUTES"]
    added = {change["objpkey"]: change["objattrs"]["added"] for change in changes}
    assert added == {user["id"]: {"phone": user["phone"]} for user in USERS}


def test_a_change_made_while_the_sidecar_restarts_is_sent_once_and_without_an_error(
    server: HermesServer, sidecar: SidecarProcess, campus: Campus
) -> None:
    sidecar.stop()
    campus.rename_user(1, "Meanwhile")
    sidecar.start()
    sidecar.wait_ready()

    stream.wait_stored(sidecar, 1)
    campus.rename_user(1, "Later")
    stream.wait_stored(sidecar, 2)
    assert "CRITICAL" not in server.output()


def test_a_schema_that_cannot_be_sent_costs_one_mail_and_the_server_still_stops(
    hermes_home: Path,
    hermes_python: Path,
    sidecar: SidecarProcess,
    campus: Campus,
    tmp_path: Path,
) -> None:
    server = HermesServer(
        hermes_home,
        hermes_python,
        tmp_path / "server",
        campus.path,
        url=sidecar.url,
        send_timeout=1,
    )
    with server:
        server.wait_fetched()
        server.terminate()
        sidecar.stop()
        server.set_user_attributes((*USER_ATTRIBUTES, "phone"))
        server.start()

        server.wait_logged("Unhandled exception", times=4)

        assert server.terminate() == 0
        assert server.output().count(MAIL) == 1
        sidecar.start()
        sidecar.wait_ready()
        server.start()
        stream.wait_stored(sidecar, 4)
        assert stream.names(sidecar)[0] == "dataschema"


@pytest.mark.parametrize("kind", ["added", "modified"])
def test_events_of_a_pass_cut_by_a_frozen_nats_stand_once_each(
    hermes_home: Path, hermes_python: Path, campus: Campus, tmp_path: Path, kind: str
) -> None:
    """One event is on its way when NATS freezes, and stored after the plugin gave up.

    Hermes waits for its 60 seconds and sends what is left, that event among it: the
    added in the same order, the modified in another.
    """
    if kind == "modified":
        campus.insert_users(MANY)
    with (
        NatsProcess(tmp_path / "nats") as nats,
        sidecar_on(nats, tmp_path / "sidecar", publish_timeout_seconds=1) as sidecar,
        HermesServer(
            hermes_home,
            hermes_python,
            tmp_path / "server",
            campus.path,
            url=sidecar.url,
            send_timeout=2,
            unknown_timeout=2,
        ) as server,
    ):
        server.wait_fetched()
        if kind == "added":
            campus.insert_users(MANY)
        else:
            campus.rename_users(MANY, "Renamed")
        wait_until(lambda: server.output().count(SENDING) > 50, what="a pass has begun")
        nats.freeze()
        server.wait_logged("It is not known whether the event was stored")
        sent = server.sent_names()
        nats.thaw()
        sidecar.wait_stream()

        stream.wait_stored(sidecar, len(sent))  # the last of them, though given up
        assert stream.names(sidecar) == sent
        stream.wait_stored(sidecar, len(MANY), seconds=120)
        names = stream.names(sidecar)
        assert sorted(names) == [f"{kind} Users {number}" for number in MANY]
        again = server.sent_names()[len(sent) :]
        assert sent[-1] in again
        assert names[len(sent) :] == [name for name in again if name != sent[-1]]
        server.wait_logged("no more unhandled exception")
        assert "Another producer" not in server.output()


def test_a_wrong_setting_of_the_plugin_stops_hermes_with_its_name(
    hermes_home: Path, hermes_python: Path, campus: Campus, tmp_path: Path
) -> None:
    server = HermesServer(
        hermes_home,
        hermes_python,
        tmp_path / "server",
        campus.path,
        url="ftp://sidecar",
        sendtimeout=5,
    )
    with server:
        wait_until(lambda: not server.is_alive, what="hermes-server has ended")
    assert server.running.returncode == 1
    assert "url" in server.output()
    assert "sendtimeout" in server.output()
