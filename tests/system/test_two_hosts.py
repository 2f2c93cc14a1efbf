# SPDX-License-Identifier: Apache-2.0
"""Sidecars on hosts of different names, each in a UTS namespace of its own."""

from __future__ import annotations

import json
import sys
import uuid
from typing import TYPE_CHECKING

import pytest
from support.commands import run_here
from support.nats import NatsProcess
from support.process import wait_until
from support.sidecar import SidecarProcess, event, last_offset, post, sidecar_on
from support.status_page import cards, clients

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HOSTS = {
    "server-1.example": "server-1.example",
    "ldap_2": "ldap_2",
    "(none)": "-none-",  # what Linux calls a machine that nobody named
}
"""What each host calls itself, and what is shown of it."""

_NAME_AND_RUN = """
import os, socket, sys
socket.sethostname(sys.argv[1])
os.execv(sys.argv[2], sys.argv[2:])
"""


def named(process: SidecarProcess, host: str) -> SidecarProcess:
    """Let a sidecar that is not started yet run on a host of this name."""
    enter = ["unshare", "--uts", sys.executable, "-c", _NAME_AND_RUN, host]
    process.arguments = [*enter, *process.arguments]
    return process


@pytest.fixture
def sidecars(tmp_path: Path) -> Iterator[list[SidecarProcess]]:
    """Serve one stream by a sidecar on each host, from each of which a client reads."""
    name = f"h{uuid.uuid4().hex[:12]}"
    with NatsProcess(tmp_path / "nats") as nats:
        processes = [
            named(sidecar_on(nats, tmp_path / str(number), name), host)
            for number, host in enumerate(HOSTS)
        ]
        try:
            for process in processes:
                process.start()
            for process in processes:
                process.wait_ready()
            with processes[0].client() as http:
                assert post(http, event()).is_success
            for number, process in enumerate(processes):
                with process.client() as http:
                    agent = {"User-Agent": f"hermes-client-{number}"}
                    query = {"offset": last_offset(http)}
                    page = http.get("/v1/events", params=query, headers=agent)
                    assert page.is_success
            yield processes
        finally:
            for process in processes:
                process.stop()


def test_each_client_is_shown_with_its_host_by_each_sidecar(
    sidecars: list[SidecarProcess],
) -> None:
    shown = list(HOSTS.values())
    names = [f"hermes-client-{number}" for number in range(len(shown))]
    wanted = [(name, host, "reading") for name, host in zip(names, shown, strict=True)]
    for process, host in zip(sidecars, shown, strict=True):
        with process.client() as http:
            document = http.get("/v1/clients").json()
            page = http.get("/").text
        assert (document["complete"], document["reason"]) == (True, None)
        rows = document["clients"]
        assert [(row["name"], row["sidecar"], row["state"]) for row in rows] == wanted
        assert clients(page) == wanted
        assert cards(page)["Sidecar"]["Host"] == host
        table = run_here("clients", unix_socket=process.socket)
        lines = [line.split()[:3] for line in table.stdout.splitlines()[1:]]
        assert (table.stderr, lines) == ("", [list(row) for row in wanted])
        asked = run_here("clients", "--json", unix_socket=process.socket).stdout
        told = [(row["name"], row["sidecar"]) for row in json.loads(asked)["clients"]]
        assert told == [row[:2] for row in wanted]

    one, two, three = sidecars
    two.kill()
    three.kill()
    reason = "The sidecar on -none-, ldap_2 did not answer."

    def is_told() -> object:
        with one.client() as http:
            return http.get("/v1/clients").json()["reason"] == reason

    wait_until(is_told, what=reason)
