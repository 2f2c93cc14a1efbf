# SPDX-License-Identifier: Apache-2.0
"""Events as Hermes makes them, on the stand-in of its `lib`."""

from __future__ import annotations

import importlib
import sys
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from .source import TYPES

if TYPE_CHECKING:
    from .history import Object
    from .source import Values

_STAND_IN: Final = (
    Path(__file__).resolve().parents[2] / "sidecar" / "commands" / "stand_in"
)


@cache
def event_class() -> Any:
    """Give the stand-in's Event, loaded as the plugins load it."""
    if str(_STAND_IN) not in sys.path and "lib" not in sys.modules:
        sys.path.insert(0, str(_STAND_IN))
    return importlib.import_module("lib.datamodel.event").Event


@lru_cache(maxsize=4096)
def parsed(body: bytes) -> Any:
    """Read an event; the same bytes recur often."""
    return event_class().from_json(body.decode())


def new_event(category: str, kind: str, each: Object | None, attrs: Any) -> Any:
    """Make an event of an object, or of none."""
    return event_class()(
        evcategory=category,
        eventtype=kind,
        objtype=each and each[0],
        objpkey=each and each[1],
        objattrs={"key": each[1]} | attrs if kind == "added" and each else attrs,
    )


def schema(version: int) -> dict[str, Any]:
    """Give what a dataschema or an init-start carries."""
    return {kind: {"version": version} for kind in TYPES}


def changes_of(old: Values, new: Values) -> dict[str, Any]:
    """Give what a modified event carries (lib/datamodel/diffobject.py)."""
    return {
        "added": {name: new[name] for name in sorted(new) if name not in old},
        "modified": {
            name: new[name]
            for name in sorted(new)
            if name in old and new[name] != old[name]
        },
        "removed": {name: None for name in sorted(old) if name not in new},
    }
