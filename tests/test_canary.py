# SPDX-License-Identifier: Apache-2.0
"""Secrets are planted in a running sidecar, and then searched for everywhere.

Everywhere is: logs at each level and format, answers other than reads of events,
metrics, health, the page, `tail`, `trace`, NATS headers. test_canary_texts.py does so
with texts of exceptions and dumps of values.
"""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
from support.canary import leaks, new_canary, spellings
from support.canary_walk import MOST_BYTES, Walk
from support.jetstream import RawNatsClient
from support.nats import NatsProcess, free_port
from support.process import wait_until
from support.sidecar import COMMAND, SidecarProcess, environment

if TYPE_CHECKING:
    from collections.abc import Iterator

RUNS = (
    ("debug", "json"),  # the most talkative in both formats
    ("debug", "console"),
    ("info", "json"),
    ("warning", "console"),
    ("error", "json"),
)


STATUSES = {
    *(200, 201, 400, 401, 404, 405, 410, 412, 413, 415, 422, 428, 503, 504),
}
"""What is walked through; 408 takes half a minute, 409 five seconds."""


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
        list(pool.map(lambda walk: _meet(walk, nats, password), everyone))
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


def _meet(walk: Walk, nats: NatsProcess, password: str) -> None:
    walk.process.wait_ready(120)
    _succeed(walk)
    _fail(walk)
    _look(walk, nats, password)


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
    with walk.process.client() as http:
        row = http.get("/v1/events", params={"category": "base"}).json()["events"][-1]
    key = json.dumps(json.loads(row["data"])["objpkey"])
    for command in (
        ["tail", "--category", "base"],
        ["tail", "--key", key, "--since", "1h"],
        ["trace", "--type", "Users", "--key", key],
    ):
        ran = subprocess.run(
            [*COMMAND, *command, *["--json"] * is_json],
            env=environ,
            capture_output=True,
            text=True,
            check=True,
        )
        assert str(row["offset"]) in ran.stdout
        walk.printed.append(ran.stdout + ran.stderr)
    name = str(walk.process.settings["stream"])
    with RawNatsClient(nats.port, "hermes", password) as operator:
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
        assert len(walk.printed) == 3
    for level, log_format in RUNS:
        if level != "error":
            assert "refused" in walks[level, log_format].process.output()


def test_no_secret_is_in_a_log(walk: Walk) -> None:
    assert leaks(walk.process.output(), walk.canaries) == []


def test_no_secret_is_in_an_answer(walk: Walk) -> None:
    assert leaks("\n".join(walk.answers), walk.canaries) == []


def test_no_secret_is_in_what_tail_and_trace_show(walk: Walk) -> None:
    assert leaks("\n".join(walk.printed), walk.canaries) == []


def test_no_secret_is_in_a_header_or_subject_of_the_stream(walk: Walk) -> None:
    assert leaks("\n".join(walk.headers), walk.canaries) == []
