# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest
import trustme
from parts.answers import Player, Reply, problem
from parts.jetstream import Operator, wait_jetstream
from parts.nats import NatsProcess, free_port
from parts.process import wait_until
from parts.sidecar import COMMAND, SidecarProcess, environment, event, post

from sidecar.cli import main

if TYPE_CHECKING:
    from collections.abc import Iterator

Ran = subprocess.CompletedProcess[str]
SECRET = "c0rrect-horse"
COMMANDS = (
    "serve",
    "provision",
    "check",
    "tail",
    "healthcheck",
    "install-plugins",
    "demo",
)


class Run(Protocol):
    def __call__(self, *arguments: str | Path, **settings: object) -> Ran: ...


def run_process(*arguments: str | Path, **settings: object) -> Ran:
    return subprocess.run(
        [*COMMAND, *arguments],
        env=environment(**settings),
        capture_output=True,
        text=True,
        timeout=15,
        check=False,
    )


@contextmanager
def interruptible(
    *arguments: str, environ: dict[str, str]
) -> Iterator[subprocess.Popen[str]]:
    """Start a command in a session of its own, as a terminal does.

    pytest-xdist ignores SIGINT, which a child would inherit; a handler it does not.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(
            [*COMMAND, *arguments],
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
    finally:
        signal.signal(signal.SIGINT, before)
    with process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command: `serve` as a process, the others here, which is much faster.

    What the command would show as a traceback is raised into the test.
    """

    def run_it(*arguments: str | Path, **settings: object) -> Ran:
        if arguments[:1] == ("serve",):
            return run_process(*arguments, **settings)
        wanted = environment(**settings)
        for name in set(os.environ) - set(wanted):
            monkeypatch.delenv(name)
        for name, value in wanted.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", ["hermes-nats-sidecar", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return Ran(arguments, ended.value.code, out, err)

    return run_it


def assert_complaint(ran: Ran, status: int, *words: str) -> None:
    """One sentence, or a few, on one line of stderr, and no more."""
    assert "Traceback" not in ran.stderr, ran.stderr
    assert ran.returncode == status, ran.stderr
    lines = ran.stderr.splitlines()
    assert len(lines) == 1, ran.stderr
    assert lines[0].startswith("hermes-nats-sidecar: ")
    assert lines[0].endswith((".", "?"))
    for word in words:
        assert word in lines[0]
    assert SECRET not in ran.stderr + ran.stdout


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsProcess]:
    """One server that wants the password c0rrect-horse of the user hermes."""
    users = f"authorization {{ user: hermes, password: {SECRET} }}"
    with NatsProcess(tmp_path_factory.mktemp("locked"), extra=users) as server:
        yield server


@pytest.fixture
def private(tmp_path: Path) -> Path:
    tmp_path.chmod(0o700)
    return tmp_path


@pytest.fixture
def stream(nats: NatsProcess) -> dict[str, object]:
    """Give settings for a stream of its own that is not there yet."""
    wait_jetstream(nats.port)
    name = f"s{uuid.uuid4().hex[:12]}"
    return {"nats_url": nats.url, "stream": name, "subject_prefix": name}


# -- Help ------------------------------------------------------------------------------


def test_help_names_each_command_and_each_exit_status(run: Run) -> None:
    ran = run("--help")
    assert ran.returncode == 0
    for command in COMMANDS:
        assert f"\n    {command}" in ran.stdout
    assert "Exit status: 0 done" in ran.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_explains_it(run: Run, command: str) -> None:
    ran = run(command, "--help")
    assert ran.returncode == 0
    assert len(ran.stdout.splitlines()) > 4
    assert ran.stderr == ""


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nothing"],
        ["serve", "--nothing"],
        ["install-plugins"],
        ["provision", "--first-offset", "0"],
        ["provision", "--first-offset", "-1"],
        ["provision", "--first-offset", "x"],
        ["provision", "--first-offset", "9007199254740992"],
        ["tail", "--from", "x"],
    ],
    ids=" ".join,
)
def test_wrong_arguments_are_explained_with_exit_status_2(
    run: Run, arguments: list[str]
) -> None:
    ran = run(*arguments)
    assert ran.returncode == 2
    assert "usage: hermes-nats-sidecar" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_the_installed_command_tells_the_version() -> None:
    script = Path(sys.executable).with_name("hermes-nats-sidecar")
    ran = subprocess.run([script, "--version"], capture_output=True, check=True)
    assert ran.stdout.decode().strip() == version("hermes-nats-sidecar")


def test_a_mistake_as_a_process_is_one_line_and_an_exit_status() -> None:
    assert_complaint(run_process("check", nats_ulr="x"), 2, "SIDECAR_NATS_URL")


# -- Mistakes --------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["serve", "provision", "check", "healthcheck"])
def test_an_unknown_setting_is_named_with_the_nearest(run: Run, command: str) -> None:
    ran = run(command, nats_ulr="x")
    assert_complaint(ran, 2, "SIDECAR_NATS_ULR", "SIDECAR_NATS_URL")


def test_without_a_listener_the_daemon_says_how_to_choose(run: Run) -> None:
    ran = run("serve")
    assert_complaint(ran, 2, "SIDECAR_UNIX_SOCKET", "SIDECAR_TCP_API=open")


def test_a_taken_port_is_named(run: Run, private: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ran = run("serve", http_port=port, unix_socket=private / "s")
    assert_complaint(ran, 3, f"port {port}", "SIDECAR_HTTP_PORT")


def test_a_socket_of_a_live_sidecar_is_refused(
    run: Run, sidecar: SidecarProcess
) -> None:
    ran = run("serve", http_port=0, unix_socket=sidecar.socket)
    assert_complaint(ran, 3, str(sidecar.socket), "Another sidecar serves")
    with sidecar.client() as http:
        assert post(http).status_code == 201


def test_a_file_in_place_of_the_socket_is_kept(run: Run, private: Path) -> None:
    path = private / "s"
    path.write_text("precious")
    ran = run("serve", http_port=0, unix_socket=path)
    assert_complaint(ran, 3, str(path), "not a socket")
    assert path.read_text() == "precious"


def test_a_missing_socket_directory_is_named(run: Run, private: Path) -> None:
    ran = run("serve", http_port=0, unix_socket=private / "none" / "s")
    assert_complaint(ran, 3, str(private / "none"))


@pytest.mark.parametrize("text", [None, "", "not a certificate"])
def test_an_unreadable_certificate_of_the_listener_is_a_sentence(
    run: Run, private: Path, text: str | None
) -> None:
    file = private / "cert.pem"
    if text is not None:
        file.write_text(text)
    ran = run(
        "serve",
        http_port=0,
        unix_socket=private / "s",
        tls_cert_file=file,
        tls_key_file=file,
    )
    assert ran.returncode in (2, 3)
    assert_complaint(ran, ran.returncode, "SIDECAR_TLS_CERT_FILE")


@pytest.mark.parametrize("command", ["check", "provision"])
@pytest.mark.parametrize("text", [None, "", SECRET, "\udcff"])
def test_an_unreadable_creds_file_is_a_sentence(
    run: Run, nats: NatsProcess, private: Path, command: str, text: str | None
) -> None:
    file = private / "nats.creds"
    if text is not None:
        file.write_bytes(text.encode(errors="surrogateescape"))
    ran = run(command, nats_url=nats.url, nats_creds_file=file)
    assert_complaint(ran, 4, "credentials file", str(file))


@pytest.mark.parametrize(
    "setting", ["nats_nkey_seed_file", "nats_token_file", "nats_password_file"]
)
def test_an_unreadable_secret_file_is_a_sentence(
    run: Run, nats: NatsProcess, private: Path, setting: str
) -> None:
    user = {"nats_user": "u"} if setting == "nats_password_file" else {}
    ran = run("check", nats_url=nats.url, **{setting: private / "none"}, **user)
    assert_complaint(ran, 4, "credentials file")


@pytest.mark.parametrize("command", ["check", "provision"])
def test_a_nats_that_is_not_there_is_a_sentence(run: Run, command: str) -> None:
    ran = run(command, nats_url=f"nats://127.0.0.1:{free_port()}")
    assert_complaint(ran, 4, "no connection to NATS", "SIDECAR_NATS_URL")


@pytest.mark.parametrize(
    "url", ["nats://127.0.0.1:notaport", "nats://127.0.0.1:99999", "nats://no.invalid"]
)
def test_a_url_that_cannot_work_is_a_sentence(run: Run, url: str) -> None:
    ran = run("check", nats_url=url)
    assert ran.returncode in (2, 4)
    assert_complaint(ran, ran.returncode, "SIDECAR_NATS_URL")


@pytest.mark.parametrize("command", ["check", "provision"])
def test_a_wrong_password_is_a_sentence(
    run: Run, locked: NatsProcess, private: Path, command: str
) -> None:
    file = private / "password"
    file.write_text("wrong")
    ran = run(command, nats_url=locked.url, nats_user="hermes", nats_password_file=file)
    assert_complaint(ran, 4, "refused the login")


def test_the_right_password_is_let_in_and_shown_nowhere(
    run: Run, locked: NatsProcess, private: Path
) -> None:
    file = private / "password"
    file.write_text(SECRET + "\n")
    login = {
        "nats_url": locked.url,
        "nats_user": "hermes",
        "nats_password_file": file,
    }
    wait_until(lambda: run("check", **login).returncode == 5)
    ran = run("provision", **login)
    assert ran.returncode == 0, ran.stderr
    assert SECRET not in ran.stdout + ran.stderr


def test_a_server_without_tls_is_refused_when_tls_is_wanted(
    run: Run, locked: NatsProcess, private: Path
) -> None:
    file = private / "password"
    file.write_text(SECRET)
    url = locked.url.replace("nats://", "tls://")
    ran = run("check", nats_url=url, nats_user="hermes", nats_password_file=file)
    assert_complaint(ran, 4, "TLS")


def test_a_missing_stream_is_a_sentence_for_check(
    run: Run, stream: dict[str, object]
) -> None:
    assert_complaint(run("check", **stream), 5, "does not exist", "provision")


# -- provision and check ---------------------------------------------------------------


def info(stream: dict[str, object], nats: NatsProcess) -> Any:
    with Operator(nats.port) as operator:
        answer = operator.api(f"STREAM.INFO.{stream['stream']}")
        return {key: answer[key] for key in ("config", "created", "state")}


def test_provision_creates_a_fit_stream_once(
    run: Run, stream: dict[str, object], nats: NatsProcess
) -> None:
    before_us = int(time.time() * 1_000_000)
    ran = run("provision", **stream)
    assert (ran.returncode, ran.stderr) == (0, "")
    made = info(stream, nats)
    assert before_us <= made["state"]["first_seq"] <= time.time() * 1_000_000
    assert str(made["state"]["first_seq"]) in ran.stdout
    assert made["config"]["subjects"] == [f"{stream['stream']}.*"]
    assert made["config"]["max_age"] == 90 * 86400 * 10**9
    checked = run("check", **stream)
    assert (checked.returncode, checked.stderr) == (0, "")
    assert "is usable" in checked.stdout
    again = run("provision", **stream)
    assert (again.returncode, again.stderr) == (0, "")
    assert "matches the settings" in again.stdout
    assert info(stream, nats) == made


def test_check_warns_of_a_token_that_goes_over_http(
    run: Run, stream: dict[str, object], private: Path
) -> None:
    run("provision", **stream)
    token = private / "token"
    token.write_text("c0rrect-horse")
    warned = run("check", **stream, token_file=token)
    assert warned.returncode == 0
    assert "the token goes over http://" in warned.stderr


def test_provision_starts_at_the_offset_it_is_told(
    run: Run, stream: dict[str, object], nats: NatsProcess
) -> None:
    ran = run("provision", "--first-offset", "1234", **stream)
    assert ran.returncode == 0
    made = info(stream, nats)
    assert (made["state"]["first_seq"], made["state"]["last_seq"]) == (1234, 1233)
    again = run("provision", "--first-offset", "5000", **stream)
    assert again.returncode == 5
    assert "--first-offset 5000 was not applied" in again.stdout
    assert info(stream, nats) == made


def test_provision_says_what_differs_and_changes_nothing(
    run: Run, stream: dict[str, object], nats: NatsProcess
) -> None:
    run("provision", **stream)
    made = info(stream, nats)
    ran = run("provision", **stream, stream_max_age_days=7, stream_replicas=3)
    assert ran.returncode == 5
    lines = ran.stdout.splitlines()
    assert len(lines) == 2
    assert {line.split(" ")[0] for line in lines} == {"max_age", "num_replicas"}
    assert info(stream, nats) == made


def test_check_names_each_fault_of_an_unfit_stream(
    run: Run, stream: dict[str, object], nats: NatsProcess
) -> None:
    with Operator(nats.port) as operator:
        operator.create(str(stream["stream"]), storage="memory", allow_direct=False)
    ran = run("check", **stream)
    assert ran.returncode == 5
    assert "Storage is not file" in ran.stdout
    assert "allow_direct is not set" in ran.stdout
    assert run("provision", **stream).returncode == 5


def test_a_stream_whose_subjects_another_one_holds_is_a_sentence(
    run: Run,
    stream: dict[str, object],
) -> None:
    run("provision", **stream)
    ran = run("provision", **(stream | {"stream": f"{stream['stream']}b"}))
    assert_complaint(ran, 5, "refused", "subjects overlap")


def test_more_replicas_than_servers_is_a_sentence(
    run: Run, stream: dict[str, object]
) -> None:
    ran = run("provision", **stream, stream_replicas=3)
    assert_complaint(ran, 5, "refused")


# -- healthcheck -----------------------------------------------------------------------


def test_healthcheck_over_the_socket_tells_that_the_daemon_lives(
    run: Run,
    sidecar: SidecarProcess,
) -> None:
    ran = run("healthcheck", unix_socket=sidecar.socket)
    assert (ran.returncode, ran.stderr) == (0, "")


def test_healthcheck_over_tcp_leaves_proxies_alone(sidecar: SidecarProcess) -> None:
    settings = environment(http_port=sidecar.tcp_port)
    settings |= {"HTTP_PROXY": "http://127.0.0.1:1", "ALL_PROXY": "http://127.0.0.1:1"}
    ran = subprocess.run(
        [*COMMAND, "healthcheck"], env=settings, capture_output=True, check=False
    )
    assert ran.returncode == 0


def test_healthcheck_of_a_live_daemon_without_nats_is_well(
    run: Run, private: Path
) -> None:
    process = SidecarProcess(private, nats_url=f"nats://127.0.0.1:{free_port()}")
    process.start()
    try:
        process.wait_live()
        assert run("healthcheck", unix_socket=process.socket).returncode == 0
    finally:
        process.stop()


def test_over_tls_a_token_goes_to_the_daemons_own_certificate_alone(
    run: Run, private: Path
) -> None:
    certificate, other = (trustme.CA().issue_cert("bus.example.org") for _ in range(2))
    cert, key, token = (private / name for name in ("cert", "key", "token"))
    certificate.cert_chain_pems[0].write_to_path(cert)
    certificate.private_key_pem.write_to_path(key)
    token.write_text("c0rrect-horse")
    tls = {"http_host": "::1", "tls_cert_file": cert, "token_file": token}
    nats_url = f"nats://127.0.0.1:{free_port()}"
    process = SidecarProcess(private, nats_url=nats_url, tls_key_file=key, **tls)
    process.start()
    try:
        process.wait_live()
        settings = tls | {"http_port": process.tcp_port, "tls_key_file": key}
        assert run("healthcheck", **settings).returncode == 0
        other.cert_chain_pems[0].write_to_path(cert)
        assert run("healthcheck", **settings).returncode == 0  # it sends no token
        assert_complaint(run("tail", **settings), 1, "does not answer")
        cert.write_text("no certificate")
        assert run("healthcheck", **settings).returncode == 0
        assert_complaint(run("tail", **settings), 1, "SIDECAR_TLS_CERT_FILE")
    finally:
        process.stop()


def test_healthcheck_without_a_daemon_is_a_sentence(run: Run, private: Path) -> None:
    ran = run("healthcheck", unix_socket=private / "s")
    assert_complaint(ran, 1, "does not answer")
    assert_complaint(run("healthcheck", http_port=free_port()), 1, "does not answer")


def test_healthcheck_with_an_unreadable_token_file_is_a_sentence(
    run: Run, private: Path
) -> None:
    ran = run("healthcheck", http_port=free_port(), token_file=private / "none")
    assert "Traceback" not in ran.stderr
    assert ran.returncode in (1, 2)


# -- install-plugins -------------------------------------------------------------------


def test_install_plugins_copies_both_and_says_where(run: Run, private: Path) -> None:
    ran = run("install-plugins", private)
    assert (ran.returncode, ran.stderr) == (0, "")
    for family in ("messagebus_producers", "messagebus_consumers"):
        assert (private / family / "nats_sidecar" / "nats_sidecar.py").is_file()
        assert str(private / family / "nats_sidecar") in ran.stdout


def test_install_plugins_into_nowhere_is_a_sentence(run: Run, private: Path) -> None:
    ran = run("install-plugins", private / "none")
    assert_complaint(ran, 7, "is not a directory")


# -- tail ------------------------------------------------------------------------------


@pytest.fixture
def told(sidecar: SidecarProcess) -> SidecarProcess:
    """Let the stream end with twelve known events."""
    with sidecar.client() as http:
        for number in range(12):
            body = event(
                "initsync" if number == 11 else "base",
                objpkey=number,
                objattrs={"password": SECRET},
            )
            assert post(http, body).status_code == 201
    return sidecar


def tail(run: Run, told: SidecarProcess, *arguments: str) -> list[str]:
    ran = run("tail", *arguments, unix_socket=told.socket)
    assert ran.returncode == 0, ran.stderr
    assert SECRET not in ran.stdout or "--show-payload" in arguments
    return ran.stdout.splitlines()


def test_tail_shows_the_last_ten_without_what_they_hold(
    run: Run, told: SidecarProcess
) -> None:
    lines = tail(run, told)
    assert len(lines) == 10
    assert "initsync" in lines[-1]
    assert "added" in lines[-1]
    assert "Users" in lines[-1]


@pytest.mark.parametrize(
    ("arguments", "count"),
    [
        (["--from", "-3"], 3),
        (["--from=-3"], 3),
        (["--from", "next"], 0),
        (["--from", "-12", "--category", "initsync"], 1),
    ],
)
def test_tail_begins_where_it_is_told(
    run: Run, told: SidecarProcess, arguments: list[str], count: int
) -> None:
    assert len(tail(run, told, *arguments)) == count


def test_tail_from_first_shows_everything_in_order(
    run: Run, told: SidecarProcess
) -> None:
    rows = [json.loads(line) for line in tail(run, told, "--from", "first", "--json")]
    offsets = [row["offset"] for row in rows]
    assert offsets == list(range(offsets[0], offsets[0] + len(offsets)))
    assert len(offsets) >= 12
    assert "event" not in rows[0]


def tail_of(run: Run, player: Player) -> Ran:
    port = player.url.rpartition(":")[2]
    return run("tail", "--from", "7", http_port=port, tcp_api="open")


def test_tail_does_not_take_a_copy_that_lags_for_the_end(run: Run) -> None:
    row = {"offset": 7, "timestamp": "t", "category": "base", "data": "{}"}
    pages: list[Reply | str] = [
        Reply(200, {"events": rows, "next_offset": offset, "last_offset": 7})
        for rows, offset in (([], 7), ([row], 8), ([], 8))
    ]
    with Player(*pages) as player:
        ran = tail_of(run, player)
    assert ran.returncode == 0, ran.stderr
    assert len(ran.stdout.splitlines()) == 1


NOT_YET = Reply(200, {"events": [], "next_offset": 7, "last_offset": 7})
UNAVAILABLE = problem(503, "jetstream_unavailable")


SLOWLY_FAILED = Reply(200, UNAVAILABLE.document | {"status": 503})
"""A page that had begun before it failed."""


@pytest.mark.parametrize(
    "between", [NOT_YET, UNAVAILABLE, SLOWLY_FAILED, problem(429, "busy")]
)
def test_tail_asks_again_for_what_nobody_could_say(run: Run, between: Reply) -> None:
    row = {"offset": 7, "timestamp": "t", "category": "base", "data": "{}"}
    found = Reply(200, {"events": [row], "next_offset": 8, "last_offset": 7})
    end = Reply(200, {"events": [], "next_offset": 8, "last_offset": 7})
    with Player(between, found, between, end) as player:
        ran = tail_of(run, player)
    assert ran.returncode == 0, ran.stderr
    assert len(ran.stdout.splitlines()) == 1


@pytest.mark.parametrize(
    ("answer", "text"),
    [(NOT_YET, "whether there are more"), (UNAVAILABLE, "jetstream_unavailable")],
)
def test_tail_of_an_end_that_nobody_says_fails_after_its_patience(
    run: Run, monkeypatch: pytest.MonkeyPatch, answer: Reply, text: str
) -> None:
    monkeypatch.setattr("sidecar.commands.tail.PATIENCE_SECONDS", 0.5)
    with Player(answer) as player:
        assert_complaint(tail_of(run, player), 1, text)
        assert len(player.requests) > 1


def test_tail_of_a_damaged_stream_fails_at_once(run: Run) -> None:
    with Player(problem(503, "unreadable")) as player:
        assert_complaint(tail_of(run, player), 1, "unreadable")
        assert len(player.requests) == 1


def test_tail_shows_payloads_only_when_asked_and_says_so(
    run: Run, told: SidecarProcess
) -> None:
    ran = run("tail", "--show-payload", "--from", "-2", unix_socket=told.socket)
    assert ran.stdout.count(SECRET) == 2
    assert "passwords" in ran.stderr


def test_tail_shows_an_event_that_lacks_everything(
    run: Run, sidecar: SidecarProcess
) -> None:
    with sidecar.client() as http:
        offset = post(http, b'{"evcategory": "odd"}').json()["offset"]
    ran = run(
        "tail",
        "--show-payload",
        "--category=odd",
        f"--from={offset}",
        unix_socket=sidecar.socket,
    )
    assert (ran.returncode, len(ran.stdout.splitlines())) == (0, 1), ran.stderr


def test_tail_shows_what_another_program_stored_and_is_no_event(
    run: Run, nats: NatsProcess, sidecar: SidecarProcess
) -> None:
    with Operator(nats.port) as operator:
        texts = (b"", b"{", b"[1]", b"\xff")
        answers = [operator.ask("hermes.odd", text) for text in texts]
    offsets = [json.loads(answer)["seq"] for answer in answers]
    ran = run("tail", f"--from={offsets[0]}", "--json", unix_socket=sidecar.socket)
    rows = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [row["offset"] for row in rows][:4] == offsets, ran.stderr
    assert [row["type"] for row in rows][:4] == [None] * 4


def test_tail_follows_until_ctrl_c(told: SidecarProcess) -> None:
    environ = environment(unix_socket=told.socket)
    with interruptible("tail", "--follow", "--from=-1", environ=environ) as following:
        assert following.stdout is not None
        assert following.stdout.readline()
        with told.client() as http:
            offset = post(http, event(eventtype="removed")).json()["offset"]
        line = following.stdout.readline()
        assert str(offset) in line
        assert "removed" in line
        following.send_signal(signal.SIGINT)
        _, complaint = following.communicate(timeout=10)
    assert following.returncode == 130
    assert complaint == ""


def test_tail_into_a_closed_pipe_ends_quietly(told: SidecarProcess) -> None:
    command = f"{sys.executable} -m sidecar tail --from first | head -n 1"
    ran = subprocess.run(
        ["/bin/sh", "-c", command],
        env=environment(unix_socket=told.socket),
        capture_output=True,
        text=True,
        check=False,
    )
    assert len(ran.stdout.splitlines()) == 1
    assert ran.stderr == ""


def test_tail_of_an_offset_that_is_gone_is_a_sentence(
    run: Run, told: SidecarProcess
) -> None:
    ran = run("tail", "--from", "1", unix_socket=told.socket)
    assert_complaint(ran, 1, "no longer holds")


def test_tail_without_a_daemon_is_a_sentence(run: Run, private: Path) -> None:
    assert_complaint(run("tail", unix_socket=private / "s"), 1, "does not answer")


# -- demo ------------------------------------------------------------------------------


@pytest.fixture
def short() -> Iterator[Path]:
    """Make a directory whose path leaves room for that of a socket below it."""
    with tempfile.TemporaryDirectory(prefix="demo-") as name:
        yield Path(name)


def processes_of(directory: Path) -> list[bytes]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            line = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
        except OSError:
            continue
        if f"={directory}".encode() in line or f"{directory}/".encode() in line:
            found.append(line)
    return found


def demo_environment(directory: Path) -> dict[str, str]:
    """Give it a temporary directory and a home of its own, so that leftovers show."""
    home, tmp = directory / "home", directory / "tmp"
    home.mkdir()
    tmp.mkdir()
    return environment() | {"TMPDIR": str(tmp), "HOME": str(home)}


def assert_nothing_left(directory: Path) -> None:
    assert list((directory / "tmp").iterdir()) == []
    assert list((directory / "home").iterdir()) == []
    wait_until(lambda: not processes_of(directory), what="no process left")


def test_demo_shows_an_initsync_in_order_and_leaves_nothing(short: Path) -> None:
    ran = subprocess.run(
        [*COMMAND, "demo"],
        env=demo_environment(short),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert "in the order sent" in ran.stdout
    assert "init-start" in ran.stdout
    assert "init-stop" in ran.stdout
    assert "GroupsMembers" in ran.stdout
    assert ran.stderr == ""
    assert_nothing_left(short)


@pytest.mark.parametrize(
    ("line", "end"),
    [
        *(("Starting", signal.SIGINT), ("Sent", signal.SIGINT)),
        *(("Sent", signal.SIGTERM), ("Sent", signal.SIGHUP)),
    ],
)
def test_whatever_ends_the_demo_it_leaves_nothing(
    short: Path, line: str, end: signal.Signals
) -> None:
    environ = demo_environment(short) | {"PYTHONUNBUFFERED": "1"}
    with interruptible("demo", environ=environ) as demo:
        assert demo.stdout is not None
        while not (said := demo.stdout.readline()).startswith(line):
            assert said, demo.communicate()[1]
        if end is signal.SIGTERM:
            demo.send_signal(end)
        else:
            os.killpg(demo.pid, end)  # as a terminal does
        _, complaint = demo.communicate(timeout=30)
    assert demo.returncode in (128 + end, 0)
    assert complaint == ""
    assert_nothing_left(short)


def test_ctrl_c_while_python_still_imports_is_no_traceback() -> None:
    with interruptible("--help", environ=environment()) as command:
        maps = Path(f"/proc/{command.pid}/maps")
        # Mapped by the import of pydantic, half a second before the command runs.
        wait_until(lambda: "pydantic_core" in maps.read_text(), what="it imports")
        command.send_signal(signal.SIGINT)
        _, complaint = command.communicate(timeout=30)
    assert complaint == ""
    assert command.returncode in (0, 130, -signal.SIGINT)
