# SPDX-License-Identifier: Apache-2.0
"""The insides of nats-py that `client` uses, looked for before it is loaded. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sidecar import libraries

if TYPE_CHECKING:
    from sidecar.libraries import Names

NEEDED: Final[Names] = {
    "nats.aio.client": ("DEFAULT_BUFFER_SIZE",),
    "nats.aio.client:Client": (
        # what we widen: without these a login could go out in clear
        "_connect_to_server",
        "_connect_command",
        # a server's words would be lost, its limit, or its messages
        "_process_connect_init",
        "_process_err",
        "_process_info",
        "_process_msg",
        # what we read and set
        "_error_cb",
        "_lame_duck_mode_cb",
        "_max_payload",
        "_pending",
        "_pending_data_size",
        "_pings_outstanding",
        "_ps",
        "_reading_task",
        "_server_info",
        "_transport",
        "options",
    ),
    "nats.aio.client:Srv": ("uri", "last_attempt"),
    "nats.aio.transport:TcpTransport": (
        "_bare_io_reader",
        "_bare_io_writer",
        "_io_reader",
        "_io_writer",
        "connect",
        "connect_tls",
        "read",
        "write",
    ),
    "nats.protocol.command": ("hpub_cmd", "pub_cmd"),
    "nats.protocol.parser": ("AWAITING_CONTROL_LINE",),
    "nats.protocol.parser:Parser": ("buf", "state"),
}
"""Without one of these nothing is right, and we do not start."""

FOR_SPEED: Final[Names] = {"asyncio:StreamReader": ("_buffer", "feed_data")}
"""Python's own. Without them nats-py's loop reads, and messages come a turn later."""


def require() -> None:
    """Raise LibraryError where nats-py is not as we use it."""
    libraries.require("nats-py", NEEDED)


def slower() -> list[str]:
    """Give what is not there for NatsClient to read directly."""
    return libraries.lacking(FOR_SPEED)
