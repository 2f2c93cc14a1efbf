# SPDX-License-Identifier: Apache-2.0
"""What Prometheus scrapes says what happened."""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING

from prometheus_client.parser import text_string_to_metric_families
from support.facts import FACTS
from support.jetstream import RawNatsClient
from support.process import wait_until
from support.sidecar import event, last_offset, post

from sidecar.errors import Outcome
from sidecar.model.clients import MAX_CLIENTS
from sidecar.services.daemon import Daemon
from sidecar.settings import Settings
from sidecar.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from pathlib import Path

    import httpx
    from prometheus_client import Metric
    from support.nats import NatsProcess
    from support.sidecar import SidecarProcess


def scrape(sidecar: SidecarProcess) -> dict[tuple[str, str], float]:
    """Read the metrics over TCP, by name and the values of their labels."""
    text = sidecar.get("/metrics").text
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


NAMES = {
    "hermes_sidecar_build": "info",
    "hermes_sidecar_events_published": "counter",
    "hermes_sidecar_published_bytes": "counter",
    "hermes_sidecar_publish_duration_seconds": "histogram",
    "hermes_sidecar_duplicates_answered": "counter",
    "hermes_sidecar_resolutions": "counter",
    "hermes_sidecar_preconditions_failed": "counter",
    "hermes_sidecar_requests_refused": "counter",
    "hermes_sidecar_events_read": "counter",
    "hermes_sidecar_events_recognised": "counter",
    "hermes_sidecar_nats_connections": "counter",
    "hermes_sidecar_copies_wanting": "counter",
    "hermes_sidecar_nats_connected": "gauge",
    "hermes_sidecar_ready": "gauge",
    "hermes_sidecar_check_status": "gauge",
    "hermes_sidecar_certificate_end_timestamp_seconds": "gauge",
    "hermes_sidecar_client_behind_events": "gauge",
    "hermes_sidecar_client_last_seen_seconds": "gauge",
    "hermes_sidecar_client_delay_seconds": "histogram",
    "hermes_sidecar_clients_stranded": "gauge",
    "hermes_sidecar_round_trip_age_seconds": "gauge",
    "hermes_sidecar_acknowledgement_age_seconds": "gauge",
    "hermes_sidecar_publishes_in_flight": "gauge",
    "hermes_sidecar_oldest_unresolved_publish_seconds": "gauge",
    "hermes_sidecar_readers_waiting": "gauge",
    "hermes_sidecar_first_offset": "gauge",
    "hermes_sidecar_last_offset": "gauge",
    "hermes_sidecar_stream_messages": "gauge",
    "hermes_sidecar_stream_bytes": "gauge",
    "hermes_sidecar_stream_max_bytes": "gauge",
    "hermes_sidecar_stream_max_messages": "gauge",
    "hermes_sidecar_stream_max_age_seconds": "gauge",
    "hermes_sidecar_stream_max_event_bytes": "gauge",
    "hermes_sidecar_initsync_complete": "gauge",
    "hermes_sidecar_initsync_start_offset": "gauge",
    "hermes_sidecar_initsync_stop_offset": "gauge",
    "hermes_sidecar_initsync_objects": "gauge",
    "hermes_sidecar_initsync_stop_timestamp_seconds": "gauge",
    "hermes_sidecar_initsync_stays_seconds": "gauge",
    "process_cpu_seconds": "counter",
    "process_max_fds": "gauge",
    "process_open_fds": "gauge",
    "process_resident_memory_bytes": "gauge",
    "process_start_time_seconds": "gauge",
    "process_virtual_memory_bytes": "gauge",
}


def families(sidecar: SidecarProcess) -> dict[str, Metric]:
    text = sidecar.get("/metrics").text
    # Prometheus' text format knows no info: it is a gauge that is always 1. When a
    # counter was made, the client library says in a gauge of its own.
    return {
        family.name.removesuffix("_info"): family
        for family in text_string_to_metric_families(text)
        if not family.name.endswith("_created")
    }


def test_each_metric_is_there_with_its_type_and_a_help_text(
    sidecar: SidecarProcess, http: httpx.Client
) -> None:
    for kind in ("init-start", "added", "init-stop"):
        assert post(http, event("initsync", eventtype=kind)).status_code == 201
    stays = "hermes_sidecar_initsync_stays_seconds"
    wait_until(lambda: stays in families(sidecar), what="the initsync was noticed")
    found = families(sidecar)
    types = {name: family.type for name, family in found.items()}
    assert types == NAMES | {"hermes_sidecar_build": "gauge"}
    assert [name for name, family in found.items() if not family.documentation] == []
    assert found["hermes_sidecar_initsync_objects"].samples[0].value == 1
    assert 89 * 86_400 < found[stays].samples[0].value <= 90 * 86_400


def test_labels_are_bounded_and_there_from_the_first_scrape_on(
    sidecar: SidecarProcess, http: httpx.Client, nats: NatsProcess
) -> None:
    assert post(http, event("strange")).status_code == 201
    with RawNatsClient(nats.port) as other:
        name = {"Hermes-Event-Type": 'x"} 1 {', "Nats-Msg-Id": 'k"\\'}
        other.publish('hermes.x",y="z"}', b"{}", name)
    assert http.get("/v1/events?offset=first").status_code == 200
    found = families(sidecar)

    def labels(name: str) -> set[tuple[str, ...]]:
        samples = found[f"hermes_sidecar_{name}"].samples
        return {
            tuple(each.labels.values())
            for each in samples
            if not each.name.endswith("_created")
        }

    assert labels("events_published") == {
        (category, result)
        for category in ("base", "initsync", "other")
        for result in ("stored", "duplicate", "not_stored", "unknown")
    }
    assert labels("resolutions") == {("stored",), ("not_stored",), ("unknown",)}
    checks = (
        "sidecar",
        "stream",
        "replicas",
        "initsync",
        "callers",
        "clients",
        "room",
        "reads",
        "outcomes",
        "socket",
    )
    names = (*checks, "refusals", "writers")
    assert labels("check_status") == {(name,) for name in names}


def test_a_publish_that_one_copy_did_not_settle_is_a_resolution(
    sidecar: SidecarProcess, http: httpx.Client
) -> None:
    before = scrape(sidecar)
    last, key = last_offset(http), str(uuid.uuid4())
    assert post(http, event(), last, key).status_code == 201
    assert post(http, event(), last, key).status_code == 200
    assert post(http, event(), last).status_code == 412
    after = scrape(sidecar)
    names = [("resolutions_total", "stored"), ("resolutions_total", "not_stored")]
    assert [after[name] - before[name] for name in names] == [1, 1]
    duplicates = ("duplicates_answered_total", "")
    assert after[duplicates] - before[duplicates] == 1


def test_clients_that_follow_are_a_bounded_number_of_labels() -> None:
    metrics = Metrics(lambda: FACTS)
    for number in range(MAX_CLIENTS + 1):
        metrics.followed(f"client-{number}", [-1.0])  # by a clock that is ahead
    metrics.followed("client-1", [0.3])
    text = metrics.text().decode()
    name = "hermes_sidecar_client_delay_seconds"
    assert text.count(f"{name}_sum{{") == MAX_CLIENTS
    assert 'client="client-0"' not in text
    assert f'{name}_count{{client="client-1"}} 2.0' in text
    assert f'{name}_sum{{client="client-1"}} 0.3' in text


def test_the_disk_of_an_embedded_server_is_told(tmp_path: Path) -> None:
    for embedded, count in (True, 2), (False, 0):
        settings = Settings(embedded=embedded, embedded_dir=tmp_path)
        daemon = Daemon(settings, settings.nats_server)
        text = daemon.metrics.text().decode()
        assert text.count("\nhermes_sidecar_embedded_disk_") == count
    settings = Settings(embedded=True, embedded_dir=tmp_path / "missing")
    daemon = Daemon(settings, settings.nats_server)
    assert "embedded_disk" not in daemon.metrics.text().decode()


def test_the_last_hour_is_counted_with_the_metrics() -> None:
    metrics = Metrics(lambda: FACTS)
    metrics.stored("base", duplicate=False, size_bytes=1, seconds=0.0007)
    metrics.stored("base", duplicate=True, size_bytes=1, seconds=0.0007)
    metrics.not_stored("base", Outcome.UNKNOWN, 10.0)
    metrics.read(7)
    hour = metrics.last_hour.look(time.monotonic())
    assert (hour.stored, hour.sent, hour.publishes) == (1, 7, 3)
    assert hour.p50 is not None
    assert 0.0005 < hour.p50 < 0.001
