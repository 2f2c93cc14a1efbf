# SPDX-License-Identifier: Apache-2.0
"""However an event is made up, reading it holds nobody up."""

from __future__ import annotations

import asyncio
import json
import sys
import time
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from support.sidecar import last_offset

from sidecar import errors
from sidecar.errors import Outcome, Problem
from sidecar.model.event import parse_event
from sidecar.services import large_events
from sidecar.services.large_events import MANY_VALUES, SMALL_BYTES, Apart

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

MOST_SECONDS = 0.25
SIZE_BYTES = 8 * 2**20 - 2000


def of(values: bytes) -> bytes:
    return b'{"evcategory":"base","eventtype":"added","x":[%b]}' % values


def full_of(value: bytes) -> bytes:
    return of(b",".join([value] * (SIZE_BYTES // (len(value) + 1))))


def hermes(attributes: object) -> bytes:
    """Write as hermes-server does."""
    document = {"evcategory": "base", "eventtype": "added", "objattrs": attributes}
    return json.dumps(document, indent=4).encode()


# Made by the test that needs it: pytest collects in each of its workers.
SHAPES: dict[str, Callable[[], bytes]] = {
    "one text": lambda: of(b'"%b"' % (b"x" * SIZE_BYTES)),
    "escapes": lambda: of(b'"%b"' % (rb"\ud83d\ude00" * (SIZE_BYTES // 12))),
    "a photo": lambda: hermes({"photo": "x" * (SIZE_BYTES - 100)}),
    "members": lambda: hermes(
        {"members": [f"uid={n:09d},dc=org" for n in range(210_000)]}
    ),
    "short members": lambda: hermes({"members": [f"{n:x}" for n in range(350_000)]}),
    "attributes": lambda: hermes({f"{n:x}": f"{n:x}" for n in range(290_000)}),
    "lists": lambda: hermes({f"{n:x}": [f"{n:x}"] for n in range(140_000)}),
    "empty objects": lambda: hermes({"x": [{}] * 420_000}),
    "zeros": lambda: full_of(b"0"),
    "large numbers": lambda: full_of(b"9" * 4299),
    "a larger number": lambda: full_of(b"9" * 4301),
    "long fractions": lambda: full_of(b"0." + b"9" * 4000),
    "wrong at its end": lambda: full_of(b"0")[:-2],
    "too deep": lambda: of(b"[" * 10**6),
    "no object": lambda: b"[%b0]" % (b"0," * MANY_VALUES * 2),
    "no UTF-8": lambda: of(b"0," * MANY_VALUES * 2 + b'"\xff"'),
    "odd names": lambda: (
        b'{"evcategory":"a b","eventtype":7,"x":[%b0]}' % (b"0," * MANY_VALUES * 2)
    ),
    "a long name": lambda: (
        b'{"evcategory":"base","objtype":"%b","x":[%b0]}'
        % (b"x" * 100_000, b"0," * MANY_VALUES * 2)
    ),
    "no number": lambda: of(b"NaN," * MANY_VALUES * 2 + b"Infinity"),
    "half a character": lambda: of(rb'"\ud83d",' * MANY_VALUES * 2 + b"0"),
    "small": lambda: of(b"0," * 10_000 + b"0"),
}


WIDE: dict[str, Callable[[], bytes]] = {
    "empty lists": lambda: full_of(b"[]"),
    "lists in lists": lambda: full_of(b"[[]]"),
    "deep lists": lambda: full_of(b"[" * 900 + b"]" * 900),
    "objects": lambda: full_of(b'{"a":0}'),
    "nested objects": lambda: full_of(b'{"a":{"b":{"c":{}}}}'),
    "keys": lambda: (
        b'{"evcategory":"base",%b}'
        % b",".join(b'"%x":0' % number for number in range(SIZE_BYTES // 11))
    ),
    "texts": lambda: full_of(b'"ab"'),
    "wrong at its end": lambda: full_of(b"[]")[:-2],
}
"""Each takes 145 to 317 MiB."""


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the machine have more to do."""
    monkeypatch.setattr(large_events, "READ_SECONDS", 300)


def outcome(read: Any) -> Any:
    try:
        return read()
    except Problem as problem:
        return problem.document()


@pytest.mark.parametrize("make", SHAPES.values(), ids=SHAPES)
async def test_it_is_read_as_ever_and_nobody_waits_for_it(
    make: Callable[[], bytes],
) -> None:
    shape = make()
    # Of this process alone: the machine may have more to do.
    held, ends = [0.0], asyncio.Event()

    async def watch() -> None:
        while not ends.is_set():
            started_at = time.thread_time()
            await asyncio.sleep(0)
            held.append(time.thread_time() - started_at)
            await asyncio.sleep(0.001)

    watching = asyncio.create_task(watch())
    await asyncio.sleep(0.01)
    try:
        read: Any = await Apart().parse(shape)
    except Problem as problem:
        read = problem.document()
    ends.set()
    await watching
    assert read == outcome(lambda: parse_event(shape))
    assert max(held) < MOST_SECONDS


@pytest.mark.parametrize("make", WIDE.values(), ids=WIDE)
async def test_what_takes_many_times_its_size_is_refused(
    make: Callable[[], bytes],
) -> None:
    with pytest.raises(Problem) as caught:
        await Apart().parse(make())
    assert caught.value.cause is errors.TOO_WIDE
    assert caught.value.outcome is Outcome.NOT_STORED


async def test_where_no_process_can_be_made_it_is_read_nevertheless(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    shape = SHAPES["zeros"]()
    assert await Apart().parse(shape) == parse_event(shape)


async def test_a_process_that_fails_is_no_verdict_on_the_event(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(large_events, "_program", lambda: "raise MemoryError")
    with pytest.raises(Problem) as caught:
        await Apart().parse(SHAPES["zeros"]())
    assert caught.value.cause is errors.BUSY
    monkeypatch.setattr(large_events, "_program", lambda: "import time; time.sleep(60)")
    monkeypatch.setattr(large_events, "READ_SECONDS", 0.2)
    with pytest.raises(Problem) as caught:
        await Apart().parse(SHAPES["zeros"]())
    assert caught.value.cause is errors.BUSY


def test_a_wide_event_is_stored(http: httpx.Client) -> None:
    body = of(b"0," * MANY_VALUES + b"0") + b" " * SMALL_BYTES
    headers = {
        "Content-Type": "application/json",
        "Idempotency-Key": str(uuid.uuid4()),
        "If-Match": f'"{last_offset(http)}"',
    }
    answer = http.post("/v1/events", content=body, headers=headers)
    assert answer.status_code == 201
    page = http.get("/v1/events", params={"offset": answer.json()["offset"]}).json()
    assert page["events"][0]["data"].encode() == body
    assert json.loads(body)["evcategory"] == page["events"][0]["category"]
