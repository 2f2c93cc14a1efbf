# SPDX-License-Identifier: Apache-2.0
"""Debian's prometheus: the alerts, one fired by a killed NATS, and every panel."""

from __future__ import annotations

import json
import re
import subprocess
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import httpx
import pytest
import yaml
from support.jetstream import RawNatsClient
from support.nats import NatsProcess, free_port
from support.process import Process, wait_until
from support.sidecar import SidecarProcess, event, post

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent.parent
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yml"

CONFIG = """\
global: {{ scrape_interval: 1s, evaluation_interval: 1s }}
rule_files: [{alerts}]
scrape_configs:
  - job_name: hermes
    static_configs: [{{ targets: ["127.0.0.1:{port}"] }}]
"""


CASES = Path(__file__).parent / "alerts_test.yml"


def test_each_alert_fires_when_it_should_and_not_otherwise() -> None:
    done = subprocess.run(
        ["promtool", "test", "rules", CASES],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_there_is_a_case_in_which_each_alert_fires_and_then_clears() -> None:
    cleared = set()
    for case in yaml.safe_load(CASES.read_text())["tests"]:
        fired = set()
        for row in sorted(case["alert_rule_test"], key=minutes):
            name = row["alertname"]
            if row.get("exp_alerts"):
                fired.add(name)
            elif name in fired:
                cleared.add(name)
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    names = {rule["alert"] for group in groups for rule in group["rules"]}
    assert names == cleared


def minutes(row: dict[str, str]) -> int:
    """Read when promtool is to look."""
    found = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?", row["eval_time"])
    assert found is not None
    return int(found[1] or 0) * 60 + int(found[2] or 0)


@pytest.mark.parametrize("gone", [{7}, {0, 99}, set(range(100))])
def test_each_of_a_hundred_that_is_gone_is_told(gone: set[int], tmp_path: Path) -> None:
    labels = [f'instance="host-{n}:8480", job="hermes"' for n in range(100)]
    series = []
    for n, target in enumerate(labels):
        up, ready = ("1x60 0x200", "1x60 stale") if n in gone else ("1x260", "1x260")
        series += [
            {"series": f"up{{{target}}}", "values": up},
            {"series": f"hermes_sidecar_ready{{{target}}}", "values": ready},
        ]
    alerts = [
        {
            "exp_labels": {
                "severity": "critical",
                "instance": f"host-{n}:8480",
                "job": "hermes",
            },
            "exp_annotations": {
                "summary": f"host-{n}:8480 does not answer; its Hermes has no bus.",
                "runbook": "docs/operations.md#HermesSidecarDown",
            },
        }
        for n in gone
    ]
    checks = [
        {"eval_time": minute, "alertname": "HermesSidecarDown", "exp_alerts": expected}
        for minute, expected in (("60m", []), ("65m", alerts), ("4h", alerts))
    ]
    cases = tmp_path / "hundred.json"
    cases.write_text(
        json.dumps(
            {
                "rule_files": [str(ALERTS)],
                "evaluation_interval": "1m",
                "tests": [
                    {
                        "interval": "1m",
                        "input_series": series,
                        "alert_rule_test": checks,
                    }
                ],
            }
        )
    )
    done = subprocess.run(
        ["promtool", "test", "rules", cases],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


class Prometheus(Process):
    """A Prometheus that scrapes one sidecar each second, with our alerts."""

    def __init__(self, directory: Path, port: int) -> None:
        directory.mkdir()
        config = directory / "prometheus.yml"
        config.write_text(CONFIG.format(alerts=ALERTS, port=port))
        self.address = f"127.0.0.1:{free_port()}"
        super().__init__(
            [
                "prometheus",
                f"--config.file={config}",
                f"--storage.tsdb.path={directory / 'data'}",
                f"--web.listen-address={self.address}",
            ],
            directory / "prometheus.log",
        )

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def ask(self, path: str, **parameters: str) -> Any:
        try:
            answer = httpx.get(
                f"http://{self.address}/api/v1/{path}",
                params=parameters,
                trust_env=False,
                timeout=30,
            )
        except httpx.TransportError:
            return None
        return answer.json()["data"] if answer.is_success else None

    def value(self, expression: str) -> float | None:
        """Evaluate an expression now."""
        rows = (self.ask("query", query=expression) or {}).get("result")
        return float(rows[0]["value"][1]) if rows else None

    def empty(self, expressions: list[str]) -> list[str]:
        """Give those that a panel would show nothing of."""
        return [each for each in expressions if self.value(each) is None]

    def firing(self) -> set[str]:
        alerts = (self.ask("alerts") or {}).get("alerts") or []
        return {
            alert["labels"]["alertname"]
            for alert in alerts
            if alert["state"] == "firing"
        }


@contextmanager
def load(sidecar: SidecarProcess) -> Iterator[None]:
    """Store events one after the other until the end."""
    ended = threading.Event()

    def store() -> None:
        with sidecar.client() as http:
            while not ended.is_set():
                if post(http).status_code != 201:
                    ended.wait(0.2)

    thread = threading.Thread(target=store)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def panels() -> list[str]:
    dashboard = json.loads((ROOT / "deploy" / "grafana" / "dashboard.json").read_text())
    every = [row["expr"] for panel in dashboard["panels"] for row in panel["targets"]]
    # Here is neither an embedded server nor a certificate.
    return [one for one in every if "embedded" not in one and "certificate" not in one]


@pytest.fixture
def nats(tmp_path: Path) -> Iterator[NatsProcess]:
    with NatsProcess(tmp_path / "nats") as server:
        yield server


@pytest.fixture
def sidecar(nats: NatsProcess, tmp_path: Path) -> Iterator[SidecarProcess]:
    """Run a sidecar whose stream has limits and holds an initsync."""
    settings = {"nats_url": nats.url, "stream_create": True, "log_level": "info"}
    with SidecarProcess(tmp_path / "sidecar", **settings) as process:
        with RawNatsClient(nats.port) as operator:
            operator.update("hermes", max_bytes=10**9, max_msgs=10**6)
        with process.client() as http:
            for kind in ("init-start", "init-stop"):
                assert post(http, event("initsync", eventtype=kind)).status_code == 201
        yield process


def test_a_killed_nats_fires_an_alert_under_load_that_clears_when_it_is_back(
    nats: NatsProcess, sidecar: SidecarProcess, tmp_path: Path
) -> None:
    with (
        load(sidecar),
        Prometheus(tmp_path / "prometheus", sidecar.tcp_port) as prometheus,
    ):
        rate = "sum(rate(hermes_sidecar_events_published_total[10s]))"
        wait_until(lambda: (prometheus.value(rate) or 0) > 0, 60, "scraped")
        assert "HermesBusDown" not in prometheus.firing()
        nats.kill()
        wait_until(
            lambda: "HermesBusDown" in prometheus.firing(), 180, "the alert fires"
        )
        assert prometheus.value("hermes_sidecar_ready") == 0
        nats.start()
        wait_until(lambda: "HermesBusDown" not in prometheus.firing(), 60, "it clears")
        wait_until(lambda: (prometheus.value(rate) or 0) > 0, 60, "events again")
        assert prometheus.value("hermes_sidecar_ready") == 1
        with sidecar.client() as http:
            name = {"User-Agent": "hermes-client-ldap"}
            page = http.get("/v1/events?offset=first", headers=name).json()
            # Until it follows: what it asks for is stored while it waits.
            while "client_delay_seconds_count" not in http.get("/metrics").text:
                query = {"offset": page["next_offset"], "wait": 5}
                page = http.get("/v1/events", params=query, headers=name).json()
        # By now there are refusals too, so that no panel of the dashboard is empty.
        wait_until(lambda: not prometheus.empty(panels()), 60, "each panel shows")
