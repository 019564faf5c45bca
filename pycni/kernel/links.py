"""Links: the requests that make, change, find and remove them, and what the kernel tells about them.

Sources: <linux/if_link.h>, <linux/if.h>, <linux/veth.h>; rtnetlink(7). Builders return complete requests
(see `pycni.kernel.codec.message`); a MAC is 6 bytes, an index a positive number, an MTU is in bytes and 0
means the kernel's default.
"""

from __future__ import annotations

from _struct import Struct

from pycni.kernel.codec import (
    AF_BRIDGE,
    CREATE_NEW,
    DO,
    DUMP,
    attribute,
    message,
    nest,
    read_attributes,
    read_int,
    read_list,
    read_text,
    read_u32,
    text,
    u8,
    u32,
)
from pycni.names import IFNAME_BYTES
from pycni.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

RTM_NEWLINK: Final = 16
RTM_DELLINK: Final = 17
RTM_GETLINK: Final = 18
RTM_SETLINK: Final = 19

IFF_UP: Final = 0x1
IFF_PROMISC: Final = 0x100

OPERSTATES: Final = ("unknown", "notpresent", "down", "lowerlayerdown", "testing", "dormant", "up")
"""RFC 2863 states by number, in the words of ip(8) in lower case."""

_IFINFO: Final = Struct("=BxHiII")
_ADDRESS, _IFNAME, _MTU, _LINK, _MASTER, _PROTINFO, _TXQLEN = 1, 3, 4, 5, 10, 12, 13
_OPERSTATE, _LINKINFO, _NET_NS_FD, _EXT_MASK, _PROMISCUITY = 16, 18, 28, 29, 30
_LINK_NETNSID, _PROP_LIST, _ALT_IFNAME = 37, 52, 53
_IFALIAS, _GROUP = 20, 27
_KIND, _DATA, _SLAVE_KIND, _SLAVE_DATA = 1, 2, 4, 5
_VETH_PEER: Final = 1
_BR_VLAN_FILTERING: Final = 7
_PORT_STATE, _PORT_HAIRPIN, _PORT_LEARNING, _PORT_FLOOD, _PORT_ISOLATED = 1, 4, 8, 9, 33
_SKIP_STATS: Final = 1 << 3  # counters are two thirds of a link's bytes, and nobody here reads them

_LINK_WANTED: Final = frozenset(
    (
        *(_ADDRESS, _IFNAME, _MTU, _LINK, _MASTER, _TXQLEN, _OPERSTATE, _LINKINFO, _PROMISCUITY),
        *(_LINK_NETNSID, _PROP_LIST, _IFALIAS),
    )
)
_INFO_WANTED: Final = frozenset((_KIND, _DATA, _SLAVE_KIND, _SLAVE_DATA))
_PORT_WANTED: Final = frozenset((_PORT_STATE, _PORT_HAIRPIN, _PORT_LEARNING, _PORT_FLOOD, _PORT_ISOLATED))


class Port(Record):
    """A link as the port of a bridge; `state` is the spanning tree's (0 disabled … 3 forwarding)."""

    hairpin: bool
    isolated: bool
    learning: bool
    flood: bool
    state: int


class Link(Record):
    """One link as it was when the kernel was asked.

    `kind` is "veth", "bridge", … or "" for hardware and lo. `peer` is the index that the link is tied to
    (a veth's other end), in the namespace that `peer_netnsid` numbers (None: the same one). `master` is 0
    without one; `port` is there for bridge ports only, `vlan_filtering` is None for what is no bridge.
    `operstate` is one of `OPERSTATES`, `alias` what an
    administrator wrote there. `promiscuity` counts who asked for promiscuous mode.
    """

    index: int
    name: str
    kind: str
    mac: bytes
    mtu: int
    flags: int
    operstate: str
    master: int
    peer: int
    peer_netnsid: int | None
    promiscuity: int
    txqlen: int
    port: Port | None
    vlan_filtering: bool | None
    altnames: tuple[str, ...]
    alias: str = ""

    @property
    def is_up(self) -> bool:
        """Set up by the administrator (IFF_UP), whatever its carrier does."""
        return bool(self.flags & IFF_UP)

    @property
    def is_promiscuous(self) -> bool:
        """Whether the administrator asked for it (IFF_PROMISC); compare `promiscuity`."""
        return bool(self.flags & IFF_PROMISC)

    @property
    def mac_text(self) -> str:
        """`0a:58:0a:00:00:05`; empty where the link has no hardware address."""
        return self.mac.hex(":")


def new_bridge(
    name: str, *, mac: bytes | None = None, mtu: int = 0, vlan_filtering: bool = False, up: bool = False
) -> bytes:
    """Make a bridge; EEXIST if the name is taken. A given `mac` stays, else the bridge follows its ports."""
    data = nest(_DATA, u8(_BR_VLAN_FILTERING, 1)) if vlan_filtering else b""
    info = nest(_LINKINFO, text(_KIND, "bridge"), data)
    return message(RTM_NEWLINK, CREATE_NEW, _up(up), *_common(name, mac, mtu), info)


def new_veth(
    name: str,
    peer: str,
    *,
    mac: bytes | None = None,
    mtu: int = 0,
    txqlen: int | None = 0,
    master: int = 0,
    up: bool = False,
    peer_mac: bytes | None = None,
    peer_mtu: int = 0,
    peer_txqlen: int | None = None,
    peer_netns_fd: int = -1,
) -> bytes:
    """Make a veth pair by one request: `name` here, `peer` (down) in the namespace of `peer_netns_fd`.

    Either both ends come into being, with MAC, MTU and master, or none (EEXIST if one of the names is
    taken). `peer_netns_fd` -1 keeps the peer here; the descriptor must stay open until the request was
    sent. A `txqlen` of 0 is the reference's for the host side; None is the kernel's default (1000).
    """
    host = [*_common(name, mac, mtu), *_queue(txqlen)]
    if master:
        host.append(u32(_MASTER, master))
    end = [*_common(peer, peer_mac, peer_mtu), *_queue(peer_txqlen)]
    if peer_netns_fd >= 0:
        end.append(u32(_NET_NS_FD, peer_netns_fd))
    data = nest(_DATA, nest(_VETH_PEER, _up(False), *end))
    return message(RTM_NEWLINK, CREATE_NEW, _up(up), *host, nest(_LINKINFO, text(_KIND, "veth"), data))


def set_link(
    index: int,
    *,
    up: bool | None = None,
    promisc: bool | None = None,
    master: int | None = None,
    mac: bytes | None = None,
    mtu: int = 0,
    name: str | None = None,
    netns_fd: int | None = None,
) -> bytes:
    """Change what is given, leave the rest; `master` 0 takes the link out of its bridge.

    ENODEV if there is no such link. `netns_fd` moves it there (it goes down on the way).
    """
    flags = change = 0
    for wanted, bit in ((up, IFF_UP), (promisc, IFF_PROMISC)):
        if wanted is not None:
            change |= bit
            flags |= bit if wanted else 0
    parts = [text(_IFNAME, name)] if name is not None else []
    if mac is not None:
        parts.append(attribute(_ADDRESS, mac))
    if mtu:
        parts.append(u32(_MTU, mtu))
    if master is not None:
        parts.append(u32(_MASTER, master))
    if netns_fd is not None:
        parts.append(u32(_NET_NS_FD, netns_fd))
    return message(RTM_SETLINK, DO, _IFINFO.pack(0, 0, index, flags, change), *parts)


def set_group(index: int, group: int) -> bytes:
    """Put a link into a group (a number of 32 bits; every link begins in group 0)."""
    return message(RTM_SETLINK, DO, _IFINFO.pack(0, 0, index, 0, 0), u32(_GROUP, group))


def del_group(group: int) -> bytes:
    """Remove all links of a group in one transaction; ENODEV if it has none, and none goes if one cannot."""
    return message(RTM_DELLINK, DO, _up(False), u32(_GROUP, group))


def read_group(payload: bytes) -> int:
    """The group in the payload of an RTM_NEWLINK; for looking through many links quickly."""
    return read_u32(read_attributes(payload, _IFINFO.size, (_GROUP,)).get(_GROUP))


def read_index(payload: bytes) -> int:
    """The index in the payload of an RTM_NEWLINK or RTM_DELLINK, 0 for a bridge's notice about a port."""
    family, _type, index, _flags, _change = _IFINFO.unpack_from(payload)
    return index if family == 0 else 0


def set_alias(name: str, alias: str) -> bytes:
    """Write a link's alias (at most 255 bytes), which `ip link` shows; the link is found by its name."""
    return message(
        RTM_SETLINK, DO, *_which(0, name), attribute(_IFALIAS, alias.encode("utf-8", "surrogateescape"))
    )


def del_link(index: int = 0, name: str = "") -> bytes:
    """Remove a link by index or by name; ENODEV if there is none. A veth's peer goes with it."""
    return message(RTM_DELLINK, DO, *_which(index, name))


def set_port(index: int, *, hairpin: bool | None = None, isolated: bool | None = None) -> bytes:
    """Set what is given on a bridge port, in one request."""
    parts = [u8(_PORT_HAIRPIN, hairpin)] if hairpin is not None else []
    if isolated is not None:
        parts.append(u8(_PORT_ISOLATED, isolated))
    # br_setlink takes a nested IFLA_PROTINFO for attributes and a plain one for a bare state.
    info = nest(_PROTINFO, *parts, flagged=True)
    return message(RTM_SETLINK, DO, _IFINFO.pack(AF_BRIDGE, 0, index, 0, 0), info)


def get_link(index: int = 0, name: str = "") -> bytes:
    """Ask for one link by index, name or alternative name; ENODEV if there is none."""
    return message(RTM_GETLINK, DO, *_which(index, name), u32(_EXT_MASK, _SKIP_STATS))


def dump_links(kind: str = "", master: int = 0) -> bytes:
    """Ask for all links, or those of a kind or with a master (needs NETLINK_GET_STRICT_CHK)."""
    parts = [u32(_MASTER, master)] if master else []
    if kind:
        parts.append(nest(_LINKINFO, text(_KIND, kind)))
    return message(RTM_GETLINK, DUMP, _up(False), u32(_EXT_MASK, _SKIP_STATS), *parts)


def dump_ports(master: int) -> bytes:
    """Ask for the ports of one bridge."""
    return dump_links(master=master)


def read_link(payload: bytes) -> Link:
    """The payload of an RTM_NEWLINK or RTM_DELLINK."""
    _family, _type, index, flags, _change = _IFINFO.unpack_from(payload)
    found = read_attributes(payload, _IFINFO.size, _LINK_WANTED)
    get = found.get
    info = read_attributes(found[_LINKINFO], 0, _INFO_WANTED) if _LINKINFO in found else {}
    kind = read_text(info.get(_KIND))
    is_port = info.get(_SLAVE_KIND, b"").rstrip(b"\0") == b"bridge"
    state = (get(_OPERSTATE) or b"\0")[0]
    return Link(
        index,
        read_text(get(_IFNAME)),
        kind,
        get(_ADDRESS, b""),
        read_u32(get(_MTU)),
        flags,
        OPERSTATES[state] if state < len(OPERSTATES) else "unknown",
        read_u32(get(_MASTER)),
        read_u32(get(_LINK)),
        read_int(get(_LINK_NETNSID)),
        read_u32(get(_PROMISCUITY)),
        read_u32(get(_TXQLEN)),
        _read_port(info.get(_SLAVE_DATA, b"")) if is_port else None,
        _read_vlan_filtering(info.get(_DATA, b"")) if kind == "bridge" else None,
        tuple(map(read_text, read_list(found[_PROP_LIST], _ALT_IFNAME))) if _PROP_LIST in found else (),
        read_text(get(_IFALIAS)),
    )


def _read_port(data: bytes) -> Port:
    get = read_attributes(data, 0, _PORT_WANTED).get
    return Port(
        get(_PORT_HAIRPIN) == b"\1",
        get(_PORT_ISOLATED) == b"\1",
        get(_PORT_LEARNING) == b"\1",
        get(_PORT_FLOOD) == b"\1",
        (get(_PORT_STATE) or b"\0")[0],
    )


def _read_vlan_filtering(data: bytes) -> bool:
    value = read_attributes(data, 0, (_BR_VLAN_FILTERING,)).get(_BR_VLAN_FILTERING)
    return bool(value and value[0])


def _up(up: bool) -> bytes:
    flag = IFF_UP if up else 0
    return _IFINFO.pack(0, 0, 0, flag, flag)


def _common(name: str, mac: bytes | None, mtu: int) -> list[bytes]:
    parts = [text(_IFNAME, name)]
    if mac is not None:
        parts.append(attribute(_ADDRESS, mac))
    if mtu:
        parts.append(u32(_MTU, mtu))
    return parts


def _queue(txqlen: int | None) -> list[bytes]:
    return [] if txqlen is None else [u32(_TXQLEN, txqlen)]


def _which(index: int, name: str) -> tuple[bytes, ...]:
    header = _IFINFO.pack(0, 0, index, 0, 0)
    if index:
        return (header,)
    kind = _IFNAME if len(name.encode("utf-8", "surrogateescape")) <= IFNAME_BYTES else _ALT_IFNAME
    return (header, text(kind, name))
