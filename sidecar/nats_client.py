# SPDX-License-Identifier: Apache-2.0
"""nats-py's client with a shorter way in and out; all of its private names we use.

nats-py carries each message through a queue, a task and a parsed dict of headers, and
each publish through a flusher task: a third of the sidecar's time for an event
(docs/adr/0007). We have one subscription and no use for any of that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nats.aio.client import Client
from nats.errors import ConnectionClosedError
from nats.protocol.command import hpub_cmd, pub_cmd

from sidecar import errors
from sidecar.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Callable

    Take = Callable[[str, bytes, bytes], None]
    """What is done with a message: its subject, its header block or b"", its data."""

_VERSION_LINE = b"NATS/1.0"
_END = b"\r\n"


class NatsClient(Client):
    """A client that hands over what comes in and writes what goes out, at once."""

    def __init__(self, take: Take) -> None:
        super().__init__()
        self._take = take
        self.needs_tls = False

    def _connect_command(self) -> bytes:
        # The login, whatever its kind. TLS is up by now if it ever will be: nats-py
        # itself goes on in clear with a server that does not ask for TLS.
        if self.needs_tls and not self.is_encrypted:
            raise Problem(errors.NATS_TLS)
        command: bytes = super()._connect_command()
        return command

    async def _process_msg(
        self, _sid: int, subject: bytes, _reply: bytes, data: bytes, headers: bytes
    ) -> None:
        self._take(subject.decode(), headers or b"", data)

    def send(
        self, subject: str, reply: str, payload: bytes, block: bytes = b""
    ) -> None:
        """Write one message; raise nats.errors.Error if the connection has ended."""
        if not self.is_connected or self._transport is None:
            raise ConnectionClosedError
        if self._pending:  # ours must not overtake our own SUB
            self._transport.writelines(self._pending)
            self._pending, self._pending_data_size = [], 0
        if block:
            self._transport.write(hpub_cmd(subject, reply, block, payload))
        else:
            self._transport.write(pub_cmd(subject, reply, payload))

    @property
    def is_encrypted(self) -> bool:
        """Tell whether the socket is TLS by now."""
        writer = getattr(self._transport, "_io_writer", None)
        return writer is not None and writer.get_extra_info("ssl_object") is not None

    def abort(self) -> None:
        """Cut the socket; close() alone would flush what is still buffered."""
        writer = getattr(self._transport, "_io_writer", None)
        if writer is not None:
            writer.transport.abort()

    def server(self, name: str) -> str:
        """Give a text of the server's INFO; empty if it did not say it."""
        return str(self._server_info.get(name, ""))


def header_block(headers: dict[str, str]) -> bytes:
    """Write headers as they go over the wire (NATS ADR-4)."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return b"%s\r\n%s\r\n" % (_VERSION_LINE, lines.encode())


def header_fields(block: bytes) -> dict[bytes, bytes]:
    """Read the fields of a header block; the status line is not among them."""
    fields = {}
    for line in block.split(_END)[1:]:
        name, colon, value = line.partition(b":")
        if colon:
            fields[name] = value.strip()
    return fields


def status(block: bytes) -> str | None:
    """Give the status of a header block, as "503"; None if it has none."""
    line = block[len(_VERSION_LINE) : block.find(_END)].split()
    return line[0].decode("ascii", "replace") if line else None
