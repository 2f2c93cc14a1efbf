# SPDX-License-Identifier: Apache-2.0
"""Sockets to listen on, made before anything is served: mistakes show at once."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sidecar.complaint import CANNOT_LISTEN, Complaint

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_SOCKET_UMASK = 0o117  # leaves 0660: the owner and its group
_BACKLOG = 2048  # when it is full the kernel forgets who comes, for a second or more
_RECEIVE_BYTES = 64 * 1024
"""What the kernel keeps for us of one connection. It also bounds what is read at once,
which a TLS connection has a buffer for."""
_KEEPALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4),
)
"""Whoever vanished, as behind a router that forgot it, is noticed in two minutes.
Connections have it from their listener."""


class ListenError(Complaint):
    """A socket cannot be opened; the text says which and what to do."""

    exit_status = CANNOT_LISTEN


def bind_tcp(host: str, port: int) -> socket.socket:
    """Bind a TCP socket; raise ListenError."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        raise _tcp_error(host, port, error) from None
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BYTES)
        for level, option, value in _KEEPALIVE:
            listener.setsockopt(level, option, value)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise _tcp_error(host, port, error) from None
    return listener


def _tcp_error(host: str, port: int, error: Exception) -> ListenError:
    why = getattr(error, "strerror", None) or "this is no address"
    return ListenError(
        f"Cannot listen on {host} port {port}: {why}. "
        "Choose another SIDECAR_HTTP_HOST or SIDECAR_HTTP_PORT."
    )


@contextmanager
def unix_socket(path: Path) -> Iterator[socket.socket]:
    """Bind a Unix socket of mode 0660 and remove it at the end; raise ListenError.

    A lock beside it decides between two sidecars that start at the same moment.
    """
    _check_directory(path.parent)
    lock = _take_lock(path)
    try:
        _remove_dead(path)
        listener = _bind_unix(path)
        try:
            yield listener
        finally:
            listener.close()
            path.unlink(missing_ok=True)
    finally:
        os.close(lock)


def _check_directory(directory: Path) -> None:
    try:
        status = directory.stat()
    except OSError as error:
        raise ListenError(
            f"The socket's directory {directory} cannot be used: {error.strerror}. "
            "Create it, owned by the sidecar's user."
        ) from None
    if status.st_uid not in (0, os.geteuid()):
        raise ListenError(
            f"The socket's directory {directory} belongs to another user, who could "
            "replace the socket. Give it to the sidecar's user."
        )
    if status.st_mode & stat.S_IWOTH:
        raise ListenError(
            f"The socket's directory {directory} is writable by everybody, who could "
            "replace the socket. Use a directory of its own, mode 0750."
        )
    if not os.access(directory, os.W_OK | os.X_OK):
        raise ListenError(
            f"The socket's directory {directory} is not writable by the sidecar. "
            "Give it to the sidecar's user."
        )


def _take_lock(path: Path) -> int:
    lock_path = f"{path}.lock"
    try:
        lock = os.open(lock_path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ListenError(
            f"Cannot open {lock_path}: {error.strerror}. Remove it, and run the "
            "sidecar as one user always."
        ) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise ListenError(
            f"Another sidecar serves {path}. Stop it, or set another "
            "SIDECAR_UNIX_SOCKET."
        ) from None
    return lock


def _remove_dead(path: Path) -> None:
    """Remove what a dead process left; refuse what is alive or no socket."""
    try:
        is_socket = stat.S_ISSOCK(path.lstat().st_mode)
    except FileNotFoundError:
        return
    if not is_socket:
        raise ListenError(
            f"{path} exists and is no socket. Remove it, or set another "
            "SIDECAR_UNIX_SOCKET."
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
        except OSError:
            pass  # alive and busy, or not ours to try: bind will say it is in use


def _bind_unix(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    umask = os.umask(_SOCKET_UMASK)
    try:
        listener.bind(str(path))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise ListenError(
            f"Cannot listen on {path}: {error.strerror or error}. "
            "Set another SIDECAR_UNIX_SOCKET."
        ) from None
    finally:
        os.umask(umask)
    return listener
