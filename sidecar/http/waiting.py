# SPDX-License-Identifier: Apache-2.0
"""Responses that may take long: who asked may leave, and sees that it is alive."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, Final, TypeVar

from starlette.requests import ClientDisconnect
from starlette.responses import StreamingResponse

from sidecar import errors
from sidecar.errors import Problem
from sidecar.http.protocol import UNIX
from sidecar.http.responses import PRIVATE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    from starlette.requests import Request
    from starlette.types import Scope

    from sidecar.services.daemon import Daemon

_T = TypeVar("_T")

SLOW_SECONDS: Final = 2.0
"""How long after its time a response may come before its caller sees that it comes."""

BYTE_SECONDS: Final = 1.0


async def done_or_slow(
    daemon: Daemon,
    request: Request,
    work: asyncio.Task[_T],
    until_slow: Coroutine[Any, Any, None],
    document: Callable[[_T], dict[str, Any]],
) -> _T | StreamingResponse:
    """Give what the work gives; or, where that is late, a response that goes on."""
    try:
        await _while_wanted(daemon, request, until_slow)
    except BaseException:
        work.cancel()
        raise
    if work.done():
        return work.result()
    body = _white_space(daemon, work, peer_of(request.scope), document)
    return StreamingResponse(body, headers=PRIVATE, media_type="application/json")


async def _white_space(
    daemon: Daemon,
    work: asyncio.Task[_T],
    peer: str,
    document: Callable[[_T], dict[str, Any]],
) -> AsyncIterator[bytes]:
    """Give white space, which JSON allows, until the work is done; then its document.

    So nobody on the way takes the sidecar for dead. What fails by then is said in the
    place of the document, and the caller asks again.
    """
    try:
        while not (work.done() or daemon.stopping.is_set()):
            yield b" "
            await asyncio.wait({work}, timeout=BYTE_SECONDS)
        if not work.done():
            yield json.dumps(Problem(errors.STOPPING).document()).encode()
            return
        with daemon.pages.reserve(peer) as held:
            body = json.dumps(document(work.result())).encode()
            held.add(len(body))
            yield body
    except Problem as problem:
        yield json.dumps(problem.document()).encode()
    finally:
        work.cancel()


def peer_of(scope: Scope) -> str:
    """Name who asks: an address, or a process at the Unix socket."""
    host, number = scope.get("client") or ("", 0)
    return f"process {number} at the Unix socket" if host == UNIX else str(host)


async def _while_wanted(
    daemon: Daemon, request: Request, work: Coroutine[Any, Any, None]
) -> None:
    """Do the work unless the caller leaves or the daemon stops."""
    doing = asyncio.create_task(work)
    ends = [
        asyncio.create_task(_leave(request)),
        asyncio.create_task(daemon.stopping.wait()),
    ]
    try:
        await asyncio.wait({doing, *ends}, return_when=asyncio.FIRST_COMPLETED)
        if doing.done():
            doing.result()
        elif daemon.stopping.is_set():
            raise Problem(errors.STOPPING)
        else:
            raise ClientDisconnect
    finally:
        for task in (doing, *ends):
            task.cancel()


async def _leave(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
