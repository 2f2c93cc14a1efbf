# SPDX-License-Identifier: Apache-2.0
"""Sockets to listen on, made before anything is served: mistakes show at once."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sidecar.command_error import CANNOT_LISTEN, CommandError
from sidecar.directories import weak_ancestor

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_SOCKET_UMASK = 0o117  # leaves 0660: the owner and its group
_GIVES_WAY_SECONDS = 6.0  # a sidecar whose lock was removed notices in 2 s
_RETRY_SECONDS = 0.1
_LOOKS_WITHOUT_LOCK = 15  # so long a successor has to start
_BACKLOG = 2048  # when it is full the kernel forgets who comes, for a second or more
_RECEIVE_BYTES = 32 * 1024
"""What the kernel keeps for us of one connection; it takes twice that. It also bounds
what is read at once, for which a TLS connection has two buffers that it keeps."""
_KEEPALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4),
)
"""Whoever vanished, as behind a router that forgot it, is noticed in two minutes.
Connections have it from their listener."""


class ListenError(CommandError):
    """A socket cannot be opened; the text says which and what to do."""

    exit_status = CANNOT_LISTEN


class _TakenError(ListenError):
    """Another sidecar holds the lock."""


def bind_tcp(host: str, port: int, *, beside_ipv4: bool = False) -> socket.socket:
    """Bind a TCP socket; raise ListenError.

    Beside one of IPv4, :: leaves that family alone: both cannot have the port.
    """
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
        if beside_ipv4 and family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
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
def unix_socket(path: Path) -> Iterator[UnixSocket]:
    """Bind a Unix socket of mode 0660 and remove it at the end; raise ListenError."""
    unix = UnixSocket(path)
    try:
        yield unix
    finally:
        unix.close()


class UnixSocket:
    """A Unix socket of mode 0660, which somebody may remove while it is served.

    A lock beside it decides between two sidecars that start at the same moment.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock: int | None = None
        self._looks_without_lock = 0
        self._open(_GIVES_WAY_SECONDS)

    def _open(self, patience_seconds: float = 0.0) -> None:
        _check_directory(self._path.parent)
        self._lock = _take_lock(self._path)
        try:
            ends_at = time.monotonic() + patience_seconds
            while not _remove_dead(self._path) and time.monotonic() < ends_at:
                time.sleep(_RETRY_SECONDS)
            self.listener = _bind_unix(self._path)
            self._identity = _identity(self._path)
        except BaseException:
            self._give_back_lock()
            raise

    @property
    def is_there(self) -> bool:
        """Tell whether who asks for the path reaches this socket, and it stays so."""
        return self._is_ours and self._holds_lock

    @property
    def _is_ours(self) -> bool:
        return _identity(self._path) == self._identity

    @property
    def _holds_lock(self) -> bool:
        return self._lock is not None and (
            _identity_of(os.fstat(self._lock)) == _identity(_lock_path(self._path))
        )

    def make_anew(self) -> socket.socket | None:
        """Bind it again; raise ListenError where it cannot be, or is another's now.

        Any OSError, too, as where no file descriptor is left: it may be tried again.

        Gives the socket that it replaces, which is to be closed, if there is one. Where
        only the lock was removed it is taken again, after some looks; whoever took it
        meanwhile is the successor, and waits for us to give way.
        """
        if self._is_ours and _identity(_lock_path(self._path)) is None:
            self._looks_without_lock += 1
            if self._looks_without_lock < _LOOKS_WITHOUT_LOCK:
                return None
        self._looks_without_lock = 0
        removed = self.listener
        self._give_back_lock()
        if not self._is_ours:
            self._open()
            return removed
        try:
            self._lock = _take_lock(self._path)
        except _TakenError:  # it waits for us; any other trouble passes
            self._path.unlink(missing_ok=True)
            raise
        return None

    def _give_back_lock(self) -> None:
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)

    def close(self) -> None:
        """Close it and remove it, but not another's."""
        self.listener.close()
        if self._is_ours:
            self._path.unlink(missing_ok=True)
        self._give_back_lock()


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        return _identity_of(path.lstat())
    except OSError:
        return None


def _identity_of(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _lock_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.lock")


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
            "replace the socket. Change its owner to the sidecar's user."
        )
    if status.st_mode & stat.S_IWOTH:
        raise ListenError(
            f"The socket's directory {directory} is writable by all users, who could "
            "replace the socket. Use a dedicated directory, mode 0750."
        )
    if status.st_mode & stat.S_IWGRP and status.st_gid not in (0, os.getegid()):
        raise ListenError(
            f"The socket's directory {directory} is writable by a group that is not "
            "the sidecar's, which could replace the socket. Use mode 0750."
        )
    weak = weak_ancestor(directory)
    if weak is not None:
        raise ListenError(
            f"{weak} is above the socket's directory {directory}, and others could "
            "rename its entries, and so replace the socket. Let root or the sidecar's "
            "user own it, and let no other user write to it."
        )
    if not os.access(directory, os.W_OK | os.X_OK):
        raise ListenError(
            f"The socket's directory {directory} is not writable by the sidecar. "
            "Change its owner to the sidecar's user."
        )


def _take_lock(path: Path) -> int:
    lock_path = _lock_path(path)
    try:
        lock = os.open(lock_path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ListenError(
            f"Cannot open {lock_path}: {error.strerror}. Remove it, and always "
            "run the sidecar as the same user."
        ) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise _TakenError(
            f"Another sidecar serves {path}. Stop it, or set another "
            "SIDECAR_UNIX_SOCKET."
        ) from None
    return lock


def _remove_dead(path: Path) -> bool:
    """Remove what a dead process left; refuse what is no socket.

    Tells whether the path is free now: what is alive stays.
    """
    try:
        is_socket = stat.S_ISSOCK(path.lstat().st_mode)
    except FileNotFoundError:
        return True
    if not is_socket:
        raise ListenError(
            f"{path} exists and is not a socket. Remove it, or set another "
            "SIDECAR_UNIX_SOCKET."
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return True
        except OSError:
            pass  # alive and busy, or not ours to try: bind will say it is in use
    return False


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
