# SPDX-License-Identifier: Apache-2.0
"""`healthcheck`: over the socket, TCP and TLS."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import trustme
from support.commands import Run, assert_complaint
from support.nats import free_port
from support.sidecar import COMMAND, SidecarProcess, environment

if TYPE_CHECKING:
    from pathlib import Path


def test_healthcheck_over_the_socket_tells_that_the_daemon_lives(
    run: Run,
    sidecar: SidecarProcess,
) -> None:
    ran = run("healthcheck", unix_socket=sidecar.socket)
    assert (ran.returncode, ran.stderr) == (0, "")


def test_healthcheck_over_tcp_leaves_proxies_alone(sidecar: SidecarProcess) -> None:
    settings = environment(http_port=sidecar.tcp_port)
    settings |= {"HTTP_PROXY": "http://127.0.0.1:1", "ALL_PROXY": "http://127.0.0.1:1"}
    ran = subprocess.run(
        [*COMMAND, "healthcheck"], env=settings, capture_output=True, check=False
    )
    assert ran.returncode == 0


def test_healthcheck_of_a_live_daemon_without_nats_is_well(
    run: Run, private: Path
) -> None:
    process = SidecarProcess(private, nats_url=f"nats://127.0.0.1:{free_port()}")
    process.start()
    try:
        process.wait_live()
        assert run("healthcheck", unix_socket=process.socket).returncode == 0
    finally:
        process.stop()


def test_over_tls_a_token_goes_to_the_daemons_own_certificate_alone(
    run: Run, private: Path
) -> None:
    certificate, other = (trustme.CA().issue_cert("bus.example.org") for _ in range(2))
    cert, key, token = (private / name for name in ("cert", "key", "token"))
    certificate.cert_chain_pems[0].write_to_path(cert)
    certificate.private_key_pem.write_to_path(key)
    token.write_text("c0rrect-horse")
    tls = {"http_host": "::1", "tls_cert_file": cert, "token_file": token}
    nats_url = f"nats://127.0.0.1:{free_port()}"
    process = SidecarProcess(private, nats_url=nats_url, tls_key_file=key, **tls)
    process.start()
    try:
        process.wait_live()
        settings = tls | {"http_port": process.tcp_port, "tls_key_file": key}
        assert run("healthcheck", **settings).returncode == 0
        other.cert_chain_pems[0].write_to_path(cert)
        assert run("healthcheck", **settings).returncode == 0  # it sends no token
        assert_complaint(run("tail", **settings), 1, "does not answer")
        cert.write_text("no certificate")
        assert run("healthcheck", **settings).returncode == 0
        assert_complaint(run("tail", **settings), 1, "SIDECAR_TLS_CERT_FILE")
    finally:
        process.stop()


def test_healthcheck_without_a_daemon_is_a_sentence(run: Run, private: Path) -> None:
    ran = run("healthcheck", unix_socket=private / "s")
    assert_complaint(ran, 1, "does not answer")
    assert_complaint(run("healthcheck", http_port=free_port()), 1, "does not answer")


def test_healthcheck_with_an_unreadable_token_file_is_a_sentence(
    run: Run, private: Path
) -> None:
    ran = run("healthcheck", http_port=free_port(), token_file=private / "none")
    assert "Traceback" not in ran.stderr
    assert ran.returncode in (1, 2)
