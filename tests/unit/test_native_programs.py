"""The native launcher after GO: programs that it executes for the agent, and signals."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from support.played import (
    AFTER_GO,
    CONFIG,
    ENV,
    PLUGIN,
    SECONDS,
    TAKEN,
    Played,
    answer,
    became_python,
    ended,
    exactly,
    read,
)

from pycni import install
from pycni.agent import protocol
from pycni.agent.protocol import Frame, decode_body, decode_head, encode


def program(played: Played, text: str, mode: int = 0o755) -> bytes:
    """The path of an executable with this text."""
    path = played.run_dir / f"program-{len(list(played.run_dir.iterdir()))}"
    path.write_text(text)
    path.chmod(mode)
    return bytes(path)


def order(path: bytes, env: bytes = b"PATH=/usr/bin:/bin\0", stdin: bytes = b"") -> bytes:
    return encode(protocol.EXECUTE, path, env, stdin)


def executed(sock: socket.socket) -> tuple[int, str, bytes, bytes]:
    """What became of a program: status, failure, standard output, standard error."""
    frame = read(sock)
    assert frame.kind == protocol.EXECUTED
    status, failure, stdout, stderr = frame.fields
    return protocol.number(status, signed=True), failure.decode(), stdout, stderr


def test_programs_are_executed(played: Played) -> None:
    """Any number of programs, with the environment and input of the order; then the answer."""
    process, sock = played.begin()
    with sock:
        sock.sendall(order(program(played, "#!/bin/sh\ncat; echo err >&2; exit 7\n"), stdin=b"in" * 500_000))
        assert executed(sock) == (7, "", b"in" * 500_000, b"err\n")
        sock.sendall(order(program(played, "#!/bin/sh\nkill -9 $$\n")))
        assert executed(sock) == (-9, "", b"", b"")
        sock.sendall(order(program(played, "#!/bin/sh\nexec 0<&-; echo unread\n"), stdin=b"x" * 500_000))
        assert executed(sock) == (0, "", b"unread\n", b"")
        sock.sendall(order(b"/usr/bin/env", b"A=1\0B=\xff=2\0EMPTY=\0"))
        assert executed(sock) == (0, "", b"A=1\nB=\xff=2\nEMPTY=\n", b"")
        sock.sendall(order(b"/usr/bin/env", b""))
        assert executed(sock) == (0, "", b"", b"")
        sock.sendall(answer(0, b"done"))
        assert ended(process) == (0, b"done", b"")


def test_programs_that_cannot_be_executed(played: Played) -> None:
    """What the system says is the failure, in small letters as within a sentence."""
    process, sock = played.begin()
    with sock:
        for path, words in (
            (b"/nowhere", "no such file or directory"),
            (b"", "no such file or directory"),
            (b"/", "permission denied"),
            (program(played, "#!/bin/sh\n", mode=0o644), "permission denied"),
            (program(played, "no program"), "exec format error"),
        ):
            sock.sendall(order(path))
            assert executed(sock) == (-1, words, b"", b"")
        sock.sendall(answer())
        assert ended(process) == (0, b"", b"")


def test_program_that_is_being_written(played: Played) -> None:
    """A program that somebody still writes is tried again."""
    path = program(played, "")
    Path(os.fsdecode(path)).write_bytes(Path("/bin/true").read_bytes())
    process, sock = played.begin()
    with sock:
        with open(path, "ab"):
            sock.sendall(order(path))
            sock.settimeout(0.3)
            with pytest.raises(TimeoutError):
                sock.recv(1)
        sock.settimeout(SECONDS)
        assert executed(sock) == (0, "", b"", b"")
        sock.sendall(answer())
        assert ended(process) == (0, b"", b"")


def test_outputs_are_limited(played: Played) -> None:
    """Of an output over the limit the begin is passed on, and the program is not held up."""
    process, sock = played.begin()
    with sock:
        sock.sendall(order(program(played, "#!/bin/sh\nhead -c 40000000 /dev/zero; exit 3\n")))
        status, _, stdout, _ = executed(sock)
        assert status == 3
        assert 16 << 20 <= len(stdout) < 17 << 20
        sock.sendall(answer())
        assert ended(process) == (0, b"", b"")


def test_descendant_that_holds_the_outputs(played: Played) -> None:
    """A program's end counts, even if something that it started keeps its outputs open."""
    fifo = played.run_dir / "fifo"
    os.mkfifo(fifo)
    process, sock = played.begin()
    with sock:
        sock.sendall(order(program(played, f"#!/bin/sh\nread line < {fifo} &\necho ended\n")))
        assert executed(sock) == (0, "", b"ended\n", b"")
        sock.sendall(answer())
        assert ended(process) == (0, b"", b"")
    fifo.write_text("end\n")  # waits until it is there to read


def test_lock_is_held_until_the_program_ends(played: Played) -> None:
    """The descriptor of an order is inherited by the program and closed when that has ended."""
    read_end, write_end = os.pipe()
    process, sock = played.begin()
    with sock:
        path = program(played, '#!/bin/sh\nfor fd in /proc/self/fd/*; do echo "$fd $(readlink $fd)"; done\n')
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", write_end))]
        sock.sendmsg([order(path)], rights)
        os.close(write_end)
        inode = os.fstat(read_end).st_ino
        assert f"pipe:[{inode}]".encode() in executed(sock)[2]
        assert os.read(read_end, 1) == b""  # nobody has it open any more
        sock.sendall(answer())
        assert ended(process) == (0, b"", b"")
    os.close(read_end)


def test_agent_dies_while_a_program_runs(played: Played) -> None:
    """The program is waited for, the lock is closed, and then Python is told that GO was said."""
    read_end, write_end = os.pipe()
    process, sock = played.begin()
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", write_end))]
    sock.sendmsg([order(program(played, "#!/bin/sh\nexec sleep 0.2\n"))], rights)
    os.close(write_end)
    sock.close()
    assert os.read(read_end, 1) == b""
    assert ended(process) == AFTER_GO
    os.close(read_end)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signal_is_passed_on(number: signal.Signals, played: Played) -> None:
    """After GO the first signal becomes CANCEL, others are ignored, and the answer is still waited for."""
    process, sock = played.begin()
    with sock:
        process.send_signal(number)
        assert read(sock) == Frame(protocol.CANCEL, (number.to_bytes(4, "little"),))
        process.send_signal(signal.SIGTERM)
        process.send_signal(number)
        sock.sendall(answer(1, b"cancelled"))
        assert ended(process) == (1, b"cancelled", b"")


def test_signal_before_go(played: Played) -> None:
    """Before GO nothing was done yet, and a signal simply ends the process."""
    process = played.start()
    sock, _ = played.accept()
    with sock:
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS) == -signal.SIGTERM
        assert sock.recv(1) == b""


def test_ignored_signal_stays_ignored(played: Played) -> None:
    """What the caller ignores (nohup) is not passed on."""
    process = subprocess.Popen(
        ["/bin/sh", "-c", f'trap "" HUP; exec "{played.executable}"'],
        env=ENV,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    played.processes.append(process)
    sock, _ = played.accept()
    with sock:
        sock.sendall(TAKEN)
        assert read(sock) == Frame(protocol.GO)
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGTERM)
        assert read(sock) == Frame(protocol.CANCEL, (signal.SIGTERM.to_bytes(4, "little"),))
        sock.sendall(answer())
        assert ended(process) == (0, b"", b"")


def test_signal_ends_the_program(played: Played) -> None:
    """A signal reaches the agent, and the running program as SIGTERM; a later program is left alone."""
    process, sock = played.begin()
    path = program(
        played, "#!/bin/sh\ntrap 'echo stopped; exit 3' TERM\necho >&2\nwhile :; do sleep 0.01; done\n"
    )
    with sock:
        read_end, write_end = os.pipe()
        ready = program(played, f"#!/bin/sh\nexec 2>/proc/{os.getpid()}/fd/{write_end} {os.fsdecode(path)}\n")
        sock.sendall(order(ready))
        assert os.read(read_end, 1) == b"\n"
        process.send_signal(signal.SIGTERM)
        assert read(sock).kind == protocol.CANCEL
        assert executed(sock) == (3, "", b"stopped\n", b"")
        process.send_signal(signal.SIGTERM)
        sock.sendall(order(program(played, "#!/bin/sh\nsleep 0.2; echo cleaned\n")))
        assert executed(sock) == (0, "", b"cleaned\n", b"")
        sock.sendall(answer(1))
        assert ended(process) == (1, b"", b"")
        os.close(read_end)
        os.close(write_end)


@pytest.mark.parametrize("kind", ["native", "python"])
def test_signal_inside_a_large_frame(kind: str, played: Played) -> None:
    """CANCEL never comes in the middle of what a program's output is sent in, from either launcher."""
    if kind == "python":
        text = install.launcher_text(*PLUGIN, run_dir=played.run_dir, python=sys.executable)
        install.write_launchers(played.run_dir, {"mirror": text})
    process, sock = played.begin()
    with sock:
        sock.sendall(order(program(played, "#!/bin/sh\nhead -c 8000000 /dev/zero\n")))
        head = exactly(sock, protocol.HEAD_BYTES)  # the rest does not fit in the socket
        process.send_signal(signal.SIGTERM)
        kind, length = decode_head(head)
        assert decode_body(kind, exactly(sock, length)).fields[2] == bytes(8_000_000)
        assert read(sock) == Frame(protocol.CANCEL, (signal.SIGTERM.to_bytes(4, "little"),))
        sock.sendall(answer())
        assert ended(process) == (0, b"", b"")


def test_signal_and_then_the_agent_dies(played: Played) -> None:
    """Python is told of the signal, too."""
    process, sock = played.begin()
    with sock:
        process.send_signal(signal.SIGINT)
        assert read(sock).kind == protocol.CANCEL
    assert ended(process) == became_python(0, 1, signal.SIGINT, len(CONFIG))


def test_input_up_to_the_limit(played: Played) -> None:
    """An input of one byte less than the limit arrives whole; at the limit it is told as too large."""
    limit = 16 << 20
    for size, told in ((limit - 1, (limit - 1, 0)), (limit, (0, 0xFFFF))):
        with open(played.run_dir / "input", "wb+") as file:
            file.truncate(size)
            process = played.start(b"", stdin=file)
        sock, frame = played.accept()
        with sock:
            assert (len(frame.fields[4]), int.from_bytes(frame.fields[6][8:16], "little")) == told
            sock.sendall(TAKEN)
            read(sock)
            sock.sendall(answer())
            assert ended(process) == (0, b"", b"")
