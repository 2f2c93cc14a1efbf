# SPDX-License-Identifier: Apache-2.0
"""What a producer plugin asks when it may send again what is stored already."""

from __future__ import annotations

import asyncio
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from starlette.responses import Response

from sidecar import errors
from sidecar.errors import Outcome, Problem
from sidecar.http.events import EventLimit, read_body
from sidecar.http.models import read_match_query
from sidecar.http.responses import json_response
from sidecar.http.waiting import SLOW_SECONDS, done_or_slow
from sidecar.model.producer_key import PASS, PROCESS_LENGTH

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.requests import Request

    from sidecar.model.last_pass import LastPass
    from sidecar.services.daemon import Daemon

LAST: Final = "last"
"""In the place of where a pass began."""


async def get_pass(daemon: Daemon, request: Request) -> Response:
    """Respond to GET /v1/passes/START."""
    _need_writer(daemon)
    start = request.path_params["start"]
    if start != LAST and not PASS.fullmatch(start):
        raise Problem(errors.NOT_FOUND)
    with beginning_pass(daemon, request) as header:
        reading = asyncio.create_task(
            daemon.last_passes.read(
                None if start == LAST else int(start), header[:PROCESS_LENGTH]
            )
        )
        slow = _sleep_or_done(reading)
        found = await done_or_slow(daemon, request, reading, slow, _document)
    return found if isinstance(found, Response) else json_response(_document(found))


@contextmanager
def beginning_pass(daemon: Daemon, request: Request) -> Iterator[str]:
    """Give Hermes-Producer; remember for /health whether its pass can begin."""
    header = request.headers.get("hermes-producer", "")
    try:
        yield header
    except Problem as problem:
        daemon.failures.record_open(header, time.monotonic(), problem.cause)
        raise
    daemon.failures.record_open(header, time.monotonic())


async def _sleep_or_done(reading: asyncio.Task[LastPass]) -> None:
    await asyncio.wait({reading}, timeout=SLOW_SECONDS)


def _document(last_pass: LastPass) -> dict[str, Any]:
    return {
        "start": last_pass.start,
        "objects": last_pass.objects,
        "complete": last_pass.is_complete,
        "first_offset": last_pass.position.first,
        "last_offset": last_pass.position.last,
    }


async def post_match(daemon: Daemon, request: Request) -> Response:
    """Respond to POST /v1/match."""
    _need_writer(daemon)
    query = read_match_query(dict(request.query_params))
    limit = EventLimit(daemon.supervisor.connection().limit_bytes)
    with daemon.bodies.reserve() as held:
        body = await read_body(request, held, limit, bytearray())
        match = await daemon.last_passes.match(
            query.offset, body, is_newest=query.newest
        )
    return json_response(
        {
            "matches": match.matches,
            "key": match.key,
            "first_offset": match.position.first,
            "last_offset": match.position.last,
            "last_key": match.last_key,
        }
    )


def _need_writer(daemon: Daemon) -> None:
    if not daemon.writes:
        raise Problem(errors.WRONG_ROLE, Outcome.NOT_STORED)
