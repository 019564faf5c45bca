"""Ranges and range sets: what a network may hand out, by arithmetic on address numbers.

A range set is a list of alternatives of one family; an attachment gets one address from each set. Nothing
here enumerates addresses, so an IPv6 /64 costs what an IPv4 /30 costs. Source of rules and texts: the
reference's host-local allocator.
"""

from __future__ import annotations

from pycni.addresses import CIDR, IP, IPV4
from pycni.errors import CNIError
from pycni.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


class Range(Record):
    """Addresses `start` to `end`, both included, of `subnet`; `gateway` is never handed out.

    The gateway may lie outside the subnet and even be of the other family: the reference accepts that.
    """

    subnet: CIDR
    start: IP
    end: IP
    gateway: IP

    def __contains__(self, ip: IP) -> bool:
        return ip.family == self.start.family and self.start.value <= ip.value <= self.end.value

    def overlaps(self, other: Range) -> bool:
        return other.start in self or self.start in other

    @property
    def capacity(self) -> int:
        """How many addresses can be handed out."""
        return self.end.value - self.start.value + 1 - (self.gateway in self)

    def __str__(self) -> str:
        return f"{self.start}-{self.end}"


class RangeSet(Record):
    """Alternatives, tried in order; at least one, all of one family, without overlap."""

    ranges: tuple[Range, ...]

    @property
    def family(self) -> int:
        return self.ranges[0].subnet.family

    @property
    def capacity(self) -> int:
        """How many addresses can be handed out."""
        return sum(each.capacity for each in self.ranges)

    def find(self, ip: IP) -> Range | None:
        """The range that `ip` lies in."""
        for each in self.ranges:
            if ip in each:
                return each
        return None

    def overlaps(self, other: RangeSet) -> bool:
        return any(mine.overlaps(theirs) for mine in self.ranges for theirs in other.ranges)

    def __str__(self) -> str:
        return ",".join(map(str, self.ranges))


def complete_range(
    subnet: CIDR | None, start: IP | None = None, end: IP | None = None, gateway: IP | None = None
) -> Range:
    """A range with its defaults: gateway and start are the first address after the network's own, the end
    is the last one (IPv4: the last before broadcast).

    Raises CNIError (999) for a missing or too small subnet, host bits, and a start or end that is not in
    the subnet or in the wrong order.
    """
    if subnet is None:
        raise CNIError("IP <nil> not v4 nor v6", 'a range needs a "subnet", such as 10.1.0.0/16')
    bits = subnet.ip.bits
    if subnet.prefix > bits - 2:
        raise CNIError(f"Network {subnet} too small to allocate from", f"the longest prefix is /{bits - 2}")
    network = subnet.network
    if network != subnet:
        raise CNIError(
            "Network has host bits set. For a subnet mask of length "
            f"{subnet.prefix} the network address is {network.ip}",
            f'"subnet" is {subnet}',
        )
    first = network.ip + 1
    if start is not None and not _between(start, subnet, None, end):
        raise _outside("RangeStart", start, subnet, end)
    begin = first if start is None else start
    if end is not None and not _between(end, subnet, begin, None):
        raise _outside("RangeEnd", end, subnet, begin)
    if end is None:
        end = network.last if subnet.family != IPV4 else network.last + -1
        if end < begin:  # an explicit start at the broadcast address
            raise _outside("RangeStart", begin, subnet, end)
    return Range(subnet, begin, end, first if gateway is None else gateway)


def _between(ip: IP, subnet: CIDR, low: IP | None, high: IP | None) -> bool:
    if not subnet.contains(ip) or (low is not None and ip < low):
        return False
    return high is None or high.family != ip.family or ip <= high


def _outside(field: str, ip: IP, subnet: CIDR, other: IP | None) -> CNIError:
    beside = "" if other is None else f"; the other end is {other}"
    return CNIError(f"{field} {ip} not in network {subnet}", f"it must lie in {subnet}{beside}")


def complete_set(ranges: Sequence[Range]) -> RangeSet:
    """A set of complete ranges; raises CNIError (999) if it is empty, of two families or overlapping."""
    if not ranges:
        raise CNIError("empty range set", "a range set is a list of ranges, each with a subnet")
    families = {each.subnet.family for each in ranges}
    if len(families) > 1:
        raise CNIError(
            "mixed address families",
            f"a set gives one address: put {', '.join(str(each.subnet) for each in ranges)} into two sets",
        )
    for position, one in enumerate(ranges):
        for other in ranges[position + 1 :]:
            if one.overlaps(other):
                raise CNIError(f"subnets {one} and {other} overlap")
    return RangeSet(tuple(ranges))


def check_sets(sets: Sequence[RangeSet], version: str, several: bool) -> None:
    """The rules over all sets of a network; raises CNIError (999).

    `version` is the config's text; `several` whether it allows more than one address of a family.
    """
    families = [each.family for each in sets]
    if not several and len(set(families)) < len(families):
        raise CNIError(
            f"CNI version {version} does not support more than 1 address per family",
            f"{len(sets)} range sets; cniVersion 0.3.0 and newer allow it",
        )
    for position, one in enumerate(sets):
        for other in range(position + 1, len(sets)):
            if one.overlaps(sets[other]):
                raise CNIError(
                    f"range set {position} overlaps with {other}", f"{one} overlaps with {sets[other]}"
                )
