# SPDX-License-Identifier: Apache-2.0
"""docs/install.md: its commands are run as far as a machine can.

Those of a Debian package and of systemd: test_deb.py, test_systemd.py.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.checkout import copy_checkout
from system.secrets_made import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

INSTALL = ROOT / "docs" / "install.md"
NOBODY = 65534

# What is not run, and why. Anything else is, and a new command fails until it runs.
NOT_RUN = {
    "pipx install": "pip installs the same above it",
    "make image": "tests/system/test_image.py does, with bases of its own",
    "podman run": "tests/system/test_image.py does",
    "podman build --tag hermes": "needs a registry for its base",
    "kubectl apply": "needs a cluster",
    "export HTTPS_PROXY": "needs a proxy",
    "sudo restorecon": "needs SELinux",
    "systemctl --user": "needs a user's session; the unit is verified",
    "loginctl": "same",
}


def _commands(heading: str) -> list[str]:
    """Give the indented lines below a heading."""
    section = INSTALL.read_text("utf-8").split(f"\n## {heading}\n")[1]
    section = section.split("\n## ")[0]
    return re.findall(r"^    (\S.*)$", section, re.MULTILINE)


def _runnable(heading: str) -> list[str]:
    return [
        command
        for command in _commands(heading)
        if not any(command.startswith(start) for start in NOT_RUN)
    ]


@pytest.fixture
def checkout() -> Iterator[Path]:
    """Give a home with a checkout, in a place that any user can reach."""
    home = Path(tempfile.mkdtemp())
    try:
        copy_checkout(home / "checkout")
        (home / "hermes" / "plugins").mkdir(parents=True)
        for path in [home, *home.rglob("*")]:
            os.chown(path, NOBODY, NOBODY)
        yield home / "checkout"
    finally:
        shutil.rmtree(home)


def test_what_is_not_run_still_stands_on_the_page() -> None:
    text = INSTALL.read_text("utf-8")
    gone = [start for start in NOT_RUN if f"    {start}" not in text]
    assert gone == []


def test_each_file_of_ours_that_the_page_names_exists() -> None:
    text = INSTALL.read_text("utf-8")
    named = set(re.findall(r"(?:deploy|docs)/[\w./-]*\w", text))
    made = {name for name in named if name.startswith("deploy/kubernetes/secrets")}
    assert len(named) > 10
    assert [name for name in named - made if not (ROOT / name).exists()] == []


def test_an_ordinary_user_installs_and_runs_it(checkout: Path) -> None:
    commands = _runnable("From source, as an ordinary user")
    assert len(commands) == 12
    home = checkout.parent
    verify = "systemd-analyze --user verify ~/.config/systemd/user/*.service"
    environ = {"XDG_RUNTIME_DIR": str(home)}
    page = [*commands, "kill %1", "wait %1", verify]
    assert "hermes-nats-sidecar.service" not in _run(
        page, checkout, home, user=NOBODY, **environ
    )
    settings = (home / ".config/hermes-nats-sidecar/sidecar.env").read_text()
    assert re.findall("^SIDECAR.*", settings, re.MULTILINE) == ["SIDECAR_EMBEDDED=true"]
    installed = home / "hermes/plugins/messagebus_producers/nats_sidecar"
    assert (installed / "nats_sidecar.py").exists()
    assert (home / ".local/state/hermes-nats-sidecar/nats/data").is_dir()


def test_kubernetes_manifests_are_built(checkout: Path) -> None:
    commands = _runnable("On Kubernetes")
    assert len(commands) == 2
    (checkout.parent / "bin").mkdir()
    (checkout.parent / "bin/kubectl").symlink_to(str(shutil.which("kubectl")))
    assert "kind: StatefulSet" in _run(commands, checkout, checkout.parent, user=0)


def _run(
    commands: list[str], checkout: Path, home: Path, user: int, **more: str
) -> str:
    # What the system has, not what is only in the PATH of whoever tests.
    path = f"{home}/bin:/usr/local/bin:/usr/bin:/bin"
    environ = dict(os.environ) | {"HOME": str(home), "PATH": path} | more
    environ.pop("XDG_STATE_HOME", None)
    answer = subprocess.run(
        ["bash", "-eu"],
        input="\n".join(commands),
        cwd=checkout,
        env=environ,
        user=user,
        group=user,
        extra_groups=[],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr[-3000:]
    return answer.stdout
