# SPDX-License-Identifier: Apache-2.0
"""The part of Hermes' lib.plugins that bus plugins rest on, for demo and tests.

Written from the contract (Hermes v1.0.9, AbstractMessageBusProducerPlugin and
AbstractMessageBusConsumerPlugin); with HERMES_HOME the tests use the real one.
"""

from __future__ import annotations

import builtins
from typing import Any


class FailedToSendEventError(Exception):
    """An event was not sent; hermes-server ends its pass."""


class _BusPlugin:
    def __init__(self, settings: dict[str, Any]) -> None:
        self._settings = settings.copy()

    def __enter__(self) -> Any:
        self.open()
        return self

    def __exit__(self, kind: object, *_: object) -> bool:
        try:
            self.close()
        except Exception as failure:  # noqa: BLE001 - as Hermes does
            _logger().error("Error when disconnecting: %s", failure)
            return False
        return kind is None

    def open(self) -> Any:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


class AbstractMessageBusProducerPlugin(_BusPlugin):
    """What hermes-server sends events with."""

    def _send(self, event: Any) -> Any:
        raise NotImplementedError

    def send(self, event: Any) -> None:
        """Send one event; raise FailedToSendEventError."""
        try:
            self._send(event)
        except Exception as error:  # noqa: BLE001 - as Hermes does
            _logger().critical("Failed to send event: %s", error)
            raise FailedToSendEventError(str(error)) from None


class AbstractMessageBusConsumerPlugin(_BusPlugin):
    """What hermes-clients read events with."""


def _logger() -> Any:
    return builtins.__hermes__.logger  # type: ignore[attr-defined]
