"""What the native launcher says to an agent and what it makes of the answers, however broken they are.

The agent is played by the test. The program is compiled with the compiler's checks of memory and undefined
behaviour, and in place of Python it becomes a script that prints what it was told.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pycni import install
from pycni.agent import protocol
from pycni.agent.protocol import Frame, decode_body, decode_head, encode
from pycni.native import build

if TYPE_CHECKING:
    from collections.abc import Iterator

SECONDS = 30
CHECKED = ("-std=c11", "-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
PLUGIN = ("mirror", "mirror:Mirror")
STAND_IN = '#!/bin/sh\nprintf "became Python: %s %s %s, " "$4" "$5" "$6"; wc -c\n'
ENV = {"CNI_COMMAND": "ADD", "PATH": "/usr/bin:/bin"}
CONFIG = b"not even JSON"
TAKEN = encode(protocol.TAKEN)


class Played:
    """An agent played by the test, for one launcher."""

    def __init__(self, folder: Path) -> None:
        self.run_dir = folder
        self.executable = folder / "mirror"
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(folder / "agent.sock"))
        self.listener.listen()
        self.listener.settimeout(SECONDS)
        self.processes: list[subprocess.Popen[bytes]] = []
        self.sandbox = -1

    def start(
        self,
        data: bytes = CONFIG,
        env: dict[str, str] | None = None,
        executable: Path | None = None,
        **options: Any,
    ) -> subprocess.Popen[bytes]:
        """Start a launcher and give it its input; `options` go to subprocess.Popen."""
        options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
        process = subprocess.Popen(
            [executable or self.executable], env=ENV if env is None else env, **options
        )
        self.processes.append(process)
        if process.stdin is not None:
            process.stdin.write(data)
            process.stdin.close()
            process.stdin = None
        return process

    def accept(self) -> tuple[socket.socket, Frame]:
        """The launcher's connection and request."""
        sock, _ = self.listener.accept()
        sock.settimeout(SECONDS)
        data, descriptors, _, _ = socket.recv_fds(sock, protocol.HEAD_BYTES, 1)
        self.sandbox = descriptors[0] if descriptors else -1
        kind, length = decode_head(data)
        frame = decode_body(kind, exactly(sock, length))
        assert frame.kind == protocol.REQUEST
        return sock, frame

    def begin(self, **arguments: Any) -> tuple[subprocess.Popen[bytes], socket.socket]:
        """Start a launcher and let it come until its GO."""
        process = self.start(**arguments)
        sock, _ = self.accept()
        sock.sendall(TAKEN)
        assert read(sock) == Frame(protocol.GO)
        return process, sock

    def close(self) -> None:
        self.listener.close()
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.communicate()


def exactly(sock: socket.socket, length: int) -> bytes:
    data = bytearray()
    while len(data) < length:
        piece = sock.recv(min(length - len(data), 1 << 20))
        assert piece, "the launcher hung up inside a frame"
        data += piece
    return bytes(data)


def read(sock: socket.socket) -> Frame:
    """The next frame; a frame of the wrong form raises ProtocolError."""
    kind, length = decode_head(exactly(sock, protocol.HEAD_BYTES))
    return decode_body(kind, exactly(sock, length))


def rest(sock: socket.socket) -> bytes:
    """What the launcher still sent before it hung up, read or not what it was sent."""
    with contextlib.suppress(ConnectionResetError):
        return sock.recv(100)
    return b""


def answer(status: int = 0, stdout: bytes = b"", stderr: bytes = b"") -> bytes:
    return encode(protocol.ANSWER, status.to_bytes(4, "little"), stdout, stderr)


def ended(process: subprocess.Popen[bytes]) -> tuple[int, bytes, bytes]:
    stdout, stderr = process.communicate(timeout=SECONDS)
    return process.returncode, stdout, stderr


def became_python(problem: int, begun: int, number: int, size: int) -> tuple[int, bytes, bytes]:
    return 0, f"became Python: {problem} {begun} {number}, {size}\n".encode(), b""


BEFORE_GO = became_python(0, 0, 0, len(CONFIG))
AFTER_GO = became_python(0, 1, 0, len(CONFIG))


@pytest.fixture(scope="module")
def checked() -> bytes:
    """The program with the compiler's run time checks."""
    return build.compile_program(CHECKED, linking=((),))


@pytest.fixture
def played(checked: bytes, tmp_path: Path) -> Iterator[Played]:
    python = tmp_path / "python"
    python.write_text(STAND_IN)
    python.chmod(0o755)
    data = install.native_launcher(checked, *PLUGIN, run_dir=tmp_path, python=str(python))
    install.write_launchers(tmp_path, {"mirror": data})
    made = Played(tmp_path)
    yield made
    made.close()


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
