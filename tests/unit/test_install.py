"""`pycni install`: which files it writes, which it refuses to touch, and that what it writes starts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

import pycni
from pycni import install
from pycni.cli.main import main
from pycni.delegate import ROOT, read_launcher
from pycni.errors import CNIError

NAMES = ["bridge", "host-local", "loopback"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "bin"
    made.mkdir()
    return made


def listing(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def version_of(executable: Path) -> dict[str, object]:
    done = subprocess.run([executable], env={"CNI_COMMAND": "VERSION"}, capture_output=True, check=True)
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


def test_writes_the_plugins_and_nothing_else(folder: Path, tmp_path: Path) -> None:
    """One executable, mode 0755, for each registered plugin, whatever the umask."""
    before = os.umask(0o077)
    try:
        done = install.install(folder, tmp_path)
    finally:
        os.umask(before)
    assert sorted(listing(folder)) == NAMES
    assert [(file.path.name, file.what) for file in done] == [(name, "created") for name in NAMES]
    assert {path.stat().st_mode & 0o7777 for path in folder.iterdir()} == {0o755}


@pytest.mark.parametrize("name", NAMES)
def test_what_is_written_starts(name: str, folder: Path, tmp_path: Path) -> None:
    """An executable answers VERSION with CNI_COMMAND as its whole environment."""
    install.install(folder, tmp_path)
    assert version_of(folder / name)["cniVersion"] == "1.1.0"


def test_marker(folder: Path, tmp_path: Path) -> None:
    """The marker line says which plugin of which installation this is."""
    install.install(folder, tmp_path)
    marker = read_launcher(str(folder / "host-local"))
    assert marker is not None
    assert (marker.plugin, marker.ref) == ("host-local", "pycni_hostlocal.plugin:HostLocal")
    assert (marker.version, marker.root) == (pycni.__version__, ROOT)


def test_twice_changes_nothing(folder: Path, tmp_path: Path) -> None:
    """A second run leaves the files alone."""
    install.install(folder, tmp_path)
    before = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.iterdir()}
    assert {file.what for file in install.install(folder, tmp_path)} == {"unchanged"}
    assert {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.iterdir()} == before


def test_own_files_are_replaced(folder: Path, tmp_path: Path) -> None:
    """A launcher of another version or run directory is replaced without being asked, and not kept."""
    install.install(folder, tmp_path / "old")
    assert {file.what for file in install.install(folder, tmp_path / "new")} == {"replaced"}
    assert sorted(listing(folder)) == NAMES
    assert str(tmp_path / "new").encode() in (folder / "bridge").read_bytes()


def test_other_people_s_files_are_refused(folder: Path, tmp_path: Path) -> None:
    """A file that pycni did not write stops everything: no other executable is written either."""
    (folder / "loopback").write_bytes(b"\x7fELF the reference")
    with pytest.raises(CNIError, match="was not written by pycni") as caught:
        install.install(folder, tmp_path)
    assert "--force" in caught.value.details
    assert listing(folder) == {"loopback": b"\x7fELF the reference"}


def test_force_keeps_a_copy(folder: Path, tmp_path: Path) -> None:
    """With force the file that was there stays beside, with its mode."""
    (folder / "loopback").write_bytes(b"\x7fELF the reference")
    (folder / "loopback").chmod(0o711)
    done = install.install(folder, tmp_path, force=True)
    assert sorted(listing(folder)) == [*NAMES, "loopback.orig"]
    assert (folder / "loopback.orig").read_bytes() == b"\x7fELF the reference"
    assert (folder / "loopback.orig").stat().st_mode & 0o777 == 0o711
    assert [file.kept for file in done if file.kept] == [folder / "loopback.orig"]
    assert version_of(folder / "loopback")["cniVersion"] == "1.1.0"


def test_a_copy_is_never_overwritten(folder: Path, tmp_path: Path) -> None:
    """If a kept copy exists already, even force writes nothing."""
    (folder / "loopback").write_bytes(b"second")
    (folder / "loopback.orig").write_bytes(b"first")
    with pytest.raises(CNIError, match="cannot be kept"):
        install.install(folder, tmp_path, force=True)
    assert listing(folder) == {"loopback": b"second", "loopback.orig": b"first"}


def test_folder_in_the_way(folder: Path, tmp_path: Path) -> None:
    """A folder under a plugin's name is refused, force or not."""
    (folder / "bridge").mkdir()
    with pytest.raises(CNIError, match="is a folder"):
        install.install(folder, tmp_path, force=True)
    assert sorted(path.name for path in folder.iterdir()) == ["bridge"]


def test_link_is_kept_as_a_link(folder: Path, tmp_path: Path) -> None:
    """A symbolic link is somebody's too; it is kept and what it points to is not touched."""
    target = tmp_path / "real"
    target.write_bytes(b"real")
    (folder / "bridge").symlink_to(target)
    with pytest.raises(CNIError, match="was not written by pycni"):
        install.install(folder, tmp_path)
    install.install(folder, tmp_path, force=True)
    assert target.read_bytes() == b"real"
    assert (folder / "bridge.orig").readlink() == target


def test_missing_folder(tmp_path: Path) -> None:
    """The plugin folder is not made: a runtime looks elsewhere if it is missing."""
    with pytest.raises(CNIError, match="does not exist"):
        install.install(tmp_path / "nowhere", tmp_path)
    assert not (tmp_path / "nowhere").exists()


def test_dry_run_writes_nothing(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--dry-run` says what would be done."""
    arguments = ["install", "--bin-dir", str(folder), "--run-dir", str(tmp_path), "--dry-run"]
    assert main(arguments) == 0
    assert capsys.readouterr().out.splitlines() == [f"would be created: {folder / name}" for name in NAMES]
    assert listing(folder) == {}


def test_command_says_what_it_refuses(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command ends with status 1 and one line that names the file and the way out."""
    (folder / "bridge").write_bytes(b"")
    assert main(["install", "--bin-dir", str(folder), "--run-dir", str(tmp_path)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{folder / 'bridge'} was not written by pycni" in line
    assert "--force" in line


def test_run_directory_that_no_socket_fits_in(folder: Path) -> None:
    """A run directory too long for a socket's path is refused at once, not at each start of a plugin."""
    with pytest.raises(CNIError, match="is too long"):
        install.install(folder, "/run/" + "x" * 100)
    assert listing(folder) == {}


@pytest.mark.parametrize("name", ["with blank", 'quote"and$HOME', "x" * 240])
def test_interpreter_that_the_kernel_cannot_be_told(name: str, folder: Path, tmp_path: Path) -> None:
    """An interpreter whose path has blanks, or does not fit in a first line, is found."""
    python = tmp_path / name / "python3"
    python.parent.mkdir()
    python.symlink_to(sys.executable)
    text = install.launcher_text(
        "loopback", "pycni_loopback.plugin:Loopback", run_dir=tmp_path, python=str(python)
    )
    install.write_launchers(folder, {"loopback": text})
    assert read_launcher(str(folder / "loopback")) is not None
    assert version_of(folder / "loopback")["cniVersion"] == "1.1.0"


def test_third_party_plugin(folder: Path, tmp_path: Path) -> None:
    """A plugin from any folder gets an executable: one that starts with nothing set."""
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "other_plugin.py").write_text(
        "import pycni.skel\nclass Other(pycni.skel.Plugin):\n    name, supported = 'other', ('1.0.0',)\n"
    )
    text = install.launcher_text(
        "other", "other_plugin:Other", paths=[str(tmp_path / "lib")], run_dir=tmp_path
    )
    install.write_launchers(folder, {"other": text})
    assert version_of(folder / "other")["supportedVersions"] == ["1.0.0"]


def test_removed_installation(folder: Path, tmp_path: Path) -> None:
    """When pycni is gone, an executable that was left still prints an error object and fails."""
    root = tmp_path / "root"
    shutil.copytree(Path(ROOT) / "pycni", root / "pycni", ignore=shutil.ignore_patterns("__pycache__"))
    text = install.launcher_text("loopback", "pycni_loopback.plugin:Loopback", run_dir=tmp_path)
    interpreter, rest = text.split("\n", 1)
    install.write_launchers(folder, {"loopback": f"{interpreter}\n{rest.replace(ROOT, str(root))}"})
    shutil.rmtree(root)
    done = subprocess.run(
        [folder / "loopback"], env={"CNI_COMMAND": "VERSION"}, capture_output=True, check=False
    )
    assert done.returncode == 1
    assert json.loads(done.stdout)["code"] == 999
    assert done.stderr == b""


@pytest.mark.parametrize(
    ("points", "words"),
    [
        ([("bridge", "a:A"), ("bridge", "b:B")], "registered twice"),
        ([("../bridge", "a:A")], "cannot be a file name"),
        ([("", "a:A")], "cannot be a file name"),
    ],
)
def test_entry_points_that_cannot_be(
    points: list[tuple[str, str]], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two plugins of one name, or a name that is a path, are refused."""
    made = [EntryPoint(name, value, install.GROUP) for name, value in points]
    monkeypatch.setattr(install, "entry_points", lambda group: made)
    with pytest.raises(CNIError, match=words):
        install.registered_plugins()
