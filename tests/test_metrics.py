# SPDX-License-Identifier: Apache-2.0
"""What Prometheus scrapes says what happened."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import httpx
from parts.sidecar import event, last_offset, post
from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from parts.sidecar import SidecarProcess


def scrape(sidecar: SidecarProcess) -> dict[tuple[str, str], float]:
    """Read the metrics over TCP, by name and the values of their labels."""
    url = f"http://127.0.0.1:{sidecar.tcp_port}/metrics"
    text = httpx.get(url, trust_env=False).text
    return {
        (
            sample.name.removeprefix("hermes_sidecar_"),
            " ".join(sample.labels.values()),
        ): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_each_outcome_of_a_publish_is_counted(
    sidecar: SidecarProcess, http: httpx.Client
) -> None:
    before = scrape(sidecar)
    last, key = last_offset(http), str(uuid.uuid4())
    body = event()
    assert post(http, body, last, key).status_code == 201
    assert post(http, body, last, key).status_code == 200
    assert post(http, body, last).status_code == 412
    assert post(http, event("strange")).status_code == 201
    assert len(http.get(f"/v1/events?offset={last + 1}").json()["events"]) == 2
    after = scrape(sidecar)

    def grew(name: str, labels: str = "") -> float:
        return after[name, labels] - before.get((name, labels), 0)

    assert grew("events_published_total", "base stored") == 1
    assert grew("events_published_total", "base duplicate") == 1
    assert grew("events_published_total", "base not_stored") == 1
    assert grew("events_published_total", "other stored") == 1
    assert grew("preconditions_failed_total") == 1
    assert grew("requests_refused_total", "precondition_failed") == 1
    assert grew("published_bytes_total") == len(body) + len(event("strange"))
    assert grew("publish_duration_seconds_count") == 4
    assert grew("events_read_total") == 2
    assert after["ready", ""] == 1
    assert after["nats_connected", ""] == 1
    assert after["publishes_in_flight", ""] == 0
    assert after["process_resident_memory_bytes", ""] > 10**6


def test_every_metric_has_a_help_text(sidecar: SidecarProcess) -> None:
    url = f"http://127.0.0.1:{sidecar.tcp_port}/metrics"
    text = httpx.get(url, trust_env=False).text
    families = list(text_string_to_metric_families(text))
    assert families
    assert [family.name for family in families if not family.documentation] == []
