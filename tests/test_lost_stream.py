# SPDX-License-Identifier: Apache-2.0
"""A stream that is lost without a backup: nobody is led to strand every client."""

from __future__ import annotations

import os
import pty
import subprocess
from typing import TYPE_CHECKING

import pytest
from support.commands import assert_complaint, run_here
from support.hermes import load_plugin, new_event
from support.jetstream import RawNatsClient
from support.nats import NatsProcess
from support.process import wait_until
from support.sidecar import COMMAND, SidecarProcess, environment

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FIRST = 1000
NEXT = 1003
"""Three events were stored and read."""


@pytest.fixture
def sidecar(tmp_path: Path) -> Iterator[SidecarProcess]:
    """Run a sidecar on a server of its own, with a stream from 1000 on."""
    with NatsProcess(tmp_path / "nats") as nats:
        run_here("provision", "--first-offset", str(FIRST), nats_url=nats.url)
        with SidecarProcess(tmp_path / "sidecar", nats_url=nats.url) as process:
            yield process


def store(sidecar: SidecarProcess, home: Path, *keys: int) -> None:
    settings = {"url": sidecar.url}
    with load_plugin(home, "messagebus_producers", settings) as producer:
        for key in keys:
            producer.send(new_event(objpkey=key))


def read(sidecar: SidecarProcess, home: Path, offset: int) -> list[tuple[int, object]]:
    consumer = load_plugin(home, "messagebus_consumers", {"url": sidecar.url})
    consumer.setTimeout(300)
    with consumer:
        consumer.seek(offset)
        return [(event.offset, event.objpkey) for event in consumer]


def lose(sidecar: SidecarProcess) -> dict[str, str]:
    """Delete the stream; give what /health then says of it."""
    url = str(sidecar.settings["nats_url"])
    with RawNatsClient(int(url.rpartition(":")[2])) as operator:
        operator.delete("hermes")

    found: list[dict[str, str]] = []

    def is_missed() -> bool:
        answer = sidecar.health()
        checks = answer.json()["checks"] if answer is not None else []
        found[:] = (each for each in checks if each["name"] == "stream")
        return bool(found) and "does not exist" in str(found[0]["reason"])

    wait_until(is_missed, what="the sidecar misses its stream")
    return found[0]


def test_health_page_and_provision_say_how_caught_up_clients_go_on(
    sidecar: SidecarProcess, hermes_home: Path
) -> None:
    store(sidecar, hermes_home, 0, 1, 2)
    assert len(read(sidecar, hermes_home, FIRST)) == NEXT - FIRST
    check = lose(sidecar)
    assert f"next offset {NEXT}" in check["reason"]
    assert check["remedy"].startswith("Restore it from a backup.")
    assert f"provision --first-offset {NEXT}:" in check["remedy"]
    page = sidecar.get("/").text
    assert f"provision --first-offset {NEXT}:" in page

    only_nats = {"nats_url": sidecar.settings["nats_url"], "http_port": 1}
    for settings in (only_nats, sidecar.settings):
        ran = run_here("provision", **settings)
        assert_complaint(ran, 5, "restore it first", f"--first-offset {NEXT}", "--yes")
    ran = run_here("provision", "--first-offset", str(NEXT - 1), **only_nats)
    assert_complaint(ran, 5, "used a second time")
    assert "does not exist" in run_here("check", **only_nats).stderr

    ran = run_here("provision", "--first-offset", str(NEXT), **only_nats)
    assert (ran.returncode, ran.stderr) == (0, "")
    sidecar.wait_ready()
    store(sidecar, hermes_home, 3)
    assert read(sidecar, hermes_home, NEXT) == [(NEXT, 3)]


def test_who_really_wants_it_gets_another_offset(
    sidecar: SidecarProcess, hermes_home: Path
) -> None:
    store(sidecar, hermes_home, 0)
    lose(sidecar)
    ran = run_here("provision", "--yes", nats_url=sidecar.settings["nats_url"])
    assert ran.returncode == 0
    assert "its first offset is 1" in ran.stdout
    sidecar.wait_ready()


@pytest.mark.parametrize(("reply", "status"), [("n\n", 5), ("\n", 5), ("y\n", 0)])
def test_on_a_terminal_it_asks(
    sidecar: SidecarProcess, reply: str, status: int
) -> None:
    lose(sidecar)
    ours, terminal = pty.openpty()
    os.write(ours, reply.encode())
    ran = subprocess.run(
        [*COMMAND, "provision"],
        env=environment(nats_url=sidecar.settings["nats_url"], http_port=1),
        stdin=terminal,
        capture_output=True,
        text=True,
        check=False,
    )
    os.close(terminal)
    os.close(ours)
    assert ran.returncode == status, ran.stderr
    assert "Create it nevertheless? [y/N]" in ran.stdout
    assert ("Created stream" in ran.stdout) == (status == 0)


def test_a_client_that_waits_for_its_small_offset_is_not_left_behind(
    tmp_path: Path,
) -> None:
    """As after a move from another bus, where --first-offset was forgotten."""
    with NatsProcess(tmp_path / "nats") as nats:
        process = SidecarProcess(tmp_path / "sidecar", nats_url=nats.url)
        process.start()
        try:
            process.wait_live()
            with process.client() as http:
                answer = http.get(
                    "/v1/events?offset=1201", headers={"User-Agent": "hermes-client-x"}
                )
                assert answer.status_code == 503
                wait_until(lambda: "--first-offset 1201:" in http.get("/health").text)
            settings = {"nats_url": nats.url, "http_port": 1}
            wait_until(
                lambda: (
                    "--first-offset 1201" in run_here("provision", **settings).stderr
                )
            )
        finally:
            process.stop()
