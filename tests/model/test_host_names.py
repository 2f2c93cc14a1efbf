# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from sidecar.http.own_names import own_names
from sidecar.model.host_names import is_ours

OWN = frozenset({"bus.example.org", "127.0.0.1", "localhost"})


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "localhost:8480", "LOCALHOST"),
        *("127.0.0.1", "127.0.0.1:8480", "10.1.2.3", "[::1]", "[::1]:8480"),
        *("bus.example.org", "bus.example.org:8480", "Bus.Example.ORG."),
        *("api.localhost", "localhost:65535"),
    ],
)
def test_a_name_that_no_attacker_can_own_is_ours(host: str) -> None:
    assert is_ours(host, OWN)


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "evil.example:8480", "localhost.evil.example", "example.org"),
        *("127.0.0.1.evil.example", "x.bus.example.org", "bus.example.org.evil.com"),
        *(
            "",
            " ",
            ".",
            "a..b",
            "evil.example/",
            "user@localhost",
            "localhost,evil.com",
        ),
        *("sidecar", "sidecar:8480", "wpad", "printer.local", "bus.internal"),
        *("hermes-bus.idm.svc", "hermes-bus.idm.svc.cluster.local", "bus.test"),
        *("127.0.0.1.nip.io", "0177.0.0.1", "0x7f.0.0.1", "0x7f000001", "2130706433"),
        *(
            "127.1",
            "017700000001",
            "localhost\u3002evil",
            "\uff4cocalhost",
            "a@127.0.0.1",
        ),
        *("[::1", "[::1]evil.com", "evil.example:", "localhost:80:80", "\xe9vil.com"),
        *("local.evil.com", "evilsvc.com", "a..local", ".local", "localhost:"),
    ],
)
def test_any_other_name_is_not_ours(host: str) -> None:
    assert not is_ours(host, OWN)


def test_names_that_are_allowed_are_ours() -> None:
    own = own_names("0.0.0.0", "sidecar", "Hermes-Bus.idm.svc.", "x.local")
    for host in ("sidecar:8480", "hermes-bus.idm.svc", "X.local", "localhost"):
        assert is_ours(host, own)
    assert not is_ours("other", own)
    assert not is_ours("", own)


def test_the_machine_knows_its_own_names() -> None:
    assert "bus.example.org" in own_names("Bus.example.org.")
