"""What a native launcher becomes where no agent takes its call: the one-shot process."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from pycni import install
from pycni.delegate import ROOT
from pycni.native import build

if TYPE_CHECKING:
    from pathlib import Path

LOOPBACK = ("loopback", "pycni_loopback.plugin:Loopback")
MIRROR = """
import os
from pycni.skel import Plugin
from pycni.types import DNS, Result

class Mirror(Plugin):
    name = "mirror"
    loopless = True
    async def add(self, request, ctx):
        told = {**request.env, "cwd": ctx.caller.cwd, "umask": f"{ctx.caller.umask:04o}",
                "fds": " ".join(sorted(os.listdir("/proc/self/fd"))), "pid": str(await ctx.run(os.getpid))}
        return Result(dns=DNS(search=tuple(f"{name}={value}" for name, value in told.items())))
    async def delete(self, request, ctx):
        await ctx.run(os.getpid)
"""
ADD = {
    "CNI_COMMAND": "ADD",
    "CNI_CONTAINERID": "c",
    "CNI_IFNAME": "e",
    "CNI_NETNS": "/nowhere",
    "CNI_PATH": "/",
}
CONFIG = b'{"cniVersion":"1.0.0","name":"net"}'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "bin"
    made.mkdir()
    return made


@pytest.fixture(scope="module")
def compiled() -> bytes:
    """The program as it is compiled here and now."""
    return build.compile_program()


@pytest.fixture
def mirror(compiled: bytes, folder: Path, tmp_path: Path) -> Path:
    """The native executable of a plugin that tells what it got."""
    (tmp_path / "mirror_native.py").write_text(MIRROR)
    data = install.native_launcher(
        compiled, "mirror", "mirror_native:Mirror", paths=[str(tmp_path)], run_dir=tmp_path
    )
    install.write_launchers(folder, {"mirror": data})
    return folder / "mirror"


def test_fallback_hands_everything_on(mirror: Path, tmp_path: Path) -> None:
    """Environment, input, directory, umask, process id and descriptors of the one-shot process are right."""
    env = {
        **ADD,
        "LC_ALL": "C",
        "X": "a=b c",
        "EMPTY": "",
        "PYTHONPATH": "/nowhere",
        "PYTHONHOME": "/nowhere",
    }
    config = CONFIG[:-1] + b',"padding":"' + b"x" * 300_000 + b'"}'
    with subprocess.Popen(
        [mirror], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=tmp_path, umask=0o031
    ) as process:
        stdout, _ = process.communicate(config)
    assert process.returncode == 0, stdout
    told = dict(text.split("=", 1) for text in json.loads(stdout)["dns"]["search"])
    assert {name: told.pop(name) for name in env} == env
    descriptors = told.pop("fds").split()
    assert told == {"cwd": str(tmp_path), "umask": "0031", "pid": str(process.pid)}
    assert len(descriptors) == 5  # the streams, the attachment's lock, and the folder that lists them


def test_fallback_tells_what_became_of_standard_input(mirror: Path) -> None:
    """A standard input that cannot be read, is closed or too large is the error that it is with Python."""
    for redirection, code, words in (
        ("0>/dev/null", 5, "bad file descriptor"),
        ("0<&-", 6, "unexpected end of JSON input"),
        ("0</", 5, "is a directory"),
        ("0</dev/zero", 5, "16777216 bytes or more"),
    ):
        done = subprocess.run(
            ["/bin/sh", "-c", f'exec "{mirror}" {redirection}'], env=ADD, capture_output=True, timeout=60
        )
        error = failed(done)
        assert error["code"] == code
        assert words in error["msg"]


def test_standard_input_stays_unread_without_need(mirror: Path) -> None:
    """For VERSION, and without a command, standard input is the caller's: open and untouched."""
    read_end, write_end = os.pipe()
    os.write(write_end, b"untouched")
    for env in ({"CNI_COMMAND": "VERSION"}, {}):
        subprocess.run([mirror], env=env, stdin=read_end, capture_output=True, check=True, timeout=60)
    assert os.read(read_end, 100) == b"untouched"
    os.close(read_end)
    os.close(write_end)


def test_signal_on_the_way_to_python(mirror: Path) -> None:
    """A signal that arrives between GO and Python's own handlers is not lost and does not kill: code 11."""
    data = mirror.read_bytes()
    text = re.search(rb"import sys\nfacts = .*?\0", data, re.DOTALL)
    assert text is not None
    output, config = mirror.with_name("output"), mirror.with_name("config")
    config.write_bytes(CONFIG)
    pid = os.posix_spawn(
        sys.executable,
        [sys.executable, "-ISXutf8", "-c", text[0][:-1].decode(), "0", "1", "0"],
        ADD,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, str(config), os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(output), os.O_WRONLY | os.O_CREAT, 0o600),
        ],
        setsigmask=[signal.SIGTERM, signal.SIGINT, signal.SIGHUP],
    )
    os.kill(pid, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
    error = json.loads(output.read_text())
    assert (error["code"], error["msg"]) == (11, "cancelled by SIGTERM")


def failed(done: subprocess.CompletedProcess[bytes]) -> dict[str, Any]:
    assert (done.returncode, done.stderr) == (1, b"")
    members: dict[str, Any] = json.loads(done.stdout)
    return members


@pytest.mark.parametrize("what", ["interpreter", "package"])
def test_removed_installation(what: str, compiled: bytes, folder: Path, tmp_path: Path) -> None:
    """Without its interpreter or without pycni an executable still prints an error object and fails."""
    data = install.native_launcher(
        compiled,
        *LOOPBACK,
        paths=[],
        run_dir=tmp_path,
        python=str(tmp_path / "gone") if what == "interpreter" else sys.executable,
    )
    if what == "package":
        gone = str(tmp_path / "gone")[: len(ROOT)].ljust(len(ROOT), "x")
        data = data.replace(ascii(ROOT).encode(), ascii(gone).encode())
    install.write_launchers(folder, {"loopback": data})
    done = subprocess.run([folder / "loopback"], env={"CNI_COMMAND": "VERSION"}, capture_output=True)
    error = failed(done)
    assert (error["code"], error["msg"]) == (999, "pycni is not installed where this launcher expects it")
