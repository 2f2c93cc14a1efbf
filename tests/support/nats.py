# SPDX-License-Identifier: Apache-2.0
"""Real nats-servers: one, or three as a cluster, of any version the wheel has."""

from __future__ import annotations

import itertools
import os
import random
import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from chaos.servers import nats_server

from sidecar.jetstream.embedded_server import find_nats_server

from .process import Process, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_CONFIG = """\
server_name: {name}
host: 127.0.0.1
port: {port}
max_payload: 8MB
jetstream {{ store_dir: "{store}", {jetstream} }}
{extra}
"""

_WORKERS = 8
_SHARE = 2_750
_FIRST_PORT = 10_000


def _ports() -> Iterator[int]:
    """Give the ports of this worker of pytest-xdist, each again as late as can be."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    first = _FIRST_PORT + worker % _WORKERS * _SHARE
    start = random.SystemRandom().randrange(_SHARE)  # of several runs at once
    return (first + (start + number) % _SHARE for number in itertools.count())


_PORTS = _ports()
_ONE_AT_A_TIME = threading.Lock()


def free_port() -> int:
    """Give a free port outside the range that outgoing connections take theirs from.

    A server must find it free when it starts, and when it comes back, so nobody else
    is given it meanwhile.
    """
    while True:
        with _ONE_AT_A_TIME:
            port = next(_PORTS)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def _nats_server() -> Path:
    """Give the nats-server of `make test-nats NATS_VERSION=...`, else the installed."""
    version = os.environ.get("NATS_VERSION")
    return nats_server(version) if version else find_nats_server()


class NatsProcess(Process):
    """One nats-server with JetStream; its data outlives a kill and a restart."""

    def __init__(
        self,
        directory: Path,
        name: str = "n1",
        *,
        port: int | None = None,
        jetstream: str = "",
        extra: str = "",
        binary: Path | None = None,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.name = name
        self.port = port or free_port()
        self.jetstream = jetstream
        self.extra = extra
        self.config = directory / "nats.conf"
        super().__init__(
            [binary or _nats_server(), "--config", self.config],
            directory / "nats.log",
        )

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def write_config(self) -> None:
        self.config.write_text(
            _CONFIG.format(
                name=self.name,
                port=self.port,
                store=self.directory / "data",
                jetstream=self.jetstream,
                extra=self.extra,
            )
        )

    def start(self) -> None:
        self.write_config()
        super().start()

    def wait(self) -> Self:
        wait_until(self._greets, what=f"{self.name} greets: {self.output()[-2000:]}")
        return self

    def _greets(self) -> bool:
        assert self.is_alive, self.output()[-2000:]
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as probe:
                probe.settimeout(1)
                return probe.recv(4) == b"INFO"
        except OSError:
            return False

    def __enter__(self) -> Self:
        self.start()
        return self.wait()

    def __exit__(self, *_: object) -> None:
        self.stop()


class NatsCluster:
    """Three nats-servers with one JetStream between them."""

    def __init__(
        self, directory: Path, *, jetstream: str = "", binary: Path | None = None
    ) -> None:
        routes = [free_port() for _ in range(3)]
        self.nodes = [
            NatsProcess(
                directory / f"n{number}",
                f"n{number}",
                jetstream=jetstream,
                binary=binary,
                extra=(
                    f"cluster {{ name: c, host: 127.0.0.1, port: {route}, routes: ["
                    + ", ".join(f"nats://127.0.0.1:{each}" for each in routes)
                    + "] }"
                ),
            )
            for number, route in enumerate(routes, 1)
        ]

    @property
    def url(self) -> str:
        return ",".join(node.url for node in self.nodes)

    def __enter__(self) -> Self:
        for node in self.nodes:
            node.start()
        for node in self.nodes:
            node.wait()
        return self

    def __exit__(self, *_: object) -> None:
        for node in self.nodes:
            node.stop()
