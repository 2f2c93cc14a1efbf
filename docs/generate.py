# SPDX-License-Identifier: Apache-2.0
"""Writes the reference pages from the code: run `make docs` after a change.

tests/test_docs.py compares the pages with the code.
"""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

from sidecar import errors
from sidecar.errors import Cause
from sidecar.http.app import create_app
from sidecar.services.daemon import Daemon
from sidecar.settings import PREFIX, Settings

ROOT = Path(__file__).resolve().parent.parent


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
            "For administrators of a sidecar.",
            "",
            "Settings are environment variables. They are read once, at the start.",
            "An unknown `SIDECAR_` variable is an error. Secrets are files, which are",
            "read again for each connection. `make docs` writes this page.",
            "",
            "| variable | default | meaning |",
            "|---|---|---|",
            *rows,
            "",
        ]
    )


def settings_file() -> str:
    """Write each setting as a comment, for the units and the Debian package."""
    blocks = [
        "\n".join(
            [
                *textwrap.wrap(
                    field.description or "",
                    88,
                    initial_indent="# ",
                    subsequent_indent="# ",
                ),
                f"#{PREFIX}{name.upper()}={_value(name)}",
                "",
            ]
        )
        for name, field in Settings.model_fields.items()
    ]
    return "\n".join([_SETTINGS_FILE, *blocks])


_SETTINGS_FILE = """\
# SPDX-License-Identifier: Apache-2.0
# The settings of hermes-nats-sidecar.service, which reads them when it starts:
# remove the # before those that you set. The values here are the defaults, except that
# the unit sets SIDECAR_UNIX_SOCKET to /run/hermes-nats-sidecar/api.sock. Passwords and
# keys are files: put them beside this one. `make docs` writes this file.
"""


def http_page() -> str:
    """Describe routes and error responses."""
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

For those who write a program beside the plugins, and for developers.

Served on the Unix socket, and on TCP where `SIDECAR_TCP_API` allows it. The full
description is [openapi.json](openapi.json). `make docs` writes this page.

| request | what it does | parameters | statuses |
|---|---|---|---|
{routes}

## Storing an event

    curl --unix-socket /run/hermes-nats-sidecar/api.sock http://localhost/v1/events \\
      -H 'Content-Type: application/json' -H 'Idempotency-Key: 0b5e...' \\
      -H 'If-Match: "1795426702876123"' -d @event.json

`If-Match` is the last offset that the caller knows, L. The event is stored at offset
L + 1, or not at all: `201` means stored now, `200` already stored (same key, same
bytes), `412` another event is stored at L + 1. At most one event can be stored for each
L, so repeating a request is always safe.

`outcome` in an error response concerns the publish attempts of this request:

- `not_stored`: none of them is or will be stored.
- `unknown`: an attempt may still be stored, since it has no reply, or only a refusal
  that may come from a former leader. `reason` is the code of the error behind it.

After `unknown`, or without a response, the caller must repeat the same request until it
gets 200, 201, 410, 412 or 422. Other errors concern only the later attempts and do not
end the uncertainty.

`If-Match: *` appends after the last event, for use with curl. Repetitions are then
recognised only within the stream's duplicate window (2 minutes).

The `ETag` of `200` and `201` is the event's offset. With `Prefer: return=minimal`
(RFC 7240) they have no body. With `Prefer: wait=N` the response comes within N - 1
seconds (at least 2), or within `SIDECAR_PUBLISH_TIMEOUT_SECONDS` if that is less. A
caller that gives up earlier could miss a response that says `not_stored`. The plugin
sends `Prefer: return=minimal, wait=15`, and a longer wait with many events.

## Many events of an initsync

    printf '\\036%s\\n' "$(cat user1.json)" "$(cat user2.json)" |
    curl --unix-socket /run/hermes-nats-sidecar/api.sock http://localhost/v1/events \\
      -H 'Content-Type: application/json-seq' -H 'Idempotency-Key: 7f3a...' \\
      -H 'If-Match: "1795426702876123"' --data-binary @-

The body is a JSON text sequence (RFC 7464), exactly: before each event an RS (0x1E),
after it an LF; the bytes between them are stored unchanged. It contains 1 to 1,000
events and at most 1 MiB, all of category `initsync` and type `added`: no client uses
them before their `init-stop`. Anything else is `not_a_batch`, and `If-Match: *` too.

- The i-th event is stored at L + i with the key `KEY.i`: 32 or more in one atomic batch
  of NATS, if the stream allows it (`allow_atomic`), otherwise one after the other, each
  when the one before is stored. `201` means that all are, `200` that all already were;
  `offset` and `ETag` are those of the last one, L + n.
- Send `init-stop` alone, after that response.
- The request can be repeated like that of one event: it continues where the earlier one
  ended, and is answered the same.
- An error names the event by `index`, i. `outcome` concerns that event; nothing after
  it is stored. All events are checked before the first one is sent, so after 400, 415
  or `not_a_batch` nothing before it is stored either; after other errors, those before
  it may be.
- The time limit is `SIDECAR_PUBLISH_TIMEOUT_SECONDS` and 50 ms for each event, or what
  `Prefer: wait=N` leaves. If it ends between two events, the error is
  `batch_unfinished`: send the same request again.

## Reading events

The response of `GET /v1/events` contains `events`, each with `offset`, `timestamp` (the
server's clock, RFC 3339), `category` and `data` (the stored text, byte for byte), and
`next_offset`, the offset of the next request. `first_offset` may be two seconds old.

- An offset outside [first, last + 1] is an error.
- `wait` is how long the request may wait for the first event.
- `max_bytes` may be exceeded by one event.
- The end of the stream, or of a `category`, is reached only if `events` is empty and
  `next_offset` is greater than `last_offset`. The stream's leader confirmed this. After
  any other response without events, send the request again.
- While there are more events, a `Link` with `rel="next"` (RFC 8288) names the next
  page, so that a reader can request it early. A client that waits within 100 events of
  the end gets none: it waits again, and gets those that have come by then.
- A slow page starts with white space, which JSON allows. If it then fails, the body is
  the problem document and the status stays 200.

## Error responses

Errors are `application/problem+json` (RFC 9457) with `code`, `remedy` and, for an
event, `outcome`. 503 has `Retry-After`.

| status | code | what happened | what to do |
|---|---|---|---|
{problems}
"""


def _parameters(operation: dict[str, Any]) -> str:
    names = [f"`{each['name']}`" for each in operation.get("parameters", [])]
    return ", ".join(names)


PAGES = {
    "docs/openapi.json": openapi,
    "docs/settings.md": settings_page,
    "docs/http-api.md": http_page,
    "deploy/systemd/sidecar.env": settings_file,
}


def _default(name: str) -> str:
    value = _value(name)
    return f"`{value}`" if value else ""


def _value(name: str) -> str:
    field = Settings.model_fields[name]
    if field.default_factory is not None or field.default is None:
        return ""
    value: Any = field.default
    if isinstance(value, tuple):
        value = ",".join(value)
    if isinstance(value, bool):
        value = str(value).lower()
    return str(value)


def _text(description: str | None) -> str:
    return (description or "").replace("|", "\\|")


def main() -> None:
    """Write every page."""
    for name, page in PAGES.items():
        (ROOT / name).write_text(page(), "utf-8")


if __name__ == "__main__":
    main()
