# SPDX-License-Identifier: Apache-2.0
"""Clients that come from a bus with small offsets, as docs/operations.md says."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest
from support.hermes import load_plugin, new_event
from support.nats import NatsProcess
from support.sidecar import COMMAND, SidecarProcess, environment

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NEXT_OFFSET = 1201
"""What each drained client holds as its nextoffset, after 1,200 events elsewhere."""


@pytest.fixture
def moved(tmp_path: Path) -> Iterator[SidecarProcess]:
    """Run a sidecar on a stream that was provisioned at the clients' next offset."""
    with NatsProcess(tmp_path / "nats") as nats:
        subprocess.run(
            [*COMMAND, "provision", "--first-offset", str(NEXT_OFFSET)],
            env=environment(nats_url=nats.url),
            check=True,
        )
        with SidecarProcess(tmp_path / "sidecar", nats_url=nats.url) as sidecar:
            yield sidecar


def test_drained_clients_go_on_at_their_small_offset_with_nothing_twice(
    moved: SidecarProcess, hermes_home: Path
) -> None:
    settings = {"url": moved.url}
    consumer = load_plugin(hermes_home, "messagebus_consumers", settings)
    consumer.setTimeout(300)
    with consumer:
        consumer.seek(NEXT_OFFSET)
        assert list(consumer) == []
    with load_plugin(hermes_home, "messagebus_producers", settings) as producer:
        for number in range(3):
            producer.send(new_event(objpkey=number))
    with consumer:
        consumer.seek(NEXT_OFFSET)
        read = [(event.offset, event.objpkey) for event in consumer]
    assert read == [(1201, 0), (1202, 1), (1203, 2)]


def test_a_client_that_was_not_drained_is_told_and_skips_nothing(
    moved: SidecarProcess, hermes_home: Path
) -> None:
    consumer = load_plugin(hermes_home, "messagebus_consumers", {"url": moved.url})
    consumer._sleep = lambda _: None
    with consumer, pytest.raises(IndexError, match="not in the stream"):
        consumer.seek(NEXT_OFFSET - 1)
