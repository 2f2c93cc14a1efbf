# SPDX-License-Identifier: Apache-2.0
"""What sidecars answer of their clients, and what becomes of odd answers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sidecar.model.clients import MAX_CLIENTS, Client
from sidecar.model.event import MAX_OFFSET
from sidecar.model.sidecars import (
    KNOWN_SECONDS,
    MAX_ANSWER_BYTES,
    MAX_SHOWN,
    MAX_SIDECARS,
    Answer,
    Everyone,
    Sidecars,
    host_name,
    read_answer,
)

AD = Client("ad", "reading", 7, 3, 0.5)
LDAP = Client("ldap", "waiting", 10, 0, 1.0)
LOST = Client("lost", "stranded", None, None, 0.0)


def answer(
    id_: object = "b", *clients: Client, host: object = "two", stream: object = "hermes"
) -> dict[str, Any]:
    rows = [each.document() for each in clients]
    return {
        "id": id_,
        "metadata": {"host": host, "stream": stream},
        "endpoints": [{"data": {"clients": rows}}],
    }


def sent(*arguments: Any, **names: Any) -> bytes:
    return json.dumps(answer(*arguments, **names)).encode()


def with_row(**changes: object) -> bytes:
    document = answer("b", AD, LDAP)
    document["endpoints"][0]["data"]["clients"][0] |= changes
    return json.dumps(document).encode()


def with_rows(rows: object) -> bytes:
    return json.dumps(answer() | {"endpoints": [{"data": {"clients": rows}}]}).encode()


def test_what_a_sidecar_answers_is_read_as_it_was_meant() -> None:
    clients = [AD, LDAP, LOST]
    assert read_answer(sent("b", *clients), "hermes") == Answer("b", "two", clients)
    assert read_answer(sent("b"), "hermes") == Answer("b", "two", [])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"7",
        b'"b"',
        b"\xff",
        b"{}",
        b"[" * 60_000,
        b'{"id": ' + b"9" * 5_000 + b"}",
        sent(7),
        sent(None),
        sent("b b"),
        sent("b" * 65),
        sent(host="two hosts"),
        sent(host="<script>"),
        sent(host=""),
        sent(host=["two"]),
        sent(host="h" * 254),
        sent(stream="another"),
        sent(stream=None),
        json.dumps(answer() | {"metadata": "host"}).encode(),
        json.dumps(answer() | {"endpoints": []}).encode(),
        json.dumps(answer() | {"endpoints": {}}).encode(),
        json.dumps(answer() | {"endpoints": [{"data": None}]}).encode(),
        with_rows({"name": "ad"}),
        with_rows(None),
        sent("b") + b" " * MAX_ANSWER_BYTES,
    ],
)
def test_what_no_sidecar_of_this_stream_answers_is_no_answer(data: bytes) -> None:
    assert read_answer(data, "hermes") is None


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "a b"},
        {"name": "\x1b[2J"},
        {"name": "curl/8"},
        {"name": "a" * 65},
        {"name": 7},
        {"name": None},
        {"state": "well"},
        {"state": ["reading"]},
        {"state": None},
        {"offset": -1},
        {"offset": True},
        {"offset": 1.5},
        {"offset": "7"},
        {"offset": MAX_OFFSET + 1},
        {"behind": -1},
        {"behind": [1]},
        {"last_seen_seconds": -1},
        {"last_seen_seconds": True},
        {"last_seen_seconds": None},
        {"last_seen_seconds": float("nan")},
        {"last_seen_seconds": float("inf")},
        {"last_seen_seconds": 10**30},
    ],
)
def test_a_client_that_is_odd_is_left_out(changes: dict[str, object]) -> None:
    assert read_answer(with_row(**changes), "hermes") == Answer("b", "two", [LDAP])


@pytest.mark.parametrize("row", [None, 7, "ad", [], {}, {"name": "ad"}])
def test_what_is_no_client_is_left_out(row: object) -> None:
    data = with_rows([row, LDAP.document()])
    assert read_answer(data, "hermes") == Answer("b", "two", [LDAP])


def test_as_many_clients_as_a_sidecar_knows_are_read_and_no_more() -> None:
    name = "n" * 60
    rows = [
        Client(f"{name}{number}", "stranded", MAX_OFFSET, MAX_OFFSET, 1e6).document()
        for number in range(MAX_CLIENTS + 1)
    ]
    assert len(with_rows(rows)) <= MAX_ANSWER_BYTES
    found = read_answer(with_rows(rows), "hermes")
    assert found is not None
    assert len(found.clients) == MAX_CLIENTS


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("ldap-1.insa.example", "ldap-1.insa.example"),
        ("(none)", "-none-"),
        ("", "-"),
        ("<b>\n", "-b--"),
        ("é" * 300, "-" * 253),
    ],
)
def test_whatever_a_host_is_called_its_sidecar_is_heard(name: str, shown: str) -> None:
    assert host_name(name) == shown
    heard = read_answer(sent(host=host_name(name)), "hermes")
    assert heard is not None
    assert heard.host == shown


# -- Who has answered ------------------------------------------------------------------


def asked(*answers: bytes, now: float = 100.0) -> Sidecars:
    sidecars = Sidecars("a", "one", "hermes")
    sidecars.ask(now)
    for data in (sent("a", host="one"), *answers):
        sidecars.hear(data, now)
    return sidecars


def shown(everyone: Everyone) -> list[tuple[str, str, float]]:
    return [
        (client.name, host, client.last_seen_seconds)
        for host, client in everyone.clients
    ]


def test_the_clients_of_all_are_shown_by_name_and_host() -> None:
    sidecars = asked(sent("b", LDAP, AD), sent("c", AD, host="three"))
    everyone = sidecars.look([LDAP], set(), 102.0)
    assert everyone.reason is None
    assert shown(everyone) == [
        ("ad", "three", 2.5),
        ("ad", "two", 2.5),
        ("ldap", "one", 1.0),
        ("ldap", "two", 3.0),
    ]
    assert everyone.clients[0].document() == {
        "name": "ad",
        "sidecar": "three",
        "offset": 7,
        "behind": 3,
        "last_seen_seconds": 2.5,
        "state": "reading",
    }


def test_what_this_one_answers_itself_is_not_shown_twice() -> None:
    sidecars = asked(sent("a", LDAP, host="one"))
    assert shown(sidecars.look([LDAP], set(), 100.0)) == [("ldap", "one", 1.0)]


def test_a_sidecar_that_answers_no_more_is_missed_and_then_forgotten() -> None:
    sidecars = asked(sent("b", AD), now=100.0)
    assert not sidecars.have_all_answered()  # for all that is known there are more
    sidecars.ask(110.0)
    assert not sidecars.have_all_answered()
    sidecars.hear(sent("a", host="one"), 110.0)
    assert not sidecars.have_all_answered()
    told = sidecars.look([LDAP], set(), 110.3)
    assert told.reason == "The sidecar on two did not answer."
    assert shown(told) == [("ldap", "one", 1.0)]
    late = 100.0 + KNOWN_SECONDS
    for now, reason in ((late, told.reason), (late + 0.1, None)):
        sidecars.ask(now)
        assert not sidecars.have_all_answered()
        sidecars.hear(sent("a", host="one"), now)
        assert sidecars.look([], set(), now).reason == reason
        assert sidecars.have_all_answered() is (reason is None)


def test_who_answers_late_is_shown_to_the_next_who_looks() -> None:
    sidecars = asked(now=100.0)
    assert shown(sidecars.look([], set(), 100.3)) == []
    sidecars.hear(sent("b", AD), 100.5)
    assert shown(sidecars.look([], set(), 100.5)) == [("ad", "two", 0.5)]


def test_one_that_was_started_again_is_not_missed() -> None:
    sidecars = asked(sent("b", AD), sent("c", host="three"), now=100.0)
    sidecars.ask(110.0)
    sidecars.hear(sent("a", host="one"), 110.0)
    sidecars.hear(sent("new", AD), 110.0)
    everyone = sidecars.look([], set(), 110.0)
    assert everyone.reason == "The sidecar on three did not answer."
    assert [host for host, _ in everyone.clients] == ["two"]


def test_one_of_two_on_a_host_is_missed() -> None:
    sidecars = asked(sent("b"), now=100.0)
    sidecars.hear(sent("c"), 100.1)  # that this one came later means nothing
    sidecars.ask(110.0)
    sidecars.hear(sent("a", host="one"), 110.0)
    sidecars.hear(sent("c"), 110.0)
    assert sidecars.look([], set(), 110.0).reason == (
        "The sidecar on two did not answer."
    )


ALONE = "only clients of this sidecar are known"
B_AND_A = "publish to b and subscription to a"
SEE = "see docs/nats.md"


@pytest.mark.parametrize(
    ("lacks", "reason"),
    [
        (set(), f"NATS does not respond: {ALONE}."),
        (
            {"publish to b", "subscription to a"},
            f"The NATS user lacks a permission for {B_AND_A}, {SEE}: {ALONE}.",
        ),
    ],
)
def test_who_hears_not_even_itself_says_why(lacks: set[str], reason: str) -> None:
    sidecars = Sidecars("a", "one", "hermes")
    assert sidecars.look([], lacks, 0.0) == Everyone([], reason)
    sidecars.ask(1.0)
    assert not sidecars.have_all_answered()
    assert sidecars.look([], lacks, 1.3) == Everyone([], reason)


TOO_MANY = "There are more sidecars or clients than can be shown."


def test_of_very_many_sidecars_a_bounded_number_is_kept() -> None:
    sidecars = asked(*(sent(f"b{number}") for number in range(MAX_SIDECARS - 1)))
    assert sidecars.look([], set(), 100.0).reason is None
    sidecars.hear(sent("one-more", AD), 100.0)
    assert sidecars.look([], set(), 100.0) == Everyone([], TOO_MANY)
    sidecars.ask(101.0)  # and over several questions
    sidecars.hear(sent("a", host="one"), 101.0)
    sidecars.hear(sent("one-more", AD), 101.0)
    assert shown(sidecars.look([], set(), 101.0)) == []


def test_who_answers_for_ever_is_not_read_for_ever() -> None:
    sidecars = asked(*[b"{"] * (MAX_SIDECARS - 1))
    sidecars.hear(sent("b", AD), 100.0)
    assert sidecars.look([], set(), 100.0) == Everyone([], TOO_MANY)
    sidecars.ask(101.0)
    sidecars.hear(sent("a", host="one"), 101.0)
    sidecars.hear(sent("b", AD), 101.0)
    assert shown(sidecars.look([], set(), 101.0)) == [("ad", "two", 0.5)]


def test_of_very_many_clients_a_bounded_number_is_kept() -> None:
    many = [Client(f"c{number}", "reading", 1, 1, 0.0) for number in range(MAX_CLIENTS)]
    count = MAX_SHOWN // MAX_CLIENTS
    sidecars = asked(*(sent(f"b{number}", *many) for number in range(count)))
    everyone = sidecars.look([], set(), 100.0)
    assert (len(everyone.clients), everyone.reason) == (MAX_SHOWN, None)
    sidecars.hear(sent("b0", *many), 100.0)
    sidecars.hear(sent("c", AD), 100.0)
    everyone = sidecars.look([], set(), 100.0)
    assert (len(everyone.clients), everyone.reason) == (MAX_SHOWN, TOO_MANY)


@pytest.mark.parametrize(
    ("given", "known"), [(7, 7), (None, None), (-1, None), ("7", None), (True, None)]
)
def test_the_next_offset_that_a_sidecar_knows_is_taken_if_it_is_one(
    given: object, known: int | None
) -> None:
    document = json.loads(sent("b", LDAP))
    document["endpoints"][0]["data"]["next_offset"] = given
    answer = read_answer(json.dumps(document).encode(), "hermes")
    assert answer == Answer("b", "two", [LDAP], known)
