# SPDX-License-Identifier: Apache-2.0
"""GET /health, whichever way it comes: directly, or as FastAPI's routes.

Probes ask it of a sidecar that a crowd besieges: it costs a twentieth of what a request
through an application's layers does, and waits for nobody's turn.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from sidecar import errors
from sidecar.errors import Problem
from sidecar.http.responses import json_response, problem_response
from sidecar.model import health
from sidecar.telemetry.log import internal_error

if TYPE_CHECKING:
    from starlette.responses import Response

    from sidecar.services.daemon import Daemon

LIVE: Final = b"/health/live"
READY: Final = (b"/health", b"/health/ready")

_FRESH_SECONDS = 0.05
"""How long one look at the daemon serves all strangers who ask."""


def live_response() -> Response:
    """Say that the process serves requests."""
    return json_response({"status": "live"})


def ready_response(daemon: Daemon) -> Response:
    """Say whether events can flow, and if not why."""
    document = health.document(daemon.facts())
    is_ready = document["status"] == "ready"
    return json_response(
        document, HTTPStatus.OK if is_ready else HTTPStatus.SERVICE_UNAVAILABLE
    )


class Probes:
    """Responds to plain requests for health. Anybody may ask, under any name."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._live = live_response()
        self._ready: Response | None = None
        self._ready_at = 0.0

    def __call__(self, target: bytes, is_stranger: bool) -> Response | None:
        """Respond, if a request's target is one of these."""
        if target == LIVE:
            return self._live
        if target not in READY:
            return None
        now = asyncio.get_running_loop().time()
        is_old = now - self._ready_at >= _FRESH_SECONDS
        if self._ready is None or is_old or not is_stranger:
            try:
                self._ready = ready_response(self._daemon)
            except Exception as error:  # noqa: BLE001 - the last line of defence
                internal_error(error)
                return problem_response(Problem(errors.INTERNAL))
            self._ready_at = now
        return self._ready
