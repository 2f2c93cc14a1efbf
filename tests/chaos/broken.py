# SPDX-License-Identifier: Apache-2.0
"""Publishers that lack a part of the protocol, to show that the checker sees it."""

from __future__ import annotations

import uuid
from typing import Any


def break_publisher(plugin: Any, how: str) -> None:
    """Take the fence, or fence and stable key, from what a plugin sends."""
    store = plugin._http.store

    def store_without(body: bytes, headers: dict[str, str], *rest: Any) -> Any:
        headers = headers | {"If-Match": "*"}
        if how == "unkeyed":
            headers["Idempotency-Key"] = str(uuid.uuid4())
        return store(body, headers, *rest)

    if how in ("unfenced", "unkeyed"):
        plugin._http.store = store_without
