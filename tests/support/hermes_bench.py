# SPDX-License-Identifier: Apache-2.0
"""The models of one hermes-server and one client, and a bus that never fails."""

from __future__ import annotations

import random
from functools import partial
from typing import Any

from simulation.actors import Actors
from simulation.clients import ClientHabits, HermesClient
from simulation.clock import VirtualLoop
from simulation.hermes import Habits, HermesServer
from simulation.history import History
from simulation.source import Source

from .memory_bus import Consumer, MemoryBus, Producer


class Bench:
    """Its virtual time goes on in run_until() alone."""

    def __init__(self) -> None:
        self.rng = random.Random(1)  # noqa: S311 - no secret
        self.loop = VirtualLoop()
        self.actors = Actors(self.loop)
        self.history = History(self.loop.time)
        sleep = self.actors.sleep
        self.supervisor = MemoryBus(self.loop, sleep, self.rng, self.history)
        self.source = Source(self.rng, self.loop.time)
        self.source.objects = {("Users", 1): {"state": 1}, ("Users", 2): {"state": 2}}
        self.server = HermesServer(
            "server",
            partial(Producer, self.supervisor),
            self.rng,
            self.record,
            self.source,
            sleep,
            self.history,
            habits=Habits(freeze_chance=0.0, slow_chance=0.0),
        )
        self.client = HermesClient(
            "client",
            partial(Consumer, self.supervisor),
            self.rng,
            self.record,
            sleep,
            self.history,
            habits=ClientHabits(pause_chance=0.0, find_chance=0.0),
        )

    def record(self, who: str, text: str, *arguments: Any) -> None:
        assert who
        assert text % arguments

    def run_until(self, time: float) -> None:
        self.loop.call_at(time, self.loop.stop)
        self.loop.run_forever()

    def kinds(self) -> list[str]:
        return [send.kind for send in self.history.sends]

    def end(self) -> None:
        """End all that runs."""
        for actor in self.actors.all:
            self.actors.kill(actor)
        self.run_until(self.loop.time() + 1.0)
        self.loop.close()
