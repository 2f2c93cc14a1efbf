# SPDX-License-Identifier: Apache-2.0
"""A table on the terminal."""

from __future__ import annotations


class Table:
    """Prints rows under a header, some at a time, in columns that only grow wider."""

    def __init__(self, *header: str) -> None:
        self._header: tuple[str, ...] | None = header
        self._widths = [len(name) for name in header]

    def show(self, rows: list[tuple[str, ...]]) -> None:
        """Print rows; before the first ones the header."""
        if not rows:
            return
        if self._header is not None:
            rows, self._header = [self._header, *rows], None
        columns = zip(*rows, strict=True)
        self._widths = [
            max(width, *map(len, cells))
            for width, cells in zip(self._widths, columns, strict=True)
        ]
        for row in rows:
            cells = map(str.ljust, row, self._widths)
            print("  ".join(cells).rstrip())
        print(end="", flush=True)
