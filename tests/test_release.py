# SPDX-License-Identifier: Apache-2.0
"""What `make release` begins with; system/test_release.py runs all of it."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from typing import TYPE_CHECKING

import pytest
import yaml
from support.checkout import ROOT, commit_all, copy_checkout, tracked_files

from sidecar import __version__

if TYPE_CHECKING:
    from pathlib import Path

DATE = "1790000000"


def build(directory: Path, umask: int, zone: str) -> tuple[Path, Path]:
    """Build in a checkout of its own, as deploy/release does; give wheel and sdist."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-d", directory / "dist"],
        cwd=copy_checkout(directory / "checkout"),
        env=os.environ | {"SOURCE_DATE_EPOCH": DATE, "TZ": zone},
        umask=umask,
        check=True,
        capture_output=True,
    )
    (wheel,) = (directory / "dist").glob("*.whl")
    (sdist,) = (directory / "dist").glob("*.tar.gz")
    return wheel, sdist


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return build(tmp_path_factory.mktemp("first"), 0o022, "Europe/Paris")


def release(checkout: Path, **environ: str) -> tuple[int, str]:
    """Run deploy/release; give its exit status and what it says."""
    path = f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}"
    done = subprocess.run(
        [checkout / "deploy" / "release"],
        env=os.environ | {"PATH": path} | environ,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stderr


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a repository whose one commit is this checkout."""
    checkout = copy_checkout(tmp_path_factory.mktemp("repository"))
    commit_all(checkout, DATE)
    return checkout


def test_the_same_files_give_the_same_bytes(
    built: tuple[Path, Path], tmp_path: Path
) -> None:
    again = build(tmp_path, 0o077, "Asia/Tokyo")
    for one, other in zip(built, again, strict=True):
        assert one.name == other.name
        assert one.read_bytes() == other.read_bytes(), one.name


def test_the_sdist_has_each_file_that_git_knows_and_no_other(
    built: tuple[Path, Path],
) -> None:
    with tarfile.open(built[1]) as archive:
        names = [member.name for member in archive if member.isfile()]
    top = f"hermes_nats_sidecar-{__version__}/"
    assert sorted(names) == sorted(
        top + name for name in [*tracked_files(), "PKG-INFO"]
    )


def test_the_wheel_has_each_file_of_sidecar_and_plugins(
    built: tuple[Path, Path],
) -> None:
    with zipfile.ZipFile(built[0]) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
    ours = ("sidecar/", "plugin_stub/")
    expected = [name for name in tracked_files() if name.startswith(ours)]
    assert sorted(names) == sorted(expected)


def test_the_version_that_kubernetes_pulls_is_that_of_pyproject() -> None:
    path = ROOT / "deploy" / "kubernetes" / "kustomization.yaml"
    images = yaml.safe_load(path.read_text("utf-8"))["images"]
    tags = {image["name"]: image["newTag"] for image in images}
    assert tags["hermes-nats-sidecar"] == __version__


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        ({"BUILD": "no-such-tool build"}, "no docker, podman or buildah"),
        ({"WITHOUT": "deb wheel"}, "WITHOUT may name deb and image, not wheel"),
    ],
)
def test_what_cannot_be_built_is_left_out_only_by_name(
    repository: Path, environ: dict[str, str], sentence: str
) -> None:
    status, said = release(repository, **({"WITHOUT": "deb"} | environ))
    assert status == 1
    assert sentence in said
    assert not (repository / "dist").exists()


def test_a_release_is_made_from_a_commit(repository: Path) -> None:
    (repository / "new").touch()
    try:
        status, said = release(repository, WITHOUT="deb image")
    finally:
        (repository / "new").unlink()
    assert status == 1
    assert "a release is made from a commit" in said
