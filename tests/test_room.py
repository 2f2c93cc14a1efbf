# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from sidecar import errors
from sidecar.errors import Outcome, Problem
from sidecar.room import MAX_BYTES, Room


def test_bodies_are_held_until_their_requests_end() -> None:
    room = Room()
    with room.body() as one, room.body() as other:
        one.add(b"abc")
        other.add(b"de")
        one.add(b"f")
        assert bytes(one.data) == b"abcf"
        assert room.bytes == 6
    assert room.bytes == 0


def test_what_is_too_much_together_is_refused_and_makes_room_again() -> None:
    room = Room()
    with room.body() as one:
        one.add(bytes(MAX_BYTES // 2))
        with room.body() as other, pytest.raises(Problem) as raised:
            other.add(bytes(MAX_BYTES // 2 + 1))
        assert raised.value.cause is errors.BUSY
        assert raised.value.outcome is Outcome.NOT_STORED
        assert room.bytes == MAX_BYTES // 2
        with room.body() as third:
            third.add(b"x")
    assert room.bytes == 0


def test_a_body_alone_may_be_as_large_as_it_likes() -> None:
    room = Room()
    with room.body() as one:
        one.add(bytes(MAX_BYTES))
        one.add(b"x")
