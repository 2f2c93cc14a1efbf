# SPDX-License-Identifier: Apache-2.0
"""What lives as long as the daemon, and what is known of it at any moment."""

from __future__ import annotations

import asyncio
import shutil
import socket
import time
from functools import partial
from typing import TYPE_CHECKING, Final

from sidecar.errors import Outcome
from sidecar.jetstream.service import Service
from sidecar.jetstream.supervisor import StreamSupervisor
from sidecar.model import health
from sidecar.model.clients import Clients
from sidecar.model.health import Facts, Reading, next_offset
from sidecar.model.initsync import max_age_seconds
from sidecar.model.last_offset import LastOffset
from sidecar.model.memory_budget import MemoryBudget
from sidecar.model.producers import Failures
from sidecar.model.sidecars import Sidecars, host_name
from sidecar.model.since import Since
from sidecar.model.stream import told_name
from sidecar.services import certificates
from sidecar.services.activity import Recent
from sidecar.services.batches import Batches
from sidecar.services.initsync_lookup import RetentionGuard
from sidecar.services.large_events import Apart
from sidecar.services.last_passes import LastPasses
from sidecar.services.publisher import Publisher
from sidecar.services.reader import Reader
from sidecar.services.survey import Survey
from sidecar.services.waiters import Waiters
from sidecar.settings import default_embedded_dir
from sidecar.telemetry.deduplication import Deduplication
from sidecar.telemetry.log import tell_repeats
from sidecar.telemetry.metrics import Disk, Metrics

if TYPE_CHECKING:
    from sidecar.errors import Cause
    from sidecar.jetstream.credentials import NatsServer
    from sidecar.model.health import Check
    from sidecar.settings import Settings

HOST: Final = host_name(socket.gethostname())
_REPEATS_SECONDS = 10.0
_CHECKS_SECONDS = 1.0
_CANCEL_AGAIN_SECONDS = 0.5


class Daemon:
    """The parts of the daemon; who serves requests takes what it needs from here."""

    def __init__(self, settings: Settings, server: NatsServer) -> None:
        self.settings = settings
        self.nats_urls = server.urls
        self.stopping = asyncio.Event()
        self.refusals = Deduplication()
        self._since = Since()
        self.socket_fault: str | None = None
        self.writes = settings.role != "consumer"
        self.reads = settings.role != "producer"
        plan, create = settings.plan, settings.stream_create or settings.embedded
        last_offset = LastOffset()  # what one of them learns holds for the other
        writing = StreamSupervisor(
            "writes", server, plan, create=create, last_offset=last_offset
        )
        # Apart from the publishes: a page of events must not delay an acknowledgement.
        reading = StreamSupervisor("reads", server, plan, last_offset=last_offset)
        reading.is_created_elsewhere = create and self.writes
        self.metrics = Metrics(
            self.facts, partial(certificates.ends, settings), self._embedded_disk
        )
        self.failures, self.clients = Failures(), Clients()
        self.publisher = Publisher(
            writing,
            self.metrics,
            self.failures,
            settings.publish_timeout_seconds,
        )
        # Apart, so that readers who stall leave room for events.
        self.bodies, self.pages = MemoryBudget(Outcome.NOT_STORED), MemoryBudget()
        self.apart = Apart()
        self.batches = Batches(
            self.publisher,
            writing.leader,
            self.apart,
            self.stopping,
            settings.publish_timeout_seconds,
        )
        self.supervisors = [writing] * self.writes + [reading] * self.reads
        self.reader = Reader(self.supervisors[-1], self.metrics)
        if self.reads:
            self.publisher.readers = reading.monitor
        self.waiters = Waiters(self.reader, self.supervisors[-1].monitor, self.stopping)
        self.supervisors[-1].service = service = Service(
            {"host": HOST, "role": settings.role, "stream": settings.stream},
            self._told_to_sidecars,
        )
        self.survey = Survey(
            service,
            Sidecars(service.id, HOST, settings.stream),
            lambda: self.facts().clients,
        )
        self.guard = RetentionGuard(self.supervisors[-1])
        self.recent = Recent(self.supervisors[-1].leader)
        self.last_passes = LastPasses(
            self.supervisors[-1].leader, self.reader, self.metrics
        )

    @property
    def supervisor(self) -> StreamSupervisor:
        """The one that this role has: the writing one where there are two."""
        return self.supervisors[0]

    async def run(self) -> None:
        """Keep the connections alive until cancelled."""
        parts = [supervisor.run() for supervisor in self.supervisors]
        parts += [self.guard.run(), self._tell_repeats(), self._watch_checks()]
        if self.reads:
            parts += [self.reader.run(), self.waiters.run()]
        tasks = {asyncio.create_task(part) for part in parts}
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()
        finally:
            await end(tasks)

    async def _tell_repeats(self) -> None:
        while True:
            await asyncio.sleep(_REPEATS_SECONDS)
            tell_repeats(now=time.monotonic())
            tell_repeats(self.refusals, time.monotonic())

    async def _watch_checks(self) -> None:
        """See when a check begins to fail, though nobody asks for it."""
        while True:
            self.failing_since(health.assess(self.facts()))
            await asyncio.sleep(_CHECKS_SECONDS)

    def failing_since(self, checks: list[Check]) -> dict[str, float]:
        """Say of each check that does not pass for how many seconds that is so."""
        now = time.monotonic()
        return {name: now - at for name, at in self._since.note(checks, now).items()}

    def refuse_caller(self, cause: Cause) -> None:
        """Remember that a listener let a request for the API not pass."""
        self.metrics.refused(cause.code)
        self.failures.record_refused_caller(cause, time.monotonic())

    def _embedded_disk(self) -> Disk | None:
        if not self.settings.embedded:
            return None
        directory = self.settings.embedded_dir or default_embedded_dir()
        try:
            usage = shutil.disk_usage(directory)
        except OSError:  # its server says what is wrong
            return None
        return Disk(usage.total, usage.free)

    def _told_to_sidecars(self) -> dict[str, object]:
        facts = self.facts()
        clients = [each.document() for each in facts.clients]
        return {"clients": clients, "next_offset": next_offset(facts)}

    def facts(self) -> Facts:
        """Say what is known at this moment."""
        publisher, now = self.publisher, time.monotonic()
        failure = self.failures.worst(now)
        monitor, verdict = self.supervisor.monitor, self.guard.verdict
        info = monitor.info
        initsync = verdict.initsync if verdict else None
        last = max(info.position.last, monitor.proven_last()) if info else None
        age_seconds = max_age_seconds(info.config) if info else 0
        fulls = [room.full for room in (self.pages, self.bodies) if room.full]
        full = max(fulls, default=None)  # the last one
        worst = next(
            (
                supervisor.monitor
                for supervisor in self.supervisors
                if supervisor.monitor.cause is not None
            ),
            monitor,
        )
        return Facts(
            stopping=self.stopping.is_set(),
            writes=self.writes,
            cause=worst.cause,
            faults=worst.faults,
            info=info,
            last_offset=last,
            round_trip_age=_age(worst.round_trip_at),
            acknowledgement_age=_age(publisher.acknowledged_at),
            doubt_age=_age(publisher.oldest_doubt_at),
            failure=failure,
            failure_age=_age(failure.since if failure else None),
            other_failure=self.failures.other(now),
            refused_caller=self.failures.refused_caller(now),
            full=full,
            full_age=_age(full.at if full else None),
            second_writer_age=_age(self.failures.second_writer_at),
            in_flight=publisher.in_flight,
            readers_waiting=self.reader.waiting + self.waiters.count,
            reads=self._reading() if self.reads else None,
            clients=self.clients.look(last, now),
            connections=sum(
                supervisor.connections_made for supervisor in self.supervisors
            ),
            is_initsync_known=verdict.is_known if verdict else None,
            socket_fault=self.socket_fault,
            initsync=initsync,
            initsync_stays=(
                initsync.stays_seconds(age_seconds, time.time()) if initsync else None
            ),
        )

    def _reading(self) -> Reading:
        copies = self.reader.copies
        return Reading(
            refused=self.reader.refused,
            damage=self.reader.damage,
            damaged_offset=self.reader.damaged_offset,
            damage_age=_age(self.reader.damaged_at),
            stranger=told_name(copies.stranger),
            stranger_age=_age(copies.stranger_at),
            late_age=_age(copies.late_at),
            coming_seconds=self.reader.coming_seconds(),
            late=copies.late,
            behind=copies.behind,
            strangers=copies.strangers,
        )


def _age(moment: float | None) -> float | None:
    return None if moment is None else time.monotonic() - moment


async def end(tasks: set[asyncio.Task[None]]) -> None:
    """Cancel tasks until they have ended.

    Once is not enough: wait_for() of Python 3.11, by which nats-py connects, loses a
    cancellation that comes as what it waits for is there (python/cpython#86296).
    """
    while tasks:
        for task in tasks:
            task.cancel()
        _, tasks = await asyncio.wait(tasks, timeout=_CANCEL_AGAIN_SECONDS)
