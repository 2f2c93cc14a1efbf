# SPDX-License-Identifier: Apache-2.0
"""`trace`: where the events of an object are, and which clients have passed them."""

from __future__ import annotations

import io
import json
import socket
import sys
from typing import TYPE_CHECKING, Any

import pytest
from support.commands import SECRET, Ran, Run, assert_complaint
from support.sidecar import SidecarProcess, event, post, sidecar_on

from sidecar.commands import stored_events
from sidecar.commands import trace as command
from sidecar.commands.http_client import DaemonError, ask
from sidecar.model.wanted import ObjectKey, Wanted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.nats import NatsProcess

HOST = socket.gethostname()
KEY = 4711
NO_CLIENT = "No client is known, so this is only what is stored.\n"
OTHERS = (
    event("initsync", eventtype="init-start", objtype=None, objpkey=None),
    event(objtype="Groups", objpkey=KEY, objattrs={"password": SECRET}),
    event(objpkey=KEY * 10, objattrs={"uid": KEY, "password": SECRET}),
)
ITS = (
    event("initsync", objpkey=KEY, objattrs={"password": SECRET}),
    event(eventtype="modified", objpkey=KEY, objattrs={"password": SECRET}),
    event(eventtype="removed", objpkey=KEY),
)


@pytest.fixture(scope="module")
def stream(
    nats: NatsProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SidecarProcess]:
    """Start a sidecar with three events of a user, each followed by another's."""
    with sidecar_on(nats, tmp_path_factory.mktemp("stream")) as process:
        _store(process)
        yield process


@pytest.fixture(scope="module")
def followed(
    nats: NatsProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SidecarProcess]:
    """Start another with the same events, of which three clients read."""
    with sidecar_on(nats, tmp_path_factory.mktemp("followed")) as process:
        _store(process)
        _, second, _ = offsets_of(process)
        with process.client() as http:
            for name, offset in (("ldap", second), ("ad", second + 1), ("old", 1)):
                agent = {"User-Agent": f"hermes-client-{name}"}
                http.get("/v1/events", params={"offset": offset}, headers=agent)
        yield process


def _store(process: SidecarProcess) -> None:
    with process.client() as http:
        for its, others in zip(ITS, OTHERS, strict=True):
            for body in (its, others):
                assert post(http, body).status_code == 201


def offsets_of(process: SidecarProcess) -> list[int]:
    with process.client() as http:
        first = http.get("/v1/stream").json()["first_offset"]
    return [first, first + 2, first + 4]


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Let the sidecar answer GET /v1/clients with this document, which a test fills."""
    document: dict[str, Any] = {"clients": [], "complete": True, "reason": None}
    monkeypatch.setattr(command, "ask", lambda *_: document)
    return document


def client_at(offset: int | None, state: str = "reading") -> dict[str, Any]:
    name = "hermes-client-ldap"
    return {"name": name, "sidecar": "h1", "offset": offset, "state": state}


def trace(run: Run, stream: SidecarProcess, *arguments: str) -> Ran:
    ran = run(
        *("trace", "--type", "Users", "--key", str(KEY), *arguments),
        unix_socket=stream.socket,
    )
    assert SECRET not in ran.stdout + ran.stderr
    return ran


@pytest.mark.parametrize("page", [2_000, 1])
def test_it_shows_each_event_of_the_object_and_no_other(
    run: Run,
    stream: SidecarProcess,
    monkeypatch: pytest.MonkeyPatch,
    page: int,
) -> None:
    monkeypatch.setattr(stored_events, "_PAGE", page)
    offsets = offsets_of(stream)
    ran = trace(run, stream)
    header, *lines = ran.stdout.splitlines()
    assert ran.returncode == 0
    assert header.split() == ["OFFSET", "TIME", "CATEGORY", "TYPE"]
    assert [(line.split()[0], *line.split()[2:]) for line in lines] == [
        (str(offsets[0]), "initsync", "added"),
        (str(offsets[1]), "base", "modified"),
        (str(offsets[2]), "base", "removed"),
    ]


def test_without_a_known_client_it_says_so(run: Run, stream: SidecarProcess) -> None:
    ran = trace(run, stream)
    assert ran.returncode == 0
    assert ran.stderr.endswith(NO_CLIENT)


def test_a_sidecar_that_cannot_be_asked_for_clients_knows_none(
    run: Run, stream: SidecarProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "ask", lambda http, _: ask(http, "/v1/nowhere"))
    ran = trace(run, stream)
    assert ran.returncode == 0
    assert ran.stderr == NO_CLIENT


def test_each_client_has_passed_an_event_or_not_yet(
    run: Run, followed: SidecarProcess
) -> None:
    ran = trace(run, followed)
    header, *lines = ran.stdout.splitlines()
    passed, others = header.index("PASSED BY"), header.index("NOT YET BY")
    ad, ldap, old = (f"hermes-client-{name}@{HOST}" for name in ("ad", "ldap", "old"))
    assert [(line[passed:others].strip(), line[others:]) for line in lines] == [
        (f"{ad}, {ldap}", f"{old} (stranded)"),
        (ad, f"{ldap} (reading), {old} (stranded)"),
        ("-", f"{ad} (reading), {ldap} (reading), {old} (stranded)"),
    ]


def test_json_says_the_same(run: Run, followed: SidecarProcess) -> None:
    lines = trace(run, followed, "--json").stdout.splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["offset"] for row in rows] == offsets_of(followed)
    assert set(rows[0]) == {"offset", "timestamp", "category", "type", "clients"}
    clients = [
        {"name": "hermes-client-ad", "sidecar": HOST, "state": "reading"},
        {"name": "hermes-client-ldap", "sidecar": HOST, "state": "reading"},
        {"name": "hermes-client-old", "sidecar": HOST, "state": "stranded"},
    ]
    assert [row["clients"] for row in rows] == [
        [each | {"passed": at in passed} for at, each in enumerate(clients)]
        for passed in ((0, 1), (0,), ())
    ]


@pytest.mark.parametrize(("offset", "state"), [(2**53, "stranded"), (None, "reading")])
def test_a_client_that_is_ahead_or_nowhere_has_passed_nothing(
    run: Run,
    stream: SidecarProcess,
    known: dict[str, Any],
    offset: int | None,
    state: str,
) -> None:
    known["clients"] = [client_at(offset, state)]
    ran = trace(run, stream)
    assert ran.stdout.count(f"hermes-client-ldap@h1 ({state})") == len(ITS)
    assert ran.stderr == ""


def test_what_may_be_missing_is_said_once(
    run: Run, stream: SidecarProcess, known: dict[str, Any]
) -> None:
    known |= {"complete": False, "reason": "h2 does not\x1b[2J answer."}
    known["clients"] = [client_at(1)]
    assert trace(run, stream).stderr == "h2 does not\\x1b[2J answer.\n"


@pytest.mark.parametrize("form", [[], ["--json"]])
@pytest.mark.parametrize("name", ["name", "sidecar", "state"])
def test_what_others_named_is_escaped(
    run: Run, stream: SidecarProcess, known: dict[str, Any], name: str, form: list[str]
) -> None:
    known["clients"] = [client_at(1) | {name: "x\x1b]0;owned\x07"}]
    ran = trace(run, stream, *form)
    assert "x\\" in ran.stdout
    assert ran.stdout.replace("\n", "").isprintable()


def test_events_are_shown_though_the_clients_cannot_be_asked_for(
    run: Run, stream: SidecarProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise DaemonError("It does not answer.")

    monkeypatch.setattr(command, "ask", fail)
    ran = trace(run, stream)
    assert len(ran.stdout.splitlines()) == 1 + len(ITS)
    assert_complaint(ran, 1, "It does not answer.")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--key", "4712"],
        ["--key", f"[{KEY}]"],
        ["--type", "users"],
        ["--until", "1h"],
        ["--since", "0s"],
    ],
    ids=" ".join,
)
def test_an_object_without_events_is_a_sentence_and_a_status(
    run: Run, stream: SidecarProcess, arguments: list[str]
) -> None:
    ran = trace(run, stream, *arguments)
    assert_complaint(ran, 9, "No event of this type and key is stored")
    assert ran.stdout == ""


@pytest.mark.usefixtures("known")
def test_two_objects_of_one_text_are_told_of(
    run: Run, nats: NatsProcess, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with sidecar_on(nats, tmp_path_factory.mktemp("two")) as process:
        with process.client() as http:
            for key in (KEY, str(KEY), KEY):
                assert post(http, event(objpkey=key)).status_code == 201
        ran = trace(run, process)
    assert len(ran.stdout.splitlines()) == 4
    assert ran.stderr.startswith("Warning: these are events of several objects")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("is_terminal", [True, False])
def test_progress_is_shown_on_a_terminal_alone(
    stream: SidecarProcess, monkeypatch: pytest.MonkeyPatch, is_terminal: bool
) -> None:
    monkeypatch.setattr(stored_events, "_PAGE", 4)
    shown = Terminal() if is_terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", shown)
    wanted = Wanted(object_type="Users", key=ObjectKey(str(KEY)))
    with stream.client() as http:
        assert len(command._find_all(http, wanted)) == len(ITS)
    progress = "\r4 of 6 events\r6 of 6 events\r\x1b[K"
    assert shown.getvalue() == (progress if is_terminal else "")
