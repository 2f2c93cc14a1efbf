# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from sidecar import errors
from sidecar.model.clients import (
    GONE_SECONDS,
    MAX_CLIENTS,
    SILENT_SECONDS,
    Client,
    Clients,
)

LDAP = "hermes-client-usersgroups_ldap"
LAST = 20


def only(clients: Clients, now: float, last: int | None = LAST) -> Client:
    (one,) = clients.look(last, now)
    return one


@pytest.mark.parametrize(
    ("offset", "last", "after_seconds", "state", "behind"),
    [
        (21, LAST, 0.0, "waiting", 0),
        (11, LAST, 0.0, "reading", 10),
        (30, LAST, 0.0, "waiting", 0),
        (11, LAST, SILENT_SECONDS + 1, "silent", 10),
        (21, LAST, SILENT_SECONDS + 1, "silent", 0),
        (11, None, 0.0, "reading", None),
        (None, LAST, 0.0, "reading", None),
    ],
)
def test_a_client_is_as_far_as_it_asked_last(
    offset: int | None,
    last: int | None,
    after_seconds: float,
    state: str,
    behind: int | None,
) -> None:
    clients = Clients()
    assert clients.ask(LDAP, offset, 5.0)
    found = only(clients, 5.0 + after_seconds, last)
    assert found == Client(LDAP, state, offset, behind, after_seconds)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "agent",
    ["", "curl/8.14.1", "Mozilla/5.0 (X11)", "a b", "-a", "é", "a\x1b[2J", "a" * 65],
)
def test_whoever_names_a_program_and_its_version_is_no_client(agent: str) -> None:
    clients = Clients()
    assert not clients.ask(agent, 1, 0.0)
    clients.read(agent, 1, 0.0)
    assert not clients.refuse(agent, errors.OFFSET_GONE)
    assert clients.look(LAST, 0.0) == []


def test_who_asks_for_no_offset_keeps_its_own() -> None:
    clients = Clients()
    clients.ask(LDAP, 7, 0.0)
    clients.ask(LDAP, None, 1.0)
    assert only(clients, 1.0).offset == 7


@pytest.mark.parametrize("cause", [errors.OFFSET_GONE, errors.OFFSET_AHEAD])
def test_a_client_is_stranded_until_it_reads_on_or_is_long_gone(
    cause: errors.Cause,
) -> None:
    clients = Clients()
    clients.ask(LDAP, 3, 0.0)
    assert clients.refuse(LDAP, cause)
    assert not clients.refuse(LDAP, cause)  # it comes each five seconds
    found = only(clients, GONE_SECONDS)
    assert (found.state, found.stranded) == ("stranded", cause)
    assert found.behind is None  # of which stream?
    found = only(clients, GONE_SECONDS + 1)
    assert (found.state, found.behind) == ("silent", None)
    clients.read(LDAP, 4, 1.0)
    found = only(clients, 1.0)
    assert (found.state, found.offset, found.behind) == ("reading", 4, 17)
    assert clients.refuse(LDAP, cause)


def test_what_passes_by_itself_strands_nobody() -> None:
    clients = Clients()
    clients.ask(LDAP, 3, 0.0)
    assert not clients.refuse(LDAP, errors.NATS_DOWN)
    assert only(clients, 0.0).state == "reading"


def test_of_too_many_names_the_one_seen_longest_ago_is_forgotten() -> None:
    clients = Clients()
    for number in range(MAX_CLIENTS):
        clients.ask(f"c{number}", 1, float(number))
    clients.ask("c0", 1, 1000.0)
    clients.ask("new", 1, 1001.0)
    names = {each.name for each in clients.look(LAST, 1001.0)}
    assert len(names) == MAX_CLIENTS
    assert {"c0", "new"} < names
    assert "c1" not in names
