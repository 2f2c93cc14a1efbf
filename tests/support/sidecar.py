# SPDX-License-Identifier: Apache-2.0
"""A real sidecar process and HTTP to it."""

from __future__ import annotations

import json
import os
import ssl
import sys
import uuid
from typing import TYPE_CHECKING, Any, Self

import httpx

from .forked import Forked
from .process import Process, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from .nats import NatsProcess

PRODUCER = "6f1c2d3e-4b5a-4c6d-8e7f-"
"""What the keys of a producer plugin begin with; it counts on in 12 digits."""

WITHOUT_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Trusts nobody. httpx loads all the authorities of the Web for a client without one,
which takes ten times as long as a request."""

COMMAND = [sys.executable, "-m", "sidecar"]


def environment(**settings: object) -> dict[str, str]:
    """Give our environment with just these SIDECAR_ settings."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith("SIDECAR_")}
    return environ | {f"SIDECAR_{k.upper()}": str(v) for k, v in settings.items()}


class SidecarProcess(Process):
    """`hermes-nats-sidecar serve` on a Unix socket in `directory`."""

    is_forked = False
    """Whether it begins where its imports are done; tests/conftest.py says so."""

    def __init__(self, directory: Path, **settings: object) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o700)
        self.socket = directory / "api.sock"
        self.settings = {
            "unix_socket": self.socket,
            "http_port": 0,
            "log_level": "debug",
            "log_format": "json",
        } | settings
        super().__init__(
            [*COMMAND, "serve"], directory / "sidecar.log", environment(**self.settings)
        )

    def start(self) -> None:
        count = len(COMMAND)
        if self.is_forked and self.arguments[:count] == COMMAND:
            arguments = [*map(str, self.arguments[count:])]
            self.popen = Forked(arguments, self.log, self.environ or os.environ)
        else:
            super().start()

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    def client(self, timeout: float = 30) -> httpx.Client:
        return httpx.Client(
            transport=httpx.HTTPTransport(uds=str(self.socket), verify=WITHOUT_TLS),
            base_url="http://localhost",
            timeout=timeout,
            trust_env=False,
        )

    def get(self, path: str, headers: Any = None) -> httpx.Response:
        """Get something over TCP, on a connection of its own."""
        url = f"http://127.0.0.1:{self.tcp_port}{path}"
        return httpx.get(url, headers=headers, trust_env=False, verify=WITHOUT_TLS)

    @property
    def tcp_port(self) -> int:
        """The TCP port that it chose, from its `started` line."""
        if port := int(str(self.settings["http_port"])):
            return port
        lines = map(json.loads, self.output().splitlines())
        started = next(row for row in lines if row["event"] == "started")
        return int(started["tcp"].rpartition(":")[2])

    def rows(self) -> list[dict[str, Any]]:
        """Its log, a dict each line."""
        return [json.loads(line) for line in self.output().splitlines()]

    def health(self, path: str = "/health") -> httpx.Response | None:
        """Give its health of this moment; None while it serves nobody."""
        try:
            with self.client(5) as http:
                http.get("/v1/")  # a stranger gets the health of 50 ms ago
                return http.get(path)
        except httpx.HTTPError:
            return None

    def _is_ready(self) -> bool:
        assert self.is_alive, self.output()[-3000:]
        answer = self.health()
        return answer is not None and answer.status_code == 200

    def wait_ready(self, seconds: float = 30) -> Self:
        wait_until(self._is_ready, seconds, "sidecar ready")
        return self

    def _reaches_stream(self) -> bool:
        answer = self.health()
        checks = answer.json()["checks"] if answer is not None else []
        return any((c["name"], c["status"]) == ("stream", "pass") for c in checks)

    def wait_stream(self) -> Self:
        """Wait until events can flow, though Hermes, which failed, has not come yet."""
        wait_until(self._reaches_stream, 30, "the sidecar reaches its stream")
        return self

    def wait_live(self) -> Self:
        wait_until(lambda: self.health("/health/live"), what="sidecar live")
        return self

    def __enter__(self) -> Self:
        self.start()
        try:
            return self.wait_ready()
        except BaseException:
            self.stop()  # nobody else will: __exit__ belongs to those who entered
            raise

    def __exit__(self, *_: object) -> None:
        self.stop()


def sidecar_on(
    nats: NatsProcess, directory: Path, name: str | None = None, **settings: object
) -> SidecarProcess:
    """Make a sidecar that creates and serves a stream of its own."""
    name = name or f"s{uuid.uuid4().hex[:12]}"
    return SidecarProcess(
        directory,
        nats_url=nats.url,
        stream_create=True,
        stream=name,
        subject_prefix=name,
        **settings,
    )


def event(category: str = "base", **values: object) -> bytes:
    """Make an event as Hermes writes it."""
    document = {
        "evcategory": category,
        "eventtype": "added",
        "objtype": "Users",
        "objpkey": 1,
        "objattrs": {},
        "step": 0,
        "isPartiallyProcessed": False,
    } | values
    return json.dumps(document, indent=4).encode()


def plugin_key(
    count: int, producer: str = PRODUCER, pass_start: int = 0, attempt: int = 1
) -> str:
    """Make a key of the producer plugin's form, as no UUID of a person is."""
    return f"{producer}{pass_start}-{attempt}-{count}"


def post(
    http: httpx.Client,
    body: bytes | None = None,
    last: int | str = "*",
    key: str | None = None,
) -> httpx.Response:
    """POST one event with If-Match "last" (an offset or *)."""
    return http.post(
        "/v1/events",
        content=event() if body is None else body,
        headers={
            "Content-Type": "application/json",
            "Idempotency-Key": key or str(uuid.uuid4()),
            "If-Match": last if last == "*" else f'"{last}"',
        },
    )


def sequence(*texts: bytes) -> bytes:
    """Write a JSON text sequence (RFC 7464)."""
    return b"".join(b"\x1e%s\n" % text for text in texts)


def post_batch(
    http: httpx.Client, body: bytes, last: int | str, key: str | None = None
) -> httpx.Response:
    """POST events of an initsync as one body."""
    return http.post(
        "/v1/events",
        content=body,
        headers={
            "Content-Type": "application/json-seq",
            "Idempotency-Key": key or str(uuid.uuid4()),
            "If-Match": last if last == "*" else f'"{last}"',
        },
    )


def last_offset(http: httpx.Client) -> int:
    return int(http.get("/v1/stream").raise_for_status().json()["last_offset"])
