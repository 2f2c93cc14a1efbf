# SPDX-License-Identifier: Apache-2.0
"""The insides of uvicorn and its parser that `protocol` and `server` use. Pure.

They are looked for before these two are loaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sidecar import libraries

if TYPE_CHECKING:
    from sidecar.libraries import Names

_IMPL = "uvicorn.protocols.http.httptools_impl"

NEEDED: Final[dict[str, Names]] = {
    "uvicorn": {
        f"{_IMPL}:HttpToolsProtocol": (
            # what we widen, besides asyncio.Protocol: each holds one of the bounds
            "_start_asgi_task",
            "_unset_keepalive_if_required",
            "on_body",
            "on_header",
            "on_headers_complete",
            "on_message_begin",
            "on_message_complete",
            "on_response_complete",
            "send_400_response",
            "shutdown",
            # what we read and set
            "app",
            "client",
            "cycle",
            "expect_100_continue",
            "headers",
            "logger",
            "loop",
            "parser",
            "pipeline",
            "scheme",
            "timeout_keep_alive",
            "transport",
            "url",
        ),
        f"{_IMPL}:RequestResponseCycle": (
            "disconnected",
            "keep_alive",
            "message_event",
            "response_complete",
            "response_started",
        ),
        "uvicorn:Server": (
            "capture_signals",
            "config",
            "lifespan",
            "server_state",
            "should_exit",
            "shutdown",
            "startup",
        ),
        "uvicorn:Config": ("http_protocol_class", "load", "ssl"),
    },
    "httptools": {"httptools:HttpRequestParser": ("set_dangerous_leniencies",)},
    "starlette": {
        "starlette.responses:Response": ("raw_headers",),
        "starlette.routing": ("Match",),
        "starlette.routing:Route": ("matches", "methods"),
    },
}
"""By library. Without one of these a bound would be gone, and we do not start."""

FOR_SPEED: Final[Names] = {
    f"{_IMPL}:HttpToolsProtocol": ("flow", "scope"),
    "uvicorn.protocols.http.flow_control:FlowControl": ("write_paused",),
}
"""Without one of these no event is served directly: all go uvicorn's way."""

CYCLE: Final = (
    *NEEDED["uvicorn"][f"{_IMPL}:RequestResponseCycle"],
    *("access_log", "access_logger", "body", "chunked_encoding", "default_headers"),
    *("expected_content_length", "flow", "logger", "more_body", "on_response"),
    *("scope", "transport", "waiting_for_100_continue"),
)
"""All that a request of uvicorn's has. One that is served directly stands in its place
with the first five: uvicorn might look there for whatever else a new version adds."""


def require() -> None:
    """Raise LibraryError where one of the libraries is not as we use it."""
    for library, names in NEEDED.items():
        libraries.require(library, names)


def slower() -> list[str]:
    """Give what keeps BoundedProtocol from serving an event directly."""
    return libraries.lacking(FOR_SPEED) + libraries.added(
        f"{_IMPL}:RequestResponseCycle", CYCLE
    )
