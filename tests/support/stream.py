# SPDX-License-Identifier: Apache-2.0
"""What stands in the stream, and what an operator does to it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from .jetstream import RawNatsClient
from .process import wait_until

if TYPE_CHECKING:
    from .sidecar import SidecarProcess

_NANOSECONDS = 1_000_000_000


def rows(sidecar: SidecarProcess) -> list[dict[str, Any]]:
    """Give every stored event as GET /v1/events does, page by page."""
    found: list[dict[str, Any]] = []
    query: dict[str, Any] = {"offset": "first", "limit": 5000}
    with sidecar.client() as http:
        while True:
            page = http.get("/v1/events", params=query).raise_for_status().json()
            if not page["events"]:
                return found
            found += page["events"]
            query["offset"] = page["next_offset"]


def position(sidecar: SidecarProcess) -> dict[str, Any]:
    """Give what GET /v1/stream says."""
    with sidecar.client() as http:
        return dict(http.get("/v1/stream").raise_for_status().json())


def documents(sidecar: SidecarProcess) -> list[dict[str, Any]]:
    """Give the stored events as parsed JSON."""
    return [json.loads(row["data"]) for row in rows(sidecar)]


def names(sidecar: SidecarProcess) -> list[str]:
    """Give each stored event in short: its type, with the object it is about."""
    return [name(document) for document in documents(sidecar)]


def name(document: dict[str, Any]) -> str:
    if document["objtype"] is None:
        return str(document["eventtype"])
    return f"{document['eventtype']} {document['objtype']} {document['objpkey']}"


def wait_stored(sidecar: SidecarProcess, count: int, seconds: float = 30) -> None:
    """Wait until that many events stand in the stream, and fail if there are more."""
    wait_until(
        lambda: position(sidecar)["messages"] >= count,
        seconds,
        f"{count} events stored, not {names(sidecar)}",
    )
    assert position(sidecar)["messages"] == count, names(sidecar)


def age_out(sidecar: SidecarProcess) -> None:
    """Let every stored event pass its retention, then set that back to 90 days."""
    _set_max_age(sidecar, seconds=1)
    wait_until(lambda: position(sidecar)["messages"] == 0, what="the stream is empty")
    _set_max_age(sidecar, seconds=90 * 86_400)


def delete(sidecar: SidecarProcess) -> None:
    """Delete the stream with all its events."""
    with _operator(sidecar) as operator:
        operator.delete(str(sidecar.settings["stream"]))


def _set_max_age(sidecar: SidecarProcess, seconds: int) -> None:
    with _operator(sidecar) as operator:
        operator.update(
            str(sidecar.settings["stream"]),
            max_age=seconds * _NANOSECONDS,
            duplicate_window=min(seconds, 120) * _NANOSECONDS,
        )


def _operator(sidecar: SidecarProcess) -> RawNatsClient:
    return RawNatsClient(int(str(sidecar.settings["nats_url"]).rpartition(":")[2]))
