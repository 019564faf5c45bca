"""Running a foreign plugin: what it gets, and that its end is always seen."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pycni import execute as module
from pycni.execute import execute, execute_for_agent
from pycni.handover import encode_environment

if TYPE_CHECKING:
    from collections.abc import Callable


_PATH = {"PATH": "/usr/bin:/bin"}


@pytest.fixture
def script(tmp_path: Path) -> Callable[[str], str]:
    """Write an executable sh script."""

    def write(text: str) -> str:
        path = tmp_path / "plugin"
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return str(path)

    return write


def test_streams_and_status(script: Callable[[str], str]) -> None:
    """Standard input arrives; both outputs and the exit status come back."""
    done = execute(script("cat; echo oops >&2; exit 5"), {}, b"config")
    assert (done.status, done.stdout, done.stderr, done.failure) == (5, b"config", b"oops\n", "")


def test_large_streams(script: Callable[[str], str]) -> None:
    """More than a pipe holds goes both ways without a deadlock."""
    data = os.urandom(1 << 20)
    assert execute(script("exec cat"), _PATH, data).stdout == data


def test_unread_standard_input(script: Callable[[str], str]) -> None:
    """A program need not read what it is sent."""
    assert execute(script("exit 0"), {}, bytes(1 << 20)).status == 0


def test_exact_environment(script: Callable[[str], str]) -> None:
    """The program's environment is the one given, and nothing of this process's."""
    done = execute(script("exec /usr/bin/env"), {"CNI_COMMAND": "ADD", "X": "a b"}, b"")
    # dash adds PWD by itself
    assert set(done.stdout.splitlines()) - {f"PWD={os.getcwd()}".encode()} == {b"CNI_COMMAND=ADD", b"X=a b"}


def test_directory_umask_and_signals(
    script: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Working directory and umask are this process's; SIGPIPE, which Python ignores, is not ignored."""
    monkeypatch.chdir(tmp_path)
    before = os.umask(0o027)
    try:
        done = execute(script("pwd; umask; grep SigIgn /proc/$$/status"), _PATH, b"")
    finally:
        os.umask(before)
    folder, umask, ignored = done.stdout.decode().splitlines()
    assert (folder, umask) == (str(tmp_path), "0027")
    assert not int(ignored.split()[1], 16) & (1 << 12 | 1 << 24)


def test_descriptors_do_not_leak(script: Callable[[str], str]) -> None:
    """Beside its three streams the program gets what is inheritable, and none of this process's pipes."""
    before = {name for name in os.listdir("/proc/self/fd") if name > "2" and _inheritable(int(name))}
    lines = execute(script("exec ls -l /proc/self/fd"), _PATH, b"").stdout.decode().splitlines()
    pipes = {line.split()[-3] for line in lines if line.split()[-1].startswith("pipe:")}
    assert {"0", "1", "2"} <= pipes <= {"0", "1", "2"} | before


def _inheritable(descriptor: int) -> bool:
    try:
        return os.get_inheritable(descriptor)
    except OSError:
        return False


def test_path_as_argument_zero(tmp_path: Path) -> None:
    """The program is told its own path, and no arguments."""
    path = tmp_path / "plugin"
    path.write_text(f"#!{sys.executable} -IS\nimport sys; print(sys.argv)\n")
    path.chmod(0o755)
    assert execute(str(path), {}, b"").stdout.decode() == f"{[str(path)]}\n"


@pytest.mark.parametrize(
    ("content", "mode", "failure"),
    [
        (None, 0, "no such file or directory"),
        ("#!/nowhere/sh\n", 0o755, "no such file or directory"),
        ("just text", 0o755, "exec format error"),
        ("#!/bin/sh\n", 0o644, "permission denied"),
    ],
)
def test_program_that_cannot_start(content: str | None, mode: int, failure: str, tmp_path: Path) -> None:
    """What the system says about a program that does not start comes back in its words."""
    path = tmp_path / "plugin"
    if content is not None:
        path.write_text(content)
        path.chmod(mode)
    done = execute(str(path), {}, b"")
    assert (done.status, done.failure) == (-1, failure)


def test_death_by_signal(script: Callable[[str], str]) -> None:
    """A program that was killed has a negative status, and what it printed before."""
    done = execute(script("echo begun; kill -9 $$"), {}, b"")
    assert (done.status, done.stdout) == (-9, b"begun\n")


def test_descendant_that_keeps_the_output_open(
    script: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that left something running in the background has ended all the same."""
    monkeypatch.setattr(module, "PIPE_SECONDS", 0.05)
    done = execute(script("sleep 30 & echo $!"), _PATH, b"")
    os.kill(int(done.stdout), 9)
    assert done.status == 0


@pytest.mark.row("contract", 63)
def test_busy_file_is_tried_again(script: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that somebody is still writing is tried six times; the last failure is reported."""
    tried: list[str] = []

    def busy(path: str, *_arguments: object, **_options: object) -> int:
        tried.append(path)
        raise OSError(26, "Text file busy")

    monkeypatch.setattr(module, "BUSY_SECONDS", 0.0)
    monkeypatch.setattr(os, "posix_spawn", busy)
    assert execute(script(""), {}, b"").failure == "text file busy"
    assert len(tried) == 6


def test_stopped(script: Callable[[str], str]) -> None:
    """Once this process is asked to stop, the program gets SIGTERM and may still clean up."""
    path = script("trap 'echo ended; exit 3' TERM; echo begun; while :; do sleep 0.01; done")
    began = time.monotonic()
    done = execute(path, _PATH, b"", lambda: time.monotonic() - began > 0.2)
    assert (done.status, done.stdout) == (3, b"begun\nended\n")


def test_stopped_and_deaf(script: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that does not end on SIGTERM is killed."""
    monkeypatch.setattr(module, "KILL_SECONDS", 0.1)
    path = script("trap '' TERM; while :; do sleep 0.01; done")
    began = time.monotonic()
    assert execute(path, _PATH, b"", lambda: time.monotonic() - began > 0.2).status == -9


def test_on_the_agent_s_word(script: Callable[[str], str]) -> None:
    """The fields of EXECUTE become those of EXECUTED."""
    fields = (script("cat; printf $X >&2; kill -15 $$").encode(), encode_environment({"X": "y"}), b"in")
    status, failure, stdout, stderr = execute_for_agent(fields, [])
    assert int.from_bytes(status, "little", signed=True) == -15
    assert (failure, stdout, stderr) == (b"", b"in", b"y")


def test_clean_up_is_not_stopped_again(script: Callable[[str], str]) -> None:
    """A program that the agent asks for after the signal belongs to the clean-up and runs to its end."""
    status, *_ = execute_for_agent((script("exit 0").encode(), b"", b""), [15])
    assert int.from_bytes(status, "little") == 0
