# SPDX-License-Identifier: Apache-2.0
"""The hermes-clients of a sidecar: seen, behind, stranded, and going on."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest
from support.commands import run_command
from support.process import wait_until
from support.sidecar import event, last_offset, post, sidecar_on
from support.status_page import clients

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import httpx
    from support.nats import NatsProcess
    from support.sidecar import SidecarProcess

LDAP = "hermes-client-ldap"


@pytest.fixture
def read(nats: NatsProcess, tmp_path: Path) -> Iterator[SidecarProcess]:
    """Serve a stream of three events, which nobody has read."""
    with sidecar_on(nats, tmp_path) as process:
        with process.client() as http:
            for number in range(3):
                assert post(http, event(objpkey=number)).is_success
        yield process


def ask(http: httpx.Client, offset: int | str, agent: str = LDAP) -> httpx.Response:
    query = {"offset": offset, "limit": 2}
    return http.get("/v1/events", params=query, headers={"User-Agent": agent})


def seen(http: httpx.Client) -> list[dict[str, Any]]:
    document: dict[str, Any] = http.get("/v1/clients").json()
    assert (document["complete"], document["reason"]) == (True, None)
    clients: list[dict[str, Any]] = document["clients"]
    return clients


def check(http: httpx.Client) -> dict[str, Any]:
    checks = http.get("/health").json()["checks"]
    found: dict[str, Any] = next(each for each in checks if each["name"] == "clients")
    return found


def test_each_client_is_shown_with_what_it_has_not_read(read: SidecarProcess) -> None:
    with read.client() as http:
        last = last_offset(http)
        ask(http, "next")
        ask(http, "first", "hermes-client-new")
        ask(http, last - 1, "curl/8.14.1")
        ask(http, last - 1)
        first, second = seen(http)
        assert first.pop("last_seen_seconds") < 60
        assert first == {
            "name": LDAP,
            "sidecar": socket.gethostname(),
            "offset": last - 1,
            "behind": 2,
            "state": "reading",
        }
        assert (second["name"], second["state"]) == ("hermes-client-new", "reading")
        ask(http, last + 1)
        assert seen(http)[0]["state"] == "waiting"
        ask(http, "next")
        assert seen(http)[0]["offset"] == last + 1
        metrics = http.get("/metrics").text
        page = http.get("/").text
    assert f'hermes_sidecar_client_behind_events{{client="{LDAP}"}} 0.0' in metrics
    assert f'hermes_sidecar_client_last_seen_seconds{{client="{LDAP}"}} ' in metrics
    assert "hermes_sidecar_clients_stranded 0.0" in metrics
    assert (LDAP, socket.gethostname(), "waiting") in clients(page)


def test_how_long_an_event_took_to_a_client_that_waited_is_measured(
    read: SidecarProcess,
) -> None:
    name = "hermes_sidecar_client_delay_seconds_count"
    with read.client() as http, read.client() as other:
        last = last_offset(http)
        ask(http, last)  # it catches up
        assert name not in http.get("/metrics").text
        query = {"offset": last + 1, "wait": 30}
        waiting = threading.Thread(
            target=other.get,
            args=("/v1/events",),
            kwargs={"params": query, "headers": {"User-Agent": LDAP}},
        )
        waiting.start()
        waits = "hermes_sidecar_readers_waiting 1.0"
        wait_until(lambda: waits in http.get("/metrics").text, what="it waits")
        assert post(http, event()).is_success
        waiting.join()
        assert f'{name}{{client="{LDAP}"}} 1.0' in http.get("/metrics").text


def test_where_a_client_begins_that_asks_for_the_first_is_known(
    read: SidecarProcess,
) -> None:
    with read.client() as http:
        begins = ask(http, "first").json()["first_offset"]
        (found,) = seen(http)
        assert (found["offset"], found["behind"]) == (begins, 3)


@pytest.mark.parametrize(
    ("beyond", "code"), [(-10, "offset_gone"), (10, "offset_ahead")]
)
def test_a_stranded_client_is_told_until_it_reads_on(
    read: SidecarProcess, beyond: int, code: str
) -> None:
    with read.client() as http:
        last = last_offset(http)
        offset = last + beyond
        while ask(http, offset).json()["code"] != code:
            pass  # that it is ahead is said when the leader has said it for 5 s
        ask(http, offset)
        ask(http, "next")  # as the plugin does each time that it opens
        (found,) = seen(http)
        assert (found["state"], found["offset"]) == ("stranded", offset)
        told = check(http)
        assert told["status"] == "warn"
        assert told["reason"].startswith(
            f"{LDAP} cannot read on from offset {offset}: The stream "
        )
        assert "docs/operations.md" in told["remedy"]
        assert http.get("/health").status_code == 200
        metrics = http.get("/metrics").text
        assert "hermes_sidecar_clients_stranded 1.0" in metrics
        assert f'hermes_sidecar_requests_refused_total{{code="{code}"}} 2.0' in metrics
        assert ask(http, last).is_success
        assert check(http)["status"] == "pass"
    told_of = [row for row in read.rows() if row["event"] == "client_stranded"]
    assert [(row["client"], row["offset"]) for row in told_of] == [(LDAP, offset)]


def test_a_query_that_is_refused_is_counted(read: SidecarProcess) -> None:
    with read.client() as http:
        assert ask(http, "third").status_code == 400
        metrics = http.get("/metrics").text
    assert 'requests_refused_total{code="malformed_query"} 1.0' in metrics


def test_the_command_shows_a_table(read: SidecarProcess) -> None:
    ran = run_command("clients", unix_socket=read.socket)
    assert ran.returncode == 0
    assert ran.stdout == ""
    assert ran.stderr.splitlines() == [
        "No hermes-client has read since its sidecar started."
    ]
    with read.client() as http:
        ask(http, last_offset(http))
    title, row = run_command("clients", unix_socket=read.socket).stdout.splitlines()
    assert title.split()[:4] == ["CLIENT", "SIDECAR", "STATE", "BEHIND"]
    assert row.startswith(f"{LDAP}  {socket.gethostname()}")
    assert " reading " in row
    assert row.endswith(" s ago")
    ran = run_command("clients", "--json", unix_socket=read.socket)
    assert LDAP in ran.stdout
