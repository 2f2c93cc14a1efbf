# SPDX-License-Identifier: Apache-2.0
"""/health says that Hermes is blocked when it is, and not when somebody else is.

The real producer plugin, a real sidecar, a real NATS. How long a failure stands is a
table in tests/model/test_producers.py.
"""

from __future__ import annotations

import sys
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from support.hermes import load_plugin, new_event
from support.jetstream import RawNatsClient, wait_jetstream
from support.nats import NatsProcess
from support.process import wait_until
from support.sidecar import (
    SidecarProcess,
    event,
    last_offset,
    plugin_key,
    post,
    sidecar_on,
)

from sidecar import errors

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SECRET = "c0rrect-horse"
LIMIT_BYTES = 1000


class Hermes:
    """What a hermes-server does with the real plugin: passes of events."""

    def __init__(self, home: Path, sidecar: SidecarProcess) -> None:
        settings = {"url": sidecar.url, "send_timeout": 1, "unknown_timeout": 1}
        self.plugin = load_plugin(home, "messagebus_producers", settings)
        self._error = sys.modules[type(self.plugin).__module__].NatsSidecarError

    def passes(self, *events: Any) -> bool:
        """Do a pass; tell whether it went through, as Hermes learns it."""
        try:
            with self.plugin:
                for each in events:
                    self.plugin._send(each)
        except self._error:
            return False
        finally:
            self.plugin._http.close()
        return True


def user(pkey: object, size: int = 0, category: str = "base", **of: Any) -> Any:
    attributes = {"photo": "x" * size} if size else {}
    return new_event(category, objpkey=pkey, objattrs=attributes, **of)


def mark(kind: str) -> Any:
    return new_event("initsync", kind, objtype=None, objpkey=None)


def check(sidecar: SidecarProcess, name: str) -> tuple[int, str, str]:
    """Give the status of /health, and status and reason of one check."""
    answer = sidecar.health()
    assert answer is not None
    assert SECRET not in answer.text
    (found,) = [each for each in answer.json()["checks"] if each["name"] == name]
    return answer.status_code, found["status"], found["reason"] or ""


@pytest.fixture
def sidecar(nats: NatsProcess, tmp_path: Path) -> Iterator[SidecarProcess]:
    """Serve a stream of its own, with events of 1,000 bytes at most."""
    with sidecar_on(nats, tmp_path, max_event_bytes=LIMIT_BYTES) as process:
        yield process


@pytest.fixture
def hermes(hermes_home: Path, sidecar: SidecarProcess) -> Hermes:
    return Hermes(hermes_home, sidecar)


@pytest.mark.parametrize("size", [2_000, 2_000_000], ids=["direct", "by uvicorn"])
def test_hermes_stays_blocked_whatever_somebody_else_stores(
    sidecar: SidecarProcess, hermes: Hermes, size: int
) -> None:
    assert not hermes.passes(user(1), user(SECRET, size))
    with sidecar.client() as http:
        for _ in range(3):
            assert post(http).status_code == 201
    status, _, reason = check(sidecar, "refusals")
    assert status == 503
    assert "Hermes is blocked: The event is larger" in reason
    assert "The event's type is Users, its category base." in reason
    assert f"the limit {LIMIT_BYTES}." in reason
    assert hermes.passes(user(SECRET))  # the source made it smaller
    assert check(sidecar, "refusals") == (200, "pass", "")


def test_what_a_person_sends_is_a_warning_at_most(
    sidecar: SidecarProcess, hermes: Hermes
) -> None:
    assert hermes.passes(user(1))
    with sidecar.client() as http:
        for _ in range(2):
            large = event(objattrs={"photo": "x" * 2_000})
            assert post(http, large).status_code == 413
        status, level, reason = check(sidecar, "refusals")
        assert (status, level) == (200, "warn")
        assert "Hermes is blocked" not in reason
        assert post(http).status_code == 201
    assert check(sidecar, "refusals") == (200, "pass", "")


@contextmanager
def without_responders(tmp_path: Path) -> Iterator[NatsProcess]:
    """Start a NATS whose stream a user can ask about, but not publish to."""
    accounts = """
      accounts {
        HUB { jetstream: enabled, users: [{ user: hub, password: hub }]
              exports: [{ service: "$JS.API.>", response: stream }] }
        OURS { users: [{ user: ours, password: ours }]
               imports: [{ service: { account: HUB, subject: "$JS.API.>" } }] }
      }
      no_auth_user: ours
    """
    with NatsProcess(tmp_path / "nats", extra=accounts) as nats:
        wait_jetstream(nats.port)
        with RawNatsClient(nats.port, "hub", "hub") as operator:
            operator.create("hermes")
        yield nats


@pytest.mark.parametrize("held_seconds", [1, 8], ids=["failed", "still held"])
def test_a_stream_that_answers_and_takes_no_event_leaves_hermes_unable(
    hermes_home: Path, tmp_path: Path, held_seconds: int
) -> None:
    with (
        without_responders(tmp_path) as nats,
        SidecarProcess(
            tmp_path / "sidecar",
            nats_url=nats.url,
            publish_timeout_seconds=held_seconds,
        ) as sidecar,
    ):
        hermes = Hermes(hermes_home, sidecar)
        assert hermes.passes()
        assert check(sidecar, "refusals")[0] == 200
        for _ in range(2):
            assert not hermes.passes(user(1))
            wait_until(lambda: check(sidecar, "refusals")[0] == 503, 4)
        assert check(sidecar, "stream")[1] == "pass"
        assert "JetStream does not respond" in check(sidecar, "refusals")[2]


def test_a_hermes_that_cannot_learn_the_last_offset_is_unable(
    hermes_home: Path, tmp_path: Path
) -> None:
    mute = """
      authorization { users: [
        { user: all, password: all }
        { user: ours, password: ours, permissions: {
            publish: { deny: ["$JS.API.STREAM.MSG.GET.>"] } } } ] }
      no_auth_user: ours
    """
    with NatsProcess(tmp_path / "nats", extra=mute) as nats:
        wait_jetstream(nats.port)
        with RawNatsClient(nats.port, "all", "all") as operator:
            operator.create("hermes")
            operator.publish("hermes.base", event())
        with SidecarProcess(tmp_path / "sidecar", nats_url=nats.url) as sidecar:
            assert not Hermes(hermes_home, sidecar).passes()
            wait_until(lambda: check(sidecar, "refusals")[0] == 503, 4)
            assert "lacks a permission" in check(sidecar, "refusals")[2]


def test_its_own_event_that_was_told_unknown_makes_nobody_a_second_writer(
    sidecar: SidecarProcess,
) -> None:
    with sidecar.client() as http:
        last = last_offset(http)
        assert post(http, last=last, key=plugin_key(1)).status_code == 201
        assert post(http, last=last, key=plugin_key(2)).status_code == 412
        assert check(sidecar, "writers") == (200, "pass", "")
        assert "preconditions_failed_total 0.0" in http.get("/metrics").text
        assert post(http, last=last).status_code == 412
        assert check(sidecar, "writers")[:2] == (200, "warn")
        assert "preconditions_failed_total 1.0" in http.get("/metrics").text


def test_a_changed_token_is_told_and_nobody_without_one_makes_us_unready(
    nats: NatsProcess, hermes_home: Path, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text(SECRET)
    with sidecar_on(nats, tmp_path / "sidecar", token_file=token) as sidecar:
        url = f"http://127.0.0.1:{sidecar.tcp_port}"
        old = tmp_path / "old"
        old.write_text("another")
        settings = {"url": url, "token_file": str(old), "send_timeout": 1}
        hermes = Hermes(hermes_home, sidecar)
        hermes.plugin = load_plugin(hermes_home, "messagebus_producers", settings)
        assert check(sidecar, "callers")[1] == "pass"
        assert not hermes.passes(user(1))
        assert check(sidecar, "callers") == (
            *(200, "warn"),
            "A caller was refused in the last ten minutes: "
            + errors.UNAUTHORIZED.title,
        )
        assert httpx.post(f"{url}/v1/events", trust_env=False).status_code == 401
        with sidecar.client() as http:
            name = 'requests_refused_total{code="unauthorized"} '
            count = http.get("/metrics").text.partition(name)[2].partition("\n")[0]
            assert float(count) >= 2  # the plugin has asked again, too
        assert sidecar.health().status_code == 200  # type: ignore[union-attr]


def initsync(size: int) -> list[Any]:
    before = [mark("init-start"), *(user(at, 0, "initsync") for at in range(5))]
    return [*before, user(SECRET, size, "initsync"), mark("init-stop")]


@pytest.fixture
def limited(nats: NatsProcess, tmp_path: Path) -> Iterator[SidecarProcess]:
    """Serve a stream whose own limit is 1,500 bytes, headers counted."""
    name = f"s{uuid.uuid4().hex[:12]}"
    with sidecar_on(nats, tmp_path / "limited", name) as process:
        limit(nats, process, 1_500)
        yield process


def limit(nats: NatsProcess, sidecar: SidecarProcess, size: int) -> None:
    """Give the stream a limit, and wait until the sidecar goes by it."""
    with sidecar.client() as http, RawNatsClient(nats.port) as operator:
        name = http.get("/v1/stream").json()["stream"]
        operator.update(name, max_msg_size=size)
        large = event(category="probe", objattrs={"photo": "x" * 1_400})
        wait_until(lambda: (post(http, large).status_code == 413) == (size < 1_700))


def test_an_initsync_that_is_refused_is_stored_once_and_blocks_until_it_is_whole(
    hermes_home: Path, nats: NatsProcess, limited: SidecarProcess
) -> None:
    hermes = Hermes(hermes_home, limited)
    assert not hermes.passes(*initsync(2_000))
    with limited.client() as http:
        last = last_offset(http)
        for _ in range(2):
            status, _, reason = check(limited, "refusals")
            assert status == 503
            assert "The event's type is Users, its category initsync." in reason
            assert not hermes.passes(*initsync(2_000))
        assert last_offset(http) == last
        limit(nats, limited, 10_000)
        last = last_offset(http)
        statuses = []
        with hermes.plugin:
            for each in initsync(2_000):
                hermes.plugin._send(each)
                statuses.append(check(limited, "refusals")[0])
        assert statuses == [503] * 7 + [200]  # until its object is stored
        assert last_offset(http) == last + 8
    assert check(limited, "refusals") == (200, "pass", "")


def test_an_initsync_blocks_after_a_restart_of_the_sidecar_too(
    sidecar: SidecarProcess, hermes: Hermes
) -> None:
    assert not hermes.passes(*initsync(2_000))
    with sidecar.client() as http:
        last = last_offset(http)
    sidecar.kill()
    sidecar.start()
    sidecar.wait_stream()
    assert check(sidecar, "refusals") == (200, "pass", "")
    assert not hermes.passes(*initsync(2_000))
    status, _, reason = check(sidecar, "refusals")
    assert status == 503
    assert "The event's type is Users, its category initsync." in reason
    assert f"the limit {LIMIT_BYTES}." in reason
    with sidecar.client() as http:
        assert last_offset(http) == last


def test_an_event_that_the_source_took_back_is_over_with_the_next_whole_pass(
    sidecar: SidecarProcess, hermes: Hermes
) -> None:
    assert not hermes.passes(user(1), user(2, 2_000))
    assert hermes.passes(mark("init-start"), mark("init-stop"))
    hermes.plugin.open()  # an initsync proves nothing of base events
    hermes.plugin.close()
    assert check(sidecar, "refusals")[0] == 503
    assert not hermes.passes(user(3), user(2, 2_000))
    assert hermes.passes(user(4))
    assert hermes.passes()
    assert check(sidecar, "refusals") == (200, "pass", "")


def test_a_hermes_that_was_started_anew_takes_the_place_of_its_old_process(
    hermes_home: Path, sidecar: SidecarProcess, hermes: Hermes
) -> None:
    assert not hermes.passes(user(1, 2_000))
    assert check(sidecar, "refusals")[0] == 503
    assert Hermes(hermes_home, sidecar).passes(user(2))
    assert check(sidecar, "refusals") == (200, "pass", "")
