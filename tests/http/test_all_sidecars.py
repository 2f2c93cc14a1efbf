# SPDX-License-Identifier: Apache-2.0
"""One place shows the clients of all sidecars: two real ones on one nats-server."""

from __future__ import annotations

import asyncio
import json
import socket
import uuid
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import nats as nats_py
import pytest
from support.commands import run_here
from support.nats import NatsProcess
from support.process import wait_until
from support.sidecar import event, last_offset, post, sidecar_on
from support.status_page import clients

from sidecar.jetstream.service import QUESTION
from sidecar.services.survey import PAUSE_SECONDS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from nats.aio.msg import Msg
    from support.sidecar import SidecarProcess

HOST = socket.gethostname()
FAR = "far-away.example"


@pytest.fixture
def name() -> str:
    return f"a{uuid.uuid4().hex[:12]}"


@pytest.fixture
def two(
    nats: NatsProcess, tmp_path: Path, name: str
) -> Iterator[tuple[SidecarProcess, SidecarProcess]]:
    """Serve one stream by two sidecars, each of which a client reads from."""
    with (
        sidecar_on(nats, tmp_path / "one", name) as one,
        sidecar_on(nats, tmp_path / "two", name, role="consumer") as two,
    ):
        with one.client() as http:
            assert post(http, event()).is_success
        read(one, "client-of-one")
        read(two, "client-of-two")
        yield one, two


def read(process: SidecarProcess, agent: str) -> None:
    with process.client() as http:
        query = {"offset": last_offset(http)}
        answer = http.get("/v1/events", params=query, headers={"User-Agent": agent})
        assert answer.is_success


def everyone(process: SidecarProcess) -> dict[str, Any]:
    with process.client() as http:
        document: dict[str, Any] = http.get("/v1/clients").json()
        return document


@asynccontextmanager
async def far_sidecar(nats: NatsProcess, stream: str) -> AsyncIterator[list[str]]:
    """Answer as a sidecar on another host does; give the questions."""
    client = await nats_py.connect(nats.url)
    questions: list[str] = []
    row = {"name": "client-far-away", "state": "stranded", "offset": 7, "behind": None}
    data = {"clients": [row | {"last_seen_seconds": 3, "sidecar": HOST}]}
    document = {
        "id": "far",
        "metadata": {"host": FAR, "stream": stream},
        "endpoints": [{"data": data}],
    }

    async def answer(question: Msg) -> None:
        questions.append(question.reply)
        await question.respond(b"no JSON")
        await question.respond(json.dumps(document).encode())

    await client.subscribe(QUESTION, cb=answer)
    await client.flush()
    try:
        yield questions
    finally:
        await client.close()


def test_the_clients_of_both_are_seen_at_each_by_api_page_and_command(
    two: tuple[SidecarProcess, SidecarProcess],
) -> None:
    for process in two:
        document = everyone(process)
        assert (document["complete"], document["reason"]) == (True, None)
        assert [
            (row["name"], row["sidecar"], row["state"], row["behind"])
            for row in document["clients"]
        ] == [
            ("client-of-one", HOST, "reading", 1),
            ("client-of-two", HOST, "reading", 1),
        ]
        with process.client() as http:
            page = http.get("/").text
            metrics = http.get("/metrics").text
        ran = run_here("clients", unix_socket=process.socket)
        assert ran.stderr == ""
        for client in ("client-of-one", "client-of-two"):
            assert (client, HOST, "reading") in clients(page)
            assert client in ran.stdout
        # Each is scraped by itself.
        assert metrics.count("hermes_sidecar_client_behind_events{client=") == 1


async def test_a_sidecar_that_ends_is_missed_by_its_host(
    nats: NatsProcess, name: str, two: tuple[SidecarProcess, SidecarProcess]
) -> None:
    one, other = two
    async with far_sidecar(nats, name):
        other.kill()

        def sees_far() -> bool:
            clients = everyone(one)["clients"]
            return [row["sidecar"] for row in clients] == [FAR, HOST]

        await asyncio.to_thread(wait_until, sees_far, what="the far one is seen")
        document = await asyncio.to_thread(everyone, one)
        assert document["complete"] is True  # `other` was never heard by `one`
        far = document["clients"][0]
        assert far["last_seen_seconds"] >= 3
        assert far | {"last_seen_seconds": 3} == {
            "name": "client-far-away",
            "sidecar": FAR,
            "offset": 7,
            "behind": None,
            "last_seen_seconds": 3,
            "state": "stranded",
        }

    def is_missed() -> object:
        return everyone(one)["reason"] == f"The sidecar on {FAR} did not answer."

    await asyncio.to_thread(wait_until, is_missed, what="the far one is missed")
    document = await asyncio.to_thread(everyone, one)
    assert document["complete"] is False
    assert [row["name"] for row in document["clients"]] == ["client-of-one"]
    with one.client() as http:
        page = http.get("/").text
        health = http.get("/health").json()
    assert f"The sidecar on {FAR} did not answer." in page
    ran = await asyncio.to_thread(run_here, "clients", unix_socket=one.socket)
    assert ran.stderr == f"The sidecar on {FAR} did not answer.\n"
    (check,) = [each for each in health["checks"] if each["name"] == "clients"]
    assert check["status"] == "pass"  # the far client is stranded, and not ours


def test_a_killed_sidecar_is_missed(
    two: tuple[SidecarProcess, SidecarProcess],
) -> None:
    one, other = two
    assert everyone(one)["complete"] is True
    other.kill()
    reason = f"The sidecar on {HOST} did not answer."
    wait_until(lambda: everyone(one)["reason"] == reason, what="it is missed")
    assert [row["name"] for row in everyone(one)["clients"]] == ["client-of-one"]


async def test_all_who_look_at_once_share_a_question_and_nobody_asks_else(
    nats: NatsProcess, name: str, two: tuple[SidecarProcess, SidecarProcess]
) -> None:
    one, _ = two
    async with far_sidecar(nats, name) as questions:
        with one.client() as http:
            for path in ("/health", "/metrics", "/v1/stream"):
                await asyncio.to_thread(http.get, path)
        assert questions == []
        started_at = asyncio.get_running_loop().time()
        await asyncio.gather(*(asyncio.to_thread(everyone, one) for _ in range(30)))
        took_seconds = asyncio.get_running_loop().time() - started_at
        assert 1 <= len(questions) <= 1 + took_seconds / PAUSE_SECONDS


async def test_the_clients_of_another_stream_are_not_shown(
    nats: NatsProcess, two: tuple[SidecarProcess, SidecarProcess]
) -> None:
    async with far_sidecar(nats, "another") as questions:
        document = await asyncio.to_thread(everyone, two[0])
        assert questions
        assert document["complete"] is True
        assert {row["sidecar"] for row in document["clients"]} == {HOST}


def test_without_nats_the_clients_of_this_sidecar_are_shown(tmp_path: Path) -> None:
    with (
        NatsProcess(tmp_path / "nats") as nats,
        sidecar_on(nats, tmp_path / "one") as process,
    ):
        with process.client() as http:
            assert post(http, event()).is_success
        read(process, "own")
        nats.kill()
        reason = "NATS does not respond: only clients of this sidecar are known."
        wait_until(lambda: everyone(process)["reason"] == reason, what="NATS is lost")
        document = everyone(process)
        assert [row["name"] for row in document["clients"]] == ["own"]
        assert document["complete"] is False
