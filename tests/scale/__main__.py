# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: T201 - a command prints
"""`make scale`: measures a campus and writes docs/scale.md, or a part of it anew."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
import time
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.measure import machine
from benchmarks.options import add_shared
from support.hermes import make_hermes_home, use_hermes_home

from . import campus, many
from .backup import measure_backup
from .campus import Lab
from .figures import BACKUP, CAMPUS, FIRST, MANY, NAMES, RETENTION, checks, limits
from .page import page
from .plots import save_plots, thinned
from .progress import Progress
from .sizes import FULL, QUICK, Sizes

if TYPE_CHECKING:
    from collections.abc import Callable

_PAGE = Path("docs/scale.md")
_KUBERNETES = Path("deploy/kubernetes")

_PARTS: dict[str, Callable[[Lab, Path], dict[str, Any]]] = {
    **{name: partial(campus.measure, nodes=nodes) for nodes, name in CAMPUS.items()},
    FIRST: many.measure_first,
    **{name: partial(many.measure_many, nodes=nodes) for nodes, name in MANY.items()},
    RETENTION: many.measure_retention,
    BACKUP: measure_backup,
}


def main() -> None:
    options = _options()
    if options.hermes_home:
        os.environ["HERMES_HOME"] = str(options.hermes_home.absolute())
    if not os.environ.get("HERMES_HOME"):
        sys.exit("Name a checkout of Hermes: make scale HERMES_HOME=/path/to/Hermes")
    sizes = QUICK if options.quick else FULL
    out: Path = options.out or _PAGE
    store = out.with_suffix(".json")
    results = json.loads(store.read_text("utf-8"))["parts"] if store.exists() else {}
    with tempfile.TemporaryDirectory(prefix="scale-") as directory:
        lab = _lab(Path(directory), sizes)
        for name in options.only or NAMES:
            results[name] = _measure(lab, Path(directory), name)
            _write(out, store, results)
    given = limits(_KUBERNETES)
    missed = [
        check.name
        for check in checks(results, given["nats.yaml", "nats"])
        if check.holds is False
    ]
    for text in missed:
        print(f"Missed: {text}")
    print(f"Written: {out}")
    sys.exit(1 if missed and options.strict else 0)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make scale", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="three minutes: 2,000 objects"
    )
    parser.add_argument(
        "--only",
        action="append",
        choices=NAMES,
        help="this part; those that stand in the page stay. Several times for several",
    )
    add_shared(parser, _PAGE)
    return parser.parse_args()


def _lab(directory: Path, sizes: Sizes) -> Lab:
    python = Path(os.environ.get("HERMES_PYTHON") or sys.executable).absolute()
    home = make_hermes_home(directory)
    use_hermes_home(home)
    return Lab(home, python, sizes, Progress())


def _measure(lab: Lab, directory: Path, name: str) -> dict[str, Any]:
    lab.progress.say(f"{name}, {lab.sizes.name}")
    quick = "--quick " if lab.sizes is QUICK else ""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(dir=directory) as place:
        found = _PARTS[name](lab, Path(place))
    if "samples" in found:
        found["samples"] = thinned(found["samples"])
    return {
        "command": f"make scale HERMES_HOME=... ARGS='{quick}--only {name}'",
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "scale": lab.sizes.name,
        "took_seconds": time.monotonic() - began,
        "found": found,
    }


def _write(out: Path, store: Path, results: dict[str, Any]) -> None:
    """Write what is known so far: a run that is broken off has its first parts."""
    ordered = {name: results[name] for name in NAMES if name in results}
    document = {"machine": machine(), "parts": ordered}
    out.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(document, indent=1)
    # A row of figures on a line.
    text = re.sub(r"\[[^][{}]*\]", lambda row: " ".join(row[0].split()), text)
    store.write_text(f"{text}\n", "utf-8")
    out.write_text(page(ordered, document["machine"], limits(_KUBERNETES)), "utf-8")
    save_plots(out, ordered)


main()
