# SPDX-License-Identifier: Apache-2.0
"""Whatever is asked of the reading half, as the OpenAPI file describes it: no 500."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from parts.sidecar import SidecarProcess, post

if TYPE_CHECKING:
    from collections.abc import Iterator

    from parts.nats import NatsProcess

DOCS = Path(__file__).resolve().parent.parent / "docs"

schema = schemathesis.openapi.from_path(DOCS / "openapi.json")


@pytest.fixture(scope="module")
def reachable(
    nats: NatsProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Run a sidecar that serves its API over TCP, on a stream of some events."""
    process = SidecarProcess(
        tmp_path_factory.mktemp("fuzz"),
        nats_url=nats.url,
        stream_create=True,
        tcp_api="open",
    )
    with process:
        with process.client() as http:
            for _ in range(5):
                post(http)
        yield f"http://127.0.0.1:{process.tcp_port}"


@schema.include(path="/v1/events", method="GET").parametrize()
@settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
def test_no_query_is_answered_by_a_server_error(
    case: schemathesis.Case, reachable: str
) -> None:
    with suppress(TypeError, ValueError, KeyError):
        if 0.1 < float(case.query["wait"]) <= 60:
            case.query["wait"] = 0.1  # a legal wait is waited for
    answer = case.call(base_url=reachable)
    assert answer.status_code in (200, 400, 405, 409, 410, 503), answer.text
    if answer.status_code != 200:
        assert answer.json()["code"]
