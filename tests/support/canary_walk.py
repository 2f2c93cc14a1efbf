# SPDX-License-Identifier: Apache-2.0
"""A daemon, what is planted in it, and all that it shows."""

from __future__ import annotations

import base64
import socket
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .canary import new_canary
from .sidecar import SidecarProcess, event

if TYPE_CHECKING:
    import httpx

MOST_BYTES = 4000


@dataclass
class Walk:
    """One daemon, what was planted in it and what it showed."""

    process: SidecarProcess
    canaries: set[str] = field(default_factory=set)
    statuses: set[int] = field(default_factory=set)
    answers: list[str] = field(default_factory=list)
    printed: list[str] = field(default_factory=list)
    headers: list[str] = field(default_factory=list)
    last: int = 0

    def plant(self) -> str:
        canary = new_canary()
        self.canaries.add(canary)
        return canary

    def event(self, **values: object) -> bytes:
        """Make an event with secrets in its key and attributes."""
        attributes = {
            "password": self.plant(),
            self.plant(): ["nested", {"deep": self.plant()}],
            "photo": f"HermesBytes({base64.b64encode(self.plant().encode()).decode()})",
        }
        own: dict[str, Any] = {"objpkey": self.plant(), "objattrs": attributes}
        return event(**(own | values))

    def post(
        self, body: bytes, key: str | None = None, last: object = "*", **headers: str
    ) -> httpx.Response:
        precondition = "*" if last == "*" else f'"{last}"'
        fields = {
            "Content-Type": "application/json",
            "Idempotency-Key": key or str(uuid.uuid4()),
            "If-Match": precondition,
        }
        fields |= {name.replace("_", "-"): value for name, value in headers.items()}
        return self.ask(
            "POST",
            "/v1/events",
            content=body,
            headers={k: v for k, v in fields.items() if v},
        )

    def ask(self, method: str, path: str, **rest: Any) -> httpx.Response:
        with self.process.client() as http:
            return self._note(http.request(method, path, **rest))

    def ask_tcp(self, path: str, authorization: str | None) -> httpx.Response:
        headers = {} if authorization is None else {"Authorization": authorization}
        return self._note(self.process.get(path, headers))

    def say(self, data: bytes) -> None:
        """Send bytes that are no HTTP."""
        with socket.socket(socket.AF_UNIX) as raw:
            raw.settimeout(10)
            raw.connect(str(self.process.socket))
            raw.sendall(data)
            raw.shutdown(socket.SHUT_WR)
            while data := raw.recv(65536):
                self.answers.append(data.decode("latin-1"))

    def _note(self, answer: httpx.Response) -> httpx.Response:
        self.statuses.add(answer.status_code)
        self.answers.append(f"{answer.headers!r}\n{answer.text}")
        return answer
