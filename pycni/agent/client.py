"""Asking a running agent how it is."""

from __future__ import annotations

import json
import socket
from typing import Any

from pycni.agent import protocol
from pycni.errors import NOT_AVAILABLE, CNIError

_SECONDS = 5.0


def state(run_dir: str) -> dict[str, Any]:
    """What the agent counted, see `pycni.agent.server.Agent.state`. Blocking.

    Raises CNIError (50) if none answers.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(_SECONDS)
            sock.connect(f"{run_dir}/agent.sock")
            sock.sendall(protocol.encode(protocol.ASK))
            kind, length = protocol.decode_head(_exactly(sock, protocol.HEAD_BYTES))
            frame = protocol.decode_body(kind, _exactly(sock, length))
    except (OSError, ValueError) as error:
        raise CNIError(
            f"no agent answers in {run_dir}: {error}", "start it with pycni agent", code=NOT_AVAILABLE
        ) from error
    answer: dict[str, Any] = json.loads(frame.fields[1])
    return answer


def _exactly(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = sock.recv(count - len(data))
        if not piece:
            raise OSError("connection closed")
        data += piece
    return data
