# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from sidecar import errors
from sidecar.errors import Outcome, Problem
from sidecar.room import MAX_BYTES, Room


def test_bytes_are_held_until_their_requests_end() -> None:
    room = Room()
    with room.hold() as one:
        with room.hold() as other:
            one.add(3)
            other.add(2)
            one.add(1)
            assert room.bytes == 6
        assert room.bytes == 4
    assert room.bytes == 0


def test_what_is_too_much_together_is_refused_and_makes_room_again() -> None:
    room = Room(Outcome.NOT_STORED)
    with room.hold() as one:
        one.add(MAX_BYTES // 2)
        with room.hold() as other:
            other.add(MAX_BYTES // 2)
            with pytest.raises(Problem) as raised:
                other.add(1)
        assert raised.value.cause is errors.BUSY
        assert raised.value.outcome is Outcome.NOT_STORED
        assert room.bytes == MAX_BYTES // 2
        with room.hold() as third:
            third.add(1)
    assert room.bytes == 0


def test_what_is_alone_may_be_as_large_as_it_likes() -> None:
    room = Room()
    with room.hold() as one:
        one.add(MAX_BYTES)
        one.add(1)
