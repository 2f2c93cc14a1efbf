# SPDX-License-Identifier: Apache-2.0
"""All parts of one run, wired: Hermes, plugins, HTTP, sidecars, NATS, clients.

Long because it wires all of them, and nothing else does.
"""

from __future__ import annotations

import asyncio
import traceback
import uuid
from contextlib import suppress
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final
from unittest.mock import patch

from sidecar.errors import Problem
from sidecar.model import health
from sidecar.settings import Settings

from . import nemesis
from .actors import Actors
from .clients import ClientHabits, HermesClient
from .clock import VirtualLoop, process_of
from .hermes import Habits, HermesServer, Person
from .history import History, Outcome, Sample, Told
from .http_hop import HttpHop
from .nats_hop import VirtualNatsClient
from .onlooker import Onlooker
from .seams import CONSUMERS, PRODUCERS, plugin_module, plugin_settings
from .sidecar_process import SidecarProcess
from .source import Source
from .watched import WatchedCluster

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sidecar.model.initsync import Verdict

    from .actors import Actor
    from .disk import Disk
    from .scenario import Scenario

HEALTH_SECONDS: Final = 1.0
LOOKS_AT: Final = 8
"""Events of a page where reading is looked at: so that there are many pages."""

SETTLE_SECONDS: Final = 600.0
"""How long everybody has to come to rest once the faults are over."""

LOOK_SECONDS: Final = 0.2
"""How often is looked whether all has come to rest."""

_OLD_STREAM_CHANCE: Final = 0.25
"""Of worlds whose stream was made before it could allow atomic batches."""
_SETTINGS: Final[dict[int, Settings]] = {}


class World:
    """The parts of one run, and what happens to them."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.loop = VirtualLoop()
        self.loop.set_exception_handler(self._note_unhandled)
        self.unhandled: list[tuple[float, str]] = []
        self.lines: list[tuple[float, str, str, tuple[Any, ...]]] = []
        self.actors = Actors(self.loop)
        self.history = History(self.loop.time)
        self.cluster = WatchedCluster(
            self.history,
            self.loop,
            scenario.rng("nats"),
            self.record,
            version=scenario.version,
            nodes=scenario.nodes,
            wall=self.loop.wall,
        )
        if scenario.rng("atomic").random() < _OLD_STREAM_CHANCE:
            self.cluster.allows_atomic = False
        self.hop = HttpHop(self.loop, self.actors, scenario.rng("http"), self.record)
        self.sidecars = [
            SidecarProcess(
                self.loop, self.hop, self.record, f"sidecar-{n}", _settings(scenario)
            )
            for n in range(1, scenario.sidecars + 1)
        ]
        self.source = Source(
            scenario.rng("source"),
            self.loop.time,
            scenario.objects,
            max(1, scenario.blob_bytes),
        )
        self._keys = scenario.rng("keys")
        names = ["hermes-1", *(["hermes-2"] if scenario.standby else [])]
        self.servers = [self._server(name) for name in names]
        self.clients = [
            self._client(f"client-{n}") for n in range(1, scenario.clients + 1)
        ]
        self.running: dict[str, Actor] = {}
        self.faults_injected = 0
        self.is_over = False  # the faults are
        self.stays_down: list[str] = []
        self._undo: list[Callable[[], None]] = []

    def record(self, who: str, text: str, *arguments: Any) -> None:
        """Keep a line of the history; it is formatted only if somebody reads it."""
        self.lines.append((self.loop.time(), who, text, arguments))

    def _note_unhandled(self, _: Any, context: dict[str, Any]) -> None:
        """Note what nobody caught; what a dead process leaves behind is nobody's."""
        process = process_of(context)
        if process is not None and process.is_dead:
            return
        task = context.get("task")
        error = context.get("exception") or (task and task.done() and task.exception())
        frames = traceback.extract_tb(getattr(error, "__traceback__", None))
        where = f", {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
        text = f"{context['message']}: {error!r}{where}"
        self.unhandled.append((self.loop.time(), text))

    def nats_client(self, take: Callable[[str, bytes, bytes], None]) -> Any:
        """Make what takes the place of nats-py's client."""
        client = VirtualNatsClient(self.loop, self.cluster, take)
        for each in self.sidecars:
            if each.process is not None and each.process is client.process:
                each.clients.append(client)
        return client

    # -- The parts ---------------------------------------------------------------------

    def _server(self, name: str) -> HermesServer:
        rng = self.scenario.rng(name)
        sidecar = self.sidecars[0] if name == "hermes-1" else self.sidecars[-1]
        pauses = (0.3,) if self.scenario.is_busy else (0.3, 1.0, 5.0)
        return HermesServer(
            name,
            partial(self._producer, sidecar.url),
            rng,
            self.record,
            self.source,
            self.actors.sleep,
            self.history,
            habits=Habits(
                update_interval_seconds=rng.choice(pauses[:2]),
                retry_seconds=rng.choice(pauses),
                fetch_seconds=(0.0, 0.1),
                freeze_seconds=(1.0, 15.0),
                slow_chance=0.05,
            ),
        )

    def _client(self, name: str) -> HermesClient:
        rng = self.scenario.rng(name)
        return HermesClient(
            name,
            partial(self._consumer, self.sidecars[-1].url),
            rng,
            self.record,
            self.actors.sleep,
            self.history,
            habits=ClientHabits(
                timeout_seconds=rng.choice((0.2, 0.5)),
                pause_seconds=(0.5, 5.0),
                find_chance=0.5 if self.scenario.looks else 0.05,
                idle_seconds=rng.choice((1.0, 4.0)),
                no_bus_seconds=5.0,
            ),
            ask_initsync=self.ask_initsync,
        )

    def _producer(self, url: str) -> Any:
        module = plugin_module(PRODUCERS)
        name = uuid.UUID(int=self._keys.getrandbits(128), version=4)
        settings = plugin_settings(
            PRODUCERS,
            url=url,
            send_timeout=self.scenario.send_timeout,
            unknown_timeout=self.scenario.unknown_timeout,
        )
        with patch.object(module, "uuid", SimpleNamespace(uuid4=lambda: name)):
            plugin = module.NatsSidecarProducerPlugin(settings)
        return self._on_virtual_time(plugin)

    def _consumer(self, url: str) -> Any:
        module = plugin_module(CONSUMERS)
        more = {"batch_size": LOOKS_AT} if self.scenario.looks else {}
        settings = plugin_settings(CONSUMERS, url=url, **more)
        return self._on_virtual_time(module.NatsSidecarConsumerPlugin(settings))

    def _on_virtual_time(self, plugin: Any) -> Any:
        plugin._now = self.loop.time
        plugin._sleep = self.actors.sleep
        return plugin

    def ask_initsync(self) -> None:
        """Ask for an initsync, as an administrator does."""
        self.servers[0].wants_initsync = True

    # -- Processes of Hermes -----------------------------------------------------------

    def start(self, part: HermesServer | HermesClient) -> None:
        """Start a process, and again whenever it ends in order."""
        actor = self.actors.spawn(part.name, part.run)
        self.running[part.name] = actor
        actor.when_done(partial(self._ended, part, actor))

    def _ended(self, part: HermesServer | HermesClient, actor: Actor) -> None:
        if actor.failure is not None or self.is_over or part.name in self.stays_down:
            return
        if not actor.is_killed and self.running[part.name] is actor:
            self.loop.call_later(0.5, self._start_again, part, actor)

    def _start_again(self, part: HermesServer | HermesClient, actor: Actor) -> None:
        is_wanted = (
            self.running[part.name] is actor and part.name not in self.stays_down
        )
        if is_wanted and actor.is_done:
            self.start(part)

    def kill(
        self,
        part: HermesServer | HermesClient,
        delay_seconds: float = 0.0,
        is_due: Callable[[], bool] | None = None,
    ) -> Callable[[], None]:
        """Kill a process when it is due, or soon: a server in the middle of a pass.

        Gives what starts it again.
        """
        actor = self.running[part.name]
        if is_due is None:
            is_server = isinstance(part, HermesServer)
            is_due = partial(getattr, part, "is_in_pass", not is_server)
        self._kill_soon(actor, is_due, self.loop.time() + 1.5, delay_seconds)

        def start_again() -> None:
            self.actors.kill(actor)
            self.loop.call_soon(self._start_again, part, actor)

        return start_again

    def _kill_soon(
        self,
        actor: Actor,
        is_due: Callable[[], bool],
        until: float,
        delay_seconds: float,
    ) -> None:
        if not is_due() and self.loop.time() < until:
            again = partial(self._kill_soon, actor, is_due, until, delay_seconds)
            self.loop.call_later(0.002, again)
        else:
            self.loop.call_later(delay_seconds, self.actors.kill, actor)

    def restore_cache(self, server: HermesServer, disk: Disk) -> None:
        """Kill a server, and start it with files that were copied before."""
        actor = self.running[server.name]
        self.actors.kill(actor)
        if not actor.is_done:
            self.loop.call_later(0.01, self.restore_cache, server, disk)
            return
        self.record(server.name, "gets an older cache")
        server.restore(disk)
        self._start_again(server, actor)

    def take_over(self, disk: Disk, *, is_frozen: bool) -> Callable[[], None]:
        """Let a standby take the first server's place; give what ends that."""
        first = self.servers[0]
        if len(self.servers) == 1:
            self.servers.append(self._server("hermes-2"))
        standby = self.servers[1]
        self.stays_down = []
        if is_frozen:
            start_first = self.freeze(first)
        else:
            actor = self.running[first.name]
            self.actors.kill(actor)
            start_first = partial(self._start_again, first, actor)
        if standby.name in self.running:
            self.restore_cache(standby, disk)
        else:
            standby.disk = disk
            self.start(standby)

        def give_back() -> None:
            self.stays_down = [standby.name]
            standby.is_stopping = True
            self._when_done(standby, start_first)

        return give_back

    def _when_done(self, part: HermesServer, then: Callable[[], None]) -> None:
        if self.running[part.name].is_done:
            then()
        else:
            self.loop.call_later(0.05, self._when_done, part, then)

    def freeze(self, part: HermesServer | HermesClient) -> Callable[[], None]:
        """Freeze a process; give what thaws it."""
        actor = self.running[part.name]
        self.record(part.name, "frozen")
        self.actors.freeze(actor)
        return partial(self.actors.thaw, actor)

    # -- The run -----------------------------------------------------------------------

    async def live(self) -> None:
        """Let everything happen, then come to rest."""
        for sidecar in self.sidecars:
            sidecar.start()
        for server in self.servers:
            self.start(server)
        for client in self.clients:
            self.start(client)
        self.loop.call_later(1.0, self.ask_initsync)
        source_is_still = asyncio.Event()
        source = self.actors.spawn("source", self._change)
        source.when_done(source_is_still.set)
        if self.scenario.looks:
            self.actors.spawn("onlooker", self._look)
        if self.scenario.curl:
            self.actors.spawn("person", self._person)
        sampling = self.loop.create_task(self._sample_health())
        for fault in self.scenario.faults:
            self.loop.call_later(fault.at, nemesis.inject, self, fault)
        await asyncio.sleep(self.scenario.seconds)
        self._end_faults()
        await source_is_still.wait()
        await self._settle()
        await self._end_requests()
        sampling.cancel()
        await self._ask_verdicts()

    def undo_later(self, name: str, undo: Callable[[], None], seconds: float) -> None:
        """End a fault after a while, or when all faults end."""

        def once() -> None:
            if once in self._undo:
                self._undo.remove(once)
                self.record("nemesis", "%s ends", name)
                undo()

        self._undo.append(once)
        self.loop.call_later(seconds, once)

    def _end_faults(self) -> None:
        self.record("nemesis", "all faults end")
        for undo in list(self._undo):
            undo()
        self.cluster.heal()
        self.hop.heal()
        for sidecar in self.sidecars:
            sidecar.thaw()
            sidecar.start_again()
        for server in self.servers:
            server.is_calm = True
        for client in self.clients:
            client.is_calm = True
        if self.cluster.restored:
            # What operations.md says: an initsync, and each client begins anew.
            for client in self.clients:
                self.loop.call_later(0.1, self._begin_anew, client)
        for standby in self.servers[1:]:
            self.stays_down.append(standby.name)
            standby.is_stopping = True

    def _begin_anew(self, client: HermesClient) -> None:
        actor = self.running[client.name]
        if actor.is_done:
            client.reset()
            self.start(client)
        else:
            self.actors.kill(actor)
            self.loop.call_later(0.01, self._begin_anew, client)

    async def _settle(self) -> None:
        """Wait until a pass that began after the last change went through."""
        quiet_from = self.loop.time()
        ends_at = quiet_from + SETTLE_SECONDS
        rounds = 0
        while self.loop.time() < ends_at and not self._is_quiet(quiet_from):
            await asyncio.sleep(LOOK_SECONDS)
            if rounds % 100 == 0 and not all(
                client.disk.is_initialized for client in self.clients
            ):
                self.ask_initsync()  # a restart may have lost the one before
            rounds += 1
        self.is_over = True
        await self._stop(self.servers)
        for _ in range(150):
            if all(self._has_reached_the_end(client) for client in self.clients):
                break
            await asyncio.sleep(LOOK_SECONDS)
        await self._stop(self.clients)

    async def _end_requests(self) -> None:
        """Let a request that is still under way come to the end of its own time."""
        hold_seconds = _settings(self.scenario).publish_timeout_seconds
        for _ in range(int((hold_seconds + 1.0) / LOOK_SECONDS)):
            if not self.open_requests():
                break
            await asyncio.sleep(LOOK_SECONDS)

    async def _stop(self, parts: Sequence[HermesServer | HermesClient]) -> None:
        for part in parts:
            part.is_stopping = True
        for _ in range(300):
            if all(self.running[part.name].is_done for part in parts):
                break
            await asyncio.sleep(LOOK_SECONDS)

    def _has_reached_the_end(self, client: HermesClient) -> bool:
        for asking in reversed(self.history.askings):
            is_end = asking.outcome is Outcome.END and asking.category is None
            if asking.client == client.name and is_end:
                return asking.position > self.cluster.last
        return False

    def _is_quiet(self, quiet_from: float) -> bool:
        since = max(quiet_from, self.source.changed_at)
        passed = any(
            each.server == "hermes-1"
            and each.kind == "base"
            and each.went_through
            and each.began > since
            for each in reversed(self.history.passes[-20:])
        )
        return (
            passed
            and self.loop.time() > self.hop.all_has_arrived_at
            and all(self.running[name].is_done for name in self.stays_down)
            and not self.servers[0].wants_initsync
            and all(
                client.disk.is_initialized
                and client.disk.next_offset == self.cluster.last + 1
                for client in self.clients
            )
        )

    def _change(self) -> None:
        """Change the source so many times, in bursts, while faults last."""
        rng = self.scenario.rng("changes")
        mean_seconds = self.scenario.seconds / self.scenario.changes
        self.actors.sleep(1.5)
        for _ in range(self.scenario.changes):
            self.actors.sleep(mean_seconds * rng.choice((0.05, 0.05, 0.05, 4.0)))
            self.source.change()
        latest = self.scenario.seconds + 60.0  # where faults kept too much out
        self.source.widen()
        while self._has_too_few_events() and self.loop.time() < latest:
            self.actors.sleep(0.2 * rng.random())
            for _ in range(15):
                self.source.change()

    def _has_too_few_events(self) -> bool:
        return len(self.cluster.everything()) < self.scenario.events

    def _person(self) -> None:
        http = plugin_module(PRODUCERS, "sidecar_http").SidecarHttp(
            {"url": self.sidecars[-1].url}
        )

        def post(key: str, body: bytes) -> tuple[Told, int | None]:
            headers = {
                "Content-Type": "application/json",
                "Idempotency-Key": key,
                "If-Match": "*",
            }
            answer = http.store(body, headers, -1, 15.0)
            http.close()
            if answer.status in (200, 201):
                return Told.STORED, answer.document["offset"]
            known = answer.outcome == "not_stored"
            return (Told.NOT_STORED if known else Told.UNKNOWN), None

        Person(
            "person",
            post,
            self.scenario.rng("person"),
            self.record,
            self.actors.sleep,
            self.history,
        ).run(self.scenario.seconds, mean_pause_seconds=15.0)

    def _look(self) -> None:
        onlooker = Onlooker(
            self.hop.module(),
            self.sidecars[-1].path,
            self.scenario.rng("onlooker"),
            self.actors.sleep,
            self.history,
        )
        while not self.is_over:
            onlooker.look()

    async def _sample_health(self) -> None:
        while True:
            await asyncio.sleep(HEALTH_SECONDS)
            can_publish = self.cluster.can_store()
            for sidecar in self.sidecars:
                if sidecar.daemon is None or sidecar.is_frozen:
                    continue
                document = health.document(sidecar.daemon.facts())
                reasons = [
                    check["name"]
                    for check in document["checks"]
                    if check["status"] == "fail"
                ]
                if reasons == ["refusals"] and self._has_failed_standby():
                    continue  # it was stopped; whether for good only a person knows
                self.history.samples.append(
                    Sample(
                        sidecar.name,
                        self.loop.time(),
                        not reasons,
                        tuple(reasons),
                        can_publish,
                        _named(sidecar.daemon.guard.verdict),
                    )
                )

    async def _ask_verdicts(self) -> None:
        """Ask each sidecar for its verdict, as GET /v1/stream does."""
        for sidecar in self.sidecars:
            if sidecar.daemon is None or not self.cluster.can_store():
                continue
            with suppress(Problem):  # whoever gets no answer is told of by others
                info = await sidecar.daemon.supervisor.leader.stream_info()
                verdict = _named(await sidecar.daemon.guard.known(info))
                self.history.verdicts.append((sidecar.name, self.loop.time(), verdict))

    def _has_failed_standby(self) -> bool:
        last = {each.server: each.went_through for each in self.history.passes}
        return not all(last.get(name, True) for name in self.stays_down)

    def end_unseen(self) -> None:
        """Note the tasks that died unseen in processes that still run."""
        for sidecar in self.sidecars:
            if sidecar.process is not None:
                self.loop.tell_of_died(sidecar.process)

    def open_requests(self) -> list[str]:
        """Name what still waits for an outcome at the end."""
        return [
            f"{sidecar.name}: {sidecar.daemon.publisher.in_flight} publishes"
            for sidecar in self.sidecars
            if sidecar.daemon is not None and sidecar.daemon.publisher.in_flight
        ]

    def end(self) -> None:
        """End every process, so that nothing is left of the run."""
        for actor in self.actors.all:
            self.actors.kill(actor)
        for sidecar in self.sidecars:
            sidecar.kill()
        self.loop.run_until_complete(asyncio.sleep(0.0))
        self.loop.run_until_complete(asyncio.sleep(0.0))


def _named(verdict: Verdict | None) -> str:
    if verdict is None:
        return ""
    if verdict.initsync is None:
        return "none" if verdict.is_known else "unknown"
    return f"{verdict.initsync.start.offset}-{verdict.initsync.stop.offset}"


def _settings(scenario: Scenario) -> Settings:
    """Give a sidecar's settings; made once, since pydantic takes its time."""
    if scenario.nodes not in _SETTINGS:
        nodes = range(1, scenario.nodes + 1)
        _SETTINGS[scenario.nodes] = Settings(
            nats_url=",".join(f"nats://n{number}:4222" for number in nodes),
            unix_socket="/api.sock",
            stream_create=True,
            stream_replicas=scenario.nodes,
        )
    return _SETTINGS[scenario.nodes]
