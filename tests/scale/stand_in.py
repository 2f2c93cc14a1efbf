# SPDX-License-Identifier: Apache-2.0
"""hermes-server's stand-in: the real producer plugin, driven directly."""

from __future__ import annotations

import json
import time
import uuid
from typing import TYPE_CHECKING, Any

from support.hermes import load_plugin
from support.jetstream import RawNatsClient

from sidecar.model.scan import Scan

from .bus import STREAM, Bus
from .population import make_event

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from support.sidecar import SidecarProcess

    from .population import StandInEvent

_WITHOUT_ANSWER = 499
"""nats-server drops what is beyond 10,000 messages that wait to be stored."""


class Producer:
    """Sends passes as hermes-server does."""

    def __init__(self, home: Path, sidecar: SidecarProcess) -> None:
        settings = {"url": sidecar.url}
        self._plugin = load_plugin(home, "messagebus_producers", settings)

    def send(self, events: Iterable[StandInEvent]) -> float:
        """Send a pass; give its seconds."""
        with self._plugin as plugin:
            began = time.monotonic()
            for event in events:
                plugin._send(event)
            return time.monotonic() - began

    def probe(self) -> int:
        """Send one change until it is stored; give its offset."""
        event = make_event("base", "modified", "Users", 1, {"modified": {"phone": "1"}})
        while True:
            try:
                with self._plugin as plugin:
                    if offset := plugin._send(event):
                        return int(offset)
            except Exception:  # noqa: BLE001 - as hermes-server, which tries again
                time.sleep(0.1)


def fill(bus: Bus, events: Iterable[StandInEvent], total: int) -> None:
    """Store so many events as the sidecar would, with its headers, from offset 1 on.

    Most of them are stored without an answer: the fence says whether one was lost.
    """
    scan = Scan()
    start = f"{uuid.uuid4()}"[:24]
    with RawNatsClient(bus.nodes[0].port) as operator:
        for offset, event in enumerate(events, 1):
            headers = _headers(event, f"{start}0-1-{offset}", offset - 1)
            if event.evcategory == "initsync":
                scan = scan.after(offset, event.eventtype)
                headers["Hermes-Initsync"] = scan.header or ""
            subject, body = f"{STREAM}.{event.evcategory}", event.text.encode()
            if offset % (_WITHOUT_ANSWER + 1) and offset != total:
                operator.send(subject, body, headers)
            else:
                _check(operator.ask(subject, body, headers), offset)


def _headers(event: StandInEvent, key: str, last: int) -> dict[str, str]:
    headers = {
        "Nats-Msg-Id": key,
        "Nats-Expected-Stream": STREAM,
        "Nats-Expected-Last-Sequence": str(last),
        "Hermes-Event-Type": event.eventtype,
    }
    if event.objtype is not None:
        headers["Hermes-Object-Type"] = event.objtype
    return headers


def _check(answer: bytes, offset: int) -> None:
    document: dict[str, Any] = json.loads(answer)
    assert document.get("seq") == offset, document
