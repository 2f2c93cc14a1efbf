# SPDX-License-Identifier: GPL-3.0-or-later
"""A producer plugin for Hermes that clocks another one from init-start to init-stop."""

from __future__ import annotations

import importlib
import time
from pathlib import Path
from typing import Any

from lib.plugins import AbstractMessageBusProducerPlugin

HERMES_PLUGIN_CLASSNAME: str | None = "BenchProducerPlugin"


class _None:
    def open(self) -> None:
        pass

    def close(self) -> None:
        pass

    def _send(self, event: Any) -> None:
        pass


def _in_process(settings: dict[str, Any]) -> Any:
    bus = importlib.import_module(f"{__package__}.inprocess").InProcessNats(**settings)
    bus._send = bus.send
    return bus


def _plugin(name: str, settings: dict[str, Any]) -> Any:
    module = importlib.import_module(f"plugins.messagebus_producers.{name}.{name}")
    return getattr(module, module.HERMES_PLUGIN_CLASSNAME)(settings)


def _make(kind: str, settings: dict[str, Any]) -> Any:
    if kind == "none":
        return _None()
    if kind == "in_process":
        return _in_process(settings)
    return _plugin(kind, settings)


class BenchProducerPlugin(AbstractMessageBusProducerPlugin):
    """Adds a line "events seconds" to the file `marks` for each initsync."""

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__(settings)
        self._inner = _make(settings["kind"], settings["inner"])
        self._count = 0
        self._began = 0.0

    def open(self) -> None:
        self._inner.open()

    def close(self) -> None:
        self._inner.close()

    def _send(self, event: Any) -> None:
        if event.eventtype == "init-start":
            self._count, self._began = 0, time.perf_counter()
        self._inner._send(event)
        self._count += 1
        if event.eventtype == "init-stop":
            seconds = time.perf_counter() - self._began
            with Path(self._settings["marks"]).open("a", encoding="ascii") as marks:
                marks.write(f"{self._count} {seconds}\n")
