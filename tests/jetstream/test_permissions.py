# SPDX-License-Identifier: Apache-2.0
"""Each role with just the rights that deploy/nats/users.conf grants it."""

from __future__ import annotations

import asyncio
import json
import re
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import nats as nats_py
import pytest
from support.commands import run_here
from support.process import wait_until
from support.sidecar import (
    SidecarProcess,
    event,
    last_offset,
    plugin_key,
    post,
    post_batch,
    sequence,
)
from support.users import ROLES, USERS, guarded, login, password, sidecar_of

from sidecar.jetstream.service import ANSWERS, NAME, QUESTION
from sidecar.services.atomic_batch import LEAST_EVENTS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.nats import NatsProcess

SECURITY = USERS.parents[2] / "SECURITY.md"


@pytest.fixture(scope="module")
def guarded_nats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsProcess]:
    """Run a nats-server that grants what the documentation says, with a stream."""
    directory = tmp_path_factory.mktemp("guarded")
    with guarded(directory, USERS.read_text("utf-8")) as server:
        yield server


@pytest.mark.parametrize("role", ["producer", "both"])
def test_a_writing_role_stores_events_with_its_rights_alone(
    role: str, tmp_path: Path, guarded_nats: NatsProcess
) -> None:
    with (
        sidecar_of(role, tmp_path, guarded_nats) as sidecar,
        sidecar.client() as http,
    ):
        last = last_offset(http)
        assert post(http, event(), last, f"key-{role}").status_code == 201
        assert post(http, event(), last, f"key-{role}").status_code == 200
        assert post(http, event(), last, "other").status_code == 412
        assert post(http, event()).status_code == 201
        status = 403 if role == "producer" else 200
        assert http.get("/v1/events").status_code == status


def test_a_producer_may_send_an_atomic_batch(
    tmp_path: Path, guarded_nats: NatsProcess
) -> None:
    texts = [event("initsync", objpkey=number) for number in range(LEAST_EVENTS)]
    with (
        sidecar_of("producer", tmp_path, guarded_nats) as sidecar,
        sidecar.client() as http,
    ):
        last = last_offset(http)
        response = post_batch(http, sequence(*texts), last)
        assert response.json()["offset"] == last + len(texts)

    async def newest() -> Any:
        client = await nats_py.connect(
            guarded_nats.url,
            user="hermes_producer",
            password=password("producer"),
            inbox_prefix="_INBOX_hermes_producer",
        )
        try:
            return await client.jetstream().get_msg("hermes", last + len(texts))
        finally:
            await client.close()

    headers = asyncio.run(newest()).headers
    assert headers["Nats-Batch-Sequence"] == str(len(texts))


def test_a_consumer_reads_and_cannot_post(
    tmp_path: Path, guarded_nats: NatsProcess
) -> None:
    with (
        sidecar_of("producer", tmp_path, guarded_nats) as writing,
        sidecar_of("consumer", tmp_path, guarded_nats) as reading,
        writing.client() as writer,
        reading.client() as reader,
    ):
        offset = post(writer, event(objpkey="told")).json()["offset"]
        page = reader.get("/v1/events", params={"offset": offset}).json()
        assert [row["offset"] for row in page["events"]] == [offset]
        assert reader.get("/v1/stream").json()["last_offset"] == offset
        answer = post(reader, event())
        assert (answer.status_code, answer.json()["code"]) == (403, "wrong_role")


def test_a_role_whose_user_lacks_a_right_says_so(
    tmp_path: Path, guarded_nats: NatsProcess
) -> None:
    settings = login(tmp_path, guarded_nats, "consumer")
    settings["nats_inbox_prefix"] = "_INBOX_hermes_consumer"
    sidecar = SidecarProcess(tmp_path / "wrong", role="producer", **settings)
    with sidecar.client() as http:
        sidecar.start()
        try:
            sidecar.wait_ready()
            answer = post(http, event(), key=plugin_key(1))
            assert answer.status_code == 503
            assert answer.json()["code"] == "nats_permission"
            assert answer.json()["outcome"] == "not_stored"
            assert answer.elapsed.total_seconds() < 1.5
            health = http.get("/health")
            assert health.status_code == 503
            assert "lacks a permission" in health.text
        finally:
            sidecar.stop()


@pytest.fixture
def narrow_nats(tmp_path: Path) -> Iterator[NatsProcess]:
    """Run a nats-server where nobody may use direct get."""
    users = USERS.read_text("utf-8").replace('"$JS.API.DIRECT.GET.hermes",', "")
    with guarded(tmp_path, users) as server:
        yield server


def test_a_reading_role_whose_user_may_not_read_says_so(
    tmp_path: Path, narrow_nats: NatsProcess
) -> None:
    """Of the subjects that it asks, this user lacks the very one that serves."""
    settings = login(tmp_path, narrow_nats, "both")
    with SidecarProcess(tmp_path / "reader", role="both", **settings) as sidecar:
        with sidecar.client() as http:
            offset = post(http, event()).json()["offset"]
            answer = http.get(f"/v1/events?offset={offset}")
            assert (answer.status_code, answer.json()["code"]) == (
                503,
                "nats_permission",
            )
            assert answer.elapsed.total_seconds() < 1
            health = http.get("/health")
            assert health.status_code == 503
            assert "lacks a permission" in health.text
        check = run_here("check", **settings, role="consumer")
        assert check.returncode != 0
        assert "may not publish to $JS.API.DIRECT.GET.hermes:" in check.stdout


def test_a_producer_without_direct_get_learns_of_a_pass_all_the_same(
    tmp_path: Path, narrow_nats: NatsProcess
) -> None:
    with (
        sidecar_of("producer", tmp_path, narrow_nats) as sidecar,
        sidecar.client() as http,
    ):
        last = last_offset(http)
        key = plugin_key(0, pass_start=last)
        assert post(http, event(), last, key).status_code == 201
        (found,) = http.get("/v1/passes/last").json()["objects"]
        assert found.endswith(f" {last + 1}")


@pytest.mark.parametrize("without", [[], ["publish"], ["subscribe"]])
def test_a_reader_waits_for_an_event_with_or_without_a_word(
    tmp_path: Path, without: list[str]
) -> None:
    """Whom nobody tells asks 20 times a second; a missing right is no fault."""
    users = USERS.read_text("utf-8")
    if "publish" in without:
        users = re.sub(f'"{STORED}",(?=\\s+"\\$SRV.STATS)', "", users)
    if "subscribe" in without:
        users = re.sub(f'"{STORED}",(?=\\s+"\\$SRV.[*]")', "", users)
    assert (users == USERS.read_text("utf-8")) is (without == [])
    with (
        guarded(tmp_path, users) as server,
        sidecar_of("producer", tmp_path, server) as writing,
        sidecar_of("consumer", tmp_path, server) as reading,
        writing.client() as writer,
        reading.client() as reader,
    ):
        offset = last_offset(writer) + 1
        with ThreadPoolExecutor() as pool:
            for number in range(3):
                query = {"offset": offset + number, "wait": 20}
                page = pool.submit(reader.get, "/v1/events", params=query)
                assert post(writer, event(objpkey=number)).is_success
                assert len(page.result(15).json()["events"]) == 1
        for process in (writing, reading):
            told = [row["event"] for row in process.rows() if "nats_" in row["event"]]
            assert told == ["nats_connected"]


def test_readers_are_trusted_not_to_write_as_the_documentation_says(
    tmp_path: Path, guarded_nats: NatsProcess
) -> None:
    """A reader cannot publish, but it can name our subject as a reply subject."""

    async def abuse() -> str:
        complaints: asyncio.Queue[str] = asyncio.Queue()

        async def on_error(error: Exception) -> None:
            complaints.put_nowait(str(error))

        client = await nats_py.connect(
            guarded_nats.url,
            user="hermes_consumer",
            password=password("consumer"),
            error_cb=on_error,
        )
        await client.publish("hermes.base", b"{}")
        await client.publish(
            "$JS.API.STREAM.MSG.GET.hermes",
            json.dumps({"seq": 1}).encode(),
            reply="hermes.base",
        )
        async with asyncio.timeout(10):
            complaint = await complaints.get()
        await client.close()
        return complaint

    with (
        sidecar_of("both", tmp_path, guarded_nats) as sidecar,
        sidecar.client() as http,
    ):
        before = last_offset(http)
        assert "permissions violation" in asyncio.run(abuse())
        wait_until(
            lambda: last_offset(http) == before + 1,
            what="the answer to the reader stands in the stream",
        )


# -- What each role may do, as SECURITY.md says ----------------------------------------

GET, DIRECT = "$JS.API.STREAM.MSG.GET.hermes", "$JS.API.DIRECT.GET.hermes"
STORED = "hermes-nats-sidecar.stored.hermes"
SEQ = b'{"seq": 1}'
ASKED = {
    "store an event": [("hermes.base", b"{}")],
    "store in another category than Hermes'": [
        (subject, b"{}") for subject in ("hermes.other", "hermes.\xff", "hermes.schema")
    ],
    "store below a category": [("hermes.a.b", b"{}")],
    "read the stream's state": [("$JS.API.STREAM.INFO.hermes", b"")],
    "read any event from its leader": [(GET, SEQ)],
    "read any event from a replica": [(DIRECT, SEQ)],
    "create the stream if it is missing": [("$JS.API.STREAM.CREATE.hermes", b"{}")],
    "create another stream": [("$JS.API.STREAM.CREATE.evil", b"{}")],
    "change, empty or delete the stream, or an event": [
        (f"$JS.API.STREAM.{name}.hermes", b"{}")
        for name in ("UPDATE", "PURGE", "DELETE", "MSG.DELETE", "RESTORE", "SNAPSHOT")
    ],
    "create a consumer, or step down the leader": [
        ("$JS.API.CONSUMER.CREATE.hermes", b"{}"),
        ("$JS.API.CONSUMER.DURABLE.CREATE.hermes.x", b"{}"),
        ("$JS.API.STREAM.LEADER.STEPDOWN.hermes", b""),
    ],
    "see other streams, accounts or servers": [
        ("$JS.API.STREAM.LIST", b""),
        ("$JS.API.STREAM.NAMES", b""),
        ("$JS.API.INFO", b""),
        ("$SYS.REQ.SERVER.PING", b""),
        ("$SYS.REQ.USER.INFO", b""),
        ("$SYS.REQ.ACCOUNT.HERMES.CONNZ", b""),
    ],
    "tell readers that something was stored": [(STORED, b"")],
    "ask all sidecars for their clients, and answer": [
        (QUESTION, b""),
        (f"{ANSWERS}.a.b", b"{}"),
        ("_INBOX.a.b", b"{}"),
    ],
    "ask other services": [("$SRV.PING", b""), ("$SRV.STATS.x", b"")],
    "publish into the inbox of a role": [
        (f"_INBOX_hermes_{role}.a.b", b"{}")
        for role in ("producer", "both", "consumer")
    ],
    "publish anything else": [
        (subject, b"")
        for subject in (
            "$KV.x.y",
            "$JS.ACK.hermes.x",
            "$JS.FC.hermes.x",
            "$JS.M.x",
            "x",
        )
    ],
}
HEARD = {
    "receive replies of its own role": [],  # filled for each role
    "receive replies of another role": [],
    "hear that something was stored": [STORED],
    "hear what NATS services are asked, and what sidecars answer": [
        *("$SRV.*", f"$SRV.*.{NAME}", f"$SRV.*.{NAME}.*", "$SRV.PING"),
        f"{ANSWERS}.a.*",
        "$SRV.>",  # nats-server takes it for one of $SRV.*
    ],
    "subscribe to events as they are stored": ["hermes.>", "hermes.*", "hermes.base"],
    "subscribe to anything else": [
        ">",
        "_INBOX.>",
        "hermes-nats-sidecar.>",
        "$SRV.PING.x",
        "$JS.API.>",
        "$JS.EVENT.>",
        "$SYS.>",
    ],
}


async def permitted(role: str, server: NatsProcess) -> dict[str, str]:
    """Try everything as a role's user; give yes or no, or raise where it is both."""
    refused: list[str] = []

    async def on_error(error: Exception) -> None:
        refused.append(str(error).lower())

    client = await nats_py.connect(
        server.url, user=f"hermes_{role}", password=password(role), error_cb=on_error
    )
    others = [f"_INBOX_hermes_{each}.>" for each in ROLES if each != role]
    heard = HEARD | {
        "receive replies of its own role": [f"_INBOX_hermes_{role}.>"],
        "receive replies of another role": others,
    }
    for asked in ASKED.values():
        for subject, payload in asked:
            await client.publish(subject, payload, reply="_INBOX_hermes_x.y")
    for subjects in heard.values():
        for subject in subjects:
            await client.subscribe(subject)
    await client.flush()
    await asyncio.sleep(0.5)  # the server says only what it refuses

    def is_refused(kind: str, subject: str) -> bool:
        return any(f'for {kind} to "{subject.lower()}"' in text for text in refused)

    found = {
        what: [not is_refused("publish", subject) for subject, _ in asked]
        for what, asked in ASKED.items()
    } | {
        what: [not is_refused("subscription", subject) for subject in subjects]
        for what, subjects in heard.items()
    }
    await client.close()
    for what, answers in found.items():
        assert len(set(answers)) == 1, (role, what, answers)
    return {what: "yes" if answers[0] else "no" for what, answers in found.items()}


def test_each_role_may_do_what_security_md_says_and_nothing_else(
    guarded_nats: NatsProcess,
) -> None:
    found = {role: asyncio.run(permitted(role, guarded_nats)) for role in ROLES}
    rows = [
        f"| {what} | " + " | ".join(found[role][what] for role in ROLES) + " |"
        for what in found["both"]
    ]
    table = "\n".join(["| may | " + " | ".join(ROLES) + " |", "|---" * 5 + "|", *rows])
    assert table in SECURITY.read_text("utf-8"), table


async def test_who_may_create_the_stream_cannot_change_it_by_that(
    guarded_nats: NatsProcess,
) -> None:
    client = await nats_py.connect(
        guarded_nats.url,
        user="hermes_provision",
        password=password("provision"),
        inbox_prefix=b"_INBOX_hermes_provision",
    )

    async def ask(name: str, request: object = None) -> Any:
        payload = b"" if request is None else json.dumps(request).encode()
        answer = await client.request(f"$JS.API.STREAM.{name}.hermes", payload, 10)
        return json.loads(answer.data)

    before = (await ask("INFO"))["config"]
    for change in (
        {"max_age": 60 * 10**9},
        {"subjects": ["hermes.*", "evil.*"]},
        {"deny_purge": False},
        {"name": "evil", "subjects": ["evil.*"]},
        {"name": "evil", "subjects": [], "sources": [{"name": "hermes"}]},
    ):
        assert "error" in await ask("CREATE", before | change), change
    assert (await ask("INFO"))["config"] == before
    await client.close()
