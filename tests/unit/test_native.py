"""The native launcher without an agent: compiled, filled in, told from other files, and its fallback."""

from __future__ import annotations

import json
import re
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pycni import execute, handover, install, launcher
from pycni.agent import protocol
from pycni.cli.main import main
from pycni.delegate import MARKER, ROOT, read_launcher
from pycni.errors import CNIError
from pycni.native import build

LOOPBACK = ("loopback", "pycni_loopback.plugin:Loopback")
SETTINGS = ("release", "plugin", "ref", "/run/x/agent.sock", "/usr/bin/python3", "text", "{}")


@pytest.fixture(scope="module")
def compiled() -> bytes:
    """The program as it is compiled here and now."""
    return build.compile_program()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "bin"
    made.mkdir()
    return made


def c_constants() -> dict[str, int]:
    """The numbers in the enumerations of the source."""
    found = {}
    for body in re.findall(r"enum \{(.*?)\};", build.SOURCE.read_text()):
        for name, value in re.findall(r"(\w+) = ([\w <]+)", body):
            base, _, shift = value.partition("<<")
            found[name] = int(base, 0) << int(shift or "0")
    return found


def test_source_is_small() -> None:
    """The C program stays below 300 lines that fit on a screen."""
    lines = build.SOURCE.read_text().splitlines()
    assert len(lines) < 300
    assert max(map(len, lines)) <= 115


def test_source_has_the_same_numbers() -> None:
    """Kinds, limits and times in C are those of the Python modules."""
    numbers = c_constants()
    for name in ("REQUEST", "TAKEN", "GO", "EXECUTE", "EXECUTED", "ANSWER", "CANCEL", "FRAME_LIMIT"):
        assert numbers[name] == getattr(protocol, name), name
    assert numbers["PROTOCOL"] == protocol.VERSION
    assert numbers["HEAD"] == protocol.HEAD_BYTES
    assert numbers["FIELDS"] == protocol.FIELDS[protocol.EXECUTE] == protocol.FIELDS[protocol.ANSWER]
    for name in ("TAKEN_SECONDS", "STDIN_LIMIT"):
        assert numbers[name] == getattr(launcher, name), name
    for name in ("OUTPUT_LIMIT", "BUSY_ATTEMPTS", "BUSY_SECONDS", "PIPE_SECONDS", "KILL_SECONDS"):
        assert numbers[name] == getattr(execute, name), name
    assert numbers["TOO_LARGE"] == handover.TOO_LARGE
    assert f"settings[{build.SETTINGS_BYTES}]" in build.SOURCE.read_text()


def test_compiles_without_a_warning(tmp_path: Path) -> None:
    """The compiler has nothing to say, not even with all its warnings on."""
    flags = (*build.FLAGS, "-Wconversion", "-Wshadow", "-Wpedantic", "-Werror")
    assert build.compile_program(flags).startswith(b"\x7fELF")


def needs_a_loader(program: bytes) -> bool:
    """Whether an ELF file has a segment of type PT_INTERP (elf(5)); for 64 bits and this byte order."""
    table, size, count = (
        struct.unpack_from("Q", program, 32)[0],
        *struct.unpack_from("HH", program, 54),
    )
    return any(struct.unpack_from("I", program, table + at * size)[0] == 3 for at in range(count))


def test_is_static_where_possible(compiled: bytes, tmp_path: Path) -> None:
    """The program needs no other file to start; where the C library has no static form, it is dynamic."""
    assert not needs_a_loader(compiled)
    dynamic = build.compile_program(linking=(("-static", "-lno-such-library"), ()))
    assert needs_a_loader(dynamic)
    data = install.native_launcher(dynamic, *LOOPBACK, run_dir=tmp_path)
    install.write_launchers(tmp_path, {"loopback": data})
    assert version_of(tmp_path / "loopback")["cniVersion"] == "1.1.0"


def test_compiling_is_repeatable(compiled: bytes) -> None:
    """The same source gives the same program, so that a second installation finds nothing to do."""
    assert build.compile_program() == compiled


def test_no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without a compiler "auto" is Python, with the reason; "native" is an error that says what to do."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(build, "prebuilt", lambda: tmp_path / "none")
    build.program.cache_clear()
    program, reason = build.choose("auto")
    assert program is None
    assert "no C compiler" in reason
    with pytest.raises(CNIError, match="no C compiler") as caught:
        build.choose("native")
    assert "--launcher python" in caught.value.details
    assert build.choose("python") == (None, "")


def test_compiler_that_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A compiler's last words are in the error."""
    compiler = tmp_path / "cc"
    compiler.write_text("#!/bin/sh\necho 'launcher.c: no such header' >&2\nexit 3\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CNIError, match="cannot be compiled") as caught:
        build.compile_program()
    assert "exit status 3: launcher.c: no such header" in caught.value.details


def test_prebuilt_program_needs_no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A program compiled beforehand is taken as it is."""
    beforehand = tmp_path / "launcher"
    beforehand.write_bytes(b"program")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(build, "prebuilt", lambda: beforehand)
    build.program.cache_clear()
    try:
        assert build.choose("auto") == (b"program", "")
    finally:
        build.program.cache_clear()


def test_prebuilt_program_is_of_this_source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A program compiled from another source has another name."""
    name = build.prebuilt().name
    changed = tmp_path / "launcher.c"
    changed.write_bytes(build.SOURCE.read_bytes() + b"\n")
    monkeypatch.setattr(build, "SOURCE", changed)
    assert build.prebuilt().name != name


def test_settings_are_filled_in(compiled: bytes) -> None:
    """The settings take the placeholder's place, at the same length, and the trailer comes last."""
    data = build.fill(compiled, SETTINGS, b"\n#last\n")
    assert len(data) == len(compiled) + len(b"\n#last\n")
    assert "\0".join(SETTINGS).encode() + b"\0" in data
    assert data.endswith(b"\n#last\n")
    assert build.PLACEHOLDER not in data


def test_settings_that_do_not_fit(compiled: bytes) -> None:
    """Settings up to the size of their place are filled in, longer ones are refused."""
    most = build.SETTINGS_BYTES - len("".join(SETTINGS)) - len(SETTINGS)
    build.fill(compiled, (*SETTINGS[:-1], "{}" + "x" * most), b"")
    with pytest.raises(CNIError, match="do not fit") as caught:
        build.fill(compiled, (*SETTINGS[:-1], "{}" + "x" * (most + 1)), b"")
    assert "--launcher python" in caught.value.details


@pytest.mark.parametrize("times", [0, 2])
def test_program_without_a_place_for_settings(times: int) -> None:
    """What is not a program of this source, or is filled in already, is refused."""
    place = build.PLACEHOLDER.ljust(build.SETTINGS_BYTES, b"\0")
    with pytest.raises(ValueError, match="no native launcher"):
        build.fill(b"\x7fELF" + times * place, SETTINGS, b"")


def test_setting_with_a_nul(compiled: bytes) -> None:
    """A NUL would shift the settings that follow."""
    with pytest.raises(ValueError, match="a NUL"):
        build.fill(compiled, ("a\0b", *SETTINGS[1:]), b"")


def version_of(executable: Path) -> Any:
    done = subprocess.run([executable], env={"CNI_COMMAND": "VERSION"}, capture_output=True, check=True)
    return json.loads(done.stdout)


def test_marker_of_a_native_launcher(compiled: bytes, folder: Path, tmp_path: Path) -> None:
    """It is known by its last line; an ELF file without one is somebody else's."""
    install.install(folder, tmp_path, compiled=compiled)
    marker = read_launcher(str(folder / "host-local"))
    assert marker is not None
    assert (marker.plugin, marker.ref, marker.root) == (
        "host-local",
        "pycni_hostlocal.plugin:HostLocal",
        ROOT,
    )
    (folder / "other").write_bytes(compiled)
    assert read_launcher(str(folder / "other")) is None
    line = (folder / "host-local").read_bytes()[len(compiled) :]
    assert line.startswith(b"\n" + MARKER)
    (folder / "early").write_bytes(b"\x7fELF" + line + bytes(5000))
    assert read_launcher(str(folder / "early")) is None
    (folder / "short").write_bytes(b"\x7fELF" + line)
    assert read_launcher(str(folder / "short")) == marker


def test_kinds_replace_each_other(compiled: bytes, folder: Path, tmp_path: Path) -> None:
    """Native and Python launchers are both ours: the one replaces the other, and itself is left alone."""
    for program, what in (
        (None, "created"),
        (compiled, "replaced"),
        (None, "replaced"),
        (compiled, "replaced"),
    ):
        assert {file.what for file in install.install(folder, tmp_path, compiled=program)} == {what}
        before = {path: path.stat() for path in folder.iterdir()}
        assert {file.what for file in install.install(folder, tmp_path, compiled=program)} == {"unchanged"}
        assert {path: path.stat() for path in folder.iterdir()} == before
        assert version_of(folder / "bridge")["cniVersion"] == "1.1.0"


@pytest.mark.parametrize(("kind", "start"), [("native", b"\x7fELF"), ("auto", b"\x7fELF"), ("python", b"#!")])
def test_command(kind: str, start: bytes, folder: Path, tmp_path: Path) -> None:
    """`--launcher` says which kind is written; by default the native one, where it can be compiled."""
    arguments = ["install", "--launcher", kind, "--bin-dir", str(folder), "--run-dir", str(tmp_path)]
    assert main(arguments) == 0
    assert {path.read_bytes()[: len(start)] for path in folder.iterdir()} == {start}


def test_command_without_a_compiler(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a compiler the command installs what starts Python and says so; if told "native" it refuses."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(build, "prebuilt", lambda: tmp_path / "none")
    build.program.cache_clear()
    arguments = ["install", "--bin-dir", str(folder), "--run-dir", str(tmp_path)]
    assert main([*arguments, "--launcher", "native"]) == 1
    assert "no C compiler" in capsys.readouterr().err
    assert list(folder.iterdir()) == []
    assert main(arguments) == 0
    assert "executables will start Python: no C compiler" in capsys.readouterr().err
    assert {path.read_bytes()[:2] for path in folder.iterdir()} == {b"#!"}


def test_name_of_the_executable_does_not_matter(compiled: bytes, folder: Path, tmp_path: Path) -> None:
    """What it is stands in the file: any name, any first argument, arguments and an empty environment do."""
    install.install(folder, tmp_path, compiled=compiled)
    (folder / "host-local").rename(folder / "x")
    done = subprocess.run(["-", "a", "b"], executable=folder / "x", env={}, capture_output=True, check=True)
    assert done.stderr.startswith(b"CNI host-local plugin ")
