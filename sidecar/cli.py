# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: PLC0415 - each command imports only what it needs: probes run often
"""The command hermes-nats-sidecar.

It is longer than 400 lines: each command has its few lines here.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import sys
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast

from sidecar import __version__, errors
from sidecar.arguments import (
    ALWAYS,
    STATUSES,
    add_json,
    add_looks,
    add_move,
    add_object,
    add_tail,
    add_times,
    offset,
)
from sidecar.command_error import (
    NO_FIT_STREAM,
    NO_NATS,
    NOT_INSTALLED,
    NOT_READY,
    OK,
    CommandError,
    printable,
)
from sidecar.command_output import Output, OutputError, give_up
from sidecar.errors import Problem
from sidecar.model.wanted import Wanted
from sidecar.settings import load
from sidecar.unit_settings import use_unit

if TYPE_CHECKING:
    from sidecar.commands.examination import Examination
    from sidecar.settings import Settings

_EPILOG = """\
Settings are environment variables, SIDECAR_*; see docs/settings.md.
Exit status: 0 done, 1 not ready, 2 wrong settings or arguments, 3 cannot listen,
4 no NATS, login refused or permission missing, 5 stream missing or unusable,
6 embedded NATS cannot start, 7 plugins or demo failed, 8 unsupported version of a
library, 9 no such event, 10 the output cannot be written, 130 interrupted.
COMMAND --help says what each means there."""

_TRACE = """\
Show each event of one object, and which of the known clients have passed it: such a
client has read it and asks for a later one. Attributes are read here, but not shown."""

_MOVE_OVER = """\
Read how far each hermes-client has come on the bus that it leaves, and create the
stream so that each goes on there. hermes-server must be stopped. Nothing is created
while a client has not read everything."""

_DOCTOR = """\
Print versions, settings, and what check finds; then the checks of the running daemon
that do not pass. Nothing is stored. The page holds no secret and nothing of an event,
but names of hosts, files and users."""

_OVER_HTTP = """\
The token goes over http://. While the daemon is down, any local user can \
listen on its port, receive the token and the events, and answer them. If there are \
other users, use SIDECAR_UNIX_SOCKET or set SIDECAR_TLS_CERT_FILE."""


def main() -> None:
    """Run the command line and exit."""
    out = sys.stdout
    if out is None:  # closed by whoever started us: print() prints nothing
        sys.exit(_run())
    try:
        with redirect_stdout(cast("TextIO", Output(out))):
            status = _run()
    except BrokenPipeError:  # `tail | head`: nobody reads on
        status = give_up(out, OK)
    except OutputError as error:
        status = give_up(out, _complain(error.exit_status, error))
    sys.exit(status)


def _run() -> int:
    try:
        arguments = parser().parse_args()
        status: int = arguments.run(arguments)
    except OutputError:
        raise
    except SystemExit as ended:  # of argparse: --help, or wrong arguments
        status = int(ended.code or OK)
    except CommandError as complaint:
        status = _complain(complaint.exit_status, complaint)
    except Problem as problem:
        cause = problem.cause
        in_stream = cause in (errors.STREAM_MISSING, errors.STREAM_UNFIT)
        status = _complain(
            NO_FIT_STREAM if in_stream else NO_NATS,
            problem.sentences(),
        )
    if sys.stdout:
        sys.stdout.flush()
    return status


def _complain(status: int, what: object) -> int:
    lines = [printable(line) for line in str(what).split("\n")]
    with suppress(OSError):  # stderr may be full too; the status says it
        print("hermes-nats-sidecar:", "\n".join(lines), file=sys.stderr, flush=True)
    return status


def parser() -> argparse.ArgumentParser:
    """Describe the command line; the man page and the completion are made of it too."""
    top = argparse.ArgumentParser(
        prog="hermes-nats-sidecar",
        description="Gives Hermes a NATS JetStream message bus.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=__version__)
    commands = top.add_subparsers(required=True, metavar="command")

    def add(name: str, run: Any, summary: str) -> argparse.ArgumentParser:
        statuses = sorted((ALWAYS | STATUSES[name]).items())
        lines = [f"  {status:<3}  {meaning}" for status, meaning in statuses]
        command = commands.add_parser(
            name,
            help=summary,
            description=summary,
            epilog="\n".join(["exit status:", *lines]),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.set_defaults(run=run)
        return command

    add("serve", _serve, "run the daemon until SIGTERM").add_argument(
        "--embedded",
        action="store_true",
        help="start and supervise an embedded nats-server, as SIDECAR_EMBEDDED=true",
    )
    provision = add(
        "provision",
        _provision,
        "create the stream, or show how an existing one differs",
    )
    provision.add_argument(
        "--first-offset",
        type=offset,
        metavar="N",
        help="offset of the first event, for a move from another bus; by default the "
        "microseconds since 1970",
    )
    provision.add_argument(
        "--yes",
        action="store_true",
        help="do not ask where sidecars or clients know of an older stream",
    )
    move = add("move-over", _move_over, "move Hermes from another bus to this one")
    move.description = _MOVE_OVER
    add_move(move)
    add_looks(add("check", _check, "check settings, connection, permissions, stream"))
    doctor = add("doctor", _doctor, "print all that a bug report needs, on one page")
    doctor.description = _DOCTOR
    add_looks(doctor)
    doctor.add_argument(
        "--as",
        dest="user",
        metavar="USER",
        help="also try what a plugin of Hermes meets that runs as this user; as root",
    )
    doctor.add_argument(
        "--url", help="the plugin's url; by default where these settings listen"
    )
    doctor.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help="the plugin's token_file; by default SIDECAR_TOKEN_FILE, but for a socket",
    )
    add_tail(add("tail", _tail, "show stored events, without their attributes"))
    trace = add("trace", _trace, "show where the events of one object are")
    trace.description = _TRACE
    add_object(trace, required=True)
    add_times(trace.add_argument, trace.add_argument)
    add_json(trace)
    add(
        "clients",
        _clients,
        "show which hermes-clients read, and how far behind each is",
    ).add_argument("--json", action="store_true", help="print the API's document")
    add("healthcheck", _healthcheck, "check that the daemon is live")
    install = add("install-plugins", _install_plugins, "copy the plugins into Hermes")
    install.add_argument(
        "directory", type=Path, metavar="DIR", help="the plugins directory of Hermes"
    )
    install.add_argument(
        "--check",
        action="store_true",
        help="copy nothing; tell what differs from the plugins of this version",
    )
    add("demo", _demo, "send a small initsync through plugin, sidecar and NATS")
    return top


def _serve(arguments: argparse.Namespace) -> int:
    gc.disable()  # a collection while modules load finds nothing, and takes a tenth
    import uvloop

    from sidecar.http import private_names as uvicorns_names
    from sidecar.jetstream import private_names as nats_pys_names

    nats_pys_names.require()  # before an import of a name that is not there fails
    uvicorns_names.require()
    from sidecar.http.server import serve
    from sidecar.telemetry import log

    gc.freeze()  # what was loaded stays, and need not be looked through again
    gc.enable()

    settings = load(os.environ, **_flags(embedded=arguments.embedded))
    settings.require_listener()
    log.configure(settings.log_level, settings.log_format)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(settings))
    return OK


def _provision(arguments: argparse.Namespace) -> int:
    from sidecar.jetstream import private_names

    private_names.require()
    from sidecar.commands.provision import OlderStreamError, provision

    settings, first_offset = _load(), arguments.first_offset
    try:
        made = asyncio.run(
            provision(settings, first_offset, even_if_lost=arguments.yes)
        )
    except OlderStreamError as error:
        if not sys.stdin.isatty():
            raise
        print(error)
        if input("Create it nevertheless? [y/N] ").strip().lower() not in ("y", "yes"):
            return NO_FIT_STREAM
        made = asyncio.run(provision(settings, first_offset, even_if_lost=True))
    created, differences = made
    if created is not None:
        print(
            f"Created stream {settings.stream}; its first offset is {created}, and it "
            f"keeps events for {settings.stream_max_age_days} days."
        )
    elif not differences:
        print(f"Stream {settings.stream} exists and matches the settings.")
    for sentence in differences:
        print(printable(sentence))
    return NO_FIT_STREAM if differences else OK


def _move_over(arguments: argparse.Namespace) -> int:
    from sidecar.jetstream import private_names

    private_names.require()
    from sidecar.commands.move_over import Plan, move_over
    from sidecar.telemetry import log

    settings = _load(embedded=arguments.embedded)
    if settings.embedded:  # it logs what its server says
        log.configure("error", settings.log_format)
    plan = Plan(
        arguments.client_cache,
        arguments.from_sqlite,
        arguments.to_sqlite,
        arguments.dry_run,
        arguments.yes,
    )
    sentences = move_over(settings, plan)
    for sentence in sentences:
        print(printable(sentence))
    return NO_FIT_STREAM if sentences else OK


def _load(*, embedded: bool = False) -> Settings:
    """Load what a command by hand goes by."""
    use_unit(os.environ)
    return load(os.environ, **_flags(embedded=embedded))


def _flags(*, embedded: bool) -> dict[str, Any]:
    """Give what the command line sets; False leaves it to the environment."""
    return {"embedded": True} if embedded else {}


def _check(arguments: argparse.Namespace) -> int:
    from sidecar.commands.doctor import lines

    settings, examination = _examination(arguments)
    try:
        asyncio.run(examination.run())
    finally:
        for line in lines(examination):
            print(printable(line))
    if not examination.exit_status:
        print(f"Stream {settings.stream} is usable.")
    return examination.exit_status


def _doctor(arguments: argparse.Namespace) -> int:
    from sidecar.commands import doctor

    if arguments.user is None and (arguments.url or arguments.token_file):
        raise doctor.DoctorError("--url and --token-file need --as USER.")
    settings, examination = _examination(arguments)
    if arguments.user is not None:  # it forks, so it comes before any thread
        plugin = doctor.plugin_of(
            settings, arguments.user, arguments.url, arguments.token_file
        )
        reason = doctor.ask_as(plugin)
        whose = f"As {plugin.user} at {plugin.url}"
        if reason is None:
            examination.add("plugin", "ok", f"{whose}: the sidecar answers.")
        else:
            hint = doctor.whose_socket(plugin.url)
            text = f"{whose}: {reason}.{hint}"
            examination.add("plugin", "fault", text, NOT_READY)
    else:
        text = "Not tried as Hermes' user: add --as USER, as root."
        examination.add("plugin", "not known", text)
    doctor.examine(examination, settings)
    for line in doctor.page(examination, settings):
        print(printable(line))
    return examination.exit_status


def _examination(arguments: argparse.Namespace) -> tuple[Settings, Examination]:
    from sidecar.jetstream import private_names

    private_names.require()
    from sidecar.commands.examination import Examination

    settings = _load(embedded=arguments.embedded)
    examination = Examination(settings, arguments.nats_monitor)
    if settings.tcp_access == "token" and settings.tls_cert_file is None:
        examination.add("token", "note", _OVER_HTTP)
    return settings, examination


def _tail(arguments: argparse.Namespace) -> int:
    from sidecar.commands.tail import View, tail

    wanted = _wanted(arguments, arguments.category)
    looks_through = wanted.key is not None or wanted.until is not None
    view = View(
        start=arguments.start or ("first" if looks_through else "-10"),
        wanted=wanted,
        follow=arguments.follow,
        as_json=arguments.json,
        show_payload=arguments.show_payload,
    )
    tail(_load(), view)
    return OK


def _trace(arguments: argparse.Namespace) -> int:
    from sidecar.commands.trace import trace

    trace(_load(), _wanted(arguments), as_json=arguments.json)
    return OK


def _clients(arguments: argparse.Namespace) -> int:
    from sidecar.commands.clients import clients

    clients(_load(), as_json=arguments.json)
    return OK


def _wanted(arguments: argparse.Namespace, category: str | None = None) -> Wanted:
    return Wanted(
        category=category,
        object_type=arguments.object_type,
        key=arguments.key,
        since=arguments.since,
        until=arguments.until,
    )


def _healthcheck(_: argparse.Namespace) -> int:
    from sidecar.commands.http_client import ask, client

    settings = _load()
    with client(settings, is_probe=True) as http:
        ask(http, "/health/live")
    return OK


def _install_plugins(arguments: argparse.Namespace) -> int:
    from sidecar.commands import install

    plugins: Path = arguments.directory
    version = install.hermes_version(plugins)
    if version is None:
        print("No Hermes is there; this may be a volume for one.")
    else:
        tested = "" if version == install.TESTED else f", tested is {install.TESTED}"
        print(f"Hermes {version}{tested}")
    if arguments.check:
        differences = list(install.compare_plugins(plugins))
        for sentence in differences:
            print(sentence)
        print("The plugins are not those of this version." if differences else "Same.")
        return NOT_INSTALLED if differences else OK
    for target in install.install_plugins(plugins):
        print(f"Installed {target}")
    return OK


def _demo(_: argparse.Namespace) -> int:
    from sidecar.commands.demo import demo

    return demo()
