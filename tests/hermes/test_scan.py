# SPDX-License-Identifier: Apache-2.0
"""Where the last complete initsync stands: what a header says, and hermes-client finds.

The function of hermes-client is taken out of its source, and run on generated streams.
"""

from __future__ import annotations

import ast
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from support.initsyncs import KINDS, histories

from sidecar.model.scan import Scan, read_header

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SCAN = "__canBeInitialized"


class StreamSupervisor(list[Any]):
    def seekToBeginning(self) -> None:  # noqa: N802 - Hermes' name
        pass


def real_scan(hermes_home: Path) -> Callable[[Any], bool]:
    """Compile hermes-client's scan alone: its module needs a whole client around it."""
    tree = ast.parse((hermes_home / "clients" / "__init__.py").read_text("utf-8"))
    (found,) = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name == SCAN
    ]
    names: dict[str, Any] = {}
    module = ast.Module([found], type_ignores=[])
    exec(compile(module, "clients", "exec"), globals(), names)  # noqa: S102
    scan: Callable[[Any], bool] = names[SCAN]
    return scan


def by_scan(
    scan: Callable[[Any], bool], letters: str, first: int
) -> tuple[int, int] | None:
    events = [
        SimpleNamespace(
            offset=offset,
            evcategory=KINDS[letter][0],
            eventtype=KINDS[letter][1],
        )
        for offset, letter in enumerate(letters, 1)
    ]
    cache = SimpleNamespace(nextoffset=None, initstartoffset=None, initstopoffset=None)
    client = SimpleNamespace(
        __msgbus=StreamSupervisor(events[first - 1 :]),
        __useFirstInitsyncSequence=False,
        __cache=cache,
    )
    if not scan(client):
        return None
    return cache.initstartoffset, cache.initstopoffset


def test_the_header_says_what_hermes_client_finds(hermes_home: Path) -> None:
    scan = real_scan(hermes_home)
    streams = [*histories(300), "SaaE" * 400]
    for letters in streams:
        for first in {1, 2, len(letters) // 2 + 1, len(letters)}:
            here, newest = Scan(), None
            for offset, letter in enumerate(letters, 1):
                category, kind = KINDS[letter]
                if category == "initsync":
                    here = here.after(offset, kind)
                    newest = here.header if offset >= first else newest
            last = read_header(newest if newest is not None else "").last
            told = last[:2] if last is not None and last.start >= first else None
            assert told == by_scan(scan, letters, first), (letters, first)
