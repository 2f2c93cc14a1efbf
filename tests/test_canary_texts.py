# SPDX-License-Identifier: Apache-2.0
"""No text of an exception and no dump of a value shows a planted secret."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import traceback
import uuid
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from support.canary import leaks, new_canary
from support.canary_walk import Walk
from support.fake_sidecar import (
    NO_ANSWER,
    Clock,
    FakeSidecar,
    Reply,
    problem,
    stands,
    timed,
)
from support.hermes import load_plugin, new_event
from support.nats import NatsProcess
from support.sidecar import COMMAND, SidecarProcess, environment

from sidecar import errors
from sidecar.commands.stored_events import Found
from sidecar.commands.tail import View, _document, _row
from sidecar.errors import Outcome, Problem
from sidecar.http.models import read_query
from sidecar.model.event import parse_event, parse_key, parse_precondition
from sidecar.model.publish_reply import Observation, Position, StoredMessage
from sidecar.model.wanted import Wanted
from sidecar.services.pages import Page
from sidecar.settings import SettingsError, load

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


# -- Settings and credentials ----------------------------------------------------------


@pytest.fixture
def load_with(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    def load_it(**variables: object) -> Any:
        for name, value in environment(**variables).items():
            if name.startswith("SIDECAR_"):
                monkeypatch.setenv(name, value)
        return load(os.environ)

    return load_it


@pytest.mark.parametrize(
    "url",
    [
        "nats://hermes:{}@nats.example",
        "tls://hermes:{}@nats.example:4222",
        "hermes:{}@nats.example",
        "nats://{}@nats.example",
        "nats://hermes:{}@nats.example:notaport",
        "nats://hermes:{}@nats.example:99999",
        "nats://hermes:{}@",
        "nats://nats.example:{}",
        "http://hermes:{}@nats.example",
        "nats://one.example,nats://hermes:{}@two.example",
        "nats://hermes:{},{}@nats.example",
        "nats://[::1]:{}",
    ],
)
def test_a_url_with_a_secret_is_refused_without_it(
    url: str, load_with: Callable[..., Any]
) -> None:
    canary = new_canary()
    for secret in (canary.replace("/", ""), quote(canary, safe="")):
        with pytest.raises(SettingsError) as caught:
            load_with(nats_url=url.replace("{}", secret))
        assert leaks(_everything_of(caught.value), {canary}) == []


@pytest.mark.parametrize(
    "name",
    [
        *("nats_password", "nats_token", "token", "nats_creds", "nats_nkey_seed"),
        *("stream", "subject_prefix", "role", "log_level", "log_format", "tcp_api"),
        *("http_port", "stream_replicas", "embedded", "max_event_bytes"),
        *("publish_timeout_seconds", "nats_tls_handshake_first", "stream_create"),
    ],
)
def test_a_secret_in_the_wrong_setting_is_refused_without_it(
    name: str, load_with: Callable[..., Any]
) -> None:
    canary = new_canary()
    with pytest.raises(SettingsError) as caught:
        load_with(**{name: canary})
    assert leaks(_everything_of(caught.value), {canary}) == []


def test_a_dump_of_the_settings_holds_names_of_files_and_no_secret(
    load_with: Callable[..., Any], tmp_path: Path
) -> None:
    files = {}
    canaries = {new_canary() for _ in range(4)}
    for number, canary in enumerate(canaries):
        file = tmp_path / f"secret{number}"
        file.write_text(canary)
        files[number] = file
    settings = load_with(
        unix_socket="/run/x",
        nats_user="hermes",
        nats_password_file=files[0],
        token_file=files[1],
        nats_tls_cert_file=files[2],
        nats_tls_key_file=files[3],
    )
    dumps = [
        *(repr(settings), str(settings), settings.model_dump_json()),
        *(repr(settings.nats_server), str(settings.plan), str(vars(settings))),
    ]
    assert "secret0" in "".join(dumps)
    assert leaks("".join(dumps), canaries) == []


def _everything_of(error: BaseException) -> str:
    """Give all that a log, an e-mail or a debugger would print of an exception."""
    lines = traceback.format_exception(error)
    return "\n".join([str(error), repr(error), str(error.args), *lines])


def test_no_secret_of_a_refused_login_is_said_by_any_command(tmp_path: Path) -> None:
    canaries = set()
    ran = []

    def secret_file(text: str = "{}") -> Path:
        canary = new_canary()
        canaries.add(canary)
        file = tmp_path / str(uuid.uuid4())
        file.write_text(text.replace("{}", canary))
        return file

    creds = (
        "-----BEGIN NATS USER JWT-----\n{}\n------END NATS USER JWT------\n"
        "-----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n"
    )
    users = "authorization { users = [{ user: hermes, password: right }] }"
    with NatsProcess(tmp_path / "nats", extra=users) as nats:
        for login in (
            {"nats_user": "hermes", "nats_password_file": secret_file()},
            {"nats_token_file": secret_file()},
            {"nats_creds_file": secret_file()},
            {"nats_creds_file": secret_file(creds)},
            {"nats_nkey_seed_file": secret_file("SUA{}")},
        ):
            environ = environment(nats_url=nats.url, log_level="debug", **login)
            command = [*COMMAND, "check"]
            ran.append(
                subprocess.run(
                    command, env=environ, capture_output=True, text=True, check=False
                )
            )
    assert [one.returncode for one in ran] == [4] * len(ran)
    printed = "".join(one.stdout + one.stderr for one in ran)
    assert "Traceback" not in printed
    assert leaks(printed, canaries) == []


# -- Values and exceptions -------------------------------------------------------------


def test_no_value_shows_the_event_it_holds(tmp_path: Path) -> None:
    walk = Walk(SidecarProcess(tmp_path))
    body = walk.event(eventtype=walk.plant(), objtype=walk.plant())
    message = StoredMessage(7, "hermes.base", "key", "2026-01-01T00:00:00Z", body)
    values = (
        parse_event(body),
        message,
        Observation(Position(1, 7), message),
        Page([message], 8, Position(1, 7)),
        Problem(errors.MALFORMED_JSON, Outcome.NOT_STORED),
    )
    for value in values:
        text = f"{value!r} {value!s} {[value]}"
        assert leaks(text, walk.canaries) == [], type(value)


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (lambda text: parse_event(text.encode()), "{}"),
        (lambda text: parse_event(text.encode()), '{"evcategory": "{}"}'),
        (lambda text: parse_event(text.encode()), '{"evcategory": "base", "a": {}}'),
        (lambda text: parse_event(b"\xff" + text.encode()), "{}"),
        (parse_key, "{}"),
        (parse_precondition, '"{}"'),
        (lambda text: read_query({"offset": text}), "{}"),
        (lambda text: read_query({text: text}), "{}"),
    ],
)
def test_what_cannot_be_read_is_not_quoted(
    parse: Callable[[str], object], text: str
) -> None:
    canary = new_canary()
    with pytest.raises(Problem) as caught:
        parse(text.replace("{}", canary))
    document = json.dumps(caught.value.document())
    assert leaks(_everything_of(caught.value) + document, {canary}) == []


BROKEN = """
import asyncio, httpx, sys
from sidecar.http.auth import Guard
from sidecar.http.app import create_app
from sidecar.telemetry.log import configure

class Broken:
    def __getattr__(self, name):
        try:
            raise ValueError(sys.argv[1])
        except ValueError as error:
            raise RuntimeError(f"{name} {sys.argv[1]}") from error

async def main():
    configure(sys.argv[2], sys.argv[3])
    api = Guard(create_app(Broken()), "open")
    transport = httpx.ASGITransport(api)
    async with httpx.AsyncClient(transport=transport, base_url="http://it") as it:
        for method, path in (("POST", "/v1/events"), ("GET", "/v1/events")):
            answer = await it.request(method, path, content=sys.argv[1])
            print(answer.status_code, answer.text)

asyncio.run(main())
"""


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_an_error_of_our_own_is_told_by_its_place_and_not_by_its_text(
    log_format: str,
) -> None:
    canary = new_canary()
    ran = subprocess.run(
        [sys.executable, "-c", BROKEN, canary, "debug", log_format],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.count("500") == 4  # twice as the status, twice in the problem
    assert ran.stderr.count("internal_error") == 2
    assert "RuntimeError" in ran.stderr
    assert leaks(ran.stdout + ran.stderr, {canary}) == []


# -- The plugins -----------------------------------------------------------------------


@pytest.fixture
def clock() -> Clock:
    return Clock()


def answers_to_a_post(canary: str) -> list[Reply | str]:
    """Give what a sidecar, or something else at its place, may answer."""
    not_stored = [
        *((400, "malformed_json"), (401, "unauthorized"), (403, "wrong_role")),
        *((409, "offset_ahead"), (410, "offset_gone"), (413, "event_too_large")),
        *((415, "unsupported_media_type"), (422, "key_reused"), (428, "no_l")),
        *((429, "busy"), (500, "internal"), (503, "nats_down")),
    ]
    return [
        *(problem(status, code, "not_stored") for status, code in not_stored),
        problem(504, "unknown", "unknown"),
        Reply(200, text=canary),
        Reply(502, text=f"<html>{canary}</html>"),
        Reply(400, {"detail": [{"input": canary}]}),
        NO_ANSWER,
    ]


def test_no_error_of_the_producer_shows_an_event_or_a_token(
    hermes_home: Path, clock: Clock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    walk = Walk(SidecarProcess(tmp_path))
    token = tmp_path / "token"
    texts = []
    token_texts = [walk.plant(), f"{walk.plant()}\n{walk.plant()}", f"é€{walk.plant()}"]
    replies = answers_to_a_post(walk.plant())
    for number, reply in enumerate([*replies, *replies[:2]]):
        # The last two tokens cannot be sent at all.
        token.write_text(token_texts[max(0, number - len(replies) + 1)])
        with FakeSidecar(stands(7), reply) as fake:
            settings = {
                "url": fake.url,
                "token_file": str(token),
                "send_timeout": 1,
                "unknown_timeout": 1,
            }
            plugin = timed(load_plugin(hermes_home, PRODUCER, settings), clock)
            texts.append(failure(partial(walk_producer, plugin, walk)))
            texts.append(repr(plugin))
            plugin.close()
    assert sum("Error" in text for text in texts) > len(replies)
    printed = "\n".join(texts) + caplog.text
    assert leaks(printed, walk.canaries) == []


PRODUCER, CONSUMER = "messagebus_producers", "messagebus_consumers"


def walk_producer(plugin: Any, walk: Walk) -> None:
    with plugin:
        values = json.loads(walk.event())
        plugin.send(new_event(**{k: values[k] for k in ("objpkey", "objattrs")}))


def failure(work: Callable[[], object]) -> str:
    try:
        work()
    except Exception as error:  # noqa: BLE001 - Hermes catches all there
        return _everything_of(error)
    return ""


def test_no_error_of_the_consumer_shows_what_it_could_not_read(
    hermes_home: Path, clock: Clock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    walk = Walk(SidecarProcess(tmp_path))
    pages = [
        *(f'{{"a": "{walk.plant()}"', f'"{walk.plant()}"', f'["{walk.plant()}"]'),
        f'{{"objattrs": {{"a": "HermesBytes({walk.plant()}=)"}}}}',
    ]
    row = {"offset": 7, "timestamp": "2026-01-01T00:00:00Z", "category": "base"}
    page = {"next_offset": 8, "first_offset": 7, "last_offset": 7}
    replies = [Reply(200, page | {"events": [row | {"data": data}]}) for data in pages]
    bad_row = row | {"timestamp": "never", "data": walk.event().decode()}
    replies.append(Reply(200, page | {"events": [bad_row]}))
    texts = []
    for reply in [*replies, *answers_to_a_post(walk.plant())]:
        with FakeSidecar(reply) as fake:
            settings = {"url": fake.url}
            plugin = timed(load_plugin(hermes_home, CONSUMER, settings), clock)
            texts.append(failure(partial(walk_consumer, plugin)))
            plugin.close()
    assert sum("Error" in text for text in texts) > len(replies) + 5
    assert leaks("\n".join(texts) + caplog.text, walk.canaries) == []


def walk_consumer(plugin: Any) -> None:
    with plugin:
        plugin.setTimeout(50)
        plugin.seek(7)
        next(iter(plugin), None)


@pytest.mark.parametrize(
    "url",
    [
        "nats://hermes:pa[{}]word@nats.example",
        "nats://hermes:{}\u2100word@nats.example",
        "nats://{}/word@nats.example",
    ],
)
def test_a_url_with_a_strange_secret_is_refused_without_it(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    canary = new_canary().replace("/", "")
    environ = {"SIDECAR_NATS_URL": url.replace("{}", canary)}
    monkeypatch.setenv(*next(iter(environ.items())))
    with pytest.raises(SettingsError) as caught:
        load(environ)
    assert leaks(_everything_of(caught.value), {canary}) == []


@pytest.mark.parametrize("as_json", [True, False])
def test_tail_shows_no_type_that_is_no_plain_name(as_json: bool) -> None:
    canary = new_canary()
    data = {"eventtype": f"{canary}\x1b]0;owned\x07", "objtype": {"password": canary}}
    found = Found(1, "t", f"base{canary}", json.dumps(data), data)
    view = View("first", Wanted(), follow=False, as_json=as_json, show_payload=False)
    line = (
        json.dumps(_document(found, view)) if as_json else " ".join(_row(found, view))
    )
    assert leaks(line, {canary}) == []
    assert "\x1b" not in line
