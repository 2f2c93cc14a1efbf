# SPDX-License-Identifier: Apache-2.0
"""Who else may change what lies above a directory."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_MOST_LINKS = 40  # as Linux has it


def weak_ancestor(directory: Path) -> Path | None:
    """Give what lies above a directory and is somebody else's to change; raise OSError.

    On its path, and where its links lead, one after the other: a link of another user
    is one of these. In a sticky directory as /tmp each user may rename what is their
    own alone.
    """
    at, links = directory.absolute(), 0
    above, names = type(directory)(at.anchor), list(reversed(at.parts[1:]))
    while names:
        if _is_weak(above.stat()):
            return above
        at = above / names.pop()
        status = at.lstat()
        if not stat.S_ISLNK(status.st_mode):
            above = above.parent if at.name == ".." else at
            continue
        if status.st_uid not in (0, os.geteuid()):
            return at
        links += 1
        if links > _MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        target = at.readlink()
        if target.is_absolute():
            above = type(directory)(target.anchor)
        names += [one for one in reversed(target.parts) if one != target.anchor]
    return None


def _is_weak(status: os.stat_result) -> bool:
    is_for_others = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if status.st_gid in (0, os.getegid()) and not status.st_mode & stat.S_IWOTH:
        is_for_others = 0
    is_sticky = status.st_mode & stat.S_ISVTX
    return status.st_uid not in (0, os.geteuid()) or bool(
        is_for_others and not is_sticky
    )
