# SPDX-License-Identifier: Apache-2.0
"""The settings of the systemd unit on this host, for commands run by hand.

An operator types `hermes-nats-sidecar doctor` and means the sidecar that runs here.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sidecar.settings import PREFIX

if TYPE_CHECKING:
    from collections.abc import MutableMapping

FILE: Final = Path("/etc/hermes-nats-sidecar/sidecar.env")
UNIT: Final = {
    "SIDECAR_UNIX_SOCKET": "/run/hermes-nats-sidecar/api.sock",
    "SIDECAR_EMBEDDED_DIR": "/var/lib/hermes-nats-sidecar/nats",
}
"""What deploy/systemd/hermes-nats-sidecar.service says itself."""


def use_unit(environ: MutableMapping[str, str]) -> None:
    """Add the unit's settings to an environment that holds none of ours.

    Only for root and for who may use the unit's socket.
    """
    if any(name.startswith(PREFIX) for name in environ):
        return
    if os.geteuid() != 0 and not os.access(UNIT["SIDECAR_UNIX_SOCKET"], os.W_OK):
        return
    with suppress(OSError, ValueError):
        environ.update(UNIT | parse(FILE.read_text("utf-8")))


def parse(text: str) -> dict[str, str]:
    """Read our settings in a file as EnvironmentFile= takes it, without continuations.

    A value may stand in quotes.
    """
    found = {}
    for line in text.splitlines():
        name, equals, value = (part.strip() for part in line.partition("="))
        if equals and name.startswith(PREFIX):
            is_quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
            found[name] = value[1:-1] if is_quoted else value
    return found
