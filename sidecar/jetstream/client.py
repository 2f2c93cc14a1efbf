# SPDX-License-Identifier: Apache-2.0
"""nats-py's client with direct send and receive, and with TLS where it is demanded.

nats-py carries each message through a reader, a queue, tasks and a parsed dict of
headers, and each publish through a flusher task: half of the time that an event costs
the sidecar (docs/adr/0007). We have one subscription and no use for any of that. What
is used here of nats-py's insides stands in `private_names` too, which a start looks at.
"""

from __future__ import annotations

import asyncio
import re
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from nats.aio.client import DEFAULT_BUFFER_SIZE, Client
from nats.aio.transport import TcpTransport
from nats.errors import ConnectionClosedError, Error
from nats.protocol.command import hpub_cmd, pub_cmd
from nats.protocol.parser import AWAITING_CONTROL_LINE

from sidecar import errors
from sidecar.errors import Problem
from sidecar.jetstream import private_names
from sidecar.jetstream.dial import dial
from sidecar.telemetry.log import internal_error

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable
    from urllib.parse import ParseResult

    from nats.aio.client import Srv

    from sidecar.errors import Cause

    Take = Callable[[str, bytes, bytes], None]
    """What is done with a message: its subject, its header block or b"", its data."""

_VERSION_LINE = b"NATS/1.0"
_END = b"\r\n"
_NO_STATUS = _VERSION_LINE + _END
_MESSAGE = re.compile(
    rb"(?:MSG (\S+) \d+ (?:(\S+) )?|HMSG (\S+) \d+ (?:(\S+) )?(\d{1,9}) )"
    rb"(\d{1,9})\r\n"
)
"""Subject and where to reply to, without or with headers, the size of these, of all."""
_VALUE = rb":[ \t]*([^\r\n]*)"
_FIELD = re.compile(rb"\r\n([^:\r\n]+)" + _VALUE)
_LAST_WORDS = re.compile(rb"-ERR '?([^'\r\n]{1,200})")
_PERMISSION = "permissions violation"  # ends no connection
_LONGEST_LINE = 4096  # nats-py's own limit
_MOST_PAYLOAD = 64 * 1024 * 1024  # nats-server allows no more
_MOST_OF_INFO = 1024 * 1024


class NatsClient(Client):
    """A client that hands over what comes in and writes what goes out, at once."""

    def __init__(self, take: Take) -> None:
        super().__init__()
        self._take = take
        self._cut: list[bytes] = []  # the beginning of a message
        self._lacks_bytes = 0
        self._cut_subject = ""
        self.on_part: Callable[[str], None] = lambda _: None
        self.on_try: Callable[[str], None] = lambda _: None
        self.on_request: Callable[[str, str], None] = lambda _, __: None
        """Gets the subject of what somebody asks, and where to reply to."""
        self.needs_tls = False

    def read_directly(self, lose: Callable[[Cause | None], None]) -> None:
        """Take messages from the socket's data from now on; the rest is nats-py's.

        `lose` is called where that cannot go on, whatever the reason: a server may
        send anything. Raises TypeError where what it said of itself cannot be used.
        """
        if type(self.max_payload) is not int:
            raise TypeError
        self._lose = lose
        if self._reading_task is not None:  # it is connected
            self._reading_task.add_done_callback(self._end_reading)
        if private_names.slower():
            self._read_by_nats_py()
            return
        reader = self._transport._io_reader  # type: ignore[union-attr]  # noqa: SLF001
        self._feed_nats_py, reader.feed_data = reader.feed_data, self._feed
        self._unread: bytearray = reader._buffer  # noqa: SLF001

    def _read_by_nats_py(self) -> None:
        """Take messages where nats-py's loop reads: each waits a turn of it."""
        transport, rest = self._transport, bytearray()
        read = transport.read  # type: ignore[union-attr]

        async def read_rest(buffer_size: int) -> bytes:
            self._feed(await read(buffer_size))
            left = bytes(rest)
            rest.clear()
            return left

        transport.read = read_rest  # type: ignore[union-attr, method-assign]
        self._feed_nats_py, self._unread = rest.extend, bytearray()

    def _end_reading(self, _: asyncio.Task[None]) -> None:
        """Tell that nats-py reads no more, by itself or by what it met."""
        self._lose(None)

    @property
    def most_bytes(self) -> int:
        """How long a message may be: an event in base64, and what is told of it."""
        return 2 * min(self.max_payload, _MOST_PAYLOAD) + _MOST_OF_INFO

    def _feed(self, data: bytes) -> None:
        try:
            self._split(data)
        except Exception as error:  # noqa: BLE001 - a server may send anything
            internal_error(error)
            self.abort()
            self._lose(errors.INTERNAL)

    def _split(self, data: bytes) -> None:
        # Whoever sends is alive: on a slow link a PONG waits behind what it sends.
        self._pings_outstanding = 0
        if self._unread or self._ps.buf or self._ps.state != AWAITING_CONTROL_LINE:
            # nats-py has a part of what goes on here.
            if len(self._ps.buf) + len(data) > self.most_bytes:
                raise ValueError
            self._feed_nats_py(data)
            return
        if self._cut:
            self._cut.append(data)
            self._lacks_bytes -= len(data)
            if self._lacks_bytes > 0:
                self.on_part(self._cut_subject)
                return
            data = b"".join(self._cut)
            self._cut.clear()
        split = split_messages(data)
        for message in split.messages:
            self._take(*message)
        for request in split.requests:
            self.on_request(*request)
        if split.lacks_bytes:
            self._cut.append(data[split.end :])
            self._lacks_bytes = split.lacks_bytes
            if split.lacks_bytes > self.most_bytes:
                raise ValueError
            self._cut_subject = _subject_of(self._cut[0])
        elif split.end < len(data):
            self._feed_nats_py(data[split.end :])

    async def _process_info(
        self, info: dict[str, Any], initial_connection: bool = False
    ) -> None:
        """Hear that the server is about to leave, and the limit of our account or user.

        Never of other servers.
        """
        if initial_connection:
            return
        self.take_limit(info.get("max_payload"))
        if info.get("ldm") and self._lame_duck_mode_cb:
            await self._lame_duck_mode_cb()

    def take_limit(self, limit: object) -> None:
        """Take another max_payload."""
        if type(limit) is int and limit > 0:
            self._max_payload = limit

    async def _connect_to_server(self, s: Srv) -> None:
        s.last_attempt = time.monotonic()
        self.on_try(f"{s.uri.scheme}://{s.uri.netloc}")
        self._transport = transport = _Transport(self.needs_tls)
        await transport.connect(
            s.uri, DEFAULT_BUFFER_SIZE, self.options["connect_timeout"]
        )

    async def _process_connect_init(self) -> None:
        try:
            await super()._process_connect_init()
        except (OSError, Error):
            # It may have said why before it closed; nats-py then only sees the end.
            said = _LAST_WORDS.search(self._unread_bytes())
            if said is None:
                raise
            raise Error(f"nats: {said[1].decode('ascii', 'replace')}") from None

    def _unread_bytes(self) -> bytes:
        reader = getattr(self._transport, "_io_reader", None)
        return bytes(getattr(reader, "_buffer", b""))

    def _connect_command(self) -> bytes:
        # The login, whatever its kind. TLS is up by now if it ever will be: nats-py
        # itself goes on in clear with a server that does not ask for TLS. Should it not
        # come here any more, _SilentWriter holds; or this, should it make that no more.
        if self.needs_tls and not self.is_encrypted:
            raise Problem(errors.NATS_TLS)
        command: bytes = super()._connect_command()
        return command

    async def _process_msg(
        self, _sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes
    ) -> None:
        self._take(_text(subject), headers or b"", data)
        if reply:
            self.on_request(_text(subject), _text(reply))

    async def _process_err(self, err_msg: str) -> None:
        if _PERMISSION not in err_msg:
            # The server says why it ends the connection; nats-py tells nobody.
            await self._error_cb(Error(err_msg))
        await super()._process_err(err_msg)

    def send(
        self, subject: str, reply: str, payload: bytes, block: bytes = b""
    ) -> None:
        """Write one message; raise nats.errors.Error if the connection has ended."""
        if block:
            self._write_after_pending(hpub_cmd(subject, reply, block, payload))
        else:
            self._write_after_pending(pub_cmd(subject, reply, payload))

    def send_together(
        self, subject: str, reply: str, messages: list[tuple[bytes, bytes]]
    ) -> None:
        """Write messages at once, each a header block and a payload.

        The last one asks for a reply. Raises as send() does.
        """
        *others, (block, payload) = messages
        commands = [hpub_cmd(subject, "", each, data) for each, data in others]
        last = hpub_cmd(subject, reply, block, payload)
        self._write_after_pending(b"".join((*commands, last)))

    def _write_after_pending(self, data: bytes) -> None:
        if not self.is_connected or self._transport is None:
            raise ConnectionClosedError
        if self._pending:  # ours must not overtake our own SUB
            self._write(b"".join(self._pending))
            self._pending, self._pending_data_size = [], 0
        self._write(data)

    def _write(self, data: bytes) -> None:
        try:
            self._transport.write(data)  # type: ignore[union-attr]
        except RuntimeError:  # uvloop knows of the end before nats-py does
            raise ConnectionClosedError from None

    @property
    def is_encrypted(self) -> bool:
        """Tell whether the socket is TLS by now."""
        return self._tls() is not None

    @property
    def certificate(self) -> bytes | None:
        """What the server has shown, as DER; None without TLS."""
        tls = self._tls()
        return None if tls is None else tls.getpeercert(binary_form=True)

    def _tls(self) -> ssl.SSLObject | None:
        writer = getattr(self._transport, "_io_writer", None)
        return None if writer is None else writer.get_extra_info("ssl_object")

    def abort(self) -> None:
        """Cut the socket; close() alone would flush what is still buffered."""
        writer = getattr(self._transport, "_io_writer", None)
        if writer is not None:
            writer.transport.abort()

    def server(self, name: str) -> str:
        """Give a text of the server's INFO; empty if it did not say it."""
        return str(self._server_info.get(name, ""))


class _SilentWriter(asyncio.StreamWriter):
    """Writes nothing: before TLS is up it would go out in clear.

    nats-py makes another writer for what goes through TLS.
    """

    def write(self, data: Any) -> None:  # noqa: ARG002 - it goes nowhere
        raise Problem(errors.NATS_TLS)

    def writelines(self, data: Any) -> None:  # noqa: ARG002 - same
        raise Problem(errors.NATS_TLS)


class _Transport(TcpTransport):
    """A transport that tries each address of a name, and TLS alone if told so."""

    def __init__(self, needs_tls: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._writer = _SilentWriter if needs_tls else asyncio.StreamWriter

    async def connect(
        self, uri: ParseResult, buffer_size: int, connect_timeout: int
    ) -> None:
        connected = await dial(str(uri.hostname), int(uri.port or 0), connect_timeout)
        # As asyncio.open_connection does, but for the kind of writer.
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=buffer_size, loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        transport, _ = await loop.create_connection(lambda: protocol, sock=connected)
        writer = self._writer(transport, protocol, reader, loop)
        self._bare_io_reader = self._io_reader = reader
        self._bare_io_writer = self._io_writer = writer


def _subject_of(begun: bytes) -> str:
    """Name the subject of a message that has begun; empty while its line is cut."""
    line = _MESSAGE.match(begun)
    return _text(line[1] or line[3]) if line else ""


def _text(subject: bytes) -> str:
    """Read a subject. Ours are ASCII; another program's may be no UTF-8."""
    return subject.decode("latin-1")


class Split(NamedTuple):
    """Messages, where they end, and how much is missing of the one that begins there.

    A message is its subject, its header block or b"", its data. Of those that ask for a
    reply `requests` has the subject, and where to reply to.
    """

    messages: list[tuple[str, bytes, bytes]]
    end: int
    lacks_bytes: int
    requests: list[tuple[str, str]]


def split_messages(data: bytes) -> Split:
    """Split the messages off that a server's data begins with (NATS client protocol).

    lacks_bytes is 0 where no message begins after them; a line that is cut lacks 1.
    """
    messages: list[tuple[str, bytes, bytes]] = []
    requests: list[tuple[str, str]] = []
    end = 0
    while line := _MESSAGE.match(data, end):
        plain, plain_reply, subject, reply, block_size, size = line.groups()
        begin = line.end()
        stop = begin + int(size)
        lacks_bytes = stop + len(_END) - len(data)
        if lacks_bytes > 0:
            return Split(messages, end, lacks_bytes, requests)
        body = begin + int(block_size) if block_size else begin
        name = (plain or subject).decode("latin-1")  # as _text, which costs a call
        messages.append((name, data[begin:body], data[body:stop]))
        if answer_to := plain_reply or reply:
            requests.append((name, _text(answer_to)))
        end = stop + len(_END)
    is_cut = data[end : end + 1] in (b"M", b"H") and data.find(b"\n", end) < 0
    lacks_bytes = int(is_cut and len(data) - end < _LONGEST_LINE)
    return Split(messages, end, lacks_bytes, requests)


def header_block(headers: dict[bytes, bytes]) -> bytes:
    """Write headers as they go over the wire (NATS ADR-4)."""
    fields = [b"%s: %s\r\n" % field for field in headers.items()]
    return b"".join((_VERSION_LINE, _END, *fields, _END))


def only(*names: bytes) -> re.Pattern[bytes]:
    """Make header_fields pass over all other fields, which halves its time."""
    return re.compile(rb"\r\n(%s)%s" % (b"|".join(map(re.escape, names)), _VALUE))


def header_fields(
    block: bytes, field: re.Pattern[bytes] = _FIELD
) -> dict[bytes, bytes]:
    """Read the fields of a header block; the status line is not among them."""
    return dict(field.findall(block))


def status(block: bytes) -> str | None:
    """Give the status of a header block, as "503"; None if it has none."""
    if block.startswith(_NO_STATUS):
        return None
    line = block[len(_VERSION_LINE) : block.find(_END)].split()
    return line[0].decode("ascii", "replace") if line else None
