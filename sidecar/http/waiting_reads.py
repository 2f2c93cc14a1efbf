# SPDX-License-Identifier: Apache-2.0
"""GET /v1/events of clients that wait at the stream's end, without FastAPI's layers.

Each event wakes all who wait, and a request through an application's layers costs ten
times as much. What is not just as the consumer plugin writes it goes their way.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Final

from sidecar.http.models import MAX_EVENTS, MAX_WAIT
from sidecar.http.protocol import EVENTS
from sidecar.http.reads import delays_seconds, next_link, page_document
from sidecar.http.responses import PRIVATE, json_response
from sidecar.services.pages import MAX_BYTES, Query
from sidecar.services.waiters import NEAR_EVENTS
from sidecar.telemetry.log import internal_error

if TYPE_CHECKING:
    from starlette.responses import Response

    from sidecar.http.auth import Guard, RawHeaders
    from sidecar.http.protocol import GoOn, Respond
    from sidecar.services.daemon import Daemon
    from sidecar.services.pages import Page
    from sidecar.services.waiters import Waiter

MAX_PAGE_BYTES: Final = 64 * 1024
"""A larger page counts as held until its reader has taken it: see `_PageResponse`."""

_PLAIN = re.compile(
    rb"offset=([0-9]{1,18})&limit=([0-9]{1,4})&max_bytes=([0-9]{1,9})"
    rb"&wait=([0-9]{1,2}\.[0-9]{3})"
)


class WaitingReads:
    """Lets plain requests for the next event wait; see `protocol.Wait`."""

    def __init__(self, daemon: Daemon, guard: Guard) -> None:
        self._daemon = daemon
        self._guard = guard
        self._page: Page | None = None  # the last one, and what was made of it
        self._response: Response | None = None
        self._delays_seconds: list[float] = []

    def __call__(
        self, query_string: bytes, headers: RawHeaders, respond: Respond, go_on: GoOn
    ) -> Waiter | None:
        """Wait; or give None where the request is to be served as any other."""
        query, wait_seconds = _read(query_string)
        if query is None or query.offset is None:
            return None
        if not self._guard.admits(EVENTS, headers):
            return None
        agents = [value for name, value in headers if name == b"user-agent"]
        agent = agents[0].decode("latin-1") if agents else ""
        offset, now = query.offset, time.monotonic()

        def end(page: Page | None) -> None:
            response = None
            try:
                response = None if page is None else self._response_with(query, page)
            except Exception as error:  # noqa: BLE001 - the usual way says it again
                internal_error(error)
            if page is None or response is None:
                go_on(now)
                return
            respond(response)
            self._daemon.metrics.read(len(page.events))
            is_client = self._daemon.clients.read(agent, offset, time.monotonic())
            if is_client and waiter is not None and waiter.is_at_end:
                self._daemon.metrics.followed(agent, self._delays_seconds)

        waiter = self._daemon.waiters.wait(query, wait_seconds, end)
        if waiter is not None:
            self._daemon.clients.ask(agent, offset, now)
        return waiter

    def _response_with(self, query: Query, page: Page) -> Response | None:
        """Give what is the same for all who get this page; None where it is large."""
        if sum(len(message.body) for message in page.events) > MAX_PAGE_BYTES:
            return None
        if page is not self._page:
            headers = PRIVATE
            if page.next_offset + NEAR_EVENTS <= page.position.last:
                asked = {"limit": query.limit, "max_bytes": query.max_bytes}
                headers = headers | {
                    "Link": next_link({"offset": 0} | asked, page.next_offset)
                }
            self._delays_seconds = delays_seconds(page)
            self._response = json_response(page_document(page), headers=headers)
            self._page = page
        return self._response


def _read(query_string: bytes) -> tuple[Query | None, float]:
    """Read a query that is as the consumer plugin writes it, and how long it waits."""
    found = _PLAIN.fullmatch(query_string)
    if found is None:
        return None, 0.0
    offset, limit, max_bytes = int(found[1]), int(found[2]), int(found[3])
    wait_seconds = float(found[4])
    if not (1 <= limit <= MAX_EVENTS and max_bytes and 0 < wait_seconds <= MAX_WAIT):
        return None, 0.0
    return Query(offset, limit, min(max_bytes, MAX_BYTES)), wait_seconds
