# SPDX-License-Identifier: Apache-2.0
"""The arguments of a run, and the command that repeats it."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Final

from .nemesis import FAULTS, fitting
from .servers import VERSIONS

if TYPE_CHECKING:
    from collections.abc import Sequence

TOPOLOGIES: Final = ("single", "cluster", "two-sidecars", "two-producers")
PUBLISHERS: Final = ("real", "unfenced", "unkeyed", "self-fencing")


@dataclass(frozen=True)
class Options:
    """What a run does; `server_version` empty: the installed nats-server.

    `burst`: how many events are acknowledged at most between two faults.
    """

    seed: int = 1
    seconds: float = 60.0
    events: int = 0
    burst: int = 300
    topology: str = "single"
    server_version: str = ""
    faults: tuple[str, ...] = ()
    readers: int = 1
    scanners: int = 1
    publisher: str = "real"
    report: Path | None = None

    @property
    def patience_seconds(self) -> float:
        """Longer than that without an acknowledged event is a violation.

        One that is broken on purpose may never come out of what it got into.
        """
        return 90.0 if self.publisher == "real" else 2.0

    @property
    def command(self) -> str:
        """The command that repeats this run."""
        words = ["PYTHONPATH=tests python -m chaos.run"]
        for each in fields(self):
            value = getattr(self, each.name)
            if each.name == "report" or value == each.default:
                continue
            if each.name == "faults":
                if value == fitting(self.topology):
                    continue
                value = ",".join(value)
            words.append(f"--{each.name.replace('_', '-')} {value}")
        return " ".join(words)


def parse(arguments: Sequence[str] | None = None) -> Options:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m chaos.run",
        description="Drives the real plugin against real sidecars and nats-servers "
        "under faults, and compares the stream with what the producer was told.",
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=60.0, help="stop after")
    parser.add_argument(
        "--events", type=int, default=0, help="stop when so many are acknowledged"
    )
    parser.add_argument(
        "--burst", type=int, default=300, help="at most, between two faults"
    )
    parser.add_argument("--topology", choices=TOPOLOGIES, default="single")
    parser.add_argument("--server-version", choices=VERSIONS, default="")
    parser.add_argument(
        "--faults", default="", help="comma list of: " + " ".join(FAULTS)
    )
    parser.add_argument("--readers", type=int, default=1)
    parser.add_argument(
        "--scanners", type=int, default=1, help="which begin anew all the while"
    )
    parser.add_argument(
        "--publisher", choices=PUBLISHERS, default="real", help="or a broken one"
    )
    parser.add_argument("--report", type=Path, help="JSON file to merge results into")
    values = vars(parser.parse_args(arguments))
    names = tuple(filter(None, values.pop("faults").split(",")))
    possible = fitting(values["topology"])
    for name in names:
        if name not in possible:
            parser.error(f"{name} does not fit {values['topology']}: {possible}")
    return Options(faults=names or possible, **values)
