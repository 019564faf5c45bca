"""The frames between a launcher and the agent, as bytes: no sockets here.

A frame is eight bytes (protocol version, kind, two zero bytes, length of the rest as a little-endian number)
and then fields, each after its length in four bytes. Numbers inside fields are little-endian too. It is meant
to be spoken by a small C program: nothing nested, nothing to escape.

One connection serves one call:

    launcher → REQUEST release, plugin, ref, environment, stdin, directory, numbers   (+ fd of CNI_NETNS)
    agent    → TAKEN, or DECLINED reason
    launcher → GO                   only now may the agent begin: a launcher that waited too long is gone
    agent    → EXECUTE path, environment, stdin                (+ fd to hold open), any number of times
    launcher → EXECUTED status, failure, stdout, stderr
    launcher → CANCEL signal        at any time after GO: undo, then answer
    agent    → ANSWER status, stdout, stderr

`ASK` in place of REQUEST is answered by an ANSWER whose stdout is the agent's state as JSON.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pycni.record import Record

if TYPE_CHECKING:
    from collections.abc import Mapping

VERSION: Final = 1
REQUEST: Final = 1
TAKEN: Final = 2
DECLINED: Final = 3
GO: Final = 4
EXECUTE: Final = 5
EXECUTED: Final = 6
ANSWER: Final = 7
CANCEL: Final = 8
ASK: Final = 9

FIELDS: Final[Mapping[int, int]] = {
    REQUEST: 7,
    TAKEN: 0,
    DECLINED: 1,
    GO: 0,
    EXECUTE: 3,
    EXECUTED: 4,
    ANSWER: 3,
    CANCEL: 1,
    ASK: 0,
}
"""How many fields each kind has."""

HEAD_BYTES: Final = 8
FRAME_LIMIT: Final = 40 << 20
"""Bytes after the head: a config of 16 MiB and the largest environment, or two outputs of 16 MiB, fit."""


class ProtocolError(ValueError):
    """Bytes that are no frame, or a frame that has no place here."""


class Frame(Record):
    """One frame."""

    kind: int
    fields: tuple[bytes, ...] = ()


def encode(kind: int, *fields: bytes) -> bytes:
    """A frame's bytes."""
    body = b"".join([part for field in fields for part in (len(field).to_bytes(4, "little"), field)])
    return bytes((VERSION, kind, 0, 0)) + len(body).to_bytes(4, "little") + body


def decode_head(head: bytes) -> tuple[int, int]:
    """(kind, length of the body). Raises ProtocolError for another version, an unknown kind, or a frame
    that is too large."""
    version, kind = head[0], head[1]
    if version != VERSION:
        raise ProtocolError(f"protocol version {version}, this side speaks {VERSION}")
    if kind not in FIELDS or head[2:4] != b"\0\0":
        raise ProtocolError(f"unknown frame {head.hex()}")
    length = int.from_bytes(head[4:], "little")
    if length > FRAME_LIMIT:
        raise ProtocolError(f"frame of {length} bytes, the limit is {FRAME_LIMIT}")
    return kind, length


def decode_body(kind: int, body: bytes) -> Frame:
    """Raises ProtocolError unless the body is exactly as many whole fields as the kind has."""
    fields = []
    at = 0
    while at < len(body):
        start = at + 4
        at = start + int.from_bytes(body[at:start], "little")
        if start > len(body) or at > len(body):
            raise ProtocolError(f"a field of frame {kind} ends beyond the frame")
        fields.append(body[start:at])
    if len(fields) != FIELDS[kind]:
        raise ProtocolError(f"frame {kind} has {len(fields)} fields instead of {FIELDS[kind]}")
    return Frame(kind, tuple(fields))


def number(field: bytes, *, signed: bool = False) -> int:
    """A field that is a number of four or eight bytes. Raises ProtocolError."""
    if len(field) not in (4, 8):
        raise ProtocolError(f"a number of {len(field)} bytes")
    return int.from_bytes(field, "little", signed=signed)
