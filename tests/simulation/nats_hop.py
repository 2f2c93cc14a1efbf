# SPDX-License-Identifier: Apache-2.0
"""What takes the place of nats-py in the simulation: NatsClient on a modelled link."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from nats.errors import ConnectionClosedError, Error, NoServersError

from sidecar.jetstream.service import ANSWERS

from .clock import PROCESS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from .clock import VirtualLoop
    from .jetstream import Link
    from .watched import WatchedCluster

NEVER_SECONDS = 3600.0


class VirtualNatsClient:
    """As much of sidecar.nats_client.NatsClient as sidecar.jetstream uses."""

    def __init__(
        self,
        loop: VirtualLoop,
        cluster: WatchedCluster,
        take: Callable[[str, bytes, bytes], None],
    ) -> None:
        self._loop = loop
        self._cluster = cluster
        self._take = take
        self._link: Link | None = None
        self._info: dict[str, Any] = {}
        self._is_closed = False
        self.needs_tls = False
        self.on_part: Callable[[str], None] = lambda _: None
        self.process = PROCESS.get()

    async def connect(
        self,
        *,
        servers: Sequence[str],
        error_cb: Callable[[Exception], Awaitable[None]],
        disconnected_cb: Callable[[], Awaitable[None]],
        inbox_prefix: str,
        **_: Any,
    ) -> None:
        """Try each server once, in an order of chance, as nats-py does."""
        self._error_cb, self._lost_cb = error_cb, disconnected_cb
        self._inbox_prefix = inbox_prefix
        order = [int(url.rpartition("//n")[2].partition(":")[0]) - 1 for url in servers]
        self._cluster.rng.shuffle(order)
        for node in order:
            await asyncio.sleep(self._cluster.rng.uniform(0.0002, 0.002))
            try:
                link = self._cluster.connect(node, self._arrive, self._closed)
            except ConnectionRefusedError:
                continue
            except TimeoutError:  # it takes the connection and says nothing
                await asyncio.sleep(NEVER_SECONDS)
            link.on_error = self._refused
            link.on_part = self._hear_part
            self._link = link
            self._info = self._cluster.info(node)
            return
        raise NoServersError

    # -- From the server, on its way into our process ----------------------------------

    def _arrive(self, subject: str, block: bytes, data: bytes) -> None:
        self._call(self._deliver, subject, block, data)

    def _deliver(self, subject: str, block: bytes, data: bytes) -> None:
        if not self._is_closed:
            self._cluster.note()
            self._take(subject, block, data)

    def _hear_part(self, subject: str) -> None:
        self._call(self._tell_part, subject)

    def _tell_part(self, subject: str) -> None:
        if not self._is_closed:
            self.on_part(subject)

    def _refused(self, text: str) -> None:
        self._call(self._start, self._error_cb, Error(f"nats: {text}"))

    def _closed(self, reason: str) -> None:
        self._call(self._lose, reason)

    def _lose(self, reason: str) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        if reason:
            self._start(self._error_cb, Error(f"nats: {reason}"))
        self._start(self._lost_cb)

    def _start(self, callback: Callable[..., Any], *arguments: Any) -> None:
        self._loop.create_task(callback(*arguments))

    def _call(self, function: Callable[..., None], *arguments: Any) -> None:
        process = self.process
        if process is None or not process.is_dead:
            context = process.context if process is not None else None
            self._loop.call_soon(function, *arguments, context=context)

    # -- As sidecar.jetstream calls it -------------------------------------------------

    most_bytes = 1 << 26

    def read_directly(self, _lose: Callable[..., None]) -> None:
        """Do nothing: whatever comes is handed over already."""

    def new_inbox(self) -> str:
        """Name an inbox."""
        assert self._link is not None
        return f"{self._inbox_prefix}.{self._link.number}"

    async def subscribe(self, subject: str) -> None:
        """Subscribe, as the first thing on the link.

        No user of the model has the permissions for a NATS service: it has no messages
        from client to client.
        """
        assert self._link is not None
        if subject.startswith(("$SRV.", ANSWERS)):
            what = f'permissions violation for subscription to "{subject.lower()}"'
            self._start(self._error_cb, Error(f"nats: {what}"))
            return
        self._to_server(self._link.subscribe, subject)

    def send(
        self, subject: str, reply: str, payload: bytes, block: bytes = b""
    ) -> None:
        """Write one message; raise nats.errors.Error if the connection has ended."""
        if self._is_closed or self._link is None:
            raise ConnectionClosedError
        self._to_server(self._link.send, subject, reply, payload, block)

    def send_together(
        self, subject: str, reply: str, messages: list[tuple[bytes, bytes]]
    ) -> None:
        """Write messages, of which the last one asks for a reply.

        They are bytes of one write: a cut may come between any two of them.
        """
        *others, (block, payload) = messages
        for each, data in others:
            self.send(subject, "", data, each)
        self.send(subject, reply, payload, block)

    def _to_server(self, function: Callable[..., None], *arguments: Any) -> None:
        self._loop.plainly_soon(function, *arguments)

    def abort(self) -> None:
        """Cut the socket."""
        self._is_closed = True
        if self._link is not None:
            self._to_server(self._link.close)

    async def close(self) -> None:
        """End the connection."""
        self.abort()

    @property
    def is_connected(self) -> bool:
        """Tell whether messages can be written."""
        return self._link is not None and not self._is_closed

    @property
    def max_payload(self) -> int:
        """How large a message may be, as the server's INFO says."""
        return int(self._info.get("max_payload", 1 << 20))

    def server(self, name: str) -> str:
        """Give a text of the server's INFO; empty if it did not say it."""
        return str(self._info.get(name, ""))
