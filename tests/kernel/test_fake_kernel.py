"""The simulated kernel of `pycni.testing` beside this machine's: the same requests, the same answers.

Each script is run against both. Compared are errnos and what dumps show; left out are indexes, MACs that the
kernel chose, link-local addresses and whatever hangs on them, and broadcast and multicast routes (and those
that IPv6 adds in its own time for a host's own addresses).
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any

import pytest
from support.waiting import until

from pycni.addresses import CIDR, IP
from pycni.kernel.messages import (
    del_address,
    del_link,
    del_route,
    dump_addresses,
    dump_links,
    dump_ports,
    dump_routes,
    get_link,
    new_address,
    new_bridge,
    new_route,
    new_veth,
    set_alias,
    set_link,
    set_port,
)
from pycni.kernel.namespace import Namespace, Setting
from pycni.kernel.nsid import get_nsid, read_nsid
from pycni.kernel.vlans import VlanRange, del_vlans, dump_vlans, read_vlans, set_vlans
from pycni.main import drive
from pycni.testing.fake import FakeContext, FakeKernel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.netns import NetNS

    from pycni.kernel.namespace import Address, Answer, Link, RouteEntry

SEEN_FLAGS = 0x83  # IFA_F_SECONDARY, IFA_F_NODAD, IFA_F_PERMANENT
UNICAST, LOCAL = 1, 2
OWN_MAC = b"\x02\x00\x00\x00\x00"


class Side:
    """One of the two kernels: a node's namespace and a pod's; `log` is what it answered."""

    def __init__(self, host: Namespace, pod: Namespace) -> None:
        self.host, self.pod = host, pod
        self.log: list[Any] = []

    def ask(self, *steps: bytes | Setting, where: Namespace | None = None) -> list[Answer]:
        answers = drive((where or self.host).perform(steps))
        self.log += [self._show(answer, where or self.host) for answer in answers]
        return answers

    def index(self, name: str, where: Namespace | None = None) -> int:
        link = drive((where or self.host).link(name=name))
        assert link is not None, name
        return link.index

    def see(self, where: Namespace | None = None) -> None:
        """Everything that there is."""
        self.ask(dump_links(), dump_addresses(), dump_routes(), where=where)

    def operstates(self) -> dict[str, str]:
        return {link.name: link.operstate for link in drive(self.host.links())}

    def _show(self, answer: Answer, where: Namespace) -> Any:
        names = {0: "", **{link.index: link.name for link in drive(where.links())}}
        routes = [self._route(route, names) for route in answer.routes if _counts(route)]
        return (
            answer.errno,
            [self._link(link, names) for link in answer.links],
            [
                self._address(address, names)
                for address in answer.addresses
                if not address.cidr.ip.is_link_local()
            ],
            sorted(routes, key=str),
        )

    @staticmethod
    def _link(link: Link, names: dict[int, str]) -> tuple[Any, ...]:
        mac = link.mac_text if link.mac.startswith(OWN_MAC) or not any(link.mac) else "chosen"
        peer = names.get(link.peer) if link.peer_netnsid is None else "elsewhere"
        port = (link.port.hairpin, link.port.isolated) if link.port is not None else None
        state = (link.is_up, link.is_promiscuous, link.promiscuity, link.txqlen, link.mtu, mac)
        ties = (names.get(link.master), peer, port, link.vlan_filtering, link.alias)
        return link.name, link.kind, state, ties

    @staticmethod
    def _address(address: Address, names: dict[int, str]) -> tuple[Any, ...]:
        flags = address.flags & SEEN_FLAGS
        return (
            names.get(address.index),
            str(address.cidr),
            address.scope,
            flags,
            address.broadcast,
            address.label,
        )

    @staticmethod
    def _route(route: RouteEntry, names: dict[int, str]) -> tuple[Any, ...]:
        numbers = (route.priority, route.table, route.scope, route.protocol, route.type, route.mtu)
        return str(route.dst), str(route.gw), names.get(route.oif), numbers, str(route.prefsrc)


def _counts(route: RouteEntry) -> bool:
    ours = route.type == UNICAST or (route.type == LOCAL and route.family == 4)
    return ours and not route.nexthops and not (route.dst.ip.is_link_local() or route.dst.ip.is_multicast())


# Scripts


def making_links(side: Side) -> None:
    """Names, MACs and MTUs that are taken or make no sense."""
    mac = OWN_MAC + b"\x05"
    side.ask(new_bridge("br0", mac=mac, mtu=5000, up=True), new_bridge("br0"), new_bridge("lo"))
    side.ask(new_veth("a", "b", mac=mac, peer_mac=OWN_MAC + b"\x06", mtu=1400, peer_mtu=1300))
    side.ask(new_veth("a", "c"), new_veth("c", "b"), new_veth("same", "same"), new_veth("", "c"))
    side.ask(new_veth("x" * 16, "c"), new_veth("c", "x" * 16), new_veth("c/d", "c"), new_bridge("."))
    side.ask(new_veth("c", "d", mtu=10), new_veth("c", "d", mtu=70000), new_veth("c", "d", peer_mtu=67))
    side.ask(new_veth("c", "d", mac=b"\1" * 6), new_veth("c", "d", peer_mac=bytes(6)))
    side.ask(new_veth("c", "d", master=9999), new_veth("c", "d", master=1))
    side.ask(
        get_link(name="nope"), get_link(index=9999), del_link(name="nope"), del_link(index=9999), del_link(1)
    )
    side.ask(set_alias("br0", "text"), set_alias("nope", "text"), set_link(9999, up=True))
    side.see()


def pair_into_a_pod(side: Side) -> None:
    """A pair with one end in the pod; either end takes the other along."""
    side.ask(new_bridge("br0", up=True))
    pair = new_veth("host0", "eth0", master=side.index("br0"), up=True, peer_netns_fd=side.pod.fd)
    side.ask(pair, pair, new_veth("host1", "eth0", peer_netns_fd=side.pod.fd), new_veth("host0", "eth1"))
    side.see(side.pod)
    side.log.append((drive(side.host.link(name="host0")).peer == side.index("eth0", side.pod), "tied"))  # type: ignore[union-attr]
    number = read_nsid(drive(side.host.request([get_nsid(side.pod.fd)]))[0])
    side.log.append(number is not None and number == drive(side.host.link(name="host0")).peer_netnsid)  # type: ignore[union-attr]
    side.ask(set_link(side.index("eth0", side.pod), up=True), where=side.pod)
    side.ask(dump_ports(side.index("br0")), dump_links(kind="veth"), dump_links(kind="bridge"))
    side.ask(del_link(name="eth0"), where=side.pod)
    side.see()
    side.ask(pair, del_link(name="host0"))
    side.see(side.pod)


def addresses(side: Side) -> None:
    """What is an address, what is there already, and what goes with what."""
    side.ask(new_veth("a", "b"))
    a = side.index("a")
    texts = ("10.0.0.2/24", "10.0.0.2/24", "10.0.0.2/16", "10.0.0.3/24", "10.0.0.4/32", "127.0.0.5/8")
    side.ask(*(new_address(a, CIDR.parse(text)) for text in texts))
    texts = ("fd00::2/64", "fd00::2/60", "::/64", "::1/128", "ff02::1/64", "fd00::3/128")
    side.ask(*(new_address(a, CIDR.parse(text), nodad=True) for text in texts))
    side.ask(new_address(9999, CIDR.parse("10.0.0.2/24")), dump_addresses(4, a), dump_addresses(6, a))
    side.ask(set_link(a, up=True), dump_routes())
    side.ask(*(del_address(a, CIDR.parse(text)) for text in ("10.9.9.9/24", "10.0.0.2/24", "fd00::2/64")))
    side.ask(dump_addresses(), dump_routes(), set_link(a, up=False), dump_addresses(), dump_routes())
    side.ask(dump_addresses(0, 9999))


def addresses_that_stay(side: Side) -> None:
    """IPv6 addresses go when a link is set down, unless a setting keeps them; none where IPv6 is off."""
    side.ask(new_veth("a", "b"), Setting("net/ipv6/conf/a/keep_addr_on_down", "1", required=True))
    for name in ("a", "b"):
        index = side.index(name)
        address = new_address(index, CIDR.parse("fd00::2/64"), nodad=True)
        side.ask(address, set_link(index, up=True), set_link(index, up=False), dump_addresses(6, index))
        side.ask(Setting(f"net/ipv6/conf/{name}/disable_ipv6", "1", required=True), address)
        side.ask(dump_addresses(6, index), Setting("net/ipv6/conf/nope/disable_ipv6", "1", required=True))


def loopback(side: Side) -> None:
    """`lo` gets its addresses when it is first set up, and loses only the IPv6 one again."""
    side.ask(set_link(1, up=True), dump_addresses(0, 1), set_link(1, up=False), dump_addresses(0, 1))
    side.ask(set_link(1, up=True), dump_addresses(0, 1), del_link(index=1), get_link(1))


def routes(side: Side) -> None:
    """Gateways within and out of reach, equal routes, scopes, tables, links that are down."""
    side.ask(new_veth("a", "b"), new_veth("c", "d"))
    a, b, c = side.index("a"), side.index("b"), side.index("c")
    side.ask(new_address(a, CIDR.parse("10.0.0.2/24")), new_address(a, CIDR.parse("fd00::2/64"), nodad=True))
    side.ask(set_link(a, up=True), set_link(b, up=True))
    near, default = IP.parse("10.0.0.9"), CIDR.parse("0.0.0.0/0")
    side.ask(new_route(a, default, near), new_route(a, default, near), new_route(a, default, near + 1))
    side.ask(
        new_route(a, default, IP.parse("10.7.0.1")), new_route(b, default, near), new_route(0, default, near)
    )
    some = CIDR.parse("10.5.0.0/16")
    side.ask(new_route(a, some), new_route(a, some, scope=253), new_route(a, some), new_route(c, some))
    side.ask(
        new_route(a, CIDR.parse("10.5.0.1/16")), new_route(9999, some), new_route(a, some, near, scope=253)
    )
    side.ask(new_route(a, some, near, scope=200, priority=7, mtu=1300), new_route(a, some, scope=255))
    side.ask(new_route(a, some, near, table=100), new_route(a, some, near, table=1000), dump_routes(4, 1000))
    near, default = IP.parse("fd00::9"), CIDR.parse("::/0")
    side.ask(
        new_route(a, default, near), new_route(a, default, near), new_route(a, default, IP.parse("fd77::1"))
    )
    side.ask(
        new_route(a, CIDR.parse("fd05::1/64")), new_route(a, CIDR.parse("fd06::/64"), IP.parse("fd00::2"))
    )
    side.ask(new_route(a, CIDR.parse("fd07::/64"), near, priority=5, table=100, mtu=1300), dump_routes())
    side.ask(
        del_route(a, some, IP.parse("10.0.0.77")),
        del_route(9999, some),
        del_route(a, some, table=100),
        del_route(0, some),
    )
    side.ask(dump_routes(), dump_routes(6, 100), set_link(a, up=False), dump_routes(6), dump_routes(0, 100))


def bridge_and_ports(side: Side) -> None:
    """MAC and MTU follow the ports unless they were given; flags are a port's own and go with it."""
    mac = OWN_MAC + b"\x01"
    side.ask(new_bridge("br0", mtu=1450, up=True), new_bridge("br1", mac=OWN_MAC + b"\x09"))
    br0, br1 = side.index("br0"), side.index("br1")
    side.ask(new_veth("a", "b", mac=mac, mtu=1400, master=br0), new_veth("c", "d", mac=OWN_MAC + b"\x02"))
    a, c = side.index("a"), side.index("c")
    side.ask(get_link(br0), set_link(c, master=br0), get_link(br0), set_port(a, hairpin=True, isolated=True))
    side.ask(
        set_port(a, hairpin=False), dump_ports(br0), set_port(br1, hairpin=True), set_port(9999, hairpin=True)
    )
    side.ask(set_link(a, master=br1), get_link(br1), get_link(br0), dump_ports(br1), set_link(a, master=0))
    side.ask(
        set_link(a, master=9999), set_link(1, master=br0), set_link(br1, master=br0), set_link(a, master=c)
    )
    side.ask(set_link(br0, promisc=True, mtu=1500), get_link(br0), set_link(br0, promisc=False, mac=mac))
    side.ask(set_link(br0, mac=b"\1" * 6), set_link(a, mtu=5), get_link(br0), del_link(br0), get_link(c))


def vlans(side: Side) -> None:
    """A port's VLANs, where the kernel knows VLANs."""
    side.ask(new_bridge("br0", vlan_filtering=True), new_bridge("br1"))
    side.ask(new_veth("a", "b", master=side.index("br1")))
    a, b = side.index("a"), side.index("b")
    side.ask(set_vlans(a, [VlanRange(5, 7), VlanRange(9, 9, pvid=True, untagged=True)]), del_vlans(a, 6, 6))
    side.ask(
        set_vlans(b, [VlanRange(5, 7)]), set_vlans(9999, [VlanRange(5, 7)]), del_vlans(b), del_vlans(a, 1, 1)
    )
    found = read_vlans(drive(side.host.request([dump_vlans()]))[0].payloads)
    side.log.append([tuple(map(str, port.vlans)) for _, port in sorted(found.items())])


def renaming_and_moving(side: Side) -> None:
    """A link under another name, and in another namespace, where it is down and without addresses."""
    side.ask(new_veth("a", "b"), new_veth("c", "d"), new_bridge("br0"))
    a, br0 = side.index("a"), side.index("br0")
    side.ask(set_link(a, name="c"), set_link(a, name="e"), get_link(name="a"), new_veth("c", "a"))
    side.ask(new_address(a, CIDR.parse("10.0.0.2/24")), set_link(a, up=True))
    side.ask(set_link(a, netns_fd=side.pod.fd), set_link(br0, netns_fd=side.pod.fd), get_link(a))
    side.see(side.pod)
    side.ask(new_veth("e", "f"), set_link(a, netns_fd=side.pod.fd))
    side.see()


SCRIPTS: tuple[Callable[[Side], None], ...] = (
    making_links,
    pair_into_a_pod,
    addresses,
    addresses_that_stay,
    loopback,
    routes,
    bridge_and_ports,
    vlans,
    renaming_and_moving,
)


@pytest.fixture
def real(new_netns: Callable[[str], NetNS]) -> Iterator[Side]:
    """This machine's kernel, in two fresh namespaces."""

    async def run(work: Callable[..., Any], *args: Any) -> Any:
        return work(*args)

    fds = [os.open(new_netns(role).path, os.O_RDONLY | os.O_CLOEXEC) for role in ("host", "pod")]
    with Namespace(run, fds[0]) as host, Namespace(run, fds[1], "pod") as pod:
        yield Side(host, pod)
    for fd in fds:
        os.close(fd)


def simulated(*, filters_vlans: bool) -> Side:
    kernel = FakeKernel(filters_vlans=filters_vlans)
    ctx = FakeContext(kernel.namespace(), kernel.namespace("pod"))
    return Side(ctx.host(), drive(ctx.sandbox()))


def has_vlans(side: Side) -> bool:
    (made,) = drive(side.host.request([new_bridge("probe0", vlan_filtering=True)]))
    drive(side.host.remove(name="probe0"))
    return made.errno != errno.EOPNOTSUPP


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
def test_both_kernels_answer_alike(script: Callable[[Side], None], real: Side) -> None:
    """Step by step, the simulated kernel says what this machine's says."""
    other = simulated(filters_vlans=has_vlans(real))
    script(real)
    script(other)
    for number, (here, there) in enumerate(zip(real.log, other.log, strict=True)):
        assert there == here, f"answer {number} of {script.__name__}"


@pytest.mark.needs_vlan
@pytest.mark.parametrize("script", [vlans, bridge_and_ports], ids=lambda script: script.__name__)
def test_kernels_with_vlans_answer_alike(script: Callable[[Side], None], real: Side) -> None:
    """The same where bridges filter VLANs."""
    assert has_vlans(real)
    test_both_kernels_answer_alike(script, real)


def test_states_are_the_same_in_the_end(real: Side) -> None:
    """Operational states of a pair and a bridge, once the real kernel has come to rest."""
    other = simulated(filters_vlans=False)
    for side in (real, other):
        side.ask(new_bridge("br0", up=True), new_bridge("br1"))
        side.ask(new_veth("a", "b", master=side.index("br0"), up=True), new_veth("c", "d", up=True))
        side.ask(set_link(side.index("b"), up=True))
    wanted = other.operstates()
    assert wanted == {
        "lo": "down",
        "br0": "up",
        "br1": "down",
        "a": "up",
        "b": "up",
        "c": "lowerlayerdown",
        "d": "down",
    }
    until(lambda: real.operstates() == wanted, "the same states", real.operstates)
