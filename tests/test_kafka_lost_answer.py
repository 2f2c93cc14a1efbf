# SPDX-License-Identifier: Apache-2.0
"""The command of docs/choosing.md that loses answers, and its relay."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from benchmarks.lossy_relay import LossyRelay

ROOT = Path(__file__).resolve().parent.parent
COMMAND = "benchmarks.kafka_lost_answer"
PAGE = (ROOT / "docs" / "choosing.md").read_text("utf-8")


def test_an_event_whose_answer_is_lost_is_stored_once_here_and_twice_on_kafka() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", COMMAND],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": "tests"},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    _, kafka, *ours = ran.stdout.splitlines()
    assert ours == [
        "this bus (the sidecar's answer): 5 stored, 5 different, 0 repeated",
        "this bus (NATS' answer): 5 stored, 5 different, 0 repeated",
    ]
    assert f"    PYTHONPATH=tests .venv/bin/python -m {COMMAND}\n" in PAGE
    assert all(f"    {line}\n" in PAGE for line in ours)
    assert kafka.endswith(
        (
            "): 10 stored, 5 different, 5 repeated",
            ": no broker, or kafka-python is not installed.",
        )
    )


def test_a_client_of_socks_gets_all_but_the_answer_that_is_lost() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as broker,
        LossyRelay(lambda piece: piece == b"publish") as relay,
    ):
        for is_lost in (False, True):
            with socket.create_connection(("127.0.0.1", relay.port), 10) as client:
                client.sendall(b"\5\1\0")
                assert client.recv(2) == b"\5\0"
                port = broker.getsockname()[1].to_bytes(2)
                client.sendall(b"\5\1\0\1" + socket.inet_aton("127.0.0.1") + port)
                assert client.recv(10, socket.MSG_WAITALL)[:2] == b"\5\0"
                if is_lost:
                    relay.lose_next()
                client.sendall(b"publish")
                far, _ = broker.accept()
                with far:
                    assert far.recv(100) == b"publish"
                    far.sendall(b"stored")
                    assert client.recv(100) == (b"" if is_lost else b"stored")
        assert relay.lost == 1
