# SPDX-License-Identifier: Apache-2.0
"""Three NATS nodes on hosts of their own: upgraded one by one under load, and killed.

The steps are those of docs/high-availability.md. The load comes from a real
hermes-server with HERMES_HOME, else from the real producer plugin in our stand-in.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
from contextlib import ExitStack, closing, contextmanager
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest
from chaos.servers import VERSIONS, nats_server
from support import stream
from support.campus import Campus
from support.hermes import load_plugin, new_event
from support.hermes_programs import HermesServer
from support.process import Process, wait_until
from support.sidecar import COMMAND, SidecarProcess, environment
from system.hosts import Host, Network
from system.secrets_made import NATS, ROOT, Secrets, make_secrets

if TYPE_CHECKING:
    from collections.abc import Iterator

NEW, OLD = VERSIONS[:2]
SEND_TIMEOUT_SECONDS = 30
"""Of the plugin, as it is shipped."""
USERS = range(1000, 1100)
CHANGE_SECONDS = 0.2
WELL = (200, "pass", "")
MISSING = (200, "warn", "Only 2 of 3 replicas are live.")


class Node(Process):
    """deploy/nats/three-nodes.conf on a host, run by one version after the other."""

    def __init__(
        self, host: Host, number: int, directory: Path, secrets: Secrets
    ) -> None:
        place = directory / f"nats-{number}"
        environ = secrets.server_environ(place / "store")
        super().__init__(
            [],
            directory / f"nats-{number}.log",
            environ | {"NATS_HOST": f'"{host.address}"'},
            cwd=secrets.directory,
        )
        self.host = host
        self.store = place / "store"
        self._options: list[str | Path] = ["--config", directory / "three-nodes.conf"]
        self._options += ["--name", f"nats-{number}"]

    def install(self, version: str) -> None:
        binary = nats_server(version)
        self.arguments = [*self.host.enter, binary, *self._options]

    @property
    def versions(self) -> list[str]:
        """Give the version of each start, from its banner."""
        lines = self.output().splitlines()
        return [line.split()[-1] for line in lines if " Version: " in line]


class Cluster:
    """Three nodes, each on a host, and a sidecar on a fourth."""

    def __init__(self, hosts: list[Host], directory: Path) -> None:
        self._here, *others = hosts
        addresses = [host.address for host in others]
        self._secrets = make_secrets(directory / "secrets", *addresses)
        shutil.copytree(NATS, directory, dirs_exist_ok=True)
        conf = directory / "three-nodes.conf"
        text = conf.read_text("utf-8")
        for number, address in enumerate(addresses):
            text = text.replace(f"nats-{number}.nats", address)
        conf.write_text(text, "utf-8")
        self._url = ",".join(f"tls://{address}:4222" for address in addresses)
        self.nodes = [
            Node(host, number, directory, self._secrets)
            for number, host in enumerate(others)
        ]
        login = self._login("both")
        self.sidecar = SidecarProcess(directory / "sidecar", http_port=8480, **login)
        self.sidecar.arguments = [*self._here.enter, *self.sidecar.arguments]

    def _login(self, role: str) -> dict[str, object]:
        return self._secrets.login(role, 0) | {"nats_url": self._url}

    @contextmanager
    def run(self, version: str) -> Iterator[Self]:
        with ExitStack() as stack:
            for node in self.nodes:
                node.install(version)
                node.start()
                stack.callback(node.stop)
            wait_until(self._provision, 60, "a stream", pause_seconds=0.5)
            stack.enter_context(self.sidecar)
            yield self

    def _provision(self) -> bool:
        settings = self._login("provision") | {"stream_replicas": 3}
        done = subprocess.run(
            [*self._here.enter, *COMMAND, "provision"],
            env=environment(**settings),
            capture_output=True,
            check=False,
        )
        return done.returncode == 0

    def replicas(self) -> tuple[int, str, str]:
        """Give the status of /health, and status and reason of its check `replicas`."""
        answer = self.sidecar.health()
        assert answer is not None
        checks = {each["name"]: each for each in answer.json()["checks"]}
        found = checks["replicas"]
        return answer.status_code, found["status"], found["reason"] or ""

    def wait_as_the_page_says(self) -> None:
        text = (ROOT / "docs" / "high-availability.md").read_text("utf-8")
        (command,) = re.findall(r"^    (sleep 5; until .*)", text, re.MULTILINE)
        shell = [*self._here.enter, "sh", "-c", command]
        subprocess.run(shell, check=True, timeout=60)

    def wait_replicas(self, expected: tuple[int, str, str]) -> None:
        wait_until(lambda: self.replicas() == expected, 60, f"{expected}")


class PluginLoad(threading.Thread):
    """Passes of the real producer plugin, one after the other."""

    def __init__(self, home: Path, sidecar: SidecarProcess, **settings: Any) -> None:
        super().__init__(daemon=True)
        settings = {"url": sidecar.url} | settings
        self._plugin = load_plugin(home, "messagebus_producers", settings)
        self._is_over = threading.Event()
        self.acknowledged: list[tuple[int, str]] = []
        """Offset and name of each event that the plugin took as stored."""
        self.failures: list[str] = []

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self.join()

    def run(self) -> None:
        numbers = itertools.count(1)
        while not self._is_over.is_set():
            try:
                with self._plugin:
                    for number in itertools.islice(numbers, len(USERS)):
                        self._send(number)
            except Exception as error:  # noqa: BLE001 - as hermes-server
                self.failures.append(str(error))

    def wait_more(self) -> None:
        """Wait until more events are stored."""
        count = len(self.acknowledged)
        wait_until(lambda: len(self.acknowledged) > count, 60, "more events")

    def _send(self, number: int) -> None:
        offset = self._plugin._send(new_event("base", "added", objpkey=number))
        self.acknowledged.append((offset, f"added Users {number}"))

    def assert_stored(self, rows: list[tuple[int, str]]) -> None:
        assert self.failures == []
        assert self.acknowledged == rows


class HermesLoad:
    """A real hermes-server, whose source changes all the time."""

    def __init__(self, home: Path, sidecar: SidecarProcess, directory: Path) -> None:
        self._stack = ExitStack()
        self._campus = directory / "campus.sqlite"
        python = Path(os.environ.get("HERMES_PYTHON") or sys.executable).absolute()
        self._server = HermesServer(
            home, python, directory / "hermes", self._campus, url=sidecar.url
        )
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._change, daemon=True)

    def __enter__(self) -> Self:
        with Campus(self._campus) as campus:
            campus.insert_users(USERS)
        self._server.start()
        self._server.wait_fetched()
        self._thread.start()
        return self

    def _change(self) -> None:
        statement = "UPDATE users SET last_name = ? WHERE id >= ?"
        with closing(sqlite3.connect(self._campus)) as database:
            for number in itertools.count():
                with database:
                    database.execute(statement, (f"Name {number}", USERS.start))
                if self._is_over.wait(CHANGE_SECONDS):
                    return

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()
        assert self._server.terminate() == 0

    def assert_stored(self, rows: list[tuple[int, str]]) -> None:
        """hermes-server goes on behind an event as soon as its `_send` has returned."""
        critical = [
            line
            for line in self._server.output().splitlines()
            if "CRITICAL" in line and "received, terminating" not in line
        ]
        assert critical == []
        assert self._server.sent_names() == [name for _, name in rows]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Network(tmp_path, 4) as hosts:
        directory = tmp_path / "cluster"
        directory.mkdir()
        yield Cluster(list(hosts), directory)


def stored(sidecar: SidecarProcess) -> list[tuple[int, str]]:
    """Give offset and name of each event; the offsets have no gap."""
    rows = stream.rows(sidecar)
    offsets = [row["offset"] for row in rows]
    assert offsets == list(range(offsets[0], offsets[0] + len(rows)))
    return [(row["offset"], stream.name(json.loads(row["data"]))) for row in rows]


def longest_pause(sidecar: SidecarProcess) -> float:
    """Give the seconds between two stored events at most.

    The next one is sent when the plugin has its acknowledgement.
    """
    rows = stream.rows(sidecar)
    times = [datetime.fromisoformat(row["timestamp"]) for row in rows]
    return max((after - before).total_seconds() for before, after in pairwise(times))


def test_each_node_is_upgraded_under_load(
    cluster: Cluster,
    hermes_home: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    load: HermesLoad | PluginLoad
    with cluster.run(OLD):
        if os.environ.get("HERMES_HOME"):
            load = HermesLoad(hermes_home, cluster.sidecar, tmp_path)
        else:
            load = PluginLoad(hermes_home, cluster.sidecar)
        cluster.wait_replicas(WELL)
        with load:
            for node in cluster.nodes:
                node.install(NEW)
                node.terminate()
                node.start()
                cluster.wait_as_the_page_says()
                assert cluster.replicas() == WELL
        assert [node.versions for node in cluster.nodes] == [[OLD, NEW]] * 3
        rows = stored(cluster.sidecar)
        seconds = longest_pause(cluster.sidecar)
    with capsys.disabled():
        sys.stdout.write(
            f"\n{OLD} -> {NEW}, {type(load).__name__}: {len(rows)} events, "
            f"no acknowledgement for {seconds:.1f} s at most\n"
        )
    load.assert_stored(rows)
    assert seconds < SEND_TIMEOUT_SECONDS


def test_a_dead_node_is_a_warning_and_a_dead_majority_stops_all_until_one_is_back(
    cluster: Cluster, hermes_home: Path
) -> None:
    """The first one comes back with an empty disk."""
    with cluster.run(NEW):
        one, two, three = cluster.nodes
        timeouts = {"send_timeout": 2, "unknown_timeout": 2}
        with PluginLoad(hermes_home, cluster.sidecar, **timeouts) as load:
            load.wait_more()
            one.kill()
            cluster.wait_replicas(MISSING)
            load.wait_more()
            shutil.rmtree(one.store)
            one.start()
            cluster.wait_replicas(WELL)
            two.kill()
            three.kill()
            wait_until(lambda: cluster.replicas()[0] == 503, what="no bus")
            wait_until(
                lambda: "No message bus" in "".join(load.failures[-1:]),
                60,
                "it gives up",
            )
            two.start()
            cluster.wait_replicas(MISSING)
            load.wait_more()
        rows = stored(cluster.sidecar)
    assert load.failures[0].startswith("It is not known whether the event was stored")
    assert set(load.acknowledged) <= set(rows)
    names = [name for _, name in rows]
    assert len(set(names)) == len(names)
