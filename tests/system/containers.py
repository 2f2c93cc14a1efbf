# SPDX-License-Identifier: Apache-2.0
"""Builds and runs the image as root without a daemon: buildah, podman and runc.

All of it lives in one directory and touches nothing else of the machine.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Self

from support.process import Process
from system.secrets_made import ROOT

IMAGE = "hermes-nats-sidecar"
BASES = ROOT / ".cache" / "bases"
USER = 10001
_MEGABYTE = 1_000_000
_NEEDED_BY_PIP = [  # its configuration, and whom to trust
    Path("/etc/pip.conf"),
    Path.home() / ".config" / "pip" / "pip.conf",
    Path("/etc/ssl/certs"),
]
_BUILD_ARGUMENTS = [
    "--build-arg=BASE=localhost/base",
    "--build-arg=BUILD_BASE=localhost/build-base",
    *(f"--volume={path}:{path}:ro" for path in _NEEDED_BY_PIP if path.exists()),
]


class Containers:
    """A storage of images and containers below a directory."""

    def __init__(self, directory: Path) -> None:
        # In memory, and in overlays: an image is written and removed file by file.
        self._directory = directory
        self._storage = [
            *("--root", str(directory / "storage")),
            *("--runroot", str(directory / "run")),
            *("--storage-driver", "overlay"),
        ]
        # crun wants more rights.
        self.command = ["podman", *self._storage, "--runtime", "runc"]

    def __enter__(self) -> Self:
        _run("mount", "-t", "tmpfs", "containers", self._directory)
        return self

    def __exit__(self, *_: object) -> None:
        self.podman("rm", "--all", "--force", check=False)
        _run("umount", "--recursive", self._directory)

    def podman(self, *arguments: str | Path, check: bool = True) -> str:
        """Run one podman command and give what it prints."""
        answer = subprocess.run(
            [*self.command, *arguments], capture_output=True, text=True, check=False
        )
        assert answer.returncode == 0 or not check, answer.stderr
        return answer.stdout

    def make_bases(self) -> dict[str, str]:
        """Import the bases, made unless they are there.

        Give what `make image` and `make release` must know to build on them.
        """
        if not (BASES / "build-base.tar").exists():
            _run(ROOT / "tests/system/make-bases", BASES, self._directory / "root")
        for base in ("base", "build-base"):
            self.podman("import", "--quiet", BASES / f"{base}.tar", base)
        return {
            "BUILD": " ".join(self._bud),
            "BUILD_ARGS": " ".join(_BUILD_ARGUMENTS),
            "BUILDAH_ISOLATION": "chroot",
        }

    def make_image(self) -> None:
        """Run `make image`."""
        settings = self.make_bases().items()
        _run(
            *("make", "--no-print-directory", "-C", ROOT, "image", f"IMAGE={IMAGE}"),
            *(f"{name}={value}" for name, value in settings),
        )

    def make_hermes_image(self, dockerfile: Path, checkout: Path) -> None:
        """Build Hermes with the plugins of the image."""
        _run(
            *(*self._bud, *_BUILD_ARGUMENTS, f"--build-arg=SIDECAR=localhost/{IMAGE}"),
            *("--tag", "hermes", "--file", dockerfile, checkout),
        )

    @property
    def _bud(self) -> list[str]:
        return [
            *("buildah", *self._storage, "bud"),
            *("--isolation", "chroot", "--format", "docker"),
        ]

    def size(self, image: str) -> float:
        """Give an image's size in MB."""
        size = self.podman("image", "inspect", "--format", "{{.Size}}", image)
        return int(size) / _MEGABYTE

    def run_arguments(
        self, *options: str, environ: dict[str, object] | None = None
    ) -> list[str]:
        """Give the command of a container that may do nothing it need not."""
        return [
            *(*self.command, "run", "--rm", "--network=host"),
            # A build machine's own limits may be lower than podman's defaults.
            *("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"),
            *("--read-only", "--cap-drop=all", "--security-opt=no-new-privileges"),
            "--health-interval=disable",  # a timer of systemd; we ask it ourselves
            *(f"--env={name}={value}" for name, value in (environ or {}).items()),
            *options,
        ]


def _run(*command: str | Path) -> None:
    """Run a command; show its words only if it fails."""
    answer = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    assert answer.returncode == 0, answer.stdout.decode()[-5000:]


class Container(Process):
    """One running container of the image; signals go through to it."""

    def __init__(
        self,
        containers: Containers,
        name: str,
        directory: Path,
        *options: str,
        environ: dict[str, object],
    ) -> None:
        self.name = name
        self._containers = containers
        super().__init__(
            [
                *containers.run_arguments(f"--name={name}", *options, environ=environ),
                IMAGE,
            ],
            directory / f"{name}.log",
        )

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._containers.podman("rm", "--force", self.name, check=False)


def shared_directory(path: Path) -> Path:
    """Make a directory that the image's user owns."""
    path.mkdir(mode=0o750)
    os.chown(path, USER, USER)
    return path
