# SPDX-License-Identifier: Apache-2.0
"""How long one event takes from _send to its acknowledgement, variant by variant."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from .measure import Spread, memory_mb, spread, time_sends, turned
from .pyspy import Profile, profile
from .scale import SIZES, Environment, Scale
from .variants import UNIX, StreamSupervisor, all_variants
from .world import event_of, nats_servers

if TYPE_CHECKING:
    from pathlib import Path

    from support.sidecar import SidecarProcess

Latencies = dict[int, dict[str, Spread]]
"""Microseconds by size and variant."""


def measure_latency(
    home: Path, directory: Path, environment: Environment, scale: Scale
) -> tuple[Latencies, float, Profile | str]:
    """Give the latencies, the sidecar's peak in MB, and where its time went."""
    with (
        nats_servers(
            directory / "nats",
            environment.nodes,
            sync_always=environment.sync_always,
        ) as node,
        all_variants(home, directory, node, environment.nodes) as (variants, sidecar),
    ):
        latencies = {
            size: _measure_size(variants, size, environment.rounds, scale.sends)
            for size in SIZES
        }
        found: Profile | str = ""
        if environment == scale.environments[0]:
            found = _profile(variants[UNIX], sidecar, directory, scale.profile_seconds)
        return latencies, memory_mb(sidecar.running.pid, "VmHWM"), found


def _measure_size(
    variants: dict[str, StreamSupervisor], size: int, rounds: int, sends: int
) -> dict[str, Spread]:
    event = event_of(size)
    series = {name: array("d") for name in variants}
    names = list(variants)
    for number in range(rounds):
        for name in turned(names, number):
            bus = variants[name]
            bus.open()
            time_sends(bus.send, event, sends, series[name])
            bus.close()
    return {name: spread(each, sends) for name, each in series.items()}


def _profile(
    bus: StreamSupervisor, sidecar: SidecarProcess, directory: Path, seconds: int
) -> Profile | str:
    event = event_of(SIZES[0])
    bus.open()
    found = profile(
        sidecar.running.pid,
        seconds,
        directory / "stacks.txt",
        lambda: bus.send(event),
    )
    bus.close()
    return found
