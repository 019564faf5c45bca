"""The lock that orders the requests of one attachment."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pycni import attachments
from pycni.attachments import acquire
from pycni.context import Caller, Context
from pycni.errors import CNIError
from pycni.intents import dead, forget_dead, in_flight
from pycni.main import drive
from pycni.names import attachment_key
from pycni.request import Request

if TYPE_CHECKING:
    from collections.abc import Callable


class InPlace(Context):
    """Everything happens at once; `on_sleep` is what the others do while this request waits."""

    def __init__(self, pid: int = 0) -> None:
        self.caller = Caller(pid=pid or os.getpid(), cwd="/", umask=0o022, netns=(0, 0))
        self.logged: list[str] = []
        self.slept: list[float] = []
        self.on_sleep: Callable[[], object] = lambda: pytest.fail("should not have to wait")

    async def run(self, work, *args):  # type: ignore[no-untyped-def]
        return work(*args)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.on_sleep()

    def shield(self) -> contextlib.AbstractContextManager[object]:
        return contextlib.nullcontext()

    def log(self, text: str) -> None:
        self.logged.append(text)


def request(verb: str, container_id: str = "c1") -> Request:
    return Request(
        verb=verb,
        network="net",
        cni_version="1.0.0",
        config={},
        stdin=b"",
        env={},
        container_id=container_id,
        ifname="eth0",
    )


def hold(ctx: Context, verb: str, run_dir: Path, container_id: str = "c1") -> attachments.Hold:
    held = drive(acquire(ctx, request(verb, container_id), str(run_dir)))
    assert held is not None
    return held


def files(run_dir: Path) -> list[Path]:
    return sorted((run_dir / "attachments").iterdir())


def leave_stale(run_dir: Path, container_id: str = "c1") -> Path:
    """What a request leaves that was killed at work."""
    held = hold(InPlace(), "ADD", run_dir, container_id)
    os.close(held.descriptor)
    return Path(held.path)


@pytest.mark.parametrize("verb", ["ADD", "DEL"])
def test_intent_is_there_as_long_as_the_request(verb: str, tmp_path: Path) -> None:
    """While it works, a file named after the attachment says who does what; afterwards there is none."""
    held = hold(InPlace(), verb, tmp_path)
    (path,) = files(tmp_path)
    assert path.name == attachment_key("net", "c1", "eth0")
    intent = json.loads(path.read_text())
    started = intent.pop("started")
    assert started > 1.6e9
    assert intent == {
        "verb": verb,
        "network": "net",
        "containerID": "c1",
        "ifname": "eth0",
        "pid": os.getpid(),
        "caller": os.getpid(),
    }
    held.release()
    assert files(tmp_path) == []
    held.release()  # a second time does nothing


def test_only_root_may_look(tmp_path: Path) -> None:
    """Folder and files are for their owner only, whatever the umask."""
    before = os.umask(0)
    try:
        held = hold(InPlace(), "ADD", tmp_path / "run")
    finally:
        os.umask(before)
    assert (tmp_path / "run").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "run" / "attachments").stat().st_mode & 0o777 == 0o700
    assert Path(held.path).stat().st_mode & 0o777 == 0o600
    held.release()


@pytest.mark.parametrize("verb", ["GC", "STATUS"])
def test_verbs_without_attachment(verb: str, tmp_path: Path) -> None:
    """GC and STATUS wait for nobody and leave nothing."""
    assert drive(acquire(InPlace(), request(verb), str(tmp_path))) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("first", ["ADD", "DEL", "CHECK"])
@pytest.mark.parametrize("second", ["ADD", "DEL", "CHECK"])
def test_one_after_the_other(first: str, second: str, tmp_path: Path) -> None:
    """A request waits until the earlier one of its attachment is answered, and finds no leftovers."""
    earlier = hold(InPlace(), first, tmp_path)
    ctx = InPlace()

    def release_at_the_third() -> None:
        if len(ctx.slept) == 3:
            earlier.release()

    ctx.on_sleep = release_at_the_third
    held = hold(ctx, second, tmp_path)
    assert len(ctx.slept) == 3
    assert ctx.slept == sorted(ctx.slept)
    assert not held.stale
    held.release()
    assert files(tmp_path) == []


def test_other_attachments_do_not_wait(tmp_path: Path) -> None:
    """Requests of different attachments have nothing to do with each other."""
    one, two = hold(InPlace(), "ADD", tmp_path, "c1"), hold(InPlace(), "ADD", tmp_path, "c2")
    one.release()
    two.release()


@pytest.mark.parametrize("verb", ["ADD", "DEL"])
def test_dead_request_is_noticed_once(verb: str, tmp_path: Path) -> None:
    """An intent without a lock says that leftovers may exist; after a request got through it is gone."""
    leave_stale(tmp_path)
    held = hold(InPlace(), verb, tmp_path)
    assert held.stale
    held.release()
    held = hold(InPlace(), verb, tmp_path)
    assert not held.stale
    held.release()


def test_failed_request_settles_nothing(tmp_path: Path) -> None:
    """After a request that failed, an earlier one's intent stays to be seen; its own does not."""
    hold(InPlace(), "ADD", tmp_path).release(failed=True)
    assert files(tmp_path) == []
    leave_stale(tmp_path)
    hold(InPlace(), "DEL", tmp_path).release(failed=True)
    held = hold(InPlace(), "ADD", tmp_path)
    assert held.stale
    held.release()
    assert files(tmp_path) == []


def test_killed_process_leaves_a_stale_intent(tmp_path: Path) -> None:
    """SIGKILL ends the lock and not the intent, and the next request is told."""
    code = (
        "import sys; sys.path[:0] = sys.argv[2:]\n"
        "import pathlib, time, test_attachments as t\n"
        "t.hold(t.InPlace(), 'ADD', pathlib.Path(sys.argv[1]))\n"
        "print('held', flush=True); time.sleep(60)\n"
    )
    folder = str(Path(__file__).parent)
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path), folder], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        process.send_signal(signal.SIGKILL)
    held = hold(InPlace(), "DEL", tmp_path)
    assert held.stale
    held.release()


def test_check_neither_leaves_nor_removes_an_intent(tmp_path: Path) -> None:
    """CHECK writes nothing, and what a dead request left is still there for the next ADD or DEL."""
    held = hold(InPlace(), "CHECK", tmp_path)
    assert Path(held.path).read_bytes() == b""
    held.release()
    assert files(tmp_path) == []
    stale = leave_stale(tmp_path)
    text = stale.read_text()
    held = hold(InPlace(), "CHECK", tmp_path)
    assert held.stale
    held.release()
    assert stale.read_text() == text


def test_file_removed_between_open_and_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock on a file that its last holder has just removed orders nobody: the request tries again."""
    earlier = hold(InPlace(), "ADD", tmp_path)
    real = attachments.try_lock
    tries: list[int] = []

    def lock(descriptor: int, kind: int) -> bool:
        tries.append(descriptor)
        if len(tries) == 1:
            earlier.release()
        return real(descriptor, kind)

    monkeypatch.setattr(attachments, "try_lock", lock)
    held = hold(InPlace(), "DEL", tmp_path)
    assert len(tries) == 2
    assert files(tmp_path) == [Path(held.path)]
    assert not held.stale
    held.release()


def test_delegate_of_the_holder_goes_on(tmp_path: Path) -> None:
    """A request started by the holder, however indirectly, must not wait for the holder."""
    held = hold(InPlace(), "ADD", tmp_path)
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'])"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as child:
        children = Path(f"/proc/{child.pid}/task/{child.pid}/children")
        while not children.read_text():
            assert child.poll() is None
        grandchild = int(children.read_text().split()[0])
        assert drive(acquire(InPlace(grandchild), request("ADD"), str(tmp_path))) is None
        assert drive(acquire(InPlace(child.pid), request("DEL"), str(tmp_path))) is None
        child.communicate(b"\n")
    held.release()


def test_a_sibling_waits(tmp_path: Path) -> None:
    """A request of a process that the holder did not start waits for it."""
    held = hold(InPlace(), "ADD", tmp_path)
    ctx = InPlace(os.getppid())
    ctx.on_sleep = held.release
    hold(ctx, "DEL", tmp_path).release()
    assert ctx.slept


def test_wait_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the deadline the answer is "try again later", and says who holds the attachment for what."""
    monkeypatch.setattr(attachments, "WAIT_SECONDS", 0.0)
    held = hold(InPlace(), "DEL", tmp_path)
    ctx = InPlace(os.getppid())
    ctx.on_sleep = lambda: None
    with pytest.raises(CNIError) as caught:
        hold(ctx, "ADD", tmp_path)
    held.release()
    assert caught.value.code == 11
    assert "container c1, interface eth0, network net" in caught.value.msg
    assert f"DEL of process {os.getpid()}" in caught.value.details


def test_program_that_outlives_its_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock that a dead request's program keeps stops an ADD for good, a DEL for a while only."""
    monkeypatch.setattr(attachments, "WAIT_SECONDS", 0.0)
    path = leave_stale(tmp_path)
    with subprocess.Popen(["true"]) as ended:
        pass
    intent = json.loads(path.read_text()) | {"pid": ended.pid, "caller": ended.pid}
    path.write_text(json.dumps(intent))
    with path.open() as inherited:
        fcntl.flock(inherited, fcntl.LOCK_EX)
        ctx = InPlace()
        ctx.on_sleep = lambda: None
        with pytest.raises(CNIError, match="timed out waiting"):
            hold(ctx, "ADD", tmp_path)
        hold(ctx, "DEL", tmp_path).release()
    assert files(tmp_path) == []


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"verb":1}', b"\xff"])
def test_lock_of_a_stranger(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A locked file without a readable intent is waited for like any other."""
    monkeypatch.setattr(attachments, "WAIT_SECONDS", 0.0)
    path = tmp_path / "attachments" / attachment_key("net", "c1", "eth0")
    path.parent.mkdir()
    path.write_bytes(content)
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        ctx = InPlace()
        ctx.on_sleep = lambda: None
        with pytest.raises(CNIError, match="timed out waiting"):
            hold(ctx, "ADD", tmp_path)
        assert in_flight(str(tmp_path)) == frozenset()


def test_unusable_folder(tmp_path: Path) -> None:
    """Where no lock can be had the request goes on without, and the log says so: a DEL must get there."""
    (tmp_path / "run").write_text("a file")
    ctx = InPlace()
    assert drive(acquire(ctx, request("DEL"), str(tmp_path / "run"))) is None
    (line,) = ctx.logged
    assert line.startswith("going on without ordering")
    assert str(tmp_path / "run") in line


def test_in_flight(tmp_path: Path) -> None:
    """Attachments that a living request works on are listed, those of dead ones and CHECKs are not."""
    assert in_flight(str(tmp_path)) == frozenset()
    leave_stale(tmp_path, "dead")
    check = hold(InPlace(), "CHECK", tmp_path, "checked")
    one, two = hold(InPlace(), "ADD", tmp_path, "c1"), hold(InPlace(), "DEL", tmp_path, "c2")
    assert in_flight(str(tmp_path)) == {("net", "c1", "eth0"), ("net", "c2", "eth0")}
    one.release()
    assert in_flight(str(tmp_path)) == {("net", "c2", "eth0")}
    two.release()
    check.release()


def test_dead_requests_are_forgotten(tmp_path: Path) -> None:
    """GC finds the intents of the dead by network, spares the living, and what was taken up meanwhile."""
    assert dead("net", [], str(tmp_path)) == []
    for name in ("c1", "c2", "c3"):
        leave_stale(tmp_path, name)
    held = hold(InPlace(), "ADD", tmp_path, "c4")
    found = dead("net", [("c1", "eth0")], str(tmp_path))
    assert sorted(intent.container_id for _, intent in found) == ["c2", "c3"]
    assert dead("other", [], str(tmp_path)) == []
    leave_stale(tmp_path, "c3")  # another request, which died after the look
    forget_dead(found)
    held.release()
    left = [json.loads(path.read_text())["containerID"] for path in files(tmp_path)]
    assert sorted(left) == ["c1", "c3"]
