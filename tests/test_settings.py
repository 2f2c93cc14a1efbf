# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sidecar.settings import (
    PREFIX,
    Settings,
    SettingsError,
    default_embedded_dir,
    load,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    Load = Callable[..., Settings]

SECRET = "c0rrect-horse"


@pytest.fixture
def load_with(monkeypatch: pytest.MonkeyPatch) -> Load:
    """Load settings from an environment with just these variables of ours."""

    def load_them(**variables: str) -> Settings:
        for name in list(os.environ):
            if name.upper().startswith(PREFIX):
                monkeypatch.delenv(name)
        for name, value in variables.items():
            monkeypatch.setenv(PREFIX + name, value)
        return load(os.environ)

    return load_them


def mistakes(load_with: Load, **variables: str) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load_with(**variables)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return str(caught.value).splitlines()


def test_every_setting_of_the_design_exists_with_its_default(load_with: Load) -> None:
    settings = load_with()
    assert settings.nats_url == ("nats://127.0.0.1:4222",)
    assert (settings.stream, settings.subject_prefix) == ("hermes", "hermes")
    assert (settings.stream_create, settings.embedded) == (False, False)
    assert (settings.stream_replicas, settings.stream_max_age_days) == (1, 90)
    assert (settings.http_host, settings.http_port) == (("127.0.0.1",), 8480)
    assert (settings.unix_socket, settings.tcp_access) == (None, "off")
    assert (settings.role, settings.max_event_bytes) == ("both", 0)
    assert settings.publish_timeout_seconds == 10
    assert (settings.log_level, settings.log_format) == ("info", None)
    assert settings.nats_server.tls is None


def test_each_setting_says_what_it_is() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"NATS_URL": ","}, ("SIDECAR_NATS_URL", "must name a server")),
        ({"NATS_URL": "http://h:1"}, ("SIDECAR_NATS_URL", "nats://host:4222")),
        ({"NATS_URL": "nats://"}, ("SIDECAR_NATS_URL", "nats://host:4222")),
        ({"NATS_URL": "nats://h:notaport"}, ("SIDECAR_NATS_URL",)),
        ({"NATS_URL": "nats://h:99999"}, ("SIDECAR_NATS_URL",)),
        ({"NATS_URL": f"nats://u:{SECRET}@h:1"}, ("SIDECAR_NATS_PASSWORD_FILE",)),
        ({"NATS_URL": f"nats://{SECRET}@h:1"}, ("SIDECAR_NATS_TOKEN_FILE",)),
        ({"NATS_URL": f"nats://h:1,nats://{SECRET}@h:2"}, ("SIDECAR_NATS_URL",)),
        (
            {"NATS_USER": "u"},
            ("SIDECAR_NATS_USER and SIDECAR_NATS_PASSWORD_FILE belong together",),
        ),
        (
            {"NATS_PASSWORD_FILE": "/p"},
            ("SIDECAR_NATS_USER and SIDECAR_NATS_PASSWORD_FILE",),
        ),
        (
            {"NATS_TOKEN_FILE": "/t", "NATS_CREDS_FILE": "/c"},
            ("SIDECAR_NATS_CREDS_FILE and SIDECAR_NATS_TOKEN_FILE: choose one login",),
        ),
        (
            {"NATS_NKEY_SEED_FILE": "/t", "NATS_CREDS_FILE": "/c"},
            ("choose one login",),
        ),
        (
            {"NATS_TLS_CERT_FILE": "/c"},
            ("NATS_TLS_CERT_FILE and SIDECAR_NATS_TLS_KEY_FILE",),
        ),
        (
            {"NATS_TLS_KEY_FILE": "/c"},
            ("NATS_TLS_CERT_FILE and SIDECAR_NATS_TLS_KEY_FILE",),
        ),
        ({"TLS_CERT_FILE": "/c"}, ("SIDECAR_TLS_CERT_FILE and SIDECAR_TLS_KEY_FILE",)),
        ({"TLS_KEY_FILE": "/c"}, ("SIDECAR_TLS_CERT_FILE and SIDECAR_TLS_KEY_FILE",)),
        ({"TCP_API": "token"}, ("SIDECAR_TCP_API=token needs SIDECAR_TOKEN_FILE",)),
        ({"TCP_API": SECRET}, ("SIDECAR_TCP_API", "'off', 'token' or 'open'")),
        (
            {"EMBEDDED": "true", "NATS_URL": "nats://h:1"},
            ("remove SIDECAR_NATS_URL",),
        ),
        ({"EMBEDDED": SECRET}, ("SIDECAR_EMBEDDED",)),
        ({"STREAM": "a.b"}, ("SIDECAR_STREAM",)),
        ({"STREAM": "a" * 33}, ("SIDECAR_STREAM",)),
        ({"SUBJECT_PREFIX": "a.>"}, ("SIDECAR_SUBJECT_PREFIX",)),
        ({"SUBJECT_PREFIX": "$JS"}, ("SIDECAR_SUBJECT_PREFIX",)),
        ({"STREAM_REPLICAS": "0"}, ("SIDECAR_STREAM_REPLICAS",)),
        ({"STREAM_REPLICAS": "6"}, ("SIDECAR_STREAM_REPLICAS",)),
        ({"STREAM_MAX_AGE_DAYS": "-1"}, ("SIDECAR_STREAM_MAX_AGE_DAYS",)),
        ({"STREAM_MAX_AGE_DAYS": "106752"}, ("SIDECAR_STREAM_MAX_AGE_DAYS",)),
        ({"MAX_EVENT_BYTES": "67108865"}, ("SIDECAR_MAX_EVENT_BYTES",)),
        ({"HTTP_PORT": "65536"}, ("SIDECAR_HTTP_PORT",)),
        ({"HTTP_PORT": SECRET}, ("SIDECAR_HTTP_PORT",)),
        ({"HTTP_NAMES": "bus,http://bus"}, ("SIDECAR_HTTP_NAMES", "host names only")),
        ({"HTTP_NAMES": "bus:8480"}, ("SIDECAR_HTTP_NAMES",)),
        ({"HTTP_NAMES": "*.bus"}, ("SIDECAR_HTTP_NAMES",)),
        ({"HTTP_NAMES": '"a" b'}, ("SIDECAR_HTTP_NAMES",)),
        ({"DOCS_URL": "javascript:alert(1)"}, ("SIDECAR_DOCS_URL", "https://host")),
        ({"DOCS_URL": f"https://me:{SECRET}@a/"}, ("SIDECAR_DOCS_URL",)),
        ({"DOCS_URL": "https://a/docs#x"}, ("SIDECAR_DOCS_URL",)),
        ({"ROLE": SECRET}, ("SIDECAR_ROLE", "'producer'")),
        ({"MAX_EVENT_BYTES": "-1"}, ("SIDECAR_MAX_EVENT_BYTES",)),
        ({"PUBLISH_TIMEOUT_SECONDS": "0"}, ("SIDECAR_PUBLISH_TIMEOUT_SECONDS",)),
        ({"PUBLISH_TIMEOUT_SECONDS": "nan"}, ("SIDECAR_PUBLISH_TIMEOUT_SECONDS",)),
        ({"LOG_LEVEL": SECRET}, ("SIDECAR_LOG_LEVEL",)),
        ({"LOG_FORMAT": "xml"}, ("SIDECAR_LOG_FORMAT",)),
    ],
)
def test_a_mistake_is_one_sentence_without_its_value(
    load_with: Load, variables: dict[str, str], words: tuple[str, ...]
) -> None:
    sentences = mistakes(load_with, **variables)
    assert len(sentences) == 1
    assert sentences[0].endswith(".")
    for word in words:
        assert word in sentences[0]
    assert SECRET not in sentences[0]


def test_each_of_several_mistakes_has_its_sentence(load_with: Load) -> None:
    sentences = mistakes(load_with, HTTP_PORT="x", ROLE="y", STREAM="a b")
    assert [line.partition(":")[0] for line in sentences] == [
        "SIDECAR_STREAM",
        "SIDECAR_HTTP_PORT",
        "SIDECAR_ROLE",
    ]


@pytest.mark.parametrize(
    ("unknown", "nearest"),
    [
        ("NATS_URLS", "SIDECAR_NATS_URL"),
        ("NATS_PASSWORD", "SIDECAR_NATS_PASSWORD_FILE"),
        ("TOKEN", "SIDECAR_TOKEN_FILE"),
        ("LOGLEVEL", "SIDECAR_LOG_LEVEL"),
        ("UNIX_SOKET", "SIDECAR_UNIX_SOCKET"),
        ("PORTS", "SIDECAR_HTTP_PORT"),
    ],
)
def test_an_unknown_variable_names_the_nearest_known_one(
    load_with: Load, unknown: str, nearest: str
) -> None:
    sentences = mistakes(load_with, **{unknown: SECRET})
    assert sentences == [f"SIDECAR_{unknown} is not a setting; did you mean {nearest}?"]


@pytest.mark.parametrize(
    "link",
    [
        {"SERVICE_HOST": "10.0.0.1"},
        {"SERVICE_PORT": "8480"},
        {"SERVICE_PORT_HTTP": "8480"},
        {"PORT": "tcp://10.0.0.1:8480"},
        {"PORT_8480_TCP": "tcp://10.0.0.1:8480"},
        {"PORT_8480_TCP_PROTO": "tcp"},
        {"PORT_8480_TCP_PORT": "8480"},
        {"PORT_8480_TCP_ADDR": "10.0.0.1"},
        {"METRICS_SERVICE_HOST": "10.0.0.1"},
        {"METRICS_PORT_9090_TCP": "tcp://10.0.0.1:9090"},
    ],
)
def test_service_links_of_kubernetes_are_ignored(
    load_with: Load, link: dict[str, str]
) -> None:
    assert load_with(**link) == load_with()


def test_a_misspelt_port_is_no_service_link(load_with: Load) -> None:
    sentences = mistakes(load_with, HTPP_PORT="8481")
    assert sentences == [
        "SIDECAR_HTPP_PORT is not a setting; did you mean SIDECAR_HTTP_PORT?"
    ]


def test_an_empty_variable_counts_as_not_set(load_with: Load) -> None:
    assert load_with(NATS_USER="", HTTP_PORT="", UNIX_SOCKET="") == load_with()


@pytest.mark.parametrize(
    ("text", "urls"),
    [
        ("nats://a:1", ("nats://a:1",)),
        ("nats://a:1, tls://b:2 ,c:3,", ("nats://a:1", "tls://b:2", "c:3")),
        ("nats://[::1]:4222", ("nats://[::1]:4222",)),
    ],
)
def test_several_servers_are_comma_separated(
    load_with: Load, text: str, urls: tuple[str, ...]
) -> None:
    assert load_with(NATS_URL=text).nats_url == urls


@pytest.mark.parametrize(
    ("variables", "access"),
    [
        ({}, "off"),
        ({"TOKEN_FILE": "/t"}, "token"),
        ({"TOKEN_FILE": "/t", "TCP_API": "off"}, "off"),
        ({"TOKEN_FILE": "/t", "TCP_API": "open"}, "open"),
        ({"TCP_API": "open"}, "open"),
    ],
)
def test_the_api_over_tcp_is_off_unless_a_token_or_open_is_chosen(
    load_with: Load, variables: dict[str, str], access: str
) -> None:
    assert load_with(**variables).tcp_access == access


@pytest.mark.parametrize(
    "variables",
    [
        {"NATS_URL": "tls://h:4222"},
        {"NATS_TLS_CA_FILE": "/ca"},
        {"NATS_TLS_CERT_FILE": "/c", "NATS_TLS_KEY_FILE": "/k"},
        {"NATS_TLS_HANDSHAKE_FIRST": "true"},
    ],
)
def test_each_sign_of_tls_turns_it_on(
    load_with: Load, variables: dict[str, str]
) -> None:
    assert load_with(**variables).nats_server.tls is not None


@pytest.mark.parametrize(
    "variables", [{}, {"TCP_API": "off", "TOKEN_FILE": "/t"}], ids=["nothing", "off"]
)
def test_a_daemon_nobody_could_reach_is_refused_with_the_choices(
    load_with: Load, variables: dict[str, str]
) -> None:
    settings = load_with(**variables)
    with pytest.raises(SettingsError) as caught:
        settings.require_listener()
    for word in ("SIDECAR_UNIX_SOCKET", "SIDECAR_TOKEN_FILE", "SIDECAR_TCP_API=open"):
        assert word in str(caught.value)


@pytest.mark.parametrize(
    "variables", [{"UNIX_SOCKET": "/s"}, {"TOKEN_FILE": "/t"}, {"TCP_API": "open"}]
)
def test_one_way_in_is_enough(load_with: Load, variables: dict[str, str]) -> None:
    load_with(**variables).require_listener()


def test_settings_cannot_be_changed_later(load_with: Load) -> None:
    settings = load_with()
    with pytest.raises(ValueError, match="frozen"):
        settings.stream = "other"  # type: ignore[misc] # that is what is tested


@pytest.mark.parametrize(
    ("variables", "directory"),
    [
        ({"STATE_DIRECTORY": "/var/lib/x"}, Path("/var/lib/x/nats")),
        ({"XDG_STATE_HOME": "/xdg"}, Path("/xdg/hermes-nats-sidecar/nats")),
        ({}, Path("/home/me/.local/state/hermes-nats-sidecar/nats")),
    ],
)
def test_embedded_data_lives_in_the_state_directory(
    load_with: Load,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    directory: Path,
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    for name in ("STATE_DIRECTORY", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert load_with().embedded_dir is None
    assert default_embedded_dir() == directory


AS_TOOLS_WRITE = [
    *(
        "{}\r",
        "{}\n",
        "{}\r\n",
        " {} ",
        "{}\t",
        '"{}"',
        "'{}'",
        ' "{}"\r\n',
        "\ufeff{}",
    ),
]


@pytest.mark.parametrize("form", AS_TOOLS_WRITE)
def test_values_are_taken_as_tools_write_them(load_with: Load, form: str) -> None:
    values = {
        "UNIX_SOCKET": "/run/api.sock",
        "NATS_USER": "a",
        "NATS_PASSWORD_FILE": "/run/password",
        "NATS_URL": "nats://a:1,nats://b:2",
        "HTTP_HOST": "127.0.0.1, ::1",
        "HTTP_PORT": "8481",
        "STREAM": "s",
        "STREAM_CREATE": "true",
        "ROLE": "producer",
        "LOG_LEVEL": "debug",
        "PUBLISH_TIMEOUT_SECONDS": "5.5",
    }
    settings = load_with(**{name: form.format(value) for name, value in values.items()})
    assert settings == load_with(**values)
    assert settings.unix_socket == Path("/run/api.sock")
    assert settings.http_host == ("127.0.0.1", "::1")


@pytest.mark.parametrize("empty", ["", " ", "\r\n", '""', "''", '" "'])
def test_a_value_that_is_empty_is_not_set(load_with: Load, empty: str) -> None:
    names = ("UNIX_SOCKET", "NATS_USER", "HTTP_HOST", "HTTP_PORT", "ROLE", "NATS_URL")
    assert load_with(**dict.fromkeys(names, empty)) == load_with()


@pytest.mark.parametrize("odd", ["a\nb", "a\rb", "a\x1bb", "a\u2028b"])
def test_a_value_with_a_line_end_inside_is_refused_by_name(
    load_with: Load, odd: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        load_with(UNIX_SOCKET=odd, STREAM="s")
    assert "SIDECAR_UNIX_SOCKET" in str(caught.value)
    assert odd not in str(caught.value)


def test_without_a_home_only_the_embedded_server_misses_it(
    load_with: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_home() -> Path:
        raise RuntimeError

    for name in ("STATE_DIRECTORY", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    assert load_with().stream == "hermes"
    with pytest.raises(SettingsError, match="SIDECAR_EMBEDDED_DIR"):
        default_embedded_dir()


def test_a_relative_socket_stays_where_it_is(
    load_with: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    assert load_with(UNIX_SOCKET="api.sock").unix_socket == gone / "api.sock"
    gone.rmdir()
    assert load_with(UNIX_SOCKET="/a/api.sock").unix_socket == Path("/a/api.sock")
    with pytest.raises(SettingsError, match="SIDECAR_UNIX_SOCKET: is relative"):
        load_with(UNIX_SOCKET="api.sock")
