# SPDX-License-Identifier: Apache-2.0
"""Known bugs of what is recognised after a kill, each put back alone."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Final
from unittest.mock import patch

from sidecar.model import last_pass
from sidecar.model.event import parse_head
from sidecar.model.last_pass import PassReader
from sidecar.model.producer_key import parse_producer_key
from sidecar.services.last_passes import LastPasses

from .seams import PRODUCERS, plugin_module

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    Context = AbstractContextManager[object]


def _recognises_an_older_event() -> Context:
    """Compare with the first event that the pass has of an object."""
    real = PassReader._take_base

    def take_base(self: Any, *taken: Any) -> None:
        older = dict(self._newest)
        real(self, *taken)
        self._newest.update(
            {digest: older[digest] for digest in self._newest if digest in older}
        )

    return patch.object(PassReader, "_take_base", take_base)


class _AnyPass(int):
    def __eq__(self, _: object) -> bool:
        return True

    __hash__ = int.__hash__


def _recognises_any_pass() -> Context:
    """Compare with the newest event of an object, of whatever pass it is."""
    real = LastPasses._read

    async def read(self: Any, start: int, *rest: Any) -> Any:
        return (await real(self, _AnyPass(0), *rest))._replace(start=start)

    return patch.object(LastPasses, "_read", read)


def _knows_no_attempts() -> Context:
    """Let a removal spare what its process had sent in any attempt at the pass."""

    def parse(key: str | None) -> Any:
        parsed = parse_producer_key(key)
        return parsed and parsed._replace(attempt=1)

    return patch.object(last_pass, "parse_producer_key", parse)


def _lets_a_doubt_open() -> Context:
    """End a pass in which another wrote, whatever is still in doubt."""
    plugin = plugin_module(PRODUCERS).NatsSidecarProducerPlugin
    return patch.object(plugin, "_learn_behind", lambda *_: None)


@contextmanager
def _recognises_an_initsync() -> Iterator[None]:
    """Compare the events of an initsync, too, with those of one that was cut off."""
    plugin = plugin_module(PRODUCERS).NatsSidecarProducerPlugin
    sent_class = plugin_module(PRODUCERS, "doubts").Sent
    real_take, real_send = PassReader.take, plugin._send
    real_init = sent_class.__init__

    def take(self: Any, message: Any) -> None:
        real_take(self, message)
        if message is not None and message.category == "initsync":
            head = parse_head(message.body)
            names = head.get("objtype"), head.get("objpkey")
            digest = last_pass.digest_of(self._process, *names)
            self._newest[digest] = last_pass._Newest(message.sequence, None)

    def send(self: Any, event: Any) -> Any:
        if event.evcategory == "initsync":
            self._begin_pass()
        if self._gathered is not None and event.eventtype == "added":
            sent = sent_class(self._new_key(), event)
            if self._is_recognised(sent):
                return None
        return real_send(self, event)

    def init(self: Any, *arguments: Any) -> None:
        real_init(self, *arguments)
        self.may_come_again = self.may_come_again or self.is_of_initsync

    with ExitStack() as stack:
        stack.enter_context(patch.object(sent_class, "__init__", init))
        stack.enter_context(patch.object(PassReader, "take", take))
        stack.enter_context(patch.object(plugin, "_send", send))
        yield


def _compares_no_bytes() -> Context:
    """Take any event of an object for the one that it was."""
    real = LastPasses.match

    async def match(self: Any, *asked: Any, **how: Any) -> Any:
        return (await real(self, *asked, **how))._replace(matches=True)

    return patch.object(LastPasses, "match", match)


def _forgets_rows_of_deaths() -> Context:
    """Let each process begin a pass of its own, and not go on with the dead one's."""
    plugin = plugin_module(PRODUCERS).NatsSidecarProducerPlugin
    real = plugin._begin_pass

    def begin_pass(self: Any) -> None:
        is_first = self._pass is None
        real(self)
        if is_first:
            self._pass = self._last

    return patch.object(plugin, "_begin_pass", begin_pass)


BROKEN_KILLS: Final[dict[str, Callable[[], Context]]] = {
    "recognises-an-older-event": _recognises_an_older_event,
    "recognises-any-pass": _recognises_any_pass,
    "recognises-an-initsync": _recognises_an_initsync,
    "knows-no-attempts": _knows_no_attempts,
    "lets-a-doubt-open": _lets_a_doubt_open,
    "compares-no-bytes": _compares_no_bytes,
    "forgets-rows-of-deaths": _forgets_rows_of_deaths,
}
