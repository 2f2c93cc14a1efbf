# SPDX-License-Identifier: Apache-2.0
"""Two hermes-clients on two sidecars: seen, behind, stranded and well again.

What is said of them is read everywhere: from the API, the page and the command of both
sidecars, from the health and the metrics of their own, and from the alerts.
"""

from __future__ import annotations

import itertools
import json
import re
import socket
import uuid
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from support import status_page, stream
from support.alerts import Scraped, assert_alerts
from support.commands import run_here
from support.hermes_programs import NULL_CLIENT, HermesClient, HermesServer, copy_client
from support.process import wait_until
from support.sidecar import SidecarProcess, sidecar_on

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.campus import Campus
    from support.nats import NatsProcess

HOST = socket.gethostname()
OTHER_CLIENT = "usersgroups_other"
INITSYNC_EVENTS = 10
NOT_THERE = "IndexError: Offset not in the stream"
ALERTS = (
    "HermesClientStranded",
    "HermesClientBehind",
    "HermesClientSilent",
    "HermesClientDelayed",
)


class Reader(NamedTuple):
    """A hermes-client and the sidecar beside it."""

    client: HermesClient
    sidecar: SidecarProcess

    @property
    def name(self) -> str:
        """Give what it is called by sidecars: Hermes' name of the application."""
        return f"hermes-{self.client.name}"


class Shown(NamedTuple):
    """What is said of a client."""

    name: str
    state: str
    behind: int | None


@pytest.fixture
def sidecar(nats: NatsProcess, tmp_path: Path) -> Iterator[SidecarProcess]:
    name = f"hermes-{uuid.uuid4().hex[:8]}"
    with sidecar_on(nats, tmp_path / "sidecar", name) as process:
        yield process


@pytest.fixture(scope="module")
def home(hermes_home: Path) -> Path:
    """Give a Hermes that has two clients which only log."""
    copy_client(hermes_home, OTHER_CLIENT)
    return hermes_home


@pytest.fixture
def readers(
    home: Path,
    hermes_python: Path,
    nats: NatsProcess,
    sidecar: SidecarProcess,
    tmp_path: Path,
) -> Iterator[list[Reader]]:
    """Give two clients that are not started yet; they are ended in any case."""
    name = str(sidecar.settings["stream"])
    with sidecar_on(nats, tmp_path / "other", name, role="consumer") as other:
        pairs = [
            Reader(
                HermesClient(
                    home,
                    hermes_python,
                    tmp_path / plugin,
                    plugin,
                    url=process.url,
                ),
                process,
            )
            for plugin, process in ((NULL_CLIENT, sidecar), (OTHER_CLIENT, other))
        ]
        try:
            yield pairs
        finally:
            for reader in pairs:
                reader.client.stop()


def test_two_clients_are_seen_lag_are_stranded_and_recover(
    server: HermesServer, readers: list[Reader], campus: Campus, tmp_path: Path
) -> None:
    (_, sidecar), _ = readers
    server.ask("initsync")
    stream.wait_stored(sidecar, INITSYNC_EVENTS)
    for reader in readers:
        reader.client.start()
    well = follow(readers)

    for reader in readers:
        reader.client.freeze()
    campus.insert_users(range(100, 105))
    stream.wait_stored(sidecar, INITSYNC_EVENTS + 5)
    behind = look(readers, "reading", 5)
    for reader in readers:
        assert_health(reader, "pass")
        reader.client.thaw()
    caught_up = follow(readers)

    for reader in readers:
        assert reader.client.terminate() == 0
    campus.insert_users(range(200, 203))
    stream.wait_stored(sidecar, INITSYNC_EVENTS + 8)
    stream.age_out(sidecar)
    campus.rename_user(1, "After the retention")
    stream.wait_stored(sidecar, 1)
    for reader in readers:
        reader.client.start()
    for reader in readers:
        reader.client.wait_logged(NOT_THERE, times=2)
    stranded = look(readers, "stranded", None)
    for reader in readers:
        assert_health(reader, "warn")

    for reader in readers:  # what docs/operations.md says
        assert reader.client.terminate() == 0
        reader.client.forget()
    server.ask("initsync")
    stream.wait_stored(sidecar, 1 + INITSYNC_EVENTS + 8)
    for reader in readers:
        reader.client.start()
    recovered = follow(readers)

    for reader in readers:
        assert_health(reader, "pass")
        told = [r for r in reader.sidecar.rows() if r["event"] == "client_stranded"]
        assert [row["client"] for row in told] == [reader.name]  # once
    by_client = [
        {"client": reader.name, "instance": instance(reader), "job": "hermes"}
        for reader in readers
    ]
    by_sidecar = [{"instance": instance(reader), "job": "hermes"} for reader in readers]
    nothing: dict[str, list[dict[str, str]]] = {name: [] for name in ALERTS}
    assert_alerts(
        tmp_path,
        Scraped(well, nothing),
        Scraped(behind, nothing | {"HermesClientBehind": by_client}),
        Scraped(caught_up, nothing),
        Scraped(stranded, nothing | {"HermesClientStranded": by_sidecar}),
        Scraped(recovered, nothing),
    )


def test_how_long_a_change_takes_to_a_client_is_measured(
    server: HermesServer, readers: list[Reader], campus: Campus
) -> None:
    server.ask("initsync")
    stream.wait_stored(readers[0].sidecar, INITSYNC_EVENTS)
    for reader in readers:
        reader.client.start()
    follow(readers)
    names = map("Followed {}".format, itertools.count())

    def are_measured() -> bool:
        campus.rename_user(1, next(names))  # while they wait, sooner or later
        return all(
            f'count{{client="{each.name}"}}' in metrics(each) for each in readers
        )

    wait_until(are_measured, what="each has waited for an event", pause_seconds=0.2)


def follow(readers: list[Reader]) -> dict[str, str]:
    """Wait until each has read all and waits for more; give the metrics."""
    for reader in readers:
        reader.client.wait_at(stream.position(reader.sidecar)["next_offset"])
    return look(readers, "waiting", 0)


def look(readers: list[Reader], state: str, behind: int | None) -> dict[str, str]:
    """Wait until each is seen like this, everywhere; give the metrics of each sidecar.

    Nothing changes by itself, so what the API of both sidecars says is said by all.
    """
    wanted = [Shown(reader.name, state, behind) for reader in readers]
    for reader in readers:
        wait_until(partial(is_seen, reader.sidecar, wanted), what=f"{wanted} are seen")
    scraped = {}
    for reader in readers:
        assert by_table(reader.sidecar) == wanted
        assert by_json(reader.sidecar) == wanted
        assert by_page(reader.sidecar) == wanted
        text = scraped[instance(reader)] = metrics(reader)
        assert by_metrics(text) == ({} if behind is None else {reader.name: behind})
        count = float(state == "stranded")
        assert f"hermes_sidecar_clients_stranded {count}\n" in text
        if state == "stranded":
            refused = re.findall(r'refused_total{code="offset_gone"} (\S+)', text)
            assert float(refused[0]) >= 2
    return scraped


def metrics(reader: Reader) -> str:
    with reader.sidecar.client() as http:
        return http.get("/metrics").text


def instance(reader: Reader) -> str:
    return f"host-of-{reader.client.name}"


def is_seen(process: SidecarProcess, wanted: list[Shown]) -> bool:
    return by_api(process) == wanted


def by_api(process: SidecarProcess) -> list[Shown]:
    with process.client() as http:
        return shown(http.get("/v1/clients").json())


def by_json(process: SidecarProcess) -> list[Shown]:
    ran = run_here("clients", "--json", unix_socket=process.socket)
    assert (ran.returncode, ran.stderr) == (0, "")
    return shown(json.loads(ran.stdout))


def shown(document: dict[str, Any]) -> list[Shown]:
    assert (document["complete"], document["reason"]) == (True, None)
    rows = document["clients"]
    assert {row["sidecar"] for row in rows} <= {HOST}
    return [Shown(row["name"], row["state"], row["behind"]) for row in rows]


def by_table(process: SidecarProcess) -> list[Shown]:
    ran = run_here("clients", unix_socket=process.socket)
    assert (ran.returncode, ran.stderr) == (0, "")
    cells = [re.split("  +", line) for line in ran.stdout.splitlines()[1:]]
    assert {row[1] for row in cells} == {HOST}
    return [
        Shown(name, state, None if behind == "?" else int(behind))
        for name, _, state, behind, *_ in cells
    ]


def by_page(process: SidecarProcess) -> list[Shown]:
    with process.client() as http:
        page = http.get("/").text
    rows = status_page.clients(page)
    assert {sidecar for _, sidecar, _ in rows} == {HOST}
    found = re.findall(
        r'<td class="right">\s*(\d*)</td>\s*<td class="right">.* ago', page
    )
    return [
        Shown(name, state, int(behind) if behind else None)
        for (name, _, state), behind in zip(rows, found, strict=True)
    ]


def by_metrics(text: str) -> dict[str, float]:
    rows = re.findall(r'client_behind_events{client="(.*?)"} (\S+)', text)
    return {name: float(value) for name, value in rows}


def assert_health(reader: Reader, status: str) -> None:
    """Look at the check of its own sidecar, which names it where it is stranded."""
    answer = reader.sidecar.health()
    assert answer is not None
    assert answer.status_code == 200
    (check,) = [each for each in answer.json()["checks"] if each["name"] == "clients"]
    assert check["status"] == status
    if status == "warn":
        assert check["reason"].startswith(f"{reader.name} cannot read on from offset ")
        assert "docs/operations.md" in check["remedy"]
