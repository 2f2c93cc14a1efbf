# SPDX-License-Identifier: Apache-2.0
"""A hermes-server that is killed in a pass, on a real sidecar: each event once."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from support.hermes import load_plugin
from support.producer_passes import FAMILY, a_pass, bodies, send, user
from support.sidecar import last_offset

if TYPE_CHECKING:
    from pathlib import Path

    from support.nats import NatsProcess
    from support.sidecar import SidecarProcess


class Killed:
    """Plugins of one process of hermes-server after the other."""

    def __init__(self, home: Path, sidecar: SidecarProcess) -> None:
        self._home, self._sidecar = home, sidecar

    def start(self) -> Any:
        return load_plugin(self._home, FAMILY, {"url": self._sidecar.url})

    def send_and_die(self, *events: Any) -> None:
        """Open a pass, send these, and be gone: nobody closes anything."""
        plugin = self.start()
        plugin.open()
        assert [send(plugin, event) for event in events] == [None] * len(events)
        plugin._http.close()  # the kernel would


@pytest.fixture
def killed(hermes_home: Path, sidecar: SidecarProcess) -> Killed:
    return Killed(hermes_home, sidecar)


@pytest.fixture
def last(sidecar: SidecarProcess) -> int:
    with sidecar.client() as http:
        return last_offset(http)


def removals(count: int, *, first: int = 0) -> list[Any]:
    return [user("removed", pkey=number) for number in range(first, count)]


def stored(nats: NatsProcess, last: int) -> Counter[bytes]:
    return Counter(bodies(nats, last))


def once_each(events: list[Any]) -> Counter[bytes]:
    return Counter(event.to_json().encode() for event in events)


def test_what_a_killed_one_had_sent_is_stored_once(
    killed: Killed, nats: NatsProcess, last: int
) -> None:
    events = [user("added", pkey=1), user("modified", pkey=2), *removals(9, first=3)]
    killed.send_and_die(*events[:5])
    assert a_pass(killed.start(), *events) is None
    assert stored(nats, last) == once_each(events)


def test_so_it_is_over_a_row_of_deaths(
    killed: Killed, nats: NatsProcess, last: int
) -> None:
    """Killed after 8, after 6 more, after none, and after 3 more."""
    events = removals(120, first=100)
    for sent in (8, 14, 14, 17):
        killed.send_and_die(*events[:sent])
    assert a_pass(killed.start(), *events) is None
    assert stored(nats, last) == once_each(events)


KIND = 4
"""Events of each kind in a change; Hermes saves its cache behind each."""


def change(process: int, *, is_back: bool) -> list[Any]:
    """Give what a pass there or back has; each process orders attributes otherwise."""
    names = ("login", "name") if process % 2 else ("name", "login")
    attributes = {name: f"new {name}" for name in names}
    ranges = range(20, 20 + KIND), range(30, 30 + KIND)
    added, removed = ranges if is_back else reversed(ranges)
    return [
        *(user("added", pkey=pkey, **attributes) for pkey in added),
        *(user("modified", pkey=pkey, value=is_back) for pkey in range(10, 10 + KIND)),
        *(user("removed", pkey=pkey) for pkey in removed),
    ]


@pytest.mark.parametrize("sent", range(1, 3 * KIND + 1))
def test_so_it_is_at_each_point_of_a_pass(
    killed: Killed, nats: NatsProcess, last: int, sent: int
) -> None:
    """Killed there, and again somewhere else, while values go there and back.

    On the way back the cache is saved in time, if what was sent ends a kind.
    """
    for is_back in (False, True):
        first = (sent - (not is_back)) // KIND * KIND
        again = first + (5 * sent + 3) % (3 * KIND + 1 - first)
        second = max(first, again // KIND * KIND)
        killed.send_and_die(*change(1, is_back=is_back)[:sent])
        killed.send_and_die(*change(2, is_back=is_back)[first:again])
        events = change(3, is_back=is_back)
        assert a_pass(killed.start(), *events[second:]) is None
        found = [json.loads(body) for body in bodies(nats, last)]
        assert found == [json.loads(event.to_json()) for event in events]
        last += len(events)
