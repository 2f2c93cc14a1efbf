# SPDX-License-Identifier: Apache-2.0
"""Known bugs of initsyncs in many requests, each put back alone."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final
from unittest.mock import patch

from sidecar.services import atomic_batch

from .seams import PRODUCERS, plugin_module

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    Context = AbstractContextManager[object]


@contextmanager
def _sends_in_close() -> Iterator[None]:
    """Send what was gathered, and the init-stop, in close().

    What close() raises is lost: Hermes takes the initsync for sent.
    """
    gathered = plugin_module(PRODUCERS, "gathered")
    plugin = plugin_module(PRODUCERS).NatsSidecarProducerPlugin
    send, close = plugin._send, plugin.close

    def send_but_stop(self: Any, event: Any) -> Any:
        if event.eventtype == "init-stop":
            self.stop = event
            return None
        return send(self, event)

    def send_and_close(self: Any) -> None:
        stop, self.stop = vars(self).get("stop"), None
        if stop is not None:
            with suppress(Exception):
                send(self, stop)
        close(self)

    with (
        patch.object(gathered, "MOST_EVENTS", 100),
        patch.multiple(plugin, _send=send_but_stop, close=send_and_close),
    ):
        yield


@contextmanager
def _stops_too_early() -> Iterator[None]:
    """Send the init-stop while objects are under way, with their L."""
    plugin = plugin_module(PRODUCERS).NatsSidecarProducerPlugin
    send = plugin._send

    def send_early(self: Any, event: Any) -> Any:
        if event.eventtype == "init-stop" and self._gathered is not None:
            self._gathered._send()
            self._drop_gathered()
        return send(self, event)

    with patch.object(plugin, "_send", send_early):
        yield


@contextmanager
def _chains_batches() -> Iterator[None]:
    """Send each batch while the one before is under way, with the offset behind that.

    On a connection of its own: a precondition is a number and names no predecessor.
    """
    module = plugin_module(PRODUCERS)
    gathered = plugin_module(PRODUCERS, "gathered").Gathered

    def send_ahead(self: Any) -> None:
        plugin = self._store.__self__
        if plugin._ended:
            raise module.NatsSidecarError(plugin._ended)
        if self._objects:
            batch = module.Batch(self._objects)
            self._objects, self._size_bytes = [], 0
            http = module.SidecarHttp(plugin._settings)
            headers = plugin._headers(batch, plugin._last, 15)
            http.begin_store(batch.body, headers, 15.0)
            # Where the init-stop stands, all before it does.
            plugin._last += batch.count
            self.chain = [*vars(self).get("chain", ()), http]

    with patch.object(gathered, "_send", send_ahead):
        yield


def _counts_a_batch_once() -> Context:
    """Say of each event of an atomic batch where the scan stands after the first."""

    async def of_the_first(publisher: Any, events: Any, last: int) -> Any:
        keyed = await with_scans(publisher, events, last)
        return [(key, each._replace(scan=keyed[0][1].scan)) for key, each in keyed]

    with_scans = atomic_batch._with_scans
    return patch.object(atomic_batch, "_with_scans", of_the_first)


BROKEN_BATCHES: Final[dict[str, Callable[[], Context]]] = {
    "sends-in-close": _sends_in_close,
    "stops-too-early": _stops_too_early,
    "chains-batches": _chains_batches,
    "counts-a-batch-once": _counts_a_batch_once,
}
