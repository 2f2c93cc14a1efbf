# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from structlog.testing import capture_logs

from sidecar import errors
from sidecar.errors import Outcome, Problem
from sidecar.http.auth import Access, Guard, TokenFile

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping
    from pathlib import Path

    from starlette.types import ASGIApp, Message, Receive, Scope, Send


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "token"
    file.write_text("c0rrect-horse\n")
    return file


@pytest.mark.parametrize(
    ("authorization", "matches"),
    [
        ("Bearer c0rrect-horse", True),
        (None, False),
        ("", False),
        ("Bearer", False),
        ("Bearer ", False),
        ("Bearer c0rrect", False),
        ("Bearer c0rrect-horse-battery", False),
        ("Basic c0rrect-horse", False),
        ("c0rrect-horse", False),
        ("Bearer  c0rrect-horse", True),
        ("Bearer a c0rrect-horse", False),
        ("Bearer \xe9", False),
    ],
)
def test_only_the_very_token_matches(
    file: Path, authorization: str | None, matches: bool
) -> None:
    assert TokenFile(file).matches(authorization) is matches


@pytest.mark.parametrize("scheme", ["bearer", "BEARER"])
def test_the_scheme_is_read_whatever_its_case(file: Path, scheme: str) -> None:
    assert TokenFile(file).matches(f"{scheme} c0rrect-horse")


def test_a_token_that_changed_counts_at_once(file: Path) -> None:
    token = TokenFile(file)
    assert token.matches("Bearer c0rrect-horse")
    file.write_text("another")
    assert token.matches("Bearer another")
    assert not token.matches("Bearer c0rrect-horse")


@pytest.mark.parametrize("text", ["", "\n", "  "])
def test_an_empty_token_lets_nobody_in(file: Path, text: str) -> None:
    file.write_text(text)
    token = TokenFile(file)
    assert not token.matches("Bearer ")
    assert not token.matches("Bearer")
    assert not token.matches(None)


def test_a_token_file_that_vanished_lets_nobody_in_until_it_is_back(file: Path) -> None:
    token = TokenFile(file)
    assert token.matches("Bearer c0rrect-horse")
    file.unlink()
    with capture_logs() as lines:
        assert not token.matches("Bearer c0rrect-horse")
    assert lines == [
        {"event": "token_unreadable", "log_level": "error", "file": str(file)}
    ]
    assert not token.matches("Bearer ")
    assert token._read() == b""
    file.write_text("c0rrect-horse")
    assert token.matches("Bearer c0rrect-horse")


# -- What a guard lets pass ------------------------------------------------------------

OURS = frozenset({"bus.example.org"})
BEARER = {"Authorization": "Bearer c0rrect-horse"}


async def served(scope: Scope, receive: Receive, send: Send) -> None:
    await Request(scope, receive).body()
    await Response(status_code=204)(scope, receive, send)


async def ask(guard: ASGIApp, path: str, **headers: str) -> httpx.Response:
    transport = httpx.ASGITransport(guard)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://localhost"
    ) as http:
        return await http.get(path, headers=headers)


@pytest.mark.parametrize(
    ("access", "path", "headers", "status"),
    [
        ("off", "/", {}, 204),
        ("off", "/health", {}, 204),
        ("off", "/v1", {}, 204),
        ("off", "/v1/events", {}, 403),
        ("off", "/v1/stream", BEARER, 403),
        ("token", "/health", {}, 204),
        ("token", "/v1/events", {}, 401),
        ("token", "/v1/events", {"Authorization": "Bearer wrong"}, 401),
        ("token", "/v1/events", BEARER, 204),
        ("open", "/v1/events", {}, 204),
        ("open", "/v1/events", {"Authorization": "Bearer wrong"}, 204),
    ],
)
async def test_the_api_is_for_whom_the_listener_is_for(
    file: Path, access: Access, path: str, headers: dict[str, str], status: int
) -> None:
    token = TokenFile(file) if access == "token" else None
    answer = await ask(Guard(served, access, token), path, **headers)
    assert answer.status_code == status
    if status != 204:
        code = "api_off" if status == 403 else "unauthorized"
        assert answer.json()["code"] == code


@pytest.mark.parametrize(
    ("path", "host", "status"),
    [
        ("/", "bus.example.org", 204),
        ("/v1/events", "localhost", 204),
        ("/", "evil.example", 421),
        ("/v1/events", "evil.example", 421),
        ("/healthy", "evil.example", 204),
        ("/health/ready", "evil.example", 204),
        ("/metrics", "evil.example", 204),
        ("/x/metrics", "evil.example", 421),
    ],
)
async def test_a_foreign_host_is_refused_but_for_probes(
    path: str, host: str, status: int
) -> None:
    guard = Guard(served, "open", own_names=OURS)
    assert (await ask(guard, path, Host=host)).status_code == status
    unnamed = Guard(served, "open")
    assert (await ask(unnamed, path, Host=host)).status_code == 204


@pytest.mark.parametrize("hosts", [[], ["localhost", "localhost"]])
async def test_a_request_has_one_host(hosts: list[str]) -> None:
    statuses = []

    async def send(message: Message) -> None:
        statuses.append(message.get("status"))

    headers = [(b"host", host.encode()) for host in hosts]
    scope = {"type": "http", "method": "GET", "path": "/", "headers": headers}
    await Guard(served, "open", own_names=OURS)(scope, no_body, send)
    assert statuses[0] == 421


async def no_body() -> Message:
    return {"type": "http.request"}


async def unsent(_: Message) -> None:
    raise AssertionError


async def test_what_is_no_request_passes_unread() -> None:
    passed: list[object] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        passed.extend((scope, receive, send))

    scope = {"type": "lifespan"}
    await Guard(application, "off", own_names=OURS)(scope, no_body, unsent)
    assert passed == [scope, no_body, unsent]


def failing(error: Exception, **names: str) -> Guard:
    """Guard an application that fails in a function of a module with these names."""
    members: dict[str, Callable[[Exception], None]] = {}
    exec("def fail(error): raise error", dict(names), members)  # noqa: S102

    async def application(_: Scope, __: Receive, ___: Send) -> None:
        members["fail"](error)

    return Guard(application, "open")


async def test_a_problem_of_the_application_is_answered() -> None:
    answer = await ask(failing(Problem(errors.BUSY, Outcome.NOT_STORED)), "/")
    assert (answer.status_code, answer.json()["code"]) == (429, "busy")


async def logged(guard: Guard) -> MutableMapping[str, Any]:
    """Give the line that a request leaves which is not answered."""
    scope = {"type": "http", "method": "GET", "path": "/v1/events", "headers": []}
    with capture_logs() as lines:
        await guard(scope, no_body, unsent)
    (line,) = lines
    return line


@pytest.mark.parametrize(
    "error", [ClientDisconnect(), RuntimeError("closed")], ids=["reading", "writing"]
)
async def test_a_caller_that_left_is_no_error(error: Exception) -> None:
    assert await logged(failing(error, __name__="uvicorn.protocols.http")) == {
        "event": "client_left",
        "log_level": "debug",
        "path": "/v1/events",
    }


@pytest.mark.parametrize(
    ("error", "names"),
    [
        (ValueError("c0rrect-horse"), {"__name__": "uvicorn.protocols.http"}),
        (RuntimeError("c0rrect-horse"), {"__name__": "uvicornish"}),
        (RuntimeError("c0rrect-horse"), {}),
    ],
)
async def test_an_error_of_ours_is_logged_by_its_place_and_not_its_text(
    error: Exception, names: dict[str, str]
) -> None:
    line = await logged(failing(error, **names))
    assert (line["event"], line["log_level"]) == ("internal_error", "error")
    assert line["error"] == type(error).__name__
    assert re.fullmatch(r"(  File .*\n(    .*\n)*){3}", line["where"])
    assert line["where"].index("auth.py") < line["where"].index("in fail")
    assert "c0rrect" not in repr(line)
