# SPDX-License-Identifier: Apache-2.0
"""The onlooker reads the page that is served, or says that it cannot."""

from __future__ import annotations

import pytest
from simulation.onlooker import rows_of

from sidecar.http.status_page import StatusView, render
from sidecar.services.activity import Row

ROWS = [
    Row(6, "1970-01-01T00:00:01.5Z", "initsync", None, None, 10),
    Row(5, "1970-01-01T00:00:00.5Z", "base", "added", "Users", 2048),
]
VIEW = StatusView("1", 0.0, [], "hermes", "n1", minutes=[0] * 60, rows=ROWS)


def test_each_row_of_the_page_is_read() -> None:
    assert rows_of(render(VIEW)) == [
        (6, "initsync", "", "10 B"),
        (5, "base", "added", "2.0 KiB"),
    ]


def test_a_row_of_another_form_is_not_passed_over() -> None:
    with pytest.raises(AssertionError, match="other rows"):
        rows_of(render(VIEW).replace("<td>base</td>", "<td><b>base</b></td>"))
