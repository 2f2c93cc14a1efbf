# SPDX-License-Identifier: Apache-2.0
"""A sidecar that a test starts and stops, and its publish in doubt."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from .process import wait_until
from .sidecar import SidecarProcess, last_offset, post, sidecar_on

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import httpx

    from .nats import NatsProcess


@contextmanager
def started(directory: Path, **settings: object) -> Iterator[SidecarProcess]:
    """Start a sidecar that serves but need not be ready."""
    process = SidecarProcess(directory, **settings)
    process.start()
    try:
        yield process.wait_live()
    finally:
        process.stop()


def reasons(process: SidecarProcess) -> str:
    answer = process.health("/health/ready")
    assert answer is not None
    assert (answer.status_code == 200) == (answer.json()["status"] == "ready")
    checks: list[dict[str, Any]] = answer.json()["checks"]
    return " ".join(check["reason"] for check in checks if check["reason"])


@contextmanager
def serving(
    nats: NatsProcess, tmp_path: Path, **settings: object
) -> Iterator[tuple[SidecarProcess, httpx.Client]]:
    """Start a ready sidecar that made the stream `hermes`, and HTTP to it."""
    process = sidecar_on(nats, tmp_path / "s", "hermes", **settings)
    with process, process.client() as http:
        yield process, http


def in_background(call: Callable[[], httpx.Response]) -> Future[httpx.Response]:
    """Run a call in a thread."""
    executor = ThreadPoolExecutor(1)
    future = executor.submit(call)
    executor.shutdown(wait=False)
    return future


class Doubt(NamedTuple):
    """A publish whose copy a frozen NATS does not answer."""

    process: SidecarProcess
    answer: Future[httpx.Response]
    last: int


@contextmanager
def in_doubt(nats: NatsProcess, tmp_path: Path, seconds: float = 10) -> Iterator[Doubt]:
    with serving(nats, tmp_path, publish_timeout_seconds=seconds) as (process, http):
        last = last_offset(http)
        nats.freeze()
        answer = in_background(lambda: post(http, last=last))
        wait_until(
            lambda: "outcome of a publish is not known" in reasons(process),
            what="unknown",
        )
        yield Doubt(process, answer, last)
