# SPDX-License-Identifier: Apache-2.0
"""The cache files of a hermes-server (v1.0.9, lib/datamodel/serialization.py).

One file for each type, without secrets. One that has changed is written beside the old
one, then the old one is renamed, then the new one: a process may be killed between any
two of these, and each next one starts from what is there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from .actors import Killed
from .source import TYPES, without_secret

if TYPE_CHECKING:
    from .history import Object
    from .source import Values


class DiskFullError(Exception):
    """A file could not be written: Hermes tries once more, and ends."""


class Death(NamedTuple):
    """A kill in a save: after so many files, perhaps between the renames of the next.

    Then there is none of that type any more.
    """

    files: int
    is_between_renames: bool = False


@dataclass
class Disk:
    """What outlives a process of hermes-server."""

    objects: dict[Object, Values] = field(default_factory=dict)
    last_update: float | None = None
    schema: int | None = None
    is_full: bool = False
    death: Death | None = None
    """What awaits the process in its next saves."""

    def copy(self) -> Disk:
        """Give a copy, as a standby or a backup gets one."""
        return Disk(dict(self.objects), self.last_update, self.schema)

    def save(self, cache: dict[Object, Values]) -> None:
        """Write the files that have changed, type by type; raise DiskFullError."""
        objects = {each: without_secret(values) for each, values in cache.items()}
        if objects != self.objects:  # most passes change nothing
            for kind in TYPES:
                file, held = _of_type(kind, objects), _of_type(kind, self.objects)
                if file != held:
                    self._write(kind, file)
        self.objects = objects

    def save_last_update(self, last_update: float | None) -> None:
        """Write the file that tells of the process itself; raise DiskFullError."""
        if self.is_full:
            raise DiskFullError
        self.last_update = last_update

    def lacks(self, cache: dict[Object, Values]) -> set[Object]:
        """Give the objects of which the files say something else than the memory."""
        objects = {each: without_secret(values) for each, values in cache.items()}
        return {
            each
            for each in {*objects, *self.objects}
            if objects.get(each) != self.objects.get(each)
        }

    def _write(self, kind: str, file: dict[Object, Values]) -> None:
        death = self.death
        if death is not None and death.files == 0:
            self.death = None
            if death.is_between_renames:
                self._replace(kind, {})
            raise Killed
        if self.is_full:
            raise DiskFullError
        if death is not None:
            self.death = death._replace(files=death.files - 1)
        self._replace(kind, file)

    def _replace(self, kind: str, file: dict[Object, Values]) -> None:
        others = {each: v for each, v in self.objects.items() if each[0] != kind}
        self.objects = others | file


def _of_type(kind: str, objects: dict[Object, Values]) -> dict[Object, Values]:
    return {each: values for each, values in objects.items() if each[0] == kind}
