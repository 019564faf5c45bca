"""Executing a plugin, and asking it for its versions (pycni.runtime.execute, pycni.runtime.probe)."""

from __future__ import annotations

import errno
import json
import os
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from chain_recorder import Recorder, network

from pycni.errors import CNIError
from pycni.runtime import execute as module
from pycni.runtime.execute import execute
from pycni.runtime.probe import parse_version_info, validate

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ENV = {"PATH": os.environ["PATH"]}


@pytest.fixture
def script(tmp_path: Path) -> Callable[[str], str]:
    """Write a shell script and tell its path."""

    def write(body: str) -> str:
        path = tmp_path / "plugin"
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
        return str(path)

    return write


def test_all_that_it_leaves_is_collected(script: Callable[[str], str]) -> None:
    """Standard output, standard error and the exit status; directory and umask are inherited."""
    done = anyio.run(execute, script("cat; pwd >&2; umask >&2; exit 3"), ENV, b"in\0put")
    assert (done.status, done.stdout) == (3, b"in\0put")
    mask = os.umask(0)
    os.umask(mask)
    assert done.stderr.decode().split() == [os.getcwd(), f"{mask:04o}"]


def test_a_plugin_need_not_read_its_input(script: Callable[[str], str]) -> None:
    """Two megabytes that nobody reads are no error."""
    done = anyio.run(execute, script("echo ok"), ENV, b"x" * (2 << 20))
    assert (done.status, done.stdout) == (0, b"ok\n")


def test_much_output_does_not_block(script: Callable[[str], str]) -> None:
    """A plugin that writes megabytes to both outputs before it reads is served."""
    body = "head -c 2000000 /dev/zero; head -c 2000000 /dev/zero >&2; cat >/dev/null"
    done = anyio.run(execute, script(body), ENV, b"x" * 200000)
    assert (len(done.stdout), len(done.stderr)) == (2000000, 2000000)


def test_a_grandchild_that_holds_the_pipes_is_not_waited_for(
    script: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the plugin's exit its output is complete within a bounded time."""
    monkeypatch.setattr(module, "PIPE_GRACE", 0.05)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    done = anyio.run(execute, script(f"(read line < {fifo}) & echo ok"), ENV, b"")
    assert (done.status, done.stdout) == (0, b"ok\n")
    fd = os.open(fifo, os.O_WRONLY)  # the grandchild still waits; this ends it
    os.close(fd)


@pytest.mark.parametrize(
    ("content", "failure"),
    [
        (b"\x7fELF rubbish", "exec format error"),
        (b"#!/nonexistent/sh\n", "no such file or directory"),
    ],
)
def test_what_cannot_be_started_is_told(script: Callable[[str], str], content: bytes, failure: str) -> None:
    """No exception: the system's word for why it never ran."""
    path = script("")
    with open(path, "wb") as file:
        file.write(content)
    assert anyio.run(execute, path, ENV, b"").failure == failure


class Busy:
    """Stands in for starting a process: "text file busy" for the first calls."""

    def __init__(self, times: int) -> None:
        self.times = times
        self.calls = 0
        self.real = anyio.open_process

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        if self.calls <= self.times:
            raise OSError(errno.ETXTBSY, "Text file busy")
        return await self.real(*args, **kwargs)


@pytest.mark.parametrize(("times", "calls", "failure"), [(1, 2, ""), (5, 6, ""), (6, 6, "text file busy")])
def test_a_plugin_that_is_being_replaced_is_tried_again(
    script: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, times: int, calls: int, failure: str
) -> None:
    """Six attempts; after the last one the system's error is told."""
    busy = Busy(times)
    monkeypatch.setattr(module, "BUSY_PAUSE", 0)
    monkeypatch.setattr(anyio, "open_process", busy)
    done = anyio.run(execute, script("cat"), ENV, b"in")
    assert (busy.calls, done.failure) == (calls, failure)
    assert done.stdout == (b"" if failure else b"in")


def test_cancelled_it_gives_the_plugin_time_to_undo(script: Callable[[str], str], tmp_path: Path) -> None:
    """The plugin gets SIGTERM and is waited for."""
    trap = f"trap 'echo undone > {tmp_path}/end; exit 1' TERM"
    _cancel_when_ready(script(f"{trap}; echo > {tmp_path}/ready; while :; do sleep 0.01; done"), tmp_path)
    assert (tmp_path / "end").read_text() == "undone\n"


def test_cancelled_it_does_not_wait_for_ever(
    script: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plugin that does not heed SIGTERM is killed."""
    monkeypatch.setattr(module, "TERM_GRACE", 0.05)
    body = f"trap '' TERM; echo $$ > {tmp_path}/pid; echo > {tmp_path}/ready; while :; do sleep 0.01; done"
    _cancel_when_ready(script(body), tmp_path)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def _cancel_when_ready(path: str, folder: Path) -> None:
    async def scenario() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(execute, path, ENV, b"")
            while not (folder / "ready").exists():
                await anyio.sleep(0.002)
            tasks.cancel_scope.cancel()

    anyio.run(scenario)


@pytest.mark.row("contract", 86)
@pytest.mark.parametrize(
    ("answer", "versions"),
    [
        (b'{"cniVersion":"1.1.0","supportedVersions":["0.4.0","1.0.0"]}', ("0.4.0", "1.0.0")),
        (b'{"cniVersion":"0.2.0"}', ("0.1.0", "0.2.0")),
    ],
)
def test_version_answers(answer: bytes, versions: tuple[str, ...]) -> None:
    """The list as it is told; a plugin of 0.2.0 may leave it out."""
    assert parse_version_info(answer) == versions


@pytest.mark.parametrize(
    ("answer", "msg"),
    [
        (b"", "decoding version info: unexpected end of JSON input"),
        (b"{}", "decoding version info: missing field cniVersion"),
        (b'{"cniVersion":"1.0.0"}', "decoding version info: missing field supportedVersions"),
        (b'{"cniVersion":1}', "decoding version info: json: cannot unmarshal number"),
    ],
)
def test_version_answers_that_are_none(answer: bytes, msg: str) -> None:
    """An answer that tells no versions is an error in the reference's words."""
    with pytest.raises(CNIError) as caught:
        parse_version_info(answer)
    assert caught.value.msg.startswith(msg)


def test_a_network_is_valid_if_all_plugins_speak_its_version(tmp_path: Path) -> None:
    """The capabilities of all plugins are told, sorted; the probe's environment is the reference's."""
    recorder = Recorder(tmp_path)
    versions = json.dumps({"cniVersion": "1.1.0", "supportedVersions": ["1.0.0"]})
    recorder.answer("a", "VERSION", f"echo '{versions}'")
    chain = network({"type": "a", "capabilities": {"z": True, "b": True, "no": False}}, version="1.0.0")
    assert anyio.run(validate, recorder.runtime(), chain) == ("b", "z")
    (call,) = recorder.calls
    assert call.stdin == b'{"cniVersion":"1.1.0"}'
    asked = [
        call.env[f"CNI_{name}"] for name in ("COMMAND", "NETNS", "IFNAME", "PATH", "CONTAINERID", "ARGS")
    ]
    assert asked == ["VERSION", "dummy", "dummy", "dummy", "", ""]


@pytest.mark.row("contract", 86)
def test_a_network_that_is_not_valid_says_all_that_is_wrong(tmp_path: Path) -> None:
    """Each plugin's problem is told, not just the first."""
    recorder = Recorder(tmp_path)
    versions = json.dumps({"cniVersion": "1.1.0", "supportedVersions": ["1.0.0"]})
    recorder.answer("a", "VERSION", f"echo '{versions}'")
    recorder.fail("b", "VERSION", '{"code":4,"msg":"unknown CNI_COMMAND: VERSION"}')
    with pytest.raises(CNIError) as caught:
        anyio.run(validate, recorder.runtime(), network("a", "b", "zz", version="0.2.0"))
    assert caught.value.msg == (
        '[plugin a does not support config version "0.2.0" '
        'plugin b does not support config version "0.2.0" '
        f'failed to find plugin "zz" in path [{recorder.bin}]]'
    )
