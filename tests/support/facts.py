# SPDX-License-Identifier: Apache-2.0
"""Facts of a daemon that lacks nothing: each metric has a value."""

from __future__ import annotations

from sidecar.model.health import Facts
from sidecar.model.initsync import Initsync, Mark
from sidecar.model.publish_reply import Position
from sidecar.model.stream import StreamInfo

FACTS = Facts(
    stopping=False,
    writes=True,
    cause=None,
    faults=[],
    info=StreamInfo(
        config={"max_age": 1},
        position=Position(1, 2),
        messages=2,
        size_bytes=1,
        created="",
        leader=None,
        replicas=1,
        live_replicas=1,
        categories={},
    ),
    last_offset=2,
    round_trip_age=0.0,
    acknowledgement_age=0.0,
    doubt_age=0.0,
    second_writer_age=None,
    is_initsync_known=True,
    initsync=Initsync(
        Mark(1, "initsync", "init-start", 0), Mark(2, "initsync", "init-stop", 0), 0
    ),
    initsync_stays=1.0,
)
