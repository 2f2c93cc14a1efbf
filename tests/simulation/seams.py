# SPDX-License-Identifier: Apache-2.0
"""The few names of real code that a simulation replaces: clocks, sockets, nats-py.

Everything else of the plugins and of the sidecar runs as it is (docs/simulation.md).
"""

from __future__ import annotations

import builtins
import importlib
import logging
import sys
import time
import traceback
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final
from unittest.mock import patch

import structlog
import yaml
from cerberus import Validator

from sidecar.jetstream import connection, connection_errors
from sidecar.services import atomic_batch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, MutableMapping

    from .clock import VirtualLoop

_ROOT: Final = Path(__file__).resolve().parents[2]
_STUBS: Final = _ROOT / "plugin_stub"
_STAND_IN: Final = _ROOT / "sidecar" / "commands" / "stand_in"
PRODUCERS, CONSUMERS = "messagebus_producers", "messagebus_consumers"


class _Time:
    """As much of the module `time` as our code uses."""

    def __init__(self, loop: VirtualLoop) -> None:
        self.monotonic = loop.time
        self.time = loop.wall


@contextmanager
def replaced(
    loop: VirtualLoop,
    sockets: Any,
    nats_client: Callable[..., Any],
    record: Callable[..., None],
    batch_events: int,
) -> Iterator[None]:
    """Let the code see virtual time, the modelled network and our log.

    A run has few objects: the plugin sends so many of an initsync in one request, and
    the sidecar even two of them as an atomic batch.
    """
    virtual_time = _Time(loop)
    with ExitStack() as stack:
        for name, module in list(sys.modules.items()):
            if name.startswith("sidecar.") and vars(module).get("time") is time:
                stack.enter_context(patch.object(module, "time", virtual_time))
        stack.enter_context(patch.object(connection, "NatsClient", nats_client))
        for family in (PRODUCERS, CONSUMERS):
            http = plugin_module(family, "sidecar_http")
            stack.enter_context(patch.object(http, "socket", sockets))
            if vars(http).get("time") is time:
                stack.enter_context(patch.object(http, "time", virtual_time))
        stack.enter_context(patch.object(atomic_batch, "LEAST_EVENTS", 2))
        gathered = plugin_module(PRODUCERS, "gathered")
        stack.enter_context(patch.object(gathered, "MOST_EVENTS", batch_events))
        hermes = SimpleNamespace(appname="hermes-simulation", logger=_logger(record))
        stack.enter_context(patch.object(builtins, "__hermes__", hermes, create=True))
        # A killed process ends its requests with a cancellation that nobody sees.
        uvicorn = logging.getLogger("uvicorn.error")
        stack.enter_context(patch.object(uvicorn, "disabled", new=True))
        before = structlog.get_config()
        stack.callback(lambda: structlog.configure(**before))
        _log_to(record)
        yield


def plugin_module(family: str, name: str = "nats_sidecar") -> Any:
    """Load a plugin's module on the stand-in of Hermes' `lib`."""
    for folder in (str(_STAND_IN), str(_STUBS)):
        if folder not in sys.path:
            sys.path.insert(0, folder)
    return importlib.import_module(f"{family}.nats_sidecar.{name}")


@cache
def _schema(family: str) -> Any:
    file = _STUBS / family / "nats_sidecar" / "config-schema-plugin-nats_sidecar.yml"
    return yaml.safe_load(file.read_text("utf-8"))


def plugin_settings(family: str, **settings: Any) -> dict[str, Any]:
    """Check and complete a plugin's settings as Hermes does."""
    validator = Validator(_schema(family))
    if not validator.validate(settings):
        raise ValueError(str(validator.errors))
    return dict(validator.normalized(settings))


class _ToHistory(logging.Handler):
    def __init__(self, record: Callable[..., None]) -> None:
        super().__init__()
        self._record = record

    def emit(self, record: logging.LogRecord) -> None:
        self._record("hermes log", record.getMessage())


def _logger(record: Callable[..., None]) -> logging.Logger:
    logger = logging.getLogger("hermes-simulation")
    logger.propagate = False
    logger.handlers = [_ToHistory(record)]
    return logger


def _is_of_an_answer() -> bool:
    """Tell whether it is logged of what NATS said, and not of an error of our own."""
    frames = traceback.walk_stack(None)
    told = connection_errors.unforeseen.__code__
    return any(frame.f_code is told for frame, _ in frames)


def _log_to(record: Callable[..., None]) -> None:
    def tell(_: Any, level: str, line: MutableMapping[str, Any]) -> Any:
        event = line.pop("event")
        if event == "internal_error":
            record("UNFORESEEN" if _is_of_an_answer() else "INTERNAL", "%s", line)
        record("log", "%s %s %s", level, event, line)
        raise structlog.DropEvent

    structlog.configure(
        processors=[tell],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        cache_logger_on_first_use=False,
    )
