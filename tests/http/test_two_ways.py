# SPDX-License-Identifier: Apache-2.0
"""A request to store an event is answered the same whichever way it goes.

In one piece it is served directly; one that ends its connection goes through uvicorn
and FastAPI.
"""

from __future__ import annotations

import json
import socket
import time
import uuid
from http.client import HTTPResponse
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from support.jetstream import wait_jetstream
from support.nats import NatsProcess
from support.sidecar import event, last_offset, sidecar_on

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import httpx
    from support.sidecar import SidecarProcess

SECRET = "c0rrect-horse"
DIRECT, BY_UVICORN = "keep-alive", "close"


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    text: bytes

    @property
    def document(self) -> Any:
        return json.loads(self.text)


def ask(
    sidecar: SidecarProcess, way: str, body: bytes, **changes: str | None
) -> Answer:
    """POST in one piece, with the headers of a good request but for `changes`."""
    headers: dict[str, str | None] = {
        "Host": "localhost",
        "Connection": way,
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        "Idempotency-Key": str(uuid.uuid4()),
        "If-Match": "*",
    }
    headers |= {name.replace("_", "-"): value for name, value in changes.items()}
    lines = [f"{name}: {value}" for name, value in headers.items() if value is not None]
    head = "\r\n".join(["POST /v1/events HTTP/1.1", *lines, "", ""])
    with socket.socket(socket.AF_UNIX) as plain:
        plain.settimeout(20)
        plain.connect(str(sidecar.socket))
        plain.sendall(head.encode() + body)
        response = HTTPResponse(plain)
        response.begin()
        fields = {name.lower(): value for name, value in response.getheaders()}
        fields.pop("connection", None)
        return Answer(response.status, fields, response.read())


@pytest.fixture(scope="module")
def limited(
    nats: NatsProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SidecarProcess]:
    """Serve events of 1,000 bytes at most."""
    directory = tmp_path_factory.mktemp("limited")
    with sidecar_on(nats, directory, max_event_bytes=1000) as process:
        yield process


@pytest.fixture
def http(limited: SidecarProcess) -> Iterator[httpx.Client]:
    with limited.client() as client:
        yield client


REFUSED: dict[str, tuple[bytes, dict[str, str | None], int]] = {
    "no If-Match": (event(), {"If_Match": None}, 428),
    "If-Match unquoted": (event(), {"If_Match": "7"}, 400),
    "If-Match text": (event(), {"If_Match": f'"{SECRET}"'}, 400),
    "no key": (event(), {"Idempotency_Key": None}, 400),
    "bad key": (event(), {"Idempotency_Key": f"{SECRET} a"}, 400),
    "no type": (event(), {"Content_Type": None}, 415),
    "text": (event(), {"Content_Type": "text/plain"}, 415),
    "no JSON": (SECRET.encode(), {}, 400),
    "empty": (b"", {}, 400),
    "no category": (b'{"a": 1}', {}, 422),
    "illegal category": (event(f"{SECRET}!"), {}, 422),
    "too large": (event(objattrs={"photo": "x" * 1000}), {}, 413),
}


@pytest.mark.parametrize(
    ("body", "changes", "status"), REFUSED.values(), ids=list(REFUSED)
)
def test_what_is_refused_is_refused_alike_and_counted_alike(
    limited: SidecarProcess,
    http: httpx.Client,
    body: bytes,
    changes: dict[str, str | None],
    status: int,
) -> None:
    last = last_offset(http)
    refused = [_refusals(http)]
    answers = []
    for way in (DIRECT, BY_UVICORN):
        answers.append(ask(limited, way, body, **changes))
        refused.append(_refusals(http))
    direct, by_uvicorn = answers
    assert direct == by_uvicorn
    assert direct.status == status
    assert direct.headers["cache-control"] == "no-store"
    assert SECRET not in direct.text.decode()
    assert last_offset(http) == last
    assert refused == [refused[0], refused[0] + 1, refused[0] + 2]


def _refusals(http: httpx.Client) -> float:
    lines = http.get("/metrics").text.splitlines()
    name = "hermes_sidecar_requests_refused_total{"
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


@pytest.mark.parametrize("way", [DIRECT, BY_UVICORN])
def test_an_event_is_stored_and_its_repetition_and_its_rival_are_known(
    limited: SidecarProcess, http: httpx.Client, way: str
) -> None:
    last = last_offset(http)
    same: dict[str, str | None] = {
        "If_Match": f'"{last}"',
        "Idempotency_Key": uuid.uuid4().hex,
    }
    first, again = (
        ask(limited, way, event(), **same),
        ask(limited, way, event(), **same),
    )
    assert (first.status, again.status) == (201, 200)
    for answer in (first, again):
        assert answer.headers["etag"] == f'"{last + 1}"'
        assert answer.headers["content-type"] == "application/json"
        assert answer.document["offset"] == last + 1
        assert answer.document["duplicate"] is (answer is again)
    rival = ask(limited, way, event(), If_Match=f'"{last}"')
    assert (rival.status, rival.document["code"]) == (412, "precondition_failed")
    assert rival.document["key"] == same["Idempotency_Key"]
    assert last_offset(http) == last + 1


@pytest.mark.parametrize("way", [DIRECT, BY_UVICORN])
def test_who_prefers_little_gets_the_entity_tag_alone(
    limited: SidecarProcess, http: httpx.Client, way: str
) -> None:
    last = last_offset(http)
    same: dict[str, str | None] = {
        "Prefer": "return=minimal",
        "If_Match": f'"{last}"',
        "Idempotency_Key": uuid.uuid4().hex,
    }
    for status in (201, 200):
        answer = ask(limited, way, event(), **same)
        assert (answer.status, answer.text) == (status, b"")
        assert answer.headers == {"content-length": "0", "etag": f'"{last + 1}"'}
    refused = ask(limited, way, event(), **(same | {"Idempotency_Key": "another"}))
    assert (refused.status, refused.document["key"]) == (412, same["Idempotency_Key"])


@pytest.mark.parametrize("way", [DIRECT, BY_UVICORN])
def test_of_two_preconditions_the_first_counts_and_a_trailer_never(
    limited: SidecarProcess, http: httpx.Client, way: str
) -> None:
    last = last_offset(http)
    chunked = b"%x\r\n%s\r\n0\r\nIf-Match: *\r\n\r\n" % (len(event()), event())
    answer = ask(
        limited,
        way,
        chunked,
        Content_Length=None,
        Transfer_Encoding="chunked",
        If_Match=f'"{last - 1}"\r\nIf-Match: *',
    )
    assert answer.status in (409, 410, 412, 503), answer
    assert last_offset(http) == last


@pytest.mark.parametrize("way", [DIRECT, BY_UVICORN])
def test_other_preferences_are_passed_over(limited: SidecarProcess, way: str) -> None:
    for preference in ("return=representation", "respond-async", SECRET):
        answer = ask(limited, way, event(), Prefer=preference)
        assert (answer.status, answer.document["duplicate"]) == (201, False)


@pytest.mark.parametrize("way", [DIRECT, BY_UVICORN])
def test_a_sidecar_that_may_not_write_says_so(
    nats: NatsProcess, limited: SidecarProcess, tmp_path: Path, way: str
) -> None:
    stream = str(limited.settings["stream"])
    with sidecar_on(nats, tmp_path, stream, role="consumer") as process:
        answer = ask(process, way, event())
        assert (answer.status, answer.document["code"]) == (403, "wrong_role")


@pytest.mark.parametrize("way", [DIRECT, BY_UVICORN])
def test_a_frozen_nats_leaves_it_unknown_and_the_same_request_resolves_it(
    tmp_path: Path, way: str
) -> None:
    with NatsProcess(tmp_path / "nats") as own:
        wait_jetstream(own.port)
        with sidecar_on(own, tmp_path / "s", publish_timeout_seconds=1) as process:
            with process.client() as http:
                last = last_offset(http)
            same: dict[str, str | None] = {
                "If_Match": f'"{last}"',
                "Idempotency_Key": uuid.uuid4().hex,
            }
            own.freeze()
            answer = ask(process, way, event(), **same)
            own.thaw()
            assert (answer.status, answer.document["outcome"]) == (504, "unknown")
            process.wait_ready()
            answer = ask(process, way, event(), **same)
            assert (answer.status, answer.document["offset"]) == (200, last + 1)


@pytest.mark.parametrize("way", [DIRECT, BY_UVICORN])
def test_the_answer_comes_while_its_caller_waits(tmp_path: Path, way: str) -> None:
    with NatsProcess(tmp_path / "nats") as own:
        wait_jetstream(own.port)
        with sidecar_on(own, tmp_path / "s", publish_timeout_seconds=60) as process:
            with process.client() as http:
                last = last_offset(http)
            own.freeze()
            started_at = time.monotonic()
            answer = ask(
                process, way, event(), If_Match=f'"{last}"', Prefer="wait=4, x"
            )
            seconds = time.monotonic() - started_at
            own.thaw()
    assert answer.status == 504
    assert 2.5 < seconds < 10


@pytest.mark.parametrize("path", ["/health/live", "/health/ready"])
def test_a_probe_is_answered_the_same_by_both_ways(
    path: str, http: httpx.Client
) -> None:
    direct, by_uvicorn = http.get(path), http.get(f"{path}?")
    assert direct.request.url.raw_path != by_uvicorn.request.url.raw_path
    assert direct.status_code == by_uvicorn.status_code == 200
    assert direct.headers == by_uvicorn.headers
    assert direct.json()["status"] == by_uvicorn.json()["status"]
