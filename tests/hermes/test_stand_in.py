# SPDX-License-Identifier: Apache-2.0
"""Our stand-in, which carries the contract in CI, does as the real Hermes does."""

from __future__ import annotations

import importlib
import importlib.util
import json
from typing import TYPE_CHECKING, Any

import pytest
from support.hermes import STAND_IN

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

VALUES = {
    "text": {"name": "L\u00e9a \u1ecckaf\u1ecd \U0001f600", "empty": "", "none": None},
    "numbers": {"int": 2**70, "float": 1.5, "bool": True},
    "not a number": {"nan": float("nan"), "inf": float("inf")},
    "lone surrogate": {"name": "\ud800"},
    "bytes": {"photo": "HermesBytes(AAEC/w==)"},
    "time": {"hired": "HermesDatetime(2024-02-29T08:00:00Z)"},
    "lists": {"jobs": ["a", "b"], "nested": {"deep": [1, {"x": None}]}},
    "difference": {"added": {}, "modified": {"a": 1}, "removed": {"b": None}},
}


def stand_in(name: str) -> ModuleType:
    """Load a module of the stand-in beside the real one of the same name."""
    path = STAND_IN.joinpath(*name.split(".")).with_suffix(".py")
    spec = importlib.util.spec_from_file_location(f"stand_in_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def events(text: str) -> list[Any]:
    """Read an event with Hermes' own class and with the stand-in's."""
    real = importlib.import_module("lib.datamodel.event")
    return [each.Event.from_json(text) for each in (real, stand_in(real.__name__))]


@pytest.mark.parametrize("objattrs", VALUES.values(), ids=VALUES)
@pytest.mark.parametrize("objpkey", [None, 7, "key", [10, 3]])
def test_the_event_of_the_stand_in_reads_and_writes_what_hermes_does(
    hermes_home: Path, objattrs: dict[str, Any], objpkey: Any
) -> None:
    assert (hermes_home / "hermes.py").exists()
    text = json.dumps(
        {
            "evcategory": "base",
            "eventtype": "added",
            "objtype": "Users",
            "objpkey": objpkey,
            "objattrs": objattrs,
            "step": 1,
            "isPartiallyProcessed": True,
        }
    )

    real, ours = events(text)

    assert ours.to_json() == real.to_json()
    assert repr(ours.objattrs) == repr(real.objattrs)
    assert (ours.offset, ours.timestamp) == (real.offset, real.timestamp)


def outcome(plugins: ModuleType, caplog: pytest.LogCaptureFixture) -> list[Any]:
    """Say what a plugin that fails to send, and to close, looks like from outside."""
    caplog.clear()

    base: Any = plugins.AbstractMessageBusProducerPlugin

    class Failing(base):  # type: ignore[misc] # of whichever Hermes it is
        def open(self) -> None:
            self._settings["opened"] = True

        def close(self) -> None:
            raise OSError("not closed")

        def _send(self, event: object) -> None:
            raise ValueError(f"not sent: {event}")

    settings = {"url": "x"}
    plugin = Failing(settings)
    with pytest.raises(plugins.FailedToSendEventError) as failure, plugin as entered:
        entered.send("E")
    return [
        str(failure.value),
        failure.value.__suppress_context__,
        entered is plugin,
        settings,
        plugin._settings,
        [record.levelname for record in caplog.records],
        caplog.messages[0],
    ]


def test_the_plugin_base_of_the_stand_in_fails_as_that_of_hermes_does(
    hermes_home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert (hermes_home / "hermes.py").exists()
    real = outcome(importlib.import_module("lib.plugins"), caplog)
    ours = outcome(stand_in("lib.plugins"), caplog)
    assert ours == real
