# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from support.commands import Run, assert_complaint

from sidecar.commands import install
from sidecar.commands.install import PLUGIN_STUB, InstallError, install_plugins

FAMILIES = ("messagebus_consumers", "messagebus_producers")
FILES = {
    "nats_sidecar.py",
    "sidecar_http.py",
    "config-schema-plugin-nats_sidecar.yml",
    "requirements.txt",
    "README.md",
    "README.fr.md",
}


def test_both_plugins_are_copied_with_all_that_hermes_expects(tmp_path: Path) -> None:
    installed = install_plugins(tmp_path)
    assert installed == [tmp_path / family / "nats_sidecar" for family in FAMILIES]
    for target in installed:
        source = PLUGIN_STUB / target.relative_to(tmp_path)
        files = {path.name for path in source.iterdir()} - {"__pycache__"}
        assert files >= FILES
        assert {path.name for path in target.iterdir()} == files
        for name in files:
            assert (target / name).read_bytes() == (source / name).read_bytes()


def test_hermes_may_read_what_a_strict_root_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub, plugins = tmp_path / "stub", tmp_path / "plugins"
    shutil.copytree(PLUGIN_STUB, stub)
    for path in stub.rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)
    monkeypatch.setattr(install, "PLUGIN_STUB", stub)
    plugins.mkdir()
    for target in install_plugins(plugins):
        assert target.stat().st_mode & 0o777 == 0o755
        assert {path.stat().st_mode & 0o777 for path in target.iterdir()} == {0o644}


def test_a_former_version_is_replaced_and_neighbours_are_kept(tmp_path: Path) -> None:
    old = tmp_path / FAMILIES[0] / "nats_sidecar"
    old.mkdir(parents=True)
    (old / "old.py").write_text("")
    neighbour = tmp_path / FAMILIES[0] / "kafka" / "kafka.py"
    neighbour.parent.mkdir()
    neighbour.write_text("")
    install_plugins(tmp_path)
    assert {path.name for path in old.iterdir()} == FILES
    assert neighbour.exists()


def test_a_missing_directory_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(InstallError, match="is not a directory"):
        install_plugins(tmp_path / "missing")


def test_the_directory_above_plugins_is_told_apart(tmp_path: Path) -> None:
    (tmp_path / "plugins").mkdir()
    with pytest.raises(InstallError, match="holds a plugins directory"):
        install_plugins(tmp_path)


def test_a_file_in_the_way_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / FAMILIES[0]).write_text("")
    with pytest.raises(InstallError, match="cannot be written"):
        install_plugins(tmp_path)


def test_a_linked_plugin_folder_is_not_emptied_through_the_link(tmp_path: Path) -> None:
    precious = tmp_path / "checkout"
    precious.mkdir()
    (precious / "mine.py").write_text("")
    family = tmp_path / "plugins" / FAMILIES[0]
    family.mkdir(parents=True)
    (family / "nats_sidecar").symlink_to(precious)
    with pytest.raises(InstallError, match="cannot be written"):
        install_plugins(tmp_path / "plugins")
    assert (precious / "mine.py").exists()


def test_the_http_file_is_the_same_in_both_plugins() -> None:
    one, other = (
        PLUGIN_STUB / family / "nats_sidecar" / "sidecar_http.py" for family in FAMILIES
    )
    assert one.read_bytes() == other.read_bytes()


def test_the_schema_is_the_same_in_both_plugins() -> None:
    name = Path("nats_sidecar/config-schema-plugin-nats_sidecar.yml")
    one, other = (PLUGIN_STUB / family / name for family in FAMILIES)
    assert one.read_bytes() == other.read_bytes()


def test_a_wheel_holds_code_plugins_and_licences_alone(tmp_path: Path) -> None:
    root = PLUGIN_STUB.parent
    for name in ("sidecar", "plugin_stub", "LICENSES"):
        shutil.copytree(root / name, tmp_path / name)
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(root / name, tmp_path)
    for secret in ("token", "nats.creds", ".env", "sidecar.log"):
        (tmp_path / secret).write_text("c0rrect-horse")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", "dist"]
    subprocess.run(build, cwd=tmp_path, check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").iterdir()
    with zipfile.ZipFile(wheel) as archive:
        files = [Path(name) for name in archive.namelist()]
    assert {file.parts[0].partition("-")[0] for file in files} == {
        *("sidecar", "plugin_stub", "hermes_nats_sidecar")
    }
    kinds = {file.suffix for file in files if "dist-info" not in file.parts[0]}
    assert kinds <= {".py", ".md", ".yml", ".txt", ".typed", ".html", ".css"}
    pages = {
        Path("sidecar/http/status_page.html"),
        Path("sidecar/http/status_page.css"),
    }
    assert pages <= set(files)


def test_install_plugins_copies_both_and_says_where(run: Run, private: Path) -> None:
    ran = run("install-plugins", private)
    assert (ran.returncode, ran.stderr) == (0, "")
    for family in ("messagebus_producers", "messagebus_consumers"):
        assert (private / family / "nats_sidecar" / "nats_sidecar.py").is_file()
        assert str(private / family / "nats_sidecar") in ran.stdout


def test_install_plugins_into_nowhere_is_a_sentence(run: Run, private: Path) -> None:
    ran = run("install-plugins", private / "none")
    assert_complaint(ran, 7, "is not a directory")


@pytest.fixture
def hermes(private: Path) -> Path:
    """Give the plugins directory of a Hermes."""
    (private / "lib").mkdir()
    (private / "hermes.py").touch()
    (private / "lib" / "version.py").write_text('HERMES_VERSION = "1.0.9"\n')
    plugins = private / "plugins"
    (plugins / "datasources").mkdir(parents=True)
    return plugins


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('HERMES_VERSION = "1.0.9"\n', "Hermes 1.0.9\n"),
        ('HERMES_VERSION = "2.0"\n', "Hermes 2.0, tested is 1.0.9\n"),
        ("", "Hermes of an unknown version, tested is 1.0.9\n"),
        (None, "Hermes of an unknown version, tested is 1.0.9\n"),
    ],
)
def test_install_plugins_says_for_which_hermes(
    run: Run, hermes: Path, text: str | None, said: str
) -> None:
    version = hermes.parent / "lib" / "version.py"
    version.unlink() if text is None else version.write_text(text)
    ran = run("install-plugins", hermes)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith(said)


def test_install_plugins_refuses_what_is_no_hermes(run: Run, private: Path) -> None:
    (private / "holiday.jpg").touch()
    ran = run("install-plugins", private)
    assert_complaint(ran, 7, "there is no hermes.py beside it")
    assert [path.name for path in private.iterdir()] == ["holiday.jpg"]


def test_install_plugins_may_fill_a_volume_again_and_again(
    run: Run, private: Path
) -> None:
    (private / "lost+found").mkdir()
    for _ in range(2):
        ran = run("install-plugins", private)
        assert ran.returncode == 0
        assert ran.stdout.startswith("No Hermes is there; this may be a volume for one")


def test_what_is_installed_is_compared_with_what_is_shipped(
    run: Run, hermes: Path
) -> None:
    ran = run("install-plugins", "--check", hermes)
    assert ran.returncode == 7
    assert "nats_sidecar.py is missing." in ran.stdout
    assert run("install-plugins", hermes).returncode == 0
    consumer = hermes / "messagebus_consumers" / "nats_sidecar"
    (consumer / "__pycache__").mkdir()
    (consumer / "__pycache__" / "x.pyc").touch()
    ran = run("install-plugins", "--check", hermes)
    assert (ran.returncode, ran.stdout) == (0, "Hermes 1.0.9\nSame.\n")
    (consumer / "old.py").touch()
    (consumer / "nats_sidecar.py").write_text("# mine")
    (consumer / "requirements.txt").unlink()
    ran = run("install-plugins", "--check", hermes)
    assert ran.returncode == 7
    assert ran.stdout.splitlines()[1:] == [
        f"{consumer}/nats_sidecar.py differs.",
        f"{consumer}/old.py is not of this version.",
        f"{consumer}/requirements.txt is missing.",
        "The plugins are not those of this version.",
    ]
    assert (consumer / "nats_sidecar.py").read_text() == "# mine"
