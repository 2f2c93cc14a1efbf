# SPDX-License-Identifier: Apache-2.0
"""What the TCP port serves, to whom."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import pytest
from support.sidecar import WITHOUT_TLS, SidecarProcess, post, sidecar_on

if TYPE_CHECKING:
    from pathlib import Path

    from support.nats import NatsProcess


def tcp(process: SidecarProcess, host: str = "127.0.0.1", token: str = "") -> Any:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return httpx.Client(
        base_url=f"http://{host}:{process.tcp_port}",
        headers=headers,
        trust_env=False,
        verify=WITHOUT_TLS,
    )


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@pytest.mark.parametrize("path", ["/health", "/health/live", "/health/ready"])
def test_health_is_served_over_tcp_by_address_and_by_name(
    sidecar: SidecarProcess, host: str, path: str
) -> None:
    with tcp(sidecar, host) as http:
        answer = http.get(path)
        assert answer.status_code == 200
        assert answer.json()["status"] in ("ready", "live")


def test_the_api_over_tcp_is_off_by_default(sidecar: SidecarProcess) -> None:
    with tcp(sidecar) as http:
        for answer in (
            post(http),
            http.get("/v1/events"),
            http.get("/v1/stream"),
            http.get("//v1/stream"),
            http.get("/v1/nothing"),
        ):
            assert answer.status_code in (403, 404)
            assert answer.json()["code"] in ("api_off", "not_found")
        assert post(http).json()["code"] == "api_off"


def test_the_api_over_tcp_with_a_token_wants_that_token(
    nats: NatsProcess, tmp_path: Path
) -> None:
    token_file = tmp_path / "token"
    token_file.write_text("c0rrect-horse\n")
    with sidecar_on(nats, tmp_path / "s", token_file=token_file) as process:
        with tcp(process) as http:
            answer = post(http)
            assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
            assert answer.headers["www-authenticate"] == "Bearer"
            assert http.get("/health").status_code == 200
        with tcp(process, token="wrong") as http:
            assert post(http).status_code == 401
            assert http.get("/v1/stream").status_code == 401
        with tcp(process, token="c0rrect-horse") as http:
            assert post(http).status_code == 201
            assert http.get("/v1/events").status_code == 200
            token_file.write_text("changed")
            assert post(http).status_code == 401
        with process.client() as http:
            assert post(http).status_code == 201  # the Unix socket needs none
        assert "c0rrect" not in process.output()


def test_the_api_over_tcp_can_be_open(nats: NatsProcess, tmp_path: Path) -> None:
    with (
        sidecar_on(nats, tmp_path / "s", tcp_api="open") as process,
        tcp(process) as http,
    ):
        assert post(http).status_code == 201
