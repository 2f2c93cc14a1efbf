# SPDX-License-Identifier: Apache-2.0
"""A real hermes-server sends through the containerised sidecar: HERMES_HOME=..."""

from __future__ import annotations

import os
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
from campus import USERS, Campus
from containers import IMAGE, Container, Containers, shared_directory
from parts.process import wait_until
from programs import HermesServer

if TYPE_CHECKING:
    from parts.nats import NatsProcess


def test_hermes_sends_an_initsync_and_a_change_over_the_shared_socket(
    containers: Containers, nats: NatsProcess, hermes_home: Path, tmp_path: Path
) -> None:
    shared = shared_directory(tmp_path / "shared")
    plugins = shared_directory(tmp_path / "plugins")
    command = containers.run_arguments(f"--volume={plugins}:/plugins")
    subprocess.run([*command, IMAGE, "install-plugins", "/plugins"], check=True)
    folder = "plugins/messagebus_producers/nats_sidecar"
    for file in (plugins.parent / folder).iterdir():
        (hermes_home / folder / file.name).write_bytes(file.read_bytes())
    container = Container(
        containers,
        "sidecar-of-hermes",
        tmp_path,
        f"--volume={shared}:/run/hermes-nats-sidecar",
        environ={
            "SIDECAR_NATS_URL": nats.url,
            "SIDECAR_STREAM": "hermes-real",
            "SIDECAR_SUBJECT_PREFIX": "hermes-real",
            "SIDECAR_STREAM_CREATE": "true",
            "SIDECAR_HTTP_PORT": "0",
        },
    )
    transport = httpx.HTTPTransport(uds=str(shared / "api.sock"))
    python = Path(os.environ["HERMES_PYTHON"]).absolute()
    with (
        container,
        Campus(tmp_path / "campus.sqlite") as campus,
        httpx.Client(transport=transport, base_url="http://localhost") as http,
        ExitStack() as stack,
    ):
        wait_until(lambda: _rows(http, "") >= 0, 120, "the container is ready")
        url = f"unix://{shared}/api.sock"
        server = HermesServer(
            hermes_home, python, tmp_path / "server", campus.path, url=url
        )
        stack.enter_context(server).wait_fetched()
        server.ask("initsync")
        wait_until(lambda: _rows(http, "init-stop") == 1, 90, server.output()[-3000:])
        assert _rows(http, '"objtype": "Users"') == len(USERS)
        campus.rename_user(1, "Lefebvre")
        wait_until(lambda: _rows(http, "Lefebvre") == 1, 90, server.output()[-3000:])
        assert server.terminate() == 0


def _rows(http: httpx.Client, text: str) -> int:
    """Count the stored events that hold a text."""
    try:
        page = http.get("/v1/events", params={"offset": "first", "limit": 1000})
    except httpx.HTTPError:
        return -1
    if not page.is_success:
        return -1
    return sum(text in row["data"] for row in page.json()["events"])
