# SPDX-License-Identifier: Apache-2.0
"""The command line: its help, and a sentence for each mistake."""

from __future__ import annotations

import socket
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from support.commands import SECRET, Run, assert_complaint, run_process
from support.nats import NatsProcess, free_port
from support.process import wait_until
from support.sidecar import COMMAND, SidecarProcess, environment, post

COMMANDS = (
    "serve",
    "provision",
    "move-over",
    "check",
    "doctor",
    "tail",
    "trace",
    "clients",
    "healthcheck",
    "install-plugins",
    "demo",
)


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
    statuses = ran.stdout.partition("\nexit status:\n")[2].splitlines()
    assert statuses[0] == "  0    done"
    assert statuses[-1] == "  130  interrupted"


@pytest.mark.parametrize("command", ["--help", "doctor", "demo --help", "check"])
def test_a_full_disk_behind_the_output_is_a_sentence(command: str) -> None:
    settings = {"nats_url": "nats://127.0.0.1:1", "http_port": 1}
    with Path("/dev/full").open("wb") as full:
        ran = subprocess.run(
            [*COMMAND, *command.split()],
            env=environment(**settings),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    ran.stdout = ""
    if command == "check":  # it has printed nothing, for there is no NATS
        assert_complaint(ran, 4, "no connection to NATS")
    else:
        assert_complaint(ran, 10, "The output cannot be written: No space left")


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
        ["tail", "--from", "first", "--since", "2h"],
        ["tail", "--follow", "--until", "2h"],
        ["tail", "--type", "not a name"],
        ["tail", "--key", "[INSA, 12]"],
        ["tail", "--since", "yesterday"],
        ["trace", "--type", "Users"],
        ["trace", "--key", "1"],
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


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("nats_password", "did you mean SIDECAR_NATS_PASSWORD_FILE?"),
        ("socket", "did you mean SIDECAR_UNIX_SOCKET?"),
        ("colour", "see docs/settings.md."),
        ("kafka_brokers", "see docs/settings.md."),
    ],
)
def test_only_a_setting_that_may_be_meant_is_named(
    run: Run, name: str, text: str
) -> None:
    ran = run("check", **{name: "x"})
    assert_complaint(ran, 2, f"SIDECAR_{name.upper()} is not a setting; {text}")


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
