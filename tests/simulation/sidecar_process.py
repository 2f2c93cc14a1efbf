# SPDX-License-Identifier: Apache-2.0
"""A sidecar in the simulation: the real daemon behind its real HTTP protocol."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from uvicorn.server import ServerState

from sidecar.http.app import create_app
from sidecar.http.auth import Guard
from sidecar.http.server import http_config
from sidecar.services.daemon import Daemon

from .clock import Process

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.settings import Settings

    from .clock import VirtualLoop
    from .http_hop import HttpHop
    from .nats_hop import VirtualNatsClient

STOP_SECONDS: Final = 12.0
"""The time that an orderly stop gives its requests, as sidecar.serve does."""


class SidecarProcess:
    """One sidecar's process after the other, at one path."""

    def __init__(
        self,
        loop: VirtualLoop,
        hop: HttpHop,
        record: Callable[..., None],
        name: str,
        settings: Settings,
    ) -> None:
        self._loop = loop
        self._hop = hop
        self._record = record
        self._settings = settings
        self.name = name
        self.path = f"/{name}"
        self.url = f"unix://{self.path}"
        self.clients: list[VirtualNatsClient] = []
        self.process: Process | None = None
        self.daemon: Daemon | None = None

    @property
    def is_frozen(self) -> bool:
        """Tell whether it is frozen."""
        return self.process is not None and self.process.held is not None

    def start(self) -> None:
        """Start a process."""
        self.process = Process(self.name)
        self._loop.call_soon(self._boot, self.process, context=self.process.context)

    def _boot(self, process: Process) -> None:
        if process.is_dead:
            return
        self.daemon = daemon = Daemon(self._settings, self._settings.nats_server)
        guard = Guard(create_app(daemon), "open")
        config = http_config(daemon, guard)
        config.load()
        protocol: Any = config.http_protocol_class
        listener = self._hop.listener(self.path)
        listener.context = process.context
        listener.protocol = partial(
            protocol,
            config=config,
            server_state=ServerState(),
            app_state={},
            _loop=self._loop,
        )
        self._loop.create_task(daemon.run())
        self._record(self.name, "started")

    def kill(self) -> None:
        """End it as SIGKILL does; what it wrote into sockets is still on its way."""
        process, self.process, self.daemon = self.process, None, None
        if process is None:
            return
        self._record(self.name, "killed")
        self._loop.kill(process)
        self._close_sockets(process)

    def _close_sockets(self, process: Process) -> None:
        listener = self._hop.listener(self.path)
        listener.protocol = None
        for connection in list(listener.connections):
            connection.cut()
        for client in self.clients:
            if client.process is process:
                client.abort()
        self.clients = [each for each in self.clients if each.is_connected]

    def stop(self) -> None:
        """Stop it in order, as SIGTERM does: requests under way get their answers."""
        process, daemon = self.process, self.daemon
        if process is None or daemon is None or self.is_frozen:
            return
        self._record(self.name, "stops in order")
        self._hop.listener(self.path).protocol = None
        self._loop.call_soon(daemon.stopping.set, context=process.context)
        self._loop.call_soon(
            self._loop.create_task, self._end(process), context=process.context
        )

    async def _end(self, process: Process) -> None:
        listener = self._hop.listener(self.path)
        for _ in range(int(STOP_SECONDS * 10)):
            daemon = self.daemon
            if daemon is None or not daemon.publisher.in_flight:
                break
            await asyncio.sleep(0.1)
        await asyncio.sleep(0.05)  # its last answers leave
        if self.process is process and listener.protocol is None:
            self._loop.call_soon(self.kill, context=None)

    def start_again(self) -> None:
        """Start it where it does not run, or is just ending."""
        listener = self._hop.listener(self.path)
        if self.process is not None and listener.protocol is None and self.daemon:
            self.kill()
        if self.process is None:
            self.start()

    def freeze(self) -> None:
        """Stop it as SIGSTOP does."""
        if self.process is not None:
            self._record(self.name, "frozen")
            self._loop.freeze(self.process)

    def thaw(self) -> None:
        """Let it go on."""
        if self.process is not None:
            self._record(self.name, "thawed")
            self._loop.thaw(self.process)
