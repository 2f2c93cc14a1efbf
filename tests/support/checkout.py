# SPDX-License-Identifier: Apache-2.0
"""Copies of this checkout: what git knows, as it is on the disk, and nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def tracked_files() -> list[str]:
    """Give the names of all files that git knows and that are there."""
    listed = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "-z"], check=True, capture_output=True
    )
    names = listed.stdout.decode().split("\0")
    return [name for name in names if name and (ROOT / name).exists()]


def copy_checkout(directory: Path) -> Path:
    """Copy it into a new directory; give that."""
    for name in tracked_files():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, directory / name)
    return directory


def commit_all(directory: Path, date: str) -> None:
    """Make a repository of a directory, with one commit of a date in Unix seconds."""
    git = [
        "git",
        "-C",
        str(directory),
        "-c",
        "user.name=test",
        "-c",
        "user.email=t@test",
    ]
    environ = os.environ | {"GIT_COMMITTER_DATE": f"{date} +0000"}
    for arguments in ("init", "add --all", "commit --no-verify --message=test"):
        subprocess.run(
            [*git, *arguments.split()], check=True, capture_output=True, env=environ
        )
