# SPDX-License-Identifier: Apache-2.0
"""What a run found, as JSON keeps it, and what of it must hold. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import yaml

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

CAMPUS: Final = {1: "campus-1", 3: "campus-3"}
MANY: Final = {1: "many-1", 3: "many-3"}
FIRST: Final = "first-initsync"
RETENTION: Final = "retention"
BACKUP: Final = "backup"
NAMES: Final = (*CAMPUS.values(), FIRST, *MANY.values(), RETENTION, BACKUP)

Results = dict[str, Any]
"""By part: `command`, `date`, `scale`, `took_seconds`, and `found`, its figures."""


@dataclass(frozen=True)
class Check:
    """One figure that must hold: at most, or with `is_least` at least."""

    name: str
    found: float | None
    limit: float
    unit: str = ""
    is_least: bool = False

    @property
    def holds(self) -> bool | None:
        if self.found is None:
            return None
        if self.is_least:
            return self.found >= self.limit
        return self.found <= self.limit


def checks(results: Results, nats_limit_mb: float) -> list[Check]:
    """Say what must hold of ten sidecars of clients, and of a million objects."""

    def of(part: str, value: Callable[[Any], float]) -> float | None:
        return value(results[part]["found"]) if part in results else None

    fresh = [
        results[part]["found"]["fresh_requests"]
        for part in (*MANY.values(), RETENTION)
        if part in results
    ]
    peaks = [
        results[part]["found"]["memory_mb"]["nats-server"]
        for part in MANY.values()
        if part in results
    ]
    return [
        Check(
            "rate of a first initsync / of a later one, no client reads",
            of(FIRST, lambda found: found["alone"]["ratio"]),
            *(0.9, "", True),
        ),
        Check(
            "the same, a client reads from each sidecar",
            of(FIRST, lambda found: found["with clients"]["ratio"]),
            *(0.9, "", True),
        ),
        Check(
            "NATS requests of a sidecar of clients a second, in a first initsync",
            of(FIRST, lambda found: found["alone"]["requests"]),
            5,
        ),
        Check(
            "nats-server's peak, with the sidecars and their clients / without",
            of(FIRST, lambda found: found["peak_ratio"]),
            1.3,
        ),
        Check(
            "nats-server's peak with many objects / memory of nats.yaml",
            max(peaks) / nats_limit_mb if peaks else None,
            1,
        ),
        Check(
            "NATS requests of a sidecar that starts",
            max(fresh) if fresh else None,
            60,
        ),
    ]


# -- deploy/kubernetes -----------------------------------------------------------------

_UNITS: Final = {"Mi": 2**20, "Gi": 2**30}


def megabytes(quantity: str) -> float:
    """Read a quantity of Kubernetes, as 1Gi."""
    return int(quantity[:-2]) * _UNITS[quantity[-2:]] / 1e6


@dataclass(frozen=True)
class Share:
    """What deploy/ gives to a part, and what the part took at most."""

    file: str
    what: str
    given_mb: float
    measured: Sequence[tuple[str, float]]
    """With which part of a run, and how much."""

    @property
    def most(self) -> tuple[str, float] | None:
        return max(self.measured, key=lambda each: each[1], default=None)


def limits(directory: Path) -> dict[tuple[str, str], float]:
    """Give what each file of deploy/kubernetes gives, by container or claim, in MB."""
    found = {}
    for path in sorted(directory.glob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text("utf-8")):
            if document["kind"] == "PersistentVolumeClaim":
                found[path.name, "disk"] = _storage(document)
            if document["kind"] not in ("Deployment", "StatefulSet"):
                continue
            for claim in document["spec"].get("volumeClaimTemplates", ()):
                found[path.name, "disk"] = _storage(claim)
            pod = document["spec"]["template"]["spec"]
            for container in (*pod.get("initContainers", ()), *pod["containers"]):
                limit = container["resources"]["limits"]["memory"]
                found[path.name, container["name"]] = megabytes(limit)
    return found


def _storage(claim: dict[str, Any]) -> float:
    return megabytes(claim["spec"]["resources"]["requests"]["storage"])


_SHARES: Final = (
    ("nats.yaml", "nats", "memory_mb", "nats-server"),
    ("nats.yaml", "disk", "disk_mb", "nats-server"),
    ("hermes-server.yaml", "hermes", "memory_mb", "hermes-server"),
    ("hermes-server.yaml", "sidecar", "memory_mb", "sidecar of hermes-server"),
    ("hermes-server.yaml", "disk", "disk_mb", "hermes-server's cache"),
    ("hermes-client.yaml", "sidecar", "memory_mb", "sidecar of clients"),
)


def shares(results: Results, given: dict[tuple[str, str], float]) -> list[Share]:
    """Compare what deploy/ gives with what each part took in any part of the run."""
    return [
        Share(
            file,
            "disk" if name == "disk" else f"memory of `{name}`",
            given[file, name],
            [
                (part, result["found"][field][what])
                for part, result in results.items()
                if what in result["found"].get(field, {})
            ],
        )
        for file, name, field, what in _SHARES
    ]
