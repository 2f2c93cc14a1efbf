# SPDX-License-Identifier: Apache-2.0
"""Whether a stream that is made anew gives out an offset again.

At the end of a run, on its servers and by the real `provision`: a stream is filled at
once, as by a first load, deleted and provisioned again, as an operator would.
"""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Final

from support.sidecar import COMMAND, environment

from .wire import Wire
from .world import STREAM

if TYPE_CHECKING:
    from .world import World

_EVENTS: Final = 20_000
_PATIENCE_SECONDS: Final = 30.0


def check_a_stream_made_anew(world: World) -> list[str]:
    """Say where a new stream begins within the offsets of the one before it."""
    first = _fill_and_delete(world)[1] + 1
    again, _ = _fill_and_delete(world)
    if again < first:
        return [f"offsets given out again: from {again} on, which were up to {first}"]
    return []


def _fill_and_delete(world: World) -> tuple[int, int]:
    """Delete the stream, provision and fill it; give its first and last offset."""
    with Wire(world.nodes[0].port, _PATIENCE_SECONDS) as wire:
        wire.delete(STREAM)
        subprocess.run(
            [*COMMAND, "provision", "--yes"],
            env=environment(**world.sidecar.settings),
            check=True,
            capture_output=True,
            timeout=_PATIENCE_SECONDS,
        )
        wire.publish_many(f"{STREAM}.base", "added", _EVENTS)
        state = wire.info(STREAM)["state"]
    return state["first_seq"], state["last_seq"]
