# SPDX-License-Identifier: Apache-2.0
"""Consumer plugins of many hermes-clients, and what they said."""

from __future__ import annotations

import json
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from benchmarks.initsync import plugin_settings
from benchmarks.measure import memory_mb
from support.process import wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence

    from support.sidecar import SidecarProcess

_HERE = Path(__file__).parent


class Clients:
    """So many on each sidecar, in processes that one process has forked."""

    def __init__(
        self,
        home: Path,
        python: Path,
        sidecars: Sequence[SidecarProcess],
        each: int,
        offset: int | None = None,
    ) -> None:
        self.count = len(sidecars) * each
        settings = plugin_settings(home, "messagebus_consumers", "")
        clients = [
            {"name": f"hermes-client-{place}-{number}", "url": sidecar.url}
            for place, sidecar in enumerate(sidecars)
            for number in range(each)
        ]
        order = {
            "home": str(home),
            "settings": settings,
            "clients": clients,
            "offset": offset,
        }
        self._command = [
            *(str(python), "-B", str(_HERE / "clients_process.py")),
            json.dumps(order),
        ]
        self._said: dict[str, dict[str, dict[str, Any]]] = {}
        self.failures = 0

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()
        self.wait("started", 60)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        self._thread.join()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            row = json.loads(line)
            self.failures += row["what"] == "failed"
            self._said.setdefault(row["what"], {})[row["client"]] = row

    def said(self, what: str) -> list[dict[str, Any]]:
        """Give the newest such line of each client."""
        return list(self._said.get(what, {}).values())

    def wait(self, what: str, seconds: float) -> list[dict[str, Any]]:
        """Wait until each of them has said it."""
        wait_until(lambda: len(self.said(what)) == self.count, seconds, what)
        return self.said(what)

    def wait_at(self, offset: int, seconds: float) -> float:
        """Wait until each has the event at an offset; give when the last one had."""

        def have() -> bool:
            at = [row["offset"] for row in self.said("at")]
            return len(at) == self.count and min(at) >= offset

        wait_until(have, seconds, f"clients at {offset}")
        return max(float(row["at"]) for row in self.said("at"))

    @property
    def peak_mb(self) -> float:
        pids = [row["pid"] for row in self.said("started")]
        return max(memory_mb(pid, "VmHWM") for pid in pids)
