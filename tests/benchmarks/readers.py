# SPDX-License-Identifier: Apache-2.0
"""Readers as processes of their own: one that reads, or many that wait."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .initsync import plugin_settings

if TYPE_CHECKING:
    from collections.abc import Iterator

_HERE = Path(__file__).parent

NOBODY_WRITES = "&category=nobody"
"""A reader of this category waits for ever."""


class Readers:
    """Starts reading processes on a Python with a Hermes, real or stand-in."""

    def __init__(self, home: Path, python: Path, *, has_sqlite: bool) -> None:
        self.has_sqlite = has_sqlite
        self._home = home
        self._python = python

    def ours(self, what: str, url: str, count: int) -> Any:
        settings = plugin_settings(self._home, "messagebus_consumers", url)
        return self._read("nats_sidecar", settings, what, count)

    def sqlite(self, path: Path, count: int) -> Any:
        return self._read("sqlite", {"uri": str(path)}, "replay", count)

    def follow(self, url: str, count: int, offset: int) -> subprocess.Popen[str]:
        """Start a reader that waits at this offset, and return once it does."""
        settings = plugin_settings(self._home, "messagebus_consumers", url)
        process = subprocess.Popen(
            self._command("nats_sidecar", settings, "follow", count, offset),
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        return process

    @contextmanager
    def catching_up(self, url: str) -> Iterator[None]:
        """Let one client read from the beginning, again and again."""
        settings = plugin_settings(self._home, "messagebus_consumers", url)
        command = self._command("nats_sidecar", settings, "catch_up", 0, 0)
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            try:
                assert process.stdout.readline() == "reading\n"
                yield
                assert process.poll() is None, "the client has ended"
            finally:
                process.kill()

    def _read(
        self, plugin: str, settings: dict[str, Any], what: str, count: int
    ) -> Any:
        done = subprocess.run(
            self._command(plugin, settings, what, count, 0),
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        return json.loads(done.stdout)

    def _command(
        self, plugin: str, settings: dict[str, Any], what: str, count: int, offset: int
    ) -> list[str]:
        order = {
            "home": str(self._home),
            "plugin": plugin,
            "settings": settings,
            "what": what,
            "count": count,
            "offset": offset,
        }
        return [
            *(str(self._python), "-B", str(_HERE / "reader_process.py")),
            json.dumps(order),
        ]


@contextmanager
def waiting_readers(socket: Path, count: int, query: str = "") -> Iterator[None]:
    """Let many readers wait for the next event, in one process."""
    if not count:
        yield
        return
    command: list[str | Path] = [sys.executable, _HERE / "waiting_process.py", socket]
    command += [str(count), query]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "waiting\n"
            yield
            assert process.poll() is None, "a waiting reader has ended"
        finally:
            process.kill()
