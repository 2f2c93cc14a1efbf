# SPDX-License-Identifier: Apache-2.0
"""A TCP relay on loopback that loses the answer to a publish, when it is told to."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable

_PIECE_BYTES = 1 << 16
_SOCKS_5 = 5
_ADDRESSES = {1: (socket.AF_INET, 4), 4: (socket.AF_INET6, 16)}
"""Types of addresses in RFC 1928: their family, and their size in bytes."""


class LossyRelay:
    """Passes everything on; in place of a lost answer it closes the connection."""

    def __init__(self, is_publish: Callable[[bytes], bool], port: int = 0) -> None:
        """Relay to a port of this machine, or to where a client of SOCKS 5 wants to go.

        A Kafka client connects where its broker says, so it needs the latter.
        `is_publish` gets what is sent in one piece: one request of a sender that waits
        for each answer.
        """
        self._is_publish = is_publish
        self._target = port
        self._is_armed = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.lost = 0

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def lose_next(self) -> None:
        """Lose the answer to the next publish."""
        self._is_armed = True

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                threading.Thread(target=self._relay, args=[near], daemon=True).start()

    def _relay(self, near: socket.socket) -> None:
        is_lost = threading.Event()
        with near, suppress(OSError), self._connect(near) as far:
            answers = threading.Thread(target=self._answer, args=[far, near, is_lost])
            answers.start()
            while piece := near.recv(_PIECE_BYTES):
                if self._is_armed and self._is_publish(piece):
                    self._is_armed = False
                    is_lost.set()
                far.sendall(piece)
            far.shutdown(socket.SHUT_RDWR)
            answers.join()

    def _connect(self, near: socket.socket) -> socket.socket:
        if self._target:
            return socket.create_connection(("127.0.0.1", self._target))
        far = socket.create_connection(_read_target(near))
        near.sendall(bytes([_SOCKS_5, 0, 0, 1, *bytes(6)]))  # connected
        return far

    def _answer(
        self, far: socket.socket, near: socket.socket, is_lost: threading.Event
    ) -> None:
        with suppress(OSError):
            while answer := far.recv(_PIECE_BYTES):
                if is_lost.is_set():
                    self.lost += 1
                    break
                near.sendall(answer)
        with suppress(OSError):
            near.shutdown(socket.SHUT_RDWR)


def _read_target(near: socket.socket) -> tuple[str, int]:
    """Read where a client of SOCKS 5 without a login wants to go."""
    _, methods = _read(near, 2)
    _read(near, methods)
    near.sendall(bytes([_SOCKS_5, 0]))
    *_, kind = _read(near, 4)
    family, size = _ADDRESSES[kind]
    host = socket.inet_ntop(family, _read(near, size))
    return host, int.from_bytes(_read(near, 2))


def _read(near: socket.socket, size: int) -> bytes:
    return near.recv(size, socket.MSG_WAITALL)
