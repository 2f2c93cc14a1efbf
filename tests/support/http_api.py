# SPDX-License-Identifier: Apache-2.0
"""Requests to the API, good but for what a test changes, and the problems they meet."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import httpx


SECRET = "c0rrect-horse"
JSON = {"Content-Type": "application/json"}
LIMIT_BYTES = 8 * 1024 * 1024


def headers(**changes: str | None) -> dict[str, str]:
    """Give the headers of a good request, but for `changes` (None: without)."""
    good: dict[str, str | None] = {
        "Content-Type": "application/json",
        "Idempotency-Key": str(uuid.uuid4()),
        "If-Match": "*",
    }
    good |= {name.replace("_", "-"): value for name, value in changes.items()}
    return {name: value for name, value in good.items() if value is not None}


def assert_problem(
    answer: httpx.Response, status: int, code: str, outcome: str | None = None
) -> dict[str, Any]:
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = answer.json()
    assert document["status"] == status
    assert document["title"]
    assert document["remedy"]
    assert document.get("outcome") == outcome
    assert SECRET not in answer.text
    assert SECRET not in str(answer.headers)
    return document


def category(value: object) -> bytes:
    return json.dumps({"evcategory": value, "objattrs": SECRET}).encode()
