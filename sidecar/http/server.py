# SPDX-License-Identifier: Apache-2.0
"""The daemon's life: start, serve, stop. The edge to uvicorn."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import ssl
from contextlib import AsyncExitStack, contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import uvicorn

from sidecar import __version__
from sidecar.http import private_names as uvicorns_names
from sidecar.http.app import create_app
from sidecar.http.auth import Access, Guard, TokenFile
from sidecar.http.events import Direct
from sidecar.http.own_names import own_names
from sidecar.http.probes import Probes
from sidecar.http.protocol import BoundedProtocol, UvicornsProtocol
from sidecar.http.sockets import ListenError, bind_tcp, unix_socket
from sidecar.http.strangers import Arrivals
from sidecar.http.waiting_reads import WaitingReads
from sidecar.jetstream import private_names as nats_pys_names
from sidecar.jetstream.embedded_server import embedded_nats
from sidecar.model.host_names import is_ipv4
from sidecar.services.daemon import Daemon
from sidecar.settings import default_embedded_dir
from sidecar.telemetry.log import log, tell_repeats

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator
    from pathlib import Path

    from starlette.types import ASGIApp

    from sidecar.http.sockets import UnixSocket
    from sidecar.settings import Settings

_GRACE_SECONDS = 2.0
_LOOK_SECONDS = 2.0


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; at the start raise ListenError, EmbeddedError."""
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))
    stop = _stop_on_signals()
    async with AsyncExitStack() as stack:
        listeners: list[tuple[socket.socket, Access]] = []
        unix = None
        if settings.unix_socket is not None:
            unix = stack.enter_context(unix_socket(settings.unix_socket))
            listeners.append((unix.listener, "open"))
        has_ipv4 = any(map(is_ipv4, settings.http_host))
        for host in settings.http_host:
            listener = bind_tcp(host, settings.http_port, beside_ipv4=has_ipv4)
            stack.callback(listener.close)
            listeners.append((listener, settings.tcp_access))
        server, supervisors = settings.nats_server, []
        if settings.embedded:
            server, supervisor = await stack.enter_async_context(
                embedded_nats(
                    settings.embedded_dir or default_embedded_dir(),
                    settings.max_event_bytes,
                )
            )
            supervisors.append(supervisor)
        daemon = Daemon(settings, server)
        app = create_app(daemon)
        servers = [
            _server(daemon, app, listener, access) for listener, access in listeners
        ]
        for name in uvicorns_names.slower() + nats_pys_names.slower():
            log.warning(
                "library_differs",
                name=name,
                remedy="It works, slower: install the versions of requirements.lock.",
            )
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
            tcp=",".join(
                "{}:{}".format(*each.getsockname()[:2])
                for each, _ in listeners[unix is not None :]
            ),
            tcp_api=settings.tcp_access,
            nats=list(server.urls),
            role=settings.role,
        )
        watching = asyncio.create_task(_watch_files(daemon, servers, unix))
        stack.push_async_callback(_cancel, watching)
        running = asyncio.create_task(daemon.run())
        stack.push_async_callback(_cancel, running)
        serving = [asyncio.create_task(each.serve(sockets=[])) for each in servers]
        stopping = asyncio.create_task(stop.wait())
        # None of the others ends by itself: if one does, living on would be a lie.
        await asyncio.wait(
            {stopping, running, watching, *supervisors, *serving},
            return_when=asyncio.FIRST_COMPLETED,
        )
        log.info("stopping")
        daemon.stopping.set()
        for each in servers:
            each.should_exit = True
        await asyncio.gather(*serving)
        tell_repeats(daemon.refusals)
        for task in (running, watching, *supervisors):
            if task.done():
                task.result()
    tell_repeats()
    log.info("stopped")


class _Server(uvicorn.Server):
    """A uvicorn server that leaves signals and arrivals to us: there are two."""

    def __init__(self, config: uvicorn.Config, listener: socket.socket) -> None:
        super().__init__(config)
        self.arrivals = Arrivals(listener, self._make_protocol, config.ssl)

    def _make_protocol(self) -> BoundedProtocol:
        protocol: BoundedProtocol = self.config.http_protocol_class(  # type: ignore[assignment]
            config=self.config,  # type: ignore[call-arg]
            server_state=self.server_state,
            app_state=self.lifespan.state,
        )
        return protocol

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self.arrivals.start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.arrivals.stop()
        await super().shutdown(sockets=sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def http_config(daemon: Daemon, guard: Guard, **options: Any) -> uvicorn.Config:
    """Say how uvicorn serves: by our protocol, and telling nothing of itself."""
    protocol = UvicornsProtocol if uvicorns_names.slower() else BoundedProtocol
    return uvicorn.Config(
        guard,
        http=partial(  # type: ignore[arg-type]
            protocol,
            Direct(daemon, guard),
            Probes(daemon),
            guard.admits,
            WaitingReads(daemon, guard) if daemon.reads else None,
        ),
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
        own_names(*settings.http_host, *settings.http_names)
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
            "match: name a certificate and its key, in PEM."
        ) from None
    return _Server(config, listener)


async def _watch_files(
    daemon: Daemon, servers: list[_Server], unix: UnixSocket | None
) -> None:
    """Notice what is taken away or changed under a running daemon, until cancelled."""
    settings = daemon.settings
    files = (settings.tls_cert_file, settings.tls_key_file)
    versions = [_version(file) for file in files]
    while True:
        await asyncio.sleep(_LOOK_SECONDS)
        if unix is not None:
            _look_after_socket(daemon, servers[0], unix)
        now = [_version(file) for file in files]
        if now != versions:
            versions = now
            _renew_certificate(settings, servers)


def _look_after_socket(daemon: Daemon, server: _Server, unix: UnixSocket) -> None:
    if unix.is_there:
        return
    try:
        removed = unix.make_anew()
    except (ListenError, OSError) as error:
        reason = str(error)
        if isinstance(error, OSError):  # its text alone would not say what failed
            path = daemon.settings.unix_socket
            reason = f"The socket {path} cannot be recreated: {error.strerror}."
        if daemon.socket_fault is None:
            log.error("socket_lost", reason=reason)
        daemon.socket_fault = reason
        return
    daemon.socket_fault = None
    if removed is not None:
        server.arrivals.listen_on(unix.listener)
        removed.close()
        log.warning("socket_made_anew", unix_socket=str(daemon.settings.unix_socket))


def _renew_certificate(settings: Settings, servers: list[_Server]) -> None:
    """Use the listener's new certificate from the next connection on."""
    pair = (str(settings.tls_cert_file), str(settings.tls_key_file))
    try:
        # Apart: where the files do not belong together yet the old pair stays whole.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(*pair)
        for server in servers:
            if server.config.ssl is not None:
                server.config.ssl.load_cert_chain(*pair)
    except OSError:  # ssl.SSLError is one
        log.warning(
            "certificate_unreadable",
            remedy="Name a certificate and its key, in PEM; the old one is served.",
        )
    else:
        log.info("certificate_renewed")


def _version(file: Path | None) -> tuple[int, int, int] | None:
    try:
        status = file.stat() if file is not None else None
    except OSError:
        return None
    return status and (status.st_mtime_ns, status.st_ino, status.st_size)


def _stop_on_signals() -> asyncio.Event:
    """Stop in order at the first signal, at once at the second; SIGHUP does nothing."""
    stop = asyncio.Event()

    def on_signal() -> None:
        if stop.is_set():
            os._exit(1)
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    loop.add_signal_handler(
        signal.SIGHUP,
        lambda: log.info("sighup", remedy="Files are read when they change."),
    )
    return stop


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
