"""The bookkeeping of the socket against a scripted kernel: whose answers, what is repeated, what is lost."""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING

import pytest

from pycni.errors import TRY_AGAIN_LATER, CNIError
from pycni.kernel import codec, messages, netlink
from pycni.kernel.netlink import Answer, AnswersLost, NetlinkSocket

if TYPE_CHECKING:
    from collections.abc import Callable

KERNEL = (0, 0)
MULTI, INTERRUPTED = 0x02, 0x12
NOW = OSError(errno.ENOBUFS, "no buffer space")


def frame(kind: int, flags: int, sequence: int, payload: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(payload), kind, flags, sequence, 0) + payload


def ack(sequence: int, number: int = 0) -> bytes:
    return frame(codec.NLMSG_ERROR, codec.NLM_F_CAPPED, sequence, struct.pack("=i", -number) + bytes(16))


def done(sequence: int, flags: int = MULTI, number: int = 0) -> bytes:
    return frame(codec.NLMSG_DONE, flags, sequence, struct.pack("=i", -number))


class Kernel:
    """A socket whose other side is a list: bytes, (bytes, sender) or an exception for each receive."""

    def __init__(self) -> None:
        self.script: list[object] = []
        self.sent: list[bytes] = []
        self.drained = False

    def __call__(self, *_arguments: int) -> Kernel:
        return self

    def setsockopt(self, *_arguments: object) -> None: ...

    def setblocking(self, blocking: bool) -> None: ...

    def send(self, data: bytes) -> None:
        self.sent.append(bytes(data))

    def recv(self, _size: int) -> bytes:
        self.drained = True
        raise BlockingIOError

    def recvfrom(self, _size: int) -> tuple[bytes, tuple[int, int]]:
        step = self.script.pop(0)
        if isinstance(step, Exception):
            raise step
        if isinstance(step, tuple):
            data, sender = step
            return data, sender
        assert isinstance(step, bytes)
        return step, KERNEL


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    kernel = Kernel()
    monkeypatch.setattr(netlink, "socket", kernel)
    return kernel


def three() -> list[bytes]:
    return [messages.get_link(index) for index in (1, 2, 3)]


def test_each_request_gets_its_own_answer(kernel: Kernel) -> None:
    """Answers are matched by sequence number; objects belong to the request before whose ack they came."""
    link = bytes(16)
    kernel.script = [frame(16, 0, 1, link), ack(1), ack(2, errno.ENODEV), frame(16, 0, 3, link) + ack(3)]
    answers = NetlinkSocket().request(three())
    assert answers == [
        Answer(0, "", ((16, link),)),
        Answer(errno.ENODEV, "", ()),
        Answer(0, "", ((16, link),)),
    ]
    assert len(kernel.sent) == 1


def test_what_was_not_asked_for_is_ignored(kernel: Kernel) -> None:
    """Answers to somebody else's numbers and datagrams of other processes do not count."""
    forged = (ack(1, errno.EPERM), (4711, 0))
    kernel.script = [ack(0), ack(99), ack(1), forged, ack(2), ack(3)]
    assert [answer.errno for answer in NetlinkSocket().request(three())] == [0, 0, 0]


def test_late_answers_are_not_taken_for_new_ones(kernel: Kernel) -> None:
    """Sequence numbers go on, so what an abandoned exchange left in the buffer has older ones."""
    netlink_socket = NetlinkSocket()
    kernel.script = [BlockingIOError(), ack(1, errno.EPERM), ack(2)]
    with pytest.raises(CNIError):
        netlink_socket.request([messages.get_link(1)])
    assert netlink_socket.request([messages.get_link(1)]) == [Answer()]


def test_many_requests_go_out_in_portions(kernel: Kernel) -> None:
    """No send has more than 128 requests; the order of answers is that of the requests."""
    count = 300
    kernel.script = [ack(number + 1, number) for number in range(count)]
    answers = NetlinkSocket().request([messages.get_link(1)] * count)
    assert [answer.errno for answer in answers] == list(range(count))
    assert [len(list(codec.split(data))) for data in kernel.sent] == [128, 128, 44]


def test_nothing_to_send_sends_nothing(kernel: Kernel) -> None:
    """An empty batch is answered by an empty list."""
    assert NetlinkSocket().request([]) == []
    assert kernel.sent == []


def test_lost_answers_say_observe_again(kernel: Kernel) -> None:
    """An overflown buffer is emptied, and the error is one that asks for another try."""
    kernel.script = [ack(1), NOW]
    with pytest.raises(AnswersLost) as caught:
        NetlinkSocket().request(three())
    assert caught.value.code == TRY_AGAIN_LATER
    assert "observe the state again" in caught.value.details
    assert kernel.drained


def test_silence_ends(kernel: Kernel) -> None:
    """A kernel that does not answer makes an error of code 11, not a process that hangs."""
    kernel.script = [BlockingIOError()]
    with pytest.raises(CNIError, match="no answer from the kernel within 30 s") as caught:
        NetlinkSocket().request([messages.get_link(1)])
    assert caught.value.code == TRY_AGAIN_LATER


def test_a_dump_is_all_up_to_its_end(kernel: Kernel) -> None:
    """A dump's objects come in several datagrams and end with DONE."""
    kernel.script = [
        frame(16, MULTI, 1, b"a" * 16) + frame(16, MULTI, 1, b"b" * 16),
        frame(16, MULTI, 7, b"x" * 16),
        frame(16, MULTI, 1, b"c" * 16),
        done(1),
    ]
    answer = NetlinkSocket().dump(messages.dump_links())
    assert answer == Answer(0, "", tuple((16, letter * 16) for letter in (b"a", b"b", b"c")))


@pytest.mark.parametrize("where", ["object", "end"])
def test_an_interrupted_dump_is_repeated(kernel: Kernel, where: str) -> None:
    """NLM_F_DUMP_INTR anywhere makes the whole dump void."""
    marks = (INTERRUPTED, MULTI) if where == "object" else (MULTI, INTERRUPTED)
    kernel.script = [
        frame(16, marks[0], 1, b"old-" * 4) + done(1, marks[1]),
        frame(16, MULTI, 2, b"new-" * 4) + done(2),
    ]
    assert NetlinkSocket().dump(messages.dump_links()).payloads == ((16, b"new-" * 4),)


@pytest.mark.parametrize(
    "failure",
    [lambda number: done(number, INTERRUPTED), lambda _number: NOW],
    ids=["interrupted", "overflown"],
)
def test_a_dump_is_given_up_after_five_tries(kernel: Kernel, failure: Callable[[int], object]) -> None:
    """A table that never holds still makes an error of code 11."""
    kernel.script = [failure(number) for number in range(1, 10)]
    with pytest.raises(CNIError, match="netlink dump was interrupted 5 times") as caught:
        NetlinkSocket().dump(messages.dump_links())
    assert caught.value.code == TRY_AGAIN_LATER
    assert len(kernel.sent) == 5


@pytest.mark.parametrize(
    "refusal", [done(1, MULTI, errno.ENODEV), ack(1, errno.ENODEV)], ids=["done", "error"]
)
def test_a_refused_dump_is_an_answer(kernel: Kernel, refusal: bytes) -> None:
    """The kernel's refusal comes back as a number, whichever message carries it."""
    kernel.script = [refusal]
    assert NetlinkSocket().dump(messages.dump_addresses(index=99)).errno == errno.ENODEV


def test_sequence_numbers_start_over_in_time(kernel: Kernel) -> None:
    """They stay within 31 bits in a process that lives for years."""
    netlink_socket = NetlinkSocket()
    netlink_socket._sequence = (1 << 31) - 1
    kernel.script = [ack(1), ack(2), ack(3)]
    assert [answer.errno for answer in netlink_socket.request(three())] == [0, 0, 0]


def test_an_answer_becomes_an_error_with_the_kernels_words() -> None:
    """The errno in lower case after what was attempted, the extended text in the details."""
    error = Answer(errno.EEXIST, "peer exists").error("failed to make veth pair")
    assert error.msg == "failed to make veth pair: file exists"
    assert error.details == "the kernel says: peer exists"
    assert Answer(errno.EEXIST).error("x").details == ""
    assert Answer().ok
    assert not Answer(errno.EEXIST).ok
