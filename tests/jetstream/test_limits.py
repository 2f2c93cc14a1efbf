# SPDX-License-Identifier: Apache-2.0
"""Each limit that NATS has: it is told at the first try, and costs little."""

from __future__ import annotations

import json
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from support.jwt import RawNatsClient as JwtOperator
from support.nats import NatsProcess
from support.process import wait_until
from support.sidecar import SidecarProcess, event, post, sidecar_on

from sidecar.jetstream import connection as jetstream

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import httpx

MEGABYTE = 1_000_000
ACCOUNT = """\
accounts {{ A {{ jetstream: {jetstream}, users: [{{user: a, password: b}}] }} }}
no_auth_user: a
"""
MOST_CONNECTIONS = MOST_LINES = 20


def large(megabytes: float) -> bytes:
    return event(objattrs={"photo": "x" * int(megabytes * MEGABYTE)})


def reload(nats: NatsProcess, extra: str) -> None:
    """Change its configuration as `systemctl reload` does."""
    nats.extra = extra
    nats.write_config()
    nats.running.send_signal(signal.SIGHUP)
    wait_until(lambda: "Reloaded server configuration" in nats.output(), 10, "reload")


def connections(http: httpx.Client) -> int:
    name = "hermes_sidecar_nats_connections_total"
    lines = http.get("/metrics").text.splitlines()
    return int(float(next(row.split()[1] for row in lines if row.startswith(name))))


def told(sidecar: SidecarProcess) -> list[dict[str, Any]]:
    return [row for row in sidecar.rows() if row["level"] != "debug"]


def stream_check(sidecar: SidecarProcess) -> str:
    answer = sidecar.health()
    checks = answer.json()["checks"] if answer is not None else []
    found = next((one for one in checks if one["name"] == "stream"), None)
    return f"{found['reason']} {found['remedy']}" if found else ""


@contextmanager
def costs_little(sidecar: SidecarProcess, http: httpx.Client) -> Iterator[None]:
    lines, made = len(told(sidecar)), connections(http)
    yield
    assert connections(http) - made < MOST_CONNECTIONS
    assert len(told(sidecar)) - lines < MOST_LINES


def test_a_limit_that_was_lowered_by_a_reload_refuses_at_the_first_try(
    tmp_path: Path,
) -> None:
    with (
        NatsProcess(tmp_path / "nats", extra="max_payload: 4MB") as nats,
        sidecar_on(nats, tmp_path / "sidecar") as sidecar,
        sidecar.client() as http,
    ):
        reload(nats, "max_payload: 1MB")
        with costs_little(sidecar, http):
            answer = post(http, large(3), last="*")
            assert (answer.status_code, answer.json()["code"]) == (
                413,
                "event_too_large",
            )
            assert answer.json()["outcome"] == "not_stored"
            wait_until(lambda: post(http, large(3)).json().get("limit_bytes"))
        assert post(http).status_code == 201


def test_a_limit_that_was_raised_by_a_reload_is_learned(tmp_path: Path) -> None:
    # 25 s, as in use: what is said of two minutes rests on it.
    assert jetstream.LIMIT_HOLDS_SECONDS < 50
    with (
        NatsProcess(tmp_path / "nats", extra="max_payload: 1MB") as nats,
        sidecar_on(nats, tmp_path / "sidecar") as sidecar,
        sidecar.client() as http,
    ):
        body = large(3)
        assert post(http, body).status_code == 413
        reload(nats, "max_payload: 8MB")
        made = connections(http)
        with costs_little(sidecar, http):
            wait_until(
                lambda: post(http, body).status_code == 201,
                jetstream.LIMIT_HOLDS_SECONDS + 10,
                "stored",
                pause_seconds=0.5,
            )
            # Nobody else notices: the connection that is there stays.
            assert "nats_down" not in [row["event"] for row in told(sidecar)]
            assert connections(http) == made + 1


def test_the_limit_of_a_user_s_jwt_is_known_before_the_first_event(
    tmp_path: Path,
) -> None:
    operator = JwtOperator()
    file = tmp_path / "user.creds"
    file.write_text(operator.credentials(3600, payload=100_000))
    with (
        NatsProcess(tmp_path / "nats", extra=operator.config) as nats,
        sidecar_on(nats, tmp_path / "sidecar", nats_creds_file=file) as sidecar,
        sidecar.client() as http,
        costs_little(sidecar, http),
    ):
        answer = post(http, large(0.2))
        assert answer.status_code == 413
        assert answer.json()["limit_bytes"] == 100_000


def test_what_jetstream_never_stores_is_refused_before_it_is_sent(
    tmp_path: Path,
) -> None:
    with (
        NatsProcess(tmp_path / "nats", extra="max_payload: 64MB") as nats,
        sidecar_on(nats, tmp_path / "sidecar") as sidecar,
        sidecar.client() as http,
    ):
        with costs_little(sidecar, http):
            assert post(http, large(34)).status_code == 413
        largest = jetstream.MAX_STORED_BYTES - 1000
        assert post(http, large(largest / MEGABYTE)).status_code == 201


@pytest.mark.parametrize(
    ("jetstream_limits", "extra"),
    [
        (
            "",
            ACCOUNT.format(jetstream="{max_file: 300KB, max_mem: 0}"),
        ),
        ("max_file_store: 300KB", ""),
    ],
    ids=["account", "server"],
)
def test_storage_that_is_full_is_told_at_once_whoever_met_it(
    tmp_path: Path, jetstream_limits: str, extra: str
) -> None:
    with (
        NatsProcess(tmp_path / "nats", jetstream=jetstream_limits, extra=extra) as nats,
        sidecar_on(nats, tmp_path / "sidecar") as sidecar,
        sidecar.client() as http,
    ):
        with costs_little(sidecar, http):
            for _ in range(400):
                answer = post(http, large(0.002))
                if answer.status_code != 201:
                    break
        assert answer.json()["code"] == "storage_full", answer.text
        health = sidecar.health()
        assert health is not None
        assert health.status_code == 503


def test_a_user_who_may_not_subscribe_is_told_the_limit(tmp_path: Path) -> None:
    operator = JwtOperator()
    file = tmp_path / "user.creds"
    file.write_text(operator.credentials(3600, subs=0))
    with NatsProcess(tmp_path / "nats", extra=operator.config) as nats:
        sidecar = sidecar_on(nats, tmp_path / "sidecar", nats_creds_file=file)
        sidecar.start()
        try:
            sidecar.wait_live()
            wait_until(lambda: "max_subscriptions" in stream_check(sidecar))
        finally:
            sidecar.stop()


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        ("max_connections: 1", "max_connections"),
        ("max_control_line: 64", "max_control_line"),
        (
            ACCOUNT.format(jetstream="enabled") + "max_connections: 1",
            "max_connections",
        ),
    ],
)
def test_a_limit_of_connections_is_named_everywhere(
    tmp_path: Path, limit: str, words: str
) -> None:
    with (
        NatsProcess(tmp_path / "nats") as nats,
        sidecar_on(nats, tmp_path / "sidecar") as sidecar,
        sidecar.client() as http,
    ):
        nats.stop()
        nats.extra = limit
        nats.start()
        nats.wait()
        wait_until(lambda: words in stream_check(sidecar), 20, "named")
        text = stream_check(sidecar)
        assert nats.url in text
        assert "limit" in text
        assert words in http.get("/").text
        lines = [row for row in told(sidecar) if row["event"] == "nats_limit"]
        assert words in json.dumps(lines)
        assert len(lines) <= 4
