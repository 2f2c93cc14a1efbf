# SPDX-License-Identifier: Apache-2.0
"""Atomic batches on three replicas whose leader is killed again and again."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from chaos.servers import nats_server
from support.jetstream import RawNatsClient, wait_jetstream
from support.nats import NatsCluster
from support.process import wait_until
from support.publishing import plan_of, running_daemon
from support.sidecar import event, sequence

from sidecar import errors
from sidecar.errors import Outcome
from sidecar.jetstream.callbacks import await_callback
from sidecar.jetstream.credentials import NatsServer
from sidecar.model.decisions import Stored
from sidecar.services.batches import Batch

if TYPE_CHECKING:
    from pathlib import Path

    from sidecar.model.decisions import Result
    from sidecar.services.daemon import Daemon

TEXTS = [event("initsync", objpkey=number) for number in range(50)]
BATCHES = 60
KILLED_AT = (1, 700, 1400, 2100)


async def stored(daemon: Daemon, number: int) -> Stored:
    """Store a batch as a caller does that comes again."""
    last = number * len(TEXTS)
    batch = Batch(f"k{number}", last, sequence(*TEXTS), limit_bytes=10**6)
    while True:
        result: Result = await await_callback(
            lambda on_done: daemon.batches.start(batch, on_done, 60)
        )
        if isinstance(result, Stored):
            return result
        assert result.cause not in (errors.PRECONDITION_FAILED, errors.KEY_REUSED)
        assert result.outcome in (Outcome.NOT_STORED, Outcome.UNKNOWN)
        await asyncio.sleep(0.1)


def _info(cluster: NatsCluster) -> Any:
    for node in cluster.nodes:
        try:
            with RawNatsClient(node.port) as operator:
                operator._socket.settimeout(2)
                return operator.api("STREAM.INFO.many")
        except (OSError, AssertionError, ValueError):
            continue
    return None


def _kill_leader(cluster: NatsCluster, least: int) -> None:
    def leader() -> str | None:
        info = _info(cluster)
        if info is None or info["state"]["last_seq"] < least:
            return None
        name: str | None = info["cluster"].get("leader")
        return name

    wait_until(leader, 60, "the stream grows, and has a leader")
    name = leader()
    for node in cluster.nodes:
        if node.name == name:
            node.kill()
            node.start()
            node.wait()
            wait_jetstream(node.port)


@pytest.mark.parametrize("version", ["2.12.8", "2.15.1"])
async def test_each_event_stands_once_and_in_order(
    tmp_path: Path, version: str
) -> None:
    with NatsCluster(tmp_path, binary=nats_server(version)) as cluster:
        for node in cluster.nodes:
            wait_jetstream(node.port)
        with RawNatsClient(cluster.nodes[0].port) as operator:
            operator.create("many", num_replicas=3, allow_atomic=True)
        server = NatsServer(tuple(node.url for node in cluster.nodes))
        async with running_daemon(server, plan_of("many"), seconds=5) as daemon:

            async def store_all() -> None:
                for number in range(BATCHES):
                    result = await stored(daemon, number)
                    assert result.offset == (number + 1) * len(TEXTS)

            task = asyncio.create_task(store_all())
            for least in KILLED_AT:
                await asyncio.to_thread(_kill_leader, cluster, least)
            await asyncio.wait_for(task, 150)
        for node in cluster.nodes:
            wait_jetstream(node.port)

        def is_whole() -> bool:
            info = _info(cluster)
            return bool(info) and info["state"]["messages"] == BATCHES * len(TEXTS)

        await asyncio.to_thread(wait_until, is_whole, 60, "all is stored")
        with RawNatsClient(cluster.nodes[0].port) as operator:
            assert operator.bodies("many") == TEXTS * BATCHES
