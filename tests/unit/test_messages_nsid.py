"""Namespace numbers: byte for byte what pyroute2 packs, and what an answer means."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink.rtnl.nsidmsg import nsidmsg

from pycni.kernel.netlink import Answer
from pycni.kernel.nsid import RTM_GETNSID, RTM_NEWNSID, get_nsid, read_nsid


def encoded(kind: int, flags: int, *attributes: tuple[str, int]) -> bytes:
    message = nsidmsg()
    message["header"]["type"] = kind
    message["header"]["flags"] = flags
    message["attrs"] = list(attributes)
    message.encode()
    return bytes(message.data)


@given(st.integers(0, (1 << 31) - 1))
def test_a_request_is_what_pyroute2_makes(fd: int) -> None:
    """get_nsid packs the descriptor as pyroute2 does."""
    assert get_nsid(fd) == encoded(RTM_GETNSID, 0x5, ("NETNSA_FD", fd))


@pytest.mark.parametrize(("packed", "number"), [(0, 0), (7, 7), ((1 << 32) - 1, None)])
def test_an_answer(packed: int, number: int | None) -> None:
    """Numbers from 0 on are numbers; -1 says that there is none."""
    payload = encoded(RTM_NEWNSID, 0, ("NETNSA_NSID", packed))[16:]
    assert read_nsid(Answer(payloads=((RTM_NEWNSID, payload),))) == number


def test_an_answer_without_a_number() -> None:
    """A refusal, and messages of other kinds."""
    assert read_nsid(Answer(errno=22)) is None
    assert read_nsid(Answer(payloads=((16, bytes(64)),))) is None
