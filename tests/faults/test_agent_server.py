"""One client's mistake is nobody else's, and an agent ends as it should."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from journal import SECONDS
from support.waiting import until

from pycni import launcher
from pycni.agent import protocol
from pycni.install import release

if TYPE_CHECKING:
    from journal import JournalNode


def connect(node: JournalNode) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(SECONDS)
    sock.connect(str(node.run_dir / "agent.sock"))
    return sock


def request_frame(
    plugin: bytes = b"journal", ref: bytes = b"journal_plugin:Journal", **changed: bytes
) -> bytes:
    fields = {
        "release": release().encode(),
        "plugin": plugin,
        "ref": ref,
        "env": b"CNI_COMMAND=VERSION\0",
        "stdin": b"",
        "cwd": b"/",
        "numbers": launcher.numbers(0, 0),
    }
    return protocol.encode(protocol.REQUEST, *(fields | changed).values())


def counted(node: JournalNode, name: str) -> int:
    return int(node.state()["counts"].get(name, 0))


def bad() -> dict[str, bytes]:
    """What clients should not send; made when called, for the tests move to a namespace of their own."""
    go = protocol.encode(protocol.GO)
    return {
        "nothing": b"",
        "text": b"GET / HTTP/1.1\r\n\r\n",
        "another version": b"\x02" + request_frame()[1:],
        "unknown kind": b"\x01\x63\0\0\0\0\0\0",
        "too long": b"\x01\x01\0\0\xff\xff\xff\xff",
        "fields beyond the frame": b"\x01\x01\0\0\x08\0\0\0\xff\xff\xff\xff\0\0\0\0",
        "too few fields": b"\x01\x01\0\0\x04\0\0\0\0\0\0\0",
        "half a frame": request_frame()[:40],
        "half a head": request_frame()[:3],
        "go without a request": go,
        "answer": protocol.encode(protocol.ANSWER, b"", b"", b""),
        "numbers that are none": request_frame(numbers=b"12345678"),
        "executed without being asked": request_frame()
        + go
        + protocol.encode(protocol.EXECUTED, b"", b"", b"", b""),
        "second request": request_frame() + go + request_frame(),
        "garbage after go": request_frame() + go + b"\xff" * 100,
    }


UNFINISHED = ("nothing", "half a frame", "half a head")


def test_bad_clients_disturb_nobody(node: JournalNode) -> None:
    """While a call is at work, every kind of bad client comes and goes; it is served, and so are others."""
    agent = node.agent()
    call = node.start(steps={"ADD": ["wait"]})
    node.await_word("ADD")
    for data in bad().values():
        with connect(node) as sock:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(4096):
                pass
    node.go()
    call.finish().ok()
    assert {pid for _, pid in node.journal()} == {agent.pid}
    served = counted(node, "served: VERSION")
    node.call("VERSION").ok()
    assert counted(node, "served: VERSION") == served + 1
    assert counted(node, "bad frames") >= 8


def test_bad_client_is_hung_up_on(node: JournalNode) -> None:
    """A bad client's connection is ended by the agent; one that may yet go on has some seconds."""
    node.agent()
    for name, data in bad().items():
        if name in UNFINISHED:
            continue
        with connect(node) as sock:
            sock.sendall(data)
            with contextlib.suppress(ConnectionResetError):
                while sock.recv(4096):
                    pass
    node.call("VERSION").ok()


def test_slow_sender_holds_nobody(node: JournalNode) -> None:
    """A client that stops in the middle of its request does not keep others from being served."""
    node.agent()
    with connect(node) as sock:
        sock.sendall(request_frame()[:50])
        node.call().ok()
        assert counted(node, "served: ADD") == 1


def test_foreign_descriptors_are_closed(node: JournalNode) -> None:
    """Descriptors that come with a request are gone with its connection, wanted or not."""
    agent = node.agent()
    node.call().ok()
    descriptors = Path(f"/proc/{agent.pid}/fd")
    before = len(list(descriptors.iterdir()))
    with open("/dev/null") as null:
        for data in (request_frame(), request_frame(plugin=b"other"), b"garbage!", request_frame()[:20]):
            with connect(node) as sock:
                socket.send_fds(sock, [data], [null.fileno()] * 3)
    for _ in range(5):
        node.call(env={"CNI_NETNS": "/dev/null"}).ok()
        node.call("DEL").ok()
    until(lambda: len(list(descriptors.iterdir())) <= before, "the descriptors are closed")


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"release": b"0.0.0 /elsewhere"}, "release"),
        ({"plugin": b"unknown"}, "plugin"),
        ({"ref": b"os:system"}, "plugin"),
        ({"at": 24}, "network namespace"),
        ({"at": 40}, "mount namespace"),
        ({"at": 56}, "root folder"),
    ],
)
def test_declined(changed: dict[str, Any], reason: str, node: JournalNode) -> None:
    """A call of another release, plugin, namespace or root folder is declined, and counted by reason."""
    node.agent()
    if "at" in changed:  # device and inode are 16 bytes of the numbers
        numbers, at = launcher.numbers(0, 0), changed["at"]
        changed = {"numbers": numbers[:at] + bytes(16) + numbers[at + 16 :]}
    with connect(node) as sock:
        sock.sendall(request_frame(**changed))
        assert sock.recv(4096) == protocol.encode(protocol.DECLINED, reason.encode())
        assert sock.recv(1) == b""
    assert counted(node, f"declined: {reason}") == 1


def test_plugin_that_ends_the_process(node: JournalNode) -> None:
    """A plugin that calls exit, or raises anything, ends its own call only."""
    agent = node.agent()
    error = node.call(steps={"ADD": ["exit"]}).failed(999)
    assert "exit" in error["msg"]
    error = node.call(steps={"ADD": ["fail"]}).failed(999)
    assert error["msg"] == "a fault"
    assert node.words() == ["ADD", "undo"] * 2
    assert agent.poll() is None
    node.call().ok()


def test_many_at_once(node: JournalNode) -> None:
    """Fifty calls, each of another attachment, are all at work at once in one agent, and all answered."""
    agent = node.agent()
    calls = []
    for number in range(50):  # one after the other, so that each is taken within its second
        calls.append(node.start(steps={"ADD": ["wait"]}, container_id=f"c{number}"))
        until(lambda: len(node.words()) == len(calls), "the call is at work")
    assert node.state()["working"] == 50
    node.go()
    for call in calls:
        call.finish().ok()
    assert {pid for _, pid in node.journal()} == {agent.pid}
    until(lambda: not node.held(), "the attachments are free")


def test_drain(node: JournalNode) -> None:
    """SIGTERM: what was begun is finished and answered, new calls are not accepted, the socket goes."""
    agent = node.agent()
    call = node.start(steps={"ADD": ["wait"]})
    node.await_word("ADD")
    agent.send_signal(signal.SIGTERM)
    until(lambda: not (node.run_dir / "agent.sock").exists(), "the socket is gone")
    other = node.start("ADD", container_id="c2")
    other.finish().ok()
    assert agent.poll() is None
    node.go()
    call.finish().ok()
    assert agent.wait(SECONDS) == 0
    assert dict(node.journal()) == {
        "ADD": other.process.pid,
        "ADD-done": agent.pid,
    }


def test_idle_clients_do_not_keep_it(node: JournalNode) -> None:
    """A client that has sent no request yet does not keep the agent from ending."""
    agent = node.agent()
    with connect(node) as sock:
        sock.sendall(request_frame()[:10])
        until(lambda: node.state(), "the agent has seen it")
        agent.send_signal(signal.SIGTERM)
        assert agent.wait(SECONDS) == 0
        assert sock.recv(1) == b""


def test_second_signal(node: JournalNode) -> None:
    """A second signal does not wait: calls at work are undone, and their launchers do them."""
    agent = node.agent()
    call = node.start(steps={"ADD": ["wait"]})
    node.await_word("ADD")
    agent.send_signal(signal.SIGTERM)
    until(lambda: not (node.run_dir / "agent.sock").exists(), "the socket is gone")
    agent.send_signal(signal.SIGTERM)
    assert agent.wait(SECONDS) == 0
    node.go()
    call.finish().ok()
    mine = call.process.pid
    assert node.journal()[:2] == [("ADD", agent.pid), ("undo", agent.pid)]
    assert node.journal()[-1] == ("ADD-done", mine)


def test_second_agent(node: JournalNode) -> None:
    """A second agent for one run directory does not start, and does not take the first one's place."""
    first = node.agent()
    done = subprocess.run(
        [Path(sys.executable).with_name("pycni"), "agent", "--run-dir", node.run_dir],
        capture_output=True,
        timeout=SECONDS,
    )
    assert done.returncode == 1
    assert f"it is process {first.pid}" in done.stderr.decode()
    assert node.state()["pid"] == first.pid


def test_after_a_dead_agent(node: JournalNode) -> None:
    """An agent takes the place of one that was killed."""
    first = node.agent()
    first.kill()
    first.wait()
    second = node.agent()
    node.call().ok()
    assert {pid for _, pid in node.journal()} == {second.pid}


@pytest.mark.parametrize("umask", [0, 0o022, 0o777])
def test_socket_is_for_root(umask: int, node: JournalNode) -> None:
    """The socket's mode is 0600, whatever umask the agent was started with."""
    node.agent(umask=umask)
    assert (node.run_dir / "agent.sock").stat().st_mode & 0o777 == 0o600


def test_stranger(node: JournalNode) -> None:
    """Even if the socket's mode lets somebody else in, the agent does not talk to other users than root."""
    node.agent()
    (node.run_dir / "agent.sock").chmod(0o666)
    script = (
        "import socket, sys\n"
        "sock = socket.socket(socket.AF_UNIX); sock.connect('agent.sock'); answer = b''\n"
        "try: sock.sendall(bytes.fromhex(sys.argv[1])); answer = sock.recv(10)\n"
        "except (BrokenPipeError, ConnectionResetError): pass\n"
        "print('answer', answer)\n"
    )
    done = subprocess.run(
        [sys.executable, "-IS", "-c", script, protocol.encode(protocol.ASK).hex()],
        user=65534,
        group=65534,
        extra_groups=[],
        cwd=node.run_dir,  # entered before the change of user, who could not walk there
        capture_output=True,
        timeout=SECONDS,
    )
    assert (done.stdout, done.stderr) == (b"answer b''\n", b"")
    assert counted(node, "strangers") == 1


def test_log_has_a_line_per_call(node: JournalNode) -> None:
    """Each call leaves one line: plugin, verb, network, container, status, duration."""
    node.agent()
    call = node.start()
    call.finish().ok()
    until(lambda: "verb=ADD" in node.log(), "the call is logged")
    (line,) = [line for line in node.log().splitlines() if "verb=ADD" in line]
    assert "plugin=journal" in line
    assert "network=net container=c1 ifname=eth0 status=0 ms=" in line
    assert line.endswith(f"caller={call.process.pid}")


def test_agent_does_not_fork(node: JournalNode) -> None:
    """A foreign delegate is no child of the agent."""
    agent = node.agent()
    call = node.start(steps={"ADD": ["foreign"]})
    node.await_word("foreign-ADD")
    children = [
        Path(f"/proc/{agent.pid}/task/{thread}/children").read_text()
        for thread in os.listdir(f"/proc/{agent.pid}/task")
    ]
    assert "".join(children) == ""
    node.go()
    call.finish().ok()
