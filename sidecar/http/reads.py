# SPDX-License-Identifier: Apache-2.0
"""GET /v1/events and who asks for it: pages of events, and the clients that read."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from starlette.responses import Response

from sidecar import errors
from sidecar.errors import Problem
from sidecar.http.models import read_query
from sidecar.http.protocol import ASKED_AT, EVENTS
from sidecar.http.responses import PRIVATE
from sidecar.http.waiting import (
    BYTE_SECONDS,
    SLOW_SECONDS,
    done_or_slow,
    peer_of,
)
from sidecar.model.initsync import seconds
from sidecar.services.pages import NEXT
from sidecar.telemetry.log import log

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import Message, Receive, Scope, Send

    from sidecar.model.memory_budget import MemoryBudget
    from sidecar.services.daemon import Daemon
    from sidecar.services.pages import Page, Query
    from sidecar.services.publisher import Publisher

_BESIDE_WRITES_BYTES = 32 * 1024  # of a page: a larger one would hold a publish longer
_BESIDE_WRITES_SECONDS = 0.01  # before each, in which publishes go
_WRITES_SECONDS = 1.0  # since an event was stored
_MANY_EVENTS = 100


async def read_events(daemon: Daemon, request: Request) -> Response:
    """Respond with a page of events, and remember who reads."""
    try:
        query = replace(
            _query(daemon, request), asked_at=request.scope["state"].get(ASKED_AT)
        )
    except Problem as problem:
        daemon.metrics.refused(problem.cause.code)
        raise
    agent = request.headers.get("user-agent", "")
    reading = asyncio.create_task(_read(daemon, agent, query))
    waits_seconds = query.wait_seconds
    if query.asked_at is not None:
        waits_seconds = max(0.0, query.asked_at + waits_seconds - time.monotonic())
    slow = _until_slow(daemon, reading, waits_seconds + SLOW_SECONDS)
    page = await done_or_slow(daemon, request, reading, slow, page_document)
    if isinstance(page, Response):
        return page
    headers = PRIVATE
    if page.events and page.next_offset <= page.position.last:
        asked = dict(request.query_params)
        headers = headers | {"Link": next_link(asked, page.next_offset)}
    return _PageResponse(daemon.pages, headers, page_document(page))


def _query(daemon: Daemon, request: Request) -> Query:
    if not daemon.reads:
        raise Problem(errors.WRONG_ROLE)
    return read_query(dict(request.query_params))


async def _read(daemon: Daemon, agent: str, query: Query) -> Page:
    offset = None if query.offset == NEXT else query.offset
    is_client = daemon.clients.ask(agent, offset, time.monotonic())
    last = daemon.supervisor.monitor.proven_last()
    if is_client and _gives_way(query, last, daemon.publisher):
        query = replace(query, max_bytes=min(query.max_bytes, _BESIDE_WRITES_BYTES))
        await asyncio.sleep(_BESIDE_WRITES_SECONDS)
    try:
        page = await daemon.reader.read(query)
    except Problem as problem:
        daemon.metrics.refused(problem.cause.code)
        if daemon.clients.refuse(agent, problem.cause):
            log.warning(
                "client_stranded", client=agent, offset=offset, **problem.members
            )
        raise
    if query.offset is None:  # the first, whichever that is
        offset = page.events[0].sequence if page.events else page.next_offset
    if offset is not None:
        daemon.clients.read(agent, offset, time.monotonic())
    if is_client and query.offset is not None and 0 < last < query.offset:
        daemon.metrics.followed(agent, delays_seconds(page))
    return page


def delays_seconds(page: Page) -> list[float]:
    """Say of each event how long ago it was stored."""
    now = time.time()
    return [now - seconds(message.time) for message in page.events]


def _gives_way(query: Query, last: int, publisher: Publisher) -> bool:
    """Tell whether it is a client that catches up while Hermes sends events.

    Pages of 256 KiB one after the other leave Hermes a tenth of its rate, and nobody
    waits for them. Somebody waits for what was just stored: that is read as ever.
    """
    stored_at = publisher.acknowledged_at
    return (
        stored_at is not None
        and time.monotonic() - stored_at < _WRITES_SECONDS
        and query.offset is not None
        and query.offset != NEXT
        and last - query.offset >= _MANY_EVENTS
    )


async def clients_document(daemon: Daemon) -> dict[str, Any]:
    """Give the body of GET /v1/clients."""
    everyone = await daemon.survey.look()
    return {
        "clients": [each.document() for each in everyone.clients],
        "complete": everyone.reason is None,
        "reason": everyone.reason,
    }


async def _until_slow(
    daemon: Daemon, reading: asyncio.Task[Page], timeout_seconds: float
) -> None:
    """Wait for a page, or until it is late and still coming."""
    await asyncio.wait({reading}, timeout=timeout_seconds)
    while not (reading.done() or daemon.reader.is_coming()):
        await asyncio.wait({reading}, timeout=BYTE_SECONDS)


def page_document(page: Page) -> dict[str, Any]:
    """Give the body of a page."""
    return {
        "events": [
            {
                "offset": message.sequence,
                "timestamp": message.time,
                "category": message.category,
                "data": message.body.decode("utf-8", "surrogateescape"),
            }
            for message in page.events
        ],
        "next_offset": page.next_offset,
        "first_offset": page.position.first,
        "last_offset": page.position.last,
    }


def next_link(query: dict[str, Any], offset: int) -> str:
    """Name the page that follows (RFC 8288): a reader may ask before it reads this."""
    follows = {name: value for name, value in query.items() if name != "wait"}
    return f'<{EVENTS}?{urlencode(follows | {"offset": offset})}>; rel="next"'


class _PageResponse(Response):
    """A page of events; it counts as held until the reader has taken it."""

    def __init__(
        self, budget: MemoryBudget, headers: dict[str, str], document: dict[str, Any]
    ) -> None:
        super().__init__(
            json.dumps(document), headers=headers, media_type="application/json"
        )
        self._budget = budget

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_and_wait(message: Message) -> None:
            if message["type"] == "http.response.body":
                # uvicorn waits before a piece, not after it: so let one more follow.
                await send({**message, "more_body": True})
                message = {"type": "http.response.body"}
            await send(message)

        with self._budget.reserve(peer_of(scope)) as held:
            held.add(len(self.body))
            await super().__call__(scope, receive, send_and_wait)
