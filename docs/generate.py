# SPDX-License-Identifier: Apache-2.0
"""Writes the references that the code itself defines: run `make docs` after a change.

tests/test_docs.py compares them with what stands here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sidecar import errors
from sidecar.errors import Cause
from sidecar.http.app import create_app
from sidecar.services.daemon import Daemon
from sidecar.settings import PREFIX, Settings

DOCS = Path(__file__).resolve().parent


def openapi() -> str:
    """Describe the HTTP API."""
    settings = Settings()
    document = create_app(Daemon(settings, settings.nats_server)).openapi()
    return json.dumps(document, indent=2) + "\n"


def settings_page() -> str:
    """Describe each setting."""
    rows = [
        f"| `{PREFIX}{name.upper()}` | {_default(name)} | {_text(field.description)} |"
        for name, field in Settings.model_fields.items()
    ]
    return "\n".join(
        [
            "# Settings",
            "",
            "Environment variables, read once at the start and checked together.",
            "An unknown `SIDECAR_` variable is an error. Secrets are files, read again",
            "on each connection.",
            "`make docs` writes this page.",
            "",
            "| variable | default | meaning |",
            "|---|---|---|",
            *rows,
            "",
        ]
    )


def http_page() -> str:
    """Describe routes and error answers."""
    causes = [value for value in vars(errors).values() if isinstance(value, Cause)]
    problems = [
        f"| {int(cause.status)} | `{cause.code}` | {cause.title} | {cause.remedy} |"
        for cause in sorted(causes, key=lambda cause: (cause.status, cause.code))
    ]
    routes = [
        f"| `{method.upper()} {path}` | {operation['description']} | "
        f"{_parameters(operation)} | {' '.join(sorted(operation['responses']))} |"
        for path, operations in json.loads(openapi())["paths"].items()
        for method, operation in operations.items()
    ]
    return _HTTP_PAGE.format(routes="\n".join(routes), problems="\n".join(problems))


_HTTP_PAGE = """\
# HTTP API

Served on the Unix socket, and on TCP where `SIDECAR_TCP_API` allows it. The full
description is [openapi.json](openapi.json). `make docs` writes this page.

| request | what it does | parameters | statuses |
|---|---|---|---|
{routes}

## Storing an event

    curl --unix-socket /run/hermes-nats-sidecar/api.sock http://localhost/v1/events \\
      -H 'Content-Type: application/json' -H 'Idempotency-Key: 0b5e...' \\
      -H 'If-Match: "1795426702876123"' -d @event.json

`If-Match` carries the last offset that the caller knows, L. The event becomes L + 1 or
nothing: `201` stored now, `200` already stored (same key, same bytes), `412`
another event holds L + 1. So at most one event can ever be stored with one L, and
repeating a request is always safe.

`outcome` in an error answer speaks of the copies that this request sent:
`not_stored`: none of them ever will be stored; `unknown`: one left and has no definite
answer yet, or was refused, perhaps by an old leader, and nobody could be asked what
stands; its `reason`, the code of another error, says what holds it up. A caller that
once had `unknown`, or no answer at all, stays in doubt until the same request is
answered by 200, 201, 410, 412 or 422: later refusals speak of later copies. `If-Match:
*` appends after whatever is last, for people with curl: repetitions are recognised only
inside the stream's duplicate window (2 minutes).

The `ETag` of `200` and `201` is the event's offset. With `Prefer: return=minimal`
(RFC 7240) they have no body, which spares both sides time. With `Prefer: wait=N` the
answer comes within N - 1 seconds, but not under 2, or within
`SIDECAR_PUBLISH_TIMEOUT_SECONDS` if that is less: a caller that gives up before its
answer comes takes for unknown what the sidecar knows to be not stored. The plugin sends
both, `Prefer: return=minimal, wait=15`.

## Reading events

The answer of `GET /v1/events` holds `events`, each with `offset`, `timestamp` (the
server's clock, RFC 3339), `category` and `data` (the stored text, byte for byte), and
`next_offset`, where to go on. An offset outside [first, last + 1] is an error. `wait`
holds the request until there is an event. `max_bytes` is passed by one event at most.
A page that comes slowly begins with white space, which JSON allows; if it fails after
that, the problem document stands in its place, with the status 200 of the answer.
Nothing more stands there only where `events` is empty and `next_offset` is beyond
`last_offset`: the stream's leader says so, with `category` of that category. Any other
answer without events says nothing: ask again.
While there are more events, a `Link` with `rel="next"` (RFC 8288) names the page that
follows, so that a reader can ask for it before it reads this one. `first_offset` may be
two seconds old.

## Error answers

`application/problem+json` (RFC 9457) with `code`, `remedy` and, for an event,
`outcome`. 503 carries `Retry-After`.

| status | code | what happened | what to do |
|---|---|---|---|
{problems}
"""


def _parameters(operation: dict[str, Any]) -> str:
    names = [f"`{each['name']}`" for each in operation.get("parameters", [])]
    return ", ".join(names)


PAGES = {
    "openapi.json": openapi,
    "settings.md": settings_page,
    "http-api.md": http_page,
}


def _default(name: str) -> str:
    field = Settings.model_fields[name]
    if field.default_factory is not None or field.default is None:
        return ""
    value: Any = field.default
    if isinstance(value, tuple):
        value = ",".join(value)
    if isinstance(value, bool):
        value = str(value).lower()
    return f"`{value}`"


def _text(description: str | None) -> str:
    return (description or "").replace("|", "\\|")


def main() -> None:
    """Write every page."""
    for name, page in PAGES.items():
        (DOCS / name).write_text(page(), "utf-8")


if __name__ == "__main__":
    main()
