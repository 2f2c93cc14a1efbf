# SPDX-License-Identifier: Apache-2.0
"""Secrets are planted wherever a secret may be, and then searched for everywhere.

Everywhere is: logs at each level and format, answers other than reads of events,
metrics, health, the page, `tail`, NATS headers, texts of exceptions, dumps of values.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import os
import socket
import subprocess
import sys
import traceback
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import httpx
import pytest
from parts.answers import NO_ANSWER, Clock, Player, Reply, problem, stands, timed
from parts.canary import leaks, new_canary, spellings
from parts.hermes import load_plugin, new_event
from parts.jetstream import Operator
from parts.nats import NatsProcess, free_port
from parts.process import wait_until
from parts.sidecar import COMMAND, SidecarProcess, environment, event

from sidecar import errors
from sidecar.commands.tail import View, _line
from sidecar.errors import Outcome, Problem
from sidecar.http.models import read_query
from sidecar.model.event import parse_event, parse_key, parse_precondition
from sidecar.model.reply import Observation, Position, StoredMessage
from sidecar.services.reader import Page
from sidecar.settings import SettingsError, load

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

RUNS = (
    ("debug", "json"),  # the most talkative in both formats
    ("debug", "console"),
    ("info", "json"),
    ("warning", "console"),
    ("error", "json"),
)
MOST_BYTES = 4000

STATUSES = {
    *(200, 201, 400, 401, 404, 405, 410, 412, 413, 415, 422, 428, 503, 504),
}
"""What is walked through; 408 takes half a minute, 409 five seconds."""


@dataclass
class Walk:
    """One daemon, what was planted in it and what it showed."""

    process: SidecarProcess
    canaries: set[str] = field(default_factory=set)
    statuses: set[int] = field(default_factory=set)
    answers: list[str] = field(default_factory=list)
    printed: list[str] = field(default_factory=list)
    headers: list[str] = field(default_factory=list)
    last: int = 0

    def plant(self) -> str:
        canary = new_canary()
        self.canaries.add(canary)
        return canary

    def event(self, **values: object) -> bytes:
        """Make an event with secrets in its key and attributes."""
        attributes = {
            "password": self.plant(),
            self.plant(): ["nested", {"deep": self.plant()}],
            "photo": f"HermesBytes({base64.b64encode(self.plant().encode()).decode()})",
        }
        own: dict[str, Any] = {"objpkey": self.plant(), "objattrs": attributes}
        return event(**(own | values))

    def post(
        self, body: bytes, key: str | None = None, last: object = "*", **headers: str
    ) -> httpx.Response:
        precondition = "*" if last == "*" else f'"{last}"'
        fields = {
            "Content-Type": "application/json",
            "Idempotency-Key": key or str(uuid.uuid4()),
            "If-Match": precondition,
        }
        fields |= {name.replace("_", "-"): value for name, value in headers.items()}
        return self.ask(
            "POST",
            "/v1/events",
            content=body,
            headers={k: v for k, v in fields.items() if v},
        )

    def ask(self, method: str, path: str, **rest: Any) -> httpx.Response:
        with self.process.client() as http:
            return self._note(http.request(method, path, **rest))

    def ask_tcp(self, path: str, authorization: str | None) -> httpx.Response:
        headers = {} if authorization is None else {"Authorization": authorization}
        url = f"http://127.0.0.1:{self.tcp_port}{path}"
        return self._note(httpx.get(url, headers=headers, trust_env=False))

    def say(self, data: bytes) -> None:
        """Send bytes that are no HTTP."""
        with socket.socket(socket.AF_UNIX) as raw:
            raw.settimeout(10)
            raw.connect(str(self.process.socket))
            raw.sendall(data)
            raw.shutdown(socket.SHUT_WR)
            while data := raw.recv(65536):
                self.answers.append(data.decode("latin-1"))

    def _note(self, answer: httpx.Response) -> httpx.Response:
        self.statuses.add(answer.status_code)
        self.answers.append(f"{answer.headers!r}\n{answer.text}")
        return answer

    @property
    def tcp_port(self) -> int:
        return int(str(self.process.settings["http_port"]))


@pytest.fixture(scope="module")
def walks(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[tuple[str, str], Walk]]:
    """Walk all paths of a daemon for each level and format, on one NATS."""
    directory = tmp_path_factory.mktemp("canary")
    password = new_canary()
    quoted = json.dumps(password)
    users = f"authorization {{ users = [{{ user: hermes, password: {quoted} }}] }}"
    nats = NatsProcess(directory / "nats", extra=users)
    with ExitStack() as stack:
        stack.enter_context(nats)
        walks = {run: _start(stack, directory, nats, password, run) for run in RUNS}
        pool = stack.enter_context(ThreadPoolExecutor(len(walks)))
        everyone: list[Walk] = list(walks.values())
        for walk in everyone:
            walk.process.wait_ready(120)
            _succeed(walk)
            _fail(walk)
            _look(walk, nats, password)
        nats.freeze()
        list(pool.map(_time_out, everyone))
        nats.thaw()
        nats.kill()
        list(pool.map(_lose_nats, everyone))
        for walk in everyone:
            walk.process.running.terminate()
        for walk in everyone:
            walk.process.running.wait(30)
        yield walks


def _start(
    stack: ExitStack,
    directory: Path,
    nats: NatsProcess,
    password: str,
    run: tuple[str, str],
) -> Walk:
    level, log_format = run
    home = directory / f"{level}-{log_format}"
    home.mkdir()
    token = new_canary().replace(" ", "_")
    (home / "token").write_text(token)
    (home / "password").write_text(password)
    process = SidecarProcess(
        home,
        nats_url=nats.url,
        nats_user="hermes",
        nats_password_file=home / "password",
        stream=home.name,
        subject_prefix=home.name,
        stream_create=True,
        token_file=home / "token",
        http_port=free_port(),
        publish_timeout_seconds=3,
        max_event_bytes=MOST_BYTES,
        log_level=level,
        log_format=log_format,
    )
    process.start()
    stack.callback(process.stop)
    return Walk(process, {password, token})


def _token(walk: Walk) -> str:
    return Path(str(walk.process.settings["token_file"])).read_text()


def _succeed(walk: Walk) -> None:
    first = walk.event()
    last = walk.ask("GET", "/v1/stream").json()["last_offset"]
    walk.post(first, "first", last, Authorization=walk.plant(), Cookie=walk.plant())
    walk.post(first, "first", last, X_Anything=walk.plant())
    walk.post(walk.event())
    strange = {"eventtype": walk.plant(), "objtype": walk.plant()}
    walk.post(walk.event(evcategory="initsync", **strange))
    walk.ask_tcp("/v1/stream", f"Bearer {_token(walk)}")
    stored = walk.ask_tcp("/v1/stream", None)  # the last one that may fail
    assert stored.status_code == 401
    walk.post(walk.event(), "first", last)
    walk.post(walk.event(), None, last)


def _fail(walk: Walk) -> None:
    plant = walk.plant
    legal = {"Idempotency_Key", "If_Match", "Content_Type"}
    for name in sorted(legal):
        walk.post(walk.event(), **{name: plant()})
        walk.post(walk.event(), **{name: ""})
    for value in (plant(), [plant()], {plant(): plant()}, None):
        walk.post(walk.event(evcategory=value))
    for body in (f'{{"a": "{plant()}"', f'"{plant()}"', f"[{plant()}]", plant()):
        walk.post(body.encode())
    walk.post(b"\xff" + plant().encode())
    walk.post((f'{{"{plant()}":' * 200).encode()[:MOST_BYTES])
    walk.post(b"[" * (MOST_BYTES - 100) + plant().encode())
    walk.post(walk.event(objpkey=plant() * MOST_BYTES))
    walk.post(walk.event(), None, 1)
    walk.post(walk.event(), None, 9_000_000_000_000_000)
    for name in ("offset", "limit", "wait", "category", "max_bytes", plant()):
        walk.ask("GET", "/v1/events", params={name: plant()})
    walk.ask("GET", "/v1/events", params={"offset": "1"})
    for path in (f"/{quote(plant())}", f"/v1/{quote(plant())}", "/docs"):
        walk.ask("GET", path)
    walk.ask("DELETE", f"/v1/events?{quote(plant())}", headers={"X-Secret": plant()})
    for authorization in (f"Bearer {plant()}", f"Basic {plant()}", plant(), "Bearer"):
        walk.ask_tcp("/v1/stream", authorization)
    key = plant().encode()
    for data in (
        key,
        b"GET / HTTP/1.1\r\n" + key + b"\r\n\r\n",
        b"GET /" + key + b" HTTP/1.1\r\n\r\n",
        key + b" / HTTP/1.1\r\n\r\n",
        b"POST /v1/events HTTP/1.1\r\nContent-Length: " + key + b"\r\n\r\n",
        b"GET /health/live HTTP/1.1\r\nUpgrade: "
        + key
        + b"\r\nConnection: Upgrade\r\n\r\n",
        b"GET /health/live HTTP/1.1\r\nExpect: " + key + b"\r\n\r\n",
        b"POST /v1/events HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + key,
        b"POST /v1/events HTTP/1.1\r\nIdempotency-Key: a\r\nIf-Match: *\r\n"
        b"Content-Type: application/json\r\nContent-Length: 999\r\n\r\n" + key,
    ):
        walk.say(data)


def _look(walk: Walk, nats: NatsProcess, password: str) -> None:
    """Collect what people and programs look at."""
    for path in ("/", "/metrics", "/health", "/health/live", "/v1/stream"):
        walk.ask("GET", path)
    environ = environment(**walk.process.settings)
    is_json = walk.process.settings["log_format"] == "json"
    ran = subprocess.run(
        [*COMMAND, "tail", "--category", "base", *["--json"] * is_json],
        env=environ,
        capture_output=True,
        text=True,
        check=True,
    )
    walk.printed.append(ran.stdout + ran.stderr)
    name = str(walk.process.settings["stream"])
    with Operator(nats.port, "hermes", password) as operator:
        state = operator.state(name)
        walk.last = state["last_seq"]
        for sequence in range(state["first_seq"], state["last_seq"] + 1):
            message = operator.api(f"STREAM.MSG.GET.{name}", {"seq": sequence})
            headers = base64.b64decode(message["message"]["hdrs"]).decode()
            walk.headers.append(message["message"]["subject"] + headers)


def _time_out(walk: Walk) -> None:
    """Leave a copy without an answer: NATS is frozen."""
    walk.post(walk.event(), None, walk.last)


def _lose_nats(walk: Walk) -> None:
    wait_until(lambda: walk.ask("GET", "/health").status_code == 503)
    walk.post(walk.event())
    walk.ask("GET", "/v1/events")
    walk.ask("GET", "/v1/stream")


@pytest.fixture(params=RUNS, ids="-".join)
def walk(walks: dict[tuple[str, str], Walk], request: pytest.FixtureRequest) -> Walk:
    return walks[request.param]


def test_the_search_finds_a_secret_however_it_is_spelt() -> None:
    secret = new_canary()
    data = secret.encode()
    for text in (
        f"xx{secret}xx",
        secret.split()[1],
        json.dumps({"a": secret}),
        quote(secret),
        data.hex().upper(),
        base64.b64encode(b"x" + data).decode(),
        base64.b64encode(b"xy" + data + b"z").decode(),
        base64.urlsafe_b64encode(b"xyz" + data).decode(),
        hashlib.sha256(data).hexdigest(),
        hashlib.sha1(data).hexdigest(),  # noqa: S324 - what somebody might log
        hashlib.md5(data).hexdigest(),  # noqa: S324 - same
    ):
        assert leaks(text, {secret}), text
    assert leaks("", {secret}) == []
    assert leaks(new_canary(), {secret}) == []
    assert len(spellings(secret)) >= 8


def test_every_path_was_walked_at_each_level_and_format(
    walks: dict[tuple[str, str], Walk],
) -> None:
    for run, walk in walks.items():
        assert walk.statuses >= STATUSES, run
        assert len(walk.canaries) > 50
        assert len(walk.headers) == 3
        assert all(len(text.splitlines()) == 2 for text in walk.printed)
    for level, log_format in RUNS:
        if level != "error":
            assert "refused" in walks[level, log_format].process.output()


def test_no_secret_is_in_a_log(walk: Walk) -> None:
    assert leaks(walk.process.output(), walk.canaries) == []


def test_no_secret_is_in_an_answer(walk: Walk) -> None:
    assert leaks("\n".join(walk.answers), walk.canaries) == []


def test_no_secret_is_in_what_tail_shows(walk: Walk) -> None:
    assert leaks("\n".join(walk.printed), walk.canaries) == []


def test_no_secret_is_in_a_header_or_subject_of_the_stream(walk: Walk) -> None:
    assert leaks("\n".join(walk.headers), walk.canaries) == []


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
        with Player(stands(7), reply) as player:
            settings = {
                "url": player.url,
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
        with Player(reply) as player:
            settings = {"url": player.url}
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
    row: Any = {"offset": 1, "timestamp": "t", "category": "base"}
    view = View("first", None, follow=False, as_json=as_json, show_payload=False)
    line = _line(row | {"data": json.dumps(data)}, view)
    assert leaks(line, {canary}) == []
    assert "\x1b" not in line
