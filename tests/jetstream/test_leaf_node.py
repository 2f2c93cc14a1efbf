# SPDX-License-Identifier: Apache-2.0
"""A site behind a leaf node, as docs/high-availability.md has it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from support.jetstream import FIT_STREAM, RawNatsClient, wait_jetstream
from support.leader import WITHOUT_JETSTREAM
from support.nats import NatsProcess, free_port
from support.process import wait_until
from support.sidecar import SidecarProcess, last_offset, post, sidecar_on

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import httpx

SITE = "hermes-site"
TO_HUB = 'default_js_domain: { "$G": hub }'


@pytest.fixture
def port() -> int:
    """Give the hub's port for leaf nodes."""
    return free_port()


@pytest.fixture
def hub(port: int, tmp_path: Path) -> Iterator[NatsProcess]:
    listen = f"leafnodes {{ host: 127.0.0.1, port: {port} }}"
    with NatsProcess(
        tmp_path / "hub", "hub", jetstream="domain: hub", extra=listen
    ) as nats:
        wait_jetstream(nats.port)
        yield nats


def leaf_node(
    directory: Path, port: int, jetstream: str, extra: str = ""
) -> NatsProcess:
    remote = f'{{ url: "nats-leaf://127.0.0.1:{port}" }}'
    extra += f'\nleafnodes {{ remotes: [{remote}], reconnect: "1s" }}'
    return NatsProcess(directory / "leaf", "leaf", jetstream=jetstream, extra=extra)


def offsets(http: httpx.Client, first: int | str = "first") -> list[int]:
    query: dict[str, int | str] = {"offset": first, "wait": 20}
    page = http.get("/v1/events", params=query).raise_for_status().json()
    return [row["offset"] for row in page["events"]]


def reader(nats: NatsProcess, directory: Path, name: str) -> SidecarProcess:
    return SidecarProcess(
        directory / "site",
        nats_url=nats.url,
        stream=name,
        subject_prefix="hermes",
        role="consumer",
    )


def test_a_leaf_node_without_jetstream_passes_everything_on(
    hub: NatsProcess, port: int, tmp_path: Path
) -> None:
    """Reading and waking, and storing too; after an outage of the hub it goes on."""
    with (
        sidecar_on(hub, tmp_path / "server", "hermes") as server,
        server.client() as producer,
        leaf_node(tmp_path, port, WITHOUT_JETSTREAM, TO_HUB) as leaf,
        sidecar_on(leaf, tmp_path / "site", "hermes") as site,
        site.client() as client,
        ThreadPoolExecutor() as pool,
    ):
        first = post(producer).json()["offset"]
        assert offsets(client) == [first]
        waiting = pool.submit(offsets, client, first + 1)
        assert post(producer).json()["offset"] == first + 1
        assert waiting.result() == [first + 1]
        with site.client() as there:
            assert post(there, last=first + 1).json()["offset"] == first + 2

        hub.kill()
        wait_until(lambda: status(site) == 503, what="the site has no bus")
        hub.start()
        hub.wait()
        site.wait_ready()
        server.wait_ready()
        assert post(producer).json()["offset"] == first + 3
        assert offsets(client, first + 3) == [first + 3]


def status(sidecar: SidecarProcess) -> int:
    answer = sidecar.health()
    return 0 if answer is None else answer.status_code


def test_a_mirror_in_the_domain_of_a_leaf_node_is_read_while_the_hub_is_down(
    hub: NatsProcess, port: int, tmp_path: Path
) -> None:
    with (
        sidecar_on(hub, tmp_path / "server", "hermes") as server,
        server.client() as producer,
        leaf_node(tmp_path, port, "domain: site") as leaf,
    ):
        wait_jetstream(leaf.port)
        first = post(producer).json()["offset"]
        wait_until(lambda: mirrors(leaf), what="the leaf node mirrors the stream")
        with (
            reader(leaf, tmp_path, SITE) as site,
            site.client() as client,
        ):
            assert offsets(client) == [first]
            for number in range(1, 50):
                assert post(producer, last="*").json()["offset"] == first + number
            expected = list(range(first, first + 50))
            wait_until(lambda: last_offset(client) == expected[-1], what="it follows")
            with server.client() as here:
                assert offsets(here) == expected
            assert "foreign_copy" not in server.output()

            hub.kill()
            assert offsets(client) == expected
            site.wait_ready()
            hub.start()
            hub.wait()
            server.wait_ready()
            assert post(producer).json()["offset"] == first + 50
            assert offsets(client, first + 50) == [first + 50]


def mirrors(leaf: NatsProcess) -> bool:
    """Create the mirror; tell whether it has an event."""
    config = FIT_STREAM | {
        "name": SITE,
        "mirror": {"name": "hermes", "external": {"api": "$JS.hub.API"}},
        "mirror_direct": True,
    }
    with RawNatsClient(leaf.port) as operator:
        with suppress(AssertionError):  # it is there
            operator.api(f"STREAM.CREATE.{SITE}", config)
        return bool(operator.state(SITE)["messages"])
