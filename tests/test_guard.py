# SPDX-License-Identifier: Apache-2.0
"""What the listeners of a running sidecar let pass."""

from __future__ import annotations

import asyncio
import socket
import uuid
from typing import TYPE_CHECKING

import httpx
import pytest
from parts.nats import NatsProcess
from parts.process import wait_until
from parts.sidecar import SidecarProcess, event, post, sidecar_on

from sidecar.publish import MAX_IN_FLIGHT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def guarded(
    nats: NatsProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SidecarProcess]:
    """Serve the API open on TCP, for events of 1,000 bytes at most."""
    directory = tmp_path_factory.mktemp("guarded")
    with sidecar_on(nats, directory, tcp_api="open", max_event_bytes=1000) as process:
        yield process


def ask(sidecar: SidecarProcess, path: str, *hosts: str) -> httpx.Response:
    headers = [("Host", host) for host in hosts]
    url = f"http://127.0.0.1:{sidecar.tcp_port}{path}"
    return httpx.get(url, headers=headers, trust_env=False)


def test_a_forged_host_is_refused_but_for_probes(guarded: SidecarProcess) -> None:
    for path in ("/v1/stream", "/v1/events", "/", "/nothing"):
        answer = ask(guarded, path, "evil.example")
        assert (answer.status_code, answer.json()["code"]) == (421, "wrong_host")
        assert "evil" not in answer.text
    for path in ("/health", "/health/live", "/metrics"):
        assert ask(guarded, path, "evil.example").status_code == 200


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8480", "[::1]", "sidecar"])
def test_a_host_that_is_ours_is_served(guarded: SidecarProcess, host: str) -> None:
    assert ask(guarded, "/v1/stream", host).status_code == 200


def test_a_second_host_is_refused(guarded: SidecarProcess) -> None:
    with socket.create_connection(("127.0.0.1", guarded.tcp_port)) as connection:
        connection.sendall(
            b"GET /v1/stream HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n"
        )
        assert connection.recv(4096).startswith(b"HTTP/1.1 4")


def test_over_a_unix_socket_any_host_will_do(guarded: SidecarProcess) -> None:
    with guarded.client() as http:
        headers = {"Host": "evil.example"}
        assert http.get("/v1/stream", headers=headers).status_code == 200


def test_an_answer_that_may_show_secrets_is_kept_by_nobody(
    guarded: SidecarProcess,
) -> None:
    for path in ("/v1/stream", "/v1/events", "/health", "/v1/events?offset=x"):
        headers = ask(guarded, path, "localhost").headers
        assert headers["cache-control"] == "no-store"
        assert headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in headers


def test_an_event_over_the_limit_of_the_settings_is_refused(
    guarded: SidecarProcess,
) -> None:
    body = event(objattrs={"photo": "x" * 1000})
    with guarded.client() as http:
        answer = post(http, body)
        assert (answer.status_code, answer.json()["limit_bytes"]) == (413, 1000)
        assert post(http).status_code == 201


async def test_one_publish_too_many_is_told_to_come_again(tmp_path: Path) -> None:
    with (
        NatsProcess(tmp_path) as nats,
        sidecar_on(nats, tmp_path / "busy", publish_timeout_seconds=5) as sidecar,
    ):
        transport = httpx.AsyncHTTPTransport(
            uds=str(sidecar.socket), limits=httpx.Limits(max_connections=None)
        )
        async with httpx.AsyncClient(
            transport=transport, base_url="http://x", timeout=60
        ) as http:
            nats.freeze()
            try:
                answers = await asyncio.gather(
                    *(_post(http) for _ in range(MAX_IN_FLIGHT + 20))
                )
            finally:
                nats.thaw()
            busy = [one for one in answers if one.status_code == 429]
            assert len(busy) >= 20
            assert {one.json()["code"] for one in busy} == {"busy"}
            assert {one.json()["outcome"] for one in busy} == {"not_stored"}
            assert {one.headers["retry-after"] for one in busy} == {"1"}
        sidecar.wait_ready()
        with sidecar.client() as good:
            refused = 'hermes_sidecar_requests_refused_total{code="busy"}'
            assert f"{refused} {len(busy)}.0" in good.get("/metrics").text
            wait_until(lambda: post(good).status_code == 201, what="stored")


async def _post(http: httpx.AsyncClient) -> httpx.Response:
    return await http.post(
        "/v1/events",
        content=event(),
        headers={
            "Content-Type": "application/json",
            "Idempotency-Key": str(uuid.uuid4()),
            "If-Match": '"0"',
        },
    )


def test_a_secret_that_everybody_may_read_gives_a_warning(
    nats: NatsProcess, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("c0rrect-horse")
    for mode, warnings in ((0o644, [str(token)]), (0o640, [])):
        token.chmod(mode)
        with sidecar_on(nats, tmp_path / f"{mode:o}", token_file=token) as sidecar:
            rows = sidecar.rows()
        found = [row["file"] for row in rows if row["event"] == "secret_readable"]
        assert found == warnings
