# SPDX-License-Identifier: Apache-2.0
"""`move-over`: the caches of clients say where the new bus begins."""

from __future__ import annotations

import gzip
import json
import os
import sqlite3
import time
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from support.commands import Run, assert_complaint, run_process
from support.sidecar import SidecarProcess, last_offset, post

if TYPE_CHECKING:
    from pathlib import Path

NEXT = 4321


def write_cache(directory: Path, name: str, following: int | None = NEXT) -> Path:
    """Write what a hermes-client keeps, with or without an initsync."""
    directory.mkdir(exist_ok=True)
    start, stop = (None, None) if following is None else (10, 20)
    offsets = {
        "initstartoffset": start,
        "initstopoffset": stop,
        "nextoffset": following,
    }
    path = directory / f"_hermes-client-{name}.json"
    path.write_text(json.dumps({"__HERMES_VERSION__": "1.0.9", "content": offsets}))
    return path


def write_bus(path: Path, last: int, age_seconds: float = 600) -> Path:
    """Write a SQLite bus of Hermes whose last event has this offset, a while ago."""
    with closing(sqlite3.connect(path)) as bus:
        bus.execute(
            "CREATE TABLE hermesmessages (msgid INTEGER PRIMARY KEY AUTOINCREMENT, "
            "data TEXT NOT NULL, timestamp REAL NOT NULL)"
        )
        bus.execute("INSERT INTO hermesmessages VALUES (?, '{}', 0)", (last,))
        bus.commit()
    then = time.time() - age_seconds
    os.utime(path, (then, then))
    return path


def test_the_stream_begins_where_the_clients_stand(
    run: Run, stream: dict[str, object], tmp_path: Path
) -> None:
    caches = [write_cache(tmp_path / name, name) for name in ("ldap", "ad")]
    packed = tmp_path / "_hermes-client-null.json.gz"
    packed.write_bytes(gzip.compress(caches[0].read_bytes()))
    bus = write_bus(tmp_path / "bus.sqlite", NEXT - 1)
    asked: list[str | Path] = [
        "move-over",
        "--from-sqlite",
        bus,
        "--client-cache",
        *caches,
        packed,
    ]

    would = run(*asked, "--dry-run", **stream)
    assert (would.returncode, would.stderr) == (0, "")
    assert f"Would create stream {stream['stream']}, which" in would.stdout
    assert f"its next offset: {NEXT}." in would.stdout
    assert run("check", **stream).returncode == 5  # nothing was created

    moved = run(*asked, unix_socket="/run/hermes-nats-sidecar/api.sock", **stream)
    assert (moved.returncode, moved.stderr) == (0, "")
    for name in ("ldap", "ad", "null"):
        assert f"\n{name} " in moved.stdout
    assert "url: unix:///run/hermes-nats-sidecar/api.sock" in moved.stdout
    assert "hermes-server-cli initsync" in moved.stdout
    assert run("check", **stream).returncode == 0

    again = run(*asked, **stream)  # as good as the first time
    assert (again.returncode, again.stdout) == (0, run(*asked, **stream).stdout)
    other = run("provision", "--first-offset", str(NEXT + 1), **stream)
    assert other.returncode == 5
    assert f"its next offset is {NEXT}" in other.stdout
    assert "It has never held an event" in other.stdout


def test_a_bus_that_was_written_just_now_is_not_left(
    run: Run, stream: dict[str, object], tmp_path: Path
) -> None:
    cache = write_cache(tmp_path / "a", "ad")
    bus = write_bus(tmp_path / "bus.sqlite", NEXT - 1, age_seconds=30)
    asked: list[str | Path] = ["move-over", "--from-sqlite", bus]
    asked += ["--client-cache", cache]
    assert_complaint(run(*asked, **stream), 5, "what hermes-server writes after this")
    assert run("check", **stream).returncode == 5
    assert run(*asked, "--yes", **stream).returncode == 0


def test_without_the_bus_it_is_said_what_is_not_known(
    run: Run, stream: dict[str, object], tmp_path: Path
) -> None:
    cache = write_cache(tmp_path / "a", "ad")
    ran = run("move-over", "--client-cache", cache, **stream)
    assert ran.returncode == 0
    assert f"Only you can see that the old bus ends at {NEXT}" in ran.stdout
    assert "url: unix:///run/hermes-nats-sidecar/api.sock" in ran.stdout


def test_two_caches_of_one_client_are_not_guessed_between(
    run: Run, stream: dict[str, object], tmp_path: Path
) -> None:
    cache = write_cache(tmp_path / "a", "ad")
    packed = cache.with_name(cache.name + ".gz")
    packed.write_bytes(gzip.compress(write_cache(tmp_path / "b", "ad").read_bytes()))
    for name in ("ad.json.000001", "ad.000001.json", "ad.json.bak"):
        (tmp_path / "a" / f"_hermes-client-{name}").write_text("{}")
    ran = run("move-over", "--client-cache", tmp_path / "a", **stream)
    assert "There are two caches of ad" in ran.stderr
    packed.unlink()
    pattern = tmp_path / "[ab]*"  # as sudo gets it from a shell that may not look
    (tmp_path / "b" / cache.name).unlink()
    write_cache(tmp_path / "b", "ldap")
    ran = run("move-over", "--client-cache", pattern, **stream)
    assert (ran.returncode, ran.stderr) == (0, "")


def test_a_client_that_lags_is_named_and_nothing_is_created(
    run: Run, stream: dict[str, object], tmp_path: Path
) -> None:
    ahead = write_cache(tmp_path / "a", "ad")
    behind = write_cache(tmp_path / "b", "ldap", NEXT - 3)
    ran = run("move-over", "--client-cache", ahead, behind, **stream)
    assert ran.returncode == 1
    assert "ldap is 3 behind" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert run("check", **stream).returncode == 5


def test_all_clients_may_be_behind_the_bus(
    run: Run, stream: dict[str, object], tmp_path: Path
) -> None:
    cache = write_cache(tmp_path / "a", "ad")
    bus = write_bus(tmp_path / "bus.sqlite", NEXT + 5)
    ran = run("move-over", "--client-cache", cache, "--from-sqlite", bus, **stream)
    assert ran.returncode == 1
    assert "ad is 6 behind" in ran.stderr


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"content": {"Users": 1}}', b"[" * 200_000]
)
@pytest.mark.parametrize("suffix", [".json", ".json.gz"])
def test_what_is_no_cache_is_a_sentence(
    run: Run, stream: dict[str, object], tmp_path: Path, content: bytes, suffix: str
) -> None:
    file = tmp_path / f"_hermes-client-ad{suffix}"
    file.write_bytes(content)
    ran = run("move-over", "--client-cache", file, **stream)
    assert_complaint(ran, 5, "is no cache of a hermes-client")


def test_a_directory_without_a_cache_and_a_missing_file_are_sentences(
    run: Run, stream: dict[str, object], tmp_path: Path
) -> None:
    ran = run("move-over", "--client-cache", tmp_path, **stream)
    assert_complaint(ran, 5, "name a client's cache directory")
    ran = run("move-over", "--client-cache", tmp_path / "none", **stream)
    assert_complaint(ran, 5, "No such file")
    cache = write_cache(tmp_path / "a", "ad")
    for bus, why in (("none", "No such file"), ("a", "SQLite bus")):
        ran = run(
            "move-over",
            "--client-cache",
            cache,
            "--from-sqlite",
            tmp_path / bus,
            **stream,
        )
        assert_complaint(ran, 5, why)


def test_an_embedded_server_begins_there_too_and_an_unused_stream_gives_way(
    private: Path,
) -> None:
    settings = {"embedded_dir": private / "nats", "unix_socket": private / "s"}
    cache = write_cache(private / "cache", "ad")
    asked: list[str | Path] = [
        "move-over",
        "--embedded",
        "--client-cache",
        private / "cache",
    ]
    for following in (NEXT, NEXT + 8):  # the second finds the stream of the first
        write_cache(cache.parent, "ad", following)
        ran = run_process(*asked, **settings)
        assert (ran.returncode, ran.stderr) == (0, "")
        assert f"is {following}." in ran.stdout
    nats = settings["embedded_dir"]
    embedded = SidecarProcess(private / "run", embedded_dir=nats, embedded="true")
    with embedded, embedded.client() as http:
        assert last_offset(http) == NEXT + 7
        assert post(http, last=NEXT + 7).json()["offset"] == NEXT + 8
        ran = run_process(*asked, **settings)
        assert ran.returncode == 6  # its sidecar runs
    ran = run_process(*asked, **settings)
    assert ran.returncode == 5  # it holds an event
    assert f"its next offset is {NEXT + 9}" in ran.stdout
    assert "If this stream is of an earlier move" in ran.stdout


def test_the_way_back_makes_a_sqlite_bus_that_goes_on(
    run: Run, sidecar: SidecarProcess, tmp_path: Path
) -> None:
    with sidecar.client() as http:
        following = post(http).json()["offset"] + 1
    settings = {"unix_socket": sidecar.socket, "nats_url": "nats://127.0.0.1:1"}
    bus = tmp_path / "bus.sqlite"
    asked: list[str | Path] = [
        "move-over",
        "--to-sqlite",
        bus,
        "--client-cache",
        tmp_path / "a",
    ]
    write_cache(tmp_path / "a", "ad", following - 1)
    assert run(*asked, **settings).returncode == 1
    assert not bus.exists()

    write_cache(tmp_path / "a", "ad", following)
    for name, what in (("ad", "still reads"), ("ldap", "still reads")):
        agent = {"User-Agent": f"hermes-client-{name}"}
        with sidecar.client() as http:
            http.get(f"/v1/events?offset={following}", headers=agent)
        assert_complaint(run(*asked, **settings), 5, what)
    ran = run(*asked, "--yes", **settings)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "delete stream" in ran.stdout
    assert f"uri: {bus}" in ran.stdout
    assert bus.stat().st_mode & 0o777 == 0o640
    with closing(sqlite3.connect(bus)) as made:
        made.execute("INSERT INTO hermesmessages (data, timestamp) VALUES ('{}', 1)")
        assert made.execute("SELECT msgid FROM hermesmessages").fetchall() == [
            (following,)
        ]
    assert_complaint(run(*asked, "--yes", **settings), 5, "exists already")
