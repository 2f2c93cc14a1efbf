# SPDX-License-Identifier: Apache-2.0
"""Scripted atomic batches that the model must answer as real nats-servers do.

nats-server 2.11 knows none: it refuses nothing and stores each message alone, so a
stream of its own never says that it allows them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from .scenarios import info
from .sides import SUBJECT, Side, fences

if TYPE_CHECKING:
    from .scenarios import Scenario


def allowed(side: Side) -> list[Any]:
    """Send a batch, the next one, and one message alone after it."""
    side.create(allow_atomic=True, first_seq=10)
    return [
        side.batch(3, 9),
        side.batch(2, 12, name="c", key="l"),
        side.publish(key="m", last=14),
        side.direct(seq=10, batch=9),
        info(side),
    ]


def not_allowed(side: Side) -> list[Any]:
    side.create()
    return [side.batch(3, 0), info(side)["state"]]


def the_same_batch_again(side: Side) -> list[Any]:
    """With its own and with the true last, with other ids, and one id of it alone."""
    side.create(allow_atomic=True)
    return [
        side.batch(3, 0),
        side.batch(3, 0, name="c"),
        side.batch(3, 3, name="d"),
        side.batch(3, 0, name="e", key="other"),
        side.batch(3, 7, name="f", key="other"),
        side.publish(key="k2", last=3),
        side.batch(3, 3, name="g", key=None),
        info(side)["state"],
    ]


def a_batch_after_the_window(side: Side) -> list[Any]:
    side.create(allow_atomic=True, duplicate_window=100_000_000)
    first = side.batch(3, 0)
    side.sleep(0.5)
    return [first, side.batch(3, 0, name="c"), info(side)["state"]]


def incomplete(side: Side) -> list[Any]:
    """With a gap, without its beginning, without its end, with the fence inside."""
    side.create(allow_atomic=True)
    return [
        side.batch(3, 0, numbers=(1, 3)),
        side.batch(3, 0, name="c", numbers=(2, 3)),
        side.batch(9, 0, name="d", numbers=(1, 2), key="staged"),
        side.batch(3, 1, name="e", fenced=2),
        side.batch(3, 5, name="f", fenced=2),
        side.publish(key="staged1", last=0),
        side.batch(2, 1, name="g", key="whole"),
        info(side)["state"],
    ]


def too_many(side: Side) -> list[Any]:
    side.create(allow_atomic=True)
    return [side.batch(1001, 0), side.batch(1000, 0, name="c"), info(side)["state"]]


def too_many_at_once(side: Side) -> list[Any]:
    """Batches without an end, and one more."""
    side.create(allow_atomic=True)
    for number in range(50):
        block = fences(key=f"k{number}")[:-2]
        block += b"Nats-Batch-Id: b%d\r\nNats-Batch-Sequence: 1\r\n\r\n" % number
        side.send(SUBJECT, b"{}", block, replies=False)
    return [side.batch(2, 0, name="more"), side.publish(last=0), info(side)["state"]]


def without_room(side: Side) -> list[Any]:
    side.create(allow_atomic=True, max_msgs=4)
    told = [side.batch(3, 0), side.batch(3, 3, name="c", key="l")]
    return [*told, side.batch(1, 3, name="d", key="m"), info(side)["state"]]


def killed_with_a_batch(side: Side) -> list[Any]:
    """Find what was committed, and nothing that was only staged.

    Not where batches are unknown: messages on their way may be stored, or not.
    """
    if side.version < (2, 12):
        return []
    side.create(allow_atomic=True)
    side.batch(3, 0)
    side.batch(9, 3, name="c", numbers=(1, 2), key="staged")
    side.kill(0)
    side.start(0)
    side.connect(0)
    side.await_leader()
    return [
        info(side)["state"],
        side.batch(9, 3, name="c", numbers=(3, 9), key="staged"),
        side.batch(3, 3, name="d"),
        side.batch(3, 3, name="e", key="l"),
    ]


def frozen_with_a_batch(side: Side) -> list[Any]:
    """Send one to a frozen server, which stores it when it is thawed."""
    side.create(allow_atomic=True)
    side.freeze(0)
    told = side.batch(3, 0)
    side.thaw(0)
    side.sleep(0.5)
    return [told, info(side)["state"], side.batch(3, 0, name="c")]


def stepped_down_within_a_batch(side: Side) -> list[Any]:
    """Lose what a leader has staged."""
    side.create(allow_atomic=True)
    side.await_leader()
    side.batch(3, 0)
    side.batch(9, 3, name="c", numbers=(1, 2), key="staged")
    side.step_down()
    return [
        side.batch(3, 3, name="c", numbers=(3,), key="staged"),
        side.batch(3, 3, name="d"),
        side.batch(3, 3, name="e", key="l"),
        info(side)["state"],
    ]


EVERYWHERE: Final[tuple[Scenario, ...]] = (
    allowed,
    not_allowed,
    the_same_batch_again,
    a_batch_after_the_window,
    incomplete,
    too_many,
    too_many_at_once,
    without_room,
)
ALONE: Final[tuple[Scenario, ...]] = killed_with_a_batch, frozen_with_a_batch
REPLICATED: Final[tuple[Scenario, ...]] = (stepped_down_within_a_batch,)
