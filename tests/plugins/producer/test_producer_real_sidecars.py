# SPDX-License-Identifier: Apache-2.0
"""The producer plugin on real sidecars: over each transport, killed and frozen."""

from __future__ import annotations

import shutil
import socket
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from support.fake_sidecar import (
    Clock,
    timed,
)
from support.hermes import load_plugin
from support.jetstream import RawNatsClient, wait_jetstream
from support.nats import NatsProcess
from support.process import wait_until
from support.producer_passes import (
    FAMILY,
    a_pass,
    bodies,
    long_started,
    once,
    send,
    user,
)
from support.sidecar import last_offset, sidecar_on

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.sidecar import SidecarProcess


def test_events_stand_in_the_stream_verbatim_and_in_order(
    hermes_home: Path, sidecar: SidecarProcess, nats: NatsProcess
) -> None:
    events = [user(pkey=number, name="Zoé") for number in range(20)]
    with sidecar.client() as http:
        last = last_offset(http)
    plugin = load_plugin(hermes_home, FAMILY, {"url": sidecar.url})
    with plugin:
        for event in events:
            plugin.send(event)
    assert bodies(nats, last) == [event.to_json().encode() for event in events]


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback")
def test_a_sidecar_on_ipv6_is_reached(
    hermes_home: Path, nats: NatsProcess, tmp_path: Path
) -> None:
    with sidecar_on(nats, tmp_path, http_host="::1", tcp_api="open") as process:
        url = f"http://[::1]:{process.tcp_port}"
        assert a_pass(load_plugin(hermes_home, FAMILY, {"url": url}), user()) is None


def certificate(directory: Path) -> tuple[Path, Path]:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl command")
    cert, key = directory / "cert.pem", directory / "key.pem"
    subprocess.run(
        [
            *(openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-keyout", key, "-out", cert, "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
        ],
        check=True,
        capture_output=True,
    )
    return cert, key


def test_a_sidecar_over_https_with_a_token_is_reached_and_its_certificate_checked(
    hermes_home: Path, nats: NatsProcess, tmp_path: Path, clock: Clock
) -> None:
    cert, key = certificate(tmp_path)
    token = tmp_path / "token"
    token.write_text("c0rrect-horse\n")
    with sidecar_on(
        nats,
        tmp_path / "s",
        token_file=token,
        tls_cert_file=cert,
        tls_key_file=key,
    ) as process:
        url = f"https://localhost:{process.tcp_port}"
        good = {"url": url, "cafile": str(cert), "token_file": str(token)}
        assert a_pass(load_plugin(hermes_home, FAMILY, good), user()) is None
        unchecked = {"url": url, "token_file": str(token)}
        text = once(timed(load_plugin(hermes_home, FAMILY, unchecked), clock))
        assert text is not None
        assert "its certificate is not trusted" in text
        no_token = {"url": url, "cafile": str(cert)}
        text = once(timed(load_plugin(hermes_home, FAMILY, no_token), clock))
        assert text is not None
        assert "unauthorized" in text


def test_a_sidecar_over_http_with_a_token_is_reached(
    hermes_home: Path, nats: NatsProcess, tmp_path: Path, clock: Clock
) -> None:
    token = tmp_path / "token"
    token.write_text("c0rrect-horse\n")
    with sidecar_on(nats, tmp_path / "s", token_file=token) as process:
        settings = {
            "url": f"http://127.0.0.1:{process.tcp_port}",
            "token_file": str(token),
        }
        assert a_pass(load_plugin(hermes_home, FAMILY, settings), user()) is None
        (tmp_path / "wrong").write_text("wrong")
        settings["token_file"] = str(tmp_path / "wrong")
        text = once(timed(load_plugin(hermes_home, FAMILY, settings), clock))
        assert text is not None
        assert "unauthorized" in text


def test_an_event_lost_in_a_frozen_nats_and_stored_is_not_doubled(
    in_doubt: Any, impatient: SidecarProcess, own_nats: NatsProcess
) -> None:
    plugin = long_started(in_doubt)
    with impatient.client() as http:
        last = last_offset(http)
    removed, other = user("removed"), user(pkey=2)
    text = a_pass(plugin, removed, once_open=own_nats.freeze)
    own_nats.thaw()
    assert text is not None
    assert text.startswith("It is not known")
    with RawNatsClient(own_nats.port) as operator:
        wait_until(lambda: operator.state("hermes")["last_seq"] == last + 1)
    impatient.wait_stream()
    assert a_pass(plugin, other, removed) is None
    assert bodies(own_nats, last) == [
        removed.to_json().encode(),
        other.to_json().encode(),
    ]


@pytest.fixture
def patient(nats: NatsProcess, tmp_path: Path) -> Iterator[SidecarProcess]:
    """Start a sidecar that would hold a request for longer than any attempt."""
    with sidecar_on(nats, tmp_path / "s", publish_timeout_seconds=60) as process:
        yield process


def test_a_patient_sidecar_says_not_stored_before_the_plugin_gives_up(
    hermes_home: Path, patient: SidecarProcess
) -> None:
    """It waits for 5 s of agreement until it says that the stream ends before L."""
    settings = {"url": patient.url, "send_timeout": 10, "unknown_timeout": 10}
    plugin = load_plugin(hermes_home, FAMILY, settings)
    with patient.client() as http:
        plugin._last = last_offset(http) + 10
    text = send(plugin, user())
    plugin.close()
    assert text is not None
    assert text.startswith("Event not stored: ")


def test_a_patient_sidecar_says_unknown_before_the_plugin_gives_up(
    hermes_home: Path, tmp_path: Path
) -> None:
    with NatsProcess(tmp_path / "nats") as own:
        wait_jetstream(own.port)
        with sidecar_on(own, tmp_path / "s", publish_timeout_seconds=60) as process:
            settings = {"url": process.url, "send_timeout": 1, "unknown_timeout": 1}
            with long_started(load_plugin(hermes_home, FAMILY, settings)) as plugin:
                own.freeze()
                text = send(plugin, user())
                own.thaw()
    assert text is not None
    assert text.endswith("(unknown)")


def test_a_sidecar_killed_between_two_events_is_waited_for(
    hermes_home: Path, nats: NatsProcess, tmp_path: Path
) -> None:
    with sidecar_on(nats, tmp_path, "hermes") as process:
        plugin = load_plugin(hermes_home, FAMILY, {"url": process.url})
        with process.client() as http:
            last = last_offset(http)
        with plugin:
            plugin.send(user(pkey=1))
            process.kill()
            process.start()
            plugin.send(user(pkey=2))
        assert bodies(nats, last) == [
            user(pkey=1).to_json().encode(),
            user(pkey=2).to_json().encode(),
        ]
