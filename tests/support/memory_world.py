# SPDX-License-Identifier: Apache-2.0
"""hermes-servers, clients and a person on a bus in memory, for one seed."""

from __future__ import annotations

import random
from functools import partial
from typing import TYPE_CHECKING, Any

from simulation.actors import Actors
from simulation.clients import ClientHabits, HermesClient
from simulation.clock import VirtualLoop
from simulation.hermes import Habits, HermesServer, Person
from simulation.history import History
from simulation.invariants import End, Facts, check
from simulation.source import Source

from .memory_bus import Consumer, MemoryBus, Producer

if TYPE_CHECKING:
    from collections.abc import Callable

    from simulation.actors import Actor
    from simulation.claims import Violation

FAULTY_SECONDS = 1500.0
QUIET_SECONDS = 700.0


class MemoryWorld:
    """All actors of one run."""

    def __init__(self, seed: int, broken: str = "") -> None:
        self.rng = random.Random(seed)  # noqa: S311 - a seed repeats it
        self.loop = VirtualLoop()
        self.actors = Actors(self.loop)
        self.lines: list[tuple[Any, ...]] = []
        self.history = History(self.loop.time)
        sleep = self.actors.sleep
        self.supervisor = MemoryBus(self.loop, sleep, self.rng, self.history, broken)
        self.source = Source(self.rng, self.loop.time)
        shared = (self.rng, self.record)
        self.servers = [
            HermesServer(
                name,
                partial(Producer, self.supervisor),
                *shared,
                self.source,
                sleep,
                self.history,
                habits=Habits(update_interval_seconds=self.rng.choice((5.0, 30.0))),
            )
            for name in ("server", "standby")
        ]
        self.clients = [
            HermesClient(
                name,
                partial(Consumer, self.supervisor),
                *shared,
                sleep,
                self.history,
                habits=ClientHabits(wants_first_initsync=wants_first),
                ask_initsync=self._ask_initsync,
            )
            for name, wants_first in (("ldap", False), ("mail", False), ("new", True))
        ]
        self._parts: list[HermesServer | HermesClient] = [*self.servers, *self.clients]
        self.person = Person("curl", self.supervisor.post, *shared, sleep, self.history)
        self._running: dict[str, Actor] = {}

    def record(self, who: str, text: str, *args: Any) -> None:
        self.lines.append((self.loop.time(), who, text, args))

    def told(self) -> str:
        return "\n".join(
            f"{time:10.3f} {who:8} {text % args}"
            for time, who, text, args in self.lines
        )

    def _ask_initsync(self) -> None:
        self.servers[0].wants_initsync = True

    def _start(self, actor: HermesServer | HermesClient) -> None:
        self._running[actor.name] = self.actors.spawn(actor.name, actor.run)

    def _nemesis(self, until: float) -> None:
        """Restart, kill, purge, and start a standby with an old copy of the cache."""
        rng, bus = self.rng, self.supervisor
        sleep = self.actors.sleep
        server, standby = self.servers
        sleep(20.0)
        self._ask_initsync()
        has_standby = rng.random() < 0.5
        copied = server.disk.copy()
        copies_at = rng.uniform(100, 400)
        while self.loop.time() < until:
            sleep(rng.expovariate(1 / 60.0))
            bus.fault_chance = rng.choice((0.0, 0.02, 0.3, 0.6))
            if has_standby and self.loop.time() > copies_at:
                has_standby = False
                standby.disk = copied
                self._start(standby)
            draw = rng.random()
            actor = rng.choice(self._parts)
            if actor.name not in self._running or actor.is_stopping:
                continue
            if draw < 0.2:
                self._wait_for_a_pass(actor)
                self.actors.kill(self._running[actor.name])
                sleep(rng.uniform(1, 60))
                self._start(actor)
            elif draw < 0.32:
                actor.is_stopping = True
                self._running[actor.name].when_done(partial(self._start, actor))
            elif draw < 0.35:
                self.source.schema += 1
            elif draw < 0.4:
                bus.purge(rng.randrange(20))
            elif draw < 0.45:
                self._ask_initsync()
            elif draw < 0.47:
                bus.make_anew()
        bus.fault_chance = 0.0

    def _wait_for_a_pass(self, actor: HermesServer | HermesClient) -> None:
        """Wait until a kill comes between two events, if it can."""
        ends_at = self.loop.time() + 200.0
        while isinstance(actor, HermesServer) and self.loop.time() < ends_at:
            if actor.is_ahead_of_disk or (
                actor.is_in_pass and self.rng.random() < 0.02
            ):
                return
            self.actors.sleep(0.1)

    def run(self) -> list[Violation]:
        """Live, come to rest, end, and be judged."""
        try:
            return self._run()
        finally:
            self._end()

    def _run(self) -> list[Violation]:
        sleep = self.actors.sleep
        self._start(self.servers[0])
        for client in self.clients:
            self._start(client)
        spawn: Callable[[str, Callable[[], None]], Any] = self.actors.spawn
        spawn("source", partial(self.source.live, sleep, FAULTY_SECONDS))
        spawn("person", partial(self.person.run, FAULTY_SECONDS))
        spawn("nemesis", partial(self._nemesis, FAULTY_SECONDS))
        self._run_until(FAULTY_SECONDS)
        for actor in self._parts:
            actor.is_calm = True
        for seconds in (100.0, 300.0):  # a restart forgets that it was asked
            self._run_until(FAULTY_SECONDS + seconds)
            self._ask_initsync()
        self._run_until(FAULTY_SECONDS + QUIET_SECONDS)
        for each in self.actors.all:
            if each.failure is not None:
                raise each.failure
        return check(
            self.history,
            Facts(self.supervisor.stored),
            End(
                self.source,
                {client.name: client.target for client in self.clients},
                [each.name for each in self.servers if each.name in self._running],
            ),
        )

    def _run_until(self, time: float) -> None:
        self.loop.call_at(time, self.loop.stop)
        self.loop.run_forever()

    def _end(self) -> None:
        for actor in self._running.values():
            self.actors.kill(actor)
        self.loop.call_later(0.1, self.loop.stop)
        self.loop.run_forever()
        self.loop.close()
