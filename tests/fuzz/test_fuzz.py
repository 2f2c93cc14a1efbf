# SPDX-License-Identifier: Apache-2.0
"""Whatever is asked: no 500, no hang, nothing bad stored, and the next good one is.

`make fuzz` is the long form, with the memory of the sidecar.
"""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import schemathesis
from fuzz.attack import Attack
from fuzz.inputs import Bad, bad_request, post
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.sidecar import sidecar_on

from sidecar.http.clocks import HEAD_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx
    from fuzz.inputs import End
    from schemathesis.schemas import BaseSchema
    from support.nats import NatsProcess
    from support.sidecar import SidecarProcess

DOCS = Path(__file__).resolve().parents[2] / "docs"
INPUTS = 10_000

DRIPPERS = 50
DRIP_SECONDS = 0.5
SLACK_SECONDS = 10.0

schema = schemathesis.pytest.from_fixture("described")
"""Its cases are made when the test runs: each worker would make them to collect it."""


@schemathesis.serializer("application/json-seq")
def sequence(_: object, value: object) -> bytes:
    """Send any text in the place of a JSON text sequence (RFC 7464)."""
    return str(value).encode("utf-8", "replace")


ends = st.sampled_from(("wait", "half close", "cut"))


@pytest.fixture
def described(request: pytest.FixtureRequest) -> BaseSchema:
    request.node._nodeid = request.node.nodeid  # schemathesis reads and sets it
    return schemathesis.openapi.from_path(DOCS / "openapi.json")


@pytest.fixture(scope="module")
def reachable(
    nats: NatsProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SidecarProcess]:
    """Run a sidecar that serves its API over TCP too."""
    with sidecar_on(nats, tmp_path_factory.mktemp("fuzz"), tcp_api="open") as process:
        yield process


@pytest.fixture
def http(reachable: SidecarProcess) -> Iterator[httpx.Client]:
    with reachable.client() as client:
        yield client


@pytest.fixture
def attack(reachable: SidecarProcess, http: httpx.Client) -> Attack:
    return Attack(reachable, http)


@schema.parametrize()
@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
def test_what_the_openapi_file_allows_and_forbids_has_the_answers_it_describes(
    case: schemathesis.Case[Any], reachable: SidecarProcess
) -> None:
    with suppress(TypeError, ValueError, KeyError):
        if 0.1 < float(case.query["wait"]) <= 60:
            case.query["wait"] = 0.1  # a legal wait is waited for
    answer = case.call(base_url=f"http://127.0.0.1:{reachable.tcp_port}")
    described = case.operation.definition.raw["responses"]
    # A path or a host is no operation's business.
    assert str(answer.status_code) in {*described, "404", "405", "421"}, answer.text
    if answer.status_code >= 400:
        assert answer.json()["code"]


def test_ten_thousand_bad_requests_and_slow_ones_leave_just_the_good_ones(
    attack: Attack,
) -> None:
    random_inputs = random.Random(seed := random.getrandbits(32))  # noqa: S311 - inputs

    async def everything() -> list[float]:
        async with asyncio.TaskGroup() as group:
            drips = [group.create_task(_drip(attack)) for _ in range(DRIPPERS)]
            await attack.throw_many(random_inputs, INPUTS, lambda _: None)
        return [drip.result() for drip in drips]

    lived_seconds = asyncio.run(everything())
    assert sum(attack.kinds.values()) == INPUTS, f"seed {seed}"
    assert max(lived_seconds) < HEAD_SECONDS + SLACK_SECONDS
    attack.check()


async def _drip(attack: Attack) -> float:
    """Send headers without end, byte by byte; give the seconds until they are cut."""
    reader, writer = await attack.connect(over_tcp=True)
    started_at = time.monotonic()
    closed = asyncio.create_task(reader.read())
    head = iter(post(b"") * 100)
    while not closed.done():
        with suppress(ConnectionError):
            writer.write(bytes([next(head)]))
        await asyncio.wait({closed}, timeout=DRIP_SECONDS)
        assert time.monotonic() - started_at < 2 * HEAD_SECONDS, "never cut"
    with suppress(ConnectionError):
        assert await closed == b""
    writer.transport.abort()
    return time.monotonic() - started_at


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.binary(max_size=3000), end=ends)
def test_any_bytes_are_followed_by_a_good_request_that_succeeds(
    data: bytes, end: End, attack: Attack
) -> None:
    asyncio.run(attack.throw(Bad("bytes", (data,), end), over_tcp=True))
    attack.send_good()


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(drawn=st.randoms(use_true_random=False))
def test_any_mutation_is_followed_by_a_good_request_that_succeeds(
    drawn: random.Random, attack: Attack
) -> None:
    asyncio.run(attack.throw(bad_request(drawn)))
    attack.send_good()
