# SPDX-License-Identifier: Apache-2.0
"""Each name inside a library that we use, taken away; and what is there without it."""

from __future__ import annotations

import ast
import asyncio
import gc
import re
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path
from pkgutil import resolve_name
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
import uvicorn
from nats.aio.client import Client
from nats.aio.transport import TcpTransport
from nats.protocol.parser import Parser
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from sidecar import cli, libraries
from sidecar.command_error import OTHER_LIBRARY
from sidecar.http import private_names as http
from sidecar.http.protocol import BoundedProtocol, UvicornsProtocol
from sidecar.http.server import http_config
from sidecar.jetstream import private_names as jetstream
from sidecar.jetstream.connection import Connection
from sidecar.jetstream.credentials import NatsServer
from sidecar.libraries import LibraryError
from sidecar.model.event import parse_event
from sidecar.model.publish_reply import Acknowledged
from sidecar.model.stream import StreamPlan
from sidecar.services.daemon import Daemon
from sidecar.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.nats import NatsProcess

    from sidecar.libraries import Names

ROOT = Path(__file__).resolve().parents[1]
NEEDED: dict[str, Names] = {"nats-py": jetstream.NEEDED, **http.NEEDED}


def rows(library: str, names: Names) -> list[tuple[str, str, str]]:
    return [(library, owner, name) for owner in names for name in names[owner]]


def take_away(owner: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rename it, as another version of the library may have done."""
    found = resolve_name(owner)
    if isinstance(found, ModuleType):
        monkeypatch.delattr(found, name)
        return
    module, _, short = owner.partition(":")
    original = sys.modules[found.__module__]
    if original.__file__ is None or not original.__file__.endswith(".py"):  # compiled
        others = {each: None for each in dir(found) if each not in (name, *dir(type))}
        changed = type(short, (), others)
    else:
        text = Path(original.__file__).read_text("utf-8")
        text = re.sub(rf"(?m)(self\.|def |^    ){name}\b", r"\g<1>renamed", text)
        copy = ModuleType(original.__name__)
        copy.__package__ = original.__package__
        exec(compile(text, original.__file__, "exec"), copy.__dict__)  # noqa: S102
        changed = getattr(copy, short)
    monkeypatch.setattr(resolve_name(module), short, changed)


def require() -> None:
    jetstream.require()
    http.require()


def test_what_is_installed_has_all_of_it() -> None:
    require()
    assert jetstream.slower() + http.slower() == []


@pytest.mark.parametrize(
    ("library", "owner", "name"),
    [row for library, names in NEEDED.items() for row in rows(library, names)],
)
def test_without_a_name_that_is_needed_no_start(
    library: str, owner: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_away(owner, name, monkeypatch)
    with pytest.raises(LibraryError) as raised:
        require()
    sentence = str(raised.value)
    assert f"{library} {version(library)}" in sentence
    assert f"{owner.rpartition(':')[2]}.{name}" in sentence
    assert "requirements.lock" in sentence
    assert "\n" not in sentence


@pytest.mark.parametrize(
    ("owner", "name"),
    [row[1:] for row in rows("", jetstream.FOR_SPEED) + rows("", http.FOR_SPEED)],
)
def test_without_a_name_for_speed_it_starts_and_says_so(
    owner: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_away(owner, name, monkeypatch)
    require()
    missing = f"{owner.rpartition(':')[2]}.{name}"
    assert jetstream.slower() + http.slower() == [missing]


def test_a_request_of_uvicorn_that_has_more_than_ours_counts_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class RequestResponseCycle:
        def __init__(self) -> None:
            self.response_complete = self.is_new = False

    where = "uvicorn.protocols.http.httptools_impl.RequestResponseCycle"
    monkeypatch.setattr(where, RequestResponseCycle)
    assert http.slower() == ["RequestResponseCycle.is_new"]


def test_a_library_that_is_not_there_is_named() -> None:
    with pytest.raises(LibraryError, match=r"^nothing \(not installed\) .* no X\.y"):
        libraries.require("nothing", {"nothing:X": ("y",)})


@pytest.fixture
def collected() -> Iterator[None]:
    yield
    gc.enable()  # `serve` has it off until all is loaded


@pytest.mark.parametrize("command", ["serve", "provision", "check"])
@pytest.mark.usefixtures("collected")
def test_a_command_says_it_in_one_sentence(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delattr(Client, "_connect_command")
    monkeypatch.setattr(sys, "argv", ["hermes-nats-sidecar", command])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == OTHER_LIBRARY
    assert capsys.readouterr().err == (
        f"hermes-nats-sidecar: nats-py {version('nats-py')} does not fit this sidecar, "
        "for it has no Client._connect_command: install the versions of "
        "requirements.lock.\n"
    )


# -- That the lists are whole ----------------------------------------------------------


def attributes(file: str) -> set[str]:
    """Give each attribute that a file of ours reads, sets, calls or widens."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / "sidecar" / file).read_text("utf-8"))):
        if isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(node.value)  # of getattr
    return found


def listed(*lists: Names) -> set[str]:
    return {name for names in lists for each in names.values() for name in each}


def test_each_private_name_of_nats_py_stands_in_the_list() -> None:
    theirs = {
        name
        for owner in (Client, TcpTransport, Parser, asyncio.StreamReader)
        for name in {*dir(owner), *owner.__init__.__code__.co_names}
        if name.startswith("_") and not name.startswith("__")
    }
    ours = {name for name in attributes("jetstream/client.py") if name[:1] == "_"}
    assert ours & theirs - listed(jetstream.NEEDED, jetstream.FOR_SPEED) == set()


@pytest.mark.parametrize(
    ("file", "theirs"),
    [("protocol", HttpToolsProtocol), ("server", uvicorn.Server)],
)
def test_each_name_of_uvicorn_s_classes_stands_in_the_list(
    file: str, theirs: type
) -> None:
    own = {name for name in vars(theirs) if not name.startswith("__")}
    own |= set(theirs.__init__.__code__.co_names)  # type: ignore[misc]
    ours = attributes(f"http/{file}.py") & own
    others = {*dir(asyncio.Protocol), "run", "serve", "started"}  # Python's; documented
    assert ours - others - listed(*http.NEEDED.values(), http.FOR_SPEED) == set()


def test_the_caps_of_pyproject_are_the_minor_versions_of_the_lock() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    lock = (ROOT / "requirements.lock").read_text("utf-8")
    for library in NEEDED:
        (wanted,) = [
            each
            for each in project["dependencies"]
            if re.split(r"[^\w-]", each)[0] == library
        ]
        locked = re.search(rf"^{library}==(\d+)\.(\d+)\.", lock, re.MULTILINE)
        assert locked is not None
        assert wanted.endswith(f",<{locked[1]}.{int(locked[2]) + 1}"), wanted


# -- What works without ----------------------------------------------------------------


async def test_messages_come_through_nats_py_s_own_loop_too(
    nats: NatsProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jetstream, "slower", lambda: ["StreamReader.feed_data"])
    connection = Connection(StreamPlan("slower", "slower", 1, 0), "test")
    bodies = [
        b'{"evcategory": "base", "v": "%s"}' % (b"x" * n) for n in (1, 900_000, 9)
    ]
    async with asyncio.timeout(60):
        await connection.open(NatsServer((nats.url,)))
        try:
            assert "read" in vars(connection._client._transport)
            await connection.api.create_stream(1)
            for last, body in enumerate(bodies):
                reply = await connection.publish(parse_event(body), f"k{last}", last, 5)
                assert isinstance(reply, Acknowledged), reply
            came = await connection.api.batch(1, 10, 10_000_000, None)
        finally:
            await connection.close()
    assert [message.body for message in came.messages] == bodies


def test_no_event_is_served_directly_where_uvicorn_lacks_what_that_needs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    daemon = Daemon(Settings(unix_socket=Path("/run/x")), NatsServer(("nats://x",)))
    guard: Any = type("Guard", (), {"admits": None})
    made: Any = http_config(daemon, guard).http
    assert made.func is BoundedProtocol
    monkeypatch.setattr(http, "slower", lambda: ["FlowControl.write_paused"])
    made = http_config(daemon, guard).http
    assert made.func is UvicornsProtocol
