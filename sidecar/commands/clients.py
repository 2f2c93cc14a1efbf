# SPDX-License-Identifier: Apache-2.0
"""Shows which hermes-clients read, and how far behind each is."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any, Final

from sidecar.command_error import printable
from sidecar.commands.http_client import ask, client
from sidecar.commands.table import Table

if TYPE_CHECKING:
    from sidecar.settings import Settings

_HEADER: Final = ("CLIENT", "SIDECAR", "STATE", "BEHIND", "NEXT OFFSET", "LAST SEEN")


def clients(settings: Settings, *, as_json: bool) -> None:
    """Print the clients of all sidecars that the daemon reaches; raise DaemonError."""
    with client(settings) as http:
        document = ask(http, "/v1/clients")
    if as_json:
        print(json.dumps(document))
        return
    rows = [_cells(each) for each in document["clients"]]
    Table(*_HEADER).show(rows)
    if not rows:
        print("No hermes-client has read since its sidecar started.", file=sys.stderr)
    if not document["complete"]:
        print(document["reason"], file=sys.stderr)


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    return (
        printable(row["name"]),
        printable(row["sidecar"]),
        row["state"],
        _known(row["behind"]),
        _known(row["offset"]),
        f"{row['last_seen_seconds']:.0f} s ago",
    )


def _known(value: int | None) -> str:
    return "?" if value is None else str(value)
