# SPDX-License-Identifier: Apache-2.0
"""Asks a running daemon of the same settings, for container probes. Edge to httpx."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx

if TYPE_CHECKING:
    from sidecar.settings import Settings

_SECONDS = 3.0
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def client(settings: Settings) -> httpx.Client:
    """Give a client for the daemon of these settings; proxies are left alone."""
    if settings.unix_socket is not None:
        return httpx.Client(
            transport=httpx.HTTPTransport(uds=str(settings.unix_socket)),
            base_url="http://localhost",
            timeout=_SECONDS,
            trust_env=False,
        )
    host = _EVERYWHERE.get(settings.http_host, settings.http_host)
    if ":" in host:
        host = f"[{host}]"
    scheme = "https" if settings.tls_cert_file else "http"
    return httpx.Client(
        base_url=f"{scheme}://{host}:{settings.http_port}",
        timeout=_SECONDS,
        trust_env=False,
        verify=False,  # noqa: S501 - it asks itself, over loopback, and sends no secret
    )


def probe(settings: Settings, path: str) -> dict[str, Any] | None:
    """Get a JSON document whatever its status; None if nobody answers."""
    try:
        with client(settings) as http:
            document = http.get(path).json()
    except (httpx.HTTPError, ValueError):
        return None
    return document if isinstance(document, dict) else None
