"""Links of the simulated kernel and their addresses: values, and the rules about single ones."""

from __future__ import annotations

import errno
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pycni.addresses import CIDR, IP, IPV4, IPV6
from pycni.names import IFNAME_BYTES

if TYPE_CHECKING:
    from typing import Final

    from pycni.testing.kernel import FakeNet

MTU_DEFAULT: Final = 1500
MTU_LOOPBACK: Final = 65536
TXQLEN_DEFAULT: Final = 1000
SCOPE_GLOBAL, SCOPE_LINK, SCOPE_HOST = 0, 253, 254

DEFAULT_VLAN: Final = {1: (True, True)}
"""What a bridge and its new ports are members of: id → (PVID, untagged)."""


class Refused(Exception):
    """A request that the kernel does not fulfil: an errno and, where it has one, its explanation."""

    def __init__(self, number: int, text: str = "") -> None:
        super().__init__(errno.errorcode.get(number, str(number)), text)
        self.errno = number
        self.text = text


@dataclass(eq=False)
class FakeAddress:
    """An address of a link; an `automatic` one comes and goes with the link's state."""

    cidr: CIDR
    scope: int
    nodad: bool = False
    broadcast: IP | None = None
    automatic: bool = False


@dataclass(eq=False)
class FakeLink:
    """One link of `net`; `kind` is "loopback", "bridge" or "veth", `peer` a veth's other end."""

    net: FakeNet
    index: int
    name: str
    kind: str
    mac: bytes
    mtu: int = MTU_DEFAULT
    txqlen: int = TXQLEN_DEFAULT
    up: bool = False
    promisc: bool = False
    master: FakeLink | None = None
    peer: FakeLink | None = None
    hairpin: bool = False
    isolated: bool = False
    vlan_filtering: bool = False
    vlans: dict[int, tuple[bool, bool]] = field(default_factory=dict)
    alias: str = ""
    group: int = 0
    mac_is_set: bool = False
    mtu_is_set: bool = False
    addresses: list[FakeAddress] = field(default_factory=list)

    @property
    def ports(self) -> list[FakeLink]:
        return [link for link in self.net.links.values() if link.master is self]

    @property
    def carrier(self) -> bool:
        """Whether packets could go through."""
        if not self.up:
            return False
        if self.kind == "veth":
            return self.peer is not None and self.peer.up
        return any(port.carrier for port in self.ports) if self.kind == "bridge" else True

    @property
    def operstate(self) -> str:
        """In the words of `pycni.kernel.links.OPERSTATES`."""
        if not self.up:
            return "down"
        if self.kind == "loopback":
            return "unknown"
        if self.carrier:
            return "up"
        return "lowerlayerdown" if self.kind == "veth" else "down"

    def conf(self, family: str, key: str) -> bool:
        """One of this link's switches, `net/FAMILY/conf/NAME/KEY`."""
        return self.net.settings[f"net/{family}/conf/{self.name}/{key}"] == "1"

    def follow_ports(self) -> None:
        """A bridge takes the lowest MAC and the lowest MTU of its ports, unless it was given one."""
        if not self.mac_is_set:
            self.mac = min((port.mac for port in self.ports), default=bytes(6))
        if not self.mtu_is_set:
            self.mtu = min((port.mtu for port in self.ports), default=MTU_DEFAULT)

    def is_secondary(self, address: FakeAddress) -> bool:
        """Whether an older IPv4 address of the same network is there, with which this one goes."""
        older = self.addresses[: self.addresses.index(address)]
        return address.cidr.family == IPV4 and any(_same_network(one, address) for one in older)

    def describe(self) -> tuple[object, ...]:
        """What two states of the link are compared by; no indexes, no addresses that come by themselves."""
        tied = (self.peer.net.number, self.peer.name) if self.peer is not None else None
        return (
            *(self.kind, self.mac, self.mtu, self.txqlen, self.up, self.promisc, self.alias, tied),
            *(self.master.name if self.master is not None else "", self.hairpin, self.isolated),
            *(self.vlan_filtering, tuple(sorted(self.vlans.items()))),
            tuple(sorted(str(address.cidr) for address in self.addresses if not address.automatic)),
        )

    def add_address(self, cidr: CIDR, *, nodad: bool = False, broadcast: IP | None = None) -> None:
        """Raises Refused: EEXIST, EACCES where IPv6 is switched off, EADDRNOTAVAIL for what is no address."""
        if cidr.family == IPV4:
            if any(address.cidr == cidr for address in self.addresses):
                raise Refused(errno.EEXIST, "ipv4: Address already assigned")
        else:
            self._check_ipv6(cidr)
        self.addresses.append(FakeAddress(cidr, _scope(cidr.ip), nodad, broadcast))

    def _check_ipv6(self, cidr: CIDR) -> None:
        if self.conf("ipv6", "disable_ipv6"):
            raise Refused(errno.EACCES, "ipv6: IPv6 is disabled on this device")
        if cidr.ip.value == 0 or cidr.ip.is_multicast():
            raise Refused(errno.EADDRNOTAVAIL, "ipv6: Invalid address")
        if cidr.ip.is_loopback() and self.kind != "loopback":
            raise Refused(errno.EADDRNOTAVAIL, "ipv6: Cannot assign loopback address on this device")
        if any(address.cidr.ip == cidr.ip for address in self.addresses):
            raise Refused(errno.EEXIST, "ipv6: address already assigned")

    def remove_address(self, cidr: CIDR) -> None:
        """Raises Refused (EADDRNOTAVAIL). An IPv4 network's first address takes the others along."""
        found = next((address for address in self.addresses if address.cidr == cidr), None)
        if found is None:
            raise Refused(errno.EADDRNOTAVAIL, "ipv4: Address not found" if cidr.family == IPV4 else "")
        alone = cidr.family == IPV6 or self.is_secondary(found) or self.conf("ipv4", "promote_secondaries")
        self.addresses = [
            one for one in self.addresses if one is not found and (alone or not _same_network(one, found))
        ]

    def settle(self) -> None:
        """What comes by itself: the loopback addresses, and link-local ones once there is a carrier."""
        six = not self.conf("ipv6", "disable_ipv6")
        if self.kind == "loopback":
            if self.up and not any(address.cidr.family == IPV4 for address in self.addresses):
                self.addresses.append(FakeAddress(CIDR.parse("127.0.0.1/8"), SCOPE_HOST))
            if self.up and six:
                self._add_automatic(CIDR.parse("::1/128"), SCOPE_HOST)
        elif six and self.carrier:
            self._add_automatic(link_local(self.mac), SCOPE_LINK)

    def _add_automatic(self, cidr: CIDR, scope: int) -> None:
        if not any(address.automatic or address.cidr.ip == cidr.ip for address in self.addresses):
            self.addresses.append(FakeAddress(cidr, scope, automatic=True))


def check_name(name: str) -> None:
    """Raises Refused (ERANGE, EINVAL) for what no link can be called."""
    if len(name.encode("utf-8", "surrogateescape")) > IFNAME_BYTES:
        raise Refused(errno.ERANGE, "Attribute failed policy validation")
    if not name or name in (".", "..") or any(char in "/:%" or char.isspace() for char in name):
        raise Refused(errno.EINVAL)


def check_mac(mac: bytes | None) -> None:
    """Raises Refused (EINVAL, EADDRNOTAVAIL) for what no Ethernet device can have."""
    if mac is None:
        return
    if len(mac) != 6:
        raise Refused(errno.EINVAL)
    if mac[0] & 1 or not any(mac):
        raise Refused(errno.EADDRNOTAVAIL)


def check_mtu(mtu: int) -> None:
    """Raises Refused (EINVAL) outside of what a veth takes; 0 is "the default"."""
    if mtu and not 68 <= mtu <= 65535:
        raise Refused(errno.EINVAL)


def link_local(mac: bytes) -> CIDR:
    """RFC 4291, appendix A: the modified EUI-64 of a MAC below fe80::/64."""
    identifier = bytes((mac[0] ^ 2, mac[1], mac[2], 0xFF, 0xFE, mac[3], mac[4], mac[5]))
    return CIDR(IP(IPV6, 0xFE80 << 112 | int.from_bytes(identifier, "big")), 64)


def _same_network(one: FakeAddress, two: FakeAddress) -> bool:
    return one.cidr.family == two.cidr.family == IPV4 and one.cidr.network == two.cidr.network


def _scope(ip: IP) -> int:
    if ip.family == IPV4:
        return SCOPE_GLOBAL  # the sender of the request chooses, and our builders do not
    if ip.is_loopback():
        return SCOPE_HOST
    return SCOPE_LINK if ip.is_link_local() else SCOPE_GLOBAL
