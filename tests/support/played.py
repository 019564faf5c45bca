"""An agent played by a test, for launchers whose frames are to be seen or broken."""

from __future__ import annotations

import contextlib
import socket
import subprocess
from typing import TYPE_CHECKING, Any

from pycni.agent import protocol
from pycni.agent.protocol import Frame, decode_body, decode_head, encode

if TYPE_CHECKING:
    from pathlib import Path

SECONDS = 30
PLUGIN = ("mirror", "mirror:Mirror")
STAND_IN = '#!/bin/sh\nprintf "became Python: %s %s %s, " "$4" "$5" "$6"; wc -c\n'
"""What the launcher becomes in place of Python: prints what it was told, and the size of its input."""
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
