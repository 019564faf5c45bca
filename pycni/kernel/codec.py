"""The bytes that every rtnetlink message is made of: headers, attributes, acknowledgements.

Sources: <linux/netlink.h>, <linux/rtnetlink.h>; netlink(7). All numbers are in the machine's byte order
except addresses; attributes are padded to 4 bytes.
"""

from __future__ import annotations

from _struct import Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container, Iterator
    from typing import Final

NLMSG_ERROR: Final = 2
NLMSG_DONE: Final = 3

NLM_F_REQUEST: Final = 0x001
NLM_F_MULTI: Final = 0x002
NLM_F_ACK: Final = 0x004
NLM_F_DUMP_INTR: Final = 0x010
NLM_F_EXCL: Final = 0x200
NLM_F_DUMP: Final = 0x300
NLM_F_CREATE: Final = 0x400
# On acknowledgements, where they share bits with the flags above.
NLM_F_CAPPED: Final = 0x100
NLM_F_ACK_TLVS: Final = 0x200

DO: Final = NLM_F_REQUEST | NLM_F_ACK
CREATE: Final = DO | NLM_F_CREATE
CREATE_NEW: Final = CREATE | NLM_F_EXCL
DUMP: Final = NLM_F_REQUEST | NLM_F_DUMP

AF_INET: Final = 2
AF_BRIDGE: Final = 7
AF_INET6: Final = 10

HEADER: Final = Struct("=IHHII")
"""struct nlmsghdr: length, type, flags, sequence number, port id."""
HEADER_SIZE: Final = HEADER.size
_SEQUENCE_AT: Final = 8

_ATTRIBUTE: Final = Struct("=HH")
_U32: Final = Struct("=HHI")
_U8: Final = Struct("=HHB3x")
_INT: Final = Struct("=i")
_NUMBER: Final = Struct("=I")
_PADDING: Final = (b"", b"\0\0\0", b"\0\0", b"\0")
_NESTED: Final = 0x8000
_TYPE_MASK: Final = 0x3FFF
_NLMSGERR_ATTR_MSG: Final = 1


def message(kind: int, flags: int, *parts: bytes) -> bytes:
    """One complete request; sequence number and port id are 0 until it is sent."""
    body = b"".join(parts)
    return HEADER.pack(HEADER_SIZE + len(body), kind, flags, 0, 0) + body


def is_dump(request: bytes) -> bool:
    """Whether a request made by `message` asks for a dump (answered by many messages and a DONE)."""
    flags: int = HEADER.unpack_from(request)[2]
    return flags & NLM_F_DUMP == NLM_F_DUMP


def number_requests(requests: tuple[bytes, ...], first: int) -> bytearray:
    """The requests in a row, with the sequence numbers first, first + 1, …"""
    data = bytearray().join(requests)
    offset = 0
    for sequence, request in enumerate(requests, first):
        _NUMBER.pack_into(data, offset + _SEQUENCE_AT, sequence)
        offset += len(request)
    return data


def split(datagram: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """The messages of a datagram as (type, flags, sequence number, payload).

    Raises ValueError where a message claims more bytes than there are (a truncated datagram).
    """
    offset = 0
    while offset + HEADER_SIZE <= len(datagram):
        length, kind, flags, sequence, _port = HEADER.unpack_from(datagram, offset)
        if length < HEADER_SIZE or offset + length > len(datagram):
            raise ValueError(f"netlink message of {length} bytes in a rest of {len(datagram) - offset}")
        yield kind, flags, sequence, datagram[offset + HEADER_SIZE : offset + length]
        offset += (length + 3) & ~3


def attribute(kind: int, payload: bytes) -> bytes:
    """One attribute, padded."""
    size = len(payload)
    return _ATTRIBUTE.pack(4 + size, kind) + payload + _PADDING[size & 3]


def u32(kind: int, value: int) -> bytes:
    return _U32.pack(8, kind, value)


def u8(kind: int, value: int) -> bytes:
    return _U8.pack(5, kind, value)


def text(kind: int, value: str) -> bytes:
    """A string attribute, with the closing NUL."""
    return attribute(kind, value.encode("utf-8", "surrogateescape") + b"\0")


def nest(kind: int, *parts: bytes, flagged: bool = False) -> bytes:
    """An attribute of attributes; `flagged` where the kernel insists on NLA_F_NESTED."""
    return attribute(kind | _NESTED if flagged else kind, b"".join(parts))


def read_attributes(data: bytes, offset: int, wanted: Container[int]) -> dict[int, bytes]:
    """The wanted attributes from `offset` to the end, type → payload; of equal types the last counts.

    A malformed rest is left out: the kernel does not send one.
    """
    found: dict[int, bytes] = {}
    end = len(data) - 4
    unpack = _ATTRIBUTE.unpack_from
    while offset <= end:
        length, kind = unpack(data, offset)
        if length < 4:
            break
        kind &= _TYPE_MASK
        if kind in wanted:
            found[kind] = data[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return found


def read_list(data: bytes, wanted: int) -> tuple[bytes, ...]:
    """The payloads of all attributes of one type, in order."""
    payloads = []
    offset = 0
    while offset + 4 <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < 4:
            break
        if kind & _TYPE_MASK == wanted:
            payloads.append(data[offset + 4 : offset + length])
        offset += (length + 3) & ~3
    return tuple(payloads)


def read_u32(payload: bytes | None, default: int = 0) -> int:
    return int(_NUMBER.unpack_from(payload)[0]) if payload is not None and len(payload) >= 4 else default


def read_int(payload: bytes | None) -> int | None:
    return int(_INT.unpack_from(payload)[0]) if payload is not None and len(payload) >= 4 else None


def read_text(payload: bytes | None) -> str:
    """A string attribute without its NUL; bytes that are not UTF-8 survive as surrogates."""
    return payload.partition(b"\0")[0].decode("utf-8", "surrogateescape") if payload else ""


def read_ack(flags: int, payload: bytes) -> tuple[int, str]:
    """An NLMSG_ERROR or NLMSG_DONE payload as (errno, 0 if fine; the kernel's extended text, "" if none).

    Without NETLINK_CAP_ACK the request comes back between the two (struct nlmsgerr).
    """
    number = -(read_int(payload) or 0)
    if not flags & NLM_F_ACK_TLVS:
        return number, ""
    return number, _ack_text(payload, 4 + HEADER_SIZE if flags & NLM_F_CAPPED else 4 + _echoed(payload))


def read_done(flags: int, payload: bytes) -> tuple[int, str]:
    """The end of a dump: like `read_ack`, but no request comes back in it."""
    number = -(read_int(payload) or 0)
    return number, _ack_text(payload, 4) if flags & NLM_F_ACK_TLVS else ""


def _echoed(payload: bytes) -> int:
    return (read_u32(payload[4:8], HEADER_SIZE) + 3) & ~3


def _ack_text(payload: bytes, offset: int) -> str:
    return read_text(read_attributes(payload, offset, (_NLMSGERR_ATTR_MSG,)).get(_NLMSGERR_ATTR_MSG))
