# SPDX-License-Identifier: Apache-2.0
"""A NATS server of ours that offers what a test wants, and notes what it is told."""

from __future__ import annotations

import json
import socket
import threading
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from sidecar.jetstream.connection import Connection
from sidecar.settings import Settings

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator

HOST = "127.0.0.1"


class FakeNats:
    """Greets like a nats-server without TLS, says yes to all, keeps every byte."""

    def __init__(
        self,
        version: str = "2.11.11",
        *,
        tls: ssl.SSLContext | None = None,
        tls_required: bool = False,
    ) -> None:
        self._tls = tls
        self.received = bytearray()
        self._listener = socket.create_server((HOST, 0))
        self._thread = threading.Thread(target=self._serve)
        greeting = {
            "server_id": "fake",
            "version": version,
            "headers": True,
            "max_payload": 1_000_000,
            "auth_required": True,
            "nonce": "AAAAAAAAAAAAAAA",
            "tls_required": tls_required or tls is not None,
        }
        self._greeting = b"INFO " + json.dumps(greeting).encode() + b"\r\n"

    @property
    def address(self) -> str:
        return f"{HOST}:{self._listener.getsockname()[1]}"

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(
                    target=self._greet, args=(connection,), daemon=True
                ).start()

    def _greet(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.settimeout(10)
            connection.sendall(self._greeting)
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_side=True)
            while data := connection.recv(65536):
                self.received += data
                if b"PING\r\n" in data:
                    connection.sendall(b"PONG\r\n")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


def settings_of(**values: Any) -> Settings:
    return Settings(unix_socket=Path("/run/x"), **values)


@asynccontextmanager
async def connected(settings: Settings) -> AsyncIterator[Connection]:
    connection = Connection(settings.plan, "test")
    try:
        await connection.open(settings.nats_server)
        yield connection
    finally:
        await connection.close()
