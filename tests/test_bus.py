# SPDX-License-Identifier: Apache-2.0
"""The life of a bus whose NATS is not there."""

from __future__ import annotations

import asyncio

import pytest
from parts.nats import free_port

from sidecar.bus import Bus
from sidecar.login import NatsServer
from sidecar.stream import StreamPlan


@pytest.mark.parametrize("turns", range(1, 60))
async def test_it_ends_when_it_is_told_to_at_whatever_step_of_a_connection(
    turns: int,
) -> None:
    """nats-py swallows a cancellation at some of them."""
    server = NatsServer((f"nats://127.0.0.1:{free_port()}",))
    bus = Bus("test", server, StreamPlan("hermes", "hermes", 1, 0))
    running = asyncio.create_task(bus.run())
    for _ in range(turns):
        await asyncio.sleep(0)
    running.cancel()
    _, still_running = await asyncio.wait({running}, timeout=10)
    if still_running:
        running.cancel()
    assert not still_running
