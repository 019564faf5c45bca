"""The messages at the kernel: what they make, what the kernel refuses, and what it tells."""

from __future__ import annotations

import errno
import os
import struct
from typing import TYPE_CHECKING, Any

import pytest
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from pycni.addresses import CIDR, IP
from pycni.kernel import messages
from pycni.kernel.netlink import Answer, AnswersLost, NetlinkSocket

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.netns import NetNS

HOST_MAC = bytes.fromhex("0200000000a1")
POD_MAC = bytes.fromhex("0200000000b2")


def open_in(netns: NetNS) -> NetlinkSocket:
    with netns.inside():
        return NetlinkSocket()


@pytest.fixture
def sandbox(pod: Callable[[], NetNS]) -> NetNS:
    return pod()


@pytest.fixture
def node(host: NetNS) -> Iterator[NetlinkSocket]:
    netlink_socket = open_in(host)
    yield netlink_socket
    netlink_socket.close()


@pytest.fixture
def inner(sandbox: NetNS) -> Iterator[NetlinkSocket]:
    netlink_socket = open_in(sandbox)
    yield netlink_socket
    netlink_socket.close()


@pytest.fixture
def sandbox_fd(sandbox: NetNS) -> Iterator[int]:
    fd = os.open(sandbox.path, os.O_RDONLY)
    yield fd
    os.close(fd)


def one(netlink_socket: NetlinkSocket, message: bytes) -> Answer:
    (answer,) = netlink_socket.request([message])
    return answer


def do(netlink_socket: NetlinkSocket, *requests: bytes) -> None:
    for answer in netlink_socket.request(requests):
        assert answer.ok, answer


def link(netlink_socket: NetlinkSocket, name: str) -> messages.Link:
    (found,) = one(netlink_socket, messages.get_link(name=name)).links
    return found


def names(netlink_socket: NetlinkSocket) -> set[str]:
    return {found.name for found in netlink_socket.dump(messages.dump_links()).links}


def shown(netns: NetNS, name: str) -> dict[str, Any]:
    (found,) = netns.json("ip", "-d", "-j", "link", "show", name)
    return dict(found)


@pytest.mark.row("plugins", 150)
def test_one_request_makes_the_whole_pair(
    host: NetNS, node: NetlinkSocket, sandbox: NetNS, sandbox_fd: int, inner: NetlinkSocket
) -> None:
    """The host side is born up and a port of the bridge, the peer in the sandbox and down."""
    do(node, messages.new_bridge("br0", up=True))
    bridge = link(node, "br0")
    pair = messages.new_veth(
        "veth0",
        "eth0",
        mac=HOST_MAC,
        mtu=1400,
        master=bridge.index,
        up=True,
        peer_mac=POD_MAC,
        peer_mtu=1300,
        peer_netns_fd=sandbox_fd,
    )
    do(node, pair)
    side, end = link(node, "veth0"), link(inner, "eth0")
    assert (side.kind, side.mac, side.mtu, side.master, side.txqlen) == (
        "veth",
        HOST_MAC,
        1400,
        bridge.index,
        0,
    )
    assert (end.kind, end.mac, end.mtu, end.master, end.txqlen) == ("veth", POD_MAC, 1300, 0, 1000)
    assert side.is_up
    assert not end.is_up
    assert side.port == messages.Port(hairpin=False, isolated=False, learning=True, flood=True, state=0)
    assert (side.peer, end.peer) == (end.index, side.index)
    assert side.peer_netnsid is not None
    assert end.peer_netnsid is not None
    port, peer = shown(host, "veth0"), shown(sandbox, "eth0")
    assert (port["master"], port["address"], port["mtu"]) == ("br0", HOST_MAC.hex(":"), 1400)
    assert (peer["address"], peer["mtu"], peer["txqlen"]) == (POD_MAC.hex(":"), 1300, 1000)


@pytest.mark.row("plugins", 150)
@pytest.mark.parametrize("taken", ["host", "pod"])
def test_a_pair_is_made_whole_or_not_at_all(
    node: NetlinkSocket, inner: NetlinkSocket, sandbox_fd: int, taken: str
) -> None:
    """A name that is taken on one side leaves nothing on the other."""
    where, name = (node, "veth0") if taken == "host" else (inner, "eth0")
    do(where, messages.new_bridge(name))
    before = names(node), names(inner)
    answer = one(node, messages.new_veth("veth0", "eth0", peer_netns_fd=sandbox_fd))
    assert answer.errno == errno.EEXIST
    assert (names(node), names(inner)) == before


def test_a_pair_without_its_master_is_not_made(
    node: NetlinkSocket, inner: NetlinkSocket, sandbox_fd: int
) -> None:
    """A bridge that vanished in between fails the whole request."""
    answer = one(node, messages.new_veth("veth0", "eth0", master=4711, up=True, peer_netns_fd=sandbox_fd))
    assert answer.errno in (errno.EINVAL, errno.ENODEV)
    assert (names(node), names(inner)) == ({"lo"}, {"lo"})


def test_a_bridge_is_made_once(host: NetNS, node: NetlinkSocket) -> None:
    """MAC and MTU are there from the start; a second request is refused."""
    do(node, messages.new_bridge("br0", mac=HOST_MAC, mtu=1400, up=True))
    bridge = link(node, "br0")
    assert (bridge.kind, bridge.mac, bridge.mtu, bridge.is_up) == ("bridge", HOST_MAC, 1400, True)
    assert bridge.vlan_filtering is False
    assert shown(host, "br0")["linkinfo"]["info_kind"] == "bridge"
    assert one(node, messages.new_bridge("br0")).errno == errno.EEXIST


def test_links_are_changed_in_what_was_asked_only(
    host: NetNS, node: NetlinkSocket, sandbox_fd: int, inner: NetlinkSocket
) -> None:
    """Up, promiscuous, MAC, MTU, master, name and namespace each change alone."""
    do(node, messages.new_bridge("br0"), messages.new_veth("veth0", "veth1", mac=HOST_MAC))
    index, bridge = link(node, "veth0").index, link(node, "br0").index
    do(node, messages.set_link(index, promisc=True))
    assert link(node, "veth0").is_promiscuous
    assert not link(node, "veth0").is_up
    do(node, messages.set_link(index, up=True, master=bridge, mtu=1280))
    changed = link(node, "veth0")
    assert (changed.is_up, changed.is_promiscuous, changed.master, changed.mtu) == (True, True, bridge, 1280)
    assert changed.mac == HOST_MAC
    assert "PROMISC" in shown(host, "veth0")["flags"]
    do(node, messages.set_link(index, up=False, promisc=False, master=0, mac=POD_MAC))
    changed = link(node, "veth0")
    assert (changed.is_up, changed.is_promiscuous, changed.master, changed.mtu) == (False, False, 0, 1280)
    assert (changed.mac, changed.port) == (POD_MAC, None)
    do(node, messages.set_link(index, name="eth0", netns_fd=sandbox_fd))
    assert names(node) == {"lo", "br0", "veth1"}
    assert link(inner, "eth0").mac == POD_MAC


@pytest.mark.parametrize(
    ("hairpin", "isolated", "expected"),
    [(True, True, (True, True)), (False, None, (False, True)), (None, False, (True, False))],
)
def test_port_flags_are_set_by_one_request(
    host: NetNS, node: NetlinkSocket, hairpin: bool | None, isolated: bool | None, expected: tuple[bool, bool]
) -> None:
    """What is not given stays: here both were on before."""
    do(node, messages.new_bridge("br0"))
    do(node, messages.new_veth("veth0", "veth1", master=link(node, "br0").index, up=True))
    index = link(node, "veth0").index
    do(node, messages.set_port(index, hairpin=True, isolated=True))
    do(node, messages.set_port(index, hairpin=hairpin, isolated=isolated))
    port = link(node, "veth0").port
    assert port is not None
    assert (port.hairpin, port.isolated) == expected
    data = shown(host, "veth0")["linkinfo"]["info_slave_data"]
    assert (data["hairpin"], data["isolated"]) == expected


@pytest.mark.row("plugins", 150)
def test_links_go_by_index_or_name(node: NetlinkSocket) -> None:
    """A veth's peer goes with it; what is not there is ENODEV for every request."""
    do(node, messages.new_veth("veth0", "veth1"), messages.new_bridge("br0"))
    do(node, messages.del_link(name="veth1"), messages.del_link(link(node, "br0").index))
    assert names(node) == {"lo"}
    gone = [
        messages.del_link(name="veth1"),
        messages.del_link(4711),
        messages.get_link(name="veth0"),
        messages.get_link(name="a-name-of-more-than-15"),
        messages.set_link(4711, up=True),
        messages.set_port(4711, hairpin=True),
    ]
    assert {answer.errno for answer in node.request(gone)} == {errno.ENODEV}


def test_alternative_names_are_read_and_found(host: NetNS, node: NetlinkSocket) -> None:
    """A link is found by its alternative names, short and long, and tells them."""
    do(node, messages.new_bridge("br0"))
    for name in ("short", "a-name-of-more-than-15"):
        host.run("ip", "link", "property", "add", "dev", "br0", "altname", name)
        assert link(node, name).name == "br0"
    assert link(node, "br0").altnames == ("short", "a-name-of-more-than-15")


def test_dumps_obey_their_filters(node: NetlinkSocket) -> None:
    """Kind and master of links, family and index of addresses are filtered by the kernel."""
    do(node, messages.new_bridge("br0", up=True), messages.new_bridge("br1"))
    br0, br1 = link(node, "br0").index, link(node, "br1").index
    do(
        node,
        messages.new_veth("veth0", "veth1", master=br0),
        messages.new_veth("veth2", "veth3", master=br1),
        messages.new_address(br0, CIDR.parse("10.1.2.3/24")),
        messages.new_address(br1, CIDR.parse("10.9.9.9/30")),
        messages.new_address(br0, CIDR.parse("fd01::3/64"), nodad=True),
    )

    def found(message: bytes) -> set[str]:
        return {item.name for item in node.dump(message).links}

    def held(message: bytes) -> set[str]:
        return {str(item.cidr) for item in node.dump(message).addresses if item.scope == 0}

    assert found(messages.dump_links("bridge")) == {"br0", "br1"}
    assert found(messages.dump_links("veth")) == {"veth0", "veth1", "veth2", "veth3"}
    assert found(messages.dump_ports(br1)) == {"veth2"}
    assert held(messages.dump_addresses(index=br1)) == {"10.9.9.9/30"}
    assert held(messages.dump_addresses(4, br0)) == {"10.1.2.3/24"}
    assert held(messages.dump_addresses(6, br0)) == {"fd01::3/64"}
    assert held(messages.dump_addresses()) >= {"10.1.2.3/24", "10.9.9.9/30", "fd01::3/64"}
    assert node.dump(messages.dump_addresses(index=4711)).errno == errno.ENODEV
    assert node.dump(messages.dump_routes(4, 777)).errno == errno.ENOENT


@pytest.mark.parametrize(
    ("text", "broadcast"),
    [
        ("10.1.2.3/24", "10.1.2.255"),
        ("10.1.2.5/30", "10.1.2.7"),
        ("10.1.2.4/31", None),
        ("10.1.2.4/32", None),
        ("fd01::3/64", None),
    ],
)
def test_addresses_come_and_go(host: NetNS, node: NetlinkSocket, text: str, broadcast: str | None) -> None:
    """An address is as the reference makes it: scope global, no flags; twice is refused."""
    do(node, messages.new_bridge("br0"))
    index, cidr = link(node, "br0").index, CIDR.parse(text)
    do(node, messages.new_address(index, cidr))
    assert one(node, messages.new_address(index, cidr)).errno == errno.EEXIST
    (held,) = node.dump(messages.dump_addresses(index=index)).addresses
    assert (held.index, held.cidr, held.scope) == (index, cidr, 0)
    assert held.broadcast == (IP.parse(broadcast) if broadcast else None)
    ((info,),) = (item["addr_info"] for item in host.json("ip", "-j", "address", "show", "br0"))
    assert (f"{info['local']}/{info['prefixlen']}", info["scope"]) == (text, "global")
    assert info.get("broadcast") == broadcast
    do(node, messages.del_address(index, cidr))
    assert one(node, messages.del_address(index, cidr)).errno == errno.EADDRNOTAVAIL


def test_nodad_makes_an_address_usable_at_once(node: NetlinkSocket) -> None:
    """Without it an IPv6 address is tentative first (without carrier: for ever); with it never."""
    do(node, messages.new_veth("veth0", "veth1", up=True))
    index = link(node, "veth0").index
    for text, nodad in (("fd01::1/64", True), ("fd01::2/64", False)):
        do(node, messages.new_address(index, CIDR.parse(text), nodad=nodad))
    tentative = {
        str(item.cidr): item.tentative for item in node.dump(messages.dump_addresses(6, index)).addresses
    }
    assert tentative["fd01::1/64"] is False
    assert tentative["fd01::2/64"] is True


@pytest.fixture
def device(node: NetlinkSocket) -> int:
    """The index of an interface that is up, with an address of each family."""
    do(node, messages.new_bridge("br0", up=True))
    index = link(node, "br0").index
    do(
        node,
        messages.new_address(index, CIDR.parse("10.1.0.2/16")),
        messages.new_address(index, CIDR.parse("fd01::2/64"), nodad=True),
    )
    return index


@pytest.mark.parametrize(
    ("dst", "gw", "options"),
    [
        ("0.0.0.0/0", "10.1.0.1", {}),
        ("::/0", "fd01::1", {}),
        ("0.0.0.0/0", None, {"priority": 50}),
        ("10.99.0.0/16", "10.1.0.1", {"priority": 5, "mtu": 1300, "advmss": 1200}),
        ("fd99::/64", "fd01::1", {"priority": 7, "mtu": 1300, "advmss": 1200}),
        ("10.98.0.0/16", None, {"scope": 253}),
        ("10.97.0.0/16", "10.1.0.1", {"table": 100}),
        ("10.97.0.0/16", "10.1.0.1", {"table": 1000}),
        ("fd97::/64", "fd01::1", {"table": 1000}),
    ],
)
def test_routes_come_and_go(
    host: NetNS, node: NetlinkSocket, device: int, dst: str, gw: str | None, options: dict[str, int]
) -> None:
    """A route has what was asked, protocol boot, and is found again by the same description."""
    cidr, gateway = CIDR.parse(dst), IP.parse(gw) if gw else None
    table = options.get("table", 254)
    request = messages.new_route(device, cidr, gateway, **options)
    do(node, request)
    assert one(node, request).errno == errno.EEXIST
    (route,) = [
        route for route in node.dump(messages.dump_routes(cidr.family, table)).routes if route.protocol == 3
    ]
    default_priority = 1024 if cidr.family == 6 else 0
    assert (route.dst, route.gw, route.oif, route.table) == (cidr, gateway, device, table)
    assert route.priority == options.get("priority", default_priority)
    assert (route.scope, route.type) == (options.get("scope", 0), 1)
    assert (route.mtu, route.advmss) == (options.get("mtu", 0), options.get("advmss", 0))
    (said,) = host.json(
        "ip", f"-{cidr.family}", "-N", "-j", "route", "show", "table", str(table), "protocol", "3"
    )
    assert said["dst"] == ("default" if cidr.is_default() else dst)
    assert said.get("gateway") == gw
    priority = options.get("priority", 0)
    do(node, messages.del_route(device, cidr, gateway, priority=priority, table=options.get("table")))
    answer = one(node, messages.del_route(device, cidr, gateway, table=options.get("table")))
    assert answer.errno == errno.ESRCH


def test_refused_routes_come_with_the_kernels_words(node: NetlinkSocket, device: int) -> None:
    """The errno is the reference's; the extended text says more."""
    host_bits, unreachable = node.request(
        (
            messages.new_route(device, CIDR.parse("10.9.1.2/16")),
            messages.new_route(device, CIDR.parse("10.9.0.0/16"), IP.parse("172.16.0.1")),
        )
    )
    assert (host_bits.errno, unreachable.errno) == (errno.EINVAL, errno.ENETUNREACH)
    assert unreachable.reason == "network is unreachable"
    assert "gateway" in unreachable.text.lower()


def test_a_multipath_route_is_read(host: NetNS, node: NetlinkSocket, device: int) -> None:
    """Two ways to one IPv6 network are one route with two next hops."""
    for gateway in ("fd01::5", "fd01::6"):
        do(node, messages.new_route(device, CIDR.parse("fd77::/64"), IP.parse(gateway)))
    (route,) = [route for route in node.dump(messages.dump_routes(6)).routes if str(route.dst) == "fd77::/64"]
    assert {str(hop.gw) for hop in route.nexthops} == {"fd01::5", "fd01::6"}
    assert {hop.oif for hop in route.nexthops} == {device}
    assert route.gw is None


def test_a_failing_request_hides_no_others_answer(node: NetlinkSocket) -> None:
    """Of 300 requests every third fails; all others were done, and each answer is in its place."""
    requests = []
    for number in range(100):
        requests += [
            messages.new_bridge(f"b{number}"),
            messages.del_link(4711),
            messages.get_link(name=f"b{number}"),
        ]
    answers = node.request(requests)
    assert [answer.errno for answer in answers] == [0, errno.ENODEV, 0] * 100
    assert [answer.links[0].name for answer in answers[2::3]] == [f"b{number}" for number in range(100)]
    deleted = node.request([messages.del_link(name=f"b{number}") for number in range(100)])
    assert all(answer.ok for answer in deleted)


def test_an_overflow_is_noticed_and_survived(host: NetNS, node: NetlinkSocket) -> None:
    """A buffer too small for the answers raises AnswersLost; what was asked was done; the socket goes on."""
    with host.inside():
        small = NetlinkSocket(receive_buffer=4608)
    try:
        with pytest.raises(AnswersLost):
            small.request([messages.new_bridge("br0"), *[messages.get_link(1)] * 100])
        assert "br0" in names(node)
        assert small.request([messages.get_link(name="br0")])[0].links[0].name == "br0"
    finally:
        small.close()


def test_links_read_as_pyroute2_reads_them(node: NetlinkSocket, device: int) -> None:
    """The kernel's own bytes mean the same to both decoders."""
    do(node, messages.new_veth("veth0", "veth1", master=device, up=True))
    answer = node.dump(messages.dump_links())
    for (kind, payload), ours in zip(answer.payloads, answer.links, strict=True):
        theirs = ifinfmsg(struct.pack("=IHHII", 16 + len(payload), kind, 0, 0, 0) + payload)
        theirs.decode()
        info = theirs.get_attr("IFLA_LINKINFO")
        assert ours.name == theirs.get_attr("IFLA_IFNAME")
        assert ours.kind == ((info.get_attr("IFLA_INFO_KIND") if info else None) or "")
        assert (ours.index, ours.flags) == (theirs["index"], theirs["flags"])
        assert ours.mac_text == theirs.get_attr("IFLA_ADDRESS")
        assert ours.mtu == theirs.get_attr("IFLA_MTU")
        assert ours.operstate == theirs.get_attr("IFLA_OPERSTATE").lower()
        assert (ours.master or None) == theirs.get_attr("IFLA_MASTER")
        assert (ours.peer or None) == theirs.get_attr("IFLA_LINK")
        assert ours.promiscuity == theirs.get_attr("IFLA_PROMISCUITY")
        assert ours.txqlen == theirs.get_attr("IFLA_TXQLEN")
