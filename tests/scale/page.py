# SPDX-License-Identifier: Apache-2.0
"""Turns what runs found into docs/scale.md. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from .figures import BACKUP, CAMPUS, FIRST, MANY, RETENTION, checks, shares

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .figures import Check, Results

_OPENING: Final = """\
<!-- SPDX-License-Identifier: Apache-2.0 -->
<!-- Written by tests/scale from docs/scale.json: `make scale`. -->
# A campus in numbers

For those who order the machines and choose the retention.

A campus of users, groups, memberships and photos; names have accents, one user in five
has a photo of 3 to 12 KB. A real hermes-server sends it, or, above 100,000 objects, the
real producer plugin, driven directly. Each hermes-client is the real consumer plugin in
a process of its own: it scans, reads and follows as hermes-client does, but does
nothing with the events. All of this shares one machine, with the hermes-server and the
NATS nodes. NATS is on one node or three, with `sync_interval: always`.

"""
_QUICK: Final = """\
**These are the figures of a quick run: they show what is measured, and nothing else.**

"""


def page(
    results: Results, machine: dict[str, str], given: dict[tuple[str, str], float]
) -> str:
    """Write the page; `given` is what deploy/kubernetes gives, in MB."""
    is_quick = any(result["scale"] != "full" for result in results.values())
    parts = [
        _OPENING + (_QUICK if is_quick else "") + _runs(results, machine),
        _must(checks(results, given["nats.yaml", "nats"])),
        _deploy(results, given),
        *_campus(results),
        _first(results),
        *_many(results),
        _retention(results),
        _backup(results),
    ]
    return "\n".join(part for part in parts if part)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _runs(results: Results, machine: dict[str, str]) -> str:
    lines = "".join(f"- {name}: {value}\n" for name, value in machine.items())
    rows = [
        (
            f"[{name}](#{name})",
            f"`{result['command']}`",
            result["date"],
            f"{result['took_seconds'] / 60:.1f} min",
        )
        for name, result in results.items()
    ]
    return f"{lines}\n{_table(('part', 'command', 'date', 'took'), rows)}"


def _must(found: list[Check]) -> str:
    rows = [
        (
            check.name,
            "-" if check.found is None else f"{check.found:.2f}{check.unit}",
            f"at {'least' if check.is_least else 'most'} {check.limit:g}{check.unit}",
            {True: "yes", False: "**no**", None: "not measured"}[check.holds],
        )
        for check in found
    ]
    head = ("what", "found", "must be", "holds")
    return f"## What must hold\n\n{_table(head, rows)}"


def _deploy(results: Results, given: dict[tuple[str, str], float]) -> str:
    rows = []
    for share in shares(results, given):
        if (most := share.most) is None:
            continue
        part, measured = most
        row = (
            f"`{share.file}`: {share.what}",
            f"{share.given_mb:,.0f} MB",
            f"{measured:,.0f} MB",
            f"[{part}](#{part})",
            f"{share.given_mb / measured:.1f}",
        )
        rows.append(row)
    head = (
        "in deploy/kubernetes",
        "given",
        "measured at most",
        "in",
        "given / measured",
    )
    return f"## What deploy/ takes from this\n\n{_table(head, rows)}"


def _start(start: dict[str, Any]) -> str:
    seconds = start["scan_seconds"] + start["read_seconds"]
    return (
        f"{seconds:.1f} s: scans {start['scanned']:,.0f} events in "
        f"{start['scan_seconds']:.1f} s, reads {start['read']:,.0f} in "
        f"{start['read_seconds']:.1f} s"
    )


def _nodes(count: int) -> str:
    return "one node" if count == 1 else "three nodes"


def _campus(results: Results) -> Iterable[str]:
    for part in CAMPUS.values():
        if part not in results:
            continue
        found = results[part]["found"]
        first, night, idle = found["initsync"], found["night"], found["idle"]
        rows = [
            ("hermes-server reads its sources", f"{found['fetch_seconds']:.0f} s"),
            (
                f"first initsync, {first['events']:,} events, all clients scan",
                f"{first['seconds']:.0f} s, {first['rate']:,.0f} events/s",
            ),
            (
                "from its end until all clients have read it",
                f"{first['clients_seconds']:.0f} s",
            ),
            (
                f"a night of {night['events']:,} changes: hermes-server finds them",
                f"{night['prepare_seconds']:.1f} s",
            ),
            (
                "and sends them, all clients follow",
                f"{night['seconds']:.1f} s, {night['rate']:,.0f} events/s",
            ),
            (
                "from its end until all clients have them",
                f"{night['clients_seconds']:.1f} s",
            ),
            ("a new client starts", _start(found["one_start"])),
            ("each of those that waited for it", _start(found["all_start"])),
        ]
        requests = [
            (name, *_of_each(each["requests"]))
            for name, each in (
                ("nothing happens, no initsync stands", found["idle_before"]),
                ("first initsync", first),
                ("nothing happens", idle),
                ("night", night),
            )
        ]
        yield (
            f"## {part}\n\n{_nodes(found['nodes']).capitalize()}; "
            f"{found['objects']:,} objects: {found['users']:,} users, "
            f"{found['groups']:,} groups, {found['members']:,} memberships; "
            f"{found['clients']} clients on {found['sidecars']} sidecars.\n\n"
            f"![{part}](scale-{part}.svg)\n\n"
            f"{_table(('what', 'took'), rows)}\n"
            "Messages to NATS besides events, of a sidecar each second. That of "
            "hermes-server tells the others what it stored, which wakes readers:\n\n"
            f"{_table(('while', *first['requests']), requests)}\n"
            f"{_table(('nothing happens', '% of a core'), _of(idle['percent'], 1))}\n"
            f"{_table(('memory at most', 'MB'), _of(found['memory_mb'], 0))}\n"
            f"{_table(('on disk', 'MB'), _of(found['disk_mb'], 1))}\n"
            f"An event takes {found['bytes_an_event']:,.0f} bytes of the stream.\n\n"
            "Killed and started again at once; seconds until a change sent then:\n\n"
            f"{_recovery(found['recovery'])}"
        )


def _of(figures: dict[str, float], decimals: int) -> list[tuple[str, str]]:
    return [(name, f"{value:,.{decimals}f}") for name, value in figures.items()]


def _of_each(figures: dict[str, float]) -> list[str]:
    return [f"{value:,.1f}" for value in figures.values()]


def _recovery(found: dict[str, list[float]]) -> str:
    rows = [
        (name, f"{stored:.1f}", f"{read:.1f}") for name, (stored, read) in found.items()
    ]
    return _table(("part", "is stored", "is read by all clients"), rows)


def _first(results: Results) -> str:
    if FIRST not in results:
        return ""
    found = results[FIRST]["found"]
    rows = [
        (
            name,
            _rates(found[key]["first"]),
            _rates(found[key]["later"]),
            f"{found[key]['ratio']:.2f}",
            f"{found[key]['requests']:.1f}",
        )
        for name, key in (
            ("no client reads", "alone"),
            ("a client reads from each", "with clients"),
        )
    ]
    head = (
        *(f"{found['sidecars']} sidecars of clients", "first, events/s"),
        *("later, events/s", "first / later", "requests/s"),
    )
    alone, crowded = found["peak_mb"]
    return (
        f"## {FIRST}\n\nNo initsync stands yet in a stream; the stand-in sends one "
        f"of {found['objects']:,} objects, then another. Requests are those of a "
        f"sidecar of clients in the first.\n\n{_table(head, rows)}\n"
        f"nats-server's memory at most, in an initsync of {found['peak_objects']:,} "
        f"objects: {alone:.0f} MB; with {found['sidecars']} sidecars, on each of which "
        f"a new client then starts: {crowded:.0f} MB.\n"
    )


def _rates(rates: list[float]) -> str:
    return " ".join(f"{rate:,.0f}" for rate in rates)


def _many(results: Results) -> Iterable[str]:
    for part in MANY.values():
        if part not in results:
            continue
        found = results[part]["found"]
        yield (
            f"## {part}\n\n{_nodes(found['nodes']).capitalize()}; an initsync of "
            f"{found['objects']:,} objects, sent by the stand-in; {found['sidecars']} "
            f"sidecars of clients, {found['clients']} of which read meanwhile.\n\n"
            f"![{part}](scale-{part}.svg)\n\n"
            f"It took {found['seconds']:.0f} s, {found['rate']:,.0f} events/s. A new "
            f"client starts in {_start(found['one_start'])}. A sidecar that starts "
            f"sends NATS {found['fresh_requests']} requests. After nats-server "
            f"is killed and started again, the next change is stored in "
            f"{found['restart_seconds']:.1f} s.\n\n"
            f"{_table(('memory at most', 'MB'), _of(found['memory_mb'], 0))}\n"
            f"{_table(('on disk', 'MB'), _of(found['disk_mb'], 0))}\n"
            f"An event takes {found['bytes_an_event']:,.0f} bytes of the stream.\n"
        )


def _retention(results: Results) -> str:
    if RETENTION not in results:
        return ""
    found = results[RETENTION]["found"]
    disk_mb = found["disk_mb"]["nats-server"]
    return (
        f"## {RETENTION}\n\nWhat stands after {found['nights']} days with "
        f"{found['changes']:,} changes each and {found['initsyncs']} initsyncs of "
        f"{found['objects']:,} objects: the events were stored at once, so this is "
        "about size, and not about time.\n\n"
        f"{found['events']:,} events take {disk_mb:,.0f} MB on disk, "
        f"{found['bytes_an_event']:,.0f} bytes each of the stream. After nats-server "
        "is killed and started again, the next change is stored in "
        f"{found['restart_seconds']:.1f} s. A sidecar that starts sends NATS "
        f"{found['fresh_requests']} requests. A new client starts in "
        f"{_start(found['one_start'])}.\n\n"
        f"{_table(('memory at most', 'MB'), _of(found['memory_mb'], 0))}"
    )


def _backup(results: Results) -> str:
    if BACKUP not in results:
        return ""
    found = results[BACKUP]["found"]
    rows = [
        (
            "backup into a file",
            f"{found['backup_seconds']:.1f} s",
            f"{found['backup_mb']:,.0f} MB",
        ),
        (
            "restore on another server, without `sync_interval: always`",
            f"{found['restore_seconds']:.1f} s",
            "",
        ),
        (
            "restart with `sync_interval: always`",
            f"{found['restart_seconds']:.1f} s",
            "",
        ),
        (
            "then a sidecar starts and serves the first page",
            f"{found['first_page_seconds']:.1f} s",
            "",
        ),
        ("and all events", f"{found['read_seconds']:.1f} s", ""),
    ]
    return (
        f"## {BACKUP}\n\n{found['events']:,} events of {found['bytes_an_event']:,.0f} "
        "bytes, by the requests that `nats stream backup hermes DIR` and "
        "`nats stream restore DIR` send, on one node.\n\n"
        f"{_table(('what', 'took', 'size'), rows)}\n"
        f"nats-server's memory grew by {found['backup_more_mb']:,.0f} MB in the "
        f"backup, by {found['restore_more_mb']:,.0f} MB in the restore. On disk the "
        f"stream takes {found['disk_mb']['nats-server']:,.0f} MB.\n"
    )
