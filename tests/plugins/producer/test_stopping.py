# SPDX-License-Identifier: Apache-2.0
"""hermes-server is told to stop in a long pass: the pass ends between two events."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import pytest
from support.fake_sidecar import Clock, FakeSidecar, L, stands, stored, unknown
from support.hermes import load_plugin, new_event
from support.producer_passes import hermes_fails

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FAMILY = "messagebus_producers"
GRACE_SECONDS = 10.0


@pytest.fixture
def heard() -> Iterator[list[int]]:
    """Take SIGTERM as Hermes does, and give what it heard."""
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
    yield heard
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def plugin(heard: list[int], plugin: Any) -> Any:
    """Open it once somebody listens for SIGTERM."""
    assert not heard
    plugin.open()
    return plugin


def an_event(number: int, category: str = "base") -> Any:
    return new_event(category, objpkey=number)


def stop(heard: list[int]) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    assert heard == [signal.SIGTERM]


def test_a_pass_that_goes_on_after_a_stop_ends_between_two_events(
    plugin: Any, fake: FakeSidecar, clock: Clock, heard: list[int]
) -> None:
    fake.then(*(stored(L + number) for number in (1, 2, 3)))
    plugin.send(an_event(1))
    stop(heard)
    plugin.send(an_event(2))  # it may end by itself soon
    clock.seconds += GRACE_SECONDS + 0.1
    began = clock.seconds
    with pytest.raises(Exception, match="Event not stored: hermes-server is stopping"):
        plugin.send(an_event(3))
    assert clock.seconds == began  # at once
    assert len(fake.posts) == 2


def test_an_initsync_goes_on(
    plugin: Any, fake: FakeSidecar, clock: Clock, heard: list[int]
) -> None:
    fake.then(stored(L + 1))
    stop(heard)
    clock.seconds += 60
    plugin.send(an_event(1, "initsync"))
    assert len(fake.posts) == 1


def test_what_is_known_of_a_doubt_is_not_thrown_away(
    plugin: Any, fake: FakeSidecar, clock: Clock, heard: list[int]
) -> None:
    fake.then(*[unknown()] * 30)
    with pytest.raises(Exception, match="not known"):
        plugin.send(an_event(1))
    stop(heard)
    clock.seconds += 60
    posts = len(fake.posts)
    fake.then(stored(L + 1))
    plugin.send(an_event(2))
    assert len(fake.posts) == posts + 1


def test_what_stands_and_hermes_may_know_does_not_hold_it_up(
    plugin: Any, fake: FakeSidecar, clock: Clock, heard: list[int]
) -> None:
    """An error of Hermes itself ended the pass before."""
    fake.then(stands(L), stored(L + 1), stands(L + 1), stored(L + 2))
    hermes_fails(plugin, an_event(1))
    plugin.open()
    plugin.send(an_event(2))
    stop(heard)
    clock.seconds += 60
    with pytest.raises(Exception, match="hermes-server is stopping"):
        plugin.send(an_event(3))
    assert len(fake.posts) == 2


def test_a_process_that_takes_no_signals_is_left_as_it_is(
    hermes_home: Path, fake: FakeSidecar
) -> None:
    before = [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)]
    plugin = load_plugin(hermes_home, FAMILY, {"url": fake.url})
    plugin.open()
    plugin.close()
    after = [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)]
    assert after == before
