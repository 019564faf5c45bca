"""What the native launcher says to an agent and what it makes of the answers, however broken they are.

The agent is played by the test. The program is compiled with the compiler's checks of memory and undefined
behaviour, and in place of Python it becomes a script that prints what it was told.
"""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from support.played import (
    AFTER_GO,
    BEFORE_GO,
    CONFIG,
    ENV,
    PLUGIN,
    SECONDS,
    TAKEN,
    Played,
    answer,
    became_python,
    ended,
    read,
    rest,
)

from pycni import install
from pycni.agent import protocol
from pycni.agent.protocol import Frame, encode

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def test_no_agent(played: Played) -> None:
    """Where nobody listens it becomes Python, with its whole input."""
    played.listener.close()
    assert ended(played.start()) == BEFORE_GO
    assert ended(played.start(b"x" * 300_000)) == became_python(0, 0, 0, 300_000)


def test_answer_passes_unchanged(played: Played) -> None:
    """Status and outputs are the agent's, to the byte and whatever their size."""
    for status, stdout, stderr in (
        (0, b"", b""),
        (7, b"\0out\xff", b"err"),
        (1, b"o" * 3_000_000, b"e" * 500),
    ):
        process, sock = played.begin()
        with sock:
            sock.sendall(answer(status, stdout, stderr))
            assert ended(process) == (status, stdout, stderr)


def test_answer_in_pieces(played: Played) -> None:
    """It does not matter how an answer is cut into pieces."""
    process, sock = played.begin()
    with sock:
        for byte in answer(3, b"out", b"err"):
            sock.sendall(bytes((byte,)))
        assert ended(process) == (3, b"out", b"err")


def mutations(good: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Every truncation of a frame, and frames with random bytes changed, never the same as `good`."""
    chance = random.Random(seed)
    yield from (good[:length] for length in range(len(good)))
    for _ in range(count):
        data = bytearray(good)
        for _ in range(chance.choice((1, 1, 2, 8))):
            data[chance.randrange(len(data))] = chance.randrange(256)
        if data != good:
            yield bytes(data)
    yield from (chance.randbytes(chance.randrange(1, 200)) for _ in range(count // 4))


BAD_HEADS = {
    "another version": b"\x02" + TAKEN[1:],
    "reserved byte": b"\x01\x02\x01\0\0\0\0\0",
    "taken with a field": encode(protocol.TAKEN, b""),
    "declined": encode(protocol.DECLINED, b"release"),
    "answer at once": answer(),
    "go": encode(protocol.GO),
    "over the limit": b"\x01\x02\0\0" + (protocol.FRAME_LIMIT + 1).to_bytes(4, "little"),
    "the largest length": b"\x01\x02\0\0\xff\xff\xff\xff",
    "another protocol": b"HTTP/1.1 400 Bad Request\r\n\r\n",
}


@pytest.mark.parametrize("data", BAD_HEADS.values(), ids=BAD_HEADS)
def test_not_taken(data: bytes, played: Played) -> None:
    """Anything but "taken" makes it do the work itself, and it does not say GO."""
    process = played.start()
    sock, _ = played.accept()
    with sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        assert ended(process) == BEFORE_GO
        assert rest(sock) == b""


def test_garbage_instead_of_taken(played: Played) -> None:
    """Broken and random frames before GO are all the same to it."""
    for data in mutations(TAKEN, 40, seed=1):
        process = played.start()
        sock, _ = played.accept()
        with sock:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            assert ended(process) == BEFORE_GO, data


def frames_of(*lengths: int, kind: int = protocol.ANSWER, body: bytes = b"") -> bytes:
    """A frame whose fields claim `lengths`, with as many bytes as there are in `body`."""
    fields = b"".join(length.to_bytes(4, "little") for length in lengths) + body
    return bytes((protocol.VERSION, kind, 0, 0)) + len(fields).to_bytes(4, "little") + fields


BAD_ANSWERS = {
    "nothing": b"",
    "no fields": encode(protocol.ANSWER),
    "two fields": encode(protocol.ANSWER, bytes(4), b""),
    "four fields": encode(protocol.ANSWER, bytes(4), b"", b"", b""),
    "status of no bytes": encode(protocol.ANSWER, b"", b"", b""),
    "status of eight bytes": encode(protocol.ANSWER, bytes(8), b"", b""),
    "field beyond the frame": frames_of(0, 0, 1),
    "field of the largest length": frames_of(0, 0xFFFFFFFF, 0),
    "three bytes too many": frames_of(0, 0, 0, body=b"abc"),
    "over the limit": b"\x01\x07\0\0" + (protocol.FRAME_LIMIT + 1).to_bytes(4, "little"),
    "at the limit, then the end": b"\x01\x07\0\0" + protocol.FRAME_LIMIT.to_bytes(4, "little") + b"x" * 1000,
    "taken again": TAKEN,
    "unknown kind": frames_of(0, 0, 0, kind=200),
    "execute of two fields": encode(protocol.EXECUTE, b"/bin/true", b""),
    "execute of no fields": encode(protocol.EXECUTE),
}


@pytest.mark.parametrize("data", BAD_ANSWERS.values(), ids=BAD_ANSWERS)
def test_no_whole_answer(data: bytes, played: Played) -> None:
    """After GO anything but a whole answer is told on: the work may have begun."""
    process, sock = played.begin()
    with sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        assert ended(process) == AFTER_GO


def test_garbage_instead_of_an_answer(played: Played) -> None:
    """A broken answer is passed on where it is one all the same, or else Python is told that GO was said."""
    good = answer(5, b"out", b"err")
    for data in mutations(good, 120, seed=2):
        process, sock = played.begin()
        with sock:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            outcome = ended(process)
        status = int.from_bytes(data[12:16], "little")
        if data[:12] == good[:12] and outcome != AFTER_GO:
            assert len(data) == len(good)
            assert outcome[0] == status & 0xFF
        else:
            assert outcome == AFTER_GO, data


def test_agent_that_says_nothing(played: Played) -> None:
    """It waits for "taken" a second and no longer, also in the middle of a frame."""
    for data in (b"", TAKEN[:4]):
        process = played.start()
        sock, _ = played.accept()
        with sock:
            sock.sendall(data)
            assert ended(process) == BEFORE_GO


def test_agent_that_does_not_read(played: Played) -> None:
    """A request that does not go through in a second is done without the agent."""
    process = played.start(b"x" * (8 << 20))
    sock, _ = played.listener.accept()
    with sock:
        assert ended(process) == became_python(0, 0, 0, 8 << 20)


def test_agent_that_does_not_accept(played: Played) -> None:
    """A queue of connections that stays full is no obstacle."""
    played.listener.listen(0)
    waiting = []
    try:
        while True:
            waiting.append(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK))
            waiting[-1].connect(str(played.run_dir / "agent.sock"))
    except BlockingIOError:
        assert ended(played.start()) == BEFORE_GO
    finally:
        for sock in waiting:
            sock.close()


SAME = {
    "ADD": {"CNI_COMMAND": "ADD", "CNI_NETNS": "/proc/self/ns/net"},
    "CHECK": {"CNI_COMMAND": "CHECK", "CNI_NETNS": "/dev/null"},
    "DEL": {"CNI_COMMAND": "DEL", "CNI_NETNS": "/nowhere/at/all"},
    "folder": {"CNI_COMMAND": "DEL", "CNI_NETNS": "/tmp"},
    "no namespace": {"CNI_COMMAND": "DEL", "CNI_NETNS": ""},
    "name too long": {"CNI_COMMAND": "ADD", "CNI_NETNS": "/" + "x" * 5000},
    "GC": {"CNI_COMMAND": "GC", "CNI_NETNS": "/proc/self/ns/net"},
    "STATUS": {"CNI_COMMAND": "STATUS"},
    "VERSION": {"CNI_COMMAND": "VERSION", "CNI_NETNS": "/proc/self/ns/net"},
    "no command": {"CNI_NETNS": "/proc/self/ns/net", "XCNI_COMMAND": "ADD"},
    "empty command": {"CNI_COMMAND": ""},
    "unknown command": {"CNI_COMMAND": "add", "CNI_NETNS": "/proc/self/ns/net"},
    "locale": {"CNI_COMMAND": "ADD", "LC_ALL": "C", "LANG": "", "A": "a=b c\n\xff", "ASAN_OPTIONS": ""},
    "nothing": {},
}


@pytest.mark.parametrize("env", SAME.values(), ids=SAME)
def test_both_launchers_send_the_same(env: dict[str, str], played: Played, tmp_path: Path) -> None:
    """The request is byte for byte the Python launcher's, and so is the descriptor that goes with it."""
    text = install.launcher_text(*PLUGIN, run_dir=played.run_dir, python=sys.executable)
    install.write_launchers(tmp_path, {"python-mirror": text})
    there = tmp_path / "there"
    there.mkdir()
    heard = []
    for executable in (None, tmp_path / "python-mirror"):
        for stdin in (b"", CONFIG * 3_000):
            process = played.start(stdin, env, executable, cwd=there, umask=0o027)
            sock, frame = played.accept()
            identity = None
            if played.sandbox >= 0:
                identity = os.fstat(played.sandbox).st_dev, os.fstat(played.sandbox).st_ino
                os.close(played.sandbox)
            heard.append((frame, identity))
            with sock:
                sock.sendall(TAKEN)
                assert read(sock) == Frame(protocol.GO)
                sock.sendall(answer())
                assert ended(process) == (0, b"", b"")
    assert heard[:2] == heard[2:]


def test_both_launchers_tell_the_same_problems(played: Played, tmp_path: Path) -> None:
    """Standard input that cannot be read, and a working directory that was removed, are told alike."""
    text = install.launcher_text(*PLUGIN, run_dir=played.run_dir, python=sys.executable)
    install.write_launchers(tmp_path, {"python-mirror": text})
    gone = tmp_path / "gone"
    for script in (
        f'rmdir "{gone}"; exec "$0"',
        'exec "$0" 0>/dev/null',
        'exec "$0" 0<&-',
        'exec "$0" 0</dev/zero',
    ):
        heard = []
        for executable in (played.executable, tmp_path / "python-mirror"):
            gone.mkdir(exist_ok=True)
            process = subprocess.Popen(
                ["/bin/sh", "-c", script, executable], env=ENV, cwd=gone, stdin=subprocess.DEVNULL
            )
            played.processes.append(process)
            sock, frame = played.accept()
            with sock:
                sock.sendall(TAKEN)
                read(sock)
                sock.sendall(answer())
                assert process.wait(SECONDS) == 0
            heard.append(frame)
        assert heard[0] == heard[1], script
