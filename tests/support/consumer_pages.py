# SPDX-License-Identifier: Apache-2.0
"""The consumer plugin, and the pages of events that it is given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .fake_sidecar import Clock, Reply, timed
from .hermes import load_plugin
from .sidecar import event

if TYPE_CHECKING:
    from pathlib import Path

FAMILY = "messagebus_consumers"
SECRET = "c0rrect-horse"


def consumer_of(
    home: Path, url: str, clock: Clock | None = None, **settings: Any
) -> Any:
    """Load the plugin; with the test's clock its pauses cost nothing."""
    plugin = load_plugin(home, FAMILY, {"url": url} | settings)
    return plugin if clock is None else timed(plugin, clock)


def page(*offsets: int, next_offset: int = 1) -> Reply:
    rows = [
        {
            "offset": offset,
            "timestamp": "2026-11-23T09:48:26.948035854Z",
            "category": "base",
            "data": event(objpkey=offset).decode(),
        }
        for offset in offsets
    ]
    if offsets:
        next_offset = offsets[-1] + 1
    return Reply(
        200,
        {"events": rows, "next_offset": next_offset, "last_offset": next_offset - 1},
    )


def more(*offsets: int, last: int) -> Reply:
    """Give a page that is not the stream's last, and the link to the next."""
    answer = page(*offsets)
    answer.document["last_offset"] = last
    query = f"offset={offsets[-1] + 1}&limit=500&max_bytes=262144"
    answer.headers["Link"] = f'</v1/events?{query}>; rel="next"'
    return answer
