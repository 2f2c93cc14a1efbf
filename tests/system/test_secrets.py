# SPDX-License-Identifier: Apache-2.0
"""deploy/nats/make-secrets, wherever and however it is run."""

from __future__ import annotations

import os
import re
import ssl
import subprocess
from typing import TYPE_CHECKING

import pytest
from system.secrets_made import NATS, ROLES, make_secrets

from sidecar.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LONGEST = ".".join(["a" * 63] * 3 + ["b" * 61])  # 253 characters
OLD_OPENSSL = """\
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | head -n 1)
mkdir -p lists/partial
echo "deb [trusted=yes] ${mirror%-security*} bullseye main" >sources
apt() {
  apt-get -qq -o Dir::Etc::sourcelist="$PWD/sources" -o Dir::Etc::sourceparts=- \\
    -o Dir::State::lists="$PWD/lists" "$@"
}
apt update
apt download 'openssl=1.1.1*' libssl1.1
for package in *.deb; do dpkg-deb --extract "$package" .; done
cat >openssl <<END
#!/bin/sh
export LD_LIBRARY_PATH=$(dirname "$PWD"/usr/lib/*/libssl.so.1.1)
exec "$PWD/usr/bin/openssl" "\\$@"
END
chmod +x openssl
"""


@pytest.fixture(scope="module", params=["this machine's", "1.1.1"])
def openssl(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Put an OpenSSL first in PATH, and give its version."""
    before = os.environ["PATH"]
    if request.param == "1.1.1":
        place = tmp_path_factory.mktemp("openssl")
        got = subprocess.run(["sh", "-euc", OLD_OPENSSL], cwd=place, check=False)
        if got.returncode != 0:
            pytest.skip("NOT TESTED: Debian 11's OpenSSL cannot be had here")
        os.environ["PATH"] = f"{place}:{before}"
    yield subprocess.run(["openssl", "version"], check=True, stdout=-1).stdout.decode()
    os.environ["PATH"] = before


def run(*arguments: str | Path, cwd: Path | None = None, **environ: str) -> int:
    return subprocess.run(
        [NATS / "make-secrets", *arguments],
        cwd=cwd,
        env=dict(os.environ) | environ,
        stdin=subprocess.DEVNULL,
        check=False,
    ).returncode


def shake_hands(directory: Path, name: str) -> None:
    """Meet with the strictness of Python 3.13, whatever this Python is."""
    trusting = ssl.create_default_context(cafile=str(directory / "ca.crt"))
    trusting.verify_flags |= ssl.VERIFY_X509_STRICT
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(directory / "tls.crt", directory / "tls.key")
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = trusting.wrap_bio(back, there, server_hostname=name)
    server = serving.wrap_bio(there, back, server_side=True)
    for side in (client, server, client):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    assert client.getpeercert()


def text(certificate: Path) -> str:
    command = ("openssl", "x509", "-in", certificate, "-noout", "-text")
    return subprocess.run(command, check=True, stdout=-1).stdout.decode()


def test_a_strict_reader_takes_what_any_openssl_made(
    openssl: str, tmp_path: Path
) -> None:
    directory = make_secrets(tmp_path / "made", "nats", "127.0.0.1").directory / "tls"
    assert openssl.startswith("OpenSSL ")
    for name in ("nats", "127.0.0.1"):
        shake_hands(directory, name)
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(directory, "other")
    for part in ("Authority Key Identifier", "Subject Key Identifier", "Key Usage"):
        assert f"X509v3 {part}" in text(directory / "tls.crt"), openssl


@pytest.mark.parametrize(
    ("name", "reached_at"),
    [
        ("localhost", "localhost"),
        (LONGEST, LONGEST),
        ("nats.prod.example.srv1", "nats.prod.example.srv1"),  # four labels, no address
        ("1.example", "1.example"),
        ("xn--cole-9oa.example.fr", "xn--cole-9oa.example.fr"),
        ("NATS.Example.ORG.", "nats.example.org"),
        ("*.example.org", "nats-0.example.org"),
        ("nats-0.nats", "nats-0.nats"),
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8::7", "2001:db8::7"),
        ("::1", "::1"),
    ],
)
def test_names_of_any_legal_length_and_form(
    name: str, reached_at: str, tmp_path: Path
) -> None:
    directory = make_secrets(tmp_path / "made", name).directory / "tls"
    shake_hands(directory, reached_at)


@pytest.mark.parametrize(
    "name",
    ["", "a b", "a,b", "a\nb", "école.fr", "tls://nats", "nats/x", "1.2.3.400", "g::1"],
)
def test_a_name_that_is_none_leaves_nothing(name: str, tmp_path: Path) -> None:
    assert run("--directory", tmp_path / "made", "nats", name) != 0
    assert list(tmp_path.iterdir()) == []
    assert run("--directory", tmp_path / "made", "nats") == 0


def test_an_openssl_that_fails_leaves_nothing(tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    broken = programs / "openssl"
    for fails in ("ecparam", "req", "x509", "rand"):
        real = "PATH=/usr/local/bin:/usr/bin:/bin exec openssl"
        broken.write_text(f'#!/bin/sh\n[ "$1" != {fails} ] || exit 1\n{real} "$@"\n')
        broken.chmod(0o755)
        assert (
            run("--directory", tmp_path / "made", "n", PATH=f"{programs}:/usr/bin:/bin")
            != 0
        ), fails
        assert {path.name for path in tmp_path.iterdir()} == {"bin"}, fails


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_modes_are_the_same_under_any_umask(umask: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        directory = make_secrets(tmp_path / "made", "nats").directory
    finally:
        os.umask(before)
    modes = {
        str(path.relative_to(directory)): path.stat().st_mode & 0o777
        for path in directory.rglob("*")
    }
    assert modes == {
        "tls": 0o750,
        "passwords": 0o750,
        "nats.env": 0o640,
        "tls/ca.key": 0o600,
        "tls/ca.crt": 0o640,
        "tls/tls.key": 0o640,
        "tls/tls.crt": 0o640,
        **{f"passwords/{role}": 0o640 for role in ROLES},
    }
    assert directory.stat().st_mode & 0o777 == 0o700
    role = directory / "passwords" / "both"
    assert Settings(nats_user="x", nats_password_file=role).readable_secrets() == []


def test_a_container_goes_on_reading_what_its_group_may(tmp_path: Path) -> None:
    directory = make_secrets(tmp_path / "made", "nats").directory
    for path in [directory, *directory.rglob("*")]:
        os.chown(path, -1, 10001)
    before = (directory / "tls/tls.key").read_bytes()
    make_secrets(directory)
    key = directory / "tls/tls.key"
    assert key.read_bytes() != before
    assert (key.stat().st_gid, key.stat().st_mode & 0o777) == (10001, 0o640)


def test_without_a_directory_it_writes_out_of_the_checkout(tmp_path: Path) -> None:
    assert run("nats", cwd=NATS, HOME=str(tmp_path)) == 0
    assert (tmp_path / "hermes-nats-secrets" / "tls" / "tls.key").exists()
    assert run("nats", cwd=NATS, HOME="") != 0


@pytest.mark.parametrize(
    "arguments", [(), ("--renew", "nats"), ("--directory",), ("--directory", "made")]
)
def test_it_says_how_it_is_used(arguments: tuple[str, ...], tmp_path: Path) -> None:
    assert run(*arguments, cwd=tmp_path, HOME=str(tmp_path)) == 2
    assert list(tmp_path.iterdir()) == []


def test_neither_cdpath_nor_locale_nor_spaces_lead_it_astray(tmp_path: Path) -> None:
    here, trap = tmp_path / "a place", tmp_path / "trap"
    here.mkdir()
    (trap / "my secrets").mkdir(parents=True)
    odd = {"CDPATH": str(trap), "LC_ALL": "tr_TR.UTF-8", "PWD": "/nowhere"}
    assert run("--directory", "my secrets", "nats", cwd=here, **odd) == 0
    assert list((trap / "my secrets").iterdir()) == []
    passwords = (here / "my secrets/nats.env").read_text()
    names = re.findall(
        r"^HERMES_(\w+)_PASSWORD=p[0-9a-f]{48}$", passwords, re.MULTILINE
    )
    assert names == [role.upper() for role in ROLES]
    assert passwords.startswith("NATS_HOST=0.0.0.0\n")


def test_run_again_it_renews_and_adds_names_by_the_same_ca(
    openssl: str, tmp_path: Path
) -> None:
    assert openssl
    secrets = make_secrets(tmp_path / "made", "old", "127.0.0.1", "fd00::5").directory
    files = {p: p.read_bytes() for p in secrets.rglob("*") if p.is_file()}
    assert run("--directory", secrets, "a,b") != 0
    assert run("--directory", secrets, "1.2.3.400") != 0
    assert {p: p.read_bytes() for p in secrets.rglob("*") if p.is_file()} == files
    assert run("--directory", secrets, "new", "OLD", "192.0.2.7") == 0
    assert run("--directory", secrets) == 0
    for name in ("old", "127.0.0.1", "fd00::5", "new", "192.0.2.7"):
        shake_hands(secrets / "tls", name)
    assert len(re.findall("DNS:|IP Address:", text(secrets / "tls" / "tls.crt"))) == 5
    now = {p: p.read_bytes() for p in secrets.rglob("*") if p.is_file()}
    assert now.keys() == files.keys()
    changed = {p.name for p, content in now.items() if content != files[p]}
    assert changed == {"tls.crt", "tls.key"}


def test_without_the_key_of_its_ca_nothing_changes(tmp_path: Path) -> None:
    secrets = make_secrets(tmp_path / "made", "old").directory
    (secrets / "tls/ca.key").rename(tmp_path / "kept-elsewhere")
    files = {p: p.read_bytes() for p in secrets.rglob("*") if p.is_file()}
    assert run("--directory", secrets, "new") != 0
    assert {p: p.read_bytes() for p in secrets.rglob("*") if p.is_file()} == files


def test_a_directory_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    assert run("--directory", tmp_path / "photos", "nats") != 0
    assert list((tmp_path / "photos").iterdir()) == []
