# SPDX-License-Identifier: Apache-2.0
"""The status page as HTML. Pure: what is known in, text out.

Rules of this file: whatever is not written here passes `escape`, since a header of a
stored event may hold anything; no script, no style attribute and nothing from
elsewhere, so that the policy can forbid all three.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Final

from sidecar.command_error import printable
from sidecar.model.initsync import max_age_seconds, rfc3339

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.model.health import Check
    from sidecar.model.initsync import Initsync
    from sidecar.model.stream import StreamInfo
    from sidecar.services.activity import Row

REFRESH_SECONDS: Final = 10

STYLE: Final = """
:root { color-scheme: light dark; --page: #fff; --card: #f4f5f7; --text: #16191d;
  --soft: #50565e; --line: #c8cdd3; --bar: #1f5fa8;
  --pass: #0b6b30; --warn: #7a4b00; --fail: #a8121b; --on: #fff }
@media (prefers-color-scheme: dark) {
  :root { --page: #111418; --card: #1b2026; --text: #e9ecef; --soft: #aab2bb;
    --line: #3a424b; --bar: #7db4f0;
    --pass: #7edc9b; --warn: #f2c063; --fail: #ff9a94; --on: #111418 } }
* { box-sizing: border-box }
body { margin: 0 auto; padding: 1rem; max-width: 64rem; background: var(--page);
  color: var(--text); font: 1rem/1.5 system-ui, sans-serif }
h1 { font-size: 1.1rem; margin: 0 0 .75rem }
h2 { font-size: 1rem; margin: 1.5rem 0 .5rem }
.state { padding: .75rem 1rem; border-radius: .5rem; color: var(--on) }
.state strong { font-size: 1.5rem; display: block }
.state.pass { background: var(--pass) } .state.warn { background: var(--warn) }
.state.fail { background: var(--fail) }
.state p { margin: .25rem 0 0; overflow-wrap: anywhere }
dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(15rem, 1fr));
  gap: .5rem; margin: 0 }
dl div { background: var(--card); border-radius: .5rem; padding: .5rem .75rem }
dt { color: var(--soft); font-size: .875rem }
dd { margin: 0; overflow-wrap: anywhere }
svg { display: block; width: 100%; height: 8rem; background: var(--card);
  border-radius: .5rem } rect { fill: var(--bar) }
.scroll { overflow-x: auto } table { border-collapse: collapse; width: 100% }
th, td { text-align: left; padding: .25rem .75rem .25rem 0; white-space: nowrap;
  border-bottom: 1px solid var(--line); font-variant-numeric: tabular-nums }
th { color: var(--soft); font-weight: 600 } .right { text-align: right }
.soft, footer { color: var(--soft) } footer { margin-top: 1.5rem; font-size: .875rem }
"""

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
class View:
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
    minutes: list[int] | None = None
    rows: list[Row] | None = field(default=None, repr=False)


def render(view: View) -> str:
    """Write the page."""
    statuses = [check.status for check in view.checks]
    worst = next((each for each in ("fail", "warn") if each in statuses), "pass")
    state = _STATES[worst]
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="refresh" content="{REFRESH_SECONDS}">
<title>{_shown(state)} - hermes-nats-sidecar</title>
<style>{STYLE}</style>
</head>
<body>
<h1>hermes-nats-sidecar</h1>
<main>
<section class="state {worst}"><strong>{_shown(state)}</strong>
{_reasons(view.checks)}</section>
<h2>Stream</h2>
<dl>
{_facts(view)}
</dl>
<h2>Events per minute, last hour</h2>
{_chart(view.minutes)}
<h2>Last events</h2>
{_table(view.rows)}
</main>
<footer>Version {_shown(view.version)}, as of {rfc3339(view.now)}; refreshes every
{REFRESH_SECONDS} seconds. Of an event nothing but metadata is shown.</footer>
</body>
</html>
"""


def _reasons(checks: list[Check]) -> str:
    bad = [check for check in checks if check.reason is not None]
    if not bad:
        return "<p>Events can flow.</p>"
    return "\n".join(
        f"<p>{_shown(check.reason or '')} <em>{_shown(check.remedy or '')}</em></p>"
        for check in bad
    )


def _facts(view: View) -> str:
    facts = [("NATS server", view.server or "not connected"), ("Stream", view.stream)]
    if view.info is not None:
        facts += _stream_facts(view.info)
    if view.is_initsync_known is not None:
        facts += _initsync_facts(view)
    return "\n".join(
        f"<div><dt>{_shown(name)}</dt><dd>{_shown(value)}</dd></div>"
        for name, value in facts
    )


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


def _initsync_facts(view: View) -> list[tuple[str, str]]:
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


def _chart(minutes: list[int] | None) -> str:
    if minutes is None:
        return '<p class="soft">The stream cannot be read now.</p>'
    most = max(1, *minutes)
    step, height = 10, 100
    bars = "".join(
        f'<rect x="{index * step + 1}" y="{height - count * height / most:.1f}" '
        f'width="{step - 2}" height="{count * height / most:.1f}">'
        f"<title>{len(minutes) - 1 - index} minutes ago: {count}</title></rect>"
        for index, count in enumerate(minutes)
        if count
    )
    words = f"{sum(minutes)} events in the last hour, {max(minutes)} in its best minute"
    return (
        f'<svg viewBox="0 0 {len(minutes) * step} {height}" role="img" '
        f'preserveAspectRatio="none" aria-label="{words}">{bars}</svg>\n'
        f'<p class="soft">{words}.</p>'
    )


def _table(rows: list[Row] | None) -> str:
    if rows is None:
        return '<p class="soft">The stream cannot be read now.</p>'
    if not rows:
        return '<p class="soft">None yet.</p>'
    lines = "\n".join(
        f'<tr><td class="right">{row.offset}</td><td>{_shown(row.time[:19])}Z</td>'
        f"<td>{_shown(row.category)}</td><td>{_shown(row.type or '')}</td>"
        f"<td>{_shown(row.object_type or '')}</td>"
        f'<td class="right">{size(row.size_bytes)}</td></tr>'
        for row in rows
    )
    return f"""<div class="scroll" tabindex="0"><table>
<tr><th class="right">Offset</th><th>Time</th><th>Category</th><th>Type</th>
<th>Object type</th><th class="right">Size</th></tr>
{lines}
</table></div>"""


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


def _shown(text: str) -> str:
    return escape(printable(text))
