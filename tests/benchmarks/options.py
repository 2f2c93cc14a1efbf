# SPDX-License-Identifier: Apache-2.0
"""The options that `make bench` and `make scale` share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse


def add_shared(parser: argparse.ArgumentParser, page: Path) -> None:
    """Add which Hermes, which page, and whether a miss is an error."""
    parser.add_argument(
        "--hermes-home",
        type=Path,
        help="a checkout of Hermes (or HERMES_HOME); HERMES_PYTHON runs it",
    )
    parser.add_argument("--out", type=Path, help=f"page to write, {page}")
    parser.add_argument(
        "--strict",
        action="store_true",
        help="exit 1 where a figure misses what it must reach",
    )
