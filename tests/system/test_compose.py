# SPDX-License-Identifier: Apache-2.0
"""deploy/compose, as podman-compose reads it."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from system.containers import USER
from system.secrets_made import ROOT

from sidecar.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

COMPOSE = ROOT / "deploy" / "compose"
LONGEST_UNKNOWN_SECONDS = 60


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy deploy/, as a checkout under umask 077, and do as the README says."""
    copy = tmp_path_factory.mktemp("compose") / "deploy"
    shutil.copytree(ROOT / "deploy", copy, ignore=shutil.ignore_patterns("secrets"))
    for path in [copy, *copy.rglob("*")]:
        path.chmod(path.stat().st_mode & ~0o077)
    project = copy / "compose"
    readme = (project / "README.md").read_text()
    ours = r"^    (chmod .*|\S*/make-secrets .*|sudo chgrp .*)$"
    commands = re.findall(ours, readme, re.MULTILINE)
    assert len(commands) == 3
    script = "\n".join(["umask 077", 'sudo() { "$@"; }', *commands])
    subprocess.run(["sh", "-euc", script], cwd=project, check=True)
    return project


@pytest.fixture(scope="module")
def services(project: Path) -> dict[str, Any]:
    """Give what podman-compose makes of the file."""
    answer = subprocess.run(
        ["podman-compose", "config"],
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    services: dict[str, Any] = yaml.safe_load(answer.stdout)["services"]
    return services


def test_each_service_is_confined(services: dict[str, Any]) -> None:
    assert len(services) == 7
    for service in services.values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]


def test_the_start_waits_for_health(services: dict[str, Any]) -> None:
    waits = {
        name: {
            other: condition["condition"].removeprefix("service_")
            for other, condition in service.get("depends_on", {}).items()
        }
        for name, service in services.items()
    }
    assert waits == {
        "nats": {},
        "source": {},
        "provision": {"nats": "healthy"},
        "sidecar-of-server": {"provision": "completed_successfully"},
        "sidecar-of-client": {"provision": "completed_successfully"},
        "hermes-server": {
            "sidecar-of-server": "healthy",
            "source": "completed_successfully",
        },
        "hermes-client": {"sidecar-of-client": "healthy"},
    }


def test_hermes_and_its_sidecar_share_one_socket_with_a_label(
    services: dict[str, Any],
) -> None:
    for name in ("server", "client"):
        socket = f"{name}-socket:/run/hermes-nats-sidecar:z"
        for service in (f"hermes-{name}", f"sidecar-of-{name}"):
            assert socket in services[service]["volumes"]


def test_hermes_has_the_time_to_stop_that_it_needs(services: dict[str, Any]) -> None:
    for name in ("hermes-server", "hermes-client"):
        grace = services[name]["stop_grace_period"]
        assert int(grace.removesuffix("s")) > LONGEST_UNKNOWN_SECONDS


def test_the_sidecars_are_given_settings_that_exist(services: dict[str, Any]) -> None:
    known = {f"SIDECAR_{name.upper()}" for name in Settings.model_fields}
    given = {
        name
        for service in services.values()
        for name in service.get("environment", {})
        if name.startswith("SIDECAR_")
    }
    assert given
    assert given <= known


def test_each_file_that_is_mounted_exists(
    services: dict[str, Any], project: Path
) -> None:
    sources = [
        volume.split(":")[0]
        for service in services.values()
        for volume in service.get("volumes", [])
    ]
    assert all((project / path).exists() for path in sources if "/" in path)


def test_the_users_of_the_containers_may_read_what_is_mounted(
    services: dict[str, Any], project: Path
) -> None:
    mounted = {
        project / volume.split(":")[0]
        for service in services.values()
        for volume in service.get("volumes", [])
        if "/" in volume.split(":")[0]
    }
    assert len(mounted) == 5
    below = {path for root in mounted for path in [root, *root.rglob("*")]}
    for path in below - {project / "secrets/tls/ca.key"}:
        wanted = 0o005 if path.is_dir() else 0o004
        if path.is_relative_to(project / "secrets"):
            assert path.stat().st_gid == USER, path
            wanted *= 0o10
        assert path.stat().st_mode & wanted == wanted, path
