# SPDX-License-Identifier: Apache-2.0
"""Hosts of a network of their own: namespaces, joined by a bridge on the first."""

from __future__ import annotations

import subprocess
from contextlib import ExitStack
from typing import TYPE_CHECKING, Self

from support.process import Process, wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_HOLD = "ip link set lo up && echo up && exec sleep infinity"
_NETWORK = "10.77.0"


class Host:
    """A network namespace with an address, and a process that keeps it."""

    def __init__(self, directory: Path, number: int) -> None:
        self.address = f"{_NETWORK}.{number + 1}"
        self._holder = Process(
            ["unshare", "--net", "sh", "-c", _HOLD], directory / f"host-{number}.log"
        )

    def __enter__(self) -> Self:
        self._holder.start()
        wait_until(lambda: "up" in self._holder.output(), what="a network namespace")
        return self

    def __exit__(self, *_: object) -> None:
        self._holder.stop()

    @property
    def pid(self) -> str:
        return str(self._holder.running.pid)

    @property
    def enter(self) -> list[str]:
        """Give what to write before a command to run it here."""
        return ["nsenter", f"--net=/proc/{self.pid}/ns/net"]

    def run(self, *command: str) -> None:
        subprocess.run([*self.enter, *command], check=True)


class Network:
    """Some hosts that reach each other, and nothing of this machine."""

    def __init__(self, directory: Path, count: int) -> None:
        self.hosts = [Host(directory, number) for number in range(count)]
        self._stack = ExitStack()

    def __enter__(self) -> Sequence[Host]:
        with ExitStack() as stack:
            for host in self.hosts:
                stack.enter_context(host)
            first, *others = self.hosts
            first.run("ip", "link", "add", "eth0", "type", "bridge")
            for number, host in enumerate(others):
                peer = ("peer", "name", "eth0", "netns", host.pid)
                first.run("ip", "link", "add", f"to{number}", "type", "veth", *peer)
                first.run("ip", "link", "set", f"to{number}", "master", "eth0", "up")
            for host in self.hosts:
                host.run("ip", "address", "add", f"{host.address}/24", "dev", "eth0")
                host.run("ip", "link", "set", "eth0", "up")
            self._stack = stack.pop_all()
        return self.hosts

    def __exit__(self, *_: object) -> None:
        self._stack.close()
