# SPDX-License-Identifier: Apache-2.0
"""Stands between a hermes-server and its sidecar, and kills it at one of its requests.

So a process dies at a point that the test names, without a clock: before its request
has left; after the sidecar has done what it asked for and before it hears of it; or
before, and the request comes late, just before the next process' first event.
"""

from __future__ import annotations

import re
import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Literal, Self

if TYPE_CHECKING:
    from pathlib import Path

    from .process import Process
    from .sidecar import SidecarProcess

Place = Literal["before", "unanswered", "late"]

WAIT_SECONDS = 60
_PIECE_BYTES = 65536
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_WHOLE = b";whole\r\n"
"""Ends Hermes-Producer of who opens a pass after one that went through."""


class Gate:
    """Relays the requests of one process at a time."""

    def __init__(self, directory: Path, sidecar: SidecarProcess) -> None:
        directory.mkdir()
        path = directory / "gate.sock"
        self.url = f"unix://{path}"
        self._sidecar = str(sidecar.socket)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._victim: Process | None = None
        self._path, self._number = "", 0
        self._place: Place = "before"
        self._late = b""
        self._passes = 0  # that are to go through before one is held
        self._held, self._released = threading.Event(), threading.Event()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._released.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def kill_at(self, victim: Process, path: str, number: int, place: Place) -> None:
        """Kill the process at the request of this number whose path begins so.

        They are counted from now, and from 1.
        """
        self._path, self._number, self._place = path, number, place
        self._victim = victim

    def hold_after(self, passes: int) -> None:
        """Hold the process when it opens the pass after so many that go through."""
        self._held.clear()
        self._passes = passes

    def wait_held(self) -> None:
        assert self._held.wait(WAIT_SECONDS), "no pass went through"

    def release(self) -> None:
        """Let what is held go on, or end; that pass has fetched already."""
        self._released.set()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                threading.Thread(target=self._relay, args=[near], daemon=True).start()

    def _relay(self, near: socket.socket) -> None:
        dies = threading.Event()  # when its answer comes
        with near, socket.socket(socket.AF_UNIX) as far, suppress(OSError):
            far.connect(self._sidecar)
            answers = threading.Thread(target=self._answer, args=[far, near, dies])
            answers.start()
            while request := _read_request(near):
                path = self._note(request)
                if path.startswith(self._path) and self._is_due():
                    if self._place != "unanswered":
                        self._late = request if self._place == "late" else b""
                        self._kill()
                        break
                    dies.set()
                elif self._late and path == "/v1/events":
                    self._deliver_late()
                far.sendall(request)
            far.shutdown(socket.SHUT_RDWR)
            answers.join()

    def _note(self, request: bytes) -> str:
        path = request.split(b" ", 2)[1].decode()
        if self._passes and _WHOLE in request:
            self._passes -= 1
            if not self._passes:
                self._held.set()
                self._released.wait(WAIT_SECONDS)
                self._released.clear()
                return ""
        return path

    def _is_due(self) -> bool:
        if self._victim is None:
            return False
        self._number -= 1
        return self._number == 0

    def _answer(
        self, far: socket.socket, near: socket.socket, dies: threading.Event
    ) -> None:
        with suppress(OSError):
            while answer := far.recv(_PIECE_BYTES):
                if dies.is_set():
                    self._kill()
                    break
                near.sendall(answer)
            near.shutdown(socket.SHUT_RDWR)

    def _deliver_late(self) -> None:
        with socket.socket(socket.AF_UNIX) as late:
            late.connect(self._sidecar)
            late.sendall(self._late)
            assert b" 201 " in late.recv(_PIECE_BYTES)
        self._late = b""

    def _kill(self) -> None:
        assert self._victim is not None
        victim, self._victim = self._victim, None
        victim.running.kill()


def _read_request(near: socket.socket) -> bytes:
    """Read one request; nothing where the process is gone."""
    request = b""
    while True:
        head, end, _ = request.partition(b"\r\n\r\n")
        length = _LENGTH.search(head + b"\r\n")
        if end and len(request) >= len(head) + 4 + int(length[1] if length else 0):
            return request
        if not (piece := near.recv(_PIECE_BYTES)):
            return b""
        request += piece
