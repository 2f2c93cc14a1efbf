# SPDX-License-Identifier: Apache-2.0
"""Why a plugin reaches no sidecar: where it tried, and one text for each cause."""

from __future__ import annotations

import errno
import os
import socket
import ssl
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from support.hermes import load_plugin
from support.nats import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CA = trustme.CA()


def why(home: Path, url: str, **settings: str) -> str:
    """Ask twice; give the text, which is the same."""
    plugin = load_plugin(home, "messagebus_consumers", {"url": url} | settings)
    texts = {plugin._http.ask("/v1/stream", 1).reason for _ in range(2)}
    (text,) = texts
    return str(text)


def module_of(home: Path) -> Any:
    plugin = load_plugin(home, "messagebus_consumers", {"url": "unix:///s"})
    return __import__(type(plugin._http).__module__, fromlist=["_why"])


@contextmanager
def serving(issued: trustme.LeafCert | None) -> Iterator[int]:
    """Accept connections over TLS, or in clear and say nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        if issued is not None:
            issued.configure_cert(context)

        def accept() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection, suppress(OSError):
                        if issued is None:
                            connection.sendall(b"HTTP/1.1 400 Bad\r\n\r\n")
                        else:
                            context.wrap_socket(connection, server_side=True).close()

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_a_socket_that_is_not_there_or_that_nobody_serves(
    hermes_home: Path, tmp_path: Path
) -> None:
    path = tmp_path / "s"
    url = f"unix://{path}"
    assert why(hermes_home, url) == f"no sidecar at {url}: there is no such socket"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    assert why(hermes_home, url) == f"no sidecar at {url}: connection refused"


@pytest.mark.skipif(os.geteuid() == 0, reason="NOT TESTED: root may open any socket")
def test_a_socket_that_this_user_may_not_open(
    hermes_home: Path, tmp_path: Path
) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
        left.listen()
        path.chmod(0)
        url = f"unix://{path}"
        assert why(hermes_home, url) == f"no sidecar at {url}: permission denied"


def test_a_port_where_nobody_listens(hermes_home: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    assert why(hermes_home, f"{url}/") == f"no sidecar at {url}: connection refused"


def test_a_name_that_nobody_knows_and_a_port_that_cannot_be(hermes_home: Path) -> None:
    text = why(hermes_home, "http://no.invalid")
    assert text.endswith("//no.invalid: the name of the host cannot be resolved")
    assert why(hermes_home, "http://h:99999").endswith(": the plugin's url is wrong")


def test_certificates(hermes_home: Path, tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    CA.cert_pem.write_to_path(ca)
    with serving(CA.issue_cert("elsewhere.example.org")) as port:
        url = f"https://localhost:{port}"
        text = why(hermes_home, url, cafile=str(ca))
        assert text == f"no sidecar at {url}: its certificate is not for this name"
        assert why(hermes_home, url).endswith(": its certificate is not trusted")
        missing = why(hermes_home, url, cafile=str(tmp_path / "none"))
        assert missing.endswith(": the plugin's cafile cannot be read")
    with serving(None) as port:
        text = why(hermes_home, f"https://localhost:{port}", cafile=str(ca))
        assert text.endswith(": the TLS handshake failed")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (PermissionError(errno.EACCES, "c0rrect-horse"), "permission denied"),
        (OSError(errno.EHOSTUNREACH, "c0rrect-horse"), "there is no route to it"),
        (TimeoutError("c0rrect-horse"), "it did not answer in time"),
        (OSError("AF_UNIX path too long"), "it cannot be reached"),
        (ValueError("c0rrect-horse"), "the plugin's url is wrong"),
    ],
)
def test_nothing_of_what_the_system_says_comes_into_hermes_log(
    hermes_home: Path, error: Exception, text: str
) -> None:
    assert module_of(hermes_home)._why(error) == text
