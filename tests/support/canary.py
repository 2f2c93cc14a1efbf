# SPDX-License-Identifier: Apache-2.0
"""Secrets to plant, and the search for them however they are spelt."""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from urllib.parse import quote

_CORE = re.compile(r"[0-9a-f]{16}")


def new_canary() -> str:
    """Make a secret that is no legal name and that URL-encoding changes."""
    return f"k4n4ri {secrets.token_hex(8)}/+!"


def spellings(secret: str) -> set[str]:
    """Give the secret in clear, base64, URL-encoded, hex, and as plain hashes."""
    core = _CORE.search(secret)
    assert core is not None
    data = secret.encode()
    hashes = (hashlib.sha256, hashlib.sha1, hashlib.md5)
    return {
        core[0],  # in clear, whatever is made of the signs around it
        quote(secret, safe="").lower(),
        data.hex(),
        *(part.lower() for part in _base64(data)),
        *(hash_of(data).hexdigest() for hash_of in hashes),
    }


def _base64(data: bytes) -> set[str]:
    """Give what base64 makes of it, wherever in other bytes it stands."""
    found = set()
    for shift in range(3):
        padded = b"\0" * shift + data
        whole = padded[: len(padded) // 3 * 3]
        text = base64.b64encode(whole).decode()[4:]  # past what depends on the shift
        found |= {text, text.replace("+", "-").replace("/", "_")}
    return found


def leaks(text: str | bytes, canaries: set[str]) -> list[str]:
    """Give the spellings of canaries that stand in a text."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    text = text.lower()
    return [one for secret in canaries for one in spellings(secret) if one in text]
