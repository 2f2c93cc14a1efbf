# SPDX-License-Identifier: Apache-2.0
"""What a run that went wrong leaves behind, for whoever looks into it.

No body of an event: what it says, without what only fills it.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from .checker import name_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from .checker import Attempt, Message

_MOST_BYTES: Final = 8 * 1024 * 1024
"""Of one file; the end is kept."""


def keep(
    directory: Path,
    attempts: Sequence[Attempt],
    copies: Mapping[str, Sequence[Message]],
    others: Mapping[str, Iterable[Any]],
    logs: Iterable[Path],
) -> None:
    """Write what was told, what each replica holds, other rows, and the logs."""
    directory.mkdir(parents=True, exist_ok=True)
    rows: dict[str, Iterable[Any]] = {
        "attempts": map(_without_body, attempts),
        **{f"replica-{name}": map(_without_body, copies[name]) for name in copies},
        **others,
    }
    for name, values in rows.items():
        text = "".join(json.dumps(value) + "\n" for value in values)
        (directory / f"{name}.jsonl").write_bytes(text.encode()[-_MOST_BYTES:])
    for log in logs:
        target = directory / f"{log.parent.name}-{log.name}"
        target.write_bytes(log.read_bytes()[-_MOST_BYTES:])


def _without_body(row: Attempt | Message) -> dict[str, Any]:
    values = asdict(row)
    return values | {"body": name_of(values["body"])}
