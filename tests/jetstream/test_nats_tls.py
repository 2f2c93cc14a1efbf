# SPDX-License-Identifier: Apache-2.0
"""What NATS servers, true and false, learn of us, with and without TLS."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from support.canary import leaks, new_canary
from support.fake_nats import HOST, FakeNats, connected, settings_of
from support.jwt import RawNatsClient as JwtOperator
from support.nats import NatsProcess
from support.process import wait_until
from support.sidecar import SidecarProcess, post

from sidecar import errors
from sidecar.errors import Cause, Problem
from sidecar.jetstream.client import NatsClient
from sidecar.jetstream.credentials import NatsServer
from sidecar.jetstream.supervisor import StreamSupervisor
from sidecar.model.stream import StreamPlan

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sidecar.settings import Settings


# -- A server of ours that offers no TLS -----------------------------------------------


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


# -- A key that signs ------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["creds", "nkey"])
def test_no_signature_goes_to_a_server_without_tls_when_tls_is_demanded(
    kind: str, tmp_path: Path
) -> None:
    login, _ = login_of(kind, tmp_path)
    with FakeNats() as fake:
        settings = settings_of(nats_url=f"tls://{fake.address}", **login)
        assert refusal(settings) is errors.NATS_TLS
        assert [m for m in SECRET_MEMBERS if m in fake.received] == []
