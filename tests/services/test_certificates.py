# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
import trustme

from sidecar.services.certificates import ends, first_end, says
from sidecar.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

    from trustme import LeafCert

EARLY = datetime(2031, 2, 3, 4, 5, 6, tzinfo=UTC)
LATE = datetime(2050, 1, 1, tzinfo=UTC)  # from 2050 on in another form


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def issue(authority: trustme.CA, end: datetime) -> LeafCert:
    return authority.issue_cert("localhost", not_after=end)


@pytest.mark.parametrize("end", [EARLY, LATE])
def test_the_end_of_a_certificate(authority: trustme.CA, end: datetime) -> None:
    pem = issue(authority, end).cert_chain_pems[0].bytes().decode()
    assert first_end(pem) == end.timestamp()
    assert first_end(f"Its subject is so-and-so\n{pem}") == end.timestamp()


def test_the_first_of_several_counts(authority: trustme.CA) -> None:
    texts = [
        issue(authority, end).cert_chain_pems[0].bytes().decode()
        for end in (LATE, EARLY, LATE)
    ]
    assert first_end("".join(texts)) == EARLY.timestamp()


@pytest.mark.parametrize(
    ("days", "said"),
    [
        (31, "A ends on 1970-02-01."),
        (29, "A ends soon, on 1970-01-30: renew it."),
        (0, "A has ended on 1970-01-01: renew it."),
    ],
)
def test_one_that_ends_within_a_month_is_to_be_renewed(days: int, said: str) -> None:
    assert list(says({"A": days * 86_400.0}, now=0.0)) == [("renew" in said, said)]


def test_each_setting_that_names_a_certificate_is_told(
    authority: trustme.CA, tmp_path: Path
) -> None:
    ca, early = tmp_path / "ca", tmp_path / "early"
    authority.cert_pem.write_to_path(str(ca))
    issue(authority, EARLY).cert_chain_pems[0].write_to_path(str(early))
    settings = Settings(
        nats_tls_ca_file=early,
        nats_tls_cert_file=early,
        nats_tls_key_file=early,
        tls_cert_file=ca,
        tls_key_file=ca,
    )
    found = ends(settings)
    assert found.keys() == {"NATS_TLS_CA_FILE", "NATS_TLS_CERT_FILE", "TLS_CERT_FILE"}
    assert found["NATS_TLS_CA_FILE"] == found["NATS_TLS_CERT_FILE"] == EARLY.timestamp()
    assert found["TLS_CERT_FILE"] > EARLY.timestamp()


@pytest.mark.parametrize(
    "content",
    [
        None,
        b"",
        b"\xff\x00",
        b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n",
        b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n",
        b"-----BEGIN CERTIFICATE-----\n?\n-----END CERTIFICATE-----\n",
    ],
)
def test_a_file_that_holds_none_is_left_out(
    content: bytes | None, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    if content is not None:
        file.write_bytes(content)
    assert ends(Settings(nats_tls_ca_file=file)) == {}


def jwt(claims: object) -> str:
    body = urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return (
        f"-----BEGIN NATS USER JWT-----\nhead.{body}.signature\n"
        "------END NATS USER JWT------\n"
        "-----BEGIN USER NKEY SEED-----\nSU0c0rrecthorse\n"
        "------END USER NKEY SEED------\n"
    )


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (jwt({"exp": 1_900_000_000, "sub": "U"}), {"NATS_CREDS_FILE": 1_900_000_000}),
        (jwt({"sub": "U"}), {}),
        (jwt({"exp": 0}), {}),
        (jwt({"exp": [7]}), {}),
        (jwt({"exp": "soon"}), {}),
        (jwt([]), {}),
        (jwt({"exp": 7}).replace("head.", ""), {}),
        (jwt({"exp": 7}).replace("head.", "head.?"), {}),
        ("", {}),
    ],
)
def test_credentials_end_when_their_jwt_says(
    content: str, found: dict[str, float], tmp_path: Path
) -> None:
    file = tmp_path / "user.creds"
    file.write_text(content)
    assert ends(Settings(nats_creds_file=file)) == found
