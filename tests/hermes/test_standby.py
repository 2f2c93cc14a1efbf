# SPDX-License-Identifier: Apache-2.0
"""hermes-server on one host, a standby on another, a client on a third.

What docs/high-availability.md says of a standby: what must be copied to it, what it
sends with an older cache or none, and what two at once do.
"""

from __future__ import annotations

import shutil
import signal
import uuid
from collections import Counter
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
from support import stream
from support.campus import USER_ATTRIBUTES, client_datamodel
from support.gate import WAIT_SECONDS, Gate
from support.hermes_programs import HermesClient, HermesServer
from support.process import wait_until
from support.sidecar import SidecarProcess, sidecar_on

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.campus import Campus
    from support.nats import NatsProcess

RENAMED, REMOVED = range(1000, 1030), range(1030, 1060)
BEFORE = range(1000, 1090)
ADDED = range(1100, 1130)
EARLIER = range(1060, 1065)
"""Removed in the pass before."""
STORED = 75
"""Of the pass that is killed: all 30 added, all 30 renamed, 15 of 30 removed."""
SAVED = 60
"""Hermes saves its cache after each kind of change."""
MANY = range(2000, 4000)
ANOTHER = "another producer wrote to the stream"
FURTHER = "further events of the pass"


class Hosts:
    """A and B, where hermes-server may run, and C, where a hermes-client runs."""

    def __init__(
        self, home: Path, python: Path, nats: NatsProcess, directory: Path
    ) -> None:
        name = f"hermes-{uuid.uuid4().hex[:8]}"
        self._home, self._python, self._directory = home, python, directory
        roles = {"a": "producer", "b": "producer", "c": "consumer"}
        self.sidecars = {
            host: sidecar_on(nats, directory / f"sidecar-{host}", name, role=role)
            for host, role in roles.items()
        }
        self.gate: Gate
        self.a: HermesServer
        self.b: HermesServer
        self.client: HermesClient

    def run(self, stack: ExitStack, campus: Path) -> None:
        """Start the sidecars, and hermes-server on A; the client has its initsync."""
        for each in self.sidecars.values():
            stack.enter_context(each)
        self.gate = stack.enter_context(
            Gate(self._directory / "gate", self.sidecars["a"])
        )
        self.a = self._server("a", campus, self.gate.url)
        self.b = self._server("b", campus, self.sidecars["b"].url)
        self.client = HermesClient(
            self._home,
            self._python,
            self._directory / "client",
            url=self.sidecars["c"].url,
        )
        self.client.configure(
            {"messagebus": {"nats_sidecar": {"settings": {"url": self["c"].url}}}},
            {
                "hermes-client": {
                    "updateInterval": 1,
                    "trashbin_retention": 30,
                    "datamodel": client_datamodel(USER_ATTRIBUTES),
                }
            },
        )
        for program in (self.a, self.b, self.client):
            stack.callback(program.stop)
        self.a.start()
        self.a.wait_fetched()
        self.a.ask("initsync")
        self.client.start()
        wait_until(lambda: self.names()[-1:] == ["init-stop"], 30, "an initsync")
        self.client.wait_at(self.last + 1)

    def _server(self, host: str, campus: Path, url: str) -> HermesServer:
        directory = self._directory / f"server-{host}"
        return HermesServer(self._home, self._python, directory, campus, url=url)

    def __getitem__(self, host: str) -> SidecarProcess:
        return self.sidecars[host]

    @property
    def last(self) -> int:
        return int(stream.position(self["c"])["last_offset"])

    def names(self) -> list[str]:
        """Give what is stored; the offsets have no gap."""
        rows = stream.rows(self["c"])
        offsets = [row["offset"] for row in rows]
        assert offsets == list(range(offsets[0], offsets[0] + len(rows))) if rows else 1
        return stream.names(self["c"])

    def base(self) -> Counter[str]:
        """Count the events behind the initsync."""
        names = self.names()
        return Counter(names[names.index("init-stop") + 1 :])

    def copy_cache(self, to: Path) -> None:
        """Copy the cache of A as a whole, in place of what is there."""
        shutil.rmtree(to, ignore_errors=True)
        shutil.copytree(self.a.directory / "cache", to)

    def check(self, host: str, name: str) -> tuple[int, str, str]:
        """Give the status of /health, and status and reason of a check."""
        answer = self[host].health()
        assert answer is not None
        (found,) = [each for each in answer.json()["checks"] if each["name"] == name]
        return answer.status_code, found["status"], found["reason"] or ""


@pytest.fixture
def hosts(
    hermes_home: Path,
    hermes_python: Path,
    nats: NatsProcess,
    campus: Campus,
    tmp_path: Path,
) -> Iterator[Hosts]:
    campus.insert_users(BEFORE)
    hosts = Hosts(hermes_home, hermes_python, nats, tmp_path)
    with ExitStack() as stack:
        hosts.run(stack, campus.path)
        yield hosts


def change_and_die(hosts: Hosts, campus: Campus) -> None:
    """Change the source at once; A dies when it has sent most of that."""
    hosts.a.ask("pause")
    campus.insert_users(ADDED)
    campus.rename_users(RENAMED, "Renamed")
    for number in REMOVED:
        campus.delete_user(number)
    hosts.gate.kill_at(hosts.a, "/v1/events", STORED, "unanswered")
    hosts.a.ask("resume")
    assert hosts.a.running.wait(WAIT_SECONDS) == -signal.SIGKILL
    assert hosts.base().total() >= STORED


EACH_ONCE = Counter(
    [
        *(f"added Users {number}" for number in ADDED),
        *(f"modified Users {number}" for number in RENAMED),
        *(f"removed Users {number}" for number in REMOVED),
    ]
)


def assert_source(hosts: Hosts) -> None:
    """Compare what the client has with the source after change_and_die."""
    hosts.client.wait_at(hosts.last + 1)
    users = hosts.client.users()
    wanted = {1, 2, 3, *BEFORE, *ADDED} - {*REMOVED}
    assert users.keys() | set(EARLIER) == wanted
    renamed = {key for key, user in users.items() if user["last_name"] == "Renamed"}
    assert renamed == set(RENAMED)


def calls(hosts: Hosts, kind: str) -> Counter[int]:
    """Count for each user how often a handler of the client was called."""
    numbers = (1, 2, 3, *BEFORE, *ADDED)
    found = {n: hosts.client.calls(f"Users_{kind}", n) for n in numbers}
    return Counter({number: count for number, count in found.items() if count})


@pytest.mark.parametrize(
    ("copied", "recognised"),
    [("after the kill", STORED - SAVED), ("before the pass", STORED)],
)
def test_a_standby_with_the_cache_goes_on_and_repeats_nothing(
    hosts: Hosts, campus: Campus, copied: str, recognised: int
) -> None:
    """The newest copy, as on a shared disk, or one from before the last pass."""
    cache = hosts.b.directory / "cache"
    if copied == "before the pass":
        hosts.copy_cache(cache)
    change_and_die(hosts, campus)
    campus.rename_user(1, "While nobody ran")
    if copied == "after the kill":
        hosts.copy_cache(cache)

    hosts.b.start()

    hosts.b.wait_logged(f"recognised {recognised} events that a killed")
    expected = EACH_ONCE | Counter(["modified Users 1"])
    assert hosts.base() == expected
    assert_source(hosts)
    before = Counter([1, 2, 3, *BEFORE])
    assert calls(hosts, "added") == before + Counter(ADDED)
    assert calls(hosts, "modified") == Counter([1, *RENAMED])
    assert calls(hosts, "trashed") == Counter(REMOVED)
    assert calls(hosts, "removed") == Counter()
    further = f"{STORED - recognised} {FURTHER}"  # saved by A, told by B all the same
    assert (further in hosts.b.output()) == (copied == "after the kill")
    assert hosts.check("b", "writers") == (200, "pass", "")


def test_a_standby_with_an_older_cache_sends_the_passes_between_again(
    hosts: Hosts, campus: Campus
) -> None:
    """What was removed in one of them leaves the client's trashbin for good."""
    hosts.copy_cache(hosts.b.directory / "cache")
    hosts.a.ask("pause")
    for number in EARLIER:
        campus.delete_user(number)
    hosts.a.ask("resume")
    removed = Counter(f"removed Users {number}" for number in EARLIER)
    wait_until(lambda: hosts.base() == removed, 30, "a pass before the last one")
    change_and_die(hosts, campus)

    hosts.b.start()

    hosts.b.wait_logged(f"recognised {STORED} events that a killed")
    assert hosts.base() == EACH_ONCE + removed + removed
    assert_source(hosts)
    assert calls(hosts, "trashed") == Counter([*REMOVED, *EARLIER])
    assert calls(hosts, "removed") == Counter(EARLIER)


def test_a_standby_without_a_cache_never_sends_what_changed_before_its_first_fetch(
    hosts: Hosts, campus: Campus
) -> None:
    change_and_die(hosts, campus)
    stored = hosts.base()
    campus.rename_user(1, "While nobody ran")

    hosts.b.start()

    hosts.b.wait_fetched()
    campus.rename_user(2, "Afterwards")
    afterwards = Counter(["modified Users 2"])
    wait_until(lambda: hosts.base() == stored + afterwards, 30, "only what came later")
    hosts.client.wait_at(hosts.last + 1)
    users: dict[int, dict[str, Any]] = hosts.client.users()
    assert users[1]["last_name"] != "While nobody ran"
    assert set(REMOVED) & users.keys()


def test_of_two_at_once_one_is_stopped_nothing_is_lost_and_health_says_so(
    hosts: Hosts, campus: Campus
) -> None:
    hosts.copy_cache(hosts.b.directory / "cache")
    copied = hosts.b.cached("_hermes-server")["lastUpdate"]
    hosts.b.start()
    wait_until(
        lambda: hosts.b.cached("_hermes-server")["lastUpdate"] != copied,
        30,
        "B has fetched",
    )
    campus.insert_users(MANY)
    servers = {"a": hosts.a, "b": hosts.b}

    def stopped() -> list[str]:
        return [host for host, each in servers.items() if ANOTHER in each.output()]

    wait_until(stopped, 60, "one of them meets the other")
    (loser,) = stopped()
    assert servers[loser].terminate() == 0  # as an operator does; else it sends again

    names = {f"added Users {number}" for number in MANY}
    wait_until(lambda: hosts.base().keys() == names, 60, "all is stored")
    assert max(hosts.base().values()) <= 2
    hosts.client.wait_at(hosts.last + 1, 60)
    assert hosts.client.users().keys() == {1, 2, 3, *BEFORE, *MANY}
    (other,) = servers.keys() - {loser}
    said = "Another producer wrote to this stream in the last ten minutes."
    assert hosts.check(loser, "writers") == (200, "warn", said)
    assert hosts.check(other, "writers") == (200, "pass", "")
    counted = hosts[loser].get("/metrics").text
    assert "hermes_sidecar_preconditions_failed_total 1.0" in counted
