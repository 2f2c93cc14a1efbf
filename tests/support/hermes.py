# SPDX-License-Identifier: Apache-2.0
"""Our plugins, loaded as Hermes loads them: by module path, class name and schema.

`lib` is our stand-in, or with HERMES_HOME that of a real Hermes.
"""

from __future__ import annotations

import builtins
import importlib
import logging
import os
import shutil
import sys
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml
from cerberus import Validator

from sidecar.commands.install import install_plugins

from .sidecar import event

STAND_IN = (
    Path(__file__).resolve().parent.parent.parent / "sidecar" / "commands" / "stand_in"
)


def make_hermes_home(directory: Path) -> Path:
    """Copy Hermes, or the stand-in, and install our plugins into the copy.

    A copy, since Hermes finds its plugins beside its own resolved file; without what
    begins with a dot, which may be a repository or a virtual environment.
    """
    source = Path(os.environ.get("HERMES_HOME") or STAND_IN)
    home = directory / "hermes"
    shutil.copytree(source, home, ignore=shutil.ignore_patterns(".*", "__pycache__"))
    (home / "plugins").mkdir(exist_ok=True)
    install_plugins(home / "plugins")
    return home


def use_hermes_home(home: Path) -> None:
    """Put it first on the path and make the logger that Hermes' programs make."""
    sys.path.insert(0, str(home))
    vars(builtins)["__hermes__"] = SimpleNamespace(
        appname="hermes-test", logger=logging.getLogger("hermes-test")
    )


def load_plugin(home: Path, family: str, settings: dict[str, Any]) -> Any:
    """Do what HermesConfig._loadPlugin does; raise ValueError for wrong settings."""
    module = importlib.import_module(f"plugins.{family}.nats_sidecar.nats_sidecar")
    plugin_class = getattr(module, module.HERMES_PLUGIN_CLASSNAME)
    validator = _validator(
        home / f"plugins/{family}/nats_sidecar/config-schema-plugin-nats_sidecar.yml"
    )
    if not validator.validate(settings):
        raise ValueError(str(validator.errors))
    return plugin_class(validator.normalized(settings))


@cache
def _validator(schema: Path) -> Any:
    """Read a schema, once: to parse YAML takes longer than most tests of a plugin."""
    return Validator(yaml.safe_load(schema.read_text("utf-8")))


def new_event(category: str = "base", kind: str = "added", **values: Any) -> Any:
    """Make an Event of the Hermes in use."""
    event_class = importlib.import_module("lib.datamodel.event").Event
    return event_class.from_json(event(category, eventtype=kind, **values).decode())
