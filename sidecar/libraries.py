# SPDX-License-Identifier: Apache-2.0
"""Whether the libraries that are installed have what we use of their insides. Pure.

A private name may change with any release. So pyproject.toml caps each library of which
we use some at the minor version that was tested, and a start looks for each of them.
"""

from __future__ import annotations

import builtins
import dis
import pkgutil
from importlib.metadata import PackageNotFoundError, version
from types import FunctionType
from typing import TYPE_CHECKING

from sidecar.command_error import OTHER_LIBRARY, CommandError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    Names = Mapping[str, tuple[str, ...]]
    """By module, or by module:class, what it has to have."""


class LibraryError(CommandError):
    """A library is not as we use it; the text says which and what to do."""

    exit_status = OTHER_LIBRARY


def require(library: str, needed: Names) -> None:
    """Raise LibraryError where a library lacks one of these names."""
    if lacks := lacking(needed):
        raise LibraryError(
            f"{library} {_version(library)} does not fit this sidecar, for it has no "
            f"{', '.join(lacks)}: install the versions of requirements.lock."
        )


def lacking(needed: Names) -> list[str]:
    """Give the names that are not there, as Client._pending."""
    found = []
    for owner, names in needed.items():
        try:
            absent = _absent(pkgutil.resolve_name(owner), names)
        except (ImportError, AttributeError):
            absent = set(names)
        short = owner.rpartition(":")[2]
        found += [f"{short}.{name}" for name in names if name in absent]
    return found


def added(owner: str, known: tuple[str, ...]) -> list[str]:
    """Give what the objects of a class begin with besides what is known."""
    made = pkgutil.resolve_name(owner)
    names = set(made.__init__.__code__.co_names) - {*dir(builtins), *known}
    return [f"{made.__name__}.{name}" for name in sorted(names)]


def _absent(owner: object, names: Iterable[str]) -> set[str]:
    """Give what a module or class does not have, nor a method of the class sets."""
    absent = set(names) - set(dir(owner))
    if isinstance(owner, type):
        for each in vars(owner).values():
            if isinstance(each, FunctionType) and absent & set(each.__code__.co_names):
                steps = dis.get_instructions(each)
                absent -= {one.argval for one in steps if one.opname == "STORE_ATTR"}
    return absent


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "(not installed)"
