# SPDX-License-Identifier: Apache-2.0
"""What a user would write instead of a sidecar: nats-py in a thread of the process.

It stands alone, since it is also copied beside Hermes.
"""

from __future__ import annotations

import asyncio
import threading
import uuid
from typing import TYPE_CHECKING, Any

import nats

if TYPE_CHECKING:
    from collections.abc import Coroutine

_SECONDS = 10


class InProcessNats:
    """Publishes on an event loop in a thread and waits for the acknowledgement."""

    def __init__(self, url: str, stream: str) -> None:
        self._url = url
        self._stream = stream
        self._loop: asyncio.AbstractEventLoop | None = None

    def open(self) -> None:
        """Start thread and connection; they stay from pass to pass."""
        if self._loop is not None:
            return
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self._nats = self._wait(nats.connect(self._url))
        self._js = self._nats.jetstream()

    def close(self) -> None:
        pass

    def send(self, event: Any) -> None:
        self._wait(
            self._js.publish(
                f"{self._stream}.{event.evcategory}",
                event.to_json().encode(),
                stream=self._stream,
                headers={"Nats-Msg-Id": str(uuid.uuid4())},
            )
        )

    def stop(self) -> None:
        """End the connection and its loop."""
        assert self._loop is not None
        self._wait(self._nats.close())
        self._loop.call_soon_threadsafe(self._loop.stop)

    def _wait(self, work: Coroutine[Any, Any, Any]) -> Any:
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_SECONDS)
