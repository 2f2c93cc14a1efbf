# SPDX-License-Identifier: Apache-2.0
"""The status page: status_page.html and status_page.css, and the words for figures."""

from __future__ import annotations

import base64
import hashlib
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from sidecar.command_error import printable
from sidecar.http import charts
from sidecar.http.charts import Chart, chart, figure
from sidecar.model.initsync import max_age_seconds, rfc3339, seconds
from sidecar.model.sidecars import Everyone

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sidecar.model.health import Check
    from sidecar.model.initsync import Initsync
    from sidecar.model.last_hour import Hour
    from sidecar.model.stream import StreamInfo
    from sidecar.services.activity import Row

REFRESH_SECONDS: Final = 10
STYLE: Final = Path(__file__).with_suffix(".css").read_text("utf-8")

_STYLE_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()

HEADERS: Final = {
    "Content-Security-Policy": (
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}

_STATES = {"pass": "Ready", "warn": "Ready, with a warning", "fail": "Not ready"}
_DAY_SECONDS = 86_400
_HOUR_SECONDS = 3_600
_MINUTE_SECONDS = 60
_KIB = 1024
_UNITS = ("KiB", "MiB", "GiB", "TiB")


@dataclass(frozen=True)
class StatusView:
    """What the page shows; None for what cannot be known now.

    `failing_seconds`: of each check that does not pass, for how long. `is_old`: `info`
    and the initsync are what was last seen, `info_age_seconds` ago. `last_offset`: what
    is known to stand, which `info` may be too old for.
    """

    version: str
    now: float
    checks: list[Check]
    stream: str
    server: str
    server_urls: tuple[str, ...] = ()
    host: str = ""
    role: str = ""
    socket: str = ""
    docs_url: str | None = None
    refreshes: bool = True
    failing_seconds: Mapping[str, float] = field(default_factory=dict)
    info: StreamInfo | None = None
    last_offset: int | None = None
    info_age_seconds: float | None = None
    is_old: bool = False
    is_initsync_known: bool | None = None
    initsync: Initsync | None = None
    initsync_stays: float | None = None
    recognised_count: int = 0
    clients: Everyone = field(default_factory=Everyone)
    newest: Row | None = field(default=None, repr=False)
    minutes: list[int] | None = None
    rows: list[Row] | None = field(default=None, repr=False)
    hour: Hour | None = None


class Card(NamedTuple):
    """Facts that belong together; `seen` says of when they are, if not of now."""

    title: str
    facts: list[tuple[str, str]]
    seen: str = ""


def render(view: StatusView) -> str:
    """Write the page."""
    checks = sorted(  # sorted() leaves those of one status in their order
        (check for check in view.checks if check.status != "pass"),
        key=lambda check: check.status != "fail",
    )
    status = checks[0].status if checks else "pass"
    return _PAGE.render(
        view=view,
        status=status,
        state=_STATES[status],
        checks=checks,
        cards=_cards(view),
        charts=_charts(view),
        manual=view.docs_url and f"{view.docs_url.rstrip('/')}/operations.md",
    )


def _cards(view: StatusView) -> list[Card]:
    seen = ""
    if view.is_old and view.info_age_seconds is not None:
        at = rfc3339(view.now - view.info_age_seconds)
        seen = f"Old: seen last {duration(view.info_age_seconds)} ago, {at}."
    return [
        Card("Stream", _stream_facts(view), seen),
        Card("Initsync", _initsync_facts(view), seen),
        Card("NATS", _nats_facts(view)),
        Card("Sidecar", _sidecar_facts(view)),
    ]


def _nats_facts(view: StatusView) -> list[tuple[str, str]]:
    urls = ", ".join(view.server_urls)
    if not view.server:
        return [("Server", "not connected"), ("Tried", urls)]
    return [("Server", view.server), ("URL", urls)]


def _sidecar_facts(view: StatusView) -> list[tuple[str, str]]:
    facts = [
        ("Host", view.host),
        ("Role", view.role),
        ("Unix socket", view.socket or "none"),
    ]
    if view.recognised_count:
        facts.append(
            ("Sent again by Hermes and recognised", str(view.recognised_count))
        )
    return facts


def _stream_facts(view: StatusView) -> list[tuple[str, str]]:
    facts, info = [("Name", view.stream)], view.info
    if info is None:
        return [*facts, ("Offsets", "not known")]
    config, position = info.config, info.position
    age = max_age_seconds(config)
    last = max(position.last, view.last_offset or 0)
    events = _filled(info.messages, config.get("max_msgs", -1), str)
    if last > position.last:
        events = "not known"
    if last >= position.first:
        facts += [("First offset", str(position.first)), ("Last offset", str(last))]
    else:
        facts.append(("Next offset", str(position.first)))
    if view.newest is not None and view.newest.offset == position.last:
        with suppress(ValueError):  # a server may write anything for a time
            past = duration(view.now - seconds(view.newest.time))
            facts.append(("Last event", f"{past} ago"))
    live = "not known," if view.is_old else str(info.live_replicas)
    return [
        *facts,
        ("Events", events),
        ("Size", _filled(info.size_bytes, config.get("max_bytes", -1), size)),
        ("Retention", duration(age) if age else "for ever"),
        ("Replicas live", f"{live} of {info.replicas}"),
    ]


def _filled(value: int, limit: int, write: Callable[[int], str]) -> str:
    """Write a figure with its limit, if it has one, and how much of it is used."""
    if limit <= 0:
        return f"{write(value)}, no limit"
    return f"{write(value)} of {write(limit)} ({value / limit:.0%})"


def _initsync_facts(view: StatusView) -> list[tuple[str, str]]:
    initsync = view.initsync
    if initsync is None:
        found = "none" if view.is_initsync_known else "not known"
        return [("Last complete", found)]
    stays = view.initsync_stays
    expires = "never" if stays is None else f"in {duration(stays)}"
    return [
        ("Last complete", rfc3339(initsync.stop.time)),
        ("Objects", str(initsync.objects)),
        ("First offset", str(initsync.start.offset)),
        ("Last offset", str(initsync.stop.offset)),
        ("Expires", "not known" if view.is_old else expires),
    ]


def _charts(view: StatusView) -> list[Chart]:
    charts = []
    if view.minutes is not None:
        total, most = sum(view.minutes), max(view.minutes)
        words = f"{total} events in the last hour, {most} in its best minute."
        name = "Events in the stream"
        charts.append(chart(name, "events/min", words, {"stored": view.minutes}))
    if view.hour is not None:
        charts += [_rates(view.hour), _latency(view.hour)]
    return charts


def _rates(hour: Hour) -> Chart:
    rates = {"stored": hour.stored_rates, "sent to readers": hour.sent_rates}
    most = [max((each or 0.0 for each in line), default=0.0) for line in rates.values()]
    words = (
        f"{hour.stored} stored, at most {figure(most[0])} a second; {hour.sent} sent "
        f"to readers, at most {figure(most[1])} a second; in {_span(hour)}."
    )
    return chart("Events through this sidecar", "events/s", words, rates)


def _latency(hour: Hour) -> Chart:
    if hour.p50 is None or hour.p99 is None:
        words = f"Nothing was published in {_span(hour)}."
    else:
        words = (
            f"Half of {hour.publishes} publishes took at most "
            f"{figure(hour.p50 * 1000)} ms (p50), 99 % at most "
            f"{figure(hour.p99 * 1000)} ms (p99); in {_span(hour)}."
        )
    lines = {"p50": _in_milliseconds(hour.p50s), "p99": _in_milliseconds(hour.p99s)}
    return chart("Publish latency of this sidecar", "ms", words, lines)


def _in_milliseconds(line: Sequence[float | None]) -> list[float | None]:
    return [None if value is None else 1000 * value for value in line]


def _span(hour: Hour) -> str:
    if hour.seconds < _HOUR_SECONDS:
        return f"the {duration(hour.seconds)} since the sidecar started"
    return "the last hour"


def size(count: int) -> str:
    """Write a number of bytes for people."""
    if count < _KIB:
        return f"{count} B"
    power = min((count.bit_length() - 1) // 10, len(_UNITS))
    return f"{count / _KIB**power:.1f} {_UNITS[power - 1]}"


def duration(span_seconds: float) -> str:
    """Write a duration for people, in its two largest units at most."""
    left = max(0, int(span_seconds))
    parts = []
    for name, length in (
        ("d", _DAY_SECONDS),
        ("h", _HOUR_SECONDS),
        ("min", _MINUTE_SECONDS),
        ("s", 1),
    ):
        count, left = divmod(left, length)
        if count:
            parts.append(f"{count} {name}")
    return " ".join(parts[:2]) or "0 s"


def _shown(value: object) -> object:
    """Show what a browser might obey: a stored event's header may hold anything."""
    return printable(value) if type(value) is str else value


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        finalize=_shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(size=size, rfc3339=rfc3339, duration=duration)
    environment.globals.update(
        refresh_seconds=REFRESH_SECONDS, style=STYLE, axes=charts
    )
    return environment


_PAGE: Final = _environment().get_template("status_page.html")
