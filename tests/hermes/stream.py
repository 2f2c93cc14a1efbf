# SPDX-License-Identifier: Apache-2.0
"""What stands in the stream, and what an operator does to it with NATS' own tools."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import nats
from parts.process import wait_until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from parts.sidecar import SidecarProcess

_NANOSECONDS = 1_000_000_000


def rows(sidecar: SidecarProcess) -> list[dict[str, Any]]:
    """Give every stored event as GET /v1/events does."""
    with sidecar.client() as http:
        answer = http.get("/v1/events", params={"offset": "first", "limit": 5000})
        return list(answer.raise_for_status().json()["events"])


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

    async def ask(connection: nats.NATS) -> None:
        await _ask(connection, f"STREAM.DELETE.{sidecar.settings['stream']}")

    asyncio.run(_with_nats(sidecar, ask))


def _set_max_age(sidecar: SidecarProcess, seconds: int) -> None:
    stream = sidecar.settings["stream"]

    async def ask(connection: nats.NATS) -> None:
        config = (await _ask(connection, f"STREAM.INFO.{stream}"))["config"]
        config["max_age"] = seconds * _NANOSECONDS
        config["duplicate_window"] = min(seconds, 120) * _NANOSECONDS
        await _ask(connection, f"STREAM.UPDATE.{stream}", config)

    asyncio.run(_with_nats(sidecar, ask))


async def _with_nats(
    sidecar: SidecarProcess, ask: Callable[[nats.NATS], Awaitable[None]]
) -> None:
    connection = await nats.connect(str(sidecar.settings["nats_url"]))
    try:
        await ask(connection)
    finally:
        await connection.close()


async def _ask(
    connection: nats.NATS, subject: str, body: dict[str, Any] | None = None
) -> dict[str, Any]:
    text = b"" if body is None else json.dumps(body).encode()
    answer = json.loads((await connection.request(f"$JS.API.{subject}", text)).data)
    assert "error" not in answer, answer
    return dict(answer)
