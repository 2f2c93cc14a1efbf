# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from sidecar.jetstream.backoff import Backoff


def test_pauses_grow_to_a_bound_and_begin_anew_after_a_success() -> None:
    backoff = Backoff(0.5, 3.0)
    assert [backoff.next_seconds() for _ in range(6)] == [0, 0.5, 1, 2, 3, 3]
    backoff.reset()
    assert [backoff.next_seconds() for _ in range(2)] == [0, 0.5]
