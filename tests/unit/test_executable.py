"""Installed executables as processes, no agent about: whatever their caller left open, closed or set."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pycni import install
from pycni.request import STDIN_LIMIT

PLUGIN = """
import os
from pycni.skel import Plugin
from pycni.types import DNS, Result

class Mirror(Plugin):
    name = "mirror"
    loopless = True
    async def add(self, request, ctx):
        told = dict(request.env)
        told["cwd"], told["umask"] = ctx.caller.cwd, f"{ctx.caller.umask:04o}"
        told["fds"] = " ".join(sorted(os.listdir("/proc/self/fd")))
        told["padding"] = "x" * int(request.config.get("padding", 0))
        return Result(dns=DNS(search=tuple(f"{name}={value}" for name, value in told.items())))
    async def delete(self, request, ctx):
        ctx.log("deleted")
    async def check(self, request, ctx):
        raise SystemExit(3)
"""
ENV = {
    "CNI_COMMAND": "ADD",
    "CNI_CONTAINERID": "c",
    "CNI_IFNAME": "e",
    "CNI_NETNS": "/nowhere",
    "CNI_PATH": "/",
}
CONFIG = b'{"cniVersion":"1.0.0","name":"net"}'


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The executable of a plugin that tells what it got."""
    folder = tmp_path_factory.mktemp("mirror")
    (folder / "mirror_plugin.py").write_text(PLUGIN)
    text = install.launcher_text(
        "mirror", "mirror_plugin:Mirror", paths=[str(folder)], run_dir=tmp_path_factory.mktemp("run")
    )
    install.write_launchers(folder, {"mirror": text})
    return folder / "mirror"


def call(
    mirror: Path, env: dict[str, str] | None = None, stdin: bytes = CONFIG, **options: Any
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [mirror], env=ENV if env is None else env, input=stdin, capture_output=True, timeout=60, **options
    )


def told(done: subprocess.CompletedProcess[bytes]) -> dict[str, str]:
    assert done.returncode == 0, done
    return dict(text.split("=", 1) for text in json.loads(done.stdout)["dns"]["search"])


def error(done: subprocess.CompletedProcess[bytes]) -> dict[str, Any]:
    assert done.returncode == 1, done
    assert done.stderr == b""
    members: dict[str, Any] = json.loads(done.stdout)
    return members


def through_sh(mirror: Path, redirections: str, stdin: bytes = CONFIG) -> subprocess.CompletedProcess[bytes]:
    command = f'exec "{mirror}" {redirections}'
    return subprocess.run(["/bin/sh", "-c", command], env=ENV, input=stdin, capture_output=True, timeout=60)


def test_environment_is_the_caller_s(mirror: Path) -> None:
    """Nothing is added to the environment (an interpreter adds LC_CTYPE in a C locale) and nothing lost."""
    env = {**ENV, "LC_ALL": "C", "X": "a=b c", "EMPTY": ""}
    found = told(call(mirror, env))
    assert {name: found[name] for name in env} == env
    assert set(found) == set(env) | {"cwd", "umask", "fds", "padding"}


def test_python_variables_of_somebody_else(mirror: Path, tmp_path: Path) -> None:
    """PYTHON* variables change nothing, not even a module path full of broken modules."""
    for name in ("os", "posixpath", "pycni", "_socket"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('stolen')")
    env = {
        **ENV,
        "PYTHONPATH": str(tmp_path),
        "PYTHONHOME": "/nowhere",
        "PYTHONSTARTUP": "/x",
        "PYTHONINSPECT": "1",
    }
    assert told(call(mirror, env, cwd=tmp_path))["PYTHONHOME"] == "/nowhere"


@pytest.mark.parametrize("umask", [0, 0o022, 0o777])
def test_any_umask(mirror: Path, umask: int) -> None:
    """The umask is the caller's, and none hinders."""
    assert told(call(mirror, umask=umask))["umask"] == f"{umask:04o}"


def test_removed_directory(mirror: Path, tmp_path: Path) -> None:
    """A working directory that was removed is told as empty."""
    gone = tmp_path / "gone"
    gone.mkdir()
    command = f'rmdir "{gone}"; exec "{mirror}"'
    done = subprocess.run(
        ["/bin/sh", "-c", command],
        env={**ENV, "PATH": "/bin:/usr/bin"},
        cwd=gone,
        input=CONFIG,
        capture_output=True,
    )
    assert told(done)["cwd"] == ""


def test_closed_standard_error(mirror: Path) -> None:
    """Without a standard error everything works."""
    assert told(through_sh(mirror, "2>&-"))["CNI_IFNAME"] == "e"


def test_closed_standard_input(mirror: Path) -> None:
    """A closed standard input reads as an empty one."""
    found = error(through_sh(mirror, "0<&-"))
    assert (found["code"], found["msg"]) == (
        6,
        "error unmarshall network config: unexpected end of JSON input",
    )


@pytest.mark.row("contract", 90)
def test_closed_standard_output(mirror: Path) -> None:
    """With standard output closed the answer vanishes; the exit status is as usual."""
    assert through_sh(mirror, ">&-").returncode == 0
    assert through_sh(mirror, ">&-", b"{}").returncode == 1


def test_all_closed(mirror: Path) -> None:
    """No descriptor of ours is ever taken for a standard stream."""
    assert through_sh(mirror, "0<&- >&- 2>&-").returncode == 1


@pytest.mark.row("contract", 90)
def test_full_standard_output(mirror: Path) -> None:
    """An answer that cannot be written is a failure, told on standard error."""
    done = through_sh(mirror, ">/dev/full")
    assert done.returncode == 1
    assert done.stderr == b"Error writing to stdout: [Errno 28] No space left on device\n"


@pytest.mark.row("contract", 90)
def test_nobody_reads_standard_output(mirror: Path) -> None:
    """Where nobody reads the answer any more SIGPIPE ends the process, as it does the reference."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    with subprocess.Popen([mirror], env=ENV, stdin=subprocess.PIPE, stdout=write_end) as process:
        os.close(write_end)
        process.communicate(CONFIG)
    assert process.returncode == -signal.SIGPIPE


def test_nobody_reads_standard_error(mirror: Path) -> None:
    """A log line that nobody reads is no reason to fail."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    env = {**ENV, "CNI_COMMAND": "DEL"}
    with subprocess.Popen([mirror], env=env, stdin=subprocess.PIPE, stderr=write_end) as process:
        os.close(write_end)
        process.communicate(CONFIG)
    assert process.returncode == 0


def test_non_blocking_streams(mirror: Path) -> None:
    """Pipes that somebody made non-blocking are waited for, both ways."""
    config = json.dumps({"cniVersion": "1.0.0", "name": "net", "padding": 300_000}).encode()
    stdin, to_process = os.pipe()
    from_process, stdout = os.pipe()
    os.set_blocking(stdin, False)
    os.set_blocking(stdout, False)
    with subprocess.Popen([mirror], env=ENV, stdin=stdin, stdout=stdout) as process:
        os.close(stdin)
        os.close(stdout)
        with open(to_process, "wb") as writer, open(from_process, "rb") as reader:
            writer.write(config)
            writer.close()
            answer = reader.read()
    assert process.returncode == 0
    assert len(answer) > 300_000


def test_standard_input_that_cannot_be_read(mirror: Path) -> None:
    """A standard input that is open for writing only is code 5."""
    found = error(through_sh(mirror, "0>/dev/null"))
    assert (found["code"], found["msg"]) == (5, "error reading from stdin: bad file descriptor")


def test_huge_standard_input(mirror: Path) -> None:
    """A config over the limit is code 5, and is not read to its end."""
    with subprocess.Popen([mirror], env=ENV, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        sent = 0
        with contextlib.suppress(BrokenPipeError):
            while sent < 2 * STDIN_LIMIT:
                sent += os.write(process.stdin.fileno(), b" " * (1 << 16))
        assert STDIN_LIMIT <= sent < 2 * STDIN_LIMIT
        found = json.loads(process.stdout.read())
    assert (found["code"], process.returncode) == (5, 1)
    assert str(STDIN_LIMIT) in found["msg"]


@pytest.mark.row("contract", 3)
@pytest.mark.parametrize("verb", ["", "VERSION"])
def test_standard_input_is_not_read(mirror: Path, verb: str) -> None:
    """Without a command and for VERSION standard input stays open and unread."""
    with subprocess.Popen(
        [mirror],
        env={"CNI_COMMAND": verb},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.wait(60) == 0
        assert process.stdin is not None


@pytest.mark.row("contract", 1)
def test_no_command(mirror: Path) -> None:
    """A bare call says on standard error what this is, and succeeds."""
    done = call(mirror, {}, b"")
    assert (done.returncode, done.stdout) == (0, b"")
    assert done.stderr.startswith(b"CNI mirror plugin ")
    assert len(done.stderr.splitlines()) == 2


def test_log_goes_to_standard_error(mirror: Path) -> None:
    """What a plugin logs is a line on standard error."""
    assert call(mirror, {**ENV, "CNI_COMMAND": "DEL"}).stderr == b"deleted\n"


def test_plugin_that_calls_exit(mirror: Path) -> None:
    """Whatever a plugin raises, an error object is printed."""
    found = error(call(mirror, {**ENV, "CNI_COMMAND": "CHECK"}))
    assert found["code"] == 999
    assert "SystemExit" in found["msg"]


def test_names_that_are_no_utf8(mirror: Path) -> None:
    """Bytes that are no UTF-8 pass through the environment unharmed."""
    env = {name.encode(): value.encode() for name, value in ENV.items()} | {b"X": b"a\xff"}
    done = subprocess.run([mirror], env=env, input=CONFIG, capture_output=True)
    assert told(done)["X"] == "a\ufffd"


def test_interpreter_finds_no_module_in_the_working_directory(mirror: Path, tmp_path: Path) -> None:
    """A file in the working directory is never taken for a module."""
    (tmp_path / "mirror_plugin.py").write_text("raise RuntimeError('stolen')")
    assert told(call(mirror, cwd=tmp_path))["cwd"] == str(tmp_path)


def test_tests_run_the_interpreter_they_mean(mirror: Path) -> None:
    """The executable names the interpreter that installed it."""
    first = mirror.read_text().splitlines()[0]
    interpreter = first.removeprefix("#!").split(" -")[0]
    assert os.path.samefile(interpreter, sys.executable)
