# SPDX-License-Identifier: Apache-2.0
"""The settings: environment variables with the prefix SIDECAR_.

Secrets are never values here, only file names: a dump of the settings is safe.
"""

from __future__ import annotations

import difflib
import os
import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self
from urllib.parse import SplitResult, urlsplit

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from sidecar.command_error import BAD_SETTINGS, CommandError
from sidecar.jetstream.credentials import NatsServer, Tls
from sidecar.model.host_names import may_be_named
from sidecar.model.memory_budget import MAX_BYTES
from sidecar.model.stream import StreamPlan

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX: Final = "SIDECAR_"

# Kubernetes sets these in each container for a Service named "sidecar".
_SERVICE_LINK = re.compile(
    r"SIDECAR_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?"
    r"|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
_LINKED_ADDRESS = re.compile(r"(tcp|udp|sctp)://\S+")
_MAX_DAYS = 2**63 // (86_400 * 10**9)  # JetStream counts nanoseconds
_NATS_SCHEMES = ("nats", "tls")
_WEB = re.compile(r"https?://[^/\s@]+(/[^\s?#]*)?")
_NEAR: Final = 0.55  # of difflib's ratio
_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,32}$")]


class SettingsError(CommandError):
    """The settings cannot work; the text has a sentence for each reason."""

    exit_status = BAD_SETTINGS


def default_embedded_dir() -> Path:
    """Choose systemd's state directory, else the XDG one of this user."""
    if state_directory := os.environ.get("STATE_DIRECTORY"):
        return Path(state_directory) / "nats"
    xdg = os.environ.get("XDG_STATE_HOME")
    try:
        base = Path(xdg) if xdg else Path.home() / ".local" / "state"
    except RuntimeError:  # a container's user may have neither HOME nor a name
        raise SettingsError(
            "SIDECAR_EMBEDDED_DIR is not set, and this user has no home directory: "
            "set it to a directory."
        ) from None
    return base / "hermes-nats-sidecar" / "nats"


def _plain(value: str) -> str:
    """Strip what tools and editors add: line breaks, spaces, quotes."""
    text = value.strip().removeprefix("\ufeff")
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        text = text[1:-1].strip()
    return text


class Settings(BaseSettings):
    """All settings, checked together once at the start."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        env_ignore_empty=True,
    )

    nats_url: Annotated[tuple[str, ...], NoDecode] = Field(
        ("nats://127.0.0.1:4222",),
        description="URLs of NATS servers, comma separated; without user or password",
    )
    nats_creds_file: Path | None = Field(
        None, description="Credentials file (JWT and nkey) of the NATS user"
    )
    nats_nkey_seed_file: Path | None = Field(
        None, description="File with the nkey seed of the NATS user"
    )
    nats_user: str | None = Field(None, description="NATS user name")
    nats_password_file: Path | None = Field(
        None, description="File with the password of the NATS user"
    )
    nats_token_file: Path | None = Field(None, description="File with a NATS token")
    nats_tls_ca_file: Path | None = Field(
        None, description="CA certificates for the NATS server; turns TLS on"
    )
    nats_tls_cert_file: Path | None = Field(
        None, description="Client certificate for the NATS server; turns TLS on"
    )
    nats_tls_key_file: Path | None = Field(
        None, description="Private key of the client certificate"
    )
    nats_tls_handshake_first: bool = Field(
        False, description="Start TLS first, for a server with handshake_first"
    )
    nats_inbox_prefix: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9_-]{1,64}(\.[A-Za-z0-9_-]{1,64}){0,7}$",
        description="Prefix of the subjects that NATS replies to; by default "
        "_INBOX_hermes_<role>, and _INBOX_hermes_provision for the command provision",
    )
    stream: _Name = Field("hermes", description="Name of the stream")
    subject_prefix: _Name = Field(
        "hermes", description="Events are published on <prefix>.<category>"
    )
    stream_create: bool = Field(
        False, description="Create the stream if it is missing; true when embedded"
    )
    stream_replicas: int = Field(
        1,
        ge=1,
        le=5,
        description="Number of replicas of a stream that the sidecar creates",
    )
    stream_max_age_days: int = Field(
        90,
        ge=0,
        le=_MAX_DAYS,
        description="Retention of a stream that the sidecar creates; 0: for ever",
    )
    embedded: bool = Field(
        False, description="Start and supervise an embedded nats-server"
    )
    embedded_dir: Path | None = Field(
        None,
        description="Data directory of the embedded nats-server; by default below "
        "$STATE_DIRECTORY, else below the XDG state directory",
    )
    unix_socket: Path | None = Field(
        None, description="Unix socket for the API; the recommended listener"
    )
    http_host: Annotated[tuple[str, ...], NoDecode] = Field(
        ("127.0.0.1",),
        description="TCP addresses to listen on, comma separated",
    )
    http_names: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Host names, comma separated, under which clients reach the TCP "
        "port, such as a Service or a container. IP addresses and the machine's own "
        "names are always accepted",
    )
    http_port: int = Field(
        8480, ge=0, le=65535, description="TCP port for health, metrics and status page"
    )
    tcp_api: Literal["off", "token", "open"] | None = Field(
        None,
        description="Whether the TCP port serves the API: off, token, or open (anybody "
        "who reaches the port); by default token if TOKEN_FILE is set, else off",
    )
    token_file: Path | None = Field(
        None, description="File with the bearer token for the API over TCP"
    )
    tls_cert_file: Path | None = Field(
        None, description="Certificate of the TCP listener; turns HTTPS on"
    )
    tls_key_file: Path | None = Field(
        None, description="Private key of that certificate"
    )
    role: Literal["both", "producer", "consumer"] = Field(
        "both", description="Which requests are served: producer stores, consumer reads"
    )
    max_event_bytes: int = Field(
        0,
        ge=0,
        le=MAX_BYTES,
        description="Largest event accepted; 0: what server and stream allow. An "
        "embedded server accepts 8 MiB, or this where it is more",
    )
    publish_timeout_seconds: float = Field(
        10.0, ge=1, le=300, description="How long a POST may wait for its outcome"
    )
    docs_url: str | None = Field(
        None,
        description="URL of a published copy of docs/, to which the status page links, "
        "such as https://example.org/hermes-nats-sidecar/docs/",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Lowest level that is logged"
    )
    log_format: Literal["json", "console"] | None = Field(
        None, description="json or console; by default console on a terminal, else json"
    )

    @model_validator(mode="before")
    @classmethod
    def _clean(cls, values: Any) -> Any:
        """Strip what tools add around values; an empty value counts as not set."""
        cleaned = {
            name: _plain(value) if isinstance(value, str) else value
            for name, value in values.items()
        }
        odd = [
            PREFIX + name.upper()
            for name, value in cleaned.items()
            if isinstance(value, str) and not value.isprintable()
        ]
        if odd:
            raise ValueError(
                f"{' and '.join(odd)}: must not contain a line break or another "
                "character that is not printable"
            )
        return {name: value for name, value in cleaned.items() if value != ""}

    @field_validator("http_host")
    @classmethod
    def _check_hosts(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        if not hosts:
            raise ValueError("must name an address")
        return hosts

    @field_validator("http_names")
    @classmethod
    def _check_names(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if not all(map(may_be_named, names)):
            raise ValueError(
                "must be host names only, without scheme, port or wildcard"
            )
        return names

    @field_validator("unix_socket")
    @classmethod
    def _make_absolute(cls, path: Path | None) -> Path | None:
        """Keep where it is, whatever becomes of the working directory."""
        try:
            return path and path.absolute()
        except OSError:
            raise ValueError(
                "is relative, and the working directory is gone: use an absolute path"
            ) from None

    @field_validator("nats_url", "http_host", "http_names", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(url.strip() for url in value.split(",") if url.strip())
        return value

    @field_validator("nats_url")
    @classmethod
    def _check_urls(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        if not urls:
            raise ValueError("must name a server")
        for url in urls:
            parts = _split(url if "://" in url else f"nats://{url}")
            if parts is None or not _has_address(parts) or parts.path not in ("", "/"):
                raise ValueError("must look like nats://host:4222 or tls://host:4222")
            if parts.username is not None or parts.password is not None:
                raise ValueError(
                    "must not contain a user or password: use SIDECAR_NATS_USER with "
                    "SIDECAR_NATS_PASSWORD_FILE, or SIDECAR_NATS_TOKEN_FILE"
                )
        return urls

    @field_validator("docs_url")
    @classmethod
    def _check_docs_url(cls, url: str | None) -> str | None:
        if url is not None and not _WEB.fullmatch(url):
            raise ValueError("must look like https://host/docs/ or http://host/docs/")
        return url

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        given = self.model_fields_set
        if self.embedded and "nats_url" in given:
            raise ValueError(
                "SIDECAR_EMBEDDED and --embedded start an embedded server: "
                "remove SIDECAR_NATS_URL"
            )
        if (self.nats_user is None) != (self.nats_password_file is None):
            raise ValueError(_pair("NATS_USER", "NATS_PASSWORD_FILE"))
        logins = {
            "NATS_CREDS_FILE": self.nats_creds_file,
            "NATS_NKEY_SEED_FILE": self.nats_nkey_seed_file,
            "NATS_USER": self.nats_user,
            "NATS_TOKEN_FILE": self.nats_token_file,
        }
        set_logins = [
            PREFIX + name for name, value in logins.items() if value is not None
        ]
        if len(set_logins) > 1:
            raise ValueError(f"{' and '.join(set_logins)}: choose one login")
        if (self.nats_tls_cert_file is None) != (self.nats_tls_key_file is None):
            raise ValueError(_pair("NATS_TLS_CERT_FILE", "NATS_TLS_KEY_FILE"))
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise ValueError(_pair("TLS_CERT_FILE", "TLS_KEY_FILE"))
        if self.tcp_api == "token" and self.token_file is None:
            raise ValueError("SIDECAR_TCP_API=token needs SIDECAR_TOKEN_FILE")
        return self

    @property
    def tcp_access(self) -> Literal["off", "token", "open"]:
        """Who may use the API over TCP."""
        if self.tcp_api is not None:
            return self.tcp_api
        return "off" if self.token_file is None else "token"

    @property
    def plan(self) -> StreamPlan:
        """The stream as these settings want it."""
        return StreamPlan(
            name=self.stream,
            subject_prefix=self.subject_prefix,
            replicas=self.stream_replicas,
            max_age_days=self.stream_max_age_days,
        )

    @property
    def nats_server(self) -> NatsServer:
        """The NATS servers and the login."""
        wants_tls = (
            self.nats_tls_ca_file is not None
            or self.nats_tls_cert_file is not None
            or self.nats_tls_handshake_first
            or any(url.startswith("tls://") for url in self.nats_url)
        )
        return NatsServer(
            urls=self.nats_url,
            user=self.nats_user,
            password_file=self.nats_password_file,
            token_file=self.nats_token_file,
            creds_file=self.nats_creds_file,
            nkey_seed_file=self.nats_nkey_seed_file,
            tls=Tls(
                self.nats_tls_ca_file,
                self.nats_tls_cert_file,
                self.nats_tls_key_file,
                self.nats_tls_handshake_first,
            )
            if wants_tls
            else None,
            inbox_prefix=self.nats_inbox_prefix or f"_INBOX_hermes_{self.role}",
        )

    def readable_secrets(self) -> list[Path]:
        """Give the secret files that every user of this machine may read."""
        files = (
            self.nats_password_file,
            self.nats_token_file,
            self.nats_creds_file,
            self.nats_nkey_seed_file,
            self.nats_tls_key_file,
            self.token_file,
            self.tls_key_file,
        )
        return [file for file in files if file is not None and _is_for_all(file)]

    def require_listener(self) -> None:
        """Refuse to start if no listener serves the API."""
        if self.unix_socket is None and self.tcp_access == "off":
            raise SettingsError(
                "No listener serves the API: set SIDECAR_UNIX_SOCKET (recommended), or "
                "SIDECAR_TOKEN_FILE for TCP with a token, or SIDECAR_TCP_API=open if "
                "nothing else runs in this network namespace."
            )


def load(environ: Mapping[str, str], **overrides: Any) -> Settings:
    """Read the settings; raise SettingsError with a sentence for each mistake."""
    _refuse_unknown(environ)
    try:
        return Settings(**overrides)
    except ValidationError as error:
        raise SettingsError(
            "\n".join(_sentence(detail) for detail in error.errors())
        ) from None


def _refuse_unknown(environ: Mapping[str, str]) -> None:
    known = [PREFIX + name.upper() for name in Settings.model_fields]
    sentences = []
    for name, value in sorted(environ.items()):
        if not name.upper().startswith(PREFIX) or name.upper() in known:
            continue
        if _SERVICE_LINK.fullmatch(name):
            continue
        if name.endswith("_PORT") and _LINKED_ADDRESS.fullmatch(value):
            continue
        sentences.append(f"{name} is not a setting{_meant(name, known)}")
    if sentences:
        raise SettingsError("\n".join(sentences))


def _meant(name: str, known: list[str]) -> str:
    """Name the setting that was meant, if one is near: the prefix is near to all."""
    word = name.upper().removeprefix(PREFIX)
    words = [each.removeprefix(PREFIX) for each in known]
    near = difflib.get_close_matches(word, words, n=1, cutoff=_NEAR)
    if not near:
        return "; see docs/settings.md."
    return f"; did you mean {PREFIX}{near[0]}?"


def _pair(one: str, other: str) -> str:
    return f"{PREFIX}{one} and {PREFIX}{other} belong together: set both or neither"


def _is_for_all(file: Path) -> bool:
    try:
        return bool(file.stat().st_mode & stat.S_IROTH)
    except OSError:  # whoever needs the file will say so
        return False


def _split(url: str) -> SplitResult | None:
    try:
        return urlsplit(url)
    except ValueError:  # its text would show what may be a password
        return None


def _has_address(parts: SplitResult) -> bool:
    try:
        is_nats = parts.scheme in _NATS_SCHEMES
        return is_nats and bool(parts.hostname) and parts.port != 0
    except ValueError:  # the port is no number, or none that exists
        return False


def _sentence(detail: Any) -> str:
    name = "".join(f"{PREFIX}{part.upper()}: " for part in detail["loc"][:1])
    what = detail["msg"].removeprefix("Value error, ").rstrip(".")
    return f"{name}{what}."
