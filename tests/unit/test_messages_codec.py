"""The frame around messages: numbering, splitting, acknowledgements, padding."""

from __future__ import annotations

import errno
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pycni.addresses import CIDR
from pycni.kernel import codec, messages


def frame(kind: int, flags: int, sequence: int, payload: bytes) -> bytes:
    data = struct.pack("=IHHII", 16 + len(payload), kind, flags, sequence, 0) + payload
    return data + bytes(-len(data) % 4)


def extended(text: str) -> bytes:
    """The attributes of an extended acknowledgement: an offset, then the text."""
    return struct.pack("=HHI", 8, 2, 40) + codec.attribute(1, text.encode() + b"\0")


@given(
    st.lists(st.sampled_from((b"", b"1234", b"12345678")), min_size=1, max_size=6), st.integers(1, 1 << 31)
)
def test_numbered_requests_are_split_into_what_they_were(bodies: list[bytes], first: int) -> None:
    """Requests in a row keep their bytes and get consecutive sequence numbers."""
    requests = tuple(codec.message(16 + position, 5, body) for position, body in enumerate(bodies))
    parts = list(codec.split(bytes(codec.number_requests(requests, first))))
    assert parts == [(16 + position, 5, first + position, body) for position, body in enumerate(bodies)]


@given(st.integers(0, 70), st.integers(0, 0x3FFF))
def test_attributes_are_padded_and_found_again(size: int, kind: int) -> None:
    """Whatever the length of the first, the second starts on 4 bytes and both are read."""
    other = kind ^ 1
    data = codec.attribute(kind, b"x" * size) + codec.u32(other, 7)
    assert len(data) % 4 == 0
    assert codec.read_attributes(data, 0, (kind, other)) == {kind: b"x" * size, other: struct.pack("=I", 7)}
    assert codec.read_attributes(data, 0, (other,)) == {other: struct.pack("=I", 7)}


def test_a_truncated_datagram_is_refused() -> None:
    """A message that claims more than there is raises, so that nothing is decoded from a half."""
    with pytest.raises(ValueError, match="netlink message of 40 bytes in a rest of 36"):
        list(codec.split(frame(16, 0, 1, bytes(24))[:-4]))
    with pytest.raises(ValueError, match="netlink message of 3 bytes"):
        list(codec.split(struct.pack("=IHHII", 3, 16, 0, 1, 0)))


def test_an_acknowledgement_is_errno_and_text() -> None:
    """0 and no text where all is well; the kernel's number is negative."""
    request = codec.message(16, 5, bytes(16))
    assert codec.read_ack(codec.NLM_F_CAPPED, struct.pack("=i", 0) + request[:16]) == (0, "")
    refused = struct.pack("=i", -errno.EINVAL)
    flags = codec.NLM_F_CAPPED | codec.NLM_F_ACK_TLVS
    assert codec.read_ack(flags, refused + request[:16] + extended("no")) == (errno.EINVAL, "no")
    # A kernel or a socket without NETLINK_CAP_ACK sends the whole request back.
    assert codec.read_ack(codec.NLM_F_ACK_TLVS, refused + request + extended("no")) == (errno.EINVAL, "no")
    assert codec.read_ack(0, refused + request) == (errno.EINVAL, "")
    assert codec.read_done(codec.NLM_F_ACK_TLVS, refused + extended("gone")) == (errno.EINVAL, "gone")
    assert codec.read_done(0, struct.pack("=i", 0)) == (0, "")


def test_decode_goes_by_message_type() -> None:
    """Links, addresses and routes become objects, everything else None."""
    link = messages.decode(16, bytes(16))
    assert isinstance(link, messages.Link)
    address = messages.decode(20, messages.new_address(1, CIDR.parse("10.0.0.1/8"))[16:])
    assert isinstance(address, messages.Address)
    assert str(address.cidr) == "10.0.0.1/8"
    assert isinstance(
        messages.decode(24, messages.new_route(1, CIDR.parse("::/0"))[16:]), messages.RouteEntry
    )
    assert messages.decode(28, bytes(40)) is None


def test_dumps_are_told_from_other_requests() -> None:
    """is_dump looks for both bits of NLM_F_DUMP: EXCL is one of them."""
    assert codec.is_dump(messages.dump_links())
    assert codec.is_dump(messages.dump_addresses())
    assert not codec.is_dump(messages.new_bridge("br0"))
    assert not codec.is_dump(messages.get_link(1))
