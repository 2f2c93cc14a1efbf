# SPDX-License-Identifier: Apache-2.0
"""The HTTP hop between the plugins and a sidecar, byte for byte, on virtual time.

To the plugin it is the module `socket`, to the sidecar a transport under its real
protocol. A connection keeps the order of its bytes, as TCP does; it can be cut,
stalled, or left by one side while bytes are still on their way.

Long because both ends of a connection share what is on its way.
"""

from __future__ import annotations

import asyncio
import io
import socket
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import random
    from collections.abc import Callable
    from contextvars import Context

    from .actors import Actors
    from .clock import VirtualLoop
    from .trouble import Slow

    Record = Callable[..., None]

_ACKNOWLEDGEMENTS: Final = (
    b"HTTP/1.1 201 ",
    b"HTTP/1.1 200 OK\r\ncontent-length: 0",
)
LATENCY_SECONDS: Final = (0.00005, 0.0005)
_HIGH_BYTES, _LOW_BYTES = 64 * 1024, 16 * 1024  # asyncio's own
COMING_SECONDS: Final = 1.0
"""Who got a part of an answer so lately, and gets more, may not give it up."""


class Listener:
    """Where a sidecar's process takes connections; None in `protocol`: nobody does."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.protocol: Callable[[], Any] | None = None
        self.context: Context | None = None
        self.connections: list[HttpConnection] = []


class HttpHop:
    """All listeners and connections of one world, and the faults between them."""

    def __init__(
        self, loop: VirtualLoop, actors: Actors, rng: random.Random, record: Record
    ) -> None:
        self.loop = loop
        self.actors = actors
        self.rng = rng
        self.record = record
        self.listeners: dict[str, Listener] = {}
        self.connections_made = 0
        self.stalled_until = 0.0
        self.all_has_arrived_at = 0.0  # whatever was stalled
        self.cut_answers = 0  # how many of the next answers are lost, with a cut
        self.cut_requests = 0
        self.unacknowledged_until = 0.0  # each acknowledgement is lost, with a cut
        self.slow: Slow | None = None  # all that sidecars answer to clients
        self.given_up: list[tuple[float, str]] = []  # answers that were coming

    def listener(self, path: str) -> Listener:
        """Give the listener of a path; it exists from the first time on."""
        return self.listeners.setdefault(path, Listener(path))

    def connections(self) -> list[HttpConnection]:
        """Give all connections that are open."""
        return [
            connection
            for listener in self.listeners.values()
            for connection in listener.connections
        ]

    def stall(self, seconds: float) -> None:
        """Let what is sent from now on arrive after so long, and then all at once."""
        self.stalled_until = self.loop.time() + seconds
        self.all_has_arrived_at = max(self.all_has_arrived_at, self.stalled_until + 0.1)

    def heal(self) -> None:
        """End all faults."""
        self.stalled_until = self.unacknowledged_until = 0.0
        self.slow = None
        self.cut_answers = self.cut_requests = 0

    def delay(self) -> float:
        """Draw how long a piece is under way."""
        stall = max(0.0, self.stalled_until - self.loop.time())
        return stall + self.rng.uniform(*LATENCY_SECONDS)

    def module(self) -> Any:
        """Give what takes the place of the module `socket` in a plugin."""
        return _SocketModule(self)


class HttpConnection:
    """One connection: two one-way streams, and who holds their ends."""

    def __init__(self, hop: HttpHop, listener: Listener, name: str) -> None:
        self.hop = hop
        self.name = name
        self.listener = listener
        self.context = listener.context
        self.received = bytearray()  # what the plugin can read
        self.is_ended = False  # the plugin reads its end after `received`
        self.is_reset = False
        self.arrival: asyncio.Future[None] | None = None
        self.transport = _Transport(self)
        self.last_up = self.last_down = 0.0
        self.unsent_bytes = 0  # of a slow connection
        self.is_taken = False  # a part of the answer that is coming was read
        self.arrived_at = 0.0
        self._is_paused = False
        assert listener.protocol is not None
        self.protocol = listener.protocol()
        self._to_sidecar(0.0, self.protocol.connection_made, self.transport)
        listener.connections.append(self)

    # -- From the plugin ---------------------------------------------------------------

    def send(self, data: bytes) -> None:
        """Take bytes of the plugin; they arrive in their order."""
        if self.is_reset or self.transport.is_gone:
            raise BrokenPipeError
        if self.hop.cut_requests > 0 and len(data) > 1:
            self.hop.cut_requests -= 1
            data = data[: self.hop.rng.randrange(len(data))]
            self.hop.record(self.name, "request cut off after %d bytes", len(data))
            self._up(data)
            self.cut()
            return
        self.hop.record(self.name, "> %s", _Shown(data))
        self.is_taken = False
        self._up(data)

    def _up(self, data: bytes) -> None:
        now = self.hop.loop.time()
        self.last_up = max(self.last_up, now + self.hop.delay())
        self._to_sidecar(self.last_up - now, self._deliver, data)

    def _deliver(self, data: bytes) -> None:
        if not self.transport.is_gone:
            self.protocol.data_received(data)

    def leave(self) -> None:
        """End it from the plugin's side; what it sent arrives all the same."""
        now = self.hop.loop.time()
        is_coming = self.unsent_bytes and now - self.arrived_at < COMING_SECONDS
        if self.is_taken and is_coming and not self.hop.actors.current().is_killed:
            text = f"{self.name} gave up an answer of which {self.unsent_bytes} bytes"
            self.hop.given_up.append((now, f"{text} were still to come"))
        self.last_up = max(self.last_up, now + self.hop.delay())
        self._to_sidecar(self.last_up - now, self._end_of_plugin)
        self._forget()

    def _end_of_plugin(self) -> None:
        if not self.transport.is_gone:
            self.transport.is_gone = True
            self.protocol.connection_lost(None)

    def _to_sidecar(self, delay: float, function: Any, *arguments: Any) -> None:
        self.hop.loop.call_later(delay, function, *arguments, context=self.context)

    # -- From the sidecar --------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Take bytes of the sidecar."""
        if not data:
            return
        is_lost = (
            self.hop.loop.time() < self.hop.unacknowledged_until
            and data.startswith(_ACKNOWLEDGEMENTS)
        )
        if self.hop.cut_answers > 0 or is_lost:
            self.hop.cut_answers -= not is_lost
            kept = self.hop.rng.randrange(len(data))
            self.hop.record(self.name, "answer cut off after %d bytes", kept)
            self._down(data[:kept])
            self.cut()
            return
        self.hop.record(self.name, "< %s", _Shown(data))
        self._down(data)

    def _down(self, data: bytes) -> None:
        if self.hop.slow is not None and self.name.startswith("client"):
            self._down_slowly(self.hop.slow, data)
            return
        now = self.hop.loop.time()
        self.last_down = max(self.last_down, now + self.hop.delay())
        self.hop.loop.plainly_at(self.last_down, self._arrive, data)

    def _down_slowly(self, slow: Slow, data: bytes) -> None:
        """Send in parts; the sidecar hears of a full buffer, as asyncio tells it."""
        now, at = self.hop.loop.time(), 0
        self.last_down = max(self.last_down, now + slow.latency_seconds)
        for size in slow.parts(len(data)):
            self.last_down += size / slow.bytes_per_second
            part = data[at : at + size]
            self.hop.loop.plainly_at(self.last_down, self._arrive_slowly, part)
            at += size
        self.unsent_bytes += len(data)
        if self.unsent_bytes > _HIGH_BYTES and not self._is_paused:
            self._is_paused = True
            self._to_sidecar(0.0, self.protocol.pause_writing)

    def _arrive_slowly(self, data: bytes) -> None:
        self.arrived_at = self.hop.loop.time()
        self.unsent_bytes -= len(data)
        if self.unsent_bytes < _LOW_BYTES and self._is_paused:
            self._is_paused = False
            self._to_sidecar(0.0, self._resume)
        self._arrive(data)

    def _resume(self) -> None:
        if not self.transport.is_gone:
            self.protocol.resume_writing()

    def _arrive(self, data: bytes) -> None:
        if not self.is_ended:
            self.received += data
            self._tell()

    def end(self) -> None:
        """End it from the sidecar's side, after what it wrote."""
        now = self.hop.loop.time()
        self.last_down = max(self.last_down, now + self.hop.delay())
        self.hop.loop.plainly_at(self.last_down, self._ended)
        self._forget()

    def _ended(self) -> None:
        self.is_ended = True
        self._tell()

    def cut(self) -> None:
        """End it for both, as a reset does."""
        self.is_reset = self.is_ended = True
        self._tell()
        self._to_sidecar(self.hop.delay(), self._end_of_plugin)
        self._forget()

    def _forget(self) -> None:
        if self in self.listener.connections:
            self.listener.connections.remove(self)

    def _tell(self) -> None:
        if self.arrival is not None and not self.arrival.done():
            self.arrival.set_result(None)


class _Shown:
    """What a person reads of a request or an answer; made only if somebody does."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __str__(self) -> str:
        head, _, body = self._data.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        fields = [
            line
            for line in lines[1:]
            if line.lower().startswith(("if-match", "etag", "idempotency-key"))
        ]
        text = " ".join(body[:400].decode("utf-8", "replace").split())
        return " | ".join([*lines[:1], *fields, text[:160]])


class _Transport(asyncio.Transport):
    """What the sidecar's protocol writes into."""

    def __init__(self, connection: HttpConnection) -> None:
        super().__init__()
        self._connection = connection
        self.is_gone = False

    def write(self, data: Any) -> None:
        if not self.is_gone:
            self._connection.write(bytes(data))

    def close(self) -> None:
        if not self.is_gone:
            self.is_gone = True
            self._connection.end()
            loop = self._connection.hop.loop
            loop.call_soon(self._connection.protocol.connection_lost, None)

    abort = close

    def is_closing(self) -> bool:
        return self.is_gone

    def get_write_buffer_size(self) -> int:
        return self._connection.unsent_bytes

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return _NoSocket() if name == "socket" else default

    def pause_reading(self) -> None:
        """Do nothing: a plugin has one request under way."""

    resume_reading = pause_reading

    def set_write_buffer_limits(
        self, high: int | None = None, low: int | None = None
    ) -> None:
        """Do nothing: what is written is taken."""


class _NoSocket:
    """What asyncio gives for a socket; the kernel knows nothing of it."""

    family = socket.AF_UNIX

    def fileno(self) -> int:
        raise OSError

    def getsockname(self) -> str:
        return ""

    def getpeername(self) -> str:
        return ""


class _SocketModule:
    """As much of the module `socket` as the plugins use."""

    AF_UNIX = socket.AF_UNIX
    MSG_PEEK = socket.MSG_PEEK
    IPPROTO_TCP = socket.IPPROTO_TCP
    TCP_NODELAY = socket.TCP_NODELAY
    timeout = TimeoutError
    gaierror = socket.gaierror

    def __init__(self, hop: HttpHop) -> None:
        self._hop = hop

    def socket(self, _family: int) -> VirtualSocket:
        """Make a socket that is not connected."""
        return VirtualSocket(self._hop)

    def create_connection(
        self, _address: tuple[str, int], _timeout: float
    ) -> VirtualSocket:
        """Refuse: the world's sidecars listen on Unix sockets."""
        raise ConnectionRefusedError


class VirtualSocket:
    """As much of socket.socket as http.client and the plugins use."""

    def __init__(self, hop: HttpHop) -> None:
        self._hop = hop
        self._timeout: float | None = None
        self._connection: HttpConnection | None = None

    def settimeout(self, seconds: float | None) -> None:
        self._timeout = seconds

    def gettimeout(self) -> float | None:
        return self._timeout

    def connect(self, path: str) -> None:
        listener = self._hop.listener(path)
        if listener.protocol is None:
            raise ConnectionRefusedError
        self._hop.connections_made += 1
        name = f"{self._hop.actors.current().name}#{self._hop.connections_made}"
        self._connection = HttpConnection(self._hop, listener, name)

    def sendall(self, data: bytes) -> None:
        if self._hop.actors.current().is_killed or self._connection is None:
            raise BrokenPipeError
        self._connection.send(bytes(data))

    def send(self, data: bytes) -> int:
        self.sendall(data)
        return len(data)

    def recv(self, size: int, flags: int = 0) -> bytes:
        connection = self._connection
        if connection is None:
            raise OSError
        while not connection.received and not connection.is_ended:
            connection.arrival = self._hop.loop.create_future()
            if not self._hop.actors.wait(connection.arrival, self._timeout):
                raise TimeoutError
        data = bytes(connection.received[:size])
        if not data and connection.is_reset:
            raise ConnectionResetError
        if not flags & socket.MSG_PEEK:
            connection.is_taken = True
            del connection.received[:size]
        return data

    def recv_into(self, buffer: Any) -> int:
        data = self.recv(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Raw(self))

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None and not connection.is_reset:
            connection.leave()


class _Raw(io.RawIOBase):
    def __init__(self, virtual: VirtualSocket) -> None:
        super().__init__()
        self._socket = virtual

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._socket.recv_into(buffer)
