# SPDX-License-Identifier: Apache-2.0
"""In place of Hermes' programs, where there is no Hermes: `server`, `client-NAME`.

The server sends the users of its SQLite source, the client prints what it reads.
"""

from __future__ import annotations

import builtins
import importlib
import logging
import signal
import sqlite3
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml
from cerberus import Validator
from lib.datamodel.event import Event


def main(program: str) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    vars(builtins)["__hermes__"] = SimpleNamespace(logger=logging.getLogger("hermes"))
    config = yaml.safe_load(Path(f"hermes-{program}-config.yml").read_text("utf-8"))
    plugins = config["hermes"]["plugins"]
    settings = plugins["messagebus"]["nats_sidecar"]["settings"]
    if program == "server":
        with plugin("messagebus_producers", settings) as bus:
            send_users(bus, plugins["datasources"]["campus"]["settings"]["uri"])
    else:
        with plugin("messagebus_consumers", settings) as bus:
            print_events(bus)


def plugin(family: str, settings: dict[str, Any]) -> Any:
    folder = Path(__file__).parent / "plugins" / family / "nats_sidecar"
    schema = (folder / "config-schema-plugin-nats_sidecar.yml").read_text("utf-8")
    validator = Validator(yaml.safe_load(schema))
    assert validator.validate(settings), validator.errors
    module = importlib.import_module(f"plugins.{family}.nats_sidecar.nats_sidecar")
    plugin_class = getattr(module, module.HERMES_PLUGIN_CLASSNAME)
    return plugin_class(validator.normalized(settings))


def send_users(bus: Any, source: str) -> None:
    for number, login in sqlite3.connect(source).execute("SELECT id, login FROM users"):
        attributes = {"id": number, "login": login}
        bus.send(
            Event(
                evcategory="base",
                eventtype="added",
                objtype="Users",
                objpkey=number,
                objattrs=attributes,
            )
        )
    signal.pause()


def print_events(bus: Any) -> None:
    bus.seekToBeginning()
    while True:
        for event in bus:
            sys.stdout.write(f"{event.eventtype} {event.objattrs}\n")
            sys.stdout.flush()


main(sys.argv[1])
