# SPDX-License-Identifier: Apache-2.0
"""What is taken away, or changed, under a running daemon; it lives, and says so."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import trustme
from support.process import wait_until
from support.sidecar import (
    COMMAND,
    SidecarProcess,
    environment,
    post,
    sidecar_on,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.nats import NatsProcess

LIVE = "/health/live"


@pytest.fixture
def running(nats: NatsProcess, tmp_path: Path) -> Iterator[SidecarProcess]:
    with sidecar_on(nats, tmp_path / "run", tcp_api="open") as process:
        yield process


def over_tcp(sidecar: SidecarProcess, path: str = "/health") -> dict[str, Any]:
    document: dict[str, Any] = sidecar.get(path).json()
    return document


def socket_check(sidecar: SidecarProcess) -> str:
    checks = over_tcp(sidecar)["checks"]
    return next(one["reason"] or "" for one in checks if one["name"] == "socket")


def stores(sidecar: SidecarProcess) -> bool:
    with suppress(httpx.HTTPError), sidecar.client(5) as http:
        return post(http).status_code == 201
    return False


def test_a_socket_that_was_removed_is_made_anew(running: SidecarProcess) -> None:
    with running.client() as kept:
        assert kept.get(LIVE).status_code == 200
        running.socket.unlink()
        wait_until(running.socket.exists, 20, "made anew")
        wait_until(lambda: stores(running))
        assert kept.get(LIVE).status_code == 200  # who was there stays
    assert "socket_made_anew" in [row["event"] for row in running.rows()]
    running.terminate()
    assert not running.socket.exists()


def test_a_directory_that_was_removed_is_told_until_it_is_back(
    running: SidecarProcess,
) -> None:
    directory, port = running.socket.parent, running.tcp_port
    aside = directory.with_name("aside")
    directory.rename(aside)
    running.log = aside / "sidecar.log"
    wait_until(lambda: "cannot be used" in socket_check(running), 20, "told")
    assert over_tcp(running)["status"] == "not_ready"
    directory.mkdir(mode=0o700)
    wait_until(lambda: stores(running), 20, "made anew")
    assert socket_check(running) == ""
    assert running.tcp_port == port


def test_who_finds_no_lock_is_the_successor_and_its_socket_is_left_alone(
    running: SidecarProcess, nats: NatsProcess
) -> None:
    directory = running.socket.parent
    (directory / "api.sock.lock").unlink()
    second = SidecarProcess(
        directory, nats_url=nats.url, stream_create=True, tcp_api="open"
    )
    second.log = directory.with_name("two.log")
    second.start()
    try:
        second.wait_live()
        wait_until(lambda: "Another sidecar" in socket_check(running), 20, "told")
        assert over_tcp(running)["status"] == "not_ready"
        running.stop()
        assert running.socket.exists()
        second.wait_ready()
        assert stores(second)
    finally:
        second.stop()
    assert not running.socket.exists()


def test_a_lock_that_was_removed_is_taken_again(running: SidecarProcess) -> None:
    lock = running.socket.with_name("api.sock.lock")
    lock.unlink()
    wait_until(lock.exists, 60, "taken again")
    assert socket_check(running) == ""
    assert stores(running)


def make_certificate(authority: trustme.CA, directory: Path) -> bytes:
    certificate = authority.issue_cert("127.0.0.1", "localhost")
    chain = certificate.cert_chain_pems[0].bytes()
    for name, content in (
        ("tls.key", certificate.private_key_pem.bytes()),
        ("tls.crt", chain),
    ):
        new = directory / f"{name}.new"
        new.write_bytes(content)
        new.chmod(0o600)
        new.replace(directory / name)
    return chain


def served(port: int) -> bytes:
    return ssl.get_server_certificate(("127.0.0.1", port)).strip().encode()


def test_a_renewed_certificate_is_served_and_a_spoilt_one_is_not(
    nats: NatsProcess, tmp_path: Path
) -> None:
    authority = trustme.CA()
    first = make_certificate(authority, tmp_path)
    token = tmp_path / "token"
    token.write_text("t0ken")
    settings: dict[str, Any] = {
        "tls_cert_file": tmp_path / "tls.crt",
        "tls_key_file": tmp_path / "tls.key",
        "token_file": token,
    }
    with sidecar_on(nats, tmp_path / "run", **settings) as sidecar:
        port = sidecar.tcp_port
        asks = {**sidecar.settings, "http_port": port}
        del asks["unix_socket"]

        def healthcheck() -> int:
            command = [*COMMAND, "healthcheck"]
            return subprocess.run(
                command, env=environment(**asks), check=False
            ).returncode

        assert served(port) == first.strip()
        second = make_certificate(authority, tmp_path)
        assert healthcheck() == 0
        wait_until(lambda: served(port) == second.strip(), 20, "renewed")
        assert healthcheck() == 0
        (tmp_path / "tls.key").write_text("no key")
        wait_until(lambda: "certificate_unreadable" in sidecar.output(), 20, "told")
        assert served(port) == second.strip()
        assert healthcheck() == 0
        token.unlink()
        answer = httpx.get(
            f"https://127.0.0.1:{port}/v1/stream",
            headers={"Authorization": "Bearer t0ken"},
            verify=False,  # noqa: S501 - it is our own
            trust_env=False,
        )
        assert answer.status_code == 401
        assert sidecar.is_alive


def test_a_log_that_nobody_reads_holds_nobody_up(
    nats: NatsProcess, tmp_path: Path
) -> None:
    sidecar = sidecar_on(nats, tmp_path / "run", log_level="debug")
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    process = subprocess.Popen(
        sidecar.arguments, env=sidecar.environ, stdout=writer, stderr=writer
    )
    os.close(writer)
    sidecar.popen = process
    try:
        sidecar.wait_ready()
        with sidecar.client(5) as http:
            for _ in range(200):  # each writes a line
                assert post(http).status_code == 201
            os.set_blocking(reader, False)
            read = b""

            def has_told() -> bool:
                """Make room, and let it write the next line."""
                nonlocal read
                with suppress(BlockingIOError):
                    read += os.read(reader, 65_536)
                assert post(http).status_code == 201
                return b"log_dropped" in read

            wait_until(has_told, 20, "it tells what it dropped")
            os.close(reader)
            for _ in range(20):
                assert post(http).status_code == 201
    finally:
        sidecar.stop()


@pytest.mark.parametrize("closed", [(2,), (1, 2), (0, 1, 2)])
def test_standard_streams_that_are_closed_at_the_start_are_survived(
    nats: NatsProcess, tmp_path: Path, closed: tuple[int, ...]
) -> None:
    sidecar = sidecar_on(nats, tmp_path / "run")
    closing_them = " ".join(f"{number}>&-" for number in closed)
    sidecar.popen = subprocess.Popen(
        [
            "/bin/sh",
            "-c",
            f'exec "$@" {closing_them}',
            "sh",
            *map(str, sidecar.arguments),
        ],
        env=sidecar.environ,
    )
    try:
        sidecar.wait_ready()
        assert stores(sidecar)
        files = Path(f"/proc/{sidecar.popen.pid}/fd")
        assert {str((files / str(number)).readlink()) for number in closed} == {
            "/dev/null"
        }
    finally:
        sidecar.stop()


def test_sighup_ends_nothing_and_is_logged(running: SidecarProcess) -> None:
    running.running.send_signal(signal.SIGHUP)
    wait_until(lambda: "sighup" in running.output(), 10, "logged")
    assert stores(running)


def test_a_working_directory_that_is_gone_is_not_missed(
    nats: NatsProcess, tmp_path: Path
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    sidecar = sidecar_on(nats, tmp_path / "run", tcp_api="open")
    sidecar.arguments = [
        "/bin/sh",
        "-c",
        'cd "$1" && rmdir "$1" && shift && exec "$@"',
        "sh",
        gone,
        str(Path(sys.executable).with_name("hermes-nats-sidecar")),
        "serve",
    ]
    with sidecar:
        assert stores(sidecar)
        assert sidecar.get("/").is_success


def test_without_home_and_a_name_it_starts(nats: NatsProcess) -> None:
    unshare = shutil.which("unshare")
    command = [unshare or "", "-U", "--map-user=54321"]
    if not unshare or subprocess.run([*command, "true"], check=False).returncode:
        pytest.skip("needs user namespaces")
    answer = subprocess.run(
        [*command, *COMMAND, "check"],
        env={"SIDECAR_NATS_URL": nats.url, "SIDECAR_STREAM": "none"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in answer.stderr
    assert answer.returncode == 5, answer.stderr


def test_two_addresses_are_listened_on_and_the_first_is_asked(
    nats: NatsProcess, tmp_path: Path
) -> None:
    with sidecar_on(nats, tmp_path / "run", http_host="127.0.0.2, 127.0.0.1") as both:
        started = next(row for row in both.rows() if row["event"] == "started")
        for address in started["tcp"].split(","):
            assert httpx.get(f"http://{address}{LIVE}", trust_env=False).is_success
        assert len(started["tcp"].split(",")) == 2


def test_no_file_descriptor_left_is_survived(nats: NatsProcess, tmp_path: Path) -> None:
    sidecar = sidecar_on(nats, tmp_path / "run", tcp_api="open")
    sidecar.arguments = [
        "/bin/sh",
        "-c",
        'ulimit -n 60; exec "$@"',
        "sh",
        *sidecar.arguments,
    ]
    with sidecar:
        many = []
        for _ in range(120):
            one = socket.socket(socket.AF_UNIX)
            one.setblocking(False)
            with suppress(OSError):
                one.connect(str(sidecar.socket))
            many.append(one)
        for one in many:
            one.close()
        wait_until(lambda: stores(sidecar), 20, "serves again")
