"""A simulated kernel: network namespaces, links, addresses, routes and settings, without root or I/O.

It models what plugins rely on: which request is refused with which errno, what comes and goes by itself (a
veth's peer, link-local addresses, connected routes, a bridge's MAC and MTU), and what a dump shows. It does
not model packets, neighbours, broadcast and multicast routes, or the time that duplicate address detection
takes: an IPv6 address is usable at once. `pycni.testing.rtnetlink` speaks the messages.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from pycni.addresses import IPV4
from pycni.testing.links import (
    DEFAULT_VLAN,
    MTU_DEFAULT,
    MTU_LOOPBACK,
    FakeLink,
    Refused,
    check_mac,
    check_mtu,
    check_name,
)
from pycni.testing.routes import accept, derived

if TYPE_CHECKING:
    from typing import Final

    from pycni.addresses import CIDR, IP
    from pycni.testing.routes import FakeRoute

FIRST_FD: Final = 1 << 20
"""Descriptors of simulated namespaces begin here: no process has so many real ones open."""

# What a new interface's settings say, and those of "all" and "default".
_CONF: Final = {
    "ipv4": {"arp_notify": "0", "forwarding": "0", "promote_secondaries": "0", "rp_filter": "0"},
    "ipv6": {
        "accept_dad": "1",
        "accept_ra": "1",
        "disable_ipv6": "0",
        "enhanced_dad": "1",
        "forwarding": "0",
        "keep_addr_on_down": "0",
    },
}
# Two names of one switch.
_IP_FORWARD: Final = frozenset(("net/ipv4/ip_forward", "net/ipv4/conf/all/forwarding"))


class FakeKernel:
    """Namespaces that know each other. With `filters_vlans` false it is a kernel without VLANs on bridges."""

    def __init__(self, *, filters_vlans: bool = True) -> None:
        self.filters_vlans = filters_vlans
        self.nets: list[FakeNet] = []
        self._macs = 0

    def namespace(self, path: str = "") -> FakeNet:
        """A new namespace with `lo` down; `path` is what CNI_NETNS calls it, empty for a node's own."""
        net = FakeNet(self, len(self.nets) + 1, path)
        self.nets.append(net)
        return net

    def by_fd(self, fd: int) -> FakeNet:
        """The namespace behind a descriptor. Raises Refused (EINVAL)."""
        for net in self.nets:
            if net.fd == fd:
                return net
        raise Refused(errno.EINVAL)

    def new_mac(self) -> bytes:
        """Unicast, locally administered, and never the same."""
        self._macs += 1
        return b"\x02\xfa" + self._macs.to_bytes(4, "big")

    def settle(self) -> None:
        """Let happen what follows from a change by itself."""
        for net in self.nets:
            for link in net.links.values():
                link.settle()

    def snapshot(self) -> dict[str, object]:
        """Everything that a plugin can have changed, comparable with `==`; indexes do not count."""
        return {f"{net.number} {net.path}": net.snapshot() for net in self.nets}


class FakeNet:
    """One namespace: `links` by index, `routes` that somebody added, `settings` by sysctl name."""

    def __init__(self, kernel: FakeKernel, number: int, path: str) -> None:
        self.kernel = kernel
        self.number = number
        self.path = path
        self.fd = FIRST_FD + number
        self.links: dict[int, FakeLink] = {}
        self.routes: list[FakeRoute] = []
        self.settings: dict[str, str] = {"net/ipv4/ip_forward": "0"}
        self._next_index = 1
        for name in ("all", "default"):
            self._add_settings(name)
        self._add(FakeLink(self, 0, "lo", "loopback", bytes(6), MTU_LOOPBACK))

    @property
    def identity(self) -> tuple[int, int]:
        """What `pycni.kernel.netns.identity` says of a real one."""
        return 0, self.number

    def snapshot(self) -> dict[str, object]:
        """Comparable with `==`: links by name, indexes left out."""
        return {
            "links": {link.name: link.describe() for link in self.links.values()},
            "routes": sorted(route.describe() for route in self.routes),
            "settings": dict(self.settings),
        }

    def named(self, name: str) -> FakeLink | None:
        return next((link for link in self.links.values() if link.name == name), None)

    def find(self, index: int = 0, name: str = "") -> FakeLink:
        """A link by index, else by name. Raises Refused (ENODEV)."""
        found = self.links.get(index) if index else self.named(name)
        if found is None:
            raise Refused(errno.ENODEV)
        return found

    def check_free(self, name: str) -> None:
        """Raises Refused unless a new link may have this name."""
        check_name(name)
        if self.named(name) is not None:
            raise Refused(errno.EEXIST)

    def new_bridge(self, name: str, mac: bytes | None, mtu: int, *, vlan_filtering: bool) -> FakeLink:
        """Raises Refused: EEXIST, EOPNOTSUPP without VLANs, and for what makes no sense."""
        self.check_free(name)
        if vlan_filtering and not self.kernel.filters_vlans:
            raise Refused(errno.EOPNOTSUPP)
        link = self._new(name, "bridge", mac, mtu)
        link.vlan_filtering = vlan_filtering
        link.vlans = dict(DEFAULT_VLAN) if self.kernel.filters_vlans else {}
        return link

    def new_veth(self, name: str, mac: bytes | None, mtu: int) -> FakeLink:
        """One end, which `tie` makes a pair with another. Raises Refused."""
        self.check_free(name)
        return self._new(name, "veth", mac, mtu)

    def _new(self, name: str, kind: str, mac: bytes | None, mtu: int) -> FakeLink:
        check_mac(mac)
        check_mtu(mtu)
        link = FakeLink(self, 0, name, kind, mac or self.kernel.new_mac(), mtu or MTU_DEFAULT)
        link.mac_is_set = mac is not None
        return self._add(link)

    def _add(self, link: FakeLink, index: int = 0) -> FakeLink:
        if index in self.links or not index:
            index, self._next_index = self._next_index, self._next_index + 1
        link.net, link.index = self, index
        self.links[index] = link
        self._add_settings(link.name)
        return link

    def _drop(self, link: FakeLink) -> None:
        self.set_master(link, None)
        for port in link.ports:
            self.set_master(port, None)
        self.routes = [route for route in self.routes if route.link is not link]
        del self.links[link.index]
        self._drop_settings(link.name)

    def delete(self, link: FakeLink) -> None:
        """A link, its peer, and what hung on them. Raises Refused (EOPNOTSUPP) for `lo`."""
        if link.kind == "loopback":
            raise Refused(errno.EOPNOTSUPP)
        self._drop(link)
        peer, link.peer = link.peer, None
        if peer is not None:
            peer.peer = None
            peer.net.delete(peer)

    def move(self, link: FakeLink, target: FakeNet) -> None:
        """Into another namespace, down and without addresses. Raises Refused (EEXIST, EINVAL)."""
        if target is self:
            return
        if link.kind != "veth":
            raise Refused(errno.EINVAL, "The interface netns is immutable")
        target.check_free(link.name)
        self.set_up(link, False)
        self._drop(link)
        link.addresses = []
        target._add(link, link.index)

    def rename(self, link: FakeLink, name: str) -> None:
        """Raises Refused (EEXIST, EINVAL, ERANGE)."""
        if name == link.name:
            return
        self.check_free(name)
        self._drop_settings(link.name)
        link.name = name
        self._add_settings(name)

    def set_up(self, link: FakeLink, up: bool) -> None:
        if up or not link.up:
            link.up = up
            return
        link.up = False
        keep = link.conf("ipv6", "keep_addr_on_down")
        self.routes = [route for route in self.routes if route.link is not link]
        link.addresses = [
            one for one in link.addresses if one.cidr.family == IPV4 or (keep and not one.automatic)
        ]

    def set_master(self, link: FakeLink, master: FakeLink | None) -> None:
        """Make a link a port, or free it. Raises Refused (EINVAL, EOPNOTSUPP, ELOOP)."""
        if link.master is master:
            return
        if master is not None:
            if master.kind != "bridge":
                raise Refused(errno.EOPNOTSUPP)
            if link.kind == "loopback":
                raise Refused(errno.EINVAL)
            if link.kind == "bridge":
                raise Refused(errno.ELOOP, "Can not enslave a bridge to a bridge")
        before, link.master = link.master, master
        link.hairpin = link.isolated = False
        link.vlans = dict(DEFAULT_VLAN) if master is not None and self.kernel.filters_vlans else {}
        for bridge in (before, master):
            if bridge is not None:
                bridge.follow_ports()

    def all_routes(self) -> list[FakeRoute]:
        """Added ones and those that follow from addresses."""
        following = (route for link in self.links.values() for route in derived(link))
        return [*self.routes, *dict.fromkeys(following)]

    def add_route(self, route: FakeRoute) -> None:
        """Raises Refused, see `pycni.testing.routes.accept`."""
        self.routes.append(accept(route, self.all_routes()))

    def remove_route(
        self, dst: CIDR, link: FakeLink | None, gw: IP | None, priority: int, table: int
    ) -> None:
        """The first that fits what is given, in the kernel's order. Raises Refused (ESRCH)."""
        newest_first = reversed(self.routes) if dst.family == IPV4 else self.routes
        for route in sorted(newest_first, key=lambda one: one.priority):
            fits = link in (None, route.link) and gw in (None, route.gw) and priority in (0, route.priority)
            if fits and (route.dst, route.table) == (dst, table):
                self.routes.remove(route)
                return
        raise Refused(errno.ESRCH)

    def read(self, name: str) -> str:
        """A setting. Raises Refused (ENOENT)."""
        if name not in self.settings:
            raise Refused(errno.ENOENT, "No such file or directory")
        return self.settings[name]

    def write(self, name: str, value: str) -> None:
        """Change a setting, with what follows from it. Raises Refused (ENOENT)."""
        self.read(name)
        for same in _IP_FORWARD if name in _IP_FORWARD else (name,):
            self.settings[same] = value
        link = self.named(name.split("/")[3]) if name.endswith("/disable_ipv6") else None
        if link is not None and value == "1":
            link.addresses = [address for address in link.addresses if address.cidr.family == IPV4]

    def _add_settings(self, name: str) -> None:
        self.settings |= _settings(name)

    def _drop_settings(self, name: str) -> None:
        for setting in _settings(name):
            del self.settings[setting]


def _settings(name: str) -> dict[str, str]:
    return {
        f"net/{family}/conf/{name}/{key}": value
        for family, keys in _CONF.items()
        for key, value in keys.items()
    }
