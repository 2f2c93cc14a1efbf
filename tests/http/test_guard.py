# SPDX-License-Identifier: Apache-2.0
"""What the listeners of a running sidecar let pass."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import pytest
from support.sidecar import SidecarProcess, event, post, sidecar_on

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import httpx
    from support.nats import NatsProcess


@pytest.fixture(scope="module")
def guarded(
    nats: NatsProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SidecarProcess]:
    """Serve the API open on TCP, for events of 1,000 bytes at most."""
    directory = tmp_path_factory.mktemp("guarded")
    settings: dict[str, Any] = {
        "tcp_api": "open",
        "max_event_bytes": 1000,
        "http_names": "sidecar",
    }
    with sidecar_on(nats, directory, **settings) as process:
        yield process


def ask(sidecar: SidecarProcess, path: str, *hosts: str) -> httpx.Response:
    return sidecar.get(path, [("Host", host) for host in hosts])


def test_a_forged_host_is_refused_but_for_probes(guarded: SidecarProcess) -> None:
    for path in ("/v1/stream", "/v1/events", "/", "/nothing"):
        assert ask(guarded, path, "wpad").status_code == 421
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
