# SPDX-License-Identifier: Apache-2.0
"""The status page: status_page.html and status_page.css, and the words for figures."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from sidecar.command_error import printable
from sidecar.model.initsync import max_age_seconds, rfc3339
from sidecar.model.sidecars import Everyone

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.model.health import Check
    from sidecar.model.initsync import Initsync
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
    """What the page shows; None for what cannot be known now."""

    version: str
    now: float
    checks: list[Check]
    stream: str
    server: str
    info: StreamInfo | None = None
    is_initsync_known: bool | None = None
    initsync: Initsync | None = None
    initsync_stays: float | None = None
    recognised_count: int = 0
    clients: Everyone = field(default_factory=Everyone)
    minutes: list[int] | None = None
    rows: list[Row] | None = field(default=None, repr=False)


def render(view: StatusView) -> str:
    """Write the page."""
    statuses = [check.status for check in view.checks]
    worst = next((each for each in ("fail", "warn") if each in statuses), "pass")
    return _PAGE.render(
        view=view, status=worst, state=_STATES[worst], facts=_facts(view)
    )


def _facts(view: StatusView) -> list[tuple[str, str]]:
    facts = [("NATS server", view.server or "not connected"), ("Stream", view.stream)]
    if view.info is not None:
        facts += _stream_facts(view.info)
    if view.is_initsync_known is not None:
        facts += _initsync_facts(view)
    if view.recognised_count:
        facts.append(
            ("Sent again by Hermes and recognised", str(view.recognised_count))
        )
    return facts


def _stream_facts(info: StreamInfo) -> list[tuple[str, str]]:
    config, position = info.config, info.position
    age = max_age_seconds(config)
    held = f"{position.first} to {position.last}"
    return [
        ("Offsets", held if info.messages else f"none, the next is {position.first}"),
        ("Events", _filled(info.messages, config.get("max_msgs", -1), str)),
        ("Size", _filled(info.size_bytes, config.get("max_bytes", -1), size)),
        ("Retention", duration(age) if age else "for ever"),
        ("Replicas", f"{info.live_replicas} of {info.replicas} live"),
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
        return [("Last complete initsync", found)]
    objects = f", {initsync.objects} objects"
    stays = view.initsync_stays
    return [
        ("Last complete initsync", rfc3339(initsync.stop.time) + objects),
        (
            "Its offsets",
            f"{initsync.start.offset} to {initsync.stop.offset}",
        ),
        ("It stays", "for ever" if stays is None else f"for {duration(stays)}"),
    ]


def size(count: int) -> str:
    """Write a number of bytes for people."""
    if count < _KIB:
        return f"{count} B"
    power = min((count.bit_length() - 1) // 10, len(_UNITS))
    return f"{count / _KIB**power:.1f} {_UNITS[power - 1]}"


def duration(seconds: float) -> str:
    """Write a duration for people, in its two largest units at most."""
    left = max(0, int(seconds))
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
    environment.globals.update(refresh_seconds=REFRESH_SECONDS, style=STYLE)
    return environment


_PAGE: Final = _environment().get_template("status_page.html")
