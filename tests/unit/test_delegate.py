"""pycni.delegate: which executable is found, how it is called, and what its answer means."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pycni import __version__, delegate
from pycni.addresses import CIDR, IP
from pycni.context import Caller, Completed, Context
from pycni.delegate import Delegates, Launcher, failure, find_plugin, read_launcher, success
from pycni.errors import CNIError
from pycni.execute import execute
from pycni.main import drive
from pycni.request import Request
from pycni.skel import Plugin
from pycni.types import Interface, IPConfig, Result, Route

if TYPE_CHECKING:
    from collections.abc import Iterator

VERBS = ("ADD", "CHECK", "DEL", "GC", "STATUS")
STDIN = b'{"cniVersion": "1.1.0",\n "name": "net", "ipam": {"type": "ipam"}, "prevResult": null}\n'
RESULT = {"cniVersion": "1.1.0", "ips": [{"address": "10.0.0.2/24", "gateway": "10.0.0.1"}]}


class FakeContext(Context):
    """Everything in place; programs really run."""

    def __init__(self, cwd: Path) -> None:
        self.caller = Caller(os.getpid(), str(cwd), 0o022, (0, 0))
        self.lines: list[str] = []
        self.executed: list[str] = []

    async def run(self, work: Any, *args: Any) -> Any:
        return work(*args)

    async def execute(self, path: str, env: dict[str, str], stdin: bytes) -> Completed:
        self.executed.append(path)
        return execute(path, env, stdin)

    @contextlib.contextmanager
    def shield(self) -> Iterator[None]:
        yield

    def log(self, text: str) -> None:
        self.lines.append(text)


def request(path: Path | str, *, version: str = "1.1.0", stdin: bytes = STDIN) -> Request:
    env = {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": "pod-1",
        "CNI_NETNS": "/run/netns/x",
        "CNI_IFNAME": "eth0",
        "CNI_ARGS": "IP=10.0.0.9",
        "CNI_PATH": str(path),
        "CNI_NETNS_OVERRIDE": "0",
        "PATH": "/usr/bin:/bin",
        "TRACEPARENT": "00-1-2-3",
    }
    return Request("ADD", "net", version, json.loads(stdin), stdin, env, path=str(path))


def call(ctx: FakeContext, verb: str, sent: Request, plugin: str = "ipam", *, looped: bool = False) -> Any:
    """`Delegates.add` and so on, by verb."""
    method = {"DEL": "delete"}.get(verb, verb.lower())
    return drive(getattr(Delegates(ctx, looped=looped), method)(sent, plugin))


def write(path: Path, text: str, mode: int = 0o755) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


def script(folder: Path, text: str, name: str = "ipam") -> Path:
    return write(folder / name, f"#!/bin/sh\n{text}\n")


@pytest.fixture
def ctx(tmp_path: Path) -> FakeContext:
    return FakeContext(tmp_path)


# --- Finding the executable ---


@pytest.mark.row("contract", 54)
def test_the_first_folder_that_has_it_wins(tmp_path: Path) -> None:
    """CNI_PATH is searched in its order; folders without the plugin, or that are not there, are passed by."""
    second, third = script(tmp_path / "b", ""), script(tmp_path / "c", "")
    assert find_plugin("ipam", f"{tmp_path}/a:{tmp_path}/b:{tmp_path}/c", "/") == str(second)
    assert find_plugin("ipam", f"{tmp_path}/c:{tmp_path}/b", "/") == str(third)


@pytest.mark.row("contract", 54)
@pytest.mark.parametrize("kind", ["folder", "fifo", "dangling link", "not executable", "file as folder"])
def test_what_is_no_program_hides_none(tmp_path: Path, kind: str) -> None:
    """Folders, FIFOs, dangling links and files that nobody may execute are passed by."""
    good = script(tmp_path / "good", "")
    bad = tmp_path / "bad" / "ipam"
    bad.parent.mkdir()
    if kind == "folder":
        bad.mkdir()
    elif kind == "fifo":
        os.mkfifo(bad, 0o755)
    elif kind == "dangling link":
        bad.symlink_to("/nowhere")
    elif kind == "not executable":
        write(bad, "", 0o644)
    else:
        bad.parent.rmdir()
        write(bad.parent, "")
    assert find_plugin("ipam", f"{bad.parent}:{good.parent}", "/") == str(good)


@pytest.mark.row("contract", 54)
def test_a_link_to_a_program_is_one(tmp_path: Path) -> None:
    """Symbolic links are followed."""
    script(tmp_path / "real", "", "thing")
    (tmp_path / "ipam").symlink_to("real/thing")
    assert find_plugin("ipam", str(tmp_path), "/") == f"{tmp_path}/ipam"


def test_relative_folders_count_from_the_callers_directory(tmp_path: Path) -> None:
    """Not from the agent's own; empty elements are skipped instead of meaning $PATH."""
    script(tmp_path / "plugins", "", "sh")
    assert find_plugin("sh", ":plugins:", str(tmp_path)) == f"{tmp_path}/plugins/sh"
    with pytest.raises(CNIError):
        find_plugin("sh", "::", "/")


@pytest.mark.row("contract", 55)
@pytest.mark.parametrize(
    ("name", "path", "msg"),
    [
        ("ipam", "", "no paths provided"),
        ("", "/a", "no plugin name provided"),
        ("./ok", "/a", "invalid plugin name: ./ok"),
        ("a/b", "/a", "invalid plugin name: a/b"),
        ("missing", "/a:/b", 'failed to find plugin "missing" in path [/a /b]'),
        ("missing", ":", 'failed to find plugin "missing" in path [ ]'),
        ("..", "/a", 'failed to find plugin ".." in path [/a]'),
        ("a b", "/a", 'failed to find plugin "a b" in path [/a]'),
    ],
)
def test_texts_for_what_is_not_found(name: str, path: str, msg: str) -> None:
    """The reference's texts, code 999."""
    with pytest.raises(CNIError) as caught:
        find_plugin(name, path, "/")
    assert (caught.value.code, caught.value.msg) == (999, msg)


def test_a_program_without_the_bit_is_named(tmp_path: Path) -> None:
    """If only the permission is missing, the details say of which file."""
    file = write(tmp_path / "ipam", "", 0o644)
    with pytest.raises(CNIError) as caught:
        find_plugin("ipam", str(tmp_path), "/")
    assert caught.value.details == f"found but not executable: {file}"


# --- Our own launchers ---


def marker(**changes: object) -> str:
    own = {"plugin": "ipam", "ref": "m:P", "version": __version__, "root": delegate.ROOT}
    return delegate.MARKER.decode() + json.dumps(own | changes)


def test_a_launcher_says_what_it_starts(tmp_path: Path) -> None:
    """The marker line is read from the head of the file."""
    file = write(tmp_path / "x", f"#!/usr/bin/python3\n# a comment\n{marker()}\nimport os\n")
    assert read_launcher(str(file)) == Launcher("ipam", "m:P", __version__, delegate.ROOT)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "#!/bin/sh\nexit 0\n",
        f"{marker()}\n",
        f"#!/bin/sh\necho '{marker()}'\n",
        "#!/bin/sh\n" + marker()[:-5] + "\n",
        "#!/bin/sh\n" + delegate.MARKER.decode() + "[]\n",
        f"#!/bin/sh\n{marker(ref=None)}\n",
        f"#!/bin/sh\n{marker(version=1)}\n",
        "#!/bin/sh\n" + "#\n" * 2000 + marker() + "\n",
    ],
)
def test_what_is_no_launcher(tmp_path: Path, text: str) -> None:
    """Only a whole marker on a line of its own near the top counts."""
    assert read_launcher(str(write(tmp_path / "x", text))) is None


def test_unreadable_files_are_no_launchers(tmp_path: Path) -> None:
    """Binaries and files that are not there."""
    (tmp_path / "binary").write_bytes(b"\x7fELF" + bytes(range(256)) * 20)
    assert read_launcher(str(tmp_path / "binary")) is None
    assert read_launcher(str(tmp_path / "missing")) is None


class Recorder(Plugin):
    """A delegate of our own that notes what it is asked."""

    name = "recorder"
    loopless = True
    calls: list[Request] = []  # noqa: RUF012
    answer = Result()

    async def add(self, sent: Request, _ctx: Context) -> Result:
        self.calls.append(sent)
        return self.answer

    async def check(self, sent: Request, _ctx: Context) -> None:
        self.calls.append(sent)

    async def delete(self, sent: Request, _ctx: Context) -> None:
        self.calls.append(sent)
        raise CNIError("no such thing", "in details", code=123)


class Looped(Recorder):
    loopless = False


class Old(Recorder):
    supported = ("0.1.0", "0.4.0")


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> list[Request]:
    monkeypatch.setattr(Recorder, "calls", [])
    monkeypatch.setitem(sys.modules, "delegate_of_tests", sys.modules[__name__])
    return Recorder.calls


def launcher(folder: Path, plugin: str = "Recorder", **changes: object) -> None:
    """A launcher that, executed, would say so: it fails with code 77."""
    text = marker(ref=f"delegate_of_tests:{plugin}", **changes)
    script(folder, f'{text}\necho \'{{"code": 77, "msg": "executed"}}\'; exit 1')


def test_our_own_launcher_is_called_in_process(
    tmp_path: Path, ctx: FakeContext, recorder: list[Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plugin object gets the same request with another verb, and nothing is executed."""
    answer = Result(ips=(IPConfig(CIDR.parse("10.0.0.2/24")),))
    monkeypatch.setattr(Recorder, "answer", answer)
    launcher(tmp_path)
    sent = request(tmp_path)
    assert call(ctx, "ADD", sent) == answer
    assert call(ctx, "CHECK", sent) is None
    assert ctx.executed == []
    for verb, got in zip(("ADD", "CHECK"), recorder, strict=True):
        assert got == sent.replace(verb=verb, env={**sent.env, "CNI_COMMAND": verb})


def test_errors_of_our_own_delegate_pass_through(
    tmp_path: Path, ctx: FakeContext, recorder: list[Request]
) -> None:
    """Code, text and details are the delegate's."""
    launcher(tmp_path)
    with pytest.raises(CNIError) as caught:
        call(ctx, "DEL", request(tmp_path))
    assert (caught.value.code, caught.value.msg, caught.value.details) == (123, "no such thing", "in details")
    assert [got.verb for got in recorder] == ["DEL"]


def test_a_verb_that_our_delegate_lacks(tmp_path: Path, ctx: FakeContext, recorder: list[Request]) -> None:
    """It succeeds without effect, as the executable would."""
    launcher(tmp_path)
    assert call(ctx, "STATUS", request(tmp_path)) is None
    assert call(ctx, "GC", request(tmp_path)) is None
    assert (recorder, ctx.executed) == ([], [])


@pytest.mark.parametrize(
    ("plugin", "changes"),
    [("Recorder", {"root": "/elsewhere"}), ("Recorder", {"version": "0.0.0"}), ("Looped", {})],
)
def test_other_launchers_are_executed(
    tmp_path: Path, ctx: FakeContext, recorder: list[Request], plugin: str, changes: dict[str, object]
) -> None:
    """Those of another installation or version, and without a loop those of plugins that need one."""
    launcher(tmp_path, plugin, **changes)
    with pytest.raises(CNIError, match="executed") as caught:
        call(ctx, "ADD", request(tmp_path))
    assert caught.value.code == 77
    assert recorder == []


def test_with_a_loop_any_plugin_of_ours_is_called(
    tmp_path: Path, ctx: FakeContext, recorder: list[Request]
) -> None:
    """Where an event loop runs, a plugin that needs one can be called."""
    launcher(tmp_path, "Looped")
    call(ctx, "ADD", request(tmp_path), looped=True)
    assert len(recorder) == 1


def test_gates_hold_in_process_too(tmp_path: Path, ctx: FakeContext, recorder: list[Request]) -> None:
    """A version that the delegate does not speak is refused as its executable would refuse it."""
    launcher(tmp_path, "Old")
    with pytest.raises(CNIError) as caught:
        call(ctx, "ADD", request(tmp_path))
    assert (caught.value.code, caught.value.msg) == (1, "incompatible CNI versions")
    launcher(tmp_path)
    with pytest.raises(CNIError) as caught:
        call(ctx, "CHECK", request(tmp_path, version="0.3.1"))
    assert (caught.value.code, caught.value.msg) == (1, "config version does not allow CHECK")
    assert recorder == []


def test_an_old_version_carries_no_more_in_process(
    tmp_path: Path, ctx: FakeContext, recorder: list[Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a result of 0.2.0 cannot say does not pass, as it would not through an executable."""
    gw = IP.parse("10.0.0.1")
    answer = Result(
        interfaces=(Interface("x"),),
        ips=tuple(IPConfig(CIDR.parse(f"10.0.{n}.2/24"), gw, 0) for n in range(2)),
        routes=(Route(CIDR.parse("10.9.0.0/16"), gw, mtu=1300, priority=5),),
    )
    monkeypatch.setattr(Recorder, "answer", answer)
    launcher(tmp_path)
    result = call(ctx, "ADD", request(tmp_path, version="0.2.0"))
    assert result.interfaces == ()
    assert [str(entry.address) for entry in result.ips] == ["10.0.0.2/24"]
    assert result.routes == (Route(CIDR.parse("10.9.0.0/16"), gw),)
    assert len(recorder) == 1


# --- Executing another's ---


@pytest.mark.row("contract", 56)
def test_what_a_delegate_gets(tmp_path: Path, ctx: FakeContext) -> None:
    """The whole environment with the verb exchanged, the very bytes of standard input, and no arguments."""
    script(tmp_path, 'cat > "$0.stdin"; env > "$0.env"; echo $# > "$0.count"; echo "{}"')
    sent = request(tmp_path)
    for verb in VERBS:
        call(ctx, verb, sent)
        got = dict(line.split("=", 1) for line in (tmp_path / "ipam.env").read_text().splitlines())
        assert {name: got[name] for name in sent.env} == {**sent.env, "CNI_COMMAND": verb}
        assert set(got) - set(sent.env) <= {"PWD", "_", "SHLVL", "OLDPWD"}  # the shell's own
        assert (tmp_path / "ipam.stdin").read_bytes() == STDIN
        assert (tmp_path / "ipam.count").read_text() == "0\n"


@pytest.mark.row("contract", 62)
def test_a_delegate_need_not_read(tmp_path: Path, ctx: FakeContext) -> None:
    """Two megabytes that nobody takes are no error."""
    script(tmp_path, "exit 0")
    big = json.dumps({"name": "net", "x": "y" * (2 << 20)}).encode()
    call(ctx, "DEL", request(tmp_path, stdin=big))


@pytest.mark.row("contract", 59)
def test_standard_error_of_a_delegate(tmp_path: Path, ctx: FakeContext) -> None:
    """On success it goes to the log; on failure it becomes the message if there is nothing better."""
    script(tmp_path, "echo a warning >&2; echo '{}'")
    call(ctx, "ADD", request(tmp_path))
    assert ctx.lines == ["a warning"]
    script(tmp_path, 'echo a warning >&2; echo \'{"code": 5, "msg": "m"}\'; exit 1')
    with pytest.raises(CNIError, match=r"^m$"):
        call(ctx, "ADD", request(tmp_path))
    assert ctx.lines == ["a warning"]


@pytest.mark.row("contract", 60)
@pytest.mark.parametrize("verb", VERBS[1:])
def test_verbs_without_a_result_look_at_the_status_alone(tmp_path: Path, ctx: FakeContext, verb: str) -> None:
    """Whatever is printed, exit 0 is success."""
    script(tmp_path, 'echo \'{"code": 7, "msg": "rubbish\'')
    assert call(ctx, verb, request(tmp_path)) is None


@pytest.mark.row("contract", 58)
@pytest.mark.parametrize("verb", VERBS)
def test_a_delegate_that_cannot_be_started(tmp_path: Path, ctx: FakeContext, verb: str) -> None:
    """The text has the path and the system's words."""
    file = write(tmp_path / "ipam", "#!/nowhere/interpreter\n")
    with pytest.raises(CNIError) as caught:
        call(ctx, verb, request(tmp_path))
    assert (caught.value.code, caught.value.msg) == (
        0,
        f"netplugin failed with no error message: fork/exec {file}: no such file or directory",
    )


def test_a_delegate_that_is_not_there(tmp_path: Path, ctx: FakeContext) -> None:
    """A plain error of code 999, not the delegate's."""
    with pytest.raises(CNIError, match="failed to find plugin") as caught:
        call(ctx, "ADD", request(tmp_path))
    assert caught.value.code == 999


# --- Answers ---


def died(stdout: str = "", stderr: str = "", status: int = 1) -> tuple[int, str, str]:
    error = failure("/x/ipam", Completed(status, stdout.encode(), stderr.encode()))
    return error.code, error.msg, error.details


@pytest.mark.row("contract", 57)
@pytest.mark.parametrize(
    ("stdout", "error"),
    [
        ('{"code": 11, "msg": "later", "details": "d"}', (11, "later", "d")),
        ('{"cniVersion": "1.0.0", "code": 11, "msg": "later", "more": []}', (11, "later", "")),
        ('{"Code": 11, "MSG": "later"}', (11, "later", "")),
        ("{}", (0, "", "")),
        ("null", (0, "", "")),
        ('{"msg": "m"}', (0, "m", "")),
        ('{"code": null, "msg": null}', (0, "", "")),
    ],
)
def test_the_error_that_a_delegate_prints(stdout: str, error: tuple[int, str, str]) -> None:
    """It is taken over, also if a signal ends the delegate afterwards."""
    assert died(stdout) == error
    assert died(stdout, "noise", -9) == error


@pytest.mark.row("contract", 58)
@pytest.mark.parametrize(
    ("stdout", "quoted"),
    [
        ("boom not json\n", r'"boom not json\n"'),
        ('tab\t"quote" \\ \x1b[31m', r'"tab\t\"quote\" \\ \x1b[31m"'),
        ("[1]", '"[1]"'),
        ('"text"', r'"\"text\""'),
        ('{"code": "11", "msg": "m"}', r'"{\"code\": \"11\", \"msg\": \"m\"}"'),
        ('{"code": -1}', r'"{\"code\": -1}"'),
        ('{"code": true}', r'"{\"code\": true}"'),
        ('{"code": 1.0}', r'"{\"code\": 1.0}"'),
        ('{"msg": 5}', r'"{\"msg\": 5}"'),
        ('{"details": []}', r'"{\"details\": []}"'),
        ('a log line\n{"code": 11}', r'"a log line\n{\"code\": 11}"'),
        ('{"code": 11} {"code": 12}', r'"{\"code\": 11} {\"code\": 12}"'),
    ],
)
def test_output_that_is_no_error_object(stdout: str, quoted: str) -> None:
    """It is quoted in the message, with the parser's complaint behind it; the code is 0."""
    code, msg, details = died(stdout)
    assert (code, details) == (0, "/x/ipam")
    start = f"netplugin failed but error parsing its diagnostic message {quoted}: "
    assert msg.startswith(start)
    assert len(msg) > len(start)


def test_bytes_that_are_no_text() -> None:
    """They are quoted byte by byte."""
    error = failure("/x/ipam", Completed(1, b"\xff\xfe"))
    assert r'message "\xff\xfe": ' in error.msg


@pytest.mark.row("contract", 58)
@pytest.mark.parametrize(
    ("status", "stderr", "msg"),
    [
        (5, "", "netplugin failed with no error message: exit status 5"),
        (-9, "", "netplugin failed with no error message: signal: killed"),
        (-11, "", "netplugin failed with no error message: signal: segmentation fault"),
        (-40, "", "netplugin failed with no error message: signal: signal 40"),
        (2, "panic: oh\n\tmain.go", r'netplugin failed: "panic: oh\n\tmain.go"'),
    ],
)
def test_a_delegate_that_dies_in_silence(status: int, stderr: str, msg: str) -> None:
    """Its standard error is the message, or how it ended; the code is 0, the details name the file."""
    code, text, details = died("", stderr, status)
    assert (code, text) == (0, msg)
    assert details.startswith("/x/ipam")


@pytest.mark.row("contract", 61)
def test_an_answer() -> None:
    """A result without a version is of the config's, one with a version is of its own."""
    printed = json.dumps(RESULT).encode()
    expected = (IPConfig(CIDR.parse("10.0.0.2/24"), IP.parse("10.0.0.1")),)
    assert success(Completed(0, printed), "0.3.1").ips == expected
    old = b'{"ip4": {"ip": "10.0.0.2/24", "gateway": "10.0.0.1"}}'
    for version in (b"", b'"cniVersion": "", ', b'"cniVersion": 5, '):
        (entry,) = success(Completed(0, b"{" + version + old[1:]), "0.2.0").ips
        assert entry.replace(version="") == expected[0]
    assert success(Completed(0, b"null"), "1.0.0") == Result(cni_version="1.0.0")
    assert success(Completed(0, b'{"code": 7, "msg": "m"}'), "1.0.0").ips == ()


@pytest.mark.parametrize(
    ("stdout", "msg"),
    [
        ("", "failed to unmarshal raw result: "),
        ("[]", "failed to unmarshal raw result: json: "),
        ('"x"', "failed to unmarshal raw result: json: "),
        ("{", "failed to unmarshal raw result: "),
        ("{} {}", "failed to unmarshal raw result: "),
        ('{"cniVersion": "7.0.0"}', 'unsupported CNI result version "7.0.0"'),
    ],
)
def test_an_answer_that_is_none(stdout: str, msg: str) -> None:
    """ADD without a result is a failure of code 999."""
    with pytest.raises(CNIError) as caught:
        success(Completed(0, stdout.encode()), "1.0.0")
    assert caught.value.code == 999
    assert caught.value.msg.startswith(msg)
