# SPDX-License-Identifier: Apache-2.0
"""The HTTP API: reads requests, asks the parts, writes responses."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urlencode

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import (
    HTMLResponse,
    PlainTextResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Match

from sidecar import __version__, errors
from sidecar.errors import Problem
from sidecar.http.events import post_event as store_event
from sidecar.http.models import (
    GET_EVENTS,
    GET_EVENTS_REQUEST,
    GET_HEALTH,
    GET_LIVE,
    GET_STREAM,
    GET_STREAM_REQUEST,
    POST_EVENT,
    POST_EVENT_REQUEST,
    read_query,
)
from sidecar.http.probes import live_response, ready_response
from sidecar.http.protocol import EVENTS, UNIX
from sidecar.http.responses import PRIVATE, json_response, problem_response
from sidecar.http.status_page import HEADERS as PAGE_HEADERS
from sidecar.http.status_page import StatusView, render
from sidecar.model import health
from sidecar.model.initsync import max_age_seconds
from sidecar.telemetry import metrics

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine

    from starlette.types import Message, Receive, Scope, Send

    from sidecar.model.memory_budget import MemoryBudget
    from sidecar.services.daemon import Daemon
    from sidecar.services.reader import Page

_T = TypeVar("_T")

SLOW_SECONDS: Final = 2.0
"""How long after its time a page may come before its reader is shown that it comes."""

BYTE_SECONDS: Final = 1.0

_REACHED = (None, errors.STREAM_MISSING, errors.STREAM_UNFIT, errors.SERVER_TOO_OLD)
"""What is said of a stream by a NATS server that replies."""


def create_app(daemon: Daemon) -> FastAPI:
    """Build the application; who may use it is the listener's business."""
    app = FastAPI(
        title="hermes-nats-sidecar",
        version=__version__,
        description="A NATS JetStream message bus for Hermes.",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    app.add_exception_handler(HTTPException, _not_routed)
    app.add_exception_handler(Problem, _respond_problem)
    app.add_exception_handler(Exception, _respond_internal)

    @app.post(
        "/v1/events",
        response_class=Response,
        responses=POST_EVENT,
        openapi_extra=POST_EVENT_REQUEST,
    )
    async def post_event(request: Request) -> Response:
        """Store one Hermes event, or many of an initsync, after the offset If-Match."""
        return await store_event(daemon, request)

    @app.get(
        "/v1/events",
        response_class=Response,
        responses=GET_EVENTS,
        openapi_extra=GET_EVENTS_REQUEST,
    )
    async def get_events(request: Request) -> Response:
        """Read stored events from an offset on; optionally wait for the first."""
        return await _get_events(daemon, request)

    @app.get(
        "/v1/stream",
        response_class=Response,
        responses=GET_STREAM,
        openapi_extra=GET_STREAM_REQUEST,
    )
    async def get_stream(request: Request) -> Response:
        """Give the first and last offset of the stream."""
        producer = request.headers.get("hermes-producer", "")
        try:
            response = await _get_stream(daemon)
        except Problem as problem:
            daemon.failures.record_open(producer, time.monotonic(), problem.cause)
            raise
        daemon.failures.record_open(producer, time.monotonic())
        return response

    @app.get(
        "/metrics",
        response_class=PlainTextResponse,
        response_description="Prometheus' text format.",
    )
    async def get_metrics() -> Response:
        """Give the metrics for Prometheus."""
        return Response(daemon.metrics.text(), media_type=metrics.MEDIA_TYPE)

    @app.get("/", response_class=HTMLResponse, response_description="The status page.")
    async def get_page() -> Response:
        """Show the status page."""
        return await _get_page(daemon)

    @app.get("/health/live", response_class=Response, responses=GET_LIVE)
    async def get_live() -> Response:
        """Liveness: the process serves requests, whether or not NATS is up."""
        return live_response()

    @app.get("/health/ready", response_class=Response, responses=GET_HEALTH)
    @app.get("/health", response_class=Response, responses=GET_HEALTH)
    async def get_health() -> Response:
        """Readiness: whether events can be stored and read, and if not, why."""
        return ready_response(daemon)

    return app


async def _get_events(daemon: Daemon, request: Request) -> Response:
    if not daemon.reads:
        raise Problem(errors.WRONG_ROLE)
    query = read_query(dict(request.query_params))
    reading = asyncio.create_task(daemon.reader.read(query))
    try:
        slow = _until_slow(daemon, reading, query.wait_seconds + SLOW_SECONDS)
        await _while_wanted(daemon, request, slow)
    except BaseException:
        reading.cancel()
        raise
    if not reading.done():
        body = _slow_page(daemon, reading, _peer(request.scope))
        return StreamingResponse(body, headers=PRIVATE, media_type="application/json")
    page = reading.result()
    headers = PRIVATE
    if page.events and page.next_offset <= page.position.last:
        headers = headers | {"Link": _next_link(request, page.next_offset)}
    return _PageResponse(daemon.pages, headers, _page_document(page))


async def _until_slow(
    daemon: Daemon, reading: asyncio.Task[Page], timeout_seconds: float
) -> None:
    """Wait for a page, or until it is late and still coming."""
    await asyncio.wait({reading}, timeout=timeout_seconds)
    while not (reading.done() or daemon.reader.is_coming()):
        await asyncio.wait({reading}, timeout=BYTE_SECONDS)


async def _slow_page(
    daemon: Daemon, reading: asyncio.Task[Page], peer: str
) -> AsyncIterator[bytes]:
    """Give white space, which JSON allows, while a page comes, and then the page.

    So nobody on the way takes the sidecar for dead. What fails by then is said in the
    place of the page, and the reader asks again.
    """
    try:
        while not (reading.done() or daemon.stopping.is_set()):
            yield b" "
            await asyncio.wait({reading}, timeout=BYTE_SECONDS)
        if not reading.done():
            yield json.dumps(Problem(errors.STOPPING).document()).encode()
            return
        with daemon.pages.reserve(peer) as held:
            body = json.dumps(_page_document(reading.result())).encode()
            held.add(len(body))
            yield body
    except Problem as problem:
        yield json.dumps(problem.document()).encode()
    finally:
        reading.cancel()


def _page_document(page: Page) -> dict[str, Any]:
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


def _next_link(request: Request, offset: int) -> str:
    """Name the page that follows (RFC 8288): a reader may ask before it reads this."""
    query = dict(request.query_params) | {"offset": offset}
    query.pop("wait", None)
    return f'<{EVENTS}?{urlencode(query)}>; rel="next"'


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

        with self._budget.reserve(_peer(scope)) as held:
            held.add(len(self.body))
            await super().__call__(scope, receive, send_and_wait)


def _peer(scope: Scope) -> str:
    """Name who asks: an address, or a process at the Unix socket."""
    host, number = scope.get("client") or ("", 0)
    return f"process {number} at the Unix socket" if host == UNIX else str(host)


async def _while_wanted(
    daemon: Daemon, request: Request, work: Coroutine[Any, Any, _T]
) -> _T:
    """Do the work unless the caller leaves or the daemon stops."""
    doing = asyncio.create_task(work)
    ends = [
        asyncio.create_task(_leave(request)),
        asyncio.create_task(daemon.stopping.wait()),
    ]
    try:
        await asyncio.wait({doing, *ends}, return_when=asyncio.FIRST_COMPLETED)
        if doing.done():
            return doing.result()
        if daemon.stopping.is_set():
            raise Problem(errors.STOPPING)
        raise ClientDisconnect
    finally:
        for task in (doing, *ends):
            task.cancel()


async def _leave(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _get_stream(daemon: Daemon) -> Response:
    info = await daemon.supervisor.leader.stream_info()
    last = info.position.last
    message = await daemon.supervisor.leader.message(last) if info.messages else None
    verdict = await daemon.guard.known(info)
    initsync = verdict.initsync
    document = {
        "stream": daemon.settings.stream,
        "first_offset": info.position.first,
        "last_offset": last,
        "next_offset": last + 1,
        "last_key": message.key if message else None,
        "messages": info.messages,
        "bytes": info.size_bytes,
        "created": info.created,
        "categories": await daemon.supervisor.leader.categories(),
        "last_complete_initsync": initsync
        and initsync.document(max_age_seconds(info.config)),
        "initsync_known": verdict.is_known,
    }
    return json_response(document, headers={"ETag": f'"{last}"', **PRIVATE})


async def _get_page(daemon: Daemon) -> Response:
    facts, now = daemon.facts(), time.time()
    view = StatusView(
        version=__version__,
        now=now,
        checks=health.assess(facts),
        stream=daemon.settings.stream,
        server=daemon.supervisor.monitor.server if facts.cause in _REACHED else "",
        info=facts.info,
        is_initsync_known=facts.is_initsync_known,
        initsync=facts.initsync,
        initsync_stays=facts.initsync_stays,
    )
    glance = await daemon.recent.glance()
    if glance is not None:
        view = replace(view, info=glance.info, minutes=glance.minutes, rows=glance.rows)
    return Response(render(view), media_type="text/html", headers=PAGE_HEADERS)


async def _respond_problem(_: Request, problem: Exception) -> Response:
    assert isinstance(problem, Problem)  # noqa: S101 - Starlette's type is wider
    return problem_response(problem)


async def _respond_internal(_: Request, __: Exception) -> Response:
    return problem_response(Problem(errors.INTERNAL))


async def _not_routed(request: Request, error: Exception) -> Response:
    """Respond to what Starlette itself refuses: paths and methods that do not exist."""
    assert isinstance(error, HTTPException)  # noqa: S101 - as above
    is_method = error.status_code == HTTPStatus.METHOD_NOT_ALLOWED
    response = problem_response(
        Problem(errors.METHOD_NOT_ALLOWED if is_method else errors.NOT_FOUND)
    )
    response.headers.update(error.headers or {})
    if is_method:
        response.headers["Allow"] = ", ".join(_methods(request))
    return response


def _methods(request: Request) -> list[str]:
    """Give what a path knows; Starlette names the methods of its first route alone."""
    found = {
        method
        for route in request.app.routes
        if route.matches(request.scope)[0] is not Match.NONE
        for method in route.methods
    }
    return sorted(found | {"HEAD"} if "GET" in found else found)
