# SPDX-License-Identifier: Apache-2.0
"""Since when a check does not pass."""

from __future__ import annotations

import pytest

from sidecar.model.health import Check
from sidecar.model.since import Since

PASS, OTHER = Check("stream", None), Check("writers", "Two.", blocks=False)
WARN, FAIL = Check("stream", "Slow.", blocks=False), Check("stream", "Down.")


@pytest.mark.parametrize(
    ("seen", "began"),
    [
        ([[PASS]], {}),
        ([[FAIL]], {"stream": 0}),
        ([[PASS], [FAIL], [FAIL]], {"stream": 1}),
        ([[FAIL], [Check("stream", "Gone.")]], {"stream": 0}),
        ([[WARN], [FAIL], [FAIL]], {"stream": 1}),
        ([[FAIL], [PASS], [FAIL]], {"stream": 2}),
        ([[FAIL], [], [FAIL]], {"stream": 2}),
        ([[FAIL, OTHER], [WARN, OTHER]], {"stream": 1, "writers": 0}),
    ],
)
def test_a_check_began_when_its_status_became_this_one(
    seen: list[list[Check]], began: dict[str, float]
) -> None:
    since = Since()
    results = [since.note(checks, float(now)) for now, checks in enumerate(seen)]
    assert results[-1] == began
