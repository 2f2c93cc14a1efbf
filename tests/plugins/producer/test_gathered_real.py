# SPDX-License-Identifier: Apache-2.0
"""Initsyncs through real sidecars: whole whatever is late, and how much is held."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest
from support.hermes import load_plugin, new_event
from support.jetstream import RawNatsClient
from support.process import wait_until
from support.producer_passes import FAMILY, SECRET, a_pass, bodies, send, user
from support.sidecar import (
    SidecarProcess,
    last_offset,
    post_batch,
    sequence,
    sidecar_on,
)

if TYPE_CHECKING:
    from pathlib import Path

    from support.nats import NatsProcess

TWO_MB = 2_000_000


def mark(kind: str) -> Any:
    return new_event("initsync", kind, objtype=None, objpkey=None)


def initsync(count: int, size: int = 0) -> list[Any]:
    attributes = {"photo": "x" * size, "password": SECRET}
    objects = (
        new_event("initsync", objpkey=number, objattrs=attributes)
        for number in range(count)
    )
    return [mark("init-start"), *objects, mark("init-stop")]


def texts(events: list[Any]) -> list[bytes]:
    return [event.to_json().encode() for event in events]


@pytest.mark.parametrize("count", [0, 1, 127, 128, 129, 700])
def test_an_initsync_of_any_size_stands_verbatim_and_in_order(
    hermes_home: Path, sidecar: SidecarProcess, nats: NatsProcess, count: int
) -> None:
    events = initsync(count)
    with sidecar.client() as http:
        last = last_offset(http)
    plugin = load_plugin(hermes_home, FAMILY, {"url": sidecar.url})
    assert a_pass(plugin, *events, user()) is None
    assert bodies(nats, last) == texts([*events, user()])


def test_large_and_small_objects_stand_in_their_order(
    hermes_home: Path, sidecar: SidecarProcess, nats: NatsProcess
) -> None:
    start, *small, stop = initsync(3)
    (large,) = initsync(1, 600_000)[1:-1]
    events = [start, small[0], large, small[1], small[2], large, stop]
    with sidecar.client() as http:
        last = last_offset(http)
    plugin = load_plugin(hermes_home, FAMILY, {"url": sidecar.url})
    assert a_pass(plugin, *events) is None
    assert bodies(nats, last) == texts(events)


@pytest.mark.parametrize("size", [0, 4_000, 200_000])
def test_no_more_than_two_megabytes_are_held(
    hermes_home: Path, sidecar: SidecarProcess, size: int
) -> None:
    events = initsync(0 if size else 1_000)
    events[1:-1] = initsync(1, size)[1:-1] * (1_000 if size < TWO_MB / 100 else 30)
    plugin = load_plugin(hermes_home, FAMILY, {"url": sidecar.url})
    plugin.open()
    plugin.close()
    tracemalloc.start()
    try:
        assert a_pass(plugin, *events) is None
        assert tracemalloc.get_traced_memory()[1] < TWO_MB
    finally:
        tracemalloc.stop()


def test_an_initsync_cut_off_by_a_frozen_nats_leaves_nothing_in_the_next(
    in_doubt: Any, impatient: SidecarProcess, own_nats: NatsProcess
) -> None:
    """What is late lands before the next init-start, or never."""
    events = initsync(300)
    with impatient.client() as http:
        last = last_offset(http)
    with in_doubt:
        in_doubt.send(events[0])
        own_nats.freeze()
        text = next(filter(None, (send(in_doubt, each) for each in events[1:])))
    assert text.startswith("It is not known")
    own_nats.thaw()
    impatient.wait_stream()
    assert a_pass(in_doubt, *events) is None
    found = bodies(own_nats, last)
    assert found[-302:] == texts(events)
    cut = found[:-302]
    assert cut == texts(events)[: len(cut)]
    assert 1 <= len(cut) <= 129


def test_a_late_copy_of_a_request_stores_nothing_in_a_later_initsync(
    hermes_home: Path, sidecar: SidecarProcess, nats: NatsProcess
) -> None:
    """It was lost on the way, and arrives at each moment of the next one."""
    late = texts(initsync(3))[1:-1]
    events = initsync(3)
    plugin = load_plugin(hermes_home, FAMILY, {"url": sidecar.url})
    with sidecar.client() as http:
        last = last_offset(http)
        assert a_pass(plugin, events[0]) is None  # and no more of it came
        with plugin:
            for event in [*events, user()]:
                plugin.send(event)
                answer = post_batch(http, sequence(*late), last + 1, "late")
                assert answer.status_code == 412
    assert bodies(nats, last) == texts([events[0], *events, user()])


def test_a_request_of_a_pass_that_was_left_ends_before_the_next_init_start(
    hermes_home: Path, sidecar: SidecarProcess, nats: NatsProcess
) -> None:
    events = initsync(600)
    plugin = load_plugin(hermes_home, FAMILY, {"url": sidecar.url})
    with sidecar.client() as http:
        last = last_offset(http)
    for _ in range(3):
        with plugin:
            for event in events[:300]:
                plugin.send(event)
            # 128 are under way, and Hermes leaves.
    assert a_pass(plugin, *events) is None
    found = bodies(nats, last)
    assert found[-602:] == texts(events)
    start, rest = texts(events)[0], found[:-602]
    parts = [list(part) for part in _parts(rest, start)]
    assert len(parts) == 3
    for part in parts:
        assert part == texts(events)[: len(part)]


def _parts(found: list[bytes], start: bytes) -> list[list[bytes]]:
    parts: list[list[bytes]] = []
    for text in found:
        if text == start:
            parts.append([])
        parts[-1].append(text)
    return parts


def test_another_sidecar_finishes_what_one_that_was_killed_had_begun(
    hermes_home: Path, nats: NatsProcess, tmp_path: Path
) -> None:
    with sidecar_on(nats, tmp_path, "hermes") as process:
        plugin = load_plugin(hermes_home, FAMILY, {"url": process.url})
        with process.client() as http:
            last = last_offset(http)
        events = initsync(600)
        with plugin, RawNatsClient(nats.port) as operator:
            for number, event in enumerate(events):
                plugin.send(event)
                if number == 256:
                    wait_until(lambda: operator.state("hermes")["last_seq"] > last + 20)
                    process.kill()
                    process.start()
        assert bodies(nats, last) == texts(events)
