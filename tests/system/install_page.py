# SPDX-License-Identifier: Apache-2.0
"""docs/install.md: what its commands are, and how they are run as they stand."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from system.secrets_made import ROOT

if TYPE_CHECKING:
    from system.running_systemd import RunningSystemd

PROGRAM = "/opt/hermes-nats-sidecar"
AS_ON_THE_PAGE = f"""\
cd /srv/checkout; umask 027; PATH=$PATH:{PROGRAM}/bin
export DEBIAN_FRONTEND=noninteractive
sudo() {{ [ "$1" != --preserve-env ] || shift; "$@"; }}
"""
_ASK = f"""\
setpriv --reuid=nobody --regid=nogroup --groups=hermes {PROGRAM}/bin/python -c '
import httpx
transport = httpx.HTTPTransport(uds="/run/hermes-nats-sidecar/api.sock")
http = httpx.Client(transport=transport, base_url="http://localhost")
print(http.get("/health/ready").status_code)
'
"""


def commands(heading: str) -> list[str]:
    """Give the commands below a heading."""
    page = (ROOT / "docs/install.md").read_text("utf-8")
    section = re.split(r"\n##+ ", page.split(f"# {heading}\n")[1])[0]
    return re.findall(r"^    (\S.*)$", section, re.MULTILINE)


def follow(systemd: RunningSystemd, page: list[str]) -> str:
    """Run these commands there."""
    return systemd.run(AS_ON_THE_PAGE + "\n".join(page))


def is_ready(systemd: RunningSystemd) -> bool:
    """Ask the sidecar there, as another user of the group hermes."""
    return systemd.run(_ASK, check=False) == "200\n"
