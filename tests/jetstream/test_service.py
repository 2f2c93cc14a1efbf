# SPDX-License-Identifier: Apache-2.0
"""The sidecar as a NATS service: what ADR-32 asks for, and whom it answers."""

from __future__ import annotations

import json
import socket
import uuid
from datetime import datetime
from itertools import product
from typing import TYPE_CHECKING, Any

import pytest
from nats.micro.service import (
    NAME_REGEX,
    SEMVER_REGEX,
    ServiceInfo,
    ServicePing,
    ServiceStats,
)
from support.jetstream import RawNatsClient
from support.process import wait_until
from support.sidecar import event, last_offset, post, sidecar_on

from sidecar import __version__
from sidecar.jetstream.service import ANSWERS, NAME, QUESTION, Service

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.nats import NatsProcess
    from support.sidecar import SidecarProcess

STREAM = f"m{uuid.uuid4().hex[:12]}"
INBOX = "_INBOX.x"


@pytest.fixture(scope="module")
def sidecar(
    nats: NatsProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SidecarProcess]:
    with sidecar_on(nats, tmp_path_factory.mktemp("service"), STREAM) as process:
        yield process


def ask(client: RawNatsClient, subject: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(client.ask(subject))
    return document


@pytest.mark.usefixtures("sidecar")
def test_ping_info_and_stats_are_as_adr_32_has_them(nats: NatsProcess) -> None:
    with RawNatsClient(nats.port) as client:
        found = {
            verb: ask(client, f"$SRV.{verb}") for verb in ("PING", "INFO", "STATS")
        }
        ping = found["PING"]
        for verb, whose in product(found, (NAME, f"{NAME}.{ping['id']}")):
            document = ask(client, f"$SRV.{verb}.{whose}")
            assert document["type"] == found[verb]["type"]
            assert document["id"] == ping["id"]
    assert ping == {
        "type": "io.nats.micro.v1.ping_response",
        "name": NAME,
        "id": ping["id"],
        "version": __version__,
        "metadata": {"host": socket.gethostname(), "role": "both", "stream": STREAM},
    }
    about = {"name": "clients", "subject": QUESTION, "queue_group": ""}
    assert found["INFO"] == ping | {
        "type": "io.nats.micro.v1.info_response",
        "description": "NATS JetStream as the message bus of Hermes",
        "endpoints": [about | {"metadata": {}}],
    }
    stats = found["STATS"]
    (endpoint,) = stats["endpoints"]
    assert stats == ping | {
        "type": "io.nats.micro.v1.stats_response",
        "started": stats["started"],
        "endpoints": [endpoint],
    }
    assert endpoint.items() >= (about | {"num_errors": 0, "last_error": ""}).items()
    assert endpoint["data"].keys() == {"clients", "next_offset"}
    assert endpoint["num_requests"] >= 1
    # As NATS' schemas io.nats.micro.v1 ask for, which the CLI checks by.
    counts = ("num_requests", "num_errors", "processing_time")
    for name in (*counts, "average_processing_time"):
        assert type(endpoint[name]) is int
    assert SEMVER_REGEX.match(ping["version"])
    assert all(NAME_REGEX.match(name) for name in (ping["name"], endpoint["name"]))
    assert datetime.fromisoformat(stats["started"]).tzinfo is not None
    # As nats-py's own classes read them.
    ServicePing.from_dict(ping)
    ServiceInfo.from_dict(found["INFO"])
    assert ServiceStats.from_dict(stats).started.year > 2000


def test_what_is_told_of_a_client_is_metadata(
    nats: NatsProcess, sidecar: SidecarProcess
) -> None:
    with sidecar.client() as http:
        offset = post(http, event(objpkey="hidden")).json()["offset"]
        agent = {"User-Agent": "hermes-client-told"}
        assert http.get(f"/v1/events?offset={offset}", headers=agent).is_success
    with RawNatsClient(nats.port) as client:

        def told() -> list[dict[str, Any]]:
            (endpoint,) = ask(client, QUESTION)["endpoints"]
            clients: list[dict[str, Any]] = endpoint["data"]["clients"]
            return clients

        wait_until(told, what="the client is told")  # it is asked ten times a second
        (row,) = told()
    assert row.pop("last_seen_seconds") < 60
    assert row == {
        "name": "hermes-client-told",
        "offset": offset,
        "behind": 1,
        "state": "reading",
    }


def test_nothing_is_published_where_the_one_who_asks_may_not(
    nats: NatsProcess, sidecar: SidecarProcess
) -> None:
    """Else whoever may ask could have us store an event."""
    replies = (f"{STREAM}.base", "$JS.API.STREAM.INFO.x", "_INBOX.\udcff", "x")
    subjects = ("$SRV.\udcff", f"$SRV.PING.{NAME}.x", "$SRV.PONG", "$SRV.ping")
    with sidecar.client() as http, RawNatsClient(nats.port) as client:
        before = last_offset(http)
        for verb, reply in product(("PING", "INFO", "STATS"), replies):
            client.send(f"$SRV.{verb}", reply=reply)
        for subject in subjects:
            client.send(subject, reply=client.inbox)
        answer = ask(client, "$SRV.PING")  # behind all of these
        assert answer["type"] == "io.nats.micro.v1.ping_response"
        assert last_offset(http) == before
    told = [row["event"] for row in sidecar.rows()]
    assert {"internal_error", "nats_reconnected"}.isdisjoint(told)


def served(*, lacks: str = "") -> tuple[Service, list[tuple[str, str, bytes]]]:
    """Give a service, and what it sends."""
    published: list[tuple[str, str, bytes]] = []

    def send(subject: str, reply: str, payload: bytes) -> bool:
        published.append((subject, reply, payload))
        return True

    service = Service({}, lambda: {"clients": []})
    service.begin(send)
    if lacks:
        kind, _, subject = lacks.partition(" to ")
        assert service.refuse(kind, subject.lower())
    return service, published


@pytest.mark.parametrize(
    ("subject", "reply", "is_answered"),
    [
        ("$SRV.PING", INBOX, True),
        ("$SRV.STATS", "_INBOX_hermes_both.x.y", True),
        (f"$SRV.INFO.{NAME}", INBOX, True),
        (f"$SRV.PING.{NAME}.ID", INBOX, True),
        (f"$SRV.PING.{NAME}.other", INBOX, False),
        ("$SRV.PING.other", INBOX, False),
        ("$SRV.OTHER", INBOX, False),
        ("$SRV", INBOX, False),
        ("hermes-nats-sidecar.stored.hermes", INBOX, False),
        ("x.PING", INBOX, False),
        ("$SRV.PING", "hermes.base", False),
        ("$SRV.PING", "$JS.API.STREAM.INFO.hermes", False),
        ("$SRV.PING", "_INBOX.>", False),
        ("$SRV.PING", "_INBOX.a b", False),
        ("$SRV.PING", "_INBOX.a\n", False),
        ("$SRV.PING", "_INBOX." + "a" * 300, False),
    ],
)
def test_only_what_is_for_a_service_is_answered_and_only_to_an_inbox(
    subject: str, reply: str, is_answered: bool
) -> None:
    service, published = served()
    service.on_request(subject.replace("ID", service.id), reply)
    assert [to for to, _, _ in published] == [reply] * is_answered


@pytest.mark.parametrize(
    ("lacks", "is_known"),
    [
        ("", False),
        (f"publish to {QUESTION}", True),
        (f"subscription to $SRV.*.{NAME}", True),
        (f"subscription to {ANSWERS}.id.*", True),
        (f"publish to {ANSWERS}.id.token", True),
        ("subscription to $SRV.*", False),
        (f"subscription to $SRV.*.{NAME}.*", False),
        ("publish to _INBOX.abc", False),
    ],
)
def test_who_may_not_take_part_does_not_ask(lacks: str, is_known: bool) -> None:
    service, published = served(lacks=lacks)
    assert service.ask() is not is_known
    assert len(published) == (not is_known)
    shown = {lacks.replace("id.token", ">").replace("id.*", ">")} if is_known else set()
    assert service.lacks == shown
    service.begin(lambda *_: True)
    assert service.ask()  # another connection may be allowed


@pytest.mark.parametrize(
    "refused",
    [
        ("subscription", "_inbox_hermes_both.x.*"),
        ("publish", "hermes.base"),
        ("publish", "$js.api.stream.info.hermes"),
    ],
)
def test_what_else_is_refused_is_not_for_the_service(refused: tuple[str, str]) -> None:
    service, _ = served()
    assert not service.refuse(*refused)
    assert service.lacks == set()


def test_who_may_not_answer_sidecars_answers_others() -> None:
    service, published = served(lacks=f"publish to {ANSWERS}.id.token")
    service.on_request("$SRV.PING", f"{ANSWERS}.id.token")
    service.on_request("$SRV.PING", INBOX)
    assert [to for to, _, _ in published] == [INBOX]


def test_each_question_has_an_inbox_that_nobody_knows_before() -> None:
    service, published = served()
    assert service.ask()
    first = service.inbox
    assert service.ask()
    assert [(to, reply) for to, reply, _ in published] == [
        (QUESTION, first),
        (QUESTION, service.inbox),
    ]
    assert first != service.inbox
    assert all(payload == b"" for _, _, payload in published)
