# SPDX-License-Identifier: Apache-2.0
"""The cache files that a hermes-server leaves behind, wherever it ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from simulation.actors import Killed
from simulation.disk import Death, Disk, DiskFullError
from simulation.history import Told
from simulation.source import SECRET

if TYPE_CHECKING:
    from support.hermes_bench import Bench

USER, OTHER, GROUP = ("Users", 1), ("Users", 3), ("Groups", "staff")
OLD: dict[Any, Any] = {USER: {"state": 0}, GROUP: {"state": 0}}
NEW: dict[Any, Any] = {USER: {"state": 1, SECRET: "s"}, GROUP: {"state": 1}}
ON_DISK: dict[Any, Any] = {USER: {"state": 1}, GROUP: {"state": 1}}


def test_a_save_writes_all_but_secrets() -> None:
    disk = Disk(dict(OLD))
    assert disk.lacks(NEW) == {USER, GROUP}
    disk.save(NEW)
    assert disk.objects == ON_DISK
    assert not disk.lacks(NEW)


@pytest.mark.parametrize(
    ("death", "left"),
    [
        (Death(0), OLD),
        (Death(1), OLD | {USER: ON_DISK[USER]}),
        (Death(2), ON_DISK),
        (Death(0, is_between_renames=True), {GROUP: OLD[GROUP]}),
        (Death(1, is_between_renames=True), {USER: ON_DISK[USER]}),
    ],
)
def test_a_kill_in_a_save_leaves_some_files_or_lacks_one(
    death: Death, left: Any
) -> None:
    disk = Disk(dict(OLD), death=death)
    if death.files < 2:
        with pytest.raises(Killed):
            disk.save(NEW)
    else:  # it waits for the next one
        disk.save(NEW)
        assert disk.death == Death(0)
    assert disk.objects == left


def test_a_full_disk_takes_what_has_not_changed_alone() -> None:
    disk = Disk(dict(OLD), is_full=True)
    disk.save(OLD)
    with pytest.raises(DiskFullError):
        disk.save(NEW)
    with pytest.raises(DiskFullError):
        disk.save_last_update(1.0)
    assert disk.objects == OLD


def begin_pass(bench: Bench) -> None:
    """Let a server run, with a user and a group to be sent at 30 s."""
    bench.actors.spawn("server", bench.server.run)
    bench.run_until(10.0)
    bench.source.objects |= {OTHER: {"state": 0}, GROUP: {"state": 0}}


def test_a_server_ends_with_a_full_disk_and_the_next_ones_know_what_it_sent(
    bench: Bench,
) -> None:
    begin_pass(bench)
    bench.server.disk.is_full = True
    for life in range(3):
        bench.run_until(40.0 + 40.0 * life)
        assert bench.actors.all[-1].is_done
        assert bench.actors.all[-1].failure is None
        bench.actors.spawn("server", bench.server.run)
    assert len(bench.supervisor.stored) == 2
    assert bench.history.forgotten == {OTHER, GROUP}
    assert [send.told for send in bench.history.sends] == [
        *[Told.STORED] * 2,
        *[Told.STANDING] * 4,
    ]
    assert all(send.is_forgotten for send in bench.history.sends)
    bench.server.disk.is_full = False
    bench.run_until(160.0)
    assert not bench.server.disk.lacks(bench.source.objects)


def test_a_server_that_is_killed_in_a_save_knows_some_types_the_next_time(
    bench: Bench,
) -> None:
    begin_pass(bench)
    bench.server.disk.death = Death(1)
    bench.run_until(40.0)
    assert bench.actors.all[-1].is_done
    assert bench.history.forgotten == {GROUP}
    assert bench.server.disk.objects[OTHER] == {"state": 0}
    bench.actors.spawn("server", bench.server.run)
    bench.run_until(80.0)
    assert [(send.object, send.told) for send in bench.history.sends] == [
        (OTHER, Told.STORED),
        (GROUP, Told.STORED),
        (GROUP, Told.STANDING),
    ]


def test_a_server_gets_an_older_cache_and_sends_what_it_lacks(bench: Bench) -> None:
    begin_pass(bench)
    older = bench.server.disk.copy()
    bench.run_until(40.0)
    bench.actors.kill(bench.actors.all[-1])
    bench.run_until(41.0)
    assert not bench.history.forgotten
    bench.server.restore(older)
    assert bench.history.forgotten == {OTHER, GROUP}
    bench.actors.spawn("server", bench.server.run)
    bench.run_until(80.0)
    assert len(bench.history.sends) == 4
