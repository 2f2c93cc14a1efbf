# SPDX-License-Identifier: Apache-2.0
"""Figures for Prometheus. The edge to prometheus_client.

What happens is counted where it happens; what is, is read from the daemon when it is
asked for. Labels are bounded: a category is base, initsync or other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily
from prometheus_client.registry import Collector

from sidecar import __version__, health

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from prometheus_client.core import Metric

    from sidecar.health import Facts

MEDIA_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_PREFIX = "hermes_sidecar_"
_CATEGORIES = ("base", "initsync", "other")
_SECONDS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)


class Metrics:
    """What is counted, and the text that Prometheus scrapes."""

    def __init__(self, facts: Callable[[], Facts]) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Now(facts))
        ProcessCollector(registry=self._registry)
        self._published = self._counter(
            "events_published_total",
            "Requests to store an event, by category and result: stored, duplicate, "
            "not_stored, unknown.",
            ("category", "result"),
        )
        self._bytes = self._counter(
            "published_bytes_total", "Bytes of the events stored.", ()
        )
        self._preconditions_failed = self._counter(
            "preconditions_failed_total",
            "Requests that found another event at the next offset: a second producer.",
            (),
        )
        self._refused = self._counter(
            "requests_refused_total", "Requests refused, by problem code.", ("code",)
        )
        self._events_read = self._counter(
            "events_read_total", "Events given to readers.", ()
        )
        self._seconds = Histogram(
            f"{_PREFIX}publish_duration_seconds",
            "Time from a complete request to its outcome.",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._stored = {
            (category, duplicate): self._published.labels(
                category, "duplicate" if duplicate else "stored"
            )
            for category in _CATEGORIES
            for duplicate in (False, True)
        }

    def stored(
        self, category: str, duplicate: bool, size_bytes: int, seconds: float
    ) -> None:
        """Count an event that stands in the stream."""
        self._stored[_bounded(category), duplicate].inc()
        self._bytes.inc(0 if duplicate else size_bytes)
        self._seconds.observe(seconds)

    def not_stored(self, category: str, outcome: str, seconds: float) -> None:
        """Count an event that was refused, or of which nobody knows."""
        self._published.labels(_bounded(category), outcome).inc()
        self._seconds.observe(seconds)

    def refused(self, code: str) -> None:
        """Count a request to store an event that was refused, at any stage."""
        self._refused.labels(code).inc()
        if code == "precondition_failed":
            self._preconditions_failed.inc()

    def read(self, events: int) -> None:
        """Count events given to a reader."""
        self._events_read.inc(events)

    def text(self) -> bytes:
        """Give everything in Prometheus' text format."""
        return generate_latest(self._registry)

    def _counter(self, name: str, text: str, labels: tuple[str, ...]) -> Counter:
        return Counter(_PREFIX + name, text, labels, registry=self._registry)


class _Now(Collector):
    """What is true at the moment of a scrape; without a value nothing is said."""

    def __init__(self, facts: Callable[[], Facts]) -> None:
        self._facts = facts

    def collect(self) -> Iterable[Metric]:
        facts = self._facts()
        yield InfoMetricFamily(
            f"{_PREFIX}build", "Version of the sidecar.", {"version": __version__}
        )
        for name, text, value in _gauges(facts):
            if value is not None:
                yield GaugeMetricFamily(_PREFIX + name, text, value)


def _gauges(facts: Facts) -> list[tuple[str, str, Any]]:
    info = facts.info
    ready = health.is_ready(health.assess(facts))
    gauges: list[tuple[str, str, Any]] = [
        ("ready", "1 while events can flow.", int(ready)),
        ("nats_connected", "1 while a fit stream is reached.", int(not facts.cause)),
        ("nats_connections_made", "Connections to NATS so far.", facts.connections),
        (
            "round_trip_age_seconds",
            "Since the stream's leader last answered.",
            facts.round_trip_age,
        ),
        (
            "acknowledgement_age_seconds",
            "Since an event was last stored.",
            facts.acknowledgement_age,
        ),
        ("publishes_in_flight", "Publishes under way.", facts.in_flight),
        (
            "oldest_unresolved_publish_seconds",
            "Age of the oldest publish without a definite answer; 0 for none.",
            facts.doubt_age or 0,
        ),
        ("readers_waiting", "Readers that wait for an event.", facts.readers_waiting),
    ]
    if info is not None:
        gauges += [
            ("last_offset", "Last offset of the stream.", info.position.last),
            ("stream_messages", "Events in the stream.", info.messages),
            ("stream_bytes", "Size of the stream.", info.size_bytes),
            (
                "stream_max_bytes",
                "Limit of the stream's size; -1 for none.",
                info.config.get("max_bytes", -1),
            ),
            (
                "stream_max_messages",
                "Limit of the stream's events; -1 for none.",
                info.config.get("max_msgs", -1),
            ),
            (
                "stream_max_age_seconds",
                "Retention of the stream; 0 for ever.",
                info.config.get("max_age", 0) / 1e9,
            ),
        ]
    return gauges


def _bounded(category: str) -> str:
    return category if category in _CATEGORIES else "other"
