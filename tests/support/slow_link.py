# SPDX-License-Identifier: Apache-2.0
"""A TCP link to a server on this machine that lets so many bytes a second through."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress
from typing import Self

_PIECE_BYTES = 4096


class SlowLink:
    """Relays connections; what the server sends shares one rate."""

    def __init__(self, port: int, bytes_per_second: int) -> None:
        self._target = port
        self._seconds = 1 / bytes_per_second
        self._sending = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets = [self._listener]
        self.port = self._listener.getsockname()[1]
        self.sent_bytes = 0

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
                far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * _PIECE_BYTES)
                near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * _PIECE_BYTES)
                self._sockets += [near, far]
                for ends in ((near, far, False), (far, near, True)):
                    threading.Thread(target=self._pump, args=ends, daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, is_slow: bool) -> None:
        with suppress(OSError):
            while data := source.recv(_PIECE_BYTES):
                if is_slow:
                    with self._sending:
                        time.sleep(len(data) * self._seconds)
                        self.sent_bytes += len(data)
                sink.sendall(data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)
