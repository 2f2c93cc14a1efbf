# SPDX-License-Identifier: Apache-2.0
"""`check` and `doctor`: what they try and say, and that they store nothing."""

from __future__ import annotations

import os
import pwd
import re
from typing import TYPE_CHECKING, Any

import pytest
from support.commands import SECRET, Run, run_here
from support.jetstream import RawNatsClient
from support.nats import NatsProcess, free_port
from support.sidecar import SidecarProcess, event, post
from support.users import ROLES, USERS, guarded, login, password

from sidecar.jetstream.permissions import needed
from sidecar.model.stream import StreamPlan

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PLAN = StreamPlan("hermes", "hermes", 1, 90)
MONITOR = free_port()


@pytest.fixture(scope="module")
def guarded_nats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsProcess]:
    """Run a nats-server with the users of deploy/nats, and its monitoring port."""
    text = USERS.read_text("utf-8")
    operator = f"users: [{{ user: operator, password: {SECRET} }}"
    users = f"{text.replace('users: [', operator)}\nhttp: 127.0.0.1:{MONITOR}\n"
    with guarded(tmp_path_factory.mktemp("guarded"), users) as server:
        yield server


def state(server: NatsProcess) -> Any:
    with RawNatsClient(server.port, "operator", SECRET) as operator:
        return operator.api("STREAM.INFO.hermes")["state"]


def rows(text: str, state: str) -> list[str]:
    return [row[11:] for row in text.splitlines() if row.startswith(f"{state:<9}  ")]


def granted(user: str) -> set[tuple[str, str]]:
    """Give what users.conf grants a user."""
    text = USERS.read_text("utf-8").partition(f"user: {user}\n")[2].partition("}")[0]
    return {
        (kind, subject)
        for kind in ("publish", "subscribe")
        for subject in re.findall(
            '"([^"]+)"', text.partition(f"{kind}: [")[2].partition("]")[0]
        )
    }


@pytest.mark.parametrize("role", ["producer", "consumer", "both"])
def test_what_is_tried_is_what_users_conf_grants(role: str) -> None:
    tried = needed(role, PLAN, f"_INBOX_hermes_{role}", creates=False)
    assert {(each.kind, each.subject) for each in tried} == granted(f"hermes_{role}")


@pytest.mark.parametrize("role", ["producer", "consumer", "both"])
def test_a_user_with_all_permissions_is_fit_and_nothing_is_stored(
    run: Run, tmp_path: Path, guarded_nats: NatsProcess, role: str
) -> None:
    before = state(guarded_nats)
    ran = run("check", **login(tmp_path, guarded_nats, role), role=role)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "Stream hermes is usable." in ran.stdout
    assert not rows(ran.stdout, "fault")
    (permissions,) = (row for row in rows(ran.stdout, "ok") if "granted" in row)
    assert ("hermes.base" in permissions) == (role != "consumer")
    assert not [row for row in rows(ran.stdout, "note") if "permission" in row]
    assert state(guarded_nats) == before


def test_a_user_who_may_neither_publish_nor_read_is_told_each_subject(
    run: Run, tmp_path: Path, guarded_nats: NatsProcess
) -> None:
    """That user may ask for the stream's state, and no more."""
    settings = login(tmp_path, guarded_nats, "provision")
    settings["nats_inbox_prefix"] = "_INBOX_hermes_provision"
    before = state(guarded_nats)
    ran = run("check", **settings)
    assert ran.returncode == 4
    assert "usable" not in ran.stdout
    faults = rows(ran.stdout, "fault")
    assert [re.findall(r"may not (\w+ to \S+):", row)[0] for row in faults] == [
        "publish to hermes.base",
        "publish to hermes.initsync",
        "publish to $JS.API.STREAM.MSG.GET.hermes",
        "publish to $JS.API.DIRECT.GET.hermes",
    ]
    notes = " ".join(rows(ran.stdout, "note"))
    assert "subscribe to hermes-nats-sidecar.stored.hermes: waiting" in notes
    assert "publish to $SRV.STATS.hermes-nats-sidecar: each sidecar" in notes
    assert state(guarded_nats) == before


def test_without_an_inbox_the_stream_is_not_known(
    run: Run, tmp_path: Path, guarded_nats: NatsProcess
) -> None:
    ran = run("check", **login(tmp_path, guarded_nats, "provision"))
    assert ran.returncode == 4
    assert "subscribe to _INBOX_hermes_both.>" in rows(ran.stdout, "fault")[0]
    assert any(row.startswith("stream: ") for row in rows(ran.stdout, "not known"))


def test_one_missing_permission_of_many_is_named(run: Run, tmp_path: Path) -> None:
    users = USERS.read_text("utf-8").replace('"hermes.initsync",', "")
    with guarded(tmp_path, users) as server:
        ran = run("check", **login(tmp_path, server, "both"))
    assert ran.returncode == 4
    (fault,) = rows(ran.stdout, "fault")
    assert "may not publish to hermes.initsync:" in fault


def test_the_sync_mode_is_known_by_the_monitoring_port_alone(
    run: Run, tmp_path: Path, guarded_nats: NatsProcess
) -> None:
    settings = login(tmp_path, guarded_nats, "both")
    ran = run("check", **settings)
    assert any(row.startswith("sync: ") for row in rows(ran.stdout, "not known"))
    monitored = run(
        "check", "--nats-monitor", f"http://127.0.0.1:{MONITOR}", **settings
    )
    assert monitored.returncode == 0
    assert any(
        "sync_interval is 120 s" in row for row in rows(monitored.stdout, "note")
    )
    closed = run("check", "--nats-monitor", "http://127.0.0.1:1", **settings)
    assert closed.returncode == 0
    assert any("--nats-monitor" in row for row in rows(closed.stdout, "not known"))


def test_replicas_retention_clock_and_payload_are_told(
    run: Run, stream: dict[str, object]
) -> None:
    run("provision", **stream)
    told = rows(run("check", **stream).stdout, "ok")
    text = "\n".join(told)
    assert "replicas: 1 of 1 are live." in text
    assert "Events stay 90 days; no limit of size." in text
    assert re.search(r"clock: .* differs by [+-]0\.\d{3} s", text)
    assert "payload: An event may have 8388608 bytes" in text
    small = run("check", **stream, max_event_bytes=20_000_000)
    assert any("SIDECAR_MAX_EVENT_BYTES" in row for row in rows(small.stdout, "note"))


def test_a_clock_that_is_wrong_is_a_note(
    run: Run, stream: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    run("provision", **stream)
    monkeypatch.setattr("sidecar.commands.examination.time.time", lambda: 1e9)
    ran = run("check", **stream)
    assert any("NTP" in row for row in rows(ran.stdout, "note"))


# -- doctor ----------------------------------------------------------------------------


def test_doctor_prints_one_page_without_a_secret(
    run: Run, tmp_path: Path, guarded_nats: NatsProcess
) -> None:
    token = tmp_path / "token"
    token.write_text(SECRET)
    settings = login(tmp_path, guarded_nats, "both") | {"token_file": token}
    with SidecarProcess(tmp_path / "s", **settings) as sidecar:
        with sidecar.client() as http:
            post(http, event(objpkey="somebody")).raise_for_status()
        ran = run("doctor", **sidecar.settings)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert f"SIDECAR_NATS_URL={guarded_nats.url}" in ran.stdout
    assert f"SIDECAR_TOKEN_FILE={token}" in ran.stdout
    assert "nats-py 2." in ran.stdout
    assert "daemon: It is ready" in ran.stdout
    for secret in (SECRET, "somebody", *map(password, ROLES)):
        # The names of password files hold those of roles, and no password.
        assert secret not in ran.stdout.replace("password-", "")


def test_doctor_goes_on_where_nats_and_daemon_are_down(run: Run, private: Path) -> None:
    url = f"nats://127.0.0.1:{free_port()}"
    ran = run("doctor", nats_url=url, unix_socket=private / "s")
    assert ran.returncode == 4
    (nats, daemon) = rows(ran.stdout, "fault")
    assert nats.startswith("nats: There is no connection to NATS.")
    assert url in nats
    assert daemon.startswith("daemon: ")


def test_doctor_shows_the_checks_that_do_not_pass(run: Run, private: Path) -> None:
    url = f"nats://127.0.0.1:{free_port()}"
    process = SidecarProcess(private, nats_url=url)
    process.start()
    try:
        process.wait_live()
        ran = run("doctor", **process.settings)
    finally:
        process.stop()
    assert any(
        row.startswith("daemon: stream: There is no connection to NATS.")
        for row in rows(ran.stdout, "fault")
    )


def test_check_of_an_embedded_server_finds_the_running_one(private: Path) -> None:
    settings = {"embedded": "true", "embedded_dir": private / "nats"}
    ran = run_here("check", **settings)
    assert ran.returncode == 6
    assert "No embedded nats-server runs" in ran.stderr
    with SidecarProcess(private / "s", **settings) as sidecar:
        ran = run_here("check", **settings)
        assert (ran.returncode, ran.stderr) == (0, "")
        assert "sync: sync_interval is always" in ran.stdout
        assert run_here("provision", **settings).returncode == 0
        page = run_here("doctor", **sidecar.settings)
        assert page.returncode == 0, page.stdout
    ran = run_here("check", "--embedded", embedded_dir=private / "nats")
    assert ran.returncode == 6


# -- As Hermes -------------------------------------------------------------------------


def as_user(run: Run, sidecar: SidecarProcess, user: str, *more: str) -> list[str]:
    text = run("doctor", "--as", user, *more, **sidecar.settings).stdout
    return [row for row in text.splitlines() if "  plugin: " in row]


def test_what_a_plugin_meets_as_this_user(run: Run, sidecar: SidecarProcess) -> None:
    me = pwd.getpwuid(os.geteuid()).pw_name
    (row,) = as_user(run, sidecar, me)
    assert row == f"ok         plugin: As {me} at {sidecar.url}: the sidecar answers."
    (row,) = as_user(run, sidecar, me, "--url", f"http://127.0.0.1:{sidecar.tcp_port}")
    assert row.startswith("fault")
    assert "(api_off)" in row


@pytest.mark.skipif(os.geteuid() != 0, reason="NOT TESTED: needs root")
def test_what_a_plugin_meets_as_a_user_who_may_not_open_the_socket(
    run: Run, sidecar: SidecarProcess
) -> None:
    (row,) = as_user(run, sidecar, "nobody")
    where = f"As nobody at {sidecar.url}: no sidecar at {sidecar.url}"
    assert row.startswith(f"fault      plugin: {where}: permission denied. The ")
    assert "socket's group is " in row
    assert os.geteuid() == 0


def test_as_is_explained_where_it_cannot_be(run: Run, private: Path) -> None:
    ran = run("doctor", "--as", "no-such-user", unix_socket=private / "s")
    assert ran.returncode == 2
    assert "There is no user no-such-user" in ran.stderr
    ran = run("doctor", "--url", "unix:///s", unix_socket=private / "s")
    assert ran.returncode == 2
    assert "--as USER" in ran.stderr
