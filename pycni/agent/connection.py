"""One connection of a launcher: frames and descriptors over a non-blocking unix socket."""

from __future__ import annotations

import array
import os
import socket
import struct
from typing import TYPE_CHECKING, Final

import anyio

from pycni.agent import protocol
from pycni.agent.protocol import Frame, ProtocolError

if TYPE_CHECKING:
    from types import TracebackType

_PIECE: Final = 1 << 18
_DESCRIPTORS: Final = 4
_CREDENTIALS: Final = struct.Struct("iII")  # struct ucred, unix(7)


class Connection:
    """Reads and writes whole frames. One task may read while another one writes.

    Owns the socket and the descriptors that were received: use it as a context manager.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._data = bytearray()
        self._received: list[int] = []

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for descriptor in self._received:
            os.close(descriptor)
        self._sock.close()

    def peer(self) -> tuple[int, int]:
        """(process id, user id) of who connected, from the kernel."""
        raw = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid, uid, _ = _CREDENTIALS.unpack(raw)
        return pid, uid

    @property
    def descriptor(self) -> int:
        """The descriptor that came with the request, -1 if none did; open as long as the connection."""
        return self._received[0] if self._received else -1

    async def receive(self) -> Frame | None:
        """The next frame, None if the other side has closed. Raises ProtocolError, OSError."""
        head = await self._exactly(protocol.HEAD_BYTES)
        if head is None:
            return None
        kind, length = protocol.decode_head(head)
        body = await self._exactly(length) if length else b""
        if body is None:
            raise ProtocolError("the connection ended inside a frame")
        return protocol.decode_body(kind, body)

    async def _exactly(self, count: int) -> bytes | None:
        while len(self._data) < count:
            if not await self._read():
                return None
        piece = bytes(self._data[:count])
        del self._data[:count]
        return piece

    async def _read(self) -> bool:
        while True:
            try:
                data, ancillary, _, _ = self._sock.recvmsg(
                    _PIECE, socket.CMSG_SPACE(4 * _DESCRIPTORS), socket.MSG_CMSG_CLOEXEC
                )
                break
            except BlockingIOError:
                await anyio.wait_readable(self._sock)
        for level, kind, raw in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                descriptors = array.array("i")
                descriptors.frombytes(raw[: len(raw) - len(raw) % descriptors.itemsize])
                self._received += descriptors
        if len(self._received) > _DESCRIPTORS:
            raise ProtocolError(f"more than {_DESCRIPTORS} descriptors")
        self._data += data
        return bool(data)

    async def send(self, kind: int, *fields: bytes, descriptor: int = -1) -> None:
        """Raises OSError if the other side is gone."""
        data = memoryview(protocol.encode(kind, *fields))
        ancillary = []
        if descriptor >= 0:
            ancillary.append((socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", descriptor)))
        while data:
            try:
                data = data[self._sock.sendmsg([data], ancillary) :]
                ancillary = []
            except BlockingIOError:
                await anyio.wait_writable(self._sock)
