# SPDX-License-Identifier: Apache-2.0
"""A real hermes-client reads what a real hermes-server wrote, as two processes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support import stream
from support.campus import USER_ATTRIBUTES, USERS, Campus
from support.process import wait_until

if TYPE_CHECKING:
    from support.hermes_programs import HermesClient, HermesServer
    from support.nats import NatsProcess
    from support.sidecar import SidecarProcess

INITSYNC_EVENTS = 10
DONE = "First initsync sequence processing completed"
NOT_THERE = "IndexError: Offset not in the stream"
NO_BUS = "Message bus seems to be unavailable"
MAIL = "Fail to send mail"
"""What Hermes logs for each e-mail here, where no mail server is."""


@pytest.fixture
def synced(
    server: HermesServer, sidecar: SidecarProcess, client: HermesClient
) -> HermesClient:
    """Give a running client that has the whole source from an initsync."""
    server.ask("initsync")
    client.start()
    wait_caught_up(client, sidecar, INITSYNC_EVENTS)
    return client


def wait_caught_up(client: HermesClient, sidecar: SidecarProcess, events: int) -> None:
    """Wait until so many events are stored and the client has handled them all."""
    stream.wait_stored(sidecar, events)
    client.wait_at(stream.position(sidecar)["next_offset"])


def test_a_new_client_waits_for_an_initsync_and_then_has_every_object(
    server: HermesServer, sidecar: SidecarProcess, client: HermesClient
) -> None:
    client.start()
    client.wait_logged("No initsync sequence is available on message bus", times=2)
    server.ask("initsync")

    wait_caught_up(client, sidecar, INITSYNC_EVENTS)
    assert DONE in client.output()
    users = client.users()
    assert sorted(users) == [1, 2, 3]
    assert users[1]["last_name"] == USERS[0]["last_name"]
    assert users[3]["last_name"] == USERS[2]["last_name"]
    assert users[1]["photo"].startswith("HermesBytes(")
    assert [group["id"] for group in client.cached("Groups")] == [10, 20]
    assert len(client.cached("GroupsMembers")) == 3
    assert [client.calls("Users_added", key) for key in (1, 2, 3)] == [1, 1, 1]
    assert "CRITICAL" not in client.output()


def test_a_client_follows_added_modified_and_removed_objects(
    synced: HermesClient, sidecar: SidecarProcess, campus: Campus
) -> None:
    campus.insert("users", id=4, login="ldupont", first_name="Léa")
    campus.rename_user(2, "Muller-Roy")
    campus.delete_user(3)

    wait_caught_up(synced, sidecar, INITSYNC_EVENTS + 4)
    users = synced.users()
    assert sorted(users) == [1, 2, 4]
    assert users[2]["last_name"] == "Muller-Roy"
    assert len(synced.cached("GroupsMembers")) == 2
    assert synced.calls("Users_removed", 3) == 1
    assert "CRITICAL" not in synced.output()


def test_a_client_takes_a_new_attribute_from_the_schema_and_the_events(
    synced: HermesClient, server: HermesServer, sidecar: SidecarProcess
) -> None:
    attributes = (*USER_ATTRIBUTES, "phone")
    assert server.terminate() == 0
    server.set_user_attributes(attributes)
    server.start()
    wait_caught_up(synced, sidecar, INITSYNC_EVENTS + 4)

    assert synced.terminate() == 0
    synced.set_user_attributes(attributes)
    synced.start()

    wait_until(
        lambda: all("phone" in user for user in synced.users().values()),
        what=f"the phones are there: {synced.output()[-3000:]}",
    )
    assert synced.users()[1]["phone"] == USERS[0]["phone"]


def test_a_restarted_client_goes_on_from_its_cache_and_handles_nothing_twice(
    synced: HermesClient, sidecar: SidecarProcess, campus: Campus
) -> None:
    assert synced.terminate() == 0
    synced.start()
    campus.insert("users", id=4, login="ldupont", first_name="Léa")

    wait_caught_up(synced, sidecar, INITSYNC_EVENTS + 1)
    assert synced.output().count(DONE) == 1
    assert [synced.calls("Users_added", key) for key in (1, 2, 3, 4)] == [1] * 4


def test_a_stopped_client_catches_up_with_all_it_missed_in_order(
    synced: HermesClient, sidecar: SidecarProcess, campus: Campus
) -> None:
    assert synced.terminate() == 0
    campus.insert_users(range(1000, 2200))  # more than two batches
    stream.wait_stored(sidecar, INITSYNC_EVENTS + 1200)
    campus.rename_user(1100, "Afterwards")
    stream.wait_stored(sidecar, INITSYNC_EVENTS + 1201)
    campus.delete_user(3)
    stream.wait_stored(sidecar, INITSYNC_EVENTS + 1203)

    synced.start()

    wait_caught_up(synced, sidecar, INITSYNC_EVENTS + 1203)
    users = synced.users()
    assert sorted(users) == [1, 2, *range(1000, 2200)]
    assert users[1100]["last_name"] == "Afterwards"
    handled = [synced.calls("Users_added", key) for key in range(1000, 2200)]
    assert handled == [1] * 1200


def test_a_killed_client_ends_with_the_same_objects(
    synced: HermesClient, sidecar: SidecarProcess, campus: Campus
) -> None:
    campus.insert_users(range(1000, 1600))
    synced.wait_logged("Calling 'on_Users_added(objkey=1100,")
    synced.kill()
    stream.wait_stored(sidecar, INITSYNC_EVENTS + 600)

    synced.start()

    wait_caught_up(synced, sidecar, INITSYNC_EVENTS + 600)
    assert sorted(synced.users()) == [1, 2, 3, *range(1000, 1600)]


def test_a_client_outlives_restarts_of_the_sidecar_and_of_nats_without_an_error(
    synced: HermesClient,
    sidecar: SidecarProcess,
    nats: NatsProcess,
    campus: Campus,
) -> None:
    sidecar.kill()
    sidecar.start()
    sidecar.wait_ready()
    campus.rename_user(1, "One")
    wait_caught_up(synced, sidecar, INITSYNC_EVENTS + 1)

    nats.kill()
    nats.start()
    nats.wait()
    sidecar.wait_ready()
    campus.rename_user(1, "Two")
    wait_caught_up(synced, sidecar, INITSYNC_EVENTS + 2)
    assert synced.users()[1]["last_name"] == "Two"
    assert "CRITICAL" not in synced.output()
    assert NO_BUS not in synced.output()


def test_a_client_that_missed_nothing_outlives_a_stream_that_retention_emptied(
    synced: HermesClient, sidecar: SidecarProcess, campus: Campus
) -> None:
    assert synced.terminate() == 0
    stream.age_out(sidecar)
    synced.start()
    campus.rename_user(1, "After the emptiness")

    wait_caught_up(synced, sidecar, 1)
    assert synced.users()[1]["last_name"] == "After the emptiness"
    assert "CRITICAL" not in synced.output().replace("CRITICAL", "", 1)  # its SIGTERM


def test_a_client_that_retention_passed_says_so_until_it_is_started_anew(
    synced: HermesClient,
    server: HermesServer,
    sidecar: SidecarProcess,
    campus: Campus,
) -> None:
    assert synced.terminate() == 0
    campus.rename_user(1, "Missed")
    campus.delete_user(3)
    stream.wait_stored(sidecar, INITSYNC_EVENTS + 3)
    stream.age_out(sidecar)
    campus.rename_user(2, "Stored")
    stream.wait_stored(sidecar, 1)
    synced.start()

    synced.wait_logged(NOT_THERE, times=3)  # each after a pause, and one mail for all

    assert synced.output().count(MAIL) == 1
    assert synced.users()[2]["last_name"] == USERS[1]["last_name"], "it skipped events"

    # What an operator does: the client begins anew, from a new initsync.
    assert synced.terminate() == 0
    synced.forget()
    server.ask("initsync")
    synced.start()

    wait_caught_up(synced, sidecar, 1 + 8)
    users = synced.users()
    assert sorted(users) == [1, 2]
    assert users[1]["last_name"] == "Missed"
    assert users[2]["last_name"] == "Stored"


def test_a_client_of_a_stream_made_anew_says_so_and_reads_none_of_it(
    synced: HermesClient,
    server: HermesServer,
    sidecar: SidecarProcess,
    campus: Campus,
) -> None:
    assert synced.terminate() == 0
    before = synced.next_offset
    sidecar.stop()
    stream.delete(sidecar)
    sidecar.start()  # it makes a new one, as its settings say
    sidecar.wait_ready()
    campus.rename_user(1, "In the new stream")
    stream.wait_stored(sidecar, 1)
    assert stream.position(sidecar)["first_offset"] > (before or 0)
    synced.start()

    synced.wait_logged(NOT_THERE, times=2)

    assert synced.users()[1]["last_name"] == USERS[0]["last_name"]
    assert server.is_alive
