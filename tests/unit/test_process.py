"""pycni.kernel.process: the system's tools, found and executed with a limit."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pycni.errors import IO_FAILURE, TRY_AGAIN_LATER, CNIError
from pycni.kernel import process


def _script(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_everything_is_handed_over_and_back(tmp_path: Path) -> None:
    """Arguments and standard input arrive whole; both outputs and the exit status come back."""
    path = _script(tmp_path, "tool", 'echo "$1|$2"; wc -c; echo bad >&2; exit 7')
    done = process.run(path, ("a b", "c"), b"x" * 3_000_000)
    assert (done.status, done.stdout.split(), done.stderr) == (7, [b"a", b"b|c", b"3000000"], b"bad\n")


def test_a_signal_is_a_negative_status(tmp_path: Path) -> None:
    """A tool that dies by a signal is told from one that exits."""
    assert process.run(_script(tmp_path, "tool", "kill -TERM $$"), ()).status == -15


def test_the_wait_is_bounded(tmp_path: Path) -> None:
    """A tool that does not end is killed, and the caller may try again later."""
    path = _script(tmp_path, "tool", 'echo $$ > "$1"; exec sleep 1000')
    with pytest.raises(CNIError, match=r"tool did not end within 0\.5 seconds") as caught:
        process.run(path, (str(tmp_path / "pid"),), seconds=0.5)
    assert caught.value.code == TRY_AGAIN_LATER
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_what_cannot_be_started_is_named(tmp_path: Path) -> None:
    """A file that is no program gives an error of ours, not an OSError."""
    path = tmp_path / "tool"
    path.write_text("")
    path.chmod(0o755)
    path.write_bytes(b"\x7fELF nonsense")
    with pytest.raises(CNIError, match="failed to run tool: exec format error") as caught:
        process.run(str(path), ())
    assert caught.value.code == IO_FAILURE


def test_no_descriptor_is_lost(tmp_path: Path) -> None:
    """Success and failure both close what they opened."""
    path = _script(tmp_path, "tool", "exit 0")
    before = os.listdir("/proc/self/fd")
    process.run(path, ())
    with pytest.raises(CNIError):
        process.run(str(tmp_path / "absent"), ())
    assert os.listdir("/proc/self/fd") == before


def test_messages_come_in_english(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the caller's language, the tools speak the one that we read; PATH is never empty."""
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    monkeypatch.delenv("PATH")
    done = process.run(_script(tmp_path, "tool", 'echo "$LC_ALL $PATH"'), ())
    assert done.stdout == b"C /usr/sbin:/sbin:/usr/bin:/bin\n"


def test_tools_are_found_without_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runtimes call plugins with an empty environment."""
    monkeypatch.delenv("PATH")
    found = process.find("sh")
    assert found is not None
    assert found.startswith("/")


def test_path_goes_first_and_only_absolute_entries_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PATH decides, but nothing is executed from the working directory."""
    path = _script(tmp_path, "sh", "")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert process.find("sh") == path
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", ":.:relative")
    assert process.find("sh") != path
    assert process.find("there-is-no-such-tool") is None
