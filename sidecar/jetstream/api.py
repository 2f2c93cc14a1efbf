# SPDX-License-Identifier: Apache-2.0
"""The JetStream API: what is asked of the stream, of its leader or of a copy.

The leader answers STREAM.INFO and STREAM.MSG.GET, whoever is near a direct get.
"""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from sidecar.jetstream.api_replies import (
    ApiError,
    Batch,
    parse,
    read_info,
    read_message,
)
from sidecar.jetstream.callbacks import await_callback
from sidecar.jetstream.connection_errors import unforeseen
from sidecar.jetstream.requests import NO_RESPONDERS, NoReply, RawReply

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.jetstream.requests import Requests
    from sidecar.model.evidence import Came
    from sidecar.model.publish_reply import StoredMessage
    from sidecar.model.stream import StreamInfo, StreamPlan

REQUEST_SECONDS: Final = 2.0

_T = TypeVar("_T")

_NO_MESSAGE = 10037
_NO_STREAM = 10059


class JetStreamApi:
    """What can be asked of the stream, over one connection."""

    def __init__(self, requests: Requests, plan: StreamPlan) -> None:
        self._requests = requests
        self._plan = plan
        self._read_info = partial(read_info, plan)

    async def stream_info(self, *, with_deleted: bool = False) -> StreamInfo | None:
        """Ask the stream's leader for its state; None if there is no such stream."""
        request = {"deleted_details": True} if with_deleted else None
        try:
            return await self._ask("STREAM.INFO", self._read_info, request)
        except ApiError as error:
            if error.code == _NO_STREAM:
                return None
            raise

    async def categories(self) -> dict[str, int]:
        """Count the events of each category."""
        info = await self._ask(
            "STREAM.INFO", self._read_info, {"subjects_filter": self._plan.subject}
        )
        if not info.has_leader:
            raise NoReply
        return info.categories

    async def create_stream(self, first_offset: int, server: str = "") -> None:
        """Create the stream as planned; raise ApiError if the server will not.

        `server` is its version: an older one knows less.
        """
        config = self._plan.config(first_offset, server=server)
        await self._ask("STREAM.CREATE", lambda _: None, config)

    async def delete_stream(self) -> None:
        """Delete the stream with all that it holds; raise ApiError."""
        await self._ask("STREAM.DELETE", lambda _: None)

    async def message(self, sequence: int) -> StoredMessage | None:
        """Read one message from the stream's leader; None if it holds none there."""
        return await self._get({"seq": sequence})

    async def at_or_after(self, sequence: int) -> StoredMessage | None:
        """Read the first message at or after a sequence from the stream's leader."""
        return await self._get({"seq": sequence, "next_by_subj": ">"})

    async def last_of(self, category: str) -> StoredMessage | None:
        """Read the newest message of a category from the leader."""
        return await self._get({"last_by_subj": self._plan.subject_of(category)})

    async def next_of(self, category: str, sequence: int) -> StoredMessage | None:
        """Read the first message of a category at or after a sequence."""
        return await self._get(
            {"seq": sequence, "next_by_subj": self._plan.subject_of(category)}
        )

    async def first_since(self, time: str) -> StoredMessage | None:
        """Read the first message stored at or after a time (RFC 3339)."""
        return await self._get({"start_time": time})

    async def _get(self, request: dict[str, Any]) -> StoredMessage | None:
        try:
            return await self._ask(
                "STREAM.MSG.GET", partial(read_message, request), request
            )
        except ApiError as error:
            if error.code == _NO_MESSAGE:
                return None
            raise

    async def batch(
        self,
        start: int,
        limit: int,
        max_bytes: int,
        category: str | None,
        with_keys: bool = False,
    ) -> Came:
        """Read messages from `start` on, of whoever answers (NATS ADR-31).

        max_bytes is passed by at most one message. Raises NoReply where the connection
        is lost or the subject refused.
        """
        request: dict[str, Any] = {"seq": start, "batch": limit, "max_bytes": max_bytes}
        if category is not None:
            request["next_by_subj"] = self._plan.subject_of(category)
        subject = request.get("next_by_subj", "")
        return await self._collect(request, subject, with_keys)

    async def newest(self, category: str, max_bytes: int) -> Came:
        """Read the newest message of a category, of whoever answers (NATS ADR-31).

        `last` is where that copy of the stream ended then; 0 if it holds none, for then
        nothing says whose copy it is. Raises NoReply as `batch` does.
        """
        subject = self._plan.subject_of(category)
        request = {"multi_last": [subject], "batch": 1, "max_bytes": max_bytes}
        return await self._collect(request, subject)

    async def _collect(
        self, request: dict[str, Any], subject: str, with_keys: bool = False
    ) -> Came:
        """Ask for messages of one subject, or of any where it is empty."""
        most_bytes = request["max_bytes"] + self._requests.most_bytes
        return await self._requests.collect(
            f"$JS.API.DIRECT.GET.{self._plan.name}",
            json.dumps(request).encode(),
            Batch(self._plan.name, request["batch"], most_bytes, subject, with_keys),
        )

    async def _ask(
        self,
        name: str,
        read: Callable[[dict[str, Any]], _T],
        request: dict[str, Any] | None = None,
    ) -> _T:
        """Ask the JetStream API; raise NoReply, or ApiError for an error reply.

        What is not a reply of our server's form is none. It is waited for as long as
        bytes of a reply come that was asked for before.
        """
        subject = f"$JS.API.{name}.{self._plan.name}"
        payload = b"" if request is None else json.dumps(request).encode()
        reply = await await_callback(
            partial(self._requests.ask, subject, payload, b"", REQUEST_SECONDS)
        )
        if isinstance(reply, NoReply):
            raise reply
        if not isinstance(reply, RawReply) or reply.status == NO_RESPONDERS:
            raise NoReply
        try:
            result = parse(name, reply.data, read)
        except Exception as error:  # noqa: BLE001 - a reply may be anything
            raise NoReply(unforeseen(error).cause) from None
        if isinstance(result, ApiError):
            raise result
        return result
