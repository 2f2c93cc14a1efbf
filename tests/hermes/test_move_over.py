# SPDX-License-Identifier: Apache-2.0
"""A real Hermes moves from its SQLite bus to ours, and back: nothing lost or twice."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import pytest
from support.commands import run_command as run
from support.hermes_programs import HermesClient, HermesServer, copy_client
from support.sidecar import sidecar_on

if TYPE_CHECKING:
    from pathlib import Path

    from support.campus import Campus
    from support.nats import NatsProcess

SECOND = "usersgroups_null_too"
INITSYNC_EVENTS = 10


class Site:
    """One hermes-server and two hermes-clients, which move together."""

    def __init__(self, server: HermesServer, clients: list[HermesClient]) -> None:
        self.server, self.clients = server, clients

    @property
    def caches(self) -> list[Path]:
        return [client.directory / "cache" for client in self.clients]

    def start(self, plugin: str, **settings: Any) -> None:
        of_server = {"retention_in_days": 1} if plugin == "sqlite" else {}
        self.server.set_bus(plugin, **settings, **of_server)
        self.server.start()
        for client in self.clients:
            client.set_bus(plugin, **settings)
            client.start()

    def stop(self) -> None:
        for program in (self.server, *self.clients):
            assert program.terminate() == 0

    def wait_at(self, next_offset: int) -> None:
        for client in self.clients:
            client.wait_at(next_offset)


@pytest.fixture
def site(hermes_home: Path, hermes_python: Path, campus: Campus, tmp_path: Path) -> Any:
    copy_client(hermes_home, SECOND)
    server = HermesServer(hermes_home, hermes_python, tmp_path / "server", campus.path)
    clients = [
        HermesClient(hermes_home, hermes_python, tmp_path / name, name)
        for name in ("usersgroups_null", SECOND)
    ]
    yield Site(server, clients)
    for program in (server, *clients):
        program.stop()


def test_hermes_moves_from_sqlite_and_back(
    site: Site, campus: Campus, nats: NatsProcess, tmp_path: Path
) -> None:
    stream = f"hermes-{uuid.uuid4().hex[:8]}"
    settings = {"nats_url": nats.url, "stream": stream, "subject_prefix": stream}
    bus, back = tmp_path / "bus.sqlite", tmp_path / "back.sqlite"

    site.start("sqlite", uri=str(bus))
    site.server.wait_fetched()
    site.server.ask("initsync")
    site.wait_at(INITSYNC_EVENTS + 1)
    slow = site.clients[1]
    assert slow.terminate() == 0
    campus.insert("users", id=4, login="ldupont", first_name="Léa")
    site.clients[0].wait_at(INITSYNC_EVENTS + 2)
    assert site.server.terminate() == 0
    assert site.clients[0].terminate() == 0

    asked: list[str | Path] = [
        "move-over",
        "--from-sqlite",
        bus,
        "--client-cache",
        *site.caches,
    ]
    ran = run(*asked, "--yes", **settings)
    assert ran.returncode == 1
    assert f"{SECOND} is 1 behind" in ran.stderr
    slow.start()
    slow.wait_at(INITSYNC_EVENTS + 2)
    assert slow.terminate() == 0
    ran = run(*asked, "--yes", **settings)  # it was written just now
    assert (ran.returncode, ran.stderr) == (0, "")

    with sidecar_on(nats, tmp_path / "sidecar", stream) as sidecar:
        site.start("nats_sidecar", url=sidecar.url)
        campus.insert("users", id=5, login="pmartin", first_name="Pôl")
        site.wait_at(INITSYNC_EVENTS + 3)
        site.server.ask("initsync")  # for clients that come later
        site.wait_at(INITSYNC_EVENTS + 3 + INITSYNC_EVENTS + 2)
        site.stop()
        settings["unix_socket"] = str(sidecar.socket)
        ran = run(
            "move-over",
            "--to-sqlite",
            back,
            "--yes",
            "--client-cache",
            *site.caches,
            **settings,
        )
        assert (ran.returncode, ran.stderr) == (0, "")

    site.start("sqlite", uri=str(back))
    campus.insert("users", id=6, login="zdurand", first_name="Zoé")
    site.wait_at(INITSYNC_EVENTS + 4 + INITSYNC_EVENTS + 2)
    for client in site.clients:
        assert sorted(client.users()) == [1, 2, 3, 4, 5, 6]
        assert [client.calls("Users_added", key) for key in range(1, 7)] == [1] * 6
        assert "IndexError" not in client.output()
        assert "Unhandled exception" not in client.output()
