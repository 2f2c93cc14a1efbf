# SPDX-License-Identifier: Apache-2.0
"""Copies the plugin folders into Hermes, and compares them with what is there."""

from __future__ import annotations

import re
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sidecar.command_error import NOT_INSTALLED, CommandError

if TYPE_CHECKING:
    from collections.abc import Iterator

PLUGIN_STUB: Final = Path(__file__).resolve().parents[2] / "plugin_stub"
NAME: Final = "nats_sidecar"

TESTED: Final = "1.0.9"
"""Of Hermes; tests/hermes runs on it."""

_VERSION: Final = re.compile(r'^HERMES_VERSION = "([0-9A-Za-z.-]{1,32})"', re.MULTILINE)


class InstallError(CommandError):
    """The plugins cannot be copied; the text says why and what to do."""

    exit_status = NOT_INSTALLED


def hermes_version(plugins: Path) -> str | None:
    """Read the version of the Hermes that a plugins directory is of; None for none.

    Raises InstallError for a directory of something else. One that holds only our own
    folders, or nothing, may be a volume for a Hermes in a container.
    """
    if not plugins.is_dir():
        raise InstallError(
            f"{plugins} is not a directory. Name the plugins directory of Hermes."
        )
    if (plugins / "plugins").is_dir():
        raise InstallError(
            f"{plugins} holds a plugins directory: name that one instead."
        )
    root = plugins.resolve().parent
    if (root / "hermes.py").is_file():
        try:
            text = (root / "lib" / "version.py").read_text("utf-8", "replace")
        except OSError:
            return "of an unknown version"
        match = _VERSION.search(text)
        return match[1] if match else "of an unknown version"
    families = {source.parent.name for source in _sources()} | {"lost+found"}
    with _reading(plugins):
        names = {path.name for path in plugins.iterdir()}
    if names - families:
        raise InstallError(
            f"{plugins} is not of Hermes: there is no hermes.py beside it. "
            "Name the plugins directory of Hermes."
        )
    return None


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InstallError(
            f"{path} cannot be read: {error.strerror or error}. "
            "Run this as the owner of Hermes' files."
        ) from None


def _sources() -> list[Path]:
    return sorted(PLUGIN_STUB.glob(f"*/{NAME}"))


def compare_plugins(plugins: Path) -> Iterator[str]:
    """Say in a sentence what differs from the plugins of this version; none: nothing.

    Raises InstallError for what cannot be read.
    """
    for source in _sources():
        target = plugins / source.parent.name / NAME
        with _reading(target):
            shipped, found = _files(source), _files(target)
        for name in sorted(shipped.keys() | found.keys()):
            if name not in found:
                yield f"{target / name} is missing."
            elif name not in shipped:
                yield f"{target / name} is not of this version."
            elif found[name] != shipped[name]:
                yield f"{target / name} differs."


def _files(folder: Path) -> dict[Path, bytes]:
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def install_plugins(plugins: Path) -> list[Path]:
    """Copy each plugin folder below Hermes' plugins directory; say where they are.

    What a former version left in those folders is replaced. Raises InstallError.
    """
    hermes_version(plugins)
    installed = []
    for source in _sources():
        target = plugins / source.parent.name / NAME
        try:
            is_new = not target.parent.exists()
            if target.exists():
                shutil.rmtree(target)
            shutil.copytree(
                source, target, ignore=shutil.ignore_patterns("__pycache__")
            )
            # Hermes is another user, whatever umask this was installed under.
            made = [target.parent] if is_new else []
            for path in (*made, target, *target.rglob("*")):
                path.chmod(0o755 if path.is_dir() else 0o644)
        except OSError as error:
            raise InstallError(
                f"{target} cannot be written: {error.strerror or error}. "
                "Run this as the owner of Hermes' files."
            ) from None
        installed.append(target)
    return installed
