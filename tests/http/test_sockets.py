# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import tempfile
from errno import EMFILE, EPERM
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING
from unittest.mock import Mock

import pytest

from sidecar.directories import weak_ancestor
from sidecar.http import sockets
from sidecar.http.server import _look_after_socket
from sidecar.http.sockets import (
    ListenError,
    _take_lock,
    bind_tcp,
    unix_socket,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    tmp_path.chmod(0o750)
    return tmp_path


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def complaint(path: Path) -> str:
    with pytest.raises(ListenError) as caught, unix_socket(path):
        pass
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return str(caught.value)


def test_a_unix_socket_is_for_its_owner_and_group_and_goes_at_the_end(
    directory: Path,
) -> None:
    path = directory / "api.sock"
    with unix_socket(path), socket.socket(socket.AF_UNIX) as client:
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        client.connect(str(path))
    assert not path.exists()


@pytest.mark.parametrize("umask", [0, 0o022, 0o077, 0o777])
def test_under_any_umask_it_is_for_owner_and_group(directory: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with unix_socket(directory / "api.sock"):
            mode = (directory / "api.sock").stat().st_mode
    finally:
        os.umask(before)
    assert stat.S_IMODE(mode) == 0o660


def test_a_stranger_cannot_open_it() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can be somebody else")
    code = (
        "import os, socket, sys; os.setgroups([]); os.setgid(12345); os.setuid(12345)\n"
        "try: socket.socket(socket.AF_UNIX).connect(sys.argv[1])\n"
        "except PermissionError: sys.exit(13)\n"
    )
    with tempfile.TemporaryDirectory() as name, unix_socket(Path(name, "api.sock")):
        path = Path(name, "api.sock")
        path.parent.chmod(0o755)  # so that the socket's own mode decides
        for mode, status in ((0o660, 13), (0o666, 0)):  # and so it could be reached
            path.chmod(mode)
            asked = subprocess.run([sys.executable, "-c", code, path], check=False)
            assert asked.returncode == status


def test_the_umask_is_as_before(directory: Path) -> None:
    umask = os.umask(0o027)
    try:
        with unix_socket(directory / "api.sock"):
            pass
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(umask)


def test_a_socket_that_a_dead_sidecar_left_is_replaced(directory: Path) -> None:
    path = directory / "api.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with unix_socket(path), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_the_same_path_serves_one_sidecar_after_another(directory: Path) -> None:
    for _ in range(2):
        with unix_socket(directory / "api.sock"):
            pass


def test_a_path_that_another_sidecar_serves_is_refused(directory: Path) -> None:
    path = directory / "api.sock"
    with unix_socket(path):
        text = complaint(path)
        assert "Another sidecar serves" in text
        assert "SIDECAR_UNIX_SOCKET" in text
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))  # the first one is left in peace


def test_a_path_that_another_program_serves_is_refused(directory: Path) -> None:
    path = directory / "api.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        text = complaint(path)
    assert str(path) in text
    assert "SIDECAR_UNIX_SOCKET" in text
    assert path.exists()


def test_a_file_at_the_path_is_refused_and_kept(directory: Path) -> None:
    path = directory / "api.sock"
    path.write_text("precious")
    assert "is not a socket" in complaint(path)
    assert path.read_text() == "precious"


def test_a_link_to_a_socket_at_the_path_is_refused(directory: Path) -> None:
    path = directory / "api.sock"
    path.symlink_to(directory / "elsewhere")
    assert "is not a socket" in complaint(path)


@pytest.mark.parametrize("mode", [0o777, 0o1777])
def test_a_directory_that_everybody_may_write_is_refused(
    directory: Path, mode: int
) -> None:
    directory.chmod(mode)
    assert "writable by all users" in complaint(directory / "api.sock")


def test_a_directory_of_another_user_is_refused(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() == 0:
        os.chown(directory, 1, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert "belongs to another user" in complaint(directory / "api.sock")


def test_a_directory_that_another_group_may_write_is_refused(directory: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give it to another group")
    os.chown(directory, -1, 12345)
    directory.chmod(0o770)
    assert "writable by a group" in complaint(directory / "api.sock")
    os.chown(directory, -1, os.getegid())
    with unix_socket(directory / "api.sock"):
        pass


@pytest.mark.parametrize(
    ("mode", "owner", "group", "is_weak"),
    [
        (0o755, -1, -1, False),
        (0o777, -1, -1, True),
        (0o1777, -1, -1, False),
        (0o770, -1, 12345, True),
        (0o770, -1, -1, False),
        (0o1770, -1, 12345, False),
        (0o755, 12345, -1, True),
        (0o1777, 12345, -1, True),
    ],
)
@pytest.mark.parametrize("by_link", [False, True])
def test_whoever_may_rename_what_is_above_it_could_replace_the_socket(
    tmp_path: Path, mode: int, owner: int, group: int, *, is_weak: bool, by_link: bool
) -> None:
    if os.geteuid() != 0 and (owner, group) != (-1, -1):
        pytest.skip("only root can give it away")
    above = tmp_path / "above"
    directory = above / "below" / "own"
    directory.mkdir(mode=0o750, parents=True)
    os.chown(above, owner, group)
    above.chmod(mode)
    if by_link:
        (tmp_path / "link").symlink_to(directory)
        directory = tmp_path / "link"
    path = directory / "api.sock"
    if is_weak:
        assert str(above) in complaint(path)
    else:
        with unix_socket(path):
            pass


def test_what_lies_between_two_links_is_looked_at(tmp_path: Path) -> None:
    for name in ("first", "weak", "good"):
        (tmp_path / name).mkdir(mode=0o755)
    (tmp_path / "good" / "own").mkdir(mode=0o750)
    (tmp_path / "weak" / "link").symlink_to(tmp_path / "good" / "own")
    (tmp_path / "first" / "link").symlink_to("../weak/link")
    with unix_socket(tmp_path / "first" / "link" / "api.sock"):
        pass
    if os.geteuid() == 0:
        os.chown(tmp_path / "weak" / "link", 12345, -1, follow_symlinks=False)
        assert "weak/link is above" in complaint(tmp_path / "first/link/api.sock")
        os.chown(tmp_path / "weak" / "link", 0, -1, follow_symlinks=False)
    (tmp_path / "weak").chmod(0o777)
    assert "weak is above" in complaint(tmp_path / "first" / "link" / "api.sock")
    (tmp_path / "good" / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="symbolic links"):
        weak_ancestor(tmp_path / "good" / "loop")


def test_a_missing_directory_is_named(directory: Path) -> None:
    missing = directory / "missing"
    text = complaint(missing / "api.sock")
    assert str(missing) in text
    assert "Create it" in text


def test_a_lock_that_cannot_be_made_is_a_sentence(directory: Path) -> None:
    (directory / "api.sock.lock").mkdir()
    assert "api.sock" in complaint(directory / "api.sock")


def test_a_lock_that_cannot_be_taken_again_leaves_the_socket(directory: Path) -> None:
    path = directory / "api.sock"
    with unix_socket(path) as unix:
        (directory / "api.sock.lock").unlink()
        (directory / "api.sock.lock").mkdir()
        with pytest.raises(ListenError, match=r"Cannot open .*api\.sock\.lock"):
            unix.make_anew()
        assert path.exists()
        (directory / "api.sock.lock").rmdir()
        for _ in range(20):
            unix.make_anew()
        assert unix.is_there


def test_a_socket_of_which_another_holds_the_lock_is_given_up(directory: Path) -> None:
    path = directory / "api.sock"
    with unix_socket(path) as unix:
        (directory / "api.sock.lock").unlink()
        successor = _take_lock(path)
        with pytest.raises(ListenError, match="Another sidecar"):
            unix.make_anew()
        os.close(successor)
        assert not path.exists()


@pytest.mark.parametrize("error", [EMFILE, EPERM])
def test_a_socket_that_cannot_be_made_anew_ends_nothing_and_is_told(
    directory: Path, error: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = SimpleNamespace(
        socket_fault=None, settings=SimpleNamespace(unix_socket=directory / "api.sock")
    )
    server = SimpleNamespace(arrivals=SimpleNamespace(listen_on=lambda _: None))
    with unix_socket(directory / "api.sock") as unix:
        (directory / "api.sock").unlink()
        with monkeypatch.context() as patch:
            patch.setattr(sockets, "_bind_unix", Mock(side_effect=OSError(error, "no")))
            _look_after_socket(daemon, server, unix)  # type: ignore[arg-type]
        assert daemon.socket_fault == (
            f"The socket {directory}/api.sock cannot be recreated: no."
        )
        _look_after_socket(daemon, server, unix)  # type: ignore[arg-type]
        assert daemon.socket_fault is None
        assert unix.is_there


def test_a_path_too_long_for_a_socket_is_a_sentence(directory: Path) -> None:
    path = directory / ("x" * 120)
    assert "SIDECAR_UNIX_SOCKET" in complaint(path)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_tcp_socket_listens_where_it_is_told(host: str) -> None:
    with (
        bind_tcp(host, 0) as listener,
        socket.create_connection(listener.getsockname()[:2]),
    ):
        assert listener.getsockname()[0] in ("127.0.0.1", "::1")


def test_a_taken_port_is_named_with_the_settings_to_change(taken_port: int) -> None:
    with pytest.raises(ListenError) as caught:
        bind_tcp("127.0.0.1", taken_port)
    text = str(caught.value)
    assert f"127.0.0.1 port {taken_port}" in text
    assert "SIDECAR_HTTP_PORT" in text


@pytest.mark.parametrize("host", ["203.0.113.1", "no such host", "x" * 300, "a..b"])
def test_an_address_that_is_not_ours_is_a_sentence(host: str) -> None:
    with pytest.raises(ListenError, match="SIDECAR_HTTP_HOST"):
        bind_tcp(host, 0)


def test_both_families_of_all_addresses_share_a_port(taken_port: int) -> None:
    with (
        bind_tcp("0.0.0.0", 0) as ipv4,
        bind_tcp("::", ipv4.getsockname()[1], beside_ipv4=True) as ipv6,
    ):
        assert ipv4.getsockname()[1] == ipv6.getsockname()[1] != taken_port
