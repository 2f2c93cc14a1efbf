# SPDX-License-Identifier: Apache-2.0
"""When certificates and credentials in our files end: one that ends stops the bus."""

from __future__ import annotations

import json
import re
import ssl
from base64 import urlsafe_b64decode
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from sidecar.jetstream.credentials import CREDENTIALS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidecar.settings import Settings

_PEM = re.compile("-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
_SOON_SECONDS = 30 * 86_400  # as the alert HermesCertificateEnds
_VERSION, _UTC_TIME = 0xA0, 0x17
_LONG_LENGTH = 0x80


def ends(settings: Settings) -> dict[str, float]:
    """Give when the first certificate of each setting's file ends, since 1970.

    A file that cannot be read is left out: whoever needs it says so.
    """
    files = {
        "NATS_TLS_CA_FILE": settings.nats_tls_ca_file,
        "NATS_TLS_CERT_FILE": settings.nats_tls_cert_file,
        "TLS_CERT_FILE": settings.tls_cert_file,
    }
    found = {}
    for name, file in files.items():
        if file is not None:
            with suppress(OSError, ValueError, IndexError):
                found[name] = first_end(file.read_text("ascii", "replace"))
    if settings.nats_creds_file is not None:
        with suppress(OSError, ValueError, TypeError):
            end = credentials_end(settings.nats_creds_file.read_text("utf-8-sig"))
            if end is not None:
                found["NATS_CREDS_FILE"] = end
    return found


def credentials_end(text: str) -> float | None:
    """Give when a NATS user's JWT ends, None for never; raise ValueError, TypeError."""
    match = CREDENTIALS.search(text)
    if match is None:
        raise ValueError
    _, claims, _ = match["jwt"].split(".")
    said = json.loads(urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))
    return float(dict(said).get("exp", 0)) or None


def first_end(pem: str) -> float:
    """Give when the first of some certificates ends; raise ValueError, IndexError."""
    return min(end_of(ssl.PEM_cert_to_DER_cert(block)) for block in _PEM.findall(pem))


def says(ends: dict[str, float], now: float) -> Iterator[tuple[bool, str]]:
    """Say a sentence for each, and whether to renew it soon."""
    for name, end in sorted(ends.items()):
        day = datetime.fromtimestamp(end, UTC).date()
        if end <= now:
            yield True, f"{name} has ended on {day}: renew it."
        elif end < now + _SOON_SECONDS:
            yield True, f"{name} ends soon, on {day}: renew it."
        else:
            yield False, f"{name} ends on {day}."


def end_of(der: bytes) -> float:
    """Find notAfter in a certificate (RFC 5280, 4.1)."""
    (_, certificate), *_ = _parts(der)
    (_, signed), *_ = _parts(certificate)
    fields = [content for tag, content in _parts(signed) if tag != _VERSION]
    _, _, _, validity, *_ = fields  # after serial, algorithm, issuer
    _, (tag, when) = _parts(validity)
    form = "%y%m%d%H%M%SZ" if tag == _UTC_TIME else "%Y%m%d%H%M%SZ"
    return datetime.strptime(when.decode(), form).replace(tzinfo=UTC).timestamp()


def _parts(der: bytes) -> Iterator[tuple[int, bytes]]:
    """Take DER apart, one level of it."""
    at = 0
    while at < len(der):
        tag, length, at = der[at], der[at + 1], at + 2
        if length >= _LONG_LENGTH:
            size = length - _LONG_LENGTH
            length, at = int.from_bytes(der[at : at + size], "big"), at + size
        yield tag, der[at : at + length]
        at += length
