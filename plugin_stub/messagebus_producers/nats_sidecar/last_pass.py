# SPDX-License-Identifier: GPL-3.0-or-later
"""What a hermes-server that was killed had sent, and what of it comes again.

Hermes saves its cache when a pass ends. What it sent in one that was cut off it
computes anew at its next start, and for a hermes-client a second `removed` means to
delete the object for good. So what is in the stream already is not stored again.
"""

from __future__ import annotations

import json
import re
from base64 import urlsafe_b64encode
from bisect import bisect_left
from hashlib import blake2b

from .doubts import Sent

_DIGEST_LENGTH = 11
_OBJECT = re.compile(r"[\w-]{11} [0-9]{1,16}", re.ASCII)

_SECRETS = b'\n        "modified": {},\n        "removed": {}\n    },'
"""Part of an event that only adds attributes to an object. At each start Hermes sends
secrets so that their source still has, since its cache never holds them."""


class LastPass:
    """The objects whose newest event is of the pass that was cut off.

    They are asked for in each pass until one goes through: then it `is_over`.
    """

    def __init__(self, process: str) -> None:
        self.is_over = False
        self.is_known = False  # in this pass
        self.recognised_count = 0  # of those that show that a process was killed
        self._process = process.encode()
        self._objects: list[str] = []  # sorted, each DIGEST OFFSET
        self._came: set[str] = set()  # digests
        self._recognised: dict[str, str] = {}  # by digest
        self._has_removed = False

    @property
    def left_count(self) -> int:
        """Count the objects of which no event came."""
        return sum(
            one[:_DIGEST_LENGTH] not in self._recognised for one in self._objects
        )

    def learn(self, objects: list[str]) -> bool:
        """Take the objects, but for those of which an event came since.

        Tell whether they are what a sidecar sends.
        """
        self.is_known = all(_OBJECT.fullmatch(str(one)) for one in objects)
        if self.is_known:
            self._objects = [
                one for one in objects if one[:_DIGEST_LENGTH] not in self._came
            ]
        return self.is_known

    def find(self, sent: Sent) -> int | None:
        """Give the offset where the same event may be already."""
        at = self._index(sent)
        if at is None or (self._has_removed and sent.kind != "removed"):
            return None  # our removal of another may have taken this one with it
        return int(self._objects[at][_DIGEST_LENGTH:])

    def note(self, sent: Sent, *, is_recognised: bool) -> None:
        """Note that an event came. Unless it was recognised, the next one is new."""
        if (at := self._index(sent)) is not None:
            one = self._objects.pop(at)
            digest = one[:_DIGEST_LENGTH]
            if not is_recognised:
                self._came.add(digest)
            elif self._recognised.get(digest) != one:  # else in another attempt, too
                self._recognised[digest] = one
                self.recognised_count += _SECRETS not in sent.body
        if sent.kind == "removed" and not is_recognised:
            self._has_removed = True

    def end(self) -> None:
        """Recognise nothing any more."""
        self.is_over, self.recognised_count = True, 0
        self._objects.clear()
        self._came.clear()
        self._recognised.clear()

    def _index(self, sent: Sent) -> int | None:
        if not self._objects:
            return None
        digest = self._digest(sent)
        at = bisect_left(self._objects, digest)
        is_there = at < len(self._objects) and self._objects[at].startswith(digest)
        return at if is_there else None

    def _digest(self, sent: Sent) -> str:
        """Give what the sidecar calls this object (GET /v1/passes)."""
        text = json.dumps([sent.object[0], json.loads(sent.body)["objpkey"]]).encode()
        digest = blake2b(text, digest_size=8, key=self._process).digest()
        return urlsafe_b64encode(digest)[:_DIGEST_LENGTH].decode()
