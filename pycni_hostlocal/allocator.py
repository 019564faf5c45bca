"""Which address an attachment gets: pure decisions on a view of the store.

`allocate` decides, the store acts. The order of addresses is the reference's round robin: from the one
after the last reserved, through the ranges of the set, once around. A search steps over taken addresses
only, so it costs as many steps as there are reservations in a row, whatever the size of the range.
"""

from __future__ import annotations

from pycni.addresses import IP
from pycni.errors import CNIError
from pycni.names import is_identifier
from pycni.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator
    from typing import Final

    from pycni.addresses import CIDR
    from pycni_hostlocal.ranges import Range, RangeSet

_HOLDERS_SHOWN: Final = 5


class Owner(Record):
    """Who holds an address: `container_id` and `ifname`, as a reservation file tells."""

    container_id: str
    ifname: str

    @property
    def content(self) -> bytes:
        """The bytes of a reservation: id, CR LF, interface; no line feed at the end."""
        return f"{self.container_id}\r\n{self.ifname}".encode("utf-8", "surrogateescape")

    @property
    def legacy_content(self) -> bytes:
        """What the oldest versions of the reference wrote: the id alone."""
        return self.container_id.encode("utf-8", "surrogateescape")


class View:
    """The store as one look under its lock saw it; whoever changes the store changes its view as well.

    `names` are all file names (an address is taken if its text is one of them), `owners` the trimmed bytes
    of the files whose name looks like an address, `last` the text of `last_reserved_ip.N` by N, `abandoned`
    the old ones that tell no owner: their writer did not live to fill them. `complete` is false if any file
    tells no owner.
    """

    __slots__ = ("abandoned", "complete", "last", "names", "owners")

    def __init__(
        self,
        names: Iterable[str] = (),
        owners: dict[str, bytes] | None = None,
        last: dict[int, str] | None = None,
        abandoned: Iterable[str] = (),
    ) -> None:
        self.names = set(names)
        self.owners = {} if owners is None else owners
        self.last = {} if last is None else last
        self.abandoned = set(abandoned)
        self.complete = True

    def held_by(self, owner: Owner) -> list[IP]:
        """The addresses of `owner`, legacy reservations of its container included, in no order."""
        mine = (owner.content, owner.legacy_content)
        found = (address_of(name) for name, content in self.owners.items() if content in mine)
        return [ip for ip in found if ip is not None]

    def add(self, name: str, owner: Owner) -> None:
        """Take note that an address was reserved."""
        self.names.add(name)
        self.owners[name] = owner.content
        self.abandoned.discard(name)

    def discard(self, name: str) -> None:
        """Take note that an address was released."""
        self.names.discard(name)
        self.owners.pop(name, None)
        self.abandoned.discard(name)


class Wanted(Record):
    """One attachment's wish: an address of each set, `requested` ones where a set has them."""

    owner: Owner
    sets: tuple[RangeSet, ...]
    requested: tuple[IP, ...] = ()


class Pick(Record):
    """The address chosen from range set number `index`; `reuse` if an abandoned file is in its place."""

    index: int
    ip: IP
    subnet: CIDR
    gateway: IP
    reuse: bool = False


class Decision(Record):
    """What to reserve, in set order; with an `error` nothing is to be kept.

    The picks before the error still move the round on (`last_reserved_ip.N`), as in the reference.
    """

    picks: tuple[Pick, ...]
    error: CNIError | None = None


def address_of(name: str) -> IP | None:
    """The address that a file name stands for, None for every other name."""
    if ":" not in name and "." not in name:
        return None
    try:
        return IP.parse(name)
    except CNIError:
        return None


def owner_of(content: bytes) -> Owner | None:
    """The owner that trimmed bytes tell of (`ifname` empty for a legacy reservation), None if they do not."""
    container_id, separator, ifname = content.decode("utf-8", "surrogateescape").partition("\r\n")
    if not is_identifier(container_id) or (separator and not ifname):
        return None
    return Owner(container_id, ifname)


def allocate(view: View, wanted: Wanted) -> Decision:
    """Choose one address of each set. Changes nothing; errors are returned, with the reference's texts."""
    left = list(wanted.requested)
    held = view.held_by(wanted.owner)
    picks: list[Pick] = []
    for index, ranges in enumerate(wanted.sets):
        try:
            picks.append(_pick(view, wanted.owner, index, ranges, held, left))
        except CNIError as error:
            failure = CNIError(f"failed to allocate for range {index}: {error.msg}", error.details)
            return Decision(tuple(picks), failure)
    return Decision(tuple(picks), _left_over(left, wanted.sets) if left else None)


def unplaced(wanted: Wanted) -> CNIError | None:
    """The error for requested addresses that no store could give; None if there is none.

    At most one is served per set, in the order of the request.
    """
    left = list(wanted.requested)
    for ranges in wanted.sets:
        _take_requested(ranges, left)
    return _left_over(left, wanted.sets) if left else None


def _left_over(left: list[IP], sets: tuple[RangeSet, ...]) -> CNIError:
    outside = [ip for ip in left if not any(ranges.find(ip) for ranges in sets)]
    reason = "not in any range" if outside else "only one address is given per range set"
    return CNIError(
        f"failed to allocate all requested IPs: {' '.join(map(str, left))}",
        f"{reason}; the range sets are {'; '.join(map(str, sets))}",
    )


def _take_requested(ranges: RangeSet, left: list[IP]) -> IP | None:
    for ip in left:
        if ranges.find(ip) is not None:
            left.remove(ip)
            return ip
    return None


def _pick(view: View, owner: Owner, index: int, ranges: RangeSet, held: list[IP], left: list[IP]) -> Pick:
    requested = _take_requested(ranges, left)
    within = None if requested is None else ranges.find(requested)
    if within is not None and requested == within.gateway:
        raise CNIError(
            f"requested ip {requested} is subnet's gateway", f"the range is {within} of {within.subnet}"
        )
    for ip in held:
        if ranges.find(ip) is not None:
            raise CNIError(
                f"{ip} has been allocated to {owner.container_id}, duplicate allocation is not allowed",
                f"interface {owner.ifname} has an address of range set {index} already; DEL frees it",
            )
    if requested is not None and within is not None:
        name = str(requested)
        if name in view.names and name not in view.abandoned:
            holder = owner_of(view.owners.get(name, b""))
            raise CNIError(
                f"requested IP address {name} is not available in range set {ranges}",
                f"held by {f'{holder.container_id} {holder.ifname}' if holder else 'nobody who is known'}",
            )
        return Pick(index, requested, within.subnet, within.gateway, name in view.names)
    return _next(view, index, ranges)


def _next(view: View, index: int, ranges: RangeSet) -> Pick:
    last = _last_usable(view.last.get(index, ""))
    for taken in (view.names, view.names - view.abandoned) if view.abandoned else (view.names,):
        found = first_free(ranges, taken, last)
        if found is not None:
            ip, within = found
            return Pick(index, ip, within.subnet, within.gateway, str(ip) in view.names)
    raise exhausted(view, index, ranges)


def _last_usable(text: str) -> IP | None:
    try:
        return IP.parse(text) if text else None
    except CNIError:
        return None


def first_free(ranges: RangeSet, taken: Container[str], last: IP | None) -> tuple[IP, Range] | None:
    """The first address after `last` whose text is not in `taken`, with its range; None if all are taken.

    Gateways are skipped. `last` counts only if it lies in the set, else the search starts at the first
    range's start; `last` itself is tried at the end.
    """
    for within, low, high in _round(ranges, last):
        for value in range(low, high + 1):
            ip = IP(within.start.family, value)
            if ip != within.gateway and str(ip) not in taken:
                return ip, within
    return None


def _round(ranges: RangeSet, last: IP | None) -> Iterator[tuple[Range, int, int]]:
    """Pieces of the set in the order of the search, as (range, first, last) with address numbers."""
    every = ranges.ranges
    start = 0
    if last is not None:
        start = next((number for number, each in enumerate(every) if last in each), -1)
    if last is None or start < 0:
        for each in every:
            yield each, each.start.value, each.end.value
        return
    yield every[start], last.value + 1, every[start].end.value
    for each in every[start + 1 :] + every[:start]:
        yield each, each.start.value, each.end.value
    yield every[start], every[start].start.value, last.value


def exhausted(view: View, index: int, ranges: RangeSet) -> CNIError:
    """The error for a full set: how many addresses it has, who holds them, and what to do."""
    held, holders = occupancy(view, ranges)
    ranked = sorted(holders.items(), key=lambda item: (-item[1], item[0]))
    who = ", ".join(f"{name} ({count})" for name, count in ranked[:_HOLDERS_SHOWN])
    if len(ranked) > _HOLDERS_SHOWN:
        who += f" and {len(ranked) - _HOLDERS_SHOWN} more"
    return CNIError(
        f"no IP addresses available in range set: {ranges}",
        f"range set {index} has {ranges.capacity} addresses, {held} are held: by {who or 'nobody'}; "
        "`pycni gc` lists and frees those of containers that are gone, a wider range gives more",
    )


def occupancy(view: View, ranges: RangeSet) -> tuple[int, dict[str, int]]:
    """How many addresses of the set are held, and how many by each container id."""
    holders: dict[str, int] = {}
    held = 0
    for name in view.names:
        ip = address_of(name)
        within = None if ip is None else ranges.find(ip)
        if within is None or ip == within.gateway:
            continue
        held += 1
        owner = owner_of(view.owners.get(name, b""))
        holder = "a reservation without owner" if owner is None else owner.container_id
        holders[holder] = holders.get(holder, 0) + 1
    return held, holders
