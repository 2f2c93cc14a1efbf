# SPDX-License-Identifier: Apache-2.0
"""Responses: a problem document (RFC 9457), or another JSON document."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from starlette.responses import Response

from sidecar import errors

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sidecar.errors import Problem

MEDIA_TYPE = "application/problem+json"

PRIVATE: Final = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
"""Headers of what may show events or what is known of them."""


def problem_response(problem: Problem) -> Response:
    """Respond to a request that met this problem."""
    headers = dict(PRIVATE)
    if problem.cause.retry_after_seconds is not None:
        headers["Retry-After"] = str(problem.cause.retry_after_seconds)
    if problem.cause.status is HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    if problem.cause is errors.STOPPING:
        # The listener goes away: a caller that kept this connection would write into it
        # and could not know whether it was read.
        headers["Connection"] = "close"
    return Response(
        json.dumps(problem.document()),
        status_code=problem.cause.status,
        media_type=MEDIA_TYPE,
        headers=headers,
    )


def json_response(
    document: Mapping[str, object],
    status: HTTPStatus = HTTPStatus.OK,
    headers: dict[str, str] = PRIVATE,
) -> Response:
    """Respond with a JSON document."""
    return Response(
        json.dumps(document),
        status_code=status,
        media_type="application/json",
        headers=headers,
    )
