# SPDX-License-Identifier: Apache-2.0
"""The daemon's life: start, serve, stop. The edge to uvicorn."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
from contextlib import AsyncExitStack, contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import uvicorn

from sidecar import __version__
from sidecar.access import Access, Guard, TokenFile
from sidecar.app import create_app
from sidecar.arrivals import Arrivals
from sidecar.daemon import Daemon
from sidecar.embedded import embedded_nats
from sidecar.host import own_names
from sidecar.listen import ListenError, bind_tcp, unix_socket
from sidecar.log import log, tell_repeats
from sidecar.protocol import BoundedProtocol
from sidecar.store import Direct

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

    from starlette.types import ASGIApp

    from sidecar.settings import Settings

_GRACE_SECONDS = 2.0


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; at the start raise ListenError, EmbeddedError."""
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))
    stop = _stop_on_signals()
    async with AsyncExitStack() as stack:
        listeners: list[tuple[socket.socket, Access]] = []
        if settings.unix_socket is not None:
            listener = stack.enter_context(unix_socket(settings.unix_socket))
            listeners.append((listener, "open"))
        listener = bind_tcp(settings.http_host, settings.http_port)
        stack.callback(listener.close)
        listeners.append((listener, settings.tcp_access))
        server = settings.nats_server
        if settings.embedded:
            server = await stack.enter_async_context(
                embedded_nats(settings.embedded_dir)
            )
        daemon = Daemon(settings, server)
        app = create_app(daemon)
        servers = [
            _server(daemon, app, listener, access) for listener, access in listeners
        ]
        for file in settings.readable_secrets():
            log.warning(
                "secret_readable",
                file=str(file),
                remedy="Let only the sidecar's user read it: chmod o-r.",
            )
        log.info(
            "started",
            version=__version__,
            unix_socket=settings.unix_socket and str(settings.unix_socket),
            tcp="{}:{}".format(*listener.getsockname()[:2]),
            tcp_api=settings.tcp_access,
            nats=list(server.urls),
            role=settings.role,
        )
        running = asyncio.create_task(daemon.run())
        stack.push_async_callback(_cancel, running)
        serving = [asyncio.create_task(each.serve(sockets=[])) for each in servers]
        stopping = asyncio.create_task(stop.wait())
        # None of the others ends by itself: if one does, living on would be a lie.
        await asyncio.wait(
            {stopping, running, *serving}, return_when=asyncio.FIRST_COMPLETED
        )
        log.info("stopping")
        daemon.stopping.set()
        for each in servers:
            each.should_exit = True
        await asyncio.gather(*serving)
        tell_repeats(daemon.refusals)
        if running.done():
            running.result()
    tell_repeats()
    log.info("stopped")


class _Server(uvicorn.Server):
    """A uvicorn server that leaves signals and arrivals to us: there are two."""

    def __init__(self, config: uvicorn.Config, listener: socket.socket) -> None:
        super().__init__(config)
        self._arrivals = Arrivals(listener, self._make_protocol, config.ssl)

    def _make_protocol(self) -> BoundedProtocol:
        protocol: BoundedProtocol = self.config.http_protocol_class(  # type: ignore[assignment]
            config=self.config,  # type: ignore[call-arg]
            server_state=self.server_state,
            app_state=self.lifespan.state,
        )
        return protocol

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self._arrivals.start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._arrivals.stop()
        await super().shutdown(sockets=sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def http_config(daemon: Daemon, guard: Guard, **options: Any) -> uvicorn.Config:
    """Say how uvicorn serves: by our protocol, and telling nothing of itself."""
    return uvicorn.Config(
        guard,
        http=partial(BoundedProtocol, Direct(daemon, guard), guard.admits),  # type: ignore[arg-type]
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        **options,
    )


def _server(
    daemon: Daemon, app: ASGIApp, listener: socket.socket, access: Access
) -> _Server:
    settings = daemon.settings
    is_tcp = not isinstance(listener.getsockname(), str)
    token = TokenFile(settings.token_file) if settings.token_file else None
    has_tls = is_tcp and settings.tls_cert_file is not None
    guard = Guard(
        app,
        access,
        token if access == "token" else None,
        # A browser cannot reach a Unix socket, nor believe our certificate under
        # an attacker's name.
        own_names(settings.http_host, settings.http_names)
        if is_tcp and not has_tls
        else None,
        daemon.refuse_caller,
    )
    config = http_config(
        daemon,
        guard,
        timeout_graceful_shutdown=int(
            settings.publish_timeout_seconds + _GRACE_SECONDS
        ),
        ssl_certfile=settings.tls_cert_file if has_tls else None,
        ssl_keyfile=settings.tls_key_file if has_tls else None,
    )
    try:
        config.load()
    except OSError:  # ssl.SSLError is one
        raise ListenError(
            "SIDECAR_TLS_CERT_FILE and SIDECAR_TLS_KEY_FILE cannot be read or do not "
            "belong together: name a certificate and its key, in PEM."
        ) from None
    return _Server(config, listener)


def _stop_on_signals() -> asyncio.Event:
    """Stop in order at the first signal, at once at the second."""
    stop = asyncio.Event()

    def on_signal() -> None:
        if stop.is_set():
            os._exit(1)
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    return stop


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
