# SPDX-License-Identifier: Apache-2.0
"""Why NATS is not reached: the same in /health, `check`, page and log, and once."""

from __future__ import annotations

import json
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from support.nats import NatsProcess, free_port
from support.process import wait_until
from support.sidecar import COMMAND, SidecarProcess, environment

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
        reason, remedy = check()["reason"], check()["remedy"]
        lines = [row for row in sidecar.rows() if row["event"] == code]
        assert words in json.dumps(lines)
        with sidecar.client() as http:
            page = http.get("/").text
        assert words in page.replace("&#x27;", "'")
        time.sleep(3)
        assert len(sidecar.rows()) < 12, sidecar.output()[-3000:]
    del sidecar.settings["unix_socket"]
    answer = subprocess.run(
        [*COMMAND, "check"],
        env=environment(**sidecar.settings),
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 4
    assert words in answer.stderr, (reason, answer.stderr)
    assert remedy in answer.stderr
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


def test_the_reasons_of_a_server_in_clear(files: Path, tmp_path: Path) -> None:
    with NatsProcess(tmp_path / "nats", extra=USERS) as nats:
        login = {"nats_url": nats.url, "nats_user": "a"}
        told_in_all_places(
            tmp_path / "wrong",
            "nats_refused",
            "it refused the login",
            **login,
            nats_password_file=files / "wrong",
        )
        told_in_all_places(
            tmp_path / "tls",
            "nats_tls",
            "it offers no TLS",
            **login,
            nats_password_file=files / "right",
            nats_tls_ca_file=files / "ca.pem",
        )
        told_in_all_places(
            tmp_path / "first",
            "nats_tls",
            "it does not speak TLS",
            **login,
            nats_password_file=files / "right",
            nats_tls_ca_file=files / "ca.pem",
            nats_tls_handshake_first=True,
        )
        told_in_all_places(
            tmp_path / "poor",
            "nats_permission",
            "a permission for publish to $",
            **(login | {"nats_user": "poor"}),
            nats_password_file=files / "right",
        )
        told_in_all_places(
            tmp_path / "none",
            "credentials_unreadable",
            str(files / "none"),
            **login,
            nats_password_file=files / "none",
        )


def test_the_reasons_of_tls(files: Path, tmp_path: Path) -> None:
    extra = USERS + tls(files, "127.0.0.1")
    with NatsProcess(tmp_path / "nats", extra=extra) as nats:
        login = {"nats_url": nats.url, "nats_user": "a"}
        right = {**login, "nats_password_file": files / "right"}
        told_in_all_places(
            tmp_path / "authority",
            "nats_tls",
            "an untrusted CA",
            **right,
            nats_tls_ca_file=files / "other.pem",
        )
        told_in_all_places(
            tmp_path / "name",
            "nats_tls",
            "its certificate is not for this name",
            **(right | {"nats_url": nats.url.replace("127.0.0.1", "localhost")}),
            nats_tls_ca_file=files / "ca.pem",
        )
        wrong = told_in_all_places(
            tmp_path / "wrong",
            "nats_refused",
            "it refused the login",
            **login,
            nats_password_file=files / "wrong",
            nats_tls_ca_file=files / "ca.pem",
        )
        assert len(wrong.rows()) < 10
