# SPDX-License-Identifier: Apache-2.0
"""deploy/compose, to be really started by podman-compose."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Self

from support.process import Process, wait_until
from system.containers import USER
from system.secrets_made import ROOT, make_secrets

if TYPE_CHECKING:
    from system.containers import Containers

HERE = Path(__file__).resolve().parent
USERS = ("hlefevre", "jmuller", "nokafor")
STARTED = {
    "nats": "healthy",
    "provision": "done",
    "sidecar-of-server": "healthy",
    "sidecar-of-client": "healthy",
    "source": "done",
    "hermes-server": "started",
    "hermes-client": "started",
}
CONFIG = """\
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
[network]
network_backend = "netavark"
network_config_dir = "{directory}"
"""
NETWORK = "ip link set lo up && echo up && exec sleep infinity"


def hermes_checkout(directory: Path) -> Path:
    """Give the Hermes in HERMES_HOME, else a stand-in of it."""
    if home := os.environ.get("HERMES_HOME"):
        return Path(home)
    shutil.copytree(ROOT / "sidecar/commands/stand_in", directory)
    shutil.copytree(HERE / "stand_in", directory, dirs_exist_ok=True)
    return directory


class Project:
    """A copy of deploy/compose, and podman-compose in a network namespace of its own.

    So neither a port nor a firewall rule of the machine is touched.
    """

    def __init__(self, containers: Containers, directory: Path) -> None:
        self._containers = containers
        deploy = directory / "deploy"
        shutil.copytree(
            ROOT / "deploy", deploy, ignore=shutil.ignore_patterns("secrets")
        )
        self.directory = deploy / "compose"
        secrets = make_secrets(self.directory / "secrets", "nats").directory
        subprocess.run(["chgrp", "-R", str(USER), secrets], check=True)
        (directory / "containers.conf").write_text(CONFIG.format(directory=directory))
        self._environ = dict(os.environ) | {
            "CONTAINERS_CONF": str(directory / "containers.conf"),
            "DISABLE_HC_SYSTEMD": "true",  # no timers of systemd: the test asks
        }
        self._podman = directory / "podman"
        self._network = Process(
            ["unshare", "--net", "sh", "-c", NETWORK],
            directory / "network.log",
        )

    def __enter__(self) -> Self:
        self._network.start()
        wait_until(lambda: "up" in self._network.output(), what="the network is up")
        pid = self._network.running.pid
        inside = ["nsenter", f"--net=/proc/{pid}/ns/net", *self._containers.command]
        self._podman.write_text(f'#!/bin/sh\nexec {" ".join(inside)} "$@"\n')
        self._podman.chmod(0o755)
        return self

    def __exit__(self, *_: object) -> None:
        self.compose("down", "--volumes")
        self._network.stop()

    def compose(self, *arguments: str) -> str:
        return self._run("podman-compose", "--podman-path", self._podman, *arguments)

    def start(self, service: str, until: str) -> None:
        """Start a service and wait for what those after it wait for.

        podman-compose does so by itself from podman 4.6 on.
        """
        self.compose("up", "--detach", "--no-build", "--no-deps", service)
        container = f"hermes_{service}_1"
        if until == "done":
            assert self._run(self._podman, "wait", container) == "0\n"
        if until == "healthy":
            check = (self._podman, "healthcheck", "run", container)
            wait_until(lambda: self._try(*check).returncode == 0, 60, service)

    def execute(self, what: str) -> None:
        """Run the command of the README that holds a word."""
        text = (self.directory / "README.md").read_text().replace("\\\n", " ")
        commands = re.findall(
            r"^    docker compose (exec .*(?:\n {7,}.*)*)", text, re.MULTILINE
        )
        (command,) = (each for each in commands if what in each)
        _, *arguments = shlex.split(command)
        self.compose("exec", "-T", *arguments)

    def has_client(self, *logins: str) -> bool:
        """Tell whether hermes-client has logged them all."""
        log = self._run(self._podman, "logs", "hermes_hermes-client_1")
        return set(logins) <= set(re.findall(r"\w+", log))

    def _run(self, *command: str | Path) -> str:
        done = self._try(*command)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def _try(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=self.directory,
            env=self._environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
