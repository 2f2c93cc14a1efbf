# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import asyncio
import os
import signal
import socket
import stat
import subprocess
import sysconfig
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs
from support.process import wait_until
from support.sidecar import (
    COMMAND,
    SidecarProcess,
    environment,
    event,
    last_offset,
    post,
)

from sidecar.http.server import serve
from sidecar.jetstream.embedded_server import (
    EmbeddedError,
    _lock,
    _supervise,
    _write_private,
    find_nats_server,
    payload_bytes,
)
from sidecar.settings import load

if TYPE_CHECKING:
    from collections.abc import Iterator


MIB = 1024 * 1024


class Embedded(SidecarProcess):
    """`serve --embedded`, and the nats-server that it started."""

    def __init__(self, directory: Path, **settings: object) -> None:
        self.data = directory / "nats"
        super().__init__(directory, embedded_dir=self.data, **settings)
        self.arguments = [*COMMAND, "serve", "--embedded"]

    def server_pids(self) -> list[int]:
        """Find the processes whose command line names our configuration."""
        return [
            int(entry.name)
            for entry in Path("/proc").iterdir()
            if entry.name.isdigit()
            and str(self.data / "nats.conf").encode() in _command_line(entry)
        ]


def _command_line(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    with Embedded(tmp_path_factory.mktemp("embedded")) as process:
        yield process


def refusal(directory: Path, embedded_dir: Path) -> str:
    """Give what `serve --embedded` says that cannot use its directory."""
    directory.chmod(0o700)
    settings = environment(
        embedded_dir=embedded_dir, unix_socket=directory / "s", http_port=0
    )
    answer = subprocess.run(
        [*COMMAND, "serve", "--embedded"],
        env=settings,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert answer.returncode == 6
    assert "Traceback" not in answer.stderr
    return answer.stderr


def test_it_becomes_ready_and_takes_events(embedded: Embedded) -> None:
    with embedded.client() as http:
        last = last_offset(http)
        assert post(http, last=last).json()["offset"] == last + 1


def test_its_store_is_private(embedded: Embedded) -> None:
    assert stat.S_IMODE(embedded.data.stat().st_mode) == 0o700
    for name in ("nats.conf", "token"):
        assert stat.S_IMODE((embedded.data / name).stat().st_mode) == 0o600


def test_its_server_syncs_always_and_takes_eight_megabytes(embedded: Embedded) -> None:
    config = (embedded.data / "nats.conf").read_text()
    assert "sync_interval: always" in config
    assert f"max_payload: {8 * MIB}" in config
    assert "host: 127.0.0.1" in config


def test_its_server_wants_a_token_that_no_log_or_command_line_shows(
    embedded: Embedded,
) -> None:
    token = (embedded.data / "token").read_text()
    assert len(token) > 30
    assert token not in embedded.output()
    (pid,) = embedded.server_pids()
    for process in (pid, embedded.running.pid):
        shown = Path(f"/proc/{process}")
        assert token.encode() not in _command_line(shown)
        assert token.encode() not in (shown / "environ").read_bytes()


def test_lines_of_the_server_are_in_our_format(embedded: Embedded) -> None:
    rows = embedded.rows()  # each line is JSON
    texts = [str(row.get("text")) for row in rows]
    ready = next(n for n, text in enumerate(texts) if "Server is ready" in text)
    # Behind its start stands what other tests, in any order, did to the server.
    rows = rows[: ready + 1]
    of_info = [row for row in rows if row["level"] != "debug"]
    assert "embedded_nats" not in {row["event"] for row in of_info}
    assert "stream_missing" not in {row["event"] for row in rows}
    assert {"level", "timestamp", "event"} <= set(rows[0])


def test_a_killed_server_is_started_again_and_its_events_stand(
    embedded: Embedded,
) -> None:
    with embedded.client() as http:
        last = post(http).json()["offset"]
        (pid,) = embedded.server_pids()
        os.kill(pid, signal.SIGKILL)
        wait_until(
            lambda: (pids := embedded.server_pids()) and pids != [pid],
            what="another nats-server",
        )
        embedded.wait_ready()
        assert post(http, last=last).json()["offset"] == last + 1
    ended = [row for row in embedded.rows() if row["event"] == "embedded_nats_ended"]
    assert ended
    assert all(row["exit_status"] == -signal.SIGKILL for row in ended)


def test_long_lines_of_strangers_do_nothing(embedded: Embedded) -> None:
    (pid,) = embedded.server_pids()
    port = int(
        (embedded.data / "nats.conf").read_text().partition("port: ")[2].split()[0]
    )
    name = "x" * 200_000
    lines = (
        b'CONNECT {"name": "%b", "user": "%b"}\r\n' % ((name.encode(),) * 2),
        b'CONNECT {"auth_token": "%b\\n[1] d t [FTL] x"}\r\n' % name[:3000].encode(),
        b"x" * 2**20,
        b"\r\n" * 1000,
    )
    for line in lines:
        with (
            socket.create_connection(("127.0.0.1", port), 10) as stranger,
            suppress(ConnectionError),
        ):
            stranger.sendall(line + b"PING\r\n")
            while stranger.recv(65536):
                pass
    with embedded.client() as http:
        assert post(http).status_code == 201
    assert embedded.server_pids() == [pid]
    assert max(map(len, embedded.output().splitlines())) < 20_000


class Supervised:
    """A stand-in for nats-server, which tells how often it was started."""

    def __init__(self, directory: Path) -> None:
        self.binary = directory / "nats-server"
        self.starts = directory / "starts"
        self.ports_chosen = 0

    def place(self, script: str) -> None:
        self.binary.write_text(f"#!/bin/sh\necho x >> {self.starts}\n{script}\n")
        self.binary.chmod(0o700)

    def choose_port(self) -> None:
        self.ports_chosen += 1

    def has_started(self) -> bool:
        return self.starts.exists()

    async def supervise(self) -> None:
        await _supervise(self.binary, self.binary, self.choose_port)


async def test_a_server_that_could_not_be_started_is_started_later(
    tmp_path: Path,
) -> None:
    server = Supervised(tmp_path)
    supervisor = asyncio.create_task(server.supervise())
    try:
        await asyncio.to_thread(wait_until, lambda: server.ports_chosen > 1)
        server.place("exec sleep 60")
        await asyncio.to_thread(wait_until, server.has_started)
        assert not supervisor.done()
    finally:
        supervisor.cancel()
        await asyncio.wait([supervisor])


async def test_a_line_without_end_is_cut_and_the_server_stays(tmp_path: Path) -> None:
    server = Supervised(tmp_path)
    line = "printf '[1] d t [ERR] long'; head -c 200000 /dev/zero | tr '\\0' x; echo"
    with capture_logs() as rows:
        said = f"{line}; echo '[1] d t [INF] next'; {line}; echo '[1] d t [INF] last'"
        server.place(f"({said}) >&2; exec sleep 60")
        supervisor = asyncio.create_task(server.supervise())
        try:
            async with asyncio.timeout(20):
                while len(rows) < 4 and not supervisor.done():
                    await asyncio.wait({supervisor}, timeout=0.01)
            assert not supervisor.done()
        finally:
            supervisor.cancel()
            await asyncio.wait([supervisor])
    texts = [row["text"] for row in rows]
    assert [text[:5] for text in texts] == ["longx", "next", "longx", "last"]
    assert max(map(len, texts)) < 10_000


async def test_serve_ends_with_the_supervisor_of_its_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(*_: object) -> None:
        await asyncio.sleep(0.1)
        raise ZeroDivisionError

    monkeypatch.setattr("sidecar.jetstream.embedded_server._supervise", fails)
    settings = load(
        {}, embedded=True, embedded_dir=tmp_path / "nats", tcp_api="open", http_port=0
    )
    with pytest.raises(ZeroDivisionError):
        async with asyncio.timeout(20):
            await serve(settings)


def test_a_second_sidecar_on_the_directory_is_refused(
    embedded: Embedded, tmp_path: Path
) -> None:
    words = refusal(tmp_path, embedded.data)
    assert "Another sidecar uses" in words
    assert "SIDECAR_EMBEDDED_DIR" in words
    with embedded.client() as http:
        assert post(http).status_code == 201


def test_the_server_ends_with_a_sidecar_that_is_killed(tmp_path: Path) -> None:
    process = Embedded(tmp_path)
    with process:
        with process.client() as http:
            last = post(http).json()["offset"]
        (pid,) = process.server_pids()
        process.kill()
        wait_until(lambda: pid not in process.server_pids(), what="nats-server ends")
        process.start()
        process.wait_ready()
        with process.client() as http:
            assert last_offset(http) == last
            assert process.terminate() == 0
        assert process.server_pids() == []
        assert process.rows()[-1]["event"] == "stopped"


def test_a_directory_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot be used" in refusal(tmp_path, tmp_path / "file" / "nats")


def test_the_server_of_this_environment_is_found_or_missed_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert find_nats_server().name == "nats-server"
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))
    with pytest.raises(EmbeddedError, match="No nats-server was found"):
        find_nats_server()


def test_a_directory_of_another_user_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(EmbeddedError, match="belongs to another user"):
        _lock(tmp_path)


def test_a_directory_that_others_could_replace_is_refused(tmp_path: Path) -> None:
    above = tmp_path / "above"
    above.mkdir()
    above.chmod(0o777)
    with pytest.raises(EmbeddedError, match=r"others could rename.* by subPath"):
        _lock(above / "own")
    if os.geteuid() == 0:
        above.chmod(0o1777)
        (above / "own2").mkdir(mode=0o700)
        (above / "link").symlink_to(above / "own2")
        os.chown(above / "link", 12345, -1, follow_symlinks=False)
        with pytest.raises(EmbeddedError, match="a link that belongs to another user"):
            _lock(above / "link")


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    victim, token = tmp_path / "victim", tmp_path / "token"
    victim.write_text("precious")
    token.symlink_to(victim)
    _write_private(token, "secret")
    assert victim.read_text() == "precious"
    assert token.read_text() == "secret"
    assert token.stat().st_mode & 0o777 == 0o600


def test_a_port_that_somebody_else_took_is_given_up(tmp_path: Path) -> None:
    with Embedded(tmp_path / "run") as process:
        config = process.data / "nats.conf"
        port = int(config.read_text().partition("port: ")[2].split()[0])
        (pid,) = process.server_pids()
        process.freeze()  # so that it does not start the next one before we are there
        os.kill(pid, signal.SIGKILL)
        thief = socket.socket()
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)

        def has_another_port() -> bool:
            with suppress(FileNotFoundError):  # it is just written anew
                return f"port: {port}\n" not in config.read_text()
            return False

        def takes() -> bool:
            try:
                thief.bind(("127.0.0.1", port))
            except OSError:
                return False
            return True

        with thief:
            wait_until(takes, 10, "the port is free")
            thief.listen()
            process.thaw()
            wait_until(has_another_port, 20)
            with process.client() as http:
                wait_until(lambda: post(http).status_code == 201, 20, "stored again")


@pytest.mark.parametrize(
    ("max_event_bytes", "payload_mib"),
    [(0, 8), (1000, 8), (20 * MIB, 20 + 1 / 16), (64 * MIB, 64)],
)
def test_it_takes_8_mib_or_as_much_as_an_event_may_have(
    max_event_bytes: int, payload_mib: float
) -> None:
    assert payload_bytes(max_event_bytes) == payload_mib * MIB


def test_an_event_of_20_mib_passes_if_the_setting_says_so(tmp_path: Path) -> None:
    photo = event(objattrs={"photo": "x" * 20 * MIB})
    with Embedded(tmp_path) as usual, usual.client() as http:
        refused = post(http, photo)
        assert refused.json()["code"] == "event_too_large"
        assert "SIDECAR_MAX_EVENT_BYTES, which also raises" in refused.json()["remedy"]
    with Embedded(tmp_path, max_event_bytes=21 * MIB) as large, large.client() as http:
        offset = post(http, photo).json()["offset"]
        page = http.get("/v1/events", params={"offset": offset}).json()
        assert page["events"][0]["data"].encode() == photo
