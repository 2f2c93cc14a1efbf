# SPDX-License-Identifier: Apache-2.0
"""Reads a large event of many values in a process of its own: it may take a second.

Python's json cannot be interrupted, nor run beside the loop: a thread of its own would
hold the interpreter just the same. And nothing else accepts quite what it accepts.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import sys
from functools import cache
from typing import TYPE_CHECKING, Final

from sidecar import errors
from sidecar.errors import Outcome, Problem
from sidecar.model.event import (
    MAX_DEPTH,
    SHOWN,
    is_deep,
    make_event,
    parse_event,
    parse_large_event,
    too_deep,
    too_wide,
)

if TYPE_CHECKING:
    from sidecar.model.event import Event

SMALL_BYTES: Final = 256 * 1024
"""What may be read at once, whatever it holds: ten milliseconds."""

MANY_VALUES: Final = 100_000
"""A tenth of a second, where each is the key of one more member."""

READ_SECONDS: Final = 20.0

MIB: Final = 2**20
MOST_MEMORY: Final = 12
"""How many times its bytes an event may take, besides 32 MiB: of what Hermes writes, a
value on each line, eight. Lists in lists, one value in two bytes, would take forty."""

_NO_JSON: Final = 3
_TOO_DEEP: Final = 4
_TOO_WIDE: Final = 5


@cache
def _program() -> str:
    """Give what the process runs; it has none of our modules, but the text of one."""
    return f"""
import gc, json, os, resource, sys
gc.disable()
text = sys.stdin.buffer.read()
most = {32 * MIB} + {MOST_MEMORY} * len(text)
resource.setrlimit(resource.RLIMIT_DATA, (most, most))
MAX_DEPTH = {MAX_DEPTH}
{inspect.getsource(is_deep)}
try:
    text = text.decode("utf-8")
    event = json.loads(text)
    if is_deep(event):
        os._exit({_TOO_DEEP})
except ValueError:
    os._exit({_NO_JSON})
except RecursionError:
    os._exit({_TOO_DEEP})
except MemoryError:
    os._exit({_TOO_WIDE})
if not isinstance(event, dict):
    os._exit({_NO_JSON})
shown = [event.get(name) for name in sys.argv[1:]]
print(json.dumps([v[:100] if isinstance(v, str) else None for v in shown]), flush=True)
os._exit(0)
"""


class Apart:
    """One of them at a time: it takes up to MOST_MEMORY times its bytes."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()

    async def parse(self, body: bytes) -> Event:
        """Do what parse_event does, and hold the loop for a moment at most."""
        if len(body) <= SMALL_BYTES:
            return parse_event(body)
        if sum(map(body.count, (b",", b"[", b"{"))) <= MANY_VALUES:
            return parse_large_event(body)
        async with self._turn:
            try:
                return await _read(body)
            except OSError:  # no process can be made: better late than never
                return parse_event(body)


async def _read(body: bytes) -> Event:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-ISc",
        _program(),
        *SHOWN,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(READ_SECONDS):
            shown, _ = await process.communicate(body)
    except TimeoutError:
        raise Problem(errors.BUSY, Outcome.NOT_STORED) from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode == _NO_JSON:
        raise Problem(errors.MALFORMED_JSON, Outcome.NOT_STORED)
    if process.returncode == _TOO_DEEP:
        raise too_deep()
    if process.returncode == _TOO_WIDE:
        raise too_wide()
    if process.returncode != 0:  # it could not begin, or somebody ended it
        raise Problem(errors.BUSY, Outcome.NOT_STORED)
    return make_event(dict(zip(SHOWN, json.loads(shown), strict=True)), body)
