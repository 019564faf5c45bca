"""IP addresses and CIDRs as the contract reads and prints them.

The rules are Go's `net.ParseIP` and `net.ParseCIDR`, because configs were written against them: no netmask
notation, no zones, no leading zeros, host bits kept, and an IPv4-mapped IPv6 address *is* IPv4. The
standard library's `ipaddress` differs in all of these and costs half an interpreter start to import; it is
the oracle of the tests instead.
"""

from __future__ import annotations

from _socket import AF_INET, AF_INET6, inet_ntop, inet_pton

from pycni.errors import CNIError
from pycni.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final, Self, TypeVar

    _IPType = TypeVar("_IPType", bound="IP")

IPV4: Final = 4
IPV6: Final = 6


class IP(Record):
    """One address: `family` is 4 or 6, `value` its integer in network order."""

    family: int
    value: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises CNIError (999) `invalid IP address: …`."""
        ip = _parse(cls, text)
        if ip is None:
            raise CNIError(f"invalid IP address: {text}")
        return ip

    @classmethod
    def from_bytes(cls, packed: bytes) -> Self:
        """4 or 16 bytes in network order (a mapped address becomes IPv4)."""
        value = int.from_bytes(packed, "big")
        if len(packed) == 16 and value >> 32 == 0xFFFF:
            return cls(IPV4, value & 0xFFFFFFFF)
        return cls(IPV4 if len(packed) == 4 else IPV6, value)

    @property
    def bits(self) -> int:
        return 32 if self.family == IPV4 else 128

    def packed(self) -> bytes:
        return self.value.to_bytes(4 if self.family == IPV4 else 16, "big")

    def __str__(self) -> str:
        if self.family == IPV4:
            return inet_ntop(AF_INET, self.value.to_bytes(4, "big"))
        text = inet_ntop(AF_INET6, self.value.to_bytes(16, "big"))
        if "." not in text:
            return text
        # The C library prints ::1.2.3.4 for IPv4-compatible addresses, Go does not.
        return f"{text.rpartition(':')[0]}:{self.value >> 16 & 0xFFFF:x}:{self.value & 0xFFFF:x}"

    def __add__(self, count: int) -> Self:
        """The address `count` further; wraps within the family."""
        return type(self)(self.family, (self.value + count) % (1 << self.bits))

    def __lt__(self, other: IP) -> bool:
        return (self.family, self.value) < (other.family, other.value)

    def __le__(self, other: IP) -> bool:
        return (self.family, self.value) <= (other.family, other.value)

    def is_multicast(self) -> bool:
        return self.value >> 28 == 0xE if self.family == IPV4 else self.value >> 120 == 0xFF

    def is_loopback(self) -> bool:
        return self.value >> 24 == 127 if self.family == IPV4 else self.value == 1

    def is_link_local(self) -> bool:
        return self.value >> 16 == 0xA9FE if self.family == IPV4 else self.value >> 118 == 0xFE80 >> 6


class CIDR(Record):
    """An address with a prefix length, host bits kept: `10.0.0.5/8` is an interface's address."""

    ip: IP
    prefix: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises CNIError (999) `invalid CIDR address: …`."""
        address, slash, length = text.partition("/")
        ip = _parse(IP, address) if slash else None
        if ip is None or not (length.isascii() and length.isdigit()) or len(length.lstrip("0")) > 3:
            raise CNIError(f"invalid CIDR address: {text}")
        prefix = int(length)
        if ":" in address and ip.family == IPV4:
            # Go keeps the mask of the text's own 128 bits and prints the mapped address as IPv4.
            if prefix > 128:
                raise CNIError(f"invalid CIDR address: {text}")
            return cls(ip, max(prefix - 96, 0))
        if prefix > ip.bits:
            raise CNIError(f"invalid CIDR address: {text}")
        return cls(ip, prefix)

    @property
    def family(self) -> int:
        return self.ip.family

    @property
    def hostmask(self) -> int:
        return (1 << (self.ip.bits - self.prefix)) - 1

    @property
    def network(self) -> Self:
        """The same with host bits cleared."""
        return type(self)(IP(self.ip.family, self.ip.value & ~self.hostmask), self.prefix)

    @property
    def last(self) -> IP:
        """The highest address of the network (IPv4: the broadcast address)."""
        return IP(self.ip.family, self.ip.value | self.hostmask)

    def contains(self, ip: IP) -> bool:
        return ip.family == self.ip.family and ip.value | self.hostmask == self.ip.value | self.hostmask

    def overlaps(self, other: CIDR) -> bool:
        return self.contains(other.network.ip) or other.contains(self.network.ip)

    def is_default(self) -> bool:
        """Whether this is 0.0.0.0/0 or ::/0."""
        return self.prefix == 0 and self.ip.value == 0

    def __str__(self) -> str:
        return f"{self.ip}/{self.prefix}"


DEFAULT_V4: Final = CIDR(IP(IPV4, 0), 0)
DEFAULT_V6: Final = CIDR(IP(IPV6, 0), 0)


def _parse(cls: type[_IPType], text: str) -> _IPType | None:
    try:
        packed = inet_pton(AF_INET6 if ":" in text else AF_INET, text)
    except (OSError, ValueError):  # ValueError: a NUL or a surrogate in the text
        return None
    return cls.from_bytes(packed)
