# SPDX-License-Identifier: Apache-2.0
"""Scripted failures that the model must survive as real nats-servers do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from .scenarios import info
from .sides import STREAM, SUBJECT, Side, fences

if TYPE_CHECKING:
    from .scenarios import Scenario


# -- Processes -------------------------------------------------------------------------


def killed_and_started(side: Side) -> list[Any]:
    """Find what was acknowledged, known ids, and numbers that go on."""
    side.create()
    side.publish(key="k1", last=0)
    side.publish(key="k2", last=1)
    side.kill(0)
    side.start(0)
    side.connect(0)
    side.await_leader()
    return [
        info(side)["state"],
        side.publish(key="k2", last=1),
        side.publish(key="k3", last=2),
    ]


def frozen_and_thawed(side: Side) -> list[Any]:
    """Send to a frozen server, which stores it when it is thawed."""
    side.create()
    side.freeze(0)
    told = side.publish(key="k1", last=0)
    side.thaw(0)
    side.sleep(0.5)
    return [told, info(side)["state"], side.publish(key="k1", last=0)]


def closed_before_it_was_read(side: Side) -> list[Any]:
    """Close a connection whose bytes wait in the socket of a frozen server."""
    side.create()
    side.freeze(0)
    side.send(SUBJECT, b"{}", fences(key="k1", last=0))
    side.hang_up()
    side.sleep(0.2)
    side.thaw(0)
    side.sleep(0.3)
    side.connect(0)
    return [info(side)["state"]]


# -- Three replicas --------------------------------------------------------------------


def stepped_down(side: Side) -> list[Any]:
    """Find ids and numbers with the next leader; read from each replica."""
    side.create()
    side.publish(key="k1", last=0)
    stepping = side.step_down()
    after = [
        side.publish(key="k1", last=0),
        side.publish(key="k2", last=0),
        side.publish(key="k3", last=1),
        side.publish(key="k4", last=2),
    ]
    side.sleep(0.3)
    reads = [side.direct(seq=1, batch=9, max_bytes=1000) for _ in range(6)]
    return [
        stepping["success"],
        *after,
        info(side)["leads"],
        [each == reads[0] for each in reads],
    ]


def _index(name: str) -> int:
    return int(name[1:]) - 1


def without_majority(side: Side) -> list[Any]:
    """Ask a leader alone: it names itself, reads, and acknowledges nothing."""
    side.create()
    side.publish(key="k1", last=0)
    leader = side.await_leader()
    side.connect(_index(leader))
    others = [node for node in range(3) if node != _index(leader)]
    for node in others:
        side.kill(node)
    side.sleep(0.2)
    told = side.publish(key="k2", last=1)
    alone = [
        told,
        info(side)["leads"],
        side.api(f"STREAM.MSG.GET.{STREAM}", {"seq": 1}),
        side.api(f"STREAM.MSG.GET.{STREAM}", {"seq": 2}),
        info(side)["state"],
        side.publish(key="k2", last=1)[1] if side.version >= (2, 12) else "",
        side.publish(key="k3", last=1)[1] if side.version >= (2, 12) else "",
    ]
    for node in others:
        side.start(node)
    return alone


def frozen_leader(side: Side) -> list[Any]:
    """Send what waits in its socket and never commits, and send it again."""
    side.create()
    side.publish(key="k1", last=0)
    leader = side.await_leader()
    nodes = [node for node in range(3) if node != _index(leader)]
    side.connect(nodes[0])
    side.freeze(_index(leader))
    told = side.publish(key="k2", last=1)
    side.await_leader(other_than=leader)
    between = side.publish(key="k3", last=1)
    side.thaw(_index(leader))
    side.sleep(1)
    return [
        told,
        between,
        side.publish(key="k2", last=1)[1],
        side.publish(key="k4", last=2),
        info(side)["state"]["last_seq"],
    ]


ALONE: Final[tuple[Scenario, ...]] = (
    killed_and_started,
    frozen_and_thawed,
    closed_before_it_was_read,
)
REPLICATED: Final[tuple[Scenario, ...]] = (stepped_down,)
SLOW: Final[tuple[Scenario, ...]] = (frozen_leader, without_majority)
"""Whose real elections take seconds: for one version of three replicas."""
