# SPDX-License-Identifier: Apache-2.0
"""From callbacks to coroutines.

What waits for an acknowledgement is told by a callback: a task and a future cost more
than the event (docs/adr/0010). Who does more than that awaits.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_T = TypeVar("_T")


async def await_callback(start: Callable[[Callable[[_T], None]], None]) -> _T:
    """Give a function a callback and wait for what that is told."""
    future: asyncio.Future[_T] = asyncio.get_running_loop().create_future()

    def tell(value: _T) -> None:
        if not future.done():  # else who waited has left
            future.set_result(value)

    start(tell)
    return await future
