# SPDX-License-Identifier: Apache-2.0
"""The model of JetStream answers as real nats-servers do, and repeats itself."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from itertools import repeat
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from chaos.servers import VERSIONS, nats_server
from simulation import atomic
from simulation.clock import VirtualLoop
from simulation.failures import ALONE, REPLICATED, SLOW
from simulation.jetstream import Cluster
from simulation.messages import EXPECTED_LAST
from simulation.replica import LEADER
from simulation.scenarios import EVERYWHERE, answers
from simulation.sides import STREAM, SUBJECT, ModelSide, RealSide, fences
from support.jetstream import wait_jetstream
from support.nats import NatsCluster, NatsProcess, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from simulation.jetstream import Link
    from simulation.scenarios import Scenario


def _number(version: str) -> tuple[int, int]:
    major, minor, _ = version.split(".")
    return int(major), int(minor)


_USERS = f"""\
no_auth_user: all
authorization {{ users: [
  {{ user: all, password: all }}
  {{ user: denied, password: denied,
     permissions: {{ publish: {{ deny: "{SUBJECT}" }} }} }}
] }}
"""
_HUB = 'leafnodes {{ host: "127.0.0.1", port: {port} }}\n'
_LEAF = """\
leafnodes {{ remotes: [{{ url: "nats-leaf://all:all@127.0.0.1:{port}" }}] }}
"""


@pytest.fixture(scope="module", params=VERSIONS)
def alone(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RealSide]:
    """One server of each version."""
    version = str(request.param)
    binary, port = nats_server(version), free_port()
    directory = tmp_path_factory.mktemp("alone")
    leaf = NatsProcess(
        directory / "leaf",
        "leaf",
        jetstream="domain: leaf",
        extra=_LEAF.format(port=port),
        binary=binary,
    )
    extra = _USERS + _HUB.format(port=port)
    with NatsProcess(directory, extra=extra, binary=binary) as server:
        wait_jetstream(server.port)
        side = RealSide([server], _number(version), replicas=1, leaf=leaf)
        yield side
        side.close()


@pytest.fixture(scope="module")
def clusters(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, RealSide]]:
    """Three servers of each version, which hold their first elections all at once."""
    with ExitStack() as stack:
        started = {
            version: stack.enter_context(
                NatsCluster(
                    tmp_path_factory.mktemp("three"), binary=nats_server(version)
                )
            )
            for version in VERSIONS
        }
        sides = {}
        for version, servers in started.items():
            for node in servers.nodes:
                wait_jetstream(node.port)
            side = RealSide(servers.nodes, _number(version), replicas=3)
            sides[version] = stack.enter_context(closing(side))
        yield sides


@pytest.fixture(params=VERSIONS)
def three(request: pytest.FixtureRequest, clusters: dict[str, RealSide]) -> RealSide:
    """Three servers of a version."""
    return clusters[request.param]


TRIES = 6
"""On a busy machine an election may fall into a script of three real servers."""


def compare(real: RealSide, scenario: Scenario) -> None:
    """Run a scenario on both sides."""
    expect(real, scenario, modelled(real, scenario))


def modelled(real: RealSide, scenario: Scenario) -> Any:
    """Run a scenario on the model of a side."""
    with closing(ModelSide(real.version, real.replicas)) as model:
        return answers(scenario(model))


def expect(real: RealSide, scenario: Scenario, wanted: Any) -> None:
    """Run a scenario on real servers."""
    for left in reversed(range(TRIES if real.replicas > 1 else 1)):
        real.fresh()
        try:
            seen = answers(scenario(real))
        except (AssertionError, LookupError, ValueError):  # no answer, or no leader
            if not left:
                raise
            continue
        if seen == wanted:
            return
        assert left, (wanted, seen)


@pytest.mark.parametrize(
    "scenario",
    [*EVERYWHERE, *ALONE, *atomic.EVERYWHERE, *atomic.ALONE],
    ids=lambda each: each.__name__,
)
def test_one_server_answers_the_same(alone: RealSide, scenario: Scenario) -> None:
    compare(alone, scenario)


@pytest.mark.parametrize(
    "scenario",
    [*EVERYWHERE, *REPLICATED, *atomic.EVERYWHERE, *atomic.REPLICATED],
    ids=lambda each: each.__name__,
)
def test_three_replicas_answer_the_same(three: RealSide, scenario: Scenario) -> None:
    compare(three, scenario)


@pytest.mark.parametrize("scenario", SLOW, ids=lambda each: each.__name__)
def test_three_replicas_fail_the_same(
    clusters: dict[str, RealSide], scenario: Scenario
) -> None:
    """All versions at once: what takes long is to wait for elections."""
    sides = clusters.values()
    wanted = [modelled(side, scenario) for side in sides]
    with ThreadPoolExecutor(len(clusters)) as pool:
        list(pool.map(expect, sides, repeat(scenario), wanted))


# -- The model by itself ---------------------------------------------------------------


@pytest.fixture
def model() -> Iterator[ModelSide]:
    """Three modelled servers with a stream."""
    side = ModelSide((2, 15), 3, seed=3)
    side.create()
    side.await_leader()
    yield side
    side.close()


def test_a_leader_without_a_majority_names_itself_for_up_to_twenty_seconds(
    model: ModelSide,
) -> None:
    leader = int(model.await_leader()[1:]) - 1
    model.connect(leader)
    for node in {0, 1, 2} - {leader}:
        model.kill(node)
    model.sleep(9)
    document = model.info()
    assert document["cluster"]["leader"] == f"n{leader + 1}"
    assert min(each["active"] for each in document["cluster"]["replicas"]) > 3e9
    model.sleep(12)
    assert "leader" not in model.info()["cluster"]
    refusal = model.api(f"STREAM.MSG.GET.{STREAM}", {"seq": 1})["error"]
    assert refusal["err_code"] == 10008


def test_a_followers_answer_names_a_leader_among_its_replicas(model: ModelSide) -> None:
    model.cluster.inject("follower_answers_info", Random(1))  # noqa: S311
    seen = []
    for _ in range(100):
        cluster = model.info().get("cluster") or {}
        names = [each["name"] for each in cluster.get("replicas") or []]
        seen.append(cluster.get("leader") in names)
        model.sleep(0.01)
    assert True in seen
    assert False in seen


def test_a_thawed_leader_answers_from_its_past(model: ModelSide) -> None:
    model.publish(key="k1", last=0)
    leader = int(model.await_leader()[1:]) - 1
    other = (leader + 1) % 3
    end = model.cluster.inject("old_leader_answers", Random(1))  # noqa: S311
    model.connect(other)
    model.await_leader()
    model.publish(key="k2", last=1)
    assert end is not None
    end()
    model.connect(leader)
    seen = []
    for _ in range(300):
        seen.append(model.info().get("state", {}).get("last_seq"))
        model.sleep(0.005)
    assert seen[0] == 1
    assert seen[-1] == 2


def test_a_frozen_server_hears_of_the_leader_that_was_started_meanwhile(
    model: ModelSide,
) -> None:
    leader = int(model.await_leader()[1:]) - 1
    servers = model.cluster.servers
    frozen, started = servers[(leader + 1) % 3], servers[leader]
    for seed in range(20):
        frozen.freeze()
        started.kill()
        started.start()
        model.sleep(20)
        frozen.thaw()
        model.sleep(5)
        leads = [server for server in servers if server.own[LEADER]]
        assert len(leads) == 1
        assert leads[0] is frozen or frozen.knows[leads[0]][LEADER], seed


def test_a_refusal_of_rights_comes_late_and_the_link_stays(model: ModelSide) -> None:
    model.cluster.inject("permission_late", Random(1))  # noqa: S311
    assert model.publish(key="k1", last=0) == (b"", b"")
    assert model.errors == [f"'permissions violation for publish to \"{SUBJECT}\"'"]
    assert not model.is_closed
    model.cluster.heal()
    assert b'"seq":1}' in model.publish(key="k1", last=0)[1]


@pytest.mark.parametrize("nodes", [1, 3])
def test_each_fault_ends(nodes: int) -> None:
    side = ModelSide((2, 11), nodes)
    side.create()
    for name in side.cluster.faults():
        side.cluster.inject(name, Random(1))  # noqa: S311
        side.sleep(1)
        side.cluster.heal()
        side.sleep(20)
        side.connect(0)
        side.await_leader()
        assert side.publish(last=side.cluster.last)[1].startswith(b'{"stream"'), name
    side.close()


class Storm:
    """A writer that fences, on a cluster with faults; all from one seed."""

    def __init__(self, seed: int, version: tuple[int, int], nodes: int) -> None:
        self.history: list[tuple[float, str, str]] = []
        self.acknowledged: list[tuple[int, int, str]] = []  # epoch, sequence, key
        self.loop = VirtualLoop()
        self.rng = Random(seed)  # noqa: S311 - it must repeat
        self.cluster = Cluster(
            self.loop, self.rng, self._record, version=version, nodes=nodes
        )
        self.cluster.provision(
            {"subjects": [f"{STREAM}.*"], "num_replicas": nodes, "allow_direct": True}
        )
        self._answers: dict[str, asyncio.Future[bytes]] = {}
        self._number = 0

    def _record(self, who: str, text: str, *arguments: object) -> None:
        self.history.append((self.loop.time(), who, text % arguments))

    def run(self, seconds: float = 90) -> None:
        """Write under faults, then without, until something is acknowledged."""
        try:
            self.loop.run_until_complete(self._run(seconds))
        finally:
            self.loop.close()

    async def _run(self, seconds: float) -> None:
        writing = self.loop.create_task(self._write())
        ends_at = self.loop.time() + seconds
        while self.loop.time() < ends_at:
            await asyncio.sleep(self.rng.uniform(0.0, 8.0))
            self.cluster.inject(self.rng.choice(self.cluster.faults()), self.rng)
        self.cluster.heal()
        count = len(self.acknowledged)
        async with asyncio.timeout(60):
            while len(self.acknowledged) < count + 3:  # noqa: ASYNC110 - virtual time
                await asyncio.sleep(0.1)
        writing.cancel()
        with suppress(asyncio.CancelledError):
            await writing
        async with asyncio.timeout(60):  # a server that was parted may ask for a vote
            while not self._is_agreed():  # noqa: ASYNC110 - virtual time
                await asyncio.sleep(0.5)

    def _is_agreed(self) -> bool:
        truth = self.cluster.truth()
        return all(
            node.replica is not None and node.replica.store.messages == truth
            for node in self.cluster.nodes
        )

    async def _write(self) -> None:
        link: Link | None = None
        while True:
            await asyncio.sleep(self.rng.uniform(0.0, 0.2))
            try:
                if link is None or link.is_closed:
                    node = self.rng.randrange(len(self.cluster.nodes))
                    link = self.cluster.connect(node, self._take, lambda _: None)
                    link.subscribe("_INBOX.storm.*")
                self._number += 1
                key, epoch = f"k{self._number}", self.cluster.epoch
                block = fences(key=key, stream=STREAM, last=self.cluster.last)
                async with asyncio.timeout(1):
                    answer = json.loads(await self._ask(link, SUBJECT, b"{}", block))
                if answer["stream"] == STREAM and "error" not in answer:
                    self.acknowledged.append((epoch, answer["seq"], key))
            except (OSError, ValueError):  # a time-out is an OSError, a 503 no JSON
                if link is not None:
                    link.close()
                    link = None

    async def _ask(self, link: Link, subject: str, body: bytes, block: bytes) -> bytes:
        token = str(self._number)
        self._answers[token] = self.loop.create_future()
        link.send(subject, f"_INBOX.storm.{token}", body, block)
        return await self._answers[token]

    def _take(self, subject: str, _: bytes, data: bytes) -> None:
        answer = self._answers.pop(subject.rpartition(".")[2], None)
        if answer is not None and not answer.done():
            answer.set_result(data)


@pytest.mark.parametrize("nodes", [1, 3])
@pytest.mark.parametrize("version", [(2, 11), (2, 15)])
def test_under_faults_what_was_acknowledged_stands(
    version: tuple[int, int], nodes: int
) -> None:
    for seed in range(12):
        storm = Storm(seed, version, nodes)
        storm.run()
        cluster = storm.cluster
        committed = {
            (each.message.sequence, each.message.key) for each in cluster.everything()
        }
        assert {(at, key) for _, at, key in storm.acknowledged} <= committed, seed
        held = {(each.sequence, each.key) for each in cluster.truth()}
        assert {
            (sequence, key)
            for epoch, sequence, key in storm.acknowledged
            if epoch == cluster.epoch and sequence >= cluster.first
        } <= held, seed
        for node in cluster.nodes:
            assert node.replica is not None
            assert node.replica.store.messages == cluster.truth(), seed
        for each in cluster.everything():
            fence = each.message.headers[EXPECTED_LAST]
            assert int(fence) + 1 == each.message.sequence, seed


def test_a_seed_repeats_exactly() -> None:
    first, again, other = (Storm(seed, (2, 15), 3) for seed in (7, 7, 8))
    for storm in (first, again, other):
        storm.run()
    assert first.history == again.history
    assert first.history != other.history
