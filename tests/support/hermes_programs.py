# SPDX-License-Identifier: Apache-2.0
"""hermes-server and a hermes-client as the processes that their manual describes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from typing import TYPE_CHECKING, Any, Self

import yaml

from .campus import USER_ATTRIBUTES, client_datamodel, server_datamodel
from .process import Process, wait_until

if TYPE_CHECKING:
    from pathlib import Path

CLI_SECONDS = 30
NULL_CLIENT = "usersgroups_null"


def copy_client(home: Path, plugin: str) -> None:
    """Give a Hermes the client that only logs once more, under another name."""
    clients = home / "plugins" / "clients"
    (clients / plugin).mkdir()
    for file in (clients / NULL_CLIENT).iterdir():
        text = file.read_text("utf-8").replace(NULL_CLIENT, plugin)
        name = file.name.replace(NULL_CLIENT, plugin)
        (clients / plugin / name).write_text(text, "utf-8")


class HermesProgram(Process):
    """One Hermes program; its directory holds configuration, cache and socket."""

    def __init__(self, home: Path, python: Path, directory: Path, name: str) -> None:
        self.directory = directory
        self.name = name
        self._hermes: list[str | Path] = [python, "-B", home / "hermes.py"]
        directory.mkdir()
        super().__init__(
            [*self._hermes, name],
            directory / "hermes.log",
            {"PATH": "/usr/bin:/bin", "TMPDIR": str(directory)},
            cwd=directory,
        )

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def configure(
        self,
        plugins: dict[str, Any],
        sections: dict[str, Any],
        verbosity: str = "debug",
    ) -> None:
        """Write the configuration file: its plugins and the program's own sections."""
        document = {
            "hermes": {
                "cache": {
                    "dirpath": "cache",
                    "enable_compression": False,
                    "backup_count": 0,
                },
                "cli_socket": {"path": "cli.sock"},
                "logs": {"verbosity": verbosity},
                "mail": {
                    "server": "127.0.0.1:1",  # nobody: Hermes only logs that
                    "from": "hermes@example.org",
                    "to": "root@example.org",
                },
                "plugins": plugins,
            },
            **sections,
        }
        path = self.directory / f"hermes-{self.name}-config.yml"
        path.write_text(yaml.safe_dump(document, sort_keys=False), "utf-8")

    def ask(self, *command: str) -> str:
        """Give a command to the running program by its socket, and its answer."""
        program, *arguments = self._hermes
        return subprocess.run(
            [program, *arguments, f"{self.name}-cli", *command],
            check=True,
            capture_output=True,
            text=True,
            timeout=CLI_SECONDS,
            env=self.environ,
            cwd=self.directory,
        ).stdout

    def cached(self, name: str) -> Any:
        """Give the content of one cache file; None where there is none."""
        path = self.directory / "cache" / f"{name}.json"
        if not path.exists():
            return None
        return json.loads(path.read_text("utf-8"))["content"]

    def wait_logged(self, text: str, times: int = 1, seconds: float = 30) -> None:
        wait_until(
            lambda: self.output().count(text) >= times,
            seconds,
            f"{self.name} logs {text!r} {times} times: {self.output()[-3000:]}",
        )

    def wait_fetched(self, seconds: float = 30) -> Self:
        """Wait until it, a hermes-server, has read its sources once."""
        wait_until(
            lambda: (self.cached("_hermes-server") or {}).get("lastUpdate"),
            seconds,
            f"hermes-server has fetched: {self.output()[-3000:]}",
        )
        return self


class HermesServer(HermesProgram):
    """A hermes-server that reads the campus every second."""

    def __init__(
        self,
        home: Path,
        python: Path,
        directory: Path,
        campus: Path,
        **bus: Any,
    ) -> None:
        super().__init__(home, python, directory, "server")
        self._campus = campus
        self.set_bus("nats_sidecar", **bus)

    def set_bus(self, plugin: str, **settings: Any) -> None:
        """Write the configuration with this message bus."""
        self._bus = {plugin: {"settings": settings}}
        self.set_user_attributes(USER_ATTRIBUTES)

    def set_user_attributes(self, names: tuple[str, ...]) -> None:
        """Write the configuration with these attributes of Users."""
        source = {"type": "sqlite", "settings": {"uri": str(self._campus)}}
        own = {"updateInterval": 1, "datamodel": server_datamodel(names)}
        plugins = {"messagebus": self._bus, "datasources": {"campus": source}}
        self.configure(plugins, {"hermes-server": own})

    def sent_names(self) -> list[str]:
        """Give the events that it says it sends, named as in the stream."""
        found = re.findall(r"Sending <Event\((\w+)_(\w+)\[<\w+\[(\d+)", self.output())
        return [f"{kind} {objtype} {key}" for objtype, kind, key in found]


class HermesClient(HermesProgram):
    """The hermes-client of Hermes that only logs and keeps its cache."""

    def __init__(
        self,
        home: Path,
        python: Path,
        directory: Path,
        plugin: str = NULL_CLIENT,
        **bus: Any,
    ) -> None:
        super().__init__(home, python, directory, f"client-{plugin}")
        self.set_bus("nats_sidecar", **bus)

    def set_bus(self, plugin: str, **settings: Any) -> None:
        """Write the configuration with this message bus."""
        self._bus = {plugin: {"settings": settings}}
        self.set_user_attributes(USER_ATTRIBUTES)

    def set_user_attributes(self, names: tuple[str, ...]) -> None:
        """Write the configuration with these attributes of Users."""
        own = {"updateInterval": 1, "datamodel": client_datamodel(names)}
        self.configure({"messagebus": self._bus}, {"hermes-client": own})

    @property
    def next_offset(self) -> int | None:
        state = self.cached(f"_hermes-{self.name}") or {}
        return state.get("nextoffset")

    def users(self) -> dict[int, dict[str, Any]]:
        """Give its users, by primary key, as its cache has them."""
        return {user["id"]: user for user in self.cached("Users") or []}

    def wait_at(self, next_offset: int, seconds: float = 30) -> None:
        """Wait until it has handled, and saved, everything before that offset."""
        wait_until(
            lambda: self.next_offset == next_offset,
            seconds,
            f"client at {next_offset}, is at {self.next_offset}: "
            + self.output()[-3000:],
        )

    def calls(self, handler: str, key: int) -> int:
        """Count how often a handler was called for an object."""
        return self.output().count(f"Calling 'on_{handler}(objkey={key},")

    def forget(self) -> None:
        """Remove its cache, as an operator does to start it anew."""
        shutil.rmtree(self.directory / "cache")
