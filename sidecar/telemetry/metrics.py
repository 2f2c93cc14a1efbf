# SPDX-License-Identifier: Apache-2.0
"""The metrics for Prometheus. The edge to prometheus_client.

Counters are increased where something happens; gauges are read from the daemon at each
scrape. Labels are bounded: a category is base, initsync or other.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.registry import Collector

from sidecar import __version__
from sidecar.errors import Outcome
from sidecar.model import health
from sidecar.model.clients import MAX_CLIENTS
from sidecar.model.initsync import max_age_seconds
from sidecar.model.last_hour import LastHour

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from prometheus_client.core import Metric

    from sidecar.model.clients import Client
    from sidecar.model.health import Facts, Reading

MEDIA_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_PREFIX = "hermes_sidecar_"
_CATEGORIES = ("base", "initsync", "other")
_RESULTS = ("stored", "duplicate", "not_stored", "unknown")
_STATUSES = ("pass", "warn", "fail")
_SECONDS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)


class Disk(NamedTuple):
    """How much room is on a disk."""

    size_bytes: int
    free_bytes: int


class Metrics:
    """The counters, and the text that Prometheus scrapes."""

    def __init__(
        self,
        facts: Callable[[], Facts],
        certificate_ends: Callable[[], dict[str, float]] = dict,
        disk: Callable[[], Disk | None] = lambda: None,
    ) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Now(facts, certificate_ends, disk))
        ProcessCollector(registry=self._registry)
        self._published = self._counter(
            "events_published_total",
            "Events that were to be stored, by category and result: stored, "
            "duplicate, not_stored, unknown.",
            ("category", "result"),
        )
        self._bytes = self._counter(
            "published_bytes_total", "Bytes of the events stored.", ()
        )
        self._duplicates = self._counter(
            "duplicates_answered_total",
            "Events of requests that were already stored.",
            (),
        )
        self._resolutions = self._counter(
            "resolutions_total",
            "Publishes whose first attempt had an unknown outcome, by the outcome in "
            "the end: stored, not_stored, unknown.",
            ("outcome",),
        )
        self._preconditions_failed = self._counter(
            "preconditions_failed_total",
            "Requests that found another producer's event at the next offset.",
            (),
        )
        self._refused = self._counter(
            "requests_refused_total", "Requests refused, by problem code.", ("code",)
        )
        self._recognised = self._counter(
            "events_recognised_total",
            "Events that a producer sent again and that were already in the stream.",
            (),
        )
        self._events_read = self._counter(
            "events_read_total", "Events sent to readers.", ()
        )
        self._seconds = Histogram(
            f"{_PREFIX}publish_duration_seconds",
            "Time from a complete event to its outcome.",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._delays = Histogram(
            f"{_PREFIX}client_delay_seconds",
            "Time from storing an event to sending it to a hermes-client that waited "
            "for it, by the clocks of NATS and of the sidecar.",
            ("client",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._followers: dict[str, None] = {}
        self.last_hour = LastHour(_SECONDS, time.monotonic())
        """The same for the status page, which has no Prometheus beside it."""
        # All from the first scrape on: a rate needs the 0 before the first 1.
        children = {
            (category, result): self._published.labels(category, result)
            for category in _CATEGORIES
            for result in _RESULTS
        }
        self._stored = {
            (category, duplicate): children[
                category, "duplicate" if duplicate else "stored"
            ]
            for category in _CATEGORIES
            for duplicate in (False, True)
        }
        for outcome in Outcome:
            self._resolutions.labels(outcome.value)

    def stored(
        self, category: str, duplicate: bool, size_bytes: int, seconds: float
    ) -> None:
        """Count an event that is stored."""
        self._stored[_bounded(category), duplicate].inc()
        if duplicate:
            self._duplicates.inc()
        else:
            self._bytes.inc(size_bytes)
        self._took(int(not duplicate), seconds)

    def not_stored(self, category: str, outcome: Outcome, seconds: float) -> None:
        """Count an event that was not stored, or whose outcome is unknown."""
        self._published.labels(_bounded(category), outcome.value).inc()
        self._took(0, seconds)

    def _took(self, stored: int, seconds: float) -> None:
        self._seconds.observe(seconds)
        self.last_hour.published(stored, seconds, time.monotonic())

    def resolved(self, outcome: Outcome | None) -> None:
        """Count a publish whose outcome was unknown after the first attempt."""
        self._resolutions.labels((outcome or Outcome.UNKNOWN).value).inc()

    def refused(self, code: str) -> None:
        """Count a refused request."""
        self._refused.labels(code).inc()

    def second_writer(self) -> None:
        """Count a request that found another producer's event at the next offset."""
        self._preconditions_failed.inc()

    def recognised(self) -> None:
        """Count an event that Hermes sent again and that need not be stored."""
        self._recognised.inc()

    def read(self, events: int) -> None:
        """Count events sent to a reader."""
        self._events_read.inc(events)
        self.last_hour.sent(events, time.monotonic())

    def followed(self, client: str, delays_seconds: list[float]) -> None:
        """Note how long ago the events were stored that a waiting client is sent."""
        if client not in self._followers:
            if len(self._followers) >= MAX_CLIENTS:
                oldest = next(iter(self._followers))
                del self._followers[oldest]
                self._delays.remove(oldest)
            self._followers[client] = None
        delays = self._delays.labels(client)
        for seconds in delays_seconds:
            delays.observe(max(0.0, seconds))

    def text(self) -> bytes:
        """Give all metrics in Prometheus' text format."""
        return generate_latest(self._registry)

    def _counter(self, name: str, text: str, labels: tuple[str, ...]) -> Counter:
        return Counter(_PREFIX + name, text, labels, registry=self._registry)


class _Now(Collector):
    """The state at the moment of a scrape; a metric without a value is left out."""

    def __init__(
        self,
        facts: Callable[[], Facts],
        certificate_ends: Callable[[], dict[str, float]],
        disk: Callable[[], Disk | None],
    ) -> None:
        self._facts = facts
        self._certificate_ends = certificate_ends
        self._disk = disk

    def collect(self) -> Iterable[Metric]:
        facts = self._facts()
        yield InfoMetricFamily(
            f"{_PREFIX}build", "Version of the sidecar.", {"version": __version__}
        )
        yield CounterMetricFamily(
            f"{_PREFIX}nats_connections_total",
            "Connections made to NATS.",
            facts.connections,
        )
        if facts.reads is not None:
            yield _copies(facts.reads)
        checks = GaugeMetricFamily(
            f"{_PREFIX}check_status",
            "Status of each check of /health: 0 pass, 1 warn, 2 fail.",
            labels=("check",),
        )
        assessed = health.assess(facts)
        for check in assessed:
            checks.add_metric((check.name,), _STATUSES.index(check.status))
        yield checks
        ends = GaugeMetricFamily(
            f"{_PREFIX}certificate_end_timestamp_seconds",
            "When the certificate or the NATS credentials in the file of a setting "
            "expire, in seconds since 1970.",
            labels=("setting",),
        )
        for setting, end in self._certificate_ends().items():
            ends.add_metric((setting,), end)
        yield ends
        if (disk := self._disk()) is not None:
            yield GaugeMetricFamily(
                f"{_PREFIX}embedded_disk_free_bytes",
                "Free space of the embedded server's disk.",
                disk.free_bytes,
            )
            yield GaugeMetricFamily(
                f"{_PREFIX}embedded_disk_size_bytes",
                "Size of the embedded server's disk.",
                disk.size_bytes,
            )
        if facts.reads is not None:
            yield from _clients(facts.clients)
        for name, text, value in _gauges(facts, health.is_ready(assessed)):
            if value is not None:
                yield GaugeMetricFamily(_PREFIX + name, text, value)


def _copies(reads: Reading) -> Metric:
    family = CounterMetricFamily(
        f"{_PREFIX}copies_wanting_total",
        "Reads that the leader served, by why a replica did not: late (silent for a "
        "second), behind (it lacked the event), stranger (another stream replied).",
        labels=("kind",),
    )
    family.add_metric(("late",), reads.late)
    family.add_metric(("behind",), reads.behind)
    family.add_metric(("stranger",), reads.strangers)
    return family


def _clients(clients: Sequence[Client]) -> Iterable[Metric]:
    behind = GaugeMetricFamily(
        f"{_PREFIX}client_behind_events",
        "Events that stand from where a hermes-client reads next.",
        labels=("client",),
    )
    seen = GaugeMetricFamily(
        f"{_PREFIX}client_last_seen_seconds",
        "Seconds since a hermes-client last asked for events.",
        labels=("client",),
    )
    for client in clients:
        seen.add_metric((client.name,), client.last_seen_seconds)
        if client.behind is not None:
            behind.add_metric((client.name,), client.behind)
    yield behind
    yield seen
    yield GaugeMetricFamily(
        f"{_PREFIX}clients_stranded",
        "Clients that ask for an offset which the stream does not hold.",
        sum(client.state == "stranded" for client in clients),
    )


def _gauges(facts: Facts, ready: bool) -> list[tuple[str, str, Any]]:
    info = facts.info
    gauges: list[tuple[str, str, Any]] = [
        ("ready", "1 while the sidecar is ready.", int(ready)),
        (
            "nats_connected",
            "1 while connected to NATS and to a usable stream.",
            int(not facts.cause),
        ),
        (
            "round_trip_age_seconds",
            "Seconds since the stream's leader last replied.",
            facts.round_trip_age,
        ),
        (
            "acknowledgement_age_seconds",
            "Seconds since an event was last stored.",
            facts.acknowledgement_age,
        ),
        ("publishes_in_flight", "Publishes in flight.", facts.in_flight),
        (
            "oldest_unresolved_publish_seconds",
            "Age of the oldest publish whose outcome is unknown; 0 for none.",
            facts.doubt_age or 0,
        ),
        (
            "readers_waiting",
            "Readers that wait for a new event.",
            facts.readers_waiting,
        ),
    ]
    if info is not None:
        gauges += [
            (
                "first_offset",
                "First offset that the stream holds.",
                info.position.first,
            ),
            ("last_offset", "Last offset of the stream.", info.position.last),
            ("stream_messages", "Events in the stream.", info.messages),
            ("stream_bytes", "Size of the stream.", info.size_bytes),
            (
                "stream_max_bytes",
                "Limit of the stream's size, max_bytes; -1 for none.",
                info.config.get("max_bytes", -1),
            ),
            (
                "stream_max_messages",
                "Limit of the stream's events, max_msgs; -1 for none.",
                info.config.get("max_msgs", -1),
            ),
            (
                "stream_max_age_seconds",
                "Retention of the stream, max_age; 0 for ever.",
                max_age_seconds(info.config),
            ),
            (
                "stream_max_event_bytes",
                "Limit of one event with its headers, max_msg_size; -1 for none.",
                info.config.get("max_msg_size", -1),
            ),
        ]
    return gauges + _initsync_gauges(facts)


def _initsync_gauges(facts: Facts) -> list[tuple[str, str, Any]]:
    if not facts.is_initsync_known:
        return []
    initsync = facts.initsync
    gauges = [
        (
            "initsync_complete",
            "1 while the stream holds a complete initsync.",
            int(initsync is not None),
        )
    ]
    if initsync is None:
        return gauges
    return [
        *gauges,
        (
            "initsync_start_offset",
            "Offset of the init-start of the last complete initsync.",
            initsync.start.offset,
        ),
        (
            "initsync_stop_offset",
            "Offset of the init-stop of the last complete initsync.",
            initsync.stop.offset,
        ),
        (
            "initsync_objects",
            "Objects in the last complete initsync.",
            initsync.objects,
        ),
        (
            "initsync_stop_timestamp_seconds",
            "When the last complete initsync ended, in seconds since 1970.",
            initsync.stop.time,
        ),
        (
            "initsync_stays_seconds",
            "Seconds until the last complete initsync expires; absent for never.",
            facts.initsync_stays,
        ),
    ]


def _bounded(category: str) -> str:
    return category if category in _CATEGORIES else "other"
