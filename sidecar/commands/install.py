# SPDX-License-Identifier: Apache-2.0
"""Copies the plugin folders into Hermes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from sidecar.command_error import NOT_INSTALLED, CommandError

PLUGIN_STUB: Final = Path(__file__).resolve().parents[2] / "plugin_stub"
NAME: Final = "nats_sidecar"


class InstallError(CommandError):
    """The plugins cannot be copied; the text says why and what to do."""

    exit_status = NOT_INSTALLED


def install_plugins(plugins: Path) -> list[Path]:
    """Copy each plugin folder below Hermes' plugins directory; say where they are.

    What a former version left in those folders is replaced. Raises InstallError.
    """
    if not plugins.is_dir():
        raise InstallError(
            f"{plugins} is not a directory. Name the plugins directory of Hermes."
        )
    if (plugins / "plugins").is_dir():
        raise InstallError(
            f"{plugins} holds a plugins directory: name that one instead."
        )
    installed = []
    for source in sorted(PLUGIN_STUB.glob(f"*/{NAME}")):
        target = plugins / source.parent.name / NAME
        try:
            if target.exists():
                shutil.rmtree(target)
            shutil.copytree(
                source, target, ignore=shutil.ignore_patterns("__pycache__")
            )
            # Hermes is another user, whatever umask this was installed under.
            for path in (target, *target.rglob("*")):
                path.chmod(0o755 if path.is_dir() else 0o644)
        except OSError as error:
            raise InstallError(
                f"{target} cannot be written: {error.strerror or error}. "
                "Run this as the owner of Hermes' files."
            ) from None
        installed.append(target)
    return installed
