# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import pytest

from sidecar.http.events import Preferences, read_preferences


@pytest.mark.parametrize(
    ("header", "is_minimal", "hold_seconds"),
    [
        (b"", False, math.inf),
        (b"return=minimal", True, math.inf),
        (b"return=minimal, wait=15", True, 14),
        (b"wait=15, return=minimal", True, 14),
        (b'Wait = "7" ; foo=bar , respond-async', False, 6),
        (b"wait=8, wait=20", False, 7),
        (b"return=representation, return=minimal", False, math.inf),
        (b"wait=3", False, 2),
        (b"wait=0", False, 2),
        (b"wait=" + b"9" * 400, False, math.inf),
        (b"wait", False, math.inf),
        (b"wait=", False, math.inf),
        (b"wait=-1", False, math.inf),
        (b"wait=1.5", False, math.inf),
        (b"wait=1_0", False, math.inf),
        ("wait=\u00b2".encode("latin-1"), False, math.inf),
        (b"wait=nan", False, math.inf),
        (b",;=,==", False, math.inf),
    ],
)
def test_preferences_are_read_and_what_is_none_is_passed_over(
    header: bytes, is_minimal: bool, hold_seconds: float
) -> None:
    assert read_preferences(header) == Preferences(is_minimal, hold_seconds)
