# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import socket
import stat
from typing import TYPE_CHECKING

import pytest

from sidecar.listen import ListenError, bind_tcp, unix_socket

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


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
    assert "is no socket" in complaint(path)
    assert path.read_text() == "precious"


def test_a_link_to_a_socket_at_the_path_is_refused(directory: Path) -> None:
    path = directory / "api.sock"
    path.symlink_to(directory / "elsewhere")
    assert "is no socket" in complaint(path)


def test_a_directory_that_everybody_may_write_is_refused(directory: Path) -> None:
    directory.chmod(0o777)
    assert "writable by everybody" in complaint(directory / "api.sock")


def test_a_directory_of_another_user_is_refused(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() == 0:
        os.chown(directory, 1, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert "belongs to another user" in complaint(directory / "api.sock")


def test_a_missing_directory_is_named(directory: Path) -> None:
    missing = directory / "missing"
    text = complaint(missing / "api.sock")
    assert str(missing) in text
    assert "Create it" in text


def test_a_lock_that_cannot_be_made_is_a_sentence(directory: Path) -> None:
    (directory / "api.sock.lock").mkdir()
    assert "api.sock" in complaint(directory / "api.sock")


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
