# SPDX-License-Identifier: Apache-2.0
"""The long form: `make fuzz ARGS="--inputs 100000 --seed 1"`.

Prints the memory of the sidecar after each tenth, and fails if it grows.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from support.nats import NatsProcess
from support.sidecar import SidecarProcess

from .attack import Attack

if TYPE_CHECKING:
    from collections.abc import Iterator

GROWTH_KIB = 8 * 1024
"""What may be added after the first fifth, in which caches and heaps fill."""


def main() -> None:
    """Run as a program."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        sys.exit(run(Path(directory), arguments.inputs, arguments.seed))


@contextmanager
def _sidecar(directory: Path, nats_url: str) -> Iterator[SidecarProcess]:
    process = SidecarProcess(
        directory,
        nats_url=nats_url,
        stream_create=True,
        tcp_api="open",
        log_level="info",
    )
    process.start()
    try:
        yield process.wait_ready(120)
    finally:
        process.stop()


def say(text: str) -> None:
    """Print at once, into a log too."""
    print(text, flush=True)  # noqa: T201 - a program


def run(directory: Path, inputs: int, seed: int) -> int:
    """Throw the inputs and give an exit status."""
    say(f"{inputs} bad requests, seed {seed}")
    started_at = time.monotonic()
    with (
        NatsProcess(directory / "nats") as nats,
        _sidecar(directory / "sidecar", nats.url) as sidecar,
        sidecar.client() as http,
    ):
        attack = Attack(sidecar, http)
        step = max(1, inputs // 20)
        held: list[int] = []

        def on_batch(done: int) -> None:
            if done >= step * (len(held) + 1):
                held.append(attack.rss_kib())
                seconds = time.monotonic() - started_at
                say(f"{done:>8} {seconds:6.0f} s  {held[-1]:>8} KiB")

        say(f"{0:>8} {0:6.0f} s  {attack.rss_kib():>8} KiB")
        asyncio.run(attack.throw_many(Random(seed), inputs, on_batch))  # noqa: S311
        attack.check()
    say(f"{len(attack.good)} good requests between them: all stored, nothing else")
    say(f"kinds: {dict(sorted(attack.kinds.items()))}")
    say(f"answers: {dict(sorted(attack.statuses.items()))}")
    growth = held[-1] - held[len(held) // 5]
    say(f"memory after the first fifth: {growth:+} KiB")
    if growth > GROWTH_KIB:
        say(f"That is more than {GROWTH_KIB} KiB: a leak.")
        return 1
    return 0


if __name__ == "__main__":
    main()
