# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: T201 - a command prints
"""One run: faults while the producers send, then the comparison with the stream.

Long because a run is one object: what it starts, harms and compares shares its state.
"""

from __future__ import annotations

import logging
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from support.hermes import load_plugin, make_hermes_home, use_hermes_home

from sidecar.jetstream.embedded_server import find_nats_server

from .checker import OPEN, Told, Verdict, check, check_reader, check_targets
from .damage import Damage, compare
from .evidence import keep
from .hermes_server import HermesServer
from .history import History
from .nemesis import FAULTS, Stage
from .offsets import check_a_stream_made_anew
from .options import Options, parse
from .reader import Reader
from .report import code, merge
from .scanner import Scanner
from .scans import check_scans, summary_of
from .servers import nats_server
from .world import World, can_mount

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from .checker import Message
    from .damage import Replicas

_CODE = re.compile(r"\((\w+)\)$")
_SHOWN = 20
_STARTS = 3
_OTHERS = 10
_OTHERS_ON_CLUSTER = 3
_LAST_SCAN_SECONDS = 90.0
"""Beyond the 20 s that the plugin may ask for an end, and its pauses."""


@dataclass
class Window:
    """One fault, up to the next one: which attempts fell into it."""

    fault: str
    begin: int
    begin_opens: int
    end: int = 0
    end_opens: int = 0
    time: str = ""
    ready_seconds: float | None = None


@dataclass
class FaultCount:
    """What a run saw of one fault."""

    times: int = 0
    acknowledged: int = 0
    told: dict[str, int] = field(default_factory=dict)
    unknown_stored: int = 0
    unknown_absent: int = 0
    violations: int = 0
    ready_seconds: list[float] = field(default_factory=list)


@dataclass
class Result:
    """What a run leaves in the report."""

    command: str
    topology: str
    server_version: str
    seed: int
    publisher: str
    seconds: float
    acknowledged: int
    standing: int
    not_stored: int
    unknown_stored: int
    unknown_absent: int
    killed: int
    repeats: dict[str, int]
    readers: int
    read: int
    scans: int
    late: dict[str, int]
    faults: dict[str, FaultCount]
    violations: list[str]
    atomic: int = 0
    """Events that came in atomic batches."""
    code: str = field(default_factory=code)
    server_damage: list[Damage] = field(default_factory=list)


def run(options: Options, home: Path) -> Result:
    """Run and compare; `home` is a Hermes with our plugins, on the path already."""
    version = options.server_version
    binary = nats_server(version) if version else Path(find_nats_server())
    with ExitStack() as stack:
        rng, world = _start(options, binary, stack)
        return _Run(options, world, home, rng).result()


def _start(
    options: Options, binary: Path, stack: ExitStack
) -> tuple[random.Random, World]:
    """Start everything; again with other ports if somebody took one in between."""
    for left in reversed(range(_STARTS)):
        rng = random.Random(options.seed)  # noqa: S311 - to be repeatable
        with ExitStack() as attempt:
            directory = tempfile.TemporaryDirectory(prefix="chaos-")
            path = Path(attempt.enter_context(directory))
            try:
                world = attempt.enter_context(World(options, path, rng, binary))
            except (AssertionError, OSError):
                if not left:
                    raise
                continue
            stack.push(attempt.pop_all())
            return rng, world
    raise AssertionError


class _Run:
    def __init__(
        self, options: Options, world: World, home: Path, rng: random.Random
    ) -> None:
        self.options, self.world, self.rng = options, world, rng
        self.history = History()
        self.windows: list[Window] = []
        self.violations: list[str] = []
        self.began_at = time.monotonic()
        count = 2 if options.topology == "two-producers" else 1
        self.servers = [self._server(home, number) for number in range(count)]
        for server in self.servers[1:]:
            server.active.clear()
        self.readers = [self._reader(home, number) for number in range(options.readers)]
        self.scanners = [
            self._scanner(home, number) for number in range(options.scanners)
        ]

    def _server(self, home: Path, number: int) -> HermesServer:
        settings = {
            "url": self.world.url,
            "send_timeout": self.rng.choice([1, 1, 2]),
            "unknown_timeout": self.rng.choice([1, 1, 1, 2]),
        }
        make_plugin = partial(load_plugin, home, "messagebus_producers", settings)
        return HermesServer(
            number, make_plugin, self.options, self.history, self._another_rng()
        )

    def _reader(self, home: Path, number: int) -> Reader:
        plugin = self._consumer(home, self.rng.choice([2, 30, 100, 500]))
        return Reader(f"reader {number}", plugin, self._another_rng())

    def _scanner(self, home: Path, number: int) -> Scanner:
        plugin = self._consumer(home, self.rng.choice([100, 500, 500, 5_000]))
        return Scanner(f"scanner {number}", plugin, self._another_rng())

    def _consumer(self, home: Path, batch_size: int) -> Any:
        settings = {"url": self.world.url, "batch_size": batch_size}
        return load_plugin(home, "messagebus_consumers", settings)

    def _another_rng(self) -> random.Random:
        return random.Random(self.rng.random())  # noqa: S311 - to be repeatable

    def result(self) -> Result:
        threads: list[HermesServer | Reader | Scanner] = [
            *self.servers,
            *self.readers,
            *self.scanners,
        ]
        for thread in threads:
            thread.start()
        try:
            self._harm()
            self._finish()
            last = self.world.last_offset()
            self._finish_scanners(time.monotonic())
            self._finish_readers(last)
            copies = self.world.read()
            if self.options.topology == "single":
                self.violations += check_a_stream_made_anew(self.world)
        except Exception:
            self._keep_evidence({})
            raise
        finally:
            for thread in threads:
                thread.stopping.set()
        result = self._compare(compare(copies))
        if result.violations or result.server_damage:
            self._keep_evidence(copies)
        return result

    # -- Faults ------------------------------------------------------------------------

    def _harm(self) -> None:
        options = self.options
        for name in self._deck():
            burst = self.rng.randint(5, options.burst)
            if not self.history.wait_acknowledged(burst, options.patience_seconds):
                self.violations.append(f"no events went on before {name}")
                return
            if self._is_over():
                return
            self._strike(name)
            if self.violations:
                return

    def _deck(self) -> Iterator[str]:
        """Give each fault once, in an order of its own, again and again.

        Each time those that only this topology has, and some of the others.
        """
        faults, topology = self.options.faults, self.options.topology
        own = [name for name in faults if FAULTS[name].topologies == (topology,)]
        others = [name for name in faults if name not in own]
        most = _OTHERS_ON_CLUSTER if topology == "cluster" else _OTHERS
        while True:
            count = min(len(others), most) if own else len(others)
            deck = own + self.rng.sample(others, count)
            yield from self.rng.sample(deck, len(deck))

    def _is_over(self) -> bool:
        events = self.options.events
        return (
            time.monotonic() - self.began_at > self.options.seconds
            or (events > 0 and self.history.acknowledged >= events)
            or any(server.failure for server in self.servers)
        )

    def _strike(self, name: str) -> None:
        history = self.history
        window = Window(
            name,
            len(history.attempts),
            len(history.failed_opens),
            time=datetime.now(UTC).isoformat(timespec="milliseconds"),
        )
        over_at = FAULTS[name].act(Stage(self.world, history, self.rng, self.servers))
        if over_at is None:
            return
        if self.windows:
            self.windows[-1].end = window.begin
            self.windows[-1].end_opens = window.begin_opens
        self.windows.append(window)
        seconds = self.options.patience_seconds
        if not history.wait_for(lambda: history.acknowledged_at > over_at, seconds):
            self.violations.append(f"not ready {seconds} s after {name}")
            return
        window.ready_seconds = round(history.acknowledged_at - over_at, 3)

    # -- The end -----------------------------------------------------------------------

    def _finish(self) -> None:
        """Let the last event of each producer be stored, then every late copy out."""
        self.violations += self.world.deaths()
        self.world.heal()
        for server in self.servers:
            server.stopping.set()
        for server in self.servers:
            server.join(200)
            if server.is_alive():
                self.violations.append(f"{server.name} does not end")
            if server.failure:
                self.violations.append(server.failure)
        if not self.world.proxy.flush():
            self.violations.append("late copies are still on their way")
        if self.windows:
            self.windows[-1].end = len(self.history.attempts)
            self.windows[-1].end_opens = len(self.history.failed_opens)

    def _finish_readers(self, last: int) -> None:
        ends_at = time.monotonic() + 60
        for reader in self.readers:
            while reader.offset < last and time.monotonic() < ends_at:
                if not reader.is_alive():
                    break
                time.sleep(0.05)
            reader.stopping.set()
        for reader in self.readers:
            reader.join(60)
            if reader.violation:
                self.violations.append(reader.violation)

    def _finish_scanners(self, now: float) -> None:
        """Let each new client come to an end once more, since nothing hinders it."""
        ends_at = now + _LAST_SCAN_SECONDS
        for scanner in self.scanners:
            while scanner.is_alive() and not scanner.has_ended_since(now):
                if time.monotonic() > ends_at:
                    self.violations.append(f"{scanner.name} comes to no end")
                    break
                time.sleep(0.05)
            scanner.stopping.set()
        for scanner in self.scanners:
            scanner.join(60)
            if scanner.violation:
                self.violations.append(scanner.violation)

    def _check_scans(self, messages: Sequence[Message]) -> list[str]:
        scans = [scan for scanner in self.scanners for scan in scanner.scans]
        told = [moment for scanner in self.scanners for moment in scanner.told]
        told += [
            (attempt.at, attempt.offset)
            for attempt in self.history.attempts
            if attempt.told is Told.STORED and attempt.offset is not None
        ]
        return check_scans(scans, messages, told)

    def _compare(self, replicas: Replicas) -> Result:
        attempts, messages = self.history.attempts, replicas.messages
        forgotten = self.history.forgotten
        verdict = check(attempts, messages, forgotten)
        self.violations += verdict.violations + replicas.violations
        self.violations += check_targets(
            attempts,
            messages,
            verdict.open_stored | forgotten,
            {
                (server.source.objtype, pkey): value
                for server in self.servers
                for pkey, value in server.source.cache.items()
            },
        )
        for reader in self.readers:
            was_refused = bool(replicas.damages) and reader.was_refused
            self.violations += check_reader(
                reader.name, reader.seen, messages, was_refused=was_refused
            )
        self.violations += self._check_scans(messages)
        told = Counter(attempt.told for attempt in attempts)
        unknown_stored = [
            number
            for number in verdict.open_stored
            if attempts[number].told is Told.UNKNOWN
        ]
        return Result(
            command=self.options.command,
            topology=self.options.topology,
            server_version=self.options.server_version or "installed",
            seed=self.options.seed,
            publisher=self.options.publisher,
            seconds=round(time.monotonic() - self.began_at, 1),
            acknowledged=told[Told.STORED],
            standing=told[Told.STANDING],
            not_stored=told[Told.NOT_STORED],
            unknown_stored=len(unknown_stored),
            unknown_absent=told[Told.UNKNOWN] - len(unknown_stored),
            killed=told[Told.KILLED],
            repeats=dict(verdict.repeats),
            readers=len(self.readers),
            read=sum(len(reader.seen) for reader in self.readers),
            scans=sum(
                scan.is_whole for scanner in self.scanners for scan in scanner.scans
            ),
            late=dict(self.world.proxy.late_answers),
            faults=self._count_faults(verdict),
            violations=self.violations,
            atomic=sum(message.is_of_batch for message in messages),
            server_damage=[
                replace(each, fault=self._fault_before(each.first_offset))
                for each in replicas.damages
            ],
        )

    def _fault_before(self, offset: int) -> str:
        """Name the fault that was on when the stream ended before an offset."""
        sent = 0
        for number, attempt in enumerate(self.history.attempts, 1):
            if attempt.told is Told.STORED and (attempt.offset or 0) < offset:
                sent = number
        names = [each.fault for each in self.windows if each.begin <= sent]
        return names[-1] if names else "none"

    def _keep_evidence(self, copies: Mapping[str, Sequence[Message]]) -> None:
        report, seed = self.options.report, self.options.seed
        if report is None:
            return
        keep(
            report.with_name(f"{report.stem}-seed-{seed}"),
            self.history.attempts,
            copies,
            {
                "faults": map(asdict, self.windows),
                "failed-opens": self.history.failed_opens,
                "forgotten": sorted(self.history.forgotten),
                **{each.name.replace(" ", "-"): each.seen for each in self.readers},
                **{
                    each.name.replace(" ", "-"): map(summary_of, each.scans)
                    for each in self.scanners
                },
                "failures-of-readers": [
                    *(each.failures for each in self.readers),
                    *(each.failures for each in self.scanners),
                ],
            },
            sorted(self.world.directory.glob("*/*.log")),
        )

    def _count_faults(self, verdict: Verdict) -> dict[str, FaultCount]:
        counts: dict[str, FaultCount] = {}
        for window in self.windows:
            count = counts.setdefault(window.fault, FaultCount())
            count.times += 1
            if window.ready_seconds is not None:
                count.ready_seconds.append(window.ready_seconds)
            self._count_window(window, count, verdict)
        if self.violations and self.windows:
            counts[self.windows[-1].fault].violations += len(self.violations)
        return counts

    def _count_window(
        self, window: Window, count: FaultCount, verdict: Verdict
    ) -> None:
        told = Counter(count.told)
        for number in range(window.begin, window.end):
            attempt = self.history.attempts[number]
            count.acknowledged += attempt.told is Told.STORED
            if attempt.told in OPEN:
                is_stored = number in verdict.open_stored
                count.unknown_stored += is_stored
                count.unknown_absent += not is_stored
            if attempt.text:
                told[f"{attempt.told}: {_cause(attempt.text)}"] += 1
        for _, text in self.history.failed_opens[window.begin_opens : window.end_opens]:
            told[f"open: {_cause(text)}"] += 1
        count.told = dict(told)


def _cause(text: str) -> str:
    """Shorten a text of the plugin to its code, or to what stands behind the colon."""
    code = _CODE.search(text)
    return code[1] if code else text.partition(": ")[2] or text


def summary(result: Result) -> str:
    """Say in some lines what a run found."""
    counts = (
        f"{result.acknowledged} acknowledged, {result.standing} recognised, "
        f"{result.not_stored} not stored, {result.unknown_stored} unknown and stored, "
        f"{result.unknown_absent} unknown and absent, {result.killed} killed, "
        f"repeats {result.repeats}"
    )
    times = sum(count.times for count in result.faults.values())
    lines = [
        (
            f"{result.topology}, server {result.server_version}, seed {result.seed}, "
            f"{result.seconds} s: {counts}"
        ),
        (
            f"{times} faults of {len(result.faults)} kinds, late copies answered "
            f"{result.late}, {result.read} events read by {result.readers} readers, "
            f"{result.scans} whole scans of new clients, {result.atomic} events in "
            f"atomic batches"
        ),
    ]
    lines += [
        f"SERVER DAMAGE, seed {result.seed}, after {each.fault}: {each}"
        for each in result.server_damage
    ]
    if result.violations:
        shown = result.violations[:_SHOWN]
        lines += [f"VIOLATION, seed {result.seed}: {each}" for each in shown]
        lines += [f"{len(result.violations)} violations; repeat with", result.command]
    else:
        lines.append("no violation")
    return "\n".join(lines)


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """Run from the command line."""
    options = parse()
    signal.signal(signal.SIGTERM, _interrupt)
    reason = can_mount()
    if reason is not None and options.topology != "cluster":
        print(f"disk_full is not possible here: {reason}")
    with ExitStack() as stack:
        directory = Path(tempfile.mkdtemp(prefix="chaos-hermes-"))
        stack.callback(shutil.rmtree, directory)
        home = make_hermes_home(directory)
        use_hermes_home(home)
        logging.getLogger("hermes-test").addHandler(logging.NullHandler())
        try:
            result = run(options, home)
        except KeyboardInterrupt:
            print("interrupted; every process was ended")
            return 130
    print(summary(result))
    if options.report is not None:
        merge(options.report, asdict(result))
    return 1 if result.violations else 0


if __name__ == "__main__":
    sys.exit(main())
