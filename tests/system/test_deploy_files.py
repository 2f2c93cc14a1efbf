# SPDX-License-Identifier: Apache-2.0
"""Each file of deploy/ is loaded by its tool, which refuses a broken one.

The refusal shows that the tool really reads that file.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
from support.hermes import load_plugin
from system.secrets_made import ROOT, Secrets, make_secrets
from system.systemd_root import install_units

from sidecar.jetstream.embedded_server import find_nats_server
from sidecar.settings import PREFIX, Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BROKEN = '"{\n'
# Known to systemd 254 and later; older ones go on without.
TOO_NEW = re.compile(r"Unknown key.* '(RestartSteps|RestartMaxDelaySec)' .*ignoring\.")


class RefusedError(Exception):
    """A tool does not take a file."""


@pytest.fixture(scope="module")
def with_secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy deploy/ and make the secrets that it names."""
    copy = tmp_path_factory.mktemp("with-secrets") / "deploy"
    shutil.copytree(ROOT / "deploy", copy, ignore=shutil.ignore_patterns("secrets"))
    make_secrets(copy / "kubernetes/secrets", "nats")
    shutil.copytree(copy / "kubernetes/secrets", copy / "compose/secrets")
    return copy


@pytest.fixture
def deploy(with_secrets: Path, tmp_path: Path) -> Path:
    """Give a copy that a test may break."""
    return Path(shutil.copytree(with_secrets, tmp_path / "deploy"))


def run(*command: str | Path, **options: Any) -> str:
    done: subprocess.CompletedProcess[str] = subprocess.run(
        command, capture_output=True, text=True, check=False, **options
    )
    if done.returncode != 0:
        raise RefusedError(done.stdout + done.stderr)
    return done.stdout + done.stderr


def python(file: Path) -> None:
    """Run it, with its path in the container replaced."""
    there = file.parent / "var"
    there.mkdir()
    file.write_text(file.read_text().replace("/var/lib/campus", str(there)))
    run(sys.executable, file)


def compose(file: Path) -> None:
    specification = ("--builtin-schema", "vendor.compose-spec")
    run(sys.executable, "-m", "check_jsonschema", *specification, file)
    run("podman-compose", "config", cwd=file.parent)


def promtool(file: Path) -> None:
    run("promtool", "check", "rules", file)


def grafana(file: Path) -> None:
    """Read it with the classes of Grafana Labs, which drop what they do not know."""
    written = json.loads(file.read_text())
    register_default_plugins()
    dashboard = Dashboard.from_json(json.loads(file.read_text()))
    kept = json.loads(json.dumps(dashboard, cls=JSONEncoder))
    if dropped := list(_dropped(written, kept)):
        raise RefusedError(dropped)


def _dropped(written: Any, kept: Any, path: str = "") -> Iterator[str]:
    if isinstance(written, dict) and isinstance(kept, dict):
        for key, value in written.items():
            yield from _dropped(value, kept.get(key), f"{path}/{key}")
    elif isinstance(written, list) and isinstance(kept, list):
        for index, (one, other) in enumerate(zip(written, kept, strict=True)):
            yield from _dropped(one, other, f"{path}/{index}")
    elif written != kept:
        yield path


def kustomize(file: Path) -> None:
    run("kubectl", "kustomize", file.parents[1] / "kubernetes")


def nats_server(file: Path) -> None:
    secrets = Secrets(file.parents[1] / "kubernetes/secrets")
    for config in ("one-node.conf", "three-nodes.conf"):
        run(
            *(find_nats_server(), "-t", "--config", file.parent / config),
            env=secrets.server_environ(file.parent),
            cwd=secrets.directory,
        )


def execute(file: Path) -> None:
    run("sh", file, "--directory", file.parent / "made", "localhost")


def shell(file: Path) -> None:
    run("sh", "-n", file)


def systemd(file: Path) -> None:
    directory, unit = file.parent, file.name
    if directory.suffix == ".d":  # a drop-in
        directory, unit = directory.parent, directory.stem
    root = directory.parent / unit
    install_units(directory, root)
    complaints = run("systemd-analyze", "verify", f"--root={root}", unit).splitlines()
    if any(not TOO_NEW.search(complaint) for complaint in complaints):
        raise RefusedError(complaints)


def systemd_user(file: Path) -> None:
    """Verify it for a user who has installed the program as docs/install.md says."""
    home = file.parent / "home"
    program = home / "hermes-nats-sidecar/bin/hermes-nats-sidecar"
    program.parent.mkdir(parents=True)
    shutil.copy("/bin/true", program)
    environ = os.environ | {"HOME": str(home), "XDG_RUNTIME_DIR": str(home)}
    complaints = run("systemd-analyze", "--user", "verify", file, env=environ)
    if file.name in complaints:
        raise RefusedError(complaints)


def tmpfiles(file: Path) -> None:
    root = file.parent / "root"
    (root / "etc").mkdir(parents=True)
    run("systemd-sysusers", f"--root={root}", file.parent / "sysusers.conf")
    run("systemd-tmpfiles", f"--root={root}", "--create", file)


def settings(file: Path) -> None:
    """Read it as systemd does, with each comment taken as a setting."""
    names = re.findall(r"^#?(\w+)=", file.read_text(), re.MULTILINE)
    if set(names) != {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}:
        raise RefusedError(names)


def sysusers(file: Path) -> None:
    root = file.parent / "root"
    (root / "etc").mkdir(parents=True)
    run("systemd-sysusers", f"--root={root}", file)


LOADED: dict[str, Callable[[Path], object]] = {
    "compose/campus.py": python,
    "compose/compose.yaml": compose,
    "grafana/dashboard.json": grafana,
    "kubernetes/hermes-client.yaml": kustomize,
    "kubernetes/hermes-server.yaml": kustomize,
    "kubernetes/kustomization.yaml": kustomize,
    "kubernetes/namespace.yaml": kustomize,
    "kubernetes/nats.yaml": kustomize,
    "kubernetes/network-policies.yaml": kustomize,
    "kubernetes/provision.yaml": kustomize,
    "nats/kustomization.yaml": kustomize,
    "nats/make-secrets": execute,
    "nats/one-node.conf": nats_server,
    "nats/server.conf": nats_server,
    "nats/start-cluster": shell,
    "nats/three-nodes.conf": nats_server,
    "nats/users.conf": nats_server,
    "prometheus/alerts.yml": promtool,
    "systemd/hermes-nats-server.service": systemd,
    "systemd/hermes-nats-sidecar.service": systemd,
    "systemd/hermes-server.service.d/nats-sidecar.conf": systemd,
    "systemd/sidecar.env": settings,
    "systemd/sysusers.conf": sysusers,
    "systemd/tmpfiles.conf": tmpfiles,
    "systemd/user/hermes-nats-sidecar.service": systemd_user,
}
HERMES_CONFIGS = [
    f"{place}/hermes-{program}-config.yml"
    for place in ("compose", "kubernetes")
    for program in ("server", "client-usersgroups_null")
]
DOCKERFILE = "compose/hermes.Dockerfile"  # test_image.py
PACKAGE = "debian/"  # test_package.py, test_deb.py
RELEASE = "release"  # test_release.py


def test_each_file_has_a_tool_that_loads_it() -> None:
    listed = run("git", "-C", ROOT, "ls-files", "deploy").splitlines()
    files = {name.removeprefix("deploy/") for name in listed}
    others = {name for name in files if name.endswith(".md") or PACKAGE in name}
    assert {*LOADED, *HERMES_CONFIGS, DOCKERFILE, RELEASE} == files - others


@pytest.mark.parametrize("name", LOADED)
def test_its_tool_loads_it(name: str, deploy: Path) -> None:
    LOADED[name](deploy / name)


@pytest.mark.parametrize("name", LOADED)
def test_its_tool_refuses_it_when_it_is_broken(name: str, deploy: Path) -> None:
    (deploy / name).write_text(BROKEN)
    with pytest.raises((RefusedError, ValueError)):
        LOADED[name](deploy / name)


@pytest.mark.parametrize("name", HERMES_CONFIGS)
def test_hermes_loads_the_plugin_as_its_configuration_says(
    name: str, hermes_home: Path
) -> None:
    family = "messagebus_producers" if "server" in name else "messagebus_consumers"
    document = yaml.safe_load((ROOT / "deploy" / name).read_text())
    (bus,) = document["hermes"]["plugins"]["messagebus"].items()
    assert bus[0] == "nats_sidecar"
    load_plugin(hermes_home, family, bus[1]["settings"])
    with pytest.raises(ValueError, match="unknown field"):
        load_plugin(hermes_home, family, bus[1]["settings"] | {"adress": "x"})
