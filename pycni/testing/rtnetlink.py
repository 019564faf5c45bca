"""The messages of the simulated kernel: requests in, answers out, in the bytes of rtnetlink(7).

Plugins build and read the same bytes as with a real kernel, so their use of the codec is tested as well.
"""

from __future__ import annotations

import errno
import sys
from struct import Struct
from typing import TYPE_CHECKING

from pycni.kernel.codec import (
    AF_BRIDGE,
    HEADER,
    HEADER_SIZE,
    NLM_F_DUMP,
    attribute,
    read_attributes,
    read_list,
    read_text,
    read_u32,
)
from pycni.kernel.links import IFF_PROMISC, IFF_UP
from pycni.kernel.netlink import Answer
from pycni.testing import inet
from pycni.testing import numbers as n
from pycni.testing.links import Refused, check_mac, check_mtu
from pycni.testing.listing import show_link, show_vlans

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Final

    from pycni.testing.inet import Handler, Objects
    from pycni.testing.kernel import FakeNet
    from pycni.testing.links import FakeLink

_NEWLINK, _DELLINK, _GETLINK, _SETLINK = 16, 17, 18, 19
_NEWNSID, _GETNSID = 88, 90


def answer(net: FakeNet, request: bytes) -> Answer:
    """What the kernel says to one request, dumps included, sent in the namespace `net`."""
    _length, kind, flags, _sequence, _port = HEADER.unpack_from(request)
    payload = request[HEADER_SIZE:]
    try:
        if kind not in _HANDLERS:
            raise Refused(errno.EOPNOTSUPP, f"the simulated kernel has no message of type {kind}")
        objects = tuple(_HANDLERS[kind](net, payload, flags & NLM_F_DUMP == NLM_F_DUMP))
    except Refused as refusal:
        return Answer(refusal.errno, refusal.text)
    net.kernel.settle()
    return Answer(payloads=objects)


def _read(payload: bytes, fixed: Struct) -> dict[int, bytes]:
    return read_attributes(payload, fixed.size, n.EVERY)


def _named(net: FakeNet, payload: bytes) -> FakeLink:
    """The link that a request is about."""
    name = _read(payload, n.IFINFO).get(n.IFNAME)
    return net.find(n.IFINFO.unpack_from(payload)[2], read_text(name) if name is not None else "")


# Links


def _new_link(net: FakeNet, payload: bytes, _dump: bool) -> Objects:
    found = _read(payload, n.IFINFO)
    info = read_attributes(found.get(n.LINKINFO, b""), 0, n.EVERY)
    data = read_attributes(info.get(n.INFO_DATA, b""), 0, n.EVERY)
    if read_text(info.get(n.INFO_KIND)) == "veth":
        _new_pair(net, payload, data[n.VETH_PEER])
        return iter(())
    filtering = data.get(n.BRIDGE_VLAN_FILTERING, b"\0") != b"\0"
    name, mac, mtu = _common(found)
    bridge = net.new_bridge(name, mac, mtu, vlan_filtering=filtering)
    net.set_up(bridge, bool(n.IFINFO.unpack_from(payload)[3] & IFF_UP))
    return iter(())


def _common(found: dict[int, bytes]) -> tuple[str, bytes | None, int]:
    return read_text(found.get(n.IFNAME)), found.get(n.ADDRESS), read_u32(found.get(n.MTU))


def _new_pair(net: FakeNet, payload: bytes, peer_payload: bytes) -> None:
    """Both ends or none."""
    found, peer_found = _read(payload, n.IFINFO), _read(peer_payload, n.IFINFO)
    there = net.kernel.by_fd(read_u32(peer_found[n.NETNS_FD])) if n.NETNS_FD in peer_found else net
    peer = there.new_veth(*_common(peer_found))
    try:
        link = net.new_veth(*_common(found))
    except Refused:
        there.delete(peer)
        raise
    link.peer, peer.peer = peer, link
    for end, attributes in ((link, found), (peer, peer_found)):
        end.txqlen = read_u32(attributes.get(n.TXQLEN), end.txqlen)
    try:
        if n.MASTER in found:
            net.set_master(link, _master(net, read_u32(found[n.MASTER])))
    except Refused:
        net.delete(link)
        raise
    net.set_up(link, bool(n.IFINFO.unpack_from(payload)[3] & IFF_UP))
    there.set_up(peer, bool(n.IFINFO.unpack_from(peer_payload)[3] & IFF_UP))


def _master(net: FakeNet, index: int) -> FakeLink | None:
    if index and index not in net.links:
        raise Refused(errno.EINVAL)
    return net.links[index] if index else None


def _set_link(net: FakeNet, payload: bytes, _dump: bool) -> Objects:
    family, _type, index, flags, change = n.IFINFO.unpack_from(payload)
    found = _read(payload, n.IFINFO)
    if family == AF_BRIDGE:
        _set_port(net, index, found)
        return iter(())
    link = _named(net, payload)
    if n.NETNS_FD in found:
        target = net.kernel.by_fd(read_u32(found[n.NETNS_FD]))
        net.move(link, target)
        net = target
    if n.ADDRESS in found:
        check_mac(found[n.ADDRESS])
        link.mac, link.mac_is_set = found[n.ADDRESS], True
    if n.MTU in found:
        check_mtu(read_u32(found[n.MTU]))
        link.mtu, link.mtu_is_set = read_u32(found[n.MTU]), True
    if n.IFNAME in found and index:
        net.rename(link, read_text(found[n.IFNAME]))
    if n.IFALIAS in found:
        link.alias = read_text(found[n.IFALIAS])
    link.group = read_u32(found.get(n.GROUP), link.group)
    if n.MASTER in found:
        net.set_master(link, _master(net, read_u32(found[n.MASTER])))
    if change & IFF_PROMISC:
        link.promisc = bool(flags & IFF_PROMISC)
    if change & IFF_UP:
        net.set_up(link, bool(flags & IFF_UP))
    return iter(())


def _port(net: FakeNet, index: int) -> FakeLink:
    if index not in net.links:
        raise Refused(errno.ENODEV, "unknown ifindex")
    if net.links[index].master is None:
        raise Refused(errno.EOPNOTSUPP)
    return net.links[index]


def _set_port(net: FakeNet, index: int, found: dict[int, bytes]) -> None:
    port = _port(net, index)
    info = read_attributes(found.get(n.PROTINFO, b""), 0, n.EVERY)
    port.hairpin = info.get(n.PORT_HAIRPIN, bytes((port.hairpin,))) == b"\1"
    port.isolated = info.get(n.PORT_ISOLATED, bytes((port.isolated,))) == b"\1"
    for ids, pvid, untagged in _vlans(net, found):
        if pvid:
            port.vlans = {vlan: (False, flags[1]) for vlan, flags in port.vlans.items()}
        port.vlans |= dict.fromkeys(ids, (pvid, untagged))


def _vlans(net: FakeNet, found: dict[int, bytes]) -> Iterator[tuple[range, bool, bool]]:
    """VLAN ids with their flags (PVID, untagged)."""
    if n.AF_SPEC in found and not net.kernel.filters_vlans:
        raise Refused(errno.EOPNOTSUPP)
    first = 0
    for info in read_list(found.get(n.AF_SPEC, b""), n.VLAN_INFO):
        flags, vlan = n.VLAN.unpack(info)
        if flags & n.RANGE_BEGIN:
            first = vlan
            continue
        ids = range(first if flags & n.RANGE_END else vlan, vlan + 1)
        yield ids, bool(flags & n.PVID), bool(flags & n.UNTAGGED)


def _del_link(net: FakeNet, payload: bytes, _dump: bool) -> Objects:
    family, _type, index, _flags, _change = n.IFINFO.unpack_from(payload)
    found = _read(payload, n.IFINFO)
    if family == AF_BRIDGE:
        port = _port(net, index)
        for ids, _pvid, _untagged in _vlans(net, found) if net.kernel.filters_vlans else ():
            port.vlans = {vlan: flags for vlan, flags in port.vlans.items() if vlan not in ids}
    elif n.GROUP in found:
        members = [link for link in net.links.values() if link.group == read_u32(found[n.GROUP])]
        if not members:
            raise Refused(errno.ENODEV)
        for link in members:
            if link.net is net and net.links.get(link.index) is link:
                net.delete(link)
    else:
        net.delete(_named(net, payload))
    return iter(())


def _get_link(net: FakeNet, payload: bytes, dump: bool) -> Objects:
    if not dump:
        return iter([(_NEWLINK, show_link(_named(net, payload)))])
    if n.IFINFO.unpack_from(payload)[0] == AF_BRIDGE:
        members = (link for link in net.links.values() if link.kind == "bridge" or link.master is not None)
        return iter([(_NEWLINK, show_vlans(link)) for link in members])
    found = _read(payload, n.IFINFO)
    master = read_u32(found.get(n.MASTER))
    kind = read_text(read_attributes(found.get(n.LINKINFO, b""), 0, n.EVERY).get(n.INFO_KIND))
    return iter(
        [
            (_NEWLINK, show_link(link))
            for link in net.links.values()
            if kind in ("", link.kind) and (not master or (link.master and link.master.index == master))
        ]
    )


def _get_nsid(net: FakeNet, payload: bytes, _dump: bool) -> Objects:
    """The number that `net` knows another namespace by: the same for all here, -1 if it has no link there."""
    other = net.kernel.by_fd(read_u32(read_attributes(payload, n.RTGENMSG, n.EVERY).get(n.NSID_FD)))
    known = any(link.peer is not None and link.peer.net is other for link in net.links.values())
    number = other.number if known else -1
    return iter(
        [
            (
                _NEWNSID,
                bytes(n.RTGENMSG) + attribute(n.NSID_NUMBER, number.to_bytes(4, sys.byteorder, signed=True)),
            )
        ]
    )


_HANDLERS: Final[dict[int, Handler]] = {
    _NEWLINK: _new_link,
    _DELLINK: _del_link,
    _GETLINK: _get_link,
    _SETLINK: _set_link,
    _GETNSID: _get_nsid,
    **inet.HANDLERS,
}
