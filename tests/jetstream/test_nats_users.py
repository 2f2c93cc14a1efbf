# SPDX-License-Identifier: Apache-2.0
"""Credentials that change, what a user may not, and whose inbox is whose."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

import pytest
from support.fake_nats import connected, settings_of
from support.jetstream import RawNatsClient
from support.jwt import RawNatsClient as JwtOperator
from support.nats import NatsProcess
from support.process import wait_until
from support.sidecar import SidecarProcess, event, post

from sidecar import errors
from sidecar.jetstream.requests import NoReply
from sidecar.model.event import parse_event
from sidecar.model.publish_reply import Refused

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.sidecar import SidecarProcess as Sidecar

    from sidecar.settings import Settings

INBOX_PREFIX = "_INBOX_hermes_both"


# -- Credentials that change -----------------------------------------------------------


def refused(process: Sidecar) -> bool:
    answer = process.health()
    return answer is not None and "refused the login" in answer.text


def replace(file: Path, text: str) -> None:
    """Write it as those do who rotate credentials: whole, under the same name."""
    fresh = file.with_suffix(".new")
    fresh.write_text(text)
    fresh.rename(file)


def test_an_expired_jwt_user_is_named_and_rotated_credentials_are_taken_up(
    tmp_path: Path,
) -> None:
    operator = JwtOperator()
    file = tmp_path / "user.creds"
    file.write_text(operator.credentials(-60))
    with NatsProcess(tmp_path / "nats", extra=operator.config) as server:
        process = SidecarProcess(
            tmp_path / "sidecar",
            nats_url=server.url,
            nats_creds_file=file,
            stream_create=True,
            role="producer",  # one connection: what /health says is true of the post
        )
        process.start()
        try:
            wait_until(lambda: refused(process), 60, "the expired user is refused")
            replace(file, operator.credentials(8))
            process.wait_ready()
            with process.client() as http:
                assert post(http).status_code == 201
                wait_until(lambda: refused(process), 30, "the server ends it")
                assert post(http).json()["code"] == "nats_refused"
                replace(file, operator.credentials(3600))
                process.wait_ready()
                assert post(http).status_code == 201
            names = [row["event"] for row in process.rows()]
            after = names[names.index("nats_connected") + 1 :]
            # NATS was not down: it said itself why it ended the connection.
            assert next(one for one in after if "nats_" in one) == "nats_refused"
        finally:
            process.stop()


def test_a_rotated_password_is_taken_up_by_the_next_connection(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("one")
    users = "authorization {{ users = [{{ user: hermes, password: {} }}] }}"
    with (
        NatsProcess(tmp_path / "nats", extra=users.format("one")) as server,
        SidecarProcess(
            tmp_path / "sidecar",
            nats_url=server.url,
            nats_user="hermes",
            nats_password_file=file,
            stream_create=True,
            role="producer",  # one connection: what /health says is true of the post
        ) as process,
        process.client() as http,
    ):
        assert post(http).status_code == 201
        server.extra = users.format("two")
        server.write_config()
        server.running.send_signal(signal.SIGHUP)
        wait_until(lambda: refused(process), 30, "the old password is refused")
        replace(file, "two\n")
        process.wait_ready()
        assert post(http).status_code == 201


# -- Permissions and the inbox ---------------------------------------------------------


USERS = """\
authorization {{ users = [
  {{ user: all, password: x }}
  {{ user: mute, password: x, permissions: {{ publish: {{ deny: "{stream}.*" }} }} }}
  {{ user: blind, password: x, permissions: {{ publish: {{ deny: "$JS.>" }} }} }}
  {{ user: deaf, password: x, permissions: {{ subscribe: {{ deny: "{inbox}.>" }} }} }}
  {{ user: other, password: x }}
] }}
"""


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsProcess]:
    """Run a nats-server whose users each lack one right, with a stream."""
    directory = tmp_path_factory.mktemp("strict")
    users = USERS.format(stream="hermes", inbox=INBOX_PREFIX)
    with NatsProcess(directory, extra=users) as server:
        with RawNatsClient(server.port, "all", "x") as operator:
            operator.create("hermes")
        yield server


def user(name: str, server: NatsProcess, directory: Path) -> Settings:
    file = directory / "x"
    file.write_text("x")
    return settings_of(nats_url=server.url, nats_user=name, nats_password_file=file)


async def test_a_publish_that_is_not_permitted_is_named_at_once(
    strict: NatsProcess, tmp_path: Path
) -> None:
    async with connected(user("mute", strict, tmp_path)) as connection:
        async with asyncio.timeout(60):
            answer = await connection.publish(parse_event(event()), "key", 0, 600)
        assert answer == Refused(errors.NATS_PERMISSION)


async def test_a_question_that_is_not_permitted_is_named_at_once(
    strict: NatsProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidecar.jetstream.api.REQUEST_SECONDS", 600.0)
    async with connected(user("blind", strict, tmp_path)) as connection:
        with pytest.raises(NoReply) as caught:
            async with asyncio.timeout(60):
                await connection.api.stream_info()
        assert caught.value.cause is errors.NATS_PERMISSION


async def test_an_inbox_that_is_not_permitted_is_named_at_once(
    strict: NatsProcess, tmp_path: Path
) -> None:
    async with connected(user("deaf", strict, tmp_path)) as connection:
        async with asyncio.timeout(60):
            await connection.lost.wait()
        assert connection.cause is errors.NATS_PERMISSION


@pytest.mark.parametrize(
    ("subject", "hears"), [("_INBOX.>", False), (f"{INBOX_PREFIX}.>", True)]
)
async def test_who_listens_to_the_inboxes_of_others_hears_nothing_of_ours(
    subject: str, hears: bool, strict: NatsProcess, tmp_path: Path
) -> None:
    with RawNatsClient(strict.port, "other", "x") as listener:
        listener.answer_at(subject)
        async with connected(user("all", strict, tmp_path)) as connection:
            assert await connection.api.stream_info() is not None
        listener._write(b"PING\r\n")
        line = listener._read_until(b"PONG", b"MSG", b"HMSG")
        assert line.startswith(b"MSG") is hears


async def test_each_connection_has_an_inbox_that_nobody_can_guess(
    strict: NatsProcess, tmp_path: Path
) -> None:
    inboxes = set()
    for _ in range(3):
        async with connected(user("all", strict, tmp_path)) as connection:
            inboxes.add(connection.requests._inbox)
    assert len(inboxes) == 3
    for inbox in inboxes:
        prefix, _, token = inbox.partition(".")
        assert prefix == INBOX_PREFIX
        assert len(token) >= 22
