# SPDX-License-Identifier: Apache-2.0
"""Many consumer plugins, each in a process, that read as hermes-clients do.

It stands alone, for it runs on the Python of Hermes: what to do comes as JSON, what was
seen goes out as JSON, a line each. All of them end with standard input.

Each opens the bus anew for each turn. A new one scans the stream from its beginning for
the last complete initsync (`__canBeInitialized`), reads it, and follows from there.
"""

from __future__ import annotations

import builtins
import importlib
import json
import logging
import os
import signal
import sys
import time
from types import SimpleNamespace
from typing import Any

TIMEOUT_MS = 5_000
"""Hermes' own default (updateInterval)."""

SAY_SECONDS = 0.2


def main() -> None:
    order = json.loads(sys.argv[1])
    sys.path.insert(0, order["home"])
    hermes = SimpleNamespace(appname="", logger=logging.getLogger("scale"))
    vars(builtins)["__hermes__"] = hermes
    name = "plugins.messagebus_consumers.nats_sidecar.nats_sidecar"
    module = importlib.import_module(name)
    plugin_class = getattr(module, module.HERMES_PLUGIN_CLASSNAME)
    children = []
    for client in order["clients"]:
        if not (pid := os.fork()):
            hermes.appname = client["name"]
            plugin = plugin_class(order["settings"] | {"url": client["url"]})
            Client(client["name"], plugin, order["offset"]).run()
        children.append(pid)
    sys.stdin.read()
    for pid in children:
        os.kill(pid, signal.SIGKILL)
    for pid in children:
        os.waitpid(pid, 0)


class Client:
    """What a hermes-client asks of its bus, without what it does with the events."""

    def __init__(self, name: str, plugin: Any, offset: int | None) -> None:
        self._name = name
        self._plugin = plugin
        self._next = offset
        self._said_at = 0.0

    def run(self) -> None:
        self._say("started", pid=os.getpid())
        while True:
            try:
                with self._plugin:
                    self._plugin.setTimeout(TIMEOUT_MS)
                    if self._next is None:
                        self._initialise()
                    else:
                        self._follow(self._next)
            except Exception as error:  # noqa: BLE001 - hermes-client goes on, too
                self._say("failed", error=type(error).__name__)

    def _initialise(self) -> None:
        began = at = time.monotonic()
        start = found = None
        count = 0
        self._plugin.seekToBeginning()
        for event in self._plugin:
            count += 1
            at = time.monotonic()
            if event.evcategory != "initsync":
                continue
            if event.eventtype == "init-start":
                start = event.offset
            elif event.eventtype == "init-stop" and start is not None:
                found, start = (start, event.offset), None
        if found is None:
            return
        seen = {"scan_seconds": at - began, "scanned": count}
        began = time.monotonic()
        self._plugin.seek(found[0])
        for event in self._plugin:
            if event.offset == found[1]:
                break
        ended = time.monotonic()
        self._next = found[1] + 1
        read = {"read_seconds": ended - began, "read": found[1] - found[0] + 1}
        self._say("initialised", at=ended, **seen, **read)

    def _follow(self, offset: int) -> None:
        self._plugin.seek(offset)
        at, said = 0.0, offset
        for event in self._plugin:
            offset = event.offset + 1
            self._next = offset
            at = time.monotonic()
            if at - self._said_at > SAY_SECONDS:
                self._say("at", offset=event.offset, at=at)
                said = offset
        if said != offset:
            self._say("at", offset=offset - 1, at=at)

    def _say(self, what: str, **values: Any) -> None:
        """Write a line at once: those of other processes do not get into it."""
        self._said_at = time.monotonic()
        line = json.dumps({"client": self._name, "what": what, **values}) + "\n"
        os.write(sys.stdout.fileno(), line.encode())


main()
