# SPDX-License-Identifier: Apache-2.0
"""What NATS servers, true and false, learn of us; and how credentials change."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import ssl
import threading
import time
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest
import trustme
from parts.canary import leaks, new_canary
from parts.jetstream import Operator
from parts.jwt import Operator as JwtOperator
from parts.nats import NatsProcess
from parts.process import wait_until
from parts.sidecar import SidecarProcess, event, post

from sidecar import errors
from sidecar.errors import Cause, Problem
from sidecar.jetstream.client import NatsClient
from sidecar.jetstream.connection import Connection
from sidecar.jetstream.credentials import NatsServer
from sidecar.jetstream.requests import NoReply
from sidecar.jetstream.supervisor import StreamSupervisor
from sidecar.model.event import parse_event
from sidecar.model.reply import Refused
from sidecar.model.stream import StreamPlan
from sidecar.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from parts.sidecar import SidecarProcess as Sidecar

HOST = "127.0.0.1"
INBOX_PREFIX = "_INBOX_hermes_both"


# -- A server of ours that offers no TLS -----------------------------------------------


class FakeNats:
    """Greets like a nats-server without TLS, says yes to all, keeps every byte."""

    def __init__(
        self,
        version: str = "2.11.11",
        *,
        tls: ssl.SSLContext | None = None,
        tls_required: bool = False,
    ) -> None:
        self._tls = tls
        self.received = bytearray()
        self._listener = socket.create_server((HOST, 0))
        self._thread = threading.Thread(target=self._serve)
        greeting = {
            "server_id": "fake",
            "version": version,
            "headers": True,
            "max_payload": 1_000_000,
            "auth_required": True,
            "nonce": "AAAAAAAAAAAAAAA",
            "tls_required": tls_required or tls is not None,
        }
        self._greeting = b"INFO " + json.dumps(greeting).encode() + b"\r\n"

    @property
    def address(self) -> str:
        return f"{HOST}:{self._listener.getsockname()[1]}"

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(
                    target=self._greet, args=(connection,), daemon=True
                ).start()

    def _greet(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.settimeout(10)
            connection.sendall(self._greeting)
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_side=True)
            while data := connection.recv(65536):
                self.received += data
                if b"PING\r\n" in data:
                    connection.sendall(b"PONG\r\n")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


@pytest.fixture
def fake() -> Iterator[FakeNats]:
    with FakeNats() as server:
        yield server


async def test_a_server_that_is_too_old_is_asked_for_nothing() -> None:
    with FakeNats("2.10.26") as old:
        server = NatsServer((f"nats://{old.address}",))
        bus = StreamSupervisor("test", server, StreamPlan("hermes", "hermes", 1, 0))
        running = asyncio.create_task(bus.run())
        async with asyncio.timeout(10):
            while bus.monitor.cause is not errors.SERVER_TOO_OLD:
                await asyncio.wait({running}, timeout=0.01)
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        assert b"$JS" not in old.received


def settings_of(**values: Any) -> Settings:
    return Settings(unix_socket=Path("/run/x"), **values)


@asynccontextmanager
async def connected(settings: Settings) -> AsyncIterator[Connection]:
    connection = Connection(settings.plan, "test")
    try:
        await connection.open(settings.nats_server)
        yield connection
    finally:
        await connection.close()


def refusal(settings: Settings) -> Cause | None:
    """Connect; give the cause of the failure, None if there was none."""

    async def connect() -> None:
        async with connected(settings):
            pass

    try:
        asyncio.run(connect())
    except Problem as problem:
        return problem.cause
    return None


def login_of(kind: str, directory: Path) -> tuple[dict[str, Any], set[str]]:
    """Give the settings of a login, and what of it must stay secret."""
    file = directory / kind
    secret = new_canary()
    match kind:
        case "password":
            file.write_text(secret)
            login = {"nats_user": "hermes", "nats_password_file": file}
        case "token":
            file.write_text(secret)
            login = {"nats_token_file": file}
        case "creds":
            file.write_text(JwtOperator().credentials(3600))
            login = {"nats_creds_file": file}
        case _:
            seed = JwtOperator().credentials(3600).splitlines()[5]
            file.write_text(seed)
            login = {"nats_nkey_seed_file": file}
    return login, {secret}


SECRET_MEMBERS = (b'"pass"', b'"user"', b'"auth_token"', b'"jwt"', b'"nkey"', b'"sig"')


@pytest.fixture(params=["password", "token"])
def login(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    return login_of(request.param, tmp_path)[0]


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def ca_file(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("ca") / "ca.pem"
    authority.cert_pem.write_to_path(file)
    return file


@pytest.mark.parametrize("kind", ["password", "token", "creds", "nkey"])
def test_without_tls_demanded_the_login_goes_out_in_clear(
    kind: str, fake: FakeNats, tmp_path: Path
) -> None:
    """So that the next tests would see a secret if there were one."""
    login, _ = login_of(kind, tmp_path)
    refusal(settings_of(nats_url=f"nats://{fake.address}", **login))
    assert any(member in fake.received for member in SECRET_MEMBERS)


@pytest.mark.parametrize("how", ["url", "ca file", "client certificate"])
def test_nothing_secret_goes_to_a_server_without_tls_when_tls_is_demanded(
    how: str,
    login: dict[str, Any],
    fake: FakeNats,
    authority: trustme.CA,
    tmp_path: Path,
) -> None:
    demands = demand(how, fake.address, authority, tmp_path)
    assert refusal(settings_of(**demands, **login)) is errors.NATS_TLS
    for member in SECRET_MEMBERS:
        assert member not in fake.received
    assert b"PUB" not in fake.received
    assert b"SUB" not in fake.received


@pytest.mark.parametrize("hook", ["_connect_command", "_connect_to_server"])
def test_no_byte_goes_in_clear_should_nats_py_not_come_to_one_of_our_two_guards(
    hook: str,
    login: dict[str, Any],
    fake: FakeNats,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(NatsClient, hook)  # another name in nats-py does the same
    settings = settings_of(nats_url=f"tls://{fake.address}", **login)
    assert refusal(settings) is errors.NATS_TLS
    assert fake.received == b""


def demand(
    how: str, address: str, authority: trustme.CA, directory: Path
) -> dict[str, Any]:
    """Give the settings of one way to demand TLS."""
    match how:
        case "url":
            return {"nats_url": f"tls://{address}"}
        case "ca file":
            file = directory / "ca.pem"
            authority.cert_pem.write_to_path(file)
            return {"nats_url": f"nats://{address}", "nats_tls_ca_file": file}
        case _:
            certificate = authority.issue_cert("client")
            cert, key = directory / "client.pem", directory / "client.key"
            certificate.cert_chain_pems[0].write_to_path(cert)
            certificate.private_key_pem.write_to_path(key)
            return {
                "nats_url": f"nats://{address}",
                "nats_tls_cert_file": cert,
                "nats_tls_key_file": key,
            }


@pytest.mark.parametrize("kind", ["password", "token", "creds", "nkey"])
def test_with_handshake_first_a_server_without_tls_gets_a_hello_and_no_more(
    kind: str, fake: FakeNats, tmp_path: Path
) -> None:
    login, secrets = login_of(kind, tmp_path)
    cause = refusal(
        settings_of(
            nats_url=f"nats://{fake.address}", nats_tls_handshake_first=True, **login
        )
    )
    # Down where its greeting came before our hello, which it then does not answer.
    assert cause in (errors.NATS_TLS, errors.NATS_DOWN)
    wait_until(lambda: fake.received, what="our hello is read")
    assert fake.received.startswith(b"\x16\x03")  # a TLS record of a handshake
    assert b"CONNECT" not in fake.received
    assert leaks(bytes(fake.received), secrets) == []


def test_a_daemon_keeps_its_password_from_a_server_without_tls_and_names_the_reason(
    fake: FakeNats, tmp_path: Path
) -> None:
    login, secrets = login_of("password", tmp_path)
    process = SidecarProcess(
        tmp_path / "sidecar", nats_url=f"tls://{fake.address}", **login
    )
    process.start()
    try:
        process.wait_live()
        with process.client() as http:
            wait_until(
                lambda: "No TLS connection" in http.get("/health").text,
                30,
                "the reason is told",
            )
            assert post(http).json()["code"] == "nats_tls"
        assert "nats_tls" in process.output()
    finally:
        process.stop()
    assert leaks(bytes(fake.received), secrets) == []
    assert b'"user"' not in fake.received


# -- Servers with TLS ------------------------------------------------------------------


@contextmanager
def tls_nats(
    directory: Path, authority: trustme.CA, name: str = HOST, more: str = ""
) -> Iterator[NatsProcess]:
    """Run a nats-server with a certificate for this name."""
    directory.mkdir(exist_ok=True)
    cert, key = directory / "cert.pem", directory / "key.pem"
    certificate = authority.issue_cert(name)
    certificate.cert_chain_pems[0].write_to_path(cert)
    certificate.private_key_pem.write_to_path(key)
    ca = directory / "server-ca.pem"
    authority.cert_pem.write_to_path(ca)
    tls = f'tls {{ cert_file: "{cert}", key_file: "{key}", ca_file: "{ca}", {more} }}'
    user = "authorization { users = [{ user: hermes, password: s3cret }] }"
    server = NatsProcess(directory, extra=f"{tls}\n{user}")
    server.start()
    try:
        if "handshake_first" in more:
            wait_until(lambda: "Server is ready" in server.output(), what="ready")
        else:
            server.wait()
        yield server
    finally:
        server.stop()


@pytest.fixture
def password(tmp_path: Path) -> dict[str, Any]:
    file = tmp_path / "password"
    file.write_text("s3cret\n")
    return {"nats_user": "hermes", "nats_password_file": file}


def test_a_server_with_our_ca_s_certificate_is_let_in_and_one_of_another_is_not(
    authority: trustme.CA, ca_file: Path, password: dict[str, Any], tmp_path: Path
) -> None:
    stranger = tmp_path / "stranger.pem"
    trustme.CA().cert_pem.write_to_path(stranger)
    with tls_nats(tmp_path / "nats", authority) as server:
        ours = settings_of(nats_url=server.url, nats_tls_ca_file=ca_file, **password)
        assert refusal(ours) is None
        for demands in (
            {"nats_url": server.url, "nats_tls_ca_file": stranger},
            {"nats_url": server.url.replace("nats:", "tls:")},  # the system's roots
        ):
            theirs = settings_of(**demands, **password)
            assert refusal(theirs) is errors.NATS_TLS


def test_a_certificate_for_another_host_name_is_refused(
    authority: trustme.CA, ca_file: Path, password: dict[str, Any], tmp_path: Path
) -> None:
    with tls_nats(tmp_path / "nats", authority, "nats.example") as server:
        for more in ({}, {"nats_url": server.url.replace(HOST, "localhost")}):
            settings = settings_of(
                **({"nats_url": server.url, "nats_tls_ca_file": ca_file} | more),
                **password,
            )
            assert refusal(settings) is errors.NATS_TLS


def test_handshake_first_reaches_a_server_that_does_so_too(
    authority: trustme.CA, ca_file: Path, password: dict[str, Any], tmp_path: Path
) -> None:
    more = "handshake_first: true"
    with tls_nats(tmp_path / "nats", authority, more=more) as server:
        settings = settings_of(
            nats_url=server.url,
            nats_tls_ca_file=ca_file,
            nats_tls_handshake_first=True,
            **password,
        )
        assert refusal(settings) is None


def test_a_server_that_verifies_wants_our_client_certificate(
    authority: trustme.CA, ca_file: Path, password: dict[str, Any], tmp_path: Path
) -> None:
    with tls_nats(tmp_path / "nats", authority, more="verify: true") as server:
        address = server.url.removeprefix("nats://")
        shown = demand("client certificate", address, authority, tmp_path)
        shown["nats_tls_ca_file"] = ca_file
        assert refusal(settings_of(**shown, **password)) is None
        hidden = {"nats_url": server.url, "nats_tls_ca_file": ca_file}
        assert refusal(settings_of(**hidden, **password)) is not None


def test_a_login_goes_to_no_server_that_is_not_the_one(
    authority: trustme.CA, ca_file: Path, password: dict[str, Any], tmp_path: Path
) -> None:
    """Nor to one in clear beside it: a URL with TLS demands it of all."""
    past = datetime(2020, 1, 1, tzinfo=UTC)
    itself = trustme.CA()
    certificates = {
        "another name": authority.issue_cert("nats.example"),
        "another authority": itself.issue_cert(HOST),
        "its own authority": itself.issue_cert(HOST),
        "expired": authority.issue_cert(HOST, not_before=past, not_after=past),
    }
    for name, certificate in certificates.items():
        files = tmp_path / name
        files.mkdir()
        cert, key = files / "cert.pem", files / "key.pem"
        certificate.private_key_pem.write_to_path(key)
        certificate.cert_chain_pems[0].write_to_path(cert)
        if name == "its own authority":
            itself.cert_pem.write_to_path(cert, append=True)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(cert, key)
        with FakeNats(tls=context) as impostor, FakeNats() as plain:
            several = [
                f"tls://{impostor.address},nats://{plain.address}",
                f"nats://{plain.address},tls://{impostor.address}",
            ]
            beside = several if name == "expired" else []
            for urls in (f"tls://{impostor.address}", *beside):
                demands: dict[str, Any] = {"nats_url": urls}
                if "," not in urls:  # where it is not the CA that demands it
                    demands["nats_tls_ca_file"] = ca_file
                settings = settings_of(**demands, **password)
                assert refusal(settings) is errors.NATS_TLS, name
            for server in (impostor, plain):
                assert [m for m in SECRET_MEMBERS if m in server.received] == [], name
                assert b"s3cret" not in server.received


def test_who_asks_for_tls_and_goes_on_in_clear_gets_no_login(
    password: dict[str, Any],
) -> None:
    with FakeNats(tls_required=True) as fake:
        settings = settings_of(nats_url=f"nats://{fake.address}", **password)
        assert refusal(settings) in (errors.NATS_TLS, errors.NATS_DOWN)
        assert [m for m in SECRET_MEMBERS if m in fake.received] == []


# -- Credentials that change -----------------------------------------------------------


def refused(process: Sidecar) -> bool:
    answer = process.health()
    return answer is not None and "refused the login" in answer.text


def replace(file: Path, text: str) -> None:
    """Write it as those do who rotate credentials: whole, under the same name."""
    fresh = file.with_suffix(".new")
    fresh.write_text(text)
    fresh.rename(file)


def test_an_expired_jwt_user_is_named_and_rotated_credentials_are_taken_up(
    tmp_path: Path,
) -> None:
    operator = JwtOperator()
    file = tmp_path / "user.creds"
    file.write_text(operator.credentials(-60))
    with NatsProcess(tmp_path / "nats", extra=operator.config) as server:
        process = SidecarProcess(
            tmp_path / "sidecar",
            nats_url=server.url,
            nats_creds_file=file,
            stream_create=True,
            role="producer",  # one connection: what /health says is true of the post
        )
        process.start()
        try:
            wait_until(lambda: refused(process), 60, "the expired user is refused")
            replace(file, operator.credentials(8))
            process.wait_ready()
            with process.client() as http:
                assert post(http).status_code == 201
                wait_until(lambda: refused(process), 30, "the server ends it")
                assert post(http).json()["code"] == "nats_refused"
                replace(file, operator.credentials(3600))
                process.wait_ready()
                assert post(http).status_code == 201
            names = [row["event"] for row in process.rows()]
            after = names[names.index("nats_connected") + 1 :]
            # NATS was not down: it said itself why it ended the connection.
            assert next(one for one in after if "nats_" in one) == "nats_refused"
        finally:
            process.stop()


def test_a_rotated_password_is_taken_up_by_the_next_connection(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("one")
    users = "authorization {{ users = [{{ user: hermes, password: {} }}] }}"
    with (
        NatsProcess(tmp_path / "nats", extra=users.format("one")) as server,
        SidecarProcess(
            tmp_path / "sidecar",
            nats_url=server.url,
            nats_user="hermes",
            nats_password_file=file,
            stream_create=True,
            role="producer",  # one connection: what /health says is true of the post
        ) as process,
        process.client() as http,
    ):
        assert post(http).status_code == 201
        server.extra = users.format("two")
        server.write_config()
        server.running.send_signal(signal.SIGHUP)
        wait_until(lambda: refused(process), 30, "the old password is refused")
        replace(file, "two\n")
        process.wait_ready()
        assert post(http).status_code == 201


# -- Permissions and the inbox ---------------------------------------------------------

USERS = """\
authorization {{ users = [
  {{ user: all, password: x }}
  {{ user: mute, password: x, permissions: {{ publish: {{ deny: "{stream}.*" }} }} }}
  {{ user: blind, password: x, permissions: {{ publish: {{ deny: "$JS.>" }} }} }}
  {{ user: deaf, password: x, permissions: {{ subscribe: {{ deny: "{inbox}.>" }} }} }}
  {{ user: other, password: x }}
] }}
"""


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsProcess]:
    """Run a nats-server whose users each lack one right, with a stream."""
    directory = tmp_path_factory.mktemp("strict")
    users = USERS.format(stream="hermes", inbox=INBOX_PREFIX)
    with NatsProcess(directory, extra=users) as server:
        with Operator(server.port, "all", "x") as operator:
            operator.create("hermes")
        yield server


def user(name: str, server: NatsProcess, directory: Path) -> Settings:
    file = directory / "x"
    file.write_text("x")
    return settings_of(nats_url=server.url, nats_user=name, nats_password_file=file)


async def test_a_publish_that_is_not_permitted_is_named_within_a_second(
    strict: NatsProcess, tmp_path: Path
) -> None:
    async with connected(user("mute", strict, tmp_path)) as connection:
        started_at = time.monotonic()
        answer = await connection.publish(parse_event(event()), "key", 0, 10)
        assert answer == Refused(errors.NATS_PERMISSION)
        assert time.monotonic() - started_at < 1


async def test_a_question_that_is_not_permitted_is_named_within_a_second(
    strict: NatsProcess, tmp_path: Path
) -> None:
    async with connected(user("blind", strict, tmp_path)) as connection:
        started_at = time.monotonic()
        with pytest.raises(NoReply) as caught:
            await connection.api.stream_info()
        assert caught.value.cause is errors.NATS_PERMISSION
        assert time.monotonic() - started_at < 1


async def test_an_inbox_that_is_not_permitted_is_named_within_a_second(
    strict: NatsProcess, tmp_path: Path
) -> None:
    async with connected(user("deaf", strict, tmp_path)) as connection:
        async with asyncio.timeout(1):
            await connection.lost.wait()
        assert connection.cause is errors.NATS_PERMISSION


@pytest.mark.parametrize(
    ("subject", "hears"), [("_INBOX.>", False), (f"{INBOX_PREFIX}.>", True)]
)
async def test_who_listens_to_the_inboxes_of_others_hears_nothing_of_ours(
    subject: str, hears: bool, strict: NatsProcess, tmp_path: Path
) -> None:
    with Operator(strict.port, "other", "x") as listener:
        listener.answer_at(subject)
        async with connected(user("all", strict, tmp_path)) as connection:
            assert await connection.api.stream_info() is not None
        listener._write(b"PING\r\n")
        line = listener._read_until(b"PONG", b"MSG", b"HMSG")
        assert line.startswith(b"MSG") is hears


async def test_each_connection_has_an_inbox_that_nobody_can_guess(
    strict: NatsProcess, tmp_path: Path
) -> None:
    inboxes = set()
    for _ in range(3):
        async with connected(user("all", strict, tmp_path)) as connection:
            inboxes.add(connection.requests._inbox)
    assert len(inboxes) == 3
    for inbox in inboxes:
        prefix, _, token = inbox.partition(".")
        assert prefix == INBOX_PREFIX
        assert len(token) >= 22


@pytest.mark.parametrize("kind", ["creds", "nkey"])
def test_no_signature_goes_to_a_server_without_tls_when_tls_is_demanded(
    kind: str, tmp_path: Path
) -> None:
    login, _ = login_of(kind, tmp_path)
    with FakeNats() as fake:
        settings = settings_of(nats_url=f"tls://{fake.address}", **login)
        assert refusal(settings) is errors.NATS_TLS
        assert [m for m in SECRET_MEMBERS if m in fake.received] == []
