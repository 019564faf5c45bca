"""An agent that dies, hangs or declines: its launcher does the work, once."""

from __future__ import annotations

import signal
import socket
import threading
from typing import TYPE_CHECKING

import pytest
from journal import SECONDS
from support.waiting import until

from pycni.agent import protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from journal import JournalNode

    Impostor = Callable[[Callable[[socket.socket], None]], None]

BLOCKED = {verb: ["block"] for verb in ("ADD", "DEL", "CHECK", "GC", "STATUS")}


def test_add_is_undone_and_repeated(node: JournalNode) -> None:
    """If the agent is killed in the middle of an ADD, its launcher deletes what there may be, and adds."""
    agent = node.agent()
    call = node.start(steps=BLOCKED)
    node.await_word("ADD")
    agent.kill()
    agent.wait()
    node.go()
    call.finish().ok()
    mine = call.process.pid
    assert node.journal() == [
        ("ADD", agent.pid),
        ("DEL", mine),
        ("DEL-done", mine),
        ("ADD", mine),
        ("ADD-done", mine),
    ]
    assert node.held() == []


@pytest.mark.parametrize("verb", ["DEL", "CHECK", "GC", "STATUS"])
def test_others_are_repeated(verb: str, node: JournalNode) -> None:
    """Every other verb is simply done again."""
    agent = node.agent()
    call = node.start(verb, steps=BLOCKED)
    node.await_word(verb)
    agent.kill()
    agent.wait()
    node.go()
    call.finish().ok()
    mine = call.process.pid
    assert node.journal() == [(verb, agent.pid), (verb, mine), (f"{verb}-done", mine)]
    assert node.held() == []


def test_dead_agent_and_dead_launcher(node: JournalNode) -> None:
    """If both are killed, the next ADD finds the intent and deletes before it adds."""
    agent = node.agent()
    call = node.start(steps=BLOCKED)
    node.await_word("ADD")
    agent.kill()
    call.process.kill()
    agent.wait()
    call.finish()
    assert len(node.held()) == 1
    again = node.start()
    again.finish().ok()
    assert node.words() == ["ADD", "DEL", "DEL-done", "ADD", "ADD-done"]
    assert node.held() == []


@pytest.mark.parametrize("plugin", ["journal", "looped"])
def test_signal_while_the_agent_dies(plugin: str, node: JournalNode) -> None:
    """A launcher that was told to stop does not begin anew when the agent is gone; the next ADD cleans up."""
    agent = node.agent()
    call = node.start(plugin=plugin, steps=BLOCKED)
    node.await_word("ADD")
    call.process.send_signal(signal.SIGTERM)
    until(lambda: agent.poll() is None and node.state(), "the agent answers")
    agent.kill()
    agent.wait()
    assert call.finish().failed(11)["msg"] == "cancelled by SIGTERM"
    assert node.words() == ["ADD"]
    node.call(plugin=plugin).ok()
    assert node.words() == ["ADD", "DEL", "DEL-done", "ADD", "ADD-done"]
    assert node.held() == []


def test_socket_of_a_dead_agent(node: JournalNode) -> None:
    """A socket that nobody listens at is no obstacle."""
    agent = node.agent()
    agent.kill()
    agent.wait()
    assert (node.run_dir / "agent.sock").exists()
    node.call().ok()
    assert node.words() == ["ADD", "ADD-done"]


@pytest.fixture
def impostor(node: JournalNode) -> Iterator[Impostor]:
    """Play an agent: a function that gets the first connection."""
    listener = socket.socket(socket.AF_UNIX)
    threads: list[threading.Thread] = []

    def play(script: Callable[[socket.socket], None]) -> None:
        listener.bind(str(node.run_dir / "agent.sock"))
        listener.listen()

        def serve() -> None:
            sock, _ = listener.accept()
            with sock:
                sock.settimeout(SECONDS)
                script(sock)

        threads.append(threading.Thread(target=serve))
        threads[0].start()

    yield play
    for thread in threads:
        thread.join()
    listener.close()


def read_frame(sock: socket.socket) -> protocol.Frame | None:
    with sock.makefile("rb") as stream:
        head = stream.read(protocol.HEAD_BYTES)
        if not head:
            return None
        kind, length = protocol.decode_head(head)
        return protocol.decode_body(kind, stream.read(length))


def test_agent_that_takes_too_long(node: JournalNode, impostor: Impostor) -> None:
    """A launcher whose call is not taken within a second does the work, and never says "go"."""
    heard: list[protocol.Frame | None] = []

    def script(sock: socket.socket) -> None:
        heard.append(read_frame(sock))
        heard.append(read_frame(sock))

    impostor(script)
    node.call().ok()
    until(lambda: len(heard) == 2, "the launcher hangs up")
    assert heard[0] is not None
    assert heard[0].kind == protocol.REQUEST
    assert heard[1] is None
    assert node.words() == ["ADD", "ADD-done"]


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        protocol.encode(protocol.DECLINED, b"release"),
        protocol.encode(protocol.ANSWER, bytes(4), b"", b""),
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        protocol.encode(protocol.TAKEN)[:5],
    ],
)
def test_agent_that_does_not_take_it(answer: bytes, node: JournalNode, impostor: Impostor) -> None:
    """Whatever comes instead of "taken", the launcher does the work, and does not delete first."""

    def script(sock: socket.socket) -> None:
        read_frame(sock)
        sock.sendall(answer)

    impostor(script)
    node.call().ok()
    assert node.words() == ["ADD", "ADD-done"]


@pytest.mark.parametrize(
    "last", [b"", b"\x01", protocol.encode(protocol.ANSWER, bytes(4), b"{}", b"")[:-1], b"\x09" * 8]
)
def test_agent_that_breaks_off(last: bytes, node: JournalNode, impostor: Impostor) -> None:
    """After "go" anything but a whole answer means that an ADD may be half done: delete, then add."""

    def script(sock: socket.socket) -> None:
        read_frame(sock)
        sock.sendall(protocol.encode(protocol.TAKEN))
        frame = read_frame(sock)
        assert frame is not None
        assert frame.kind == protocol.GO
        sock.sendall(last)

    impostor(script)
    node.call().ok()
    assert node.words() == ["DEL", "DEL-done", "ADD", "ADD-done"]


def test_answer_passes_unchanged(node: JournalNode, impostor: Impostor) -> None:
    """Status, standard output and standard error are the agent's, to the byte."""

    def script(sock: socket.socket) -> None:
        read_frame(sock)
        sock.sendall(protocol.encode(protocol.TAKEN))
        read_frame(sock)
        sock.sendall(protocol.encode(protocol.ANSWER, (7).to_bytes(4, "little"), b"\x00out\xff", b"err"))

    impostor(script)
    outcome = node.call()
    assert (outcome.status, outcome.stdout, outcome.stderr) == (7, b"\x00out\xff", b"err")
    assert node.words() == []
