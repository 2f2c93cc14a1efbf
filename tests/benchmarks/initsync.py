# SPDX-License-Identifier: Apache-2.0
"""Real hermes-servers send initsyncs in turn, each over another bus."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml
from support.hermes_programs import HermesProgram
from support.process import wait_until

from . import kafka
from .measure import turned
from .variants import create_stream, sidecar_process
from .world import nats_servers

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from support.nats import NatsProcess

    from .scale import Scale

NONE, SQLITE, KAFKA = "none", "Hermes' SQLite bus", "Hermes' Kafka bus"
OURS, IN_PROCESS = "ours, Unix socket", "nats-py in a thread"
MODES: Final = {"default sync": "", "sync always": ", sync always"}
REPLICAS = ", three nodes, sync always"
"""Behind the name of a bus: what of NATS it runs on."""

_HERE = Path(__file__).parent
_SECONDS = 900
_ATTRIBUTES = ("id", "login", "first_name", "last_name", "mail", "phone", "hired")


class Server(HermesProgram):
    """One hermes-server that fetches once and then waits for commands."""

    def __init__(self, home: Path, python: Path, directory: Path) -> None:
        super().__init__(home, python, directory, "server")
        self.marks = directory / "marks.txt"

    def configure_bench(self, campus: Path, bench: dict[str, Any]) -> None:
        bench = bench | {"marks": str(self.marks)}
        source = {"type": "sqlite", "settings": {"uri": str(campus)}}
        plugins = {
            "messagebus": {"bench": {"settings": bench}},
            "datasources": {"campus": source},
        }
        own = {"updateInterval": 86_400, "datamodel": _datamodel()}
        self.configure(plugins, {"hermes-server": own}, verbosity="warning")

    def initsync(self) -> float:
        """Order one and give its events per second."""
        before = self._marked()
        self.ask("initsync")
        wait_until(
            lambda: len(self._marked()) > len(before), _SECONDS, "initsync has ended"
        )
        events, seconds = self._marked()[-1].split()
        return int(events) / float(seconds)

    def _marked(self) -> list[str]:
        return self.marks.read_text("ascii").splitlines() if self.marks.exists() else []


def measure_initsync(
    home: Path, python: Path, directory: Path, scale: Scale
) -> dict[str, list[float]]:
    """Give the events per second of each initsync, by bus."""
    install_bench(home)
    campus = directory / "campus.sqlite"
    fill_campus(campus, scale.users)
    with ExitStack() as stack:
        buses = {
            NONE: {"kind": "none", "inner": {}},
            SQLITE: {
                "kind": "sqlite",
                "inner": {"uri": str(directory / "bus.sqlite"), "retention_in_days": 1},
            },
        }
        if brokers := stack.enter_context(kafka.brokers(directory / "kafka")):
            inner = {"servers": brokers, "topic": "hermes", "max_request_size": 2**20}
            buses[KAFKA] = {"kind": "kafka", "inner": inner}
        for behind in (*MODES.values(), REPLICAS):
            nats = stack.enter_context(_nats(directory / f"nats{behind}", behind))
            buses |= _on_nats(home, directory / f"on{behind}", nats, behind, stack)
        servers = {}
        for number, (bus, bench) in enumerate(buses.items()):
            server = Server(home, python, directory / f"hermes{number}")
            server.configure_bench(campus, bench)
            stack.callback(server.stop)
            server.start()
            servers[bus] = server
        for server in servers.values():
            server.wait_fetched(60)
        rates: dict[str, list[float]] = {bus: [] for bus in servers}
        for number in range(scale.initsyncs):
            for bus in turned(list(servers), number):
                rates[bus].append(servers[bus].initsync())
        return rates


def _nats(directory: Path, behind: str) -> AbstractContextManager[NatsProcess]:
    nodes = 3 if behind == REPLICAS else 1
    return nats_servers(directory, nodes, sync_always="always" in behind)


def _on_nats(
    home: Path, directory: Path, node: NatsProcess, behind: str, stack: ExitStack
) -> dict[str, dict[str, Any]]:
    """Give the settings of our clocking plugin for the two that use NATS."""
    replicas = 3 if behind == REPLICAS else 1
    create_stream(node, "thread", replicas)
    create_stream(node, "ours", replicas)
    sidecar = stack.enter_context(sidecar_process(directory, node, "ours"))
    in_process = {"url": node.url, "stream": "thread"}
    ours = plugin_settings(home, "messagebus_producers", sidecar.url)
    return {
        IN_PROCESS + behind: {"kind": "in_process", "inner": in_process},
        OURS + behind: {"kind": "nats_sidecar", "inner": ours},
    }


def plugin_settings(home: Path, family: str, url: str) -> dict[str, Any]:
    """Give the settings of our plugin with the defaults that its schema says."""
    name = "config-schema-plugin-nats_sidecar.yml"
    path = home / "plugins" / family / "nats_sidecar" / name
    schema = yaml.safe_load(path.read_text("utf-8"))
    defaults = {
        name: rule["default"] for name, rule in schema.items() if "default" in rule
    }
    return defaults | {"url": url}


def install_bench(home: Path) -> None:
    """Put our clocking plugin into a Hermes, with what it needs, once."""
    target = home / "plugins" / "messagebus_producers" / "bench"
    if target.exists():
        return
    shutil.copytree(_HERE / "plugin" / "bench", target)
    shutil.copy(_HERE / "inprocess.py", target)
    for library in filter(None, map(find_spec, ("nats", "kafka"))):
        package = Path(str(library.origin)).parent
        shutil.copytree(package, home / package.name)


def fill_campus(path: Path, users: int) -> None:
    """Make the database that a hermes-server reads."""
    rows = (
        (
            number,
            f"login{number}",
            f"Jeanne-{number}",
            f"Dupont-{number}",
            f"jeanne.dupont{number}@example.org",
            f"+33 3 {number:08}",
            "2024-09-01 08:00:00",
        )
        for number in range(1, users + 1)
    )
    database = sqlite3.connect(path)
    with database:
        database.execute(f"CREATE TABLE users ({', '.join(_ATTRIBUTES)})")
        database.executemany("INSERT INTO users VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
    database.close()


def _datamodel() -> dict[str, Any]:
    source = {
        "fetch": {
            "type": "fetch",
            "query": "SELECT {{ REMOTE_ATTRIBUTES | join(', ') }} FROM users",
        },
        "attrsmapping": {name: name for name in _ATTRIBUTES},
    }
    return {"Users": {"primarykeyattr": "id", "sources": {"campus": source}}}
