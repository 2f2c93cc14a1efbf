# SPDX-License-Identifier: Apache-2.0
"""Each command of the `nats` CLI in our pages does what the page says.

The CLI itself is written in Go and is not here: what is run is the request of the
JetStream API that it sends (natscli 0.4.0, its stream_command.go, micro_command.go).
"""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from support.commands import run_command as run
from support.jetstream import RawNatsClient, wait_jetstream
from support.nats import NatsCluster, NatsProcess
from support.process import wait_until
from support.sidecar import SidecarProcess, event, last_offset, post, sidecar_on

if TYPE_CHECKING:
    from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", *(ROOT / "docs").glob("*.md")]
STREAM = "hermes"

TESTED = {
    "nats stream backup hermes DIR",
    "nats stream restore DIR",
    "nats stream edit hermes --max-age 180d",
    "nats stream edit hermes --allow-batch",
    "nats stream rm hermes",
    "nats stream get hermes --last-for hermes.initsync",
    "nats stream cluster step-down hermes",
    "nats micro ls",
    "nats micro info hermes-nats-sidecar",
    "nats micro stats hermes-nats-sidecar",
}
NAMED = {"nats pub", "nats micro", "nats"}
"""What our pages speak of without a task."""


def test_each_command_of_our_pages_is_one_that_is_tested() -> None:
    text = "\n".join(page.read_text("utf-8") for page in PAGES)
    found = re.findall(r"`(nats(?:\s[^`]*)?)`", text)
    assert {" ".join(each.split()) for each in found} - NAMED == TESTED


def served(nats: NatsProcess, directory: Path) -> SidecarProcess:
    return sidecar_on(nats, directory, STREAM)


def test_backup_and_restore_keep_the_offsets_on_another_server(tmp_path: Path) -> None:
    with NatsProcess(tmp_path / "old") as old, RawNatsClient(old.port) as operator:
        wait_jetstream(old.port)
        with served(old, tmp_path / "before") as before, before.client() as http:
            offsets = [post(http).json()["offset"] for _ in range(3)]
        config, state, chunks = operator.backup(STREAM)
    with NatsProcess(tmp_path / "new") as new, RawNatsClient(new.port) as operator:
        wait_jetstream(new.port)
        operator.restore(STREAM, config, state, chunks)
        with served(new, tmp_path / "after") as after, after.client() as http:
            page = http.get(f"/v1/events?offset={offsets[0]}").json()
            assert [event["offset"] for event in page["events"]] == offsets
            assert post(http, last=offsets[-1]).json()["offset"] == offsets[-1] + 1
        error = operator.ask(
            f"$JS.API.STREAM.RESTORE.{STREAM}",
            json.dumps({"config": config, "state": state}).encode(),
        )
        assert "name already in use" in json.loads(error)["error"]["description"]


def test_a_changed_retention_is_seen_at_once(tmp_path: Path) -> None:
    with (
        NatsProcess(tmp_path / "nats") as nats,
        RawNatsClient(nats.port) as operator,
        served(nats, tmp_path / "sidecar") as sidecar,
        sidecar.client() as http,
    ):
        operator.update(STREAM, max_age=180 * 86_400 * 10**9)
        wait_until(
            lambda: "max_age_seconds 1.5552e+07" in http.get("/metrics").text,
            what="the sidecar follows",
        )
        operator.update(STREAM, allow_atomic=True)
        assert post(http).status_code == 201


def test_a_removed_stream_is_made_anew_above_its_offsets(tmp_path: Path) -> None:
    with NatsProcess(tmp_path / "nats") as nats, RawNatsClient(nats.port) as operator:
        wait_jetstream(nats.port)
        assert run("provision", nats_url=nats.url).returncode == 0
        with SidecarProcess(tmp_path / "sidecar", nats_url=nats.url) as sidecar:
            with sidecar.client() as http:
                last = post(http).json()["offset"]
            operator.delete(STREAM)
            settings = {"nats_url": nats.url, "unix_socket": sidecar.socket}
            refused = run("provision", **settings)
            assert refused.returncode == 5
            assert f"--first-offset {last + 1}" in refused.stderr
            made = run("provision", "--first-offset", str(last + 1), **settings)
            assert (made.returncode, made.stderr) == (0, "")
            with sidecar.wait_ready().client() as http:
                assert last_offset(http) == last


def test_the_newest_event_of_an_initsync_shows_the_last_complete_one(
    tmp_path: Path,
) -> None:
    with NatsProcess(tmp_path / "nats") as nats, RawNatsClient(nats.port) as operator:
        with served(nats, tmp_path / "sidecar") as sidecar, sidecar.client() as http:
            kinds = ("init-start", "added", "init-stop")
            first, *_, last = [
                post(http, event("initsync", eventtype=kind)).json()["offset"]
                for kind in kinds
            ]
        found = operator.api(
            f"STREAM.MSG.GET.{STREAM}", {"last_by_subj": f"{STREAM}.initsync"}
        )["message"]
        assert found["seq"] == last
        block = base64.b64decode(found["hdrs"]).decode()
        assert f"Hermes-Initsync: last={first}-{last},1" in block


def test_a_leader_that_is_stepped_down_gives_way(tmp_path: Path) -> None:
    with NatsCluster(tmp_path / "nats") as cluster:
        node = cluster.nodes[0]
        wait_jetstream(node.port)
        with served(node, tmp_path / "sidecar"), RawNatsClient(node.port) as operator:
            operator.update(STREAM, num_replicas=3)

            def cluster_info() -> Any:
                return operator.api(f"STREAM.INFO.{STREAM}")["cluster"]

            wait_until(
                lambda: (
                    [each["current"] for each in cluster_info().get("replicas") or []]
                    == [True, True]
                ),
                what="three replicas",
            )
            before = cluster_info()["leader"]
            assert operator.api(f"STREAM.LEADER.STEPDOWN.{STREAM}")["success"]
            wait_until(
                lambda: cluster_info().get("leader") not in (None, before),
                what="another leader",
            )


def test_sidecars_are_found_as_services(tmp_path: Path) -> None:
    with (
        NatsProcess(tmp_path / "nats") as nats,
        RawNatsClient(nats.port) as operator,
        served(nats, tmp_path / "sidecar"),
    ):
        for question, kind in (
            ("PING", "ping"),
            ("INFO.hermes-nats-sidecar", "info"),
            ("STATS.hermes-nats-sidecar", "stats"),
        ):
            answer = json.loads(operator.ask(f"$SRV.{question}"))
            assert answer["type"] == f"io.nats.micro.v1.{kind}_response"
            assert answer["name"] == "hermes-nats-sidecar"


def test_without_the_cli_python_asks_the_same_api(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "operations.md").read_text("utf-8")
    (script,) = re.findall(r"STREAM.INFO.hermes <<END\n(.*?)\n    END", page, re.DOTALL)
    with NatsProcess(tmp_path / "nats") as nats, served(nats, tmp_path / "sidecar"):
        ran = subprocess.run(
            [sys.executable, "-", f"STREAM.INFO.{STREAM}"],
            input=textwrap.dedent(script),
            env={"NATS": nats.url},
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
    assert json.loads(ran.stdout)["config"]["name"] == STREAM
