# SPDX-License-Identifier: Apache-2.0
"""The proxy as the faults see it: orders out, reports in."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import threading
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

_TESTS = Path(__file__).resolve().parents[1]


class ProxyProcess:
    """`python -m chaos.proxy`; ends when its stdin does."""

    def __init__(self, gates: dict[str, dict[str, Any]]) -> None:
        self._gates = gates
        self._ids = itertools.count()
        self._fired: set[int] = set()
        self._started = self._flushed = False
        self._changed = threading.Condition()
        self.late_answers: Counter[str] = Counter()

    def __enter__(self) -> Self:
        self._popen = subprocess.Popen(
            [sys.executable, "-m", "chaos.proxy", json.dumps(self._gates)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(_TESTS)},
            text=True,
        )
        threading.Thread(target=self._listen, daemon=True).start()
        with self._changed:
            assert self._changed.wait_for(lambda: self._started, 20), "no proxy"
        return self

    def __exit__(self, *_: object) -> None:
        assert self._popen.stdin is not None
        with suppress(OSError):
            self._popen.stdin.close()
        try:
            self._popen.wait(5)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()

    def order(self, op: str, **what: object) -> None:
        assert self._popen.stdin is not None
        self._popen.stdin.write(json.dumps({"op": op, **what}) + "\n")
        self._popen.stdin.flush()

    def strike(
        self,
        kind: str,
        place: str,
        action: str,
        seconds: float,
        fraction: float,
        *,
        patience_seconds: float = 10,
    ) -> bool:
        """Arm a strike and wait until it fell; False when nothing passed."""
        number = next(self._ids)
        self.order(
            "arm",
            kind=kind,
            place=place,
            action=action,
            seconds=seconds,
            fraction=fraction,
            id=number,
        )
        with self._changed:
            fell = self._changed.wait_for(
                lambda: number in self._fired, patience_seconds
            )
        if not fell:
            self.order("disarm", kind=kind)
        return fell

    def flush(self, seconds: float = 20) -> bool:
        """Deliver at once all that is held back; tell whether it all went out."""
        self.order("flush")
        with self._changed:
            return self._changed.wait_for(lambda: self._flushed, seconds)

    def _listen(self) -> None:
        assert self._popen.stdout is not None
        with self._popen.stdout as reports:
            for line in reports:
                report = json.loads(line)
                with self._changed:
                    self._note(report)
                    self._changed.notify_all()

    def _note(self, report: dict[str, Any]) -> None:
        match report["event"]:
            case "started":
                self._started = True
            case "fired":
                self._fired.add(report["id"])
            case "late":
                self.late_answers[report["answer"]] += 1
            case "flushed":
                self._flushed = True
