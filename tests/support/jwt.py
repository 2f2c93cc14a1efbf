# SPDX-License-Identifier: Apache-2.0
"""RawNatsClient, account and user JWTs of NATS, signed here (NATS ADR-14)."""

from __future__ import annotations

import base64
import json
import os
import time
from typing import Any

import nkeys

_NO_LIMITS = {
    **dict.fromkeys(("subs", "data", "payload", "imports", "exports"), -1),
    **dict.fromkeys(("conn", "leaf", "mem_storage", "disk_storage"), -1),
    **dict.fromkeys(("streams", "consumer"), -1),
    "wildcards": True,
}


class Key:
    """One key pair: of an operator, an account or a user."""

    def __init__(self, prefix: int) -> None:
        self.seed = nkeys.encode_seed(os.urandom(32), prefix).decode()
        self._pair = nkeys.from_seed(bytearray(self.seed.encode()))
        self.public: str = self._pair.public_key.decode()

    def sign(self, subject: Key, name: str, claims: dict[str, Any], **more: Any) -> str:
        """Give a JWT about the subject, issued by this key."""
        document = {
            "jti": os.urandom(16).hex(),
            "iat": int(time.time()),
            "iss": self.public,
            "name": name,
            "sub": subject.public,
            "nats": {"version": 2} | claims,
        } | more
        text = f"{_part({'typ': 'JWT', 'alg': 'ed25519-nkey'})}.{_part(document)}"
        return f"{text}.{_encode(self._pair.sign(text.encode()))}"


class RawNatsClient:
    """An operator with one account; it makes users as they are needed."""

    def __init__(self) -> None:
        self._operator = Key(nkeys.PREFIX_BYTE_OPERATOR)
        self._system = Key(nkeys.PREFIX_BYTE_ACCOUNT)
        self._account = Key(nkeys.PREFIX_BYTE_ACCOUNT)

    @property
    def config(self) -> str:
        """What nats-server needs to know."""
        account = {"type": "account", "limits": _NO_LIMITS}
        operator = self._operator.sign(self._operator, "op", {"type": "operator"})
        accounts = {
            key.public: self._operator.sign(key, "account", claims)
            for key, claims in (
                (self._account, account),
                (self._system, {"type": "account"}),
            )
        }
        preload = "\n".join(f"{name}: {jwt}" for name, jwt in accounts.items())
        return (
            f"operator: {operator}\nsystem_account: {self._system.public}\n"
            f"resolver: MEMORY\nresolver_preload: {{\n{preload}\n}}\n"
        )

    def credentials(self, lives_seconds: int, **limits: int) -> str:
        """Make a creds file; with a negative time it has expired."""
        user = Key(nkeys.PREFIX_BYTE_USER)
        claims = {"type": "user", "subs": -1, "data": -1, "payload": -1} | limits
        expires = int(time.time()) + lives_seconds
        jwt = self._account.sign(user, "user", claims, exp=expires)
        return (
            f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{user.seed}\n"
            "------END USER NKEY SEED------\n"
        )


def _part(document: dict[str, Any]) -> str:
    return _encode(json.dumps(document).encode())


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
