# SPDX-License-Identifier: Apache-2.0
"""From a name to a connected socket: every address of it is tried (RFC 8305)."""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import suppress
from itertools import chain, zip_longest
from typing import Any, Final

STAGGER_SECONDS: Final = 0.25
"""How long one address is tried before the next one is, too."""

Address = tuple[socket.AddressFamily, tuple[Any, ...]]


async def dial(host: str, port: int, timeout_seconds: float) -> socket.socket:
    """Connect to the first address that answers; raise OSError, TimeoutError.

    An error of several addresses has them as its note.
    """
    addresses: list[Address] | None = None
    try:
        async with asyncio.timeout(timeout_seconds):
            addresses = in_turn(await resolve(host, port))
            return await first(addresses)
    except OSError as error:  # TimeoutError is one
        if addresses is None and isinstance(error, TimeoutError):
            silence = socket.gaierror(socket.EAI_AGAIN, "no name server answers")
            raise silence from None
        if addresses is not None and len(addresses) > 1:
            error.add_note(", ".join(str(where[0]) for _, where in addresses))
        raise


async def resolve(host: str, port: int) -> list[Address]:
    """Look a name up; raise OSError.

    In a thread that nobody waits for: where no name server answers it takes a minute,
    and the thread of an event loop would hold up the end of the process so long.
    """
    loop = asyncio.get_running_loop()
    found: asyncio.Future[list[Address]] = loop.create_future()

    def tell(result: list[Address] | OSError) -> None:
        if found.done():
            return
        if isinstance(result, OSError):
            found.set_exception(result)
        else:
            found.set_result(result)

    def look_up() -> None:
        result: list[Address] | OSError
        try:
            infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            result = [(family, address) for family, _, _, _, address in infos]
        except OSError as error:
            result = error
        except UnicodeError:  # no name that could be looked up
            result = socket.gaierror(socket.EAI_NONAME, "no name")
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(tell, result)

    threading.Thread(target=look_up, daemon=True, name="resolve").start()
    return await found


def in_turn(addresses: list[Address]) -> list[Address]:
    """Let the families take turns, the first one first: one of them may be dead."""
    families = dict.fromkeys(family for family, _ in addresses)
    of_each = [[one for one in addresses if one[0] == family] for family in families]
    turns = chain.from_iterable(zip_longest(*of_each))
    return [one for one in turns if one is not None]


async def first(addresses: list[Address]) -> socket.socket:
    """Try each, soon beside each other; raise the error of the last."""
    failure: OSError = socket.gaierror(socket.EAI_NONAME, "no address")
    waiting = list(reversed(addresses))
    trying: set[asyncio.Task[socket.socket]] = set()
    try:
        while waiting or trying:
            if waiting:
                trying.add(asyncio.create_task(_connect(waiting.pop())))
            done, trying = await asyncio.wait(
                trying,
                timeout=STAGGER_SECONDS if waiting else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            for task in done:
                error = task.exception()
                if error is None:
                    trying |= done - {task}
                    return task.result()
                if not isinstance(error, OSError):
                    raise error
                failure = error
    finally:
        for task in trying:
            task.cancel()
            task.add_done_callback(_close)
    raise failure


async def _connect(address: Address) -> socket.socket:
    family, where = address
    # asyncio turns Nagle off (TCP_NODELAY) only where it reads that this is TCP.
    connecting = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        connecting.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connecting, where)
    except BaseException:
        connecting.close()
        raise
    return connecting


def _close(task: asyncio.Task[socket.socket]) -> None:
    """Close what came second."""
    if not task.cancelled() and task.exception() is None:
        task.result().close()
