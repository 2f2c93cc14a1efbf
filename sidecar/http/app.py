# SPDX-License-Identifier: Apache-2.0
"""The HTTP API: reads requests, asks the parts, writes responses."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from http import HTTPStatus
from typing import TYPE_CHECKING

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request  # noqa: TC002 - FastAPI reads it
from starlette.responses import (
    HTMLResponse,
    PlainTextResponse,
    Response,
)
from starlette.routing import Match

from sidecar import __version__, errors
from sidecar.errors import Problem
from sidecar.http.events import post_event as store_event
from sidecar.http.models import (
    GET_CLIENTS,
    GET_EVENTS,
    GET_EVENTS_REQUEST,
    GET_HEALTH,
    GET_LIVE,
    GET_PAGE_REQUEST,
    GET_PASS,
    GET_PASS_REQUEST,
    GET_STREAM,
    GET_STREAM_REQUEST,
    POST_EVENT,
    POST_EVENT_REQUEST,
    POST_MATCH,
    POST_MATCH_REQUEST,
)
from sidecar.http.passes import beginning_pass, get_pass, post_match
from sidecar.http.probes import live_response, ready_response
from sidecar.http.reads import clients_document, read_events
from sidecar.http.responses import PRIVATE, json_response, problem_response
from sidecar.http.status_page import HEADERS as PAGE_HEADERS
from sidecar.http.status_page import StatusView, render
from sidecar.model import health
from sidecar.model.initsync import max_age_seconds
from sidecar.services.daemon import HOST
from sidecar.telemetry import metrics

if TYPE_CHECKING:
    from sidecar.services.daemon import Daemon

_REACHED = (None, errors.STREAM_MISSING, errors.STREAM_UNFIT, errors.SERVER_TOO_OLD)
"""What is said of a stream by a NATS server that replies."""

_SEEN = (None, errors.STREAM_UNFIT)
"""What is said of a stream that is looked at all the time."""

_OLD_SECONDS = 5.0


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
        return await read_events(daemon, request)

    @app.get("/v1/clients", response_class=Response, responses=GET_CLIENTS)
    async def get_clients() -> Response:
        """Tell which hermes-clients read, and how far each has come."""
        return json_response(await clients_document(daemon))

    @app.get(
        "/v1/stream",
        response_class=Response,
        responses=GET_STREAM,
        openapi_extra=GET_STREAM_REQUEST,
    )
    async def get_stream(request: Request) -> Response:
        """Give the first and last offset of the stream."""
        with beginning_pass(daemon, request):
            return await _get_stream(daemon)

    @app.get(
        "/v1/passes/{start}",  # noqa: FAST003 - read of the request: no 422 of FastAPI
        response_class=Response,
        responses=GET_PASS,
        openapi_extra=GET_PASS_REQUEST,
    )
    async def get_last_pass(request: Request) -> Response:
        """Give the objects whose newest event is of a pass that may not be saved."""
        return await get_pass(daemon, request)

    @app.post(
        "/v1/match",
        response_class=Response,
        responses=POST_MATCH,
        openapi_extra=POST_MATCH_REQUEST,
    )
    async def match_event(request: Request) -> Response:
        """Tell whether the event at an offset is this one, as Hermes writes it."""
        return await post_match(daemon, request)

    @app.get(
        "/metrics",
        response_class=PlainTextResponse,
        response_description="Prometheus' text format.",
    )
    async def get_metrics() -> Response:
        """Give the metrics for Prometheus."""
        return Response(daemon.metrics.text(), media_type=metrics.MEDIA_TYPE)

    @app.get(
        "/",
        response_class=HTMLResponse,
        response_description="The status page.",
        openapi_extra=GET_PAGE_REQUEST,
    )
    async def get_page(request: Request) -> Response:
        """Show the status page."""
        return await _get_page(daemon, request.query_params.get("refresh") != "off")

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


async def _get_page(daemon: Daemon, refreshes: bool) -> Response:
    everyone, glance = await asyncio.gather(
        daemon.survey.look(), daemon.recent.glance()
    )
    facts, now, settings = daemon.facts(), time.time(), daemon.settings
    monitor, checks = daemon.supervisor.monitor, health.assess(facts)
    is_reached, age = facts.cause in _REACHED, monitor.info_age_seconds
    view = StatusView(
        version=__version__,
        now=now,
        checks=checks,
        stream=settings.stream,
        server=monitor.server if is_reached else "",
        server_urls=(monitor.server_url,) if is_reached else daemon.nats_urls,
        host=HOST,
        role=settings.role,
        socket=str(settings.unix_socket or ""),
        docs_url=settings.docs_url,
        refreshes=refreshes,
        failing_seconds=daemon.failing_since(checks),
        info=facts.info,
        last_offset=facts.last_offset,
        info_age_seconds=age,
        is_old=facts.cause not in _SEEN or (age or 0.0) > _OLD_SECONDS,
        is_initsync_known=facts.is_initsync_known,
        initsync=facts.initsync,
        initsync_stays=facts.initsync_stays,
        recognised_count=daemon.last_passes.recognised_count,
        clients=everyone,
        newest=daemon.recent.newest,
        hour=daemon.metrics.last_hour.look(time.monotonic()),
    )
    if glance is not None:
        view = replace(
            view,
            info=glance.info,
            is_old=False,
            minutes=glance.minutes,
            rows=glance.rows,
        )
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
