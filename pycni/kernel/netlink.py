"""One rtnetlink socket: many requests in one send, one answer for each.

Blocking by design: the kernel executes requests inside `send`, under its lock for all network
configuration, so a caller that must not wait runs these methods in a worker thread.
Sources: netlink(7), <linux/netlink.h>.
"""

from __future__ import annotations

import errno
from _socket import SO_RCVBUF, SO_RCVTIMEO, SOCK_CLOEXEC, SOCK_RAW, SOL_SOCKET, socket
from _struct import Struct
from os import strerror

from pycni.errors import TRY_AGAIN_LATER, CNIError
from pycni.kernel.codec import (
    NLM_F_DUMP_INTR,
    NLMSG_DONE,
    NLMSG_ERROR,
    number_requests,
    read_ack,
    read_done,
    split,
)
from pycni.kernel.messages import Address, Link, RouteEntry, decode
from pycni.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Final

    Payload = tuple[int, bytes]

_AF_NETLINK: Final = 16
_NETLINK_ROUTE: Final = 0
_SOL_NETLINK: Final = 270
_NETLINK_CAP_ACK, _NETLINK_EXT_ACK, _NETLINK_GET_STRICT_CHK = 10, 11, 12
_SO_RCVBUFFORCE: Final = 33

BATCH: Final = 128
"""Requests per send: their answers must fit in the receive buffer, which nobody reads meanwhile."""
RECEIVE_BUFFER: Final = 4 << 20
"""Bytes."""
TIMEOUT: Final = 30
"""Seconds without a word from the kernel after which a request is given up."""
TRIES: Final = 5
"""How often a dump is repeated when the kernel says that it changed under way."""

_DATAGRAM: Final = 1 << 16  # dumps come in 32 KiB at most
_TIMEVAL: Final = Struct("@ll")
_FIRST_SEQUENCE: Final = 1
_SEQUENCES: Final = 1 << 31


class AnswersLost(CNIError):
    """The receive buffer overflowed: what was asked was done or refused, but nobody knows which."""

    def __init__(self) -> None:
        super().__init__(
            "netlink answers were lost: no buffer space available",
            "the requests may have been executed: observe the state again before anything else",
            code=TRY_AGAIN_LATER,
        )


class Answer(Record):
    """What the kernel said to one request.

    `errno` is 0 or a number of the errno module; `text` is the kernel's own explanation (extended
    acknowledgement), often empty; `payloads` are the messages before the verdict as (type, bytes).
    """

    errno: int = 0
    text: str = ""
    payloads: tuple[Payload, ...] = ()

    @property
    def ok(self) -> bool:
        return self.errno == 0

    @property
    def reason(self) -> str:
        """The errno's text in lower case, as the reference prints it: `file exists`."""
        return strerror(self.errno).lower()

    def error(self, what: str) -> CNIError:
        """This failure as a CNIError `what: reason`, the kernel's explanation in the details."""
        return CNIError(f"{what}: {self.reason}", f"the kernel says: {self.text}" if self.text else "")

    @property
    def links(self) -> tuple[Link, ...]:
        return tuple(item for item in self._decoded() if isinstance(item, Link))

    @property
    def addresses(self) -> tuple[Address, ...]:
        return tuple(item for item in self._decoded() if isinstance(item, Address))

    @property
    def routes(self) -> tuple[RouteEntry, ...]:
        return tuple(item for item in self._decoded() if isinstance(item, RouteEntry))

    def _decoded(self) -> Iterator[object]:
        for kind, payload in self.payloads:
            yield decode(kind, payload)


class NetlinkSocket:
    """A socket in the network namespace in which the calling thread is at construction, for good.

    One exchange at a time: the owner sees to that. After any exception out of a method the socket may hold
    answers that nobody wants; they are ignored by their sequence numbers. Raises OSError where the kernel
    gives no socket.
    """

    def __init__(self, receive_buffer: int = RECEIVE_BUFFER) -> None:
        self._socket = socket(_AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, _NETLINK_ROUTE)
        self._sequence = _FIRST_SEQUENCE
        try:
            for option in (_NETLINK_EXT_ACK, _NETLINK_CAP_ACK, _NETLINK_GET_STRICT_CHK):
                self._socket.setsockopt(_SOL_NETLINK, option, 1)
            self._socket.setsockopt(SOL_SOCKET, SO_RCVTIMEO, _TIMEVAL.pack(TIMEOUT, 0))
            self._set_receive_buffer(receive_buffer)
        except BaseException:
            self._socket.close()
            raise

    def close(self) -> None:
        self._socket.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    def request(self, messages: Sequence[bytes]) -> list[Answer]:
        """Send requests that are no dumps, in order; one answer for each, in order.

        A request that fails neither stops those after it nor undoes those before. Raises AnswersLost if
        the kernel's answers did not fit, CNIError (11) after 30 s of silence, OSError if nothing could
        be sent.
        """
        answers: list[Answer] = []
        for start in range(0, len(messages), BATCH):
            answers += self._exchange(tuple(messages[start : start + BATCH]))
        return answers

    def dump(self, message: bytes) -> Answer:
        """Send one dump request; its answer, with the payloads of all objects.

        A dump during which the kernel's tables changed is repeated (5 tries in all), one that overflowed
        the buffer too. Raises CNIError (11) if none succeeded; otherwise like `request`.
        """
        for _try in range(TRIES):
            try:
                answer = self._dump(message)
            except AnswersLost:
                continue
            if answer is not None:
                return answer
        raise CNIError(
            f"netlink dump was interrupted {TRIES} times",
            "the kernel's tables change faster than they can be read; try again later",
            code=TRY_AGAIN_LATER,
        )

    def _exchange(self, messages: tuple[bytes, ...]) -> list[Answer]:
        first = self._send(messages)
        verdicts: dict[int, Answer] = {}
        payloads: dict[int, list[Payload]] = {}
        while len(verdicts) < len(messages):
            for kind, flags, sequence, payload in self._receive():
                if not 0 <= sequence - first < len(messages):
                    continue
                if kind == NLMSG_ERROR:
                    number, text = read_ack(flags, payload)
                    verdicts[sequence] = Answer(number, text, tuple(payloads.pop(sequence, ())))
                else:
                    payloads.setdefault(sequence, []).append((kind, payload))
        return [verdicts[first + position] for position in range(len(messages))]

    def _dump(self, message: bytes) -> Answer | None:
        """None if the kernel says that the dump is inconsistent."""
        wanted = self._send((message,))
        payloads: list[Payload] = []
        consistent = True
        while True:
            for kind, flags, sequence, payload in self._receive():
                if sequence != wanted:
                    continue
                consistent = consistent and not flags & NLM_F_DUMP_INTR
                if kind in (NLMSG_DONE, NLMSG_ERROR):
                    number, text = (read_done if kind == NLMSG_DONE else read_ack)(flags, payload)
                    return Answer(number, text, tuple(payloads)) if consistent or number else None
                payloads.append((kind, payload))

    def _send(self, messages: tuple[bytes, ...]) -> int:
        """The sequence number of the first."""
        if self._sequence + len(messages) > _SEQUENCES:
            self._sequence = _FIRST_SEQUENCE
        first = self._sequence
        self._sequence += len(messages)
        self._socket.send(number_requests(messages, first))
        return first

    def _receive(self) -> list[tuple[int, int, int, bytes]]:
        try:
            datagram, sender = self._socket.recvfrom(_DATAGRAM)
        except BlockingIOError:
            raise CNIError(
                f"no answer from the kernel within {TIMEOUT} s", "try again later", code=TRY_AGAIN_LATER
            ) from None
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            self._drain()
            raise AnswersLost from None
        # Port 0 is the kernel; any process with CAP_NET_ADMIN can write to this socket as well.
        return list(split(datagram)) if sender[0] == 0 else []

    def _drain(self) -> None:
        self._socket.setblocking(False)
        try:
            while True:
                self._socket.recv(_DATAGRAM)
        except BlockingIOError:
            return
        finally:
            self._socket.setblocking(True)

    def _set_receive_buffer(self, size: int) -> None:
        try:
            self._socket.setsockopt(SOL_SOCKET, _SO_RCVBUFFORCE, size)
        except PermissionError:  # beyond net.core.rmem_max without CAP_NET_ADMIN of the first user namespace
            self._socket.setsockopt(SOL_SOCKET, SO_RCVBUF, size)
