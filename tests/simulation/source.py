# SPDX-License-Identifier: Apache-2.0
"""A data source of Hermes whose values go back and forth between a few.

So an event that was sent recurs byte for byte, which is where a bus can take one for
another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from .history import Object

SECRET: Final = "password"
TYPES: Final = ("Users", "Groups", "GroupsMembers")
_KEYS: Final[dict[str, list[Any]]] = {
    "Users": [1, 2, 3, 4, 5, 6, 7, 8],
    "Groups": ["staff", "étudiants", "invités"],
    "GroupsMembers": [("staff", 1), ("staff", 2), ("étudiants", 3), ("invités", 4)],
}
OBJECTS: Final[list[Object]] = [(kind, key) for kind in TYPES for key in _KEYS[kind]]
_SECRETS: Final = ("correct horse", "battery staple")

Values = dict[str, Any]
"""Attributes of an object; never changed in place."""


class Source:
    """A few objects of three types; users have a password that Hermes wipes."""

    def __init__(
        self,
        rng: random.Random,
        clock: Callable[[], float],
        changing: int = len(OBJECTS),
        blob_bytes: int = 1,
    ) -> None:
        """Begin with values; of the objects only the first `changing` ones change.

        Their names are so long.
        """
        self._blob_bytes = blob_bytes
        self._changing = OBJECTS[:changing]
        self._rng = rng
        self._clock = clock
        self.objects: dict[Object, Values] = {}
        self.last_secret: dict[Object, str] = {}  # also where it was wiped
        self.schema = 1
        self.changed_at = clock()
        self._before: list[tuple[Object, Values | None]] = []  # to go back to
        for each in OBJECTS:
            if rng.random() < 0.6:
                self.objects[each] = self._values()

    def change(self) -> Object:
        """Change one object: often back to what it was a moment ago."""
        self.changed_at = self._clock()
        if self._before and self._rng.random() < 0.4:
            changed, values = self._before.pop()
            self._put(changed, values)
            return changed
        changed = self._rng.choice(self._changing)
        values = self.objects.get(changed)
        self._before = [*self._before[-3:], (changed, values)]
        draw = self._rng.random()
        if values is None:
            self._put(changed, self._values())
        elif draw < 0.3:
            self._put(changed, None)
        elif draw < 0.5 and changed[0] == "Users":
            secret = self._rng.choice(_SECRETS)
            self.objects[changed] = values | {SECRET: secret}
            self.last_secret[changed] = secret
        else:
            self._put(changed, values | {"state": self._rng.randrange(3)})
        return changed

    def widen(self) -> None:
        """Let all objects change from now on: more events for each pass."""
        self._changing = OBJECTS

    def live(self, sleep: Callable[[float], None], until: float) -> None:
        """Change now and then, in bursts; the function of an actor."""
        while True:
            sleep(self._rng.choice((0.01, 0.5, 5.0, 45.0)) * self._rng.random())
            if self._clock() >= until:
                return
            self.change()

    def fetch(self, cache: dict[Object, Values]) -> dict[Object, Values]:
        """Give all objects as hermes-server sees them.

        A password that was wiped is taken from the cache in memory, as Hermes'
        documentation has it (ITEM_CACHED_VALUES); the cache on disk has none.
        """
        fetched = dict(self.objects)
        for each, values in fetched.items():
            cached = cache.get(each)
            if cached is not None and SECRET in cached and SECRET not in values:
                fetched[each] = values | {SECRET: cached[SECRET]}
        return fetched

    def commit_one(self, sent: Object, values: Values) -> str | None:
        """Wipe a password that was sent, and give it: the bus alone has it now."""
        secret: str | None = self.objects.get(sent, {}).get(SECRET)
        if secret is None or secret != values.get(SECRET):
            return None
        self.objects[sent] = without_secret(self.objects[sent])
        return secret

    def _put(self, changed: Object, values: Values | None) -> None:
        if values is None:
            self.objects.pop(changed, None)
            self.last_secret.pop(changed, None)
            return
        held = self.objects.get(changed, {})
        if SECRET in held and SECRET not in values:  # it waits to be sent
            values = values | {SECRET: held[SECRET]}
        self.objects[changed] = values
        if SECRET in values:
            self.last_secret[changed] = values[SECRET]

    def _values(self) -> Values:
        return {
            "state": self._rng.randrange(3),
            "name": self._rng.choice(("a", "b")) * self._blob_bytes,
        }


def without_secret(values: Values) -> Values:
    """Give the values as a cache on disk has them."""
    if SECRET not in values:
        return values
    return {name: value for name, value in values.items() if name != SECRET}
