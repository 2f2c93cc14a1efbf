# SPDX-License-Identifier: Apache-2.0
"""deploy/nats: nats-server runs it and keeps what it promises."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from support.nats import free_port
from support.process import Process, wait_until
from support.sidecar import (
    COMMAND,
    SidecarProcess,
    environment,
    event,
    last_offset,
    post,
)
from system.secrets_made import NATS, ROLES, ROOT, Secrets, make_secrets

from sidecar.jetstream.embedded_server import find_nats_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CLUSTER_PORTS = (4222, 4223, 4224)
_PID = re.compile(r"\[(\d+)\]")


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Secrets:
    directory = tmp_path_factory.mktemp("secrets") / "made"
    return make_secrets(directory, "localhost", "127.0.0.1")


@contextmanager
def one_node(secrets: Secrets, config: Path, directory: Path) -> Iterator[int]:
    """Run nats-server with a configuration of one node, and give its port."""
    port = free_port()
    server = Process(
        [
            *(find_nats_server(), "--config", config),
            *("--addr", "127.0.0.1", "--port", str(port)),
        ],
        directory / "nats.log",
        secrets.server_environ(directory / "store"),
        cwd=secrets.directory,
    )
    server.start()
    try:
        wait_until(lambda: "Server is ready" in server.output(), what=server.output())
        yield port
    finally:
        server.stop()


def test_check_says_when_the_certificates_end(secrets: Secrets, tmp_path: Path) -> None:
    with one_node(secrets, NATS / "one-node.conf", tmp_path) as port:
        provision(secrets, port)
        checked = subprocess.run(
            [*COMMAND, "check"],
            env=environment(**secrets.login("both", port)),
            capture_output=True,
            text=True,
            check=True,
        )
    for what, years in (
        ("SIDECAR_NATS_TLS_CA_FILE", 10),
        ("The certificate of NATS", 2),
    ):
        end = re.search(rf"{what} ends on (\d+)-", checked.stdout)
        assert end is not None, checked.stdout
        year = datetime.now(UTC).year
        assert int(end[1]) - year in (years, years + 1)


def provision(secrets: Secrets, port: int, **settings: object) -> None:
    login = secrets.login("provision", port) | settings
    subprocess.run([*COMMAND, "provision"], env=environment(**login), check=True)


def test_a_missing_password_keeps_nats_server_from_starting(
    secrets: Secrets, tmp_path: Path
) -> None:
    environ = secrets.server_environ(tmp_path)
    del environ["HERMES_PRODUCER_PASSWORD"]
    answer = subprocess.run(
        [find_nats_server(), "-t", "--config", NATS / "one-node.conf"],
        env=environ,
        cwd=secrets.directory,
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode != 0
    assert "HERMES_PRODUCER_PASSWORD" in answer.stderr


def test_passwords_differ_and_are_never_replaced(secrets: Secrets) -> None:
    files = [f"passwords/{role}" for role in ROLES]
    passwords = {(secrets.directory / file).read_text() for file in files}
    assert len(passwords) == len(ROLES)
    environ = secrets.server_environ(secrets.directory)
    make_secrets(secrets.directory, "localhost")
    assert environ == secrets.server_environ(secrets.directory)
    assert passwords == {(secrets.directory / file).read_text() for file in files}


def test_events_go_from_producer_to_consumer_over_tls(
    secrets: Secrets, tmp_path: Path
) -> None:
    with one_node(secrets, NATS / "one-node.conf", tmp_path) as port:
        provision(secrets, port)
        producer = SidecarProcess(
            tmp_path / "producer", role="producer", **secrets.login("producer", port)
        )
        consumer = SidecarProcess(
            tmp_path / "consumer", role="consumer", **secrets.login("consumer", port)
        )
        with producer, consumer, producer.client() as out, consumer.client() as into:
            body = event(objattrs={"photo": "x" * 3_000_000})
            offset = post(out, body, last_offset(out)).json()["offset"]
            page = into.get("/v1/events", params={"offset": offset}).json()
            assert [row["data"].encode() for row in page["events"]] == [body]


def test_a_renewed_certificate_is_taken_up_and_no_sidecar_notices(
    tmp_path: Path,
) -> None:
    secrets = make_secrets(tmp_path / "secrets", "localhost", "127.0.0.1")
    with one_node(secrets, NATS / "one-node.conf", tmp_path) as port:
        provision(secrets, port)
        login = secrets.login("both", port)
        with SidecarProcess(tmp_path / "both", **login) as sidecar:
            before = _certificate(port, secrets)
            make_secrets(secrets.directory)
            found = _PID.search((tmp_path / "nats.log").read_text())
            assert found is not None
            reload = f"reload={found[1]}"  # as the unit does
            subprocess.run([find_nats_server(), "--signal", reload], check=True)
            wait_until(lambda: _certificate(port, secrets) != before, what="taken up")
            with sidecar.client() as http:
                assert post(http).status_code == 201
            metrics = sidecar.get("/metrics").text
            name = 'certificate_end_timestamp_seconds{setting="NATS_TLS_CA_FILE"}'
            assert name in metrics
        with SidecarProcess(tmp_path / "another", **login) as sidecar:
            assert sidecar.health("/health/ready") is not None


def _certificate(port: int, secrets: Secrets) -> bytes:
    """Give the certificate that NATS shows; a strict reader takes it."""
    trusting = ssl.create_default_context(
        cafile=str(secrets.directory / "tls" / "ca.crt")
    )
    trusting.verify_flags |= ssl.VERIFY_X509_STRICT
    with (
        socket.create_connection(("127.0.0.1", port), 5) as plain,
        trusting.wrap_socket(plain, server_hostname="127.0.0.1") as encrypted,
    ):
        return encrypted.getpeercert(binary_form=True) or b""


ONLY_IPV6 = """
ip link set lo up
ip -4 address flush dev lo
ip -6 address add fd00::5/128 dev lo nodad
cd "$DIR"
"$MAKE_SECRETS" --directory made fd00::5
set -a
. made/nats.env
NATS_HOST='"fd00::5"' # as in deploy/kubernetes
NATS_STORE_DIR=$PWD/store
(cd made && exec "$NATS_SERVER" --config "$CONFIG" --http_port 8222) &
SIDECAR_NATS_URL='tls://[fd00::5]:4222' SIDECAR_NATS_TLS_HANDSHAKE_FIRST=true
SIDECAR_NATS_TLS_CA_FILE=made/tls/ca.crt
SIDECAR_NATS_USER=hermes_provision SIDECAR_NATS_PASSWORD_FILE=made/passwords/provision
until "$PYTHON" -m sidecar provision; do sleep 0.5; done
SIDECAR_NATS_USER=hermes_both SIDECAR_NATS_PASSWORD_FILE=made/passwords/both
mkdir -m 0700 run
SIDECAR_UNIX_SOCKET=$PWD/run/api.sock SIDECAR_HTTP_HOST=fd00::5
"$PYTHON" -m sidecar serve &
until "$PYTHON" -c '
import httpx
for url in ("http://[fd00::5]:8480/health/ready", "http://[fd00::5]:8222/healthz"):
    httpx.get(url, trust_env=False).raise_for_status()
'; do sleep 0.5; done
"""


def test_a_machine_that_has_only_ipv6(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            "unshare",
            "--net",
            "--pid",
            "--fork",
            "--kill-child",
            "sh",
            "-euc",
            ONLY_IPV6,
        ],
        env=environment()
        | {
            "CONFIG": str(NATS / "one-node.conf"),
            "DIR": str(tmp_path),
            "MAKE_SECRETS": str(NATS / "make-secrets"),
            "NATS_SERVER": str(find_nats_server()),
            "PYTHON": COMMAND[0],
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]


def test_nats_speaks_only_after_the_tls_handshake(
    secrets: Secrets, tmp_path: Path
) -> None:
    with (
        one_node(secrets, NATS / "one-node.conf", tmp_path) as port,
        socket.create_connection(("127.0.0.1", port), 5) as plain,
    ):
        plain.settimeout(1)
        with pytest.raises(TimeoutError):
            plain.recv(1)


@pytest.mark.parametrize("encrypted", [False, True])
def test_the_commented_encryption_at_rest_works(
    encrypted: bool, secrets: Secrets, tmp_path: Path
) -> None:
    configs = tmp_path / "nats"
    shutil.copytree(NATS, configs)
    if encrypted:
        text = (configs / "server.conf").read_text()
        for option in ("cipher: aes", "key: $HERMES_JETSTREAM_KEY"):
            assert f"#{option}" in text
            text = text.replace(f"#{option}", option)
        text = text.replace("$HERMES_JETSTREAM_KEY", "kept-somewhere-else")
        (configs / "server.conf").write_text(text)
    with one_node(secrets, configs / "one-node.conf", tmp_path) as port:
        provision(secrets, port)
        sidecar = SidecarProcess(tmp_path / "both", **secrets.login("both", port))
        with sidecar, sidecar.client() as http:
            post(http, event(objpkey="marker-of-this-test")).raise_for_status()
    stored = b"".join(
        file.read_bytes() for file in (tmp_path / "store").rglob("*") if file.is_file()
    )
    assert (b"marker-of-this-test" in stored) is not encrypted


def test_make_cluster_gives_a_stream_that_outlives_a_node(tmp_path: Path) -> None:
    tmp_path /= "a place"
    tmp_path.mkdir()
    cluster = Process(
        ["make", "--no-print-directory", "-C", ROOT, "cluster", f"CLUSTER={tmp_path}"],
        tmp_path / "cluster.log",
        dict(os.environ) | {"CDPATH": str(ROOT)},
    )
    cluster.start()
    try:
        wait_until(lambda: "Ctrl-C ends them" in cluster.output(), 60)
        logs = [tmp_path / f"nats-{n}" / "nats-server.log" for n in range(3)]
        wait_until(
            lambda: any(
                log.exists() and "new metadata leader" in log.read_text()
                for log in logs
            ),
            60,
            cluster.output(),
        )
        secrets = Secrets(tmp_path / "secrets")
        url = ",".join(f"tls://127.0.0.1:{port}" for port in CLUSTER_PORTS)
        provision(secrets, 0, nats_url=url, stream_replicas=3)
        login = secrets.login("both", 0) | {"nats_url": url}
        with (
            SidecarProcess(tmp_path / "both", **login) as sidecar,
            sidecar.client() as http,
        ):
            last = last_offset(http)
            assert post(http, event(), last).json()["offset"] == last + 1
            found = _PID.match(logs[0].read_text())
            assert found is not None
            os.kill(int(found[1]), signal.SIGKILL)
            wait_until(lambda: post(http, event(), last + 1, "k").is_success, 60)
            assert last_offset(http) == last + 2
    finally:
        cluster.stop()
    wait_until(lambda: "Server Exiting" in logs[1].read_text(), what="nodes end")
