"""VLANs of bridge ports: the requests that set, remove and list them, and what the kernel tells.

Sources: <linux/if_bridge.h> (IFLA_BRIDGE_…, struct bridge_vlan_info), <linux/rtnetlink.h> (RTEXT_FILTER_…);
bridge(8). A VLAN id is a number from 1 to 4094. A kernel without bridge VLAN filtering answers a request to
set VLANs with EOPNOTSUPP and lists none.
"""

from __future__ import annotations

from _struct import Struct

from pycni.kernel.codec import (
    AF_BRIDGE,
    DO,
    DUMP,
    attribute,
    message,
    nest,
    read_attributes,
    read_list,
    read_u32,
    u32,
)
from pycni.kernel.links import RTM_DELLINK, RTM_GETLINK, RTM_NEWLINK, RTM_SETLINK
from pycni.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Final

VLAN_MIN: Final = 1
VLAN_MAX: Final = 4094

_IFINFO: Final = Struct("=BxHiII")
_MASTER, _AF_SPEC, _EXT_MASK = 10, 26, 29
_BRIDGE_FLAGS, _BRIDGE_VLAN_INFO = 0, 2
_BRIDGE_FLAGS_MASTER: Final = 1
_FLAGS: Final = Struct("=H")
_VLAN_INFO: Final = Struct("=HH")
_PVID, _UNTAGGED, _RANGE_BEGIN, _RANGE_END = 0x02, 0x04, 0x08, 0x10
_BRVLAN_COMPRESSED: Final = (
    1 << 2
)  # equal neighbours come as ranges: 4094 VLANs are two attributes, not 32 KB
_PORT_WANTED: Final = frozenset((_MASTER, _AF_SPEC))


class VlanRange(Record):
    """VLANs `first` to `last` of a port, both included, and how it treats them.

    `pvid`: what comes in without a tag belongs to this VLAN (one VLAN of a port at most, never a range).
    `untagged`: the tag is taken off on the way out.
    """

    first: int
    last: int
    pvid: bool = False
    untagged: bool = False

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"

    @property
    def flags(self) -> int:
        return (_PVID if self.pvid else 0) | (_UNTAGGED if self.untagged else 0)


class PortVlans(Record):
    """The VLANs of one port, or of a bridge itself, which is then its own `master` (both are indexes)."""

    index: int
    master: int
    vlans: tuple[VlanRange, ...]


def set_vlans(index: int, ranges: Iterable[VlanRange]) -> bytes:
    """Make a port a member of VLANs, in order; a VLAN that it has already takes the new flags.

    One request for all; the first refused range ends it. EOPNOTSUPP if the link is no bridge port.
    """
    return _request(RTM_SETLINK, index, ranges)


def del_vlans(index: int, first: int = VLAN_MIN, last: int = VLAN_MAX) -> bytes:
    """Take a port out of VLANs `first` to `last`, those of them that it is in."""
    return _request(RTM_DELLINK, index, (VlanRange(first, last),))


def dump_vlans() -> bytes:
    """Ask for the VLANs of all ports of all bridges; the kernel has no narrower form of this request."""
    return message(RTM_GETLINK, DUMP, _IFINFO.pack(AF_BRIDGE, 0, 0, 0, 0), u32(_EXT_MASK, _BRVLAN_COMPRESSED))


def read_vlans(payloads: Iterable[tuple[int, bytes]]) -> dict[int, PortVlans]:
    """The answer to `dump_vlans` (an Answer's payloads) by the ports' indexes."""
    ports = (_read_port(payload) for kind, payload in payloads if kind == RTM_NEWLINK)
    return {port.index: port for port in ports}


def _request(kind: int, index: int, ranges: Iterable[VlanRange]) -> bytes:
    infos = (info for item in ranges for info in _infos(item))
    spec = nest(_AF_SPEC, attribute(_BRIDGE_FLAGS, _FLAGS.pack(_BRIDGE_FLAGS_MASTER)), *infos)
    return message(kind, DO, _IFINFO.pack(AF_BRIDGE, 0, index, 0, 0), spec)


def _infos(item: VlanRange) -> Iterator[bytes]:
    if item.first == item.last:
        yield attribute(_BRIDGE_VLAN_INFO, _VLAN_INFO.pack(item.flags, item.first))
        return
    yield attribute(_BRIDGE_VLAN_INFO, _VLAN_INFO.pack(item.flags | _RANGE_BEGIN, item.first))
    yield attribute(_BRIDGE_VLAN_INFO, _VLAN_INFO.pack(item.flags | _RANGE_END, item.last))


def _read_port(payload: bytes) -> PortVlans:
    index: int = _IFINFO.unpack_from(payload)[2]
    found = read_attributes(payload, _IFINFO.size, _PORT_WANTED)
    return PortVlans(index, read_u32(found.get(_MASTER)), tuple(_read_ranges(found.get(_AF_SPEC, b""))))


def _read_ranges(spec: bytes) -> Iterator[VlanRange]:
    first = 0
    for info in read_list(spec, _BRIDGE_VLAN_INFO):
        flags, vlan = _VLAN_INFO.unpack_from(info)
        if flags & _RANGE_BEGIN:
            first = vlan
            continue
        begin = first if flags & _RANGE_END else vlan
        yield VlanRange(begin, vlan, bool(flags & _PVID), bool(flags & _UNTAGGED))
