# SPDX-License-Identifier: Apache-2.0
"""The image, really built, and really run with as few rights as it can be given.

Then the whole of deploy/compose on it.
"""

from __future__ import annotations

import json
import os
import stat
import subprocess
from typing import TYPE_CHECKING

import httpx
import pytest
from support.process import wait_until
from support.sidecar import event, last_offset, post
from system.compose_project import STARTED, USERS, Project, hermes_checkout
from system.containers import IMAGE, USER, Container, shared_directory

from sidecar import __version__
from sidecar.commands.install import PLUGIN_STUB

if TYPE_CHECKING:
    from pathlib import Path

    from support.nats import NatsProcess
    from system.containers import Containers

MOST_MEGABYTES = 80


@pytest.fixture(scope="module")
def containers(storage: Containers) -> Containers:
    """Build the image, in a storage of its own."""
    storage.make_image()
    return storage


def test_it_adds_at_most_80_mb_to_its_base(containers: Containers) -> None:
    ours = containers.size(IMAGE) - containers.size("base")
    assert ours <= MOST_MEGABYTES, ours


def test_it_says_what_it_is_and_how_it_is_asked(containers: Containers) -> None:
    (image,) = json.loads(containers.podman("image", "inspect", IMAGE))
    config = image["Config"]
    assert config["User"] == f"{USER}:{USER}"
    assert config["Entrypoint"] == ["hermes-nats-sidecar"]
    assert image["Healthcheck"]["Test"] == ["CMD", "hermes-nats-sidecar", "healthcheck"]
    labels = config["Labels"]
    assert labels["org.opencontainers.image.version"] == __version__
    assert len(labels["org.opencontainers.image.revision"]) == 40
    assert "GPL-3.0-or-later" in labels["org.opencontainers.image.licenses"]


def test_it_holds_neither_compiler_nor_pip(containers: Containers) -> None:
    script = (
        "id -u; for it in cc gcc c++ make pip pip3; do command -v $it; done;"
        "python3 -c 'import pip' 2>&1 | tail -n 1; touch /opt/x 2>&1"
    )
    command = containers.run_arguments("--entrypoint=sh")
    answer = subprocess.run(
        [*command, IMAGE, "-c", script], capture_output=True, text=True, check=False
    )
    user, no_pip, read_only = answer.stdout.splitlines()
    assert user == str(USER)
    assert no_pip == "ModuleNotFoundError: No module named 'pip'"
    assert "Read-only file system" in read_only


def test_its_plugins_are_those_of_the_checkout(
    containers: Containers, tmp_path: Path
) -> None:
    plugins = shared_directory(tmp_path / "plugins")
    command = containers.run_arguments(f"--volume={plugins}:/plugins")
    subprocess.run([*command, IMAGE, "install-plugins", "/plugins"], check=True)
    ours = {
        path.relative_to(PLUGIN_STUB): path.read_bytes()
        for path in PLUGIN_STUB.glob("*/nats_sidecar/*.*")
    }
    installed = {
        path.relative_to(plugins): path.read_bytes()
        for path in plugins.glob("*/nats_sidecar/*.*")
    }
    assert len(ours) == 17
    assert installed == ours


def test_events_go_through_the_container_until_sigterm_ends_it(
    containers: Containers, nats: NatsProcess, tmp_path: Path
) -> None:
    shared = shared_directory(tmp_path / "shared")
    container = Container(
        containers,
        "sidecar-of-test-image",
        tmp_path,
        f"--volume={shared}:/run/hermes-nats-sidecar",
        environ={
            "SIDECAR_NATS_URL": nats.url,
            "SIDECAR_STREAM_CREATE": "true",
            "SIDECAR_HTTP_PORT": "0",
        },
    )
    socket = shared / "api.sock"
    transport = httpx.HTTPTransport(uds=str(socket))
    with (
        container,
        httpx.Client(transport=transport, base_url="http://localhost") as http,
    ):
        wait_until(lambda: _is_ready(http), 120, "the container is ready")
        assert stat.S_IMODE(socket.stat().st_mode) == 0o660
        assert socket.stat().st_gid == USER
        first = last_offset(http) + 1
        offsets = list(range(first, first + 100))
        for offset in offsets:
            assert post(http, event(), offset - 1).json()["offset"] == offset
        page = http.get("/v1/events", params={"offset": first, "limit": 200}).json()
        assert [row["offset"] for row in page["events"]] == offsets
        containers.podman("healthcheck", "run", container.name)
        containers.podman("kill", "--signal", "TERM", container.name)
        assert container.running.wait(60) == 0
    assert '"event": "stopped"' in container.output()
    assert not socket.exists()


def test_what_hermes_server_sends_arrives_at_the_client(
    containers: Containers, tmp_path: Path
) -> None:
    hermes = hermes_checkout(tmp_path / "hermes")
    with Project(containers, tmp_path / "project") as project:
        containers.make_hermes_image(project.directory / "hermes.Dockerfile", hermes)
        for service, condition in STARTED.items():
            project.start(service, condition)
        if os.environ.get("HERMES_HOME"):
            project.execute("initsync")
        wait_until(lambda: project.has_client(*USERS), 60, "the users arrive")
        if os.environ.get("HERMES_HOME"):
            project.execute("UPDATE users")
            changed = [f"{user}2" for user in USERS]
            wait_until(lambda: project.has_client(*changed), 60, "the change arrives")


def test_buildah_refuses_a_broken_dockerfile_of_hermes(
    containers: Containers, tmp_path: Path
) -> None:
    dockerfile = tmp_path / "hermes.Dockerfile"
    dockerfile.write_text('"{\n')
    with pytest.raises(AssertionError, match="no FROM"):
        containers.make_hermes_image(dockerfile, tmp_path)


def _is_ready(http: httpx.Client) -> bool:
    try:
        return http.get("/health/ready").is_success
    except httpx.HTTPError:
        return False
