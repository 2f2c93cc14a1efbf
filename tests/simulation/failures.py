# SPDX-License-Identifier: Apache-2.0
"""Scripted failures that the model must survive as real nats-servers do."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from sidecar.jetstream.client import status

from .scenarios import info, info_fields
from .sides import STREAM, SUBJECT, Side, fences

if TYPE_CHECKING:
    from .scenarios import Scenario
    from .sides import Message


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


# -- Others on our subjects, and age ---------------------------------------------------


def denied(side: Side) -> list[Any]:
    """Publish without permission: an -ERR is all that comes, and the link stays."""
    side.create()
    side.connect_denied()
    side.send(SUBJECT, b"{}", fences(key="k1", last=0))
    state = info(side)["state"]
    for _ in range(30):  # answers of the API bring it
        if side.errors:
            break
        side.sleep(0.1)
        state = info(side)["state"]
    errors = [*side.errors, side.is_closed]
    side.connect(0)
    return [errors, state, side.publish(key="k1", last=0)]


def a_leaf_answers(side: Side) -> list[Any]:
    """Have a leaf node's stream on our subjects: it answers like one of ours."""
    side.have_leaf()
    alone = side.ask_all(1, key="k1", stream=STREAM, last=0)
    side.create()
    both = [
        side.ask_all(2, key="k1", stream=STREAM, last=0),
        side.ask_all(2, key="k1", stream=STREAM, last=0),
        side.ask_all(2),
    ]
    side.end_leaf()
    return [alone, *both, info(side)["state"]]


def a_mirror_answers(side: Side) -> list[Any]:
    """Have a mirror, which keeps what the stream loses; a 404 is nobody's by name."""
    side.create()
    for number in range(3):
        side.publish(b"e%d" % number, key=f"k{number}", last=number)
    side.have_mirror()
    both = [_each_told(side, seq=1, batch=2, max_bytes=10_000), _each_told(side, seq=2)]
    side.publish(b"e3", key="k3", last=3)
    side.sleep(0.5)
    follows = _each_told(side, seq=3, batch=9, max_bytes=10_000)
    side.api(f"STREAM.MSG.DELETE.{STREAM}", {"seq": 3})
    side.api(f"STREAM.PURGE.{STREAM}", {"seq": 2})
    side.sleep(0.5)
    keeps = [
        _each_told(side, seq=1, batch=9, max_bytes=10_000),
        _each_told(side, seq=3),
        _each_told(side, seq=9, batch=9, max_bytes=10_000),
    ]
    side.end_mirror()
    side.sleep(0.1)
    return [*both, follows, *keeps, _each_told(side, seq=1, batch=9, max_bytes=10_000)]


def _each_told(side: Side, **request: Any) -> list[Any]:
    """Ask so often that each who answers has, and give the answers that differ."""
    told = [side.direct(**request) for _ in range(40)]
    return sorted(each for at, each in enumerate(told) if each not in told[:at])


def aged(side: Side) -> list[Any]:
    """Let everything pass its age: numbers go on, also with the next leader."""
    side.create(max_age=200_000_000)
    side.publish(key="k1", stream=STREAM, last=0)
    side.publish(key="k2", stream=STREAM, last=1)
    side.let_age()
    states = [info(side)["state"]]
    if side.replicas > 1:
        side.step_down()
        side.let_age()  # the next leader has a timer of its own
        states.append(info(side)["state"])
    return [
        *states,
        side.api(f"STREAM.MSG.GET.{STREAM}", {"seq": 1, "next_by_subj": ">"}),
        _settled(side, seq=1, batch=9, max_bytes=1000),
        side.publish(key="k3", last=0),
        side.publish(key="k4", last=2),
    ]


def _settled(side: Side, **request: Any) -> Any:
    """Ask any replica until all say the same."""
    for _ in range(50):
        reads = [side.direct(**request) for _ in range(6)]
        if all(each == reads[0] for each in reads):
            return reads[0]
        side.sleep(0.1)
    raise AssertionError("the replicas do not agree")


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


def _connect_to_leader(side: Side) -> list[int]:
    """Store one message, and go to the leader; give the two others."""
    side.create()
    side.publish(key="k1", last=0)
    leader = _index(side.await_leader())
    side.connect(leader)
    return [node for node in range(3) if node != leader]


def without_majority(side: Side) -> list[Any]:
    """Ask a leader alone: it names itself, reads, and acknowledges nothing."""
    others = _connect_to_leader(side)
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


def frozen_replica(side: Side) -> list[Any]:
    """Ask for batches, of which a frozen replica answers its share when it is thawed.

    A new stream's followers are asked from their first tick on only.
    """
    side.create()
    side.publish(b"e1", key="k1", last=0)
    leader = _index(side.await_leader())
    node, frozen = [node for node in range(3) if node != leader]
    side.connect(node)
    is_asked = []
    for _ in range(30):
        side.freeze(frozen)
        asked = _ask_often(side)
        _gather(side, asked, _OFTEN, seconds=0.5)
        is_asked.append(_told(asked) < _OFTEN)
        if is_asked[-1]:
            break
        side.thaw(frozen)
        side.sleep(0.2)
    side.publish(b"e2", key="k2", last=1)
    side.await_follower(node)
    once_more = _ask_often(side)
    _gather(side, once_more, _OFTEN // 4)
    early = [_bodies(each) for each in once_more.values() if _is_whole(each)]
    side.thaw(frozen)
    _gather(side, asked | once_more, 2 * _OFTEN)
    told = [_bodies(each) for each in (asked | once_more).values()]
    return [
        is_asked[0],
        is_asked[-1],
        all(each == [b"e1", b"e2"] for each in early),
        all(each in ([b"e1"], [b"e1", b"e2"]) for each in told),
        _settled(side, seq=1, batch=9, max_bytes=1000),
    ]


_OFTEN = 40
"""So often that each of three is asked, but for one time in ten millions."""


def _ask_often(side: Side) -> dict[str, list[Message]]:
    subject, request = f"$JS.API.DIRECT.GET.{STREAM}", b'{"seq":1,"batch":9}'
    return {side.send(subject, request, b""): [] for _ in range(_OFTEN)}


def _gather(
    side: Side, asked: dict[str, list[Message]], count: int, seconds: float = 2.0
) -> None:
    """Take answers until so many are whole, or nothing comes for a while."""
    while _told(asked) < count and (got := side.receive(seconds)) is not None:
        asked.setdefault(got[0], []).append(got[1:])


def _told(asked: dict[str, list[Message]]) -> int:
    return sum(map(_is_whole, asked.values()))


def _is_whole(messages: list[Message]) -> bool:
    return bool(messages) and status(messages[-1][0]) is not None


def _bodies(messages: list[Message]) -> list[bytes]:
    return [body for _, body in messages if body]


def leaderless(side: Side) -> list[Any]:
    """Let a leader step down between two that are frozen: nobody follows it."""
    others = _connect_to_leader(side)
    for node in others:
        side.freeze(node)
    stepping = side.api(f"STREAM.LEADER.STEPDOWN.{STREAM}")
    document: dict[str, Any] = {}
    for _ in range(10):  # in the first 10 s of a server's life it says nothing
        document = document or side.info()
    told = [
        stepping["success"],
        info_fields(document)["state"],
        document["cluster"].get("leader"),
        len(document["cluster"]["replicas"]),
        side.api(f"STREAM.MSG.GET.{STREAM}", {"seq": 1}),
        side.publish(key="k2", last=1),
    ]
    for node in others:
        side.thaw(node)
    side.await_leader()
    return [*told, side.publish(key="k2", last=1), info(side)["state"]]


def publishing_while_it_steps_down(side: Side) -> list[Any]:
    """Send a chain around a step-down, and each again until it is stored once.

    Which of them the old leader takes is a matter of moments; what stands is not.
    """
    side.create()
    side.await_leader()
    step_down = f"STREAM.LEADER.STEPDOWN.{STREAM}"
    requests = [
        (SUBJECT, b"e%d" % number, fences(key=f"k{number}", last=number))
        for number in range(_CHAIN)
    ]
    middle = _CHAIN // 2
    requests.insert(middle, (f"$JS.API.{step_down}", b"", b""))
    told = side.ask_at_once(requests)
    told.pop(middle)
    side.await_leader()
    acknowledged = {
        number: json.loads(answer)["seq"]
        for number, answer in enumerate(told)
        if answer and "error" not in json.loads(answer)
    }
    stands = [_stored_at(side, number) for number in range(_CHAIN)]
    return [
        stands,
        all(stands[number] == at for number, at in acknowledged.items()),
        [_bodies(_settled(side, seq=1, batch=_CHAIN, max_bytes=10_000))],
        info(side)["state"],
    ]


_CHAIN = 20


def _stored_at(side: Side, number: int) -> int | None:
    """Repeat a message of the chain until its sequence is told."""
    for _ in range(30):
        _, body = side.publish(b"e%d" % number, key=f"k{number}", last=number)
        answer = json.loads(body) if body else {}
        if answer and "error" not in answer:
            return int(answer["seq"])
        side.sleep(0.1)
    return None


ALONE: Final[tuple[Scenario, ...]] = (
    killed_and_started,
    frozen_and_thawed,
    closed_before_it_was_read,
    denied,
    a_leaf_answers,
    a_mirror_answers,
    aged,
)
REPLICATED: Final[tuple[Scenario, ...]] = (
    stepped_down,
    publishing_while_it_steps_down,
    aged,
    frozen_replica,
    leaderless,
)
SLOW: Final[tuple[Scenario, ...]] = (frozen_leader, without_majority)
"""Whose real elections take seconds."""
