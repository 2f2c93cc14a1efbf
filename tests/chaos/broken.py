# SPDX-License-Identifier: Apache-2.0
"""Publishers that lack a part of the protocol, to show that the checker sees it."""

from __future__ import annotations

import uuid
from typing import Any


def break_publisher(plugin: Any, how: str) -> None:
    """Take the fence, or fence and stable key, from what a plugin sends."""
    ask = plugin._http.ask

    def ask_without(
        method: str,
        path: str,
        timeout_seconds: float,
        body: bytes = b"",
        headers: dict[str, str] | None = None,
    ) -> Any:
        if method == "POST" and headers is not None:
            headers = headers | {"If-Match": "*"}
            if how == "unkeyed":
                headers["Idempotency-Key"] = str(uuid.uuid4())
        return ask(method, path, timeout_seconds, body, headers)

    if how in ("unfenced", "unkeyed"):
        plugin._http.ask = ask_without
