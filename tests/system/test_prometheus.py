# SPDX-License-Identifier: Apache-2.0
"""The alerts by Debian's prometheus: checked, tested, and fired by a killed NATS."""

from __future__ import annotations

import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
from parts.nats import NatsProcess, free_port
from parts.process import Process, wait_until
from parts.sidecar import SidecarProcess, post

if TYPE_CHECKING:
    from collections.abc import Iterator

from contextlib import contextmanager

ROOT = Path(__file__).resolve().parent.parent.parent
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yml"
PROMTOOL = "/usr/bin/promtool"
PROMETHEUS = "/usr/bin/prometheus"

CONFIG = """\
global: {{ scrape_interval: 1s, evaluation_interval: 1s }}
rule_files: [{alerts}]
scrape_configs:
  - job_name: hermes
    static_configs: [{{ targets: ["127.0.0.1:{port}"] }}]
"""


def promtool(*arguments: str | Path) -> str:
    done = subprocess.run(
        [PROMTOOL, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_promtool_finds_no_fault_in_the_alerts() -> None:
    assert "8 rules found" in promtool("check", "rules", ALERTS)


def test_each_alert_fires_when_it_should_and_not_otherwise() -> None:
    promtool("test", "rules", Path(__file__).parent / "alerts_test.yml")


class Prometheus(Process):
    """A Prometheus that scrapes one sidecar each second, with our alerts."""

    def __init__(self, directory: Path, port: int) -> None:
        directory.mkdir()
        config = directory / "prometheus.yml"
        config.write_text(CONFIG.format(alerts=ALERTS, port=port))
        self.address = f"127.0.0.1:{free_port()}"
        super().__init__(
            [
                PROMETHEUS,
                f"--config.file={config}",
                f"--storage.tsdb.path={directory / 'data'}",
                f"--web.listen-address={self.address}",
            ],
            directory / "prometheus.log",
        )

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


def test_a_killed_nats_fires_an_alert_under_load_that_clears_when_it_is_back(
    tmp_path: Path,
) -> None:
    with (
        NatsProcess(tmp_path / "nats") as nats,
        SidecarProcess(
            tmp_path / "sidecar",
            nats_url=nats.url,
            stream_create=True,
            log_level="info",
        ) as sidecar,
        load(sidecar),
    ):
        prometheus = Prometheus(tmp_path / "prometheus", sidecar.tcp_port)
        prometheus.start()
        try:
            rate = "sum(rate(hermes_sidecar_events_published_total[10s]))"
            wait_until(lambda: (prometheus.value(rate) or 0) > 0, 60, "scraped")
            assert "HermesBusDown" not in prometheus.firing()
            nats.kill()
            wait_until(
                lambda: "HermesBusDown" in prometheus.firing(), 180, "the alert fires"
            )
            assert prometheus.value("hermes_sidecar_ready") == 0
            nats.start()
            wait_until(
                lambda: "HermesBusDown" not in prometheus.firing(), 60, "it clears"
            )
            wait_until(lambda: (prometheus.value(rate) or 0) > 0, 60, "events again")
            assert prometheus.value("hermes_sidecar_ready") == 1
        finally:
            prometheus.stop()
