# SPDX-License-Identifier: Apache-2.0
"""The faults, each a function that harms, heals, and says when it was over.

Each runs while the producers send. It gives the monotonic moment from which the way to
the stream was open again, or None when it did not come about.

A fault is ten lines or so: the file is long because they are many.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any, Final

from .checker import Told
from .hermes_server import DEATHS
from .wire import Silence
from .world import MIRROR, STREAM, can_mount

if TYPE_CHECKING:
    import random
    from pathlib import Path

    from support.process import Process

    from .hermes_server import HermesServer
    from .history import History
    from .wire import Wire
    from .world import World


@dataclass(frozen=True)
class Stage:
    """What a fault acts on."""

    world: World
    history: History
    rng: random.Random
    servers: list[HermesServer]

    @property
    def active(self) -> HermesServer:
        """The hermes-server that writes; with two, the other one stands by."""
        return next(each for each in self.servers if each.active.is_set())

    @property
    def standby(self) -> HermesServer:
        return next(each for each in self.servers if not each.active.is_set())


Act = Callable[[Stage], float | None]


@dataclass(frozen=True)
class Fault:
    """`does` is the line of the fault matrix."""

    name: str
    does: str
    act: Act
    topologies: tuple[str, ...]


_EVERY = ("single", "cluster", "two-sidecars", "two-producers")
_ALONE = ("single", "two-sidecars", "two-producers")
_PAIR = ("two-producers",)
_CLUSTER = ("cluster",)
FAULTS: Final[dict[str, Fault]] = {}


def fault(does: str, topologies: tuple[str, ...] = _EVERY) -> Callable[[Act], Act]:
    """Enter a function into the list of faults, under its own name."""

    def enter(act: Act) -> Act:
        name = act.__name__
        FAULTS[name] = Fault(name, does, act, topologies)
        return act

    return enter


def fitting(topology: str) -> tuple[str, ...]:
    """Give the names of the faults that can run there."""
    return tuple(
        each.name
        for each in FAULTS.values()
        if topology in each.topologies
        and not (each.name == "disk_full" and can_mount() is not None)
    )


def freeze_seconds(rng: random.Random) -> float:
    """Short most often, up to 30 s at times."""
    low, high = rng.choices(
        [(0.2, 0.5), (1.0, 3.0), (3.0, 8.0), (30.0, 30.0)], [88, 9, 2.6, 0.4]
    )[0]
    return rng.uniform(low, high)


def late_seconds(rng: random.Random) -> float:
    """Long after the plugin has gone on, up to a minute."""
    low, high = rng.choices([(0.2, 1.0), (1.0, 10.0), (10.0, 60.0)], [75, 20, 5])[0]
    return rng.uniform(low, high)


def _pause(rng: random.Random) -> None:
    time.sleep(rng.choice([0.0, rng.uniform(0.0, 0.3)]))


def _freeze(process: Process, seconds: float) -> float:
    process.freeze()
    try:
        time.sleep(seconds)
    finally:
        process.thaw()
    return time.monotonic()


# -- NATS ------------------------------------------------------------------------------


@fault("kill -9 of nats-server, and its restart", _ALONE)
def nats_kill(stage: Stage) -> float:
    node = stage.world.nodes[0]
    node.kill()
    _pause(stage.rng)
    stage.world.restart(node)
    return time.monotonic()


@fault("nats-server frozen for 0.2 to 30 s", _ALONE)
def nats_freeze(stage: Stage) -> float:
    return _freeze(stage.world.nodes[0], freeze_seconds(stage.rng))


# -- Hermes ----------------------------------------------------------------------------


@fault("hermes-server stopped between two passes, and started anew")
def hermes_restart(stage: Stage) -> float | None:
    return time.monotonic() if stage.active.restart() else None


@fault("kill -9 of hermes-server around one of its requests, and its restart")
def hermes_kill(stage: Stage) -> float | None:
    death = stage.rng.choice(DEATHS)
    return time.monotonic() if stage.active.kill(death) else None


@fault("hermes-server frozen in a pass, and woken behind its standby", _PAIR)
def hermes_freeze(stage: Stage) -> float | None:
    active, standby = stage.active, stage.standby
    if not active.freeze():
        return None
    try:
        active.active.clear()
        standby.active.set()
        stage.history.wait_acknowledged(stage.rng.randint(1, 20), 10)
    finally:
        active.thaw()
    return time.monotonic()


@fault("two hermes-servers write at once, for 0.3 to 2 s", _PAIR)
def hermes_twice(stage: Stage) -> float:
    active, standby = stage.active, stage.standby
    standby.active.set()
    time.sleep(stage.rng.uniform(0.3, 2.0))
    active.active.clear()
    return time.monotonic()


# -- The sidecar -----------------------------------------------------------------------


def _sidecar_down(stage: Stage, end: Callable[[], object]) -> float:
    sidecar = stage.world.sidecar
    end()
    if len(stage.world.sidecars) > 1:
        stage.world.switch()
    _pause(stage.rng)
    sidecar.start()
    return time.monotonic()


@fault("kill -9 of the sidecar, and its restart")
def sidecar_kill(stage: Stage) -> float:
    return _sidecar_down(stage, stage.world.sidecar.kill)


@fault("SIGTERM to the sidecar, and its restart")
def sidecar_term(stage: Stage) -> float:
    return _sidecar_down(stage, stage.world.sidecar.terminate)


@fault("sidecar frozen for 0.2 to 30 s")
def sidecar_freeze(stage: Stage) -> float:
    sidecar = stage.world.sidecar
    seconds = freeze_seconds(stage.rng)
    if len(stage.world.sidecars) > 1:
        sidecar.freeze()
        stage.world.switch()
        stage.world.proxy.order("cut", kind="http")
        time.sleep(seconds)
        sidecar.thaw()
        return time.monotonic()
    return _freeze(sidecar, seconds)


@fault(
    "the plugin led to the other sidecar in the middle of a request", ("two-sidecars",)
)
def sidecar_switch(stage: Stage) -> float | None:
    stage.world.switch()
    return _strike("http", stage.rng.choice(_PLACES), "cut", stage)


# -- The network -----------------------------------------------------------------------

_PLACES = ("before_request", "in_body", "after_body", "in_answer")
_HOPS = {"http": "plugin to sidecar", "nats": "sidecar to NATS"}
_WHERE = {
    "before_request": "before the request",
    "in_body": "in the middle of the body",
    "after_body": "after the body, before the answer",
    "in_answer": "in the answer",
}
_ACTIONS = {
    "cut": ("connection cut", _PLACES),
    "stall": ("connection stalled for 0.1 to 3 s", _PLACES),
    "swallow": ("request or answer swallowed", ("before_request", "after_body")),
    "late": (
        "connection lost to the caller, its request delivered up to 60 s later",
        ("before_request", "in_body"),
    ),
}


def _strike(kind: str, place: str, action: str, stage: Stage) -> float | None:
    rng = stage.rng
    seconds = {
        "stall": rng.choice([rng.uniform(0.1, 0.4)] * 4 + [rng.uniform(0.5, 3.0)]),
        "late": late_seconds(rng),
    }.get(action, 0.0)
    fell = stage.world.proxy.strike(kind, place, action, seconds, rng.random())
    return time.monotonic() if fell else None


def _enter_strikes() -> None:
    for kind, (action, (what, places)) in product(_HOPS, _ACTIONS.items()):
        for place in places:
            name = f"{kind}_{action}_{place}"
            does = f"{_HOPS[kind]}: {what}, {_WHERE[place]}"
            act = partial(_strike, kind, place, action)
            FAULTS[name] = Fault(name, does, act, _EVERY)


_enter_strikes()


def _delay(kind: str, stage: Stage) -> float:
    proxy = stage.world.proxy
    proxy.order("delay", kind=kind, seconds=stage.rng.uniform(0.01, 0.2))
    stage.history.wait_acknowledged(stage.rng.randint(1, 5), 2)
    proxy.order("delay", kind=kind, seconds=0)
    return time.monotonic()


def _slow(kind: str, stage: Stage) -> float:
    """Let a page take seconds, as over a radio link to another site."""
    proxy, rng = stage.world.proxy, stage.rng
    rate = rng.choice([250_000, 1_000_000])  # bytes per second
    proxy.order("delay", kind=kind, seconds=rng.uniform(0.02, 0.2), rate=rate)
    time.sleep(rng.choice([rng.uniform(2.0, 5.0)] * 4 + [rng.uniform(5.0, 15.0)]))
    proxy.order("delay", kind=kind, seconds=0)
    return time.monotonic()


def _lossy(kind: str, stage: Stage) -> float:
    """Lose answers until outcomes stay unknown in several passes after each other."""
    proxy = stage.world.proxy
    proxy.order("lose", kind=kind, share=stage.rng.choice([0.7, 0.9, 0.98]))
    time.sleep(stage.rng.uniform(1.0, 4.0))
    proxy.order("lose", kind=kind, share=0)
    return time.monotonic()


for _kind, _hop in _HOPS.items():
    FAULTS[f"{_kind}_lossy"] = Fault(
        f"{_kind}_lossy",
        f"{_hop}: most answers cut off, for 1 to 4 s",
        partial(_lossy, _kind),
        _EVERY,
    )
    FAULTS[f"{_kind}_delay"] = Fault(
        f"{_kind}_delay",
        f"{_hop}: each packet delayed by 10 to 200 ms",
        partial(_delay, _kind),
        _EVERY,
    )
    FAULTS[f"{_kind}_slow"] = Fault(
        f"{_kind}_slow",
        f"{_hop}: 2 or 8 Mbit/s and up to 200 ms, for 2 to 15 s",
        partial(_slow, _kind),
        _EVERY,
    )


@fault("plugin to sidecar: acknowledgements cut off, refusals not, for 2 to 5 s")
def http_unacknowledged(stage: Stage) -> float:
    proxy = stage.world.proxy
    proxy.order("lose", kind="http", share=stage.rng.choice([0.9, 1]), spares="412")
    time.sleep(stage.rng.uniform(2.0, 5.0))
    proxy.order("lose", kind="http", share=0)
    return time.monotonic()


# -- Who else answers ------------------------------------------------------------------


@fault("STREAM.INFO answered as of before some events, for 0.3 to 1 s, an answer lost")
def info_lags(stage: Stage) -> float | None:
    """Answer as an old leader does that does not know yet that it is none."""
    world, rng = stage.world, stage.rng
    try:
        with world.wire() as wire:
            state = wire.info(STREAM)["state"]
    except Silence:
        return None
    if not stage.history.wait_acknowledged(rng.randint(2, 10), 10):
        return None
    ends_at = time.monotonic() + rng.uniform(0.3, 1.0)
    world.proxy.order("lag", state=state)
    try:
        kind = rng.choice(list(_HOPS))
        world.proxy.strike(
            kind, "in_answer", "cut", 0, rng.random(), patience_seconds=0.3
        )
        time.sleep(max(0.0, ends_at - time.monotonic()))
    finally:
        world.proxy.order("lag", state=None)
    return time.monotonic()


@fault("odd and forged answers among those of NATS, for 0.5 to 3 s")
def nats_odd_reply(stage: Stage) -> float:
    """Send what another user of NATS can, or a responder that has a bug."""
    proxy, rng = stage.world.proxy, stage.rng
    proxy.order("odd", share=rng.choice([0.05, 0.2, 0.6]))
    time.sleep(rng.uniform(0.5, 3.0))
    proxy.order("odd", share=0)
    return time.monotonic()


@fault("a leaf node answers on our subjects, with a stream of a domain of its own")
def leaf_answers(stage: Stage) -> float | None:
    world = stage.world
    if not world.start_leaf():
        return None
    try:
        stage.history.wait_for(_more(stage, stage.rng.randint(1, 40)), 5)
    finally:
        world.leaf.kill()
    return time.monotonic()


def _more(stage: Stage, count: int) -> Callable[[], bool]:
    attempts = stage.history.attempts
    goal = len(attempts) + count
    return lambda: len(attempts) >= goal


# -- Mirrors -------------------------------------------------------------------------

_MIRRORS: Final[dict[str, dict[str, Any]]] = {
    "plain": {},
    "holds less": {"max_msgs": 50, "discard": "old"},
    "holds one category": {"filter_subject": f"{STREAM}.base"},
    "lags": {"discard": "new"},
}


def _beside_a_mirror(stage: Stage, make: Callable[[Wire], None]) -> float | None:
    """Let a mirror meet live events, from which on it answers, and some time more."""
    try:
        with stage.world.wire() as wire:
            make(wire)
        stage.history.wait_acknowledged(stage.rng.randint(5, 20), 5)
        time.sleep(stage.rng.uniform(0.5, 4.0))
    except Silence:
        return None
    finally:
        stage.world.remove_mirror()
    return time.monotonic()


@fault("a mirror answers direct gets: whole, with less, or behind", _CLUSTER)
def mirror_answers(stage: Stage) -> float | None:
    kind = stage.rng.choice(list(_MIRRORS))
    config = dict(_MIRRORS[kind])

    def make(wire: Wire) -> None:
        if kind == "lags":  # it takes some more, and then it is full
            messages = wire.info(STREAM)["state"]["messages"]
            config["max_msgs"] = messages + stage.rng.randint(3, 40)
        wire.mirror(MIRROR, STREAM, **config)

    return _beside_a_mirror(stage, make)


@fault("a restored mirror of an older stream answers direct gets", _CLUSTER)
def older_mirror_answers(stage: Stage) -> float | None:
    def make(wire: Wire) -> None:
        last = wire.info(STREAM)["state"]["last_seq"]
        wire.restore_older(MIRROR, STREAM, stage.world.first_offset, last)

    return _beside_a_mirror(stage, make)


# -- Room ------------------------------------------------------------------------------


def _wait_failure(stage: Stage, seconds: float) -> bool:
    """Wait until a producer was told of a failure."""
    attempts = stage.history.attempts
    begin = len(attempts)

    def failed() -> bool:
        return any(
            each.told in (Told.NOT_STORED, Told.UNKNOWN) for each in attempts[begin:]
        )

    return stage.history.wait_for(failed, seconds)


@fault("stream full (max_msgs or max_bytes), and room made again")
def stream_full(stage: Stage) -> float | None:
    version = stage.world.options.server_version
    if stage.world.is_cluster and version.startswith(("2.11.", "2.12.")):
        return None  # they lose events of it (nats-server #7608): the stream is unfit
    try:
        with stage.world.wire() as wire:
            state = wire.info(STREAM)["state"]
            # Above what is stored, for lowering a limit below it would remove events.
            limits = [
                {"max_msgs": state["messages"] + stage.rng.randint(60, 100)},
                {"max_bytes": state["bytes"] + stage.rng.randint(60_000, 100_000)},
            ]
            wire.update(STREAM, **stage.rng.choice(limits))
    except Silence:
        return None
    try:
        _wait_failure(stage, 6)
    finally:
        _make_room(stage)
    return time.monotonic()


def _make_room(stage: Stage) -> None:
    ends_at = time.monotonic() + 30
    while True:
        try:
            with stage.world.wire() as wire:
                wire.update(STREAM, max_msgs=-1, max_bytes=-1)
        except Silence:
            if time.monotonic() > ends_at:
                raise
        else:
            return


@fault("disk full, room made, nats-server restarted", _ALONE)
def disk_full(stage: Stage) -> float | None:
    world = stage.world
    if world.disk is None:
        return None
    filler = world.disk / "filler"
    try:
        _fill(filler, stage.rng.randint(0, 100_000))
        _wait_failure(stage, 8)
    finally:
        filler.unlink()
    # It may have switched JetStream off; an operator restarts it.
    world.nodes[0].terminate()
    world.restart(world.nodes[0])
    return time.monotonic()


def _fill(filler: Path, left_bytes: int) -> None:
    with filler.open("wb") as file:
        while True:
            free = os.statvfs(filler.parent)
            room = free.f_bavail * free.f_frsize - left_bytes
            try:
                os.posix_fallocate(file.fileno(), 0, max(room, 1))
            except OSError:  # the stream grew in between
                left_bytes += 100_000
            else:
                return


# -- The cluster -----------------------------------------------------------------------


@fault("kill -9 of the stream's leader, and its restart", _CLUSTER)
def leader_kill(stage: Stage) -> float:
    node = stage.world.leader()
    node.kill()
    _pause(stage.rng)
    stage.world.restart(node)
    return time.monotonic()


@fault("the stream's leader frozen for 0.2 to 30 s", _CLUSTER)
def leader_freeze(stage: Stage) -> float:
    return _freeze(stage.world.leader(), freeze_seconds(stage.rng))


@fault("the stream's leader told to step down", _CLUSTER)
def leader_stepdown(stage: Stage) -> float | None:
    try:
        with stage.world.wire() as wire:
            wire.api(f"STREAM.LEADER.STEPDOWN.{STREAM}")
    except Silence:
        return None
    return time.monotonic()


@fault("one follower down by kill -9, events go on, and it comes back", _CLUSTER)
def minority_down(stage: Stage) -> float:
    world = stage.world
    leader = world.leader()
    node = stage.rng.choice([each for each in world.nodes if each is not leader])
    node.kill()
    stage.history.wait_acknowledged(stage.rng.randint(1, 30), 10)
    world.restart(node)
    return time.monotonic()


def long_freeze_seconds(rng: random.Random, most: float) -> float:
    """Up to a minute, where a run is long enough for it."""
    low, high = rng.choices([(0.2, 1.0), (5.0, 15.0), (60.0, 60.0)], [60, 34, 6])[0]
    return min(rng.uniform(low, high), most)


@fault("a follower frozen for 0.2 to 60 s, events and scans go on", _CLUSTER)
def follower_freeze(stage: Stage) -> float:
    """Leave it in the queue group, where it goes on being asked for pages."""
    world = stage.world
    leader = world.leader()
    node = stage.rng.choice([each for each in world.nodes if each is not leader])
    most = world.options.seconds / 4
    return _freeze(node, long_freeze_seconds(stage.rng, most))


@fault("two of three nodes down by kill -9, and back", _CLUSTER)
def majority_down(stage: Stage) -> float:
    nodes = stage.rng.sample(stage.world.nodes, 2)
    for node in nodes:
        node.kill()
    time.sleep(stage.rng.uniform(0.0, 1.0))
    for node in nodes:
        node.start()
    for node in nodes:
        node.wait()
    return time.monotonic()


@fault("each node stopped and started in turn", _CLUSTER)
def rolling_restart(stage: Stage) -> float:
    for node in stage.rng.sample(stage.world.nodes, 3):
        node.terminate()
        stage.world.restart(node)
        ends_at = time.monotonic() + 15
        while not stage.world.has_live_replicas() and time.monotonic() < ends_at:
            time.sleep(0.05)
    return time.monotonic()


@fault(
    "one node cut off from the others, its packets lost or delivered afterwards",
    _CLUSTER,
)
def node_partitioned(stage: Stage) -> float:
    world, rng = stage.world, stage.rng
    node = world.leader() if rng.random() < 0.7 else rng.choice(world.nodes)
    world.proxy.order("isolate", node=node.name)
    low, high = rng.choices([(0.2, 1.0), (5.0, 12.0)], [65, 35])[0]
    time.sleep(rng.uniform(low, high))
    if rng.random() < 0.5:
        world.proxy.order("cut", kind="route")
    world.proxy.order("join")
    return time.monotonic()
