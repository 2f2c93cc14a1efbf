# SPDX-License-Identifier: Apache-2.0
"""Drives both plugins once through their contract, with any Python from 3.10.

Arguments: a Hermes with the plugins in it, a site-packages directory with Cerberus and
PyYAML, the sidecar's URL. Nothing of the running environment is imported.
"""

from __future__ import annotations

import base64
import builtins
import importlib
import json
import logging
import os
import sys
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any


def main(home: Path, site_packages: str, url: str) -> None:
    sys.path.insert(0, str(home))
    sys.path.append(site_packages)
    logger = logging.getLogger("hermes")
    vars(builtins)["__hermes__"] = SimpleNamespace(logger=logger)
    event_class = importlib.import_module("lib.datamodel.event").Event
    attributes = {
        "name": "Zoé Dœuff",
        "photo": f"HermesBytes({base64.b64encode(bytes(range(256))).decode()})",
    }
    events = [
        event_class.from_json(
            json.dumps(
                {
                    "evcategory": category,
                    "eventtype": "added",
                    "objtype": "Users",
                    # Of this process alone: those of another would be recognised.
                    "objpkey": f"{os.getpid()}-{number}",
                    "objattrs": attributes,
                }
            )
        )
        for number, category in enumerate(["base", "initsync", "base"])
    ]
    producer = _load(home, "messagebus_producers", {"url": url})
    with producer:
        for event in events:
            producer.send(event)
    first = producer._last - 2
    consumer = _load(home, "messagebus_consumers", {"url": url})
    consumer.setTimeout(100)
    with consumer:
        consumer.seek(first)
        read = list(consumer)
        consumer.seek(first)
        found = consumer.findNextEventOfCategory("initsync")
        try:
            consumer.seek(1)
        except IndexError:
            pass
        else:
            raise AssertionError("no IndexError")
    assert [event.to_json() for event in read] == [e.to_json() for e in events]
    assert [event.offset for event in read] == [first, first + 1, first + 2]
    assert read[0].timestamp.tzinfo is None
    assert abs(datetime.now() - read[0].timestamp) < timedelta(minutes=5)  # noqa: DTZ005
    assert found.offset == first + 1


def _load(home: Path, family: str, settings: dict[str, Any]) -> Any:
    yaml = importlib.import_module("yaml")
    cerberus = importlib.import_module("cerberus")
    module = importlib.import_module(f"plugins.{family}.nats_sidecar.nats_sidecar")
    schema = home.joinpath(
        "plugins", family, "nats_sidecar", "config-schema-plugin-nats_sidecar.yml"
    )
    validator = cerberus.Validator(yaml.safe_load(schema.read_text("utf-8")))
    assert validator.validate(settings), validator.errors
    plugin_class = getattr(module, module.HERMES_PLUGIN_CLASSNAME)
    plugin = plugin_class(validator.normalized(settings))
    if family == "messagebus_consumers":
        plugin._sleep = lambda _: None  # the pause before an IndexError
    return plugin


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
