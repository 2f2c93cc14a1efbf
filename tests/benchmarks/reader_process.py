# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: T201 - its lines are read by the benchmark
"""A process that reads through a consumer plugin, as a hermes-client does.

It stands alone, for it runs on the Python of Hermes: what to do comes as JSON, what
was seen goes out as JSON.
"""

from __future__ import annotations

import builtins
import importlib
import json
import logging
import re
import sys
import time
from array import array
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence


def main() -> None:
    order = json.loads(sys.argv[1])
    sys.path.insert(0, order["home"])
    vars(builtins)["__hermes__"] = SimpleNamespace(
        appname="bench", logger=logging.getLogger("bench")
    )
    name = order["plugin"]
    module = importlib.import_module(f"plugins.messagebus_consumers.{name}.{name}")
    plugin = getattr(module, module.HERMES_PLUGIN_CLASSNAME)(order["settings"])
    seen = {
        "replay": _replay,
        "first": _first,
        "follow": _follow,
        "catch_up": _catch_up,
    }[order["what"]]
    print(json.dumps(seen(plugin, order["count"], order["offset"])), flush=True)


def _replay(plugin: Any, count: int, _: int) -> dict[str, float]:
    """Read that many events from the beginning."""
    with plugin:
        plugin.seekToBeginning()
        plugin.setTimeout(5_000)
        before_mb = _memory_mb("VmRSS")
        began = time.perf_counter()
        read = 0
        for _event in plugin:
            read += 1
            if read == count:
                break
        seconds = time.perf_counter() - began
    assert read == count, read
    return {
        "seconds": seconds,
        "before_mb": before_mb,
        "peak_mb": _memory_mb("VmHWM"),
    }


def _first(plugin: Any, count: int, _: int) -> list[float]:
    """Open and read the first event, again and again; give the milliseconds."""
    series = []
    for _number in range(count):
        began = time.perf_counter()
        with plugin:
            plugin.seekToBeginning()
            plugin.setTimeout(5_000)
            assert next(iter(plugin), None) is not None
            series.append((time.perf_counter() - began) * 1e3)
    return series


def _follow(plugin: Any, count: int, offset: int) -> dict[str, Sequence[float]]:
    """Wait for that many events; give when each came, by the machine's clock."""
    offsets, moments = array("q"), array("d")
    with plugin:
        plugin.seek(offset)
        plugin.setTimeout(20_000)
        print("waiting", flush=True)
        for event in plugin:
            moments.append(time.monotonic())
            offsets.append(event.offset)
            if len(offsets) == count:
                break
    return {"offsets": offsets.tolist(), "moments": moments.tolist()}


def _catch_up(plugin: Any, _: int, __: int) -> None:
    """Read from the beginning, again and again, until the process is ended."""
    with plugin:
        plugin.setTimeout(1_000)
        while True:
            plugin.seekToBeginning()
            for number, _event in enumerate(plugin):
                if not number:
                    print("reading", flush=True)


def _memory_mb(field: str) -> float:
    status = Path("/proc/self/status").read_text("ascii")
    found = re.search(rf"^{field}:\s+(\d+) kB", status, re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024 / 1e6


main()
