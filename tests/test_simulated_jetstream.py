# SPDX-License-Identifier: Apache-2.0
"""The model of JetStream answers as real nats-servers do, and repeats itself."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from chaos.servers import VERSIONS, nats_server
from parts.jetstream import wait_jetstream
from parts.nats import NatsCluster, NatsProcess
from simulation import scenarios
from simulation.scenarios import ALONE, EVERYWHERE, REPLICATED, SLOW, answers
from simulation.sides import ModelSide, RealSide

if TYPE_CHECKING:
    from collections.abc import Iterator

    from simulation.scenarios import Scenario


def _number(version: str) -> tuple[int, int]:
    major, minor, _ = version.split(".")
    return int(major), int(minor)


@pytest.fixture(scope="module", params=VERSIONS)
def alone(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RealSide]:
    """One server of each version."""
    version = str(request.param)
    directory = tmp_path_factory.mktemp("alone")
    with NatsProcess(directory, binary=nats_server(version)) as server:
        wait_jetstream(server.port)
        side = RealSide([server], _number(version), replicas=1)
        yield side
        side.close()


@pytest.fixture(scope="module", params=(VERSIONS[0], VERSIONS[-1]))
def three(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RealSide]:
    """Three servers of the newest and of the oldest version."""
    version = str(request.param)
    directory = tmp_path_factory.mktemp("three")
    with NatsCluster(directory, binary=nats_server(version)) as servers, ExitStack():
        for node in servers.nodes:
            wait_jetstream(node.port)
        side = RealSide(servers.nodes, _number(version), replicas=3)
        yield side
        side.close()


def compare(real: RealSide, scenario: Scenario) -> None:
    """Run a scenario on both sides."""
    real.fresh()
    model = ModelSide(real.version, real.replicas)
    try:
        modelled = answers(scenario(model))
    finally:
        model.close()
    assert modelled == answers(scenario(real))


@pytest.mark.parametrize("scenario", (*EVERYWHERE, *ALONE), ids=lambda each: each.__name__)
def test_one_server_answers_the_same(alone: RealSide, scenario: Scenario) -> None:
    compare(alone, scenario)


@pytest.mark.parametrize(
    "scenario", (*EVERYWHERE, *REPLICATED), ids=lambda each: each.__name__
)
def test_three_replicas_answer_the_same(three: RealSide, scenario: Scenario) -> None:
    compare(three, scenario)
