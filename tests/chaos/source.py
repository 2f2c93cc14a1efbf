# SPDX-License-Identifier: Apache-2.0
"""A model of what hermes-server keeps: a source, its cache, the difference.

Few objects have few values, so a source often goes back to an older one, objects are
removed and added again, and byte for byte the same event is computed many times. The
cache follows the real one (Hermes 1.0.9, server/hermesserver.py): it takes each event
that returned; its file is written after all events of one type, and when one failed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from support.hermes import new_event

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

_OBJECTS: Final = 24
_FIXED: Final = 60
"""Objects that never change, and of which an initsync tells, too: an atomic batch needs
more events than others."""

_KINDS: Final = ("added", "modified", "removed")
"""In the order of Hermes' passes."""

_VALUES: Final = {None: 22, 1: 30, 2: 24, 3: 20, 4: 4, 5: 0.2}
"""How often an object takes a value; None: it is removed."""

_SIZES: Final = {1: 0, 2: 60, 3: 200, 4: 5_000, 5: 60_000}


@dataclass(frozen=True)
class Planned:
    """An event that Hermes computed, and what its cache takes when it is stored."""

    event: Any
    body: bytes
    kind: str
    pkey: int | None = None
    value: int | None = None
    secret: int | None = None


@dataclass
class Source:
    """The objects of one hermes-server by primary key, and what it knows of them."""

    objtype: str
    rng: random.Random
    values: dict[int, int] = field(default_factory=dict)
    secrets: dict[int, int] = field(default_factory=dict)
    cache: dict[int, int] = field(default_factory=dict)
    saved: dict[int, int] = field(default_factory=dict)
    _made: dict[tuple[Any, ...], tuple[Any, bytes]] = field(default_factory=dict)
    _tried_pkey: int | None = None
    _tried: int | None = None

    # -- What happens to it ------------------------------------------------------------

    def change(self) -> None:
        """Give some objects a value, which they may have had before."""
        count = self.rng.randint(1, _OBJECTS)
        for pkey in self.rng.sample(range(_OBJECTS), count):
            self._set(pkey)
        if self.values and self.rng.random() < 0.2:
            # The same password may be set twice: nothing may be taken for known.
            pkey = self.rng.choice(list(self.values))
            self.secrets[pkey] = self.rng.randint(1, 2)

    def change_after_failure(self, failed: Planned) -> None:
        """Go on, or not, or let all go back but the object that failed.

        That one may change once more, or back to what was tried before: so it is tried
        with one value, another, and the first again, and nothing comes in between.
        """
        draw = self.rng.random()
        if draw < 0.2:
            self.change()
        if draw < 0.4 or failed.pkey is None:
            return
        for pkey in range(_OBJECTS):
            if pkey != failed.pkey:
                self._put(pkey, self.cache.get(pkey))
        tried = self._tried if failed.pkey == self._tried_pkey else None
        self._tried_pkey, self._tried = failed.pkey, failed.value
        if draw > 0.8:
            self._put(failed.pkey, tried)
        elif draw > 0.55:
            self._set(failed.pkey)

    def _set(self, pkey: int) -> None:
        values, weights = list(_VALUES), list(_VALUES.values())
        self._put(pkey, self.rng.choices(values, weights)[0])

    def _put(self, pkey: int, value: int | None) -> None:
        if value is None:
            self.values.pop(pkey, None)
            self.secrets.pop(pkey, None)
        else:
            self.values[pkey] = value

    # -- What Hermes computes ----------------------------------------------------------

    def difference(self) -> Iterator[list[Planned]]:
        """Give the events of a pass by type; each type is computed when it is due."""
        for kind in _KINDS:
            pkeys = [pkey for pkey in range(_OBJECTS) if self._kind(pkey) == kind]
            self.rng.shuffle(pkeys)
            yield [self._planned(kind, pkey) for pkey in pkeys]

    def _kind(self, pkey: int) -> str | None:
        old, new = self.cache.get(pkey), self.values.get(pkey)
        if new is None:
            return "removed" if old is not None else None
        if old is None:
            return "added"
        return "modified" if old != new or pkey in self.secrets else None

    def _planned(self, kind: str, pkey: int) -> Planned:
        value, secret = self.values.get(pkey), self.secrets.get(pkey)
        attributes: dict[str, Any] = {}
        if kind == "added":
            attributes = _attributes(value) | _password(secret)
        elif kind == "modified":
            changed = _attributes(value) if value != self.cache[pkey] else {}
            attributes = {
                "added": _password(secret),
                "modified": changed,
                "removed": {},
            }
        key = (kind, pkey, bool(attributes.get("modified")), value, secret)
        event, body = self._make(key, "base", kind, pkey, attributes)
        return Planned(event, body, kind, pkey, value, secret)

    def initsync(self) -> list[Planned]:
        """Give a whole initsync: all that the cache holds, and what never changes."""
        fixed = dict.fromkeys(range(_OBJECTS, _OBJECTS + _FIXED), 1)
        rows = [
            self._plain("initsync", "added", pkey, _attributes(value))
            for pkey, value in (self.cache | fixed).items()
        ]
        start = self._plain("initsync", "init-start", None, {"schema": 1})
        return [start, *rows, self._plain("initsync", "init-stop", None, {})]

    def schema(self) -> Planned:
        """Give a new schema, which may be an old one."""
        version = self.rng.randint(1, 3)
        return self._plain("base", "dataschema", None, {"schema": version})

    def _plain(
        self, category: str, kind: str, pkey: int | None, attributes: dict[str, Any]
    ) -> Planned:
        key = (category, kind, pkey, attributes.get("value"), attributes.get("schema"))
        return Planned(*self._make(key, category, kind, pkey, attributes), kind)

    def _make(
        self,
        key: tuple[Any, ...],
        category: str,
        kind: str,
        pkey: int | None,
        attributes: dict[str, Any],
    ) -> tuple[Any, bytes]:
        if (made := self._made.get(key)) is None:
            objtype = None if pkey is None else self.objtype
            values = {"objtype": objtype, "objpkey": pkey, "objattrs": attributes}
            event = new_event(category, kind, **values)
            made = self._made[key] = event, event.to_json().encode()
        return made

    # -- Its cache ---------------------------------------------------------------------

    def commit(self, planned: Planned) -> None:
        """Take what was stored; a secret is wiped where it came from."""
        if planned.pkey is None:
            return
        if planned.kind == "removed":
            del self.cache[planned.pkey]
            return
        assert planned.value is not None
        self.cache[planned.pkey] = planned.value
        if planned.secret is not None:
            self.secrets.pop(planned.pkey, None)

    def save(self) -> None:
        """Write the cache file."""
        self.saved = dict(self.cache)

    def restart(self) -> None:
        """Begin with what the cache file holds."""
        self.cache = dict(self.saved)


def _attributes(value: int | None) -> dict[str, Any]:
    assert value is not None
    return {"value": value, "padding": "x" * _SIZES[value]}


def _password(secret: int | None) -> dict[str, Any]:
    return {} if secret is None else {"password": f"secret {secret}"}
