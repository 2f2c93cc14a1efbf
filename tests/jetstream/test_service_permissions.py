# SPDX-License-Identifier: Apache-2.0
"""Sidecars that may know each other's clients, and those whose user may not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.sidecar import event, post
from support.users import USERS, guarded, sidecar_of

from sidecar.jetstream.service import ANSWERS, NAME, QUESTION

if TYPE_CHECKING:
    from pathlib import Path

    from support.sidecar import SidecarProcess


def clients_of(process: SidecarProcess) -> tuple[list[str], str | None]:
    with process.client() as http:
        document = http.get("/v1/clients").json()
    assert document["complete"] is (document["reason"] is None)
    return [row["name"] for row in document["clients"]], document["reason"]


@pytest.mark.parametrize(
    "without",
    [
        "",
        f'"{QUESTION}",',
        f'"$SRV.*.{NAME}",',
        f'"{ANSWERS}.>",',
    ],
)
def test_sidecars_show_all_clients_or_say_which_permission_is_missing(
    tmp_path: Path, without: str
) -> None:
    users = USERS.read_text("utf-8")
    assert without in users
    if without:
        users = users.replace(without, "")
    with (
        guarded(tmp_path, users) as server,
        sidecar_of("producer", tmp_path, server) as writing,
        sidecar_of("both", tmp_path, server) as both,
        sidecar_of("consumer", tmp_path, server) as reading,
    ):
        with writing.client() as http:
            offset = post(http, event()).json()["offset"]
        names = {both: "of-both", reading: "of-reading"}
        for process, name in names.items():
            with process.client() as http:
                agent = {"User-Agent": name}
                page = http.get(f"/v1/events?offset={offset}", headers=agent)
                assert page.is_success
        for process in (writing, both, reading):
            known, reason = clients_of(process)
            if not without:
                assert (known, reason) == (["of-both", "of-reading"], None)
                continue
            assert known == [names[each] for each in names if each is process]
            assert reason is not None
            assert without.strip('",') in reason
            assert "docs/nats.md" in reason
            assert clients_of(process) == (known, reason)
        refused = server.output().count("Violation")
        for process in (writing, both, reading):
            clients_of(process)  # who knows that it may not does not ask
            told = [row["event"] for row in process.rows() if "nats_" in row["event"]]
            assert set(told) == {"nats_connected"}
            assert process.health() is not None
        assert server.output().count("Violation") == refused
