# SPDX-License-Identifier: Apache-2.0
"""Credentials as editors and tools of other systems write them."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.jwt import RawNatsClient
from support.nats import NatsProcess

from sidecar import errors
from sidecar.errors import Problem
from sidecar.jetstream.connection import Connection
from sidecar.jetstream.credentials import NatsServer, read_login
from sidecar.model.stream import StreamPlan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PLAN = StreamPlan("hermes", "hermes", 1, 0)
OPERATOR = RawNatsClient()
BOM = b"\xef\xbb\xbf"

FORMS: dict[str, Callable[[bytes], bytes]] = {
    "as it is": lambda text: text,
    "CRLF": lambda text: text.replace(b"\n", b"\r\n"),
    "CR": lambda text: text.replace(b"\n", b"\r"),
    "BOM": lambda text: BOM + text,
    "BOM and CRLF": lambda text: BOM + text.replace(b"\n", b"\r\n"),
    "blank lines": lambda text: b"\n\n" + text.replace(b"\n", b"\n\n") + b"\n",
    "indented": lambda text: b"".join(b"    " + x for x in text.splitlines(True)),
    "tabs": lambda text: b"".join(b"\t" + x for x in text.splitlines(True)),
    "trailing spaces": lambda text: text.replace(b"\n", b"  \n"),
    "no last line end": lambda text: text.rstrip(b"\n"),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsProcess]:
    directory = tmp_path_factory.mktemp("jwt")
    with NatsProcess(directory, extra=OPERATOR.config) as nats:
        yield nats


@pytest.mark.parametrize("form", FORMS)
async def test_a_credentials_file_of_each_form_logs_in(
    form: str, server: NatsProcess, tmp_path: Path
) -> None:
    file = tmp_path / "user.creds"
    file.write_bytes(FORMS[form](OPERATOR.credentials(600).encode()))
    connection = Connection(PLAN, "test")
    try:
        await connection.open(NatsServer((server.url,), creds_file=file))
    finally:
        await connection.close()


@pytest.mark.parametrize(
    "raw", [b"s3cret\r\n", BOM + b"s3cret\n", b"\n  s3cret\t\n\n", b"s3cret"]
)
def test_a_secret_of_one_line_is_taken_without_what_stands_around_it(
    raw: bytes, tmp_path: Path
) -> None:
    file = tmp_path / "secret"
    file.write_bytes(raw)
    login = read_login(NatsServer((), user="u", password_file=file))
    assert login == {"user": "u", "password": "s3cret"}
    assert read_login(NatsServer((), token_file=file)) == {"token": "s3cret"}


@pytest.mark.parametrize(
    "raw",
    [b"", b"\r\n \t", b"one\ntwo", b"a\0b", b"\xff\xfes\0e\0c\0", b"\x80", b"a\x1bb"],
    ids=["empty", "blank", "two lines", "NUL", "UTF-16", "no text", "escape"],
)
@pytest.mark.parametrize("kind", ["password_file", "token_file", "nkey_seed_file"])
def test_what_is_no_secret_is_unreadable_and_its_file_named(
    raw: bytes, kind: str, tmp_path: Path
) -> None:
    file = tmp_path / "secret"
    file.write_bytes(raw)
    with pytest.raises(Problem) as caught:
        read_login(replace(NatsServer(()), **{kind: file}))  # type: ignore[arg-type]
    assert caught.value.cause is errors.CREDENTIALS_UNREADABLE
    assert caught.value.members == {"file": str(file)}


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_whatever_a_credentials_file_holds_it_is_taken_or_unreadable(
    data: st.DataObject,
) -> None:
    good = OPERATOR.credentials(600).encode()
    start = data.draw(st.integers(0, len(good)))
    stop = data.draw(st.integers(start, len(good)))
    raw = good[:start] + data.draw(st.binary(max_size=20)) + good[stop:]
    read, write = os.pipe()
    os.write(write, raw)
    os.close(write)
    causes = []
    try:
        read_login(NatsServer((), creds_file=Path(f"/dev/fd/{read}")))
    except Problem as problem:
        causes.append(problem.cause)
    finally:
        os.close(read)
    assert causes in ([], [errors.CREDENTIALS_UNREADABLE])
