# SPDX-License-Identifier: Apache-2.0
"""Why NATS is not reached: the same in /health, `check`, page and log, and once."""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from support.commands import run_here
from support.nats import NatsProcess, free_port
from support.process import wait_until
from support.sidecar import SidecarProcess

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

AUTHORITY, OTHER = trustme.CA(), trustme.CA()
USERS = """
authorization { users: [
  {user: a, password: b}
  {user: poor, password: b, permissions: {publish: ["x"], subscribe: [">"]}}
] }
"""


def tls(directory: Path, name: str) -> str:
    certificate = AUTHORITY.issue_cert(name)
    chain, key = directory / f"{name}.pem", directory / f"{name}.key"
    certificate.cert_chain_pems[0].write_to_path(chain)
    certificate.private_key_pem.write_to_path(key)
    return f'tls {{ cert_file: "{chain}", key_file: "{key}" }}'


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("files")
    AUTHORITY.cert_pem.write_to_path(directory / "ca.pem")
    OTHER.cert_pem.write_to_path(directory / "other.pem")
    (directory / "right").write_text("b")
    (directory / "wrong").write_text("wr0ng")
    return directory


@contextmanager
def running(directory: Path, **settings: Any) -> Iterator[SidecarProcess]:
    sidecar = SidecarProcess(directory, log_level="info", **settings)
    sidecar.start()
    try:
        yield sidecar.wait_live()
    finally:
        sidecar.stop()


def told_in_all_places(
    directory: Path, code: str, words: str, **settings: Any
) -> SidecarProcess:
    """Run a sidecar until it tells the reason, and compare all places."""
    with running(directory, **settings) as sidecar:

        def check() -> dict[str, Any]:
            answer = sidecar.health()
            assert answer is not None
            checks = answer.json()["checks"]
            return next(one for one in checks if one["name"] == "stream")

        wait_until(lambda: words in check()["reason"], 20, words)
        remedy = check()["remedy"]
        lines = [row for row in sidecar.rows() if row["event"] == code]
        assert words in json.dumps(lines)
        with sidecar.client() as http:
            page = http.get("/").text
        assert words in page.replace("&#x27;", "'")
        time.sleep(3)
        assert len(sidecar.rows()) < 12, sidecar.output()[-3000:]
    del sidecar.settings["unix_socket"]
    answer = run_here("check", **sidecar.settings)
    assert answer.returncode == 4
    said = answer.stdout + answer.stderr
    assert words in said or words.replace("a permission for", "may not") in said, said
    assert remedy in said or "grant it" in said
    assert "wr0ng" not in answer.stderr + sidecar.output()
    return sidecar


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("nats://127.0.0.1:{port}", "refused: nothing listens there"),
        ("nats://nobody.invalid:4222", "nobody.invalid:4222: "),
    ],
)
def test_who_is_not_there(url: str, words: str, tmp_path: Path) -> None:
    port = free_port()
    told_in_all_places(
        tmp_path / "run", "nats_down", words, nats_url=url.format(port=port)
    )


@pytest.fixture(scope="module")
def clear(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsProcess]:
    with NatsProcess(tmp_path_factory.mktemp("clear"), extra=USERS) as nats:
        yield nats


@pytest.fixture(scope="module")
def with_tls(
    files: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[NatsProcess]:
    extra = USERS + tls(files, "127.0.0.1")
    with NatsProcess(tmp_path_factory.mktemp("tls"), extra=extra) as nats:
        yield nats


@pytest.mark.parametrize(
    ("code", "words", "password", "settings"),
    [
        ("nats_refused", "it refused the login", "wrong", {}),
        ("nats_tls", "it offers no TLS", "right", {"nats_tls_ca_file": "ca.pem"}),
        (
            "nats_tls",
            "it does not speak TLS",
            "right",
            {"nats_tls_ca_file": "ca.pem", "nats_tls_handshake_first": True},
        ),
        (
            "nats_permission",
            "a permission for publish to $",
            "right",
            {"nats_user": "poor"},
        ),
        ("credentials_unreadable", "{files}/none", "none", {}),
    ],
)
def test_the_reasons_of_a_server_in_clear(
    clear: NatsProcess,
    files: Path,
    tmp_path: Path,
    *,
    code: str,
    words: str,
    password: str,
    settings: dict[str, Any],
) -> None:
    if "nats_tls_ca_file" in settings:
        settings = settings | {"nats_tls_ca_file": files / "ca.pem"}
    login = {"nats_url": clear.url, "nats_user": "a"}
    told_in_all_places(
        tmp_path / "run",
        code,
        words.format(files=files),
        **(login | settings),
        nats_password_file=files / password,
    )


@pytest.mark.parametrize(
    ("host", "authority", "words"),
    [
        ("127.0.0.1", "other.pem", "an untrusted CA"),
        ("localhost", "ca.pem", "its certificate is not for this name"),
    ],
)
def test_the_reasons_of_tls(
    with_tls: NatsProcess,
    files: Path,
    tmp_path: Path,
    *,
    host: str,
    authority: str,
    words: str,
) -> None:
    told_in_all_places(
        tmp_path / "run",
        "nats_tls",
        words,
        nats_url=with_tls.url.replace("127.0.0.1", host),
        nats_user="a",
        nats_password_file=files / "right",
        nats_tls_ca_file=files / authority,
    )


def test_a_wrong_password_over_tls(
    with_tls: NatsProcess, files: Path, tmp_path: Path
) -> None:
    wrong = told_in_all_places(
        tmp_path / "run",
        "nats_refused",
        "it refused the login",
        nats_url=with_tls.url,
        nats_user="a",
        nats_password_file=files / "wrong",
        nats_tls_ca_file=files / "ca.pem",
    )
    assert len(wrong.rows()) < 10
