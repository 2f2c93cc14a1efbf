# SPDX-License-Identifier: Apache-2.0
"""A Problem as an HTTP answer (RFC 9457)."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from starlette.responses import Response

from sidecar import errors

if TYPE_CHECKING:
    from sidecar.errors import Problem

MEDIA_TYPE = "application/problem+json"

PRIVATE: Final = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
"""Headers of what may show events or what is known of them."""


def answer(problem: Problem) -> Response:
    """Give the answer to a request that met this problem."""
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


def json_answer(
    document: dict[str, Any],
    status: HTTPStatus = HTTPStatus.OK,
    headers: dict[str, str] = PRIVATE,
) -> Response:
    """Give a JSON document as an answer."""
    return Response(
        json.dumps(document),
        status_code=status,
        media_type="application/json",
        headers=headers,
    )
