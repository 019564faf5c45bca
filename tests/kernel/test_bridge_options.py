"""Every key of the bridge plugin (but VLANs): what it does to the kernel and to the result."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.bridges import BRIDGE, SPOOF_CHECK, Network, host_local
from support.observe import addresses, await_operstate, links, nft_rules, snapshot, store, sysctl

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.calls import Call
    from support.netns import NetNS

MAC = "02:00:00:00:00:0a"
DUAL = host_local("10.71.0.0/24", "fd71::/64")
V4, V6 = host_local("10.71.0.0/24"), host_local("fd71::/64")
ETHERTYPE = 0x88B5  # IEEE's for local experiments
SECONDS = 10


@pytest.fixture
def network(call: Call, data_dir: Path) -> Callable[..., Network]:
    """A network of the given keys on this test's node and store."""
    return lambda **config: Network(call, data_dir, **config)


@pytest.fixture
def one(pod: Callable[[], NetNS]) -> NetNS:
    return pod()


@pytest.fixture
def two(pod: Callable[[], NetNS]) -> NetNS:
    return pod()


def port(host: NetNS, name: str) -> dict[str, Any]:
    """A bridge port's flags."""
    data: dict[str, Any] = links(host)[name]["linkinfo"]["info_slave_data"]
    return data


def forwarding(host: NetNS) -> tuple[str, str]:
    return sysctl(host, "ipv4.ip_forward"), sysctl(host, "ipv6.conf.all.forwarding")


def route_lines(netns: NetNS) -> list[str]:
    """The routes in the words of ip(8), without those that come with an address."""
    found = []
    for family in (4, 6):
        for route in netns.json("ip", f"-{family}", "-j", "route", "show", "table", "all"):
            kernels = route.get("protocol") == "kernel" or route.get("table") == "local"
            if kernels or route["dst"].startswith(("fe80::", "ff00::")):
                continue
            words = [route["dst"]]
            words += [
                f"via {hop['gateway']}" for hop in (route, *route.get("nexthops", ())) if "gateway" in hop
            ]
            words += [f"{key} {route[key]}" for key in ("table", "scope") if key in route]
            if route.get("metric", 1024) != 1024:
                words.append(f"metric {route['metric']}")
            for metrics in route.get("metrics", ()):
                words += [f"{key} {metrics[key]}" for key in ("mtu", "advmss") if key in metrics]
            found.append(" ".join(words))
    return found


# --- Layer 2 and layer 3 ---


def test_layer_2(network: Callable[..., Network], host: NetNS, one: NetNS) -> None:
    """Bridge, host side and pod link, all up; no address, route, rule, forwarding or store."""
    net = network()
    result = net.add(one)
    bridge, veth, end = (links(host)[BRIDGE], links(host)[net.host_veth()], links(one)["eth0"])
    assert result == {
        "cniVersion": "1.1.0",
        "interfaces": [
            {"name": BRIDGE, "mac": bridge["address"]},
            {"name": net.host_veth(), "mac": veth["address"]},
            {"name": "eth0", "mac": end["address"], "sandbox": str(one.path)},
        ],
    }
    assert veth["master"] == BRIDGE
    assert veth.get("txqlen", 0) == 0
    for place, link in ((host, bridge), (host, veth), (one, end)):
        await_operstate(place, link["ifname"], "UP")
        assert link["mtu"] == 1500
    assert {
        key: port(host, net.host_veth())[key] for key in ("hairpin", "isolated", "learning", "flood")
    } == {
        "hairpin": False,
        "isolated": False,
        "learning": True,
        "flood": True,
    }
    assert addresses(host, BRIDGE) == addresses(one, "eth0") == route_lines(one) == []
    assert forwarding(host) == ("0", "0")
    assert nft_rules(host) == []
    assert not net.store.exists()
    assert sysctl(host, f"ipv6.conf.{BRIDGE}.accept_ra") == "0"
    assert sysctl(host, f"ipv6.conf.{net.host_veth()}.accept_ra") == "0"


def test_the_host_side_says_whose_it_is(network: Callable[..., Network], host: NetNS, one: NetNS) -> None:
    """Its name follows from the attachment, and its alias names it for people."""
    net = network()
    net.add(one)
    first = net.host_veth()
    assert links(host)[first]["ifalias"] == "pycni:net/pod-1/eth0"
    net.delete(one).ok()
    net.add(one)
    assert net.host_veth() == first


def test_layer_3_without_gateway(network: Callable[..., Network], host: NetNS, one: NetNS) -> None:
    """The pod has addresses, the bridge none; nothing is forwarded, and no route is made up."""
    net = network(ipam=DUAL)
    result = net.add(one)
    assert addresses(one, "eth0") == ["10.71.0.2/24", "fd71::2/64"]
    assert [(ip["address"], ip["gateway"], ip["interface"]) for ip in result["ips"]] == [
        ("10.71.0.2/24", "10.71.0.1", 2),
        ("fd71::2/64", "fd71::1", 2),
    ]
    assert addresses(host, BRIDGE) == []
    assert route_lines(one) == []
    assert forwarding(host) == ("0", "0")


@pytest.mark.parametrize(
    ("ipam", "gateways", "forwards"),
    [
        (V4, ["10.71.0.1/24"], ("1", "0")),
        (V6, ["fd71::1/64"], ("0", "1")),
        (DUAL, ["10.71.0.1/24", "fd71::1/64"], ("1", "1")),
    ],
)
def test_is_gateway(
    network: Callable[..., Network],
    host: NetNS,
    one: NetNS,
    ipam: dict[str, Any],
    gateways: list[str],
    forwards: tuple[str, str],
) -> None:
    """The bridge has the gateway's address of each family, usable at once; only these families forward."""
    net = network(isGateway=True, ipam=ipam)
    net.add(one)
    assert addresses(host, BRIDGE) == gateways
    assert forwarding(host) == forwards
    assert route_lines(one) == []
    infos = [info for info in links(host)[BRIDGE]["addr_info"] if info["scope"] == "global"]
    assert [info for info in infos if "tentative" in info] == []
    for gateway in gateways:
        one.ping(gateway.partition("/")[0])


@pytest.mark.row("plugins", 22)
@pytest.mark.parametrize(
    ("ipam", "routes"),
    [
        (V4, ["default via 10.71.0.1"]),
        (V6, ["default via fd71::1"]),
        (DUAL, ["default via 10.71.0.1", "default via fd71::1"]),
    ],
)
def test_is_default_gateway(
    network: Callable[..., Network], host: NetNS, one: NetNS, ipam: dict[str, Any], routes: list[str]
) -> None:
    """As isGateway, and the pod gets a default route for each family, in kernel and result."""
    result = network(isDefaultGateway=True, ipam=ipam).add(one)
    assert route_lines(one) == routes
    assert [f"default via {route['gw']}" for route in result["routes"]] == routes
    assert addresses(host, BRIDGE) == [
        f"{ip['gateway']}/{ip['address'].partition('/')[2]}" for ip in result["ips"]
    ]


def test_sysctls_of_a_pod_without_ipv6(network: Callable[..., Network], one: NetNS) -> None:
    """A pod that gets no IPv6 address keeps IPv6 as it was; its IPv4 address is announced."""
    with one.inside():
        Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1")
    network(ipam=V4).add(one)
    assert sysctl(one, "ipv6.conf.eth0.disable_ipv6") == "1"
    assert sysctl(one, "ipv6.conf.eth0.keep_addr_on_down") == "0"
    assert sysctl(one, "ipv4.conf.eth0.arp_notify") == "1"


@pytest.mark.row("plugins", 139)
def test_sysctls_of_a_pod_with_ipv6(network: Callable[..., Network], one: NetNS) -> None:
    """IPv6 is switched on where the namespace has it off, and its addresses outlive the link going down."""
    with one.inside():
        for name in ("default", "lo"):
            Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1")
    network(isDefaultGateway=True, ipam=DUAL).add(one)
    assert sysctl(one, "ipv6.conf.eth0.disable_ipv6") == sysctl(one, "ipv6.conf.lo.disable_ipv6") == "0"
    assert sysctl(one, "ipv6.conf.eth0.accept_dad") == "0"
    one.ping("fd71::1")
    one.run("ip", "link", "set", "eth0", "down")
    assert addresses(one, "eth0") == ["10.71.0.2/24", "fd71::2/64"]


# --- Gateway addresses, forceAddress ---


@pytest.mark.row("plugins", 61)
def test_another_gateway_address_is_in_the_way(
    network: Callable[..., Network], host: NetNS, one: NetNS, two: NetNS
) -> None:
    """Without forceAddress ADD is refused in the reference's words and changes nothing; else it replaces."""
    network(isGateway=True, ipam=host_local("10.0.0.0/8", "fd71::/64")).add(one)
    other = network(name="other", isGateway=True, ipam=host_local("10.1.2.0/24"))
    error = other.refused(two)
    assert error["msg"] == (
        f'failed to set bridge addr: "{BRIDGE}" already has an IP address different from 10.1.2.1/24'
    )
    assert "10.0.0.1/8" in error["details"]
    assert "forceAddress" in error["details"]
    other.changed(forceAddress=True).add(two)
    assert addresses(host, BRIDGE) == ["10.1.2.1/24", "fd71::1/64"]
    two.ping("10.1.2.1")


def test_a_failed_add_gives_the_replaced_address_back(
    network: Callable[..., Network], host: NetNS, one: NetNS, two: NetNS
) -> None:
    """Pods that use the bridge keep their gateway if the ADD that took it away fails."""
    network(isDefaultGateway=True, ipam=host_local("10.0.0.0/24")).add(one)
    with host.inside():
        Path(f"/proc/sys/net/ipv6/conf/{BRIDGE}/disable_ipv6").write_text("1")
    ipam = host_local("10.1.2.0/24", "fd71::/64")
    error = network(name="other", isGateway=True, forceAddress=True, ipam=ipam).refused(two)
    assert error["msg"] == f'could not add IP address fd71::1/64 to "{BRIDGE}": permission denied'
    one.ping("10.0.0.1")


@pytest.mark.row("plugins", 62, 63)
@pytest.mark.parametrize(
    ("first", "second", "conflict"),
    [
        ("2001:db8:1::/48", "2001:db8:1:2::/64", True),
        ("2001:db8:1:2::/64", "2001:db8:1::/48", True),
        ("2001:db8:1::/64", "2001:db8:2::/64", False),
    ],
)
def test_ipv6_gateways(
    network: Callable[..., Network],
    host: NetNS,
    one: NetNS,
    two: NetNS,
    first: str,
    second: str,
    conflict: bool,
) -> None:
    """IPv6 networks that overlap conflict, others live side by side, with forceAddress too."""
    gateways = [f"{subnet.partition('/')[0]}1/{subnet.partition('/')[2]}" for subnet in (first, second)]
    network(isGateway=True, ipam=host_local(first)).add(one)
    other = network(name="other", isGateway=True, ipam=host_local(second))
    if conflict:
        assert other.refused(two)["msg"].endswith(f"different from {gateways[1]}")
        other = other.changed(forceAddress=True)
        gateways = gateways[1:]
    other.add(two)
    assert sorted(addresses(host, BRIDGE)) == sorted(gateways)


def test_gateways_of_several_subnets(
    network: Callable[..., Network], host: NetNS, one: NetNS, two: NetNS
) -> None:
    """Each range set gives an address and a gateway, two of IPv4 as well, and all of them answer."""
    subnets = ("10.71.0.0/24", "10.72.0.0/24", "fd71::/64", "fd72::/64")
    net = network(isDefaultGateway=True, ipam=host_local(*subnets))
    result = net.add(one)
    net.add(two, "pod-2")
    gateways = [ip["gateway"] for ip in result["ips"]]
    assert gateways == ["10.71.0.1", "10.72.0.1", "fd71::1", "fd72::1"]
    assert sorted(addresses(host, BRIDGE)) == ["10.71.0.1/24", "10.72.0.1/24", "fd71::1/64", "fd72::1/64"]
    for address in (*gateways, *net.ips("pod-2")):
        one.ping(address)
    assert route_lines(one) == ["default via 10.71.0.1", "default via fd71::1"]


@pytest.mark.row("plugins", 42)
@pytest.mark.parametrize("version", ["0.1.0", "0.2.0"])
def test_old_versions_have_one_address_per_family(
    network: Callable[..., Network], one: NetNS, version: str
) -> None:
    """Two range sets of a family are refused by host-local's text, and nothing was made."""
    ipam = host_local("10.71.0.0/24", "fd71::/64", "fd72::/64")
    error = network(isGateway=True, ipam=ipam).changed(cniVersion=version).refused(one)
    assert error["msg"] == f"CNI version {version} does not support more than 1 address per family"


@pytest.mark.row("plugins", 66, 67)
def test_a_gateway_keeps_its_mac(
    network: Callable[..., Network], host: NetNS, one: NetNS, two: NetNS
) -> None:
    """Ports come and go with lower MACs, and the bridge's stays; without a gateway it follows them."""
    low = {"args": {"cni": {"mac": "02:00:00:00:00:01"}}}
    net = network(isGateway=True, ipam=V4)
    net.add(one)
    mac = links(host)[BRIDGE]["address"]
    net.changed(**low).add(two, "pod-2")
    host.run("ip", "link", "set", net.host_veth("pod-2"), "address", "02:00:00:00:00:02")
    assert links(host)[BRIDGE]["address"] == mac
    net.delete(one).ok()
    net.delete(two, "pod-2").ok()
    assert links(host)[BRIDGE]["address"] == mac
    layer2 = network(bridge="br2")
    layer2.add(one)
    assert links(host)["br2"]["address"] == links(host)[layer2.host_veth()]["address"]


def test_a_bridge_that_lost_its_mac_with_its_last_port(
    network: Callable[..., Network], host: NetNS, one: NetNS
) -> None:
    """A bridge left over from layer 2 shows the MAC zero; it becomes a gateway with a lasting one."""
    layer2 = network()
    layer2.add(one)
    layer2.delete(one).ok()
    assert links(host)[BRIDGE]["address"] == "00:00:00:00:00:00"
    net = network(isGateway=True, ipam=V4)
    result = net.add(one)
    mac = links(host)[BRIDGE]["address"]
    assert mac != "00:00:00:00:00:00"
    assert result["interfaces"][0]["mac"] == mac
    net.delete(one).ok()
    assert links(host)[BRIDGE]["address"] == mac


def test_a_gateway_that_no_link_can_have(network: Callable[..., Network], one: NetNS) -> None:
    """The kernel's refusal of a gateway address is an error, and nothing is left."""
    ipam = {"type": "host-local", "ranges": [[{"subnet": "fd71::/64", "gateway": "ff02::1"}]]}
    error = network(isGateway=True, ipam=ipam).refused(one)
    assert error["msg"].startswith(f'could not add IP address ff02::1/64 to "{BRIDGE}": ')


# --- The bridge that is there already ---


@pytest.mark.row("plugins", 38)
def test_an_existing_bridge_is_used_as_it_is(
    network: Callable[..., Network], host: NetNS, one: NetNS
) -> None:
    """Same link, MAC, MTU and foreign addresses; it is set up if it was down."""
    host.run("ip", "link", "add", BRIDGE, "address", MAC, "mtu", "9000", "type", "bridge")
    host.run("ip", "addr", "add", "fd99::1/64", "dev", BRIDGE, "nodad")
    before = links(host)[BRIDGE]
    network(isGateway=True, mtu=1400, ipam=V4).add(one)
    after = links(host)[BRIDGE]
    assert after["ifindex"] == before["ifindex"]
    assert after["address"] == MAC
    await_operstate(host, BRIDGE, "UP")
    assert addresses(host, BRIDGE) == ["10.71.0.1/24", "fd99::1/64"]
    assert links(one)["eth0"]["mtu"] == 1400


def test_a_link_that_is_no_bridge(network: Callable[..., Network], host: NetNS, one: NetNS) -> None:
    """It is refused by the reference's text, with its kind, and nothing is touched."""
    host.run("ip", "link", "add", BRIDGE, "type", "veth", "peer", "name", "other")
    error = network(ipam=V4).refused(one)
    assert (
        error["msg"] == f'failed to create bridge "{BRIDGE}": "{BRIDGE}" already exists but is not a bridge'
    )
    assert '"veth"' in error["details"]


# --- Link options ---


def test_mtu(network: Callable[..., Network], host: NetNS, one: NetNS) -> None:
    """A new bridge and both ends of the pair get it."""
    net = network(mtu=1400, ipam=V4)
    net.add(one)
    found = [links(host)[BRIDGE], links(host)[net.host_veth()], links(one)["eth0"]]
    assert [link["mtu"] for link in found] == [1400] * 3


@pytest.mark.row("plugins", 81, 82)
@pytest.mark.parametrize(("key", "flag"), [("hairpinMode", "hairpin"), ("portIsolation", "isolated")])
def test_port_flags(network: Callable[..., Network], host: NetNS, one: NetNS, key: str, flag: str) -> None:
    """Each sets its flag of the port, and no other."""
    net = network(**{key: True})
    net.add(one)
    flags = {name: port(host, net.host_veth())[name] for name in ("hairpin", "isolated")}
    assert flags == {"hairpin": False, "isolated": False, flag: True}


@pytest.mark.row("plugins", 65)
def test_promisc_mode(network: Callable[..., Network], host: NetNS, one: NetNS, two: NetNS) -> None:
    """The bridge is promiscuous, also if it was there already, and asked for it once."""
    net = network()
    net.add(one)
    assert "PROMISC" not in links(host)[BRIDGE]["flags"]
    net.changed(promiscMode=True).add(two, "pod-2")
    assert "PROMISC" in links(host)[BRIDGE]["flags"]
    net.delete(two, "pod-2").ok()
    net.changed(promiscMode=True).add(two, "pod-2")
    assert links(host)[BRIDGE]["promiscuity"] == 1


class Wire:
    """A raw socket on one link of a namespace, for frames of our own ethertype."""

    def __init__(self, netns: NetNS, ifname: str) -> None:
        with netns.inside():
            self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETHERTYPE))
            self.socket.bind((ifname, ETHERTYPE))
        self.socket.settimeout(SECONDS)
        self.mac = bytes.fromhex(links(netns)[ifname]["address"].replace(":", ""))

    def send(self, text: bytes, source: bytes | None = None) -> None:
        """Broadcast a frame, from another MAC than the link's if one is given."""
        frame = b"\xff" * 6 + (source or self.mac) + ETHERTYPE.to_bytes(2, "big") + text
        self.socket.send(frame.ljust(60, b"."))

    def receive(self) -> bytes:
        """The next frame's text that came from another link."""
        while True:
            data, sender = self.socket.recvfrom(2048)
            if sender[2] != socket.PACKET_OUTGOING:
                return data[14:].rstrip(b".")


@pytest.fixture
def wire() -> Iterator[Callable[[NetNS, str], Wire]]:
    opened: list[Wire] = []

    def make(netns: NetNS, ifname: str) -> Wire:
        opened.append(Wire(netns, ifname))
        return opened[-1]

    yield make
    for made in opened:
        made.socket.close()


@pytest.mark.parametrize("checked", [True, False])
def test_mac_spoof_check(
    network: Callable[..., Network],
    one: NetNS,
    two: NetNS,
    wire: Callable[[NetNS, str], Wire],
    checked: bool,
) -> None:
    """A frame from a MAC that is not the pod's is dropped; without the key it arrives."""
    net = network(macspoofchk=checked)
    net.add(one)
    net.add(two, "pod-2")
    sender, receiver = wire(one, "eth0"), wire(two, "eth0")
    sender.send(b"spoofed", bytes.fromhex("020000000099"))
    sender.send(b"genuine")
    assert receiver.receive() == (b"genuine" if checked else b"spoofed")
    jumps = net.rules(SPOOF_CHECK)
    assert [rule["comment"] for rule in jumps] == (
        ["macspoofchk-pod-1-eth0", "macspoofchk-pod-2-eth0"] if checked else []
    )


@pytest.mark.parametrize("isolated", [True, False])
def test_port_isolation(
    network: Callable[..., Network],
    host: NetNS,
    one: NetNS,
    two: NetNS,
    wire: Callable[[NetNS, str], Wire],
    isolated: bool,
) -> None:
    """Isolated pods do not hear each other, but the gateway hears them, and they hear it."""
    net = network(portIsolation=isolated, isGateway=True, ipam=V4)
    net.add(one)
    net.add(two, "pod-2")
    ends = wire(one, "eth0"), wire(two, "eth0"), wire(host, BRIDGE)
    sender, receiver, gateway = ends
    sender.send(b"from a pod")
    assert gateway.receive() == b"from a pod"
    gateway.send(b"from the gateway")
    assert receiver.receive() == (b"from the gateway" if isolated else b"from a pod")
    for place in (one, two):
        place.ping("10.71.0.1")


@pytest.mark.row("plugins", 80)
def test_disable_container_interface(network: Callable[..., Network], host: NetNS, one: NetNS) -> None:
    """The pod's link stays down, and nobody waits for its carrier."""
    net = network(disableContainerInterface=True)
    result = net.add(one)
    assert "UP" not in links(one)["eth0"]["flags"]
    assert [item["name"] for item in result["interfaces"]] == [BRIDGE, net.host_veth(), "eth0"]
    assert "UP" in links(host)[net.host_veth()]["flags"]
    one.run("ip", "link", "set", "eth0", "up")
    await_operstate(one, "eth0", "UP")


@pytest.mark.parametrize(
    ("config", "msg"),
    [
        (
            {"ipam": V4, "disableContainerInterface": True},
            "cannot use IPAM when DisableContainerInterface flag is set",
        ),
        (
            {"hairpinMode": True, "promiscMode": True},
            "cannot set hairpin mode and promiscuous mode at the same time",
        ),
        ({"ipam": V4, "ipMasq": True, "ipMasqBackend": "pf"}, 'unknown ipmasq backend "pf"'),
        ({"mtu": 67}, "failed to make veth pair: invalid argument"),
        ({"runtimeConfig": {"mac": "zz"}}, "failed to make veth pair: address zz: invalid MAC address"),
        ({"bridge": "a/b"}, 'failed to create bridge "a/b": could not add "a/b": invalid argument'),
        ({"ipam": {"type": "nosuch"}}, 'failed to find plugin "nosuch" in path [{bin}]'),
        ({"ipam": host_local("10.71.0.0/31")}, "invalid range set 0: Network 10.71.0.0/31 too small to"),
    ],
)
def test_refused_configs_leave_nothing(
    network: Callable[..., Network], host: NetNS, one: NetNS, bin_dir: Path, config: dict[str, Any], msg: str
) -> None:
    """What is refused has made nothing, not even a bridge, and switched nothing on."""
    error = network(isGateway=True, **config).refused(one)
    assert error["msg"].startswith(msg.replace("{bin}", str(bin_dir)))
    assert forwarding(host) == ("0", "0")


# --- Duplicate address detection ---


def ipv6_flags(netns: NetNS, address: str) -> dict[str, Any]:
    """What `ip` says of one address of eth0."""
    infos = links(netns)["eth0"]["addr_info"]
    found: dict[str, Any] = next(info for info in infos if info["local"] == address)
    return found


def test_enabledad(network: Callable[..., Network], one: NetNS, two: NetNS) -> None:
    """Detection really ran and is over when ADD answers; without the key the address skipped it."""
    net = network(ipam=V6)
    net.changed(enabledad=True).add(one)
    found = ipv6_flags(one, "fd71::2")
    assert not {"tentative", "nodad", "dadfailed"} & set(found)
    assert sysctl(one, "ipv6.conf.eth0.accept_dad") == sysctl(one, "ipv6.conf.eth0.enhanced_dad") == "1"
    net.add(two, "pod-2")
    assert "nodad" in ipv6_flags(two, "fd71::3")


def test_a_duplicate_address(network: Callable[..., Network], one: NetNS, two: NetNS, pod: Any) -> None:
    """ADD fails by the reference's text and leaves nothing, and the address is free for the next."""
    net = network(ipam=V6)
    net.add(one)
    one.run("ip", "addr", "add", "fd71::3/64", "dev", "eth0", "nodad")
    error = net.changed(enabledad=True).refused(two, "pod-2")
    assert error["msg"].startswith(
        'failed to settle addresses for "eth0": link eth0 has address fd71::3 in DADFAILED state'
    )
    net.changed(enabledad=True).add(pod(), "pod-3")
    assert net.ips("pod-3") == ["fd71::4"]


# --- MAC, requested addresses, DNS ---


@pytest.mark.row("plugins", 68, 69, 70)
def test_sources_of_the_mac(network: Callable[..., Network], one: NetNS) -> None:
    """CNI_ARGS, args.cni.mac, runtimeConfig.mac: the later wins; it is on the link and in the result."""
    macs = [f"02:00:00:00:00:0{digit}" for digit in "123"]
    net = network(ipam=V4)
    configs = [
        net,
        net.changed(args={"cni": {"mac": macs[1]}}),
        net.changed(args={"cni": {"mac": macs[1]}}, RuntimeConfig={"mac": macs[2].replace(":", "-")}),
    ]
    for mac, changed in zip(macs, configs, strict=True):
        result = changed.add(one, CNI_ARGS=f"MAC={macs[0]}")
        assert links(one)["eth0"]["address"] == result["interfaces"][2]["mac"] == mac
        changed.delete(one).ok()


def test_cni_args_for_both(network: Callable[..., Network], one: NetNS, two: NetNS) -> None:
    """bridge takes MAC and host-local takes IP out of the same CNI_ARGS; unknown keys are refused."""
    net = network(ipam=V4)
    error = net.refused(one, CNI_ARGS=f"MAC={MAC};FOO=1")
    assert error["msg"] == 'ARGS: unknown args ["FOO=1"]'
    net.add(one, CNI_ARGS=f"MAC={MAC};IP=10.71.0.50")
    assert links(one)["eth0"]["address"] == MAC
    assert addresses(one, "eth0") == ["10.71.0.50/24"]
    net.add(two, "pod-2", CNI_ARGS="IgnoreUnknown=1;K8S_POD_NAME=x;IP=10.71.0.51")
    assert addresses(two, "eth0") == ["10.71.0.51/24"]


def test_capabilities_reach_the_ipam(network: Callable[..., Network], host: NetNS, one: NetNS) -> None:
    """runtimeConfig.ips and ipRanges are host-local's; the range's own gateway becomes the bridge's."""
    ranges = [[{"subnet": "10.75.0.0/16", "gateway": "10.75.9.9"}]]
    net = network(
        isDefaultGateway=True,
        ipam={"type": "host-local"},
        runtimeConfig={"ipRanges": ranges, "ips": ["10.75.0.77/16"]},
    )
    net.add(one)
    assert addresses(one, "eth0") == ["10.75.0.77/16"]
    assert addresses(host, BRIDGE) == ["10.75.9.9/16"]
    one.ping("10.75.9.9")


def test_dns(network: Callable[..., Network], one: NetNS, tmp_path: Path) -> None:
    """The IPAM's resolvConf is the result's DNS, unless the config has a member of its own."""
    resolv_conf = tmp_path / "resolv.conf"
    resolv_conf.write_text("nameserver 192.0.2.53\nsearch a.test b.test\n")
    net = network(ipam={**V4, "resolvConf": str(resolv_conf)})
    assert net.add(one)["dns"] == {"nameservers": ["192.0.2.53"], "search": ["a.test", "b.test"]}
    for dns, expected in (
        ({"domain": "c.test"}, {"domain": "c.test"}),
        ({"nameservers": []}, {"nameservers": ["192.0.2.53"], "search": ["a.test", "b.test"]}),
        ({"options": ["ndots:5"], "nameservers": ["192.0.2.54"]}, None),
    ):
        net.delete(one).ok()
        assert net.changed(dns=dns).add(one)["dns"] == (expected or dns)


# --- Routes ---

DEFAULT4, DEFAULT6 = {"dst": "0.0.0.0/0"}, {"dst": "::/0"}
ROUTES: dict[str, tuple[list[dict[str, Any]], bool, list[str]]] = {
    "by the gateway": (
        [{"dst": "10.9.0.0/16"}, {"dst": "fd09::/64"}],
        False,
        ["10.9.0.0/16 via 10.71.0.1", "fd09::/64 via fd71::1"],
    ),
    "by its own gateway": (
        [{"dst": "10.9.0.0/16", "gw": "10.71.0.9"}, {"dst": "fd09::/64", "gw": "fd71::9"}],
        False,
        ["10.9.0.0/16 via 10.71.0.9", "fd09::/64 via fd71::9"],
    ),
    "two gateways, the later first": (
        [{"dst": "10.9.0.0/16", "gw": "10.71.0.8"}, {"dst": "10.9.0.0/16", "gw": "10.71.0.9"}],
        False,
        ["10.9.0.0/16 via 10.71.0.9", "10.9.0.0/16 via 10.71.0.8"],
    ),
    "two gateways, multipath": (
        [{"dst": "fd09::/64", "gw": "fd71::8"}, {"dst": "fd09::/64", "gw": "fd71::9"}],
        False,
        ["fd09::/64 via fd71::8 via fd71::9"],
    ),
    "metric": (
        [{"dst": "10.9.0.0/16", "priority": 50}, {"dst": "fd09::/64", "priority": 60}],
        False,
        ["10.9.0.0/16 via 10.71.0.1 metric 50", "fd09::/64 via fd71::1 metric 60"],
    ),
    "mtu and mss": (
        [{"dst": "10.9.0.0/16", "mtu": 1300}, {"dst": "fd09::/64", "mtu": 1301, "advmss": 1201}],
        False,
        ["10.9.0.0/16 via 10.71.0.1 mtu 1300", "fd09::/64 via fd71::1 mtu 1301 advmss 1201"],
    ),
    "tables": (
        [{"dst": "10.9.0.0/16", "table": 100}, {"dst": "fd09::/64", "table": 1000}],
        False,
        ["10.9.0.0/16 via 10.71.0.1 table 100", "fd09::/64 via fd71::1 table 1000"],
    ),
    "scope link": ([{"dst": "10.9.0.7/32", "scope": 253}], False, ["10.9.0.7 scope link"]),
    "default of the IPAM": (
        [DEFAULT4, DEFAULT6],
        False,
        ["default via 10.71.0.1", "default via fd71::1"],
    ),
    "default without gateway beside isDefaultGateway": (
        [DEFAULT4, DEFAULT6],
        True,
        ["default via 10.71.0.1", "default via fd71::1"],
    ),
    "default with gateway beside isDefaultGateway": (
        [{**DEFAULT4, "gw": "10.71.0.9"}, {**DEFAULT6, "gw": "fd71::9"}],
        True,
        ["default via 10.71.0.9", "default via fd71::9"],
    ),
    "default of one family": (
        [{**DEFAULT4, "gw": "10.71.0.9", "priority": 7}],
        True,
        ["default via 10.71.0.9 metric 7", "default via fd71::1"],
    ),
}


@pytest.mark.row("plugins", 137, 138, 140)
@pytest.mark.parametrize("case", ROUTES)
def test_routes(network: Callable[..., Network], one: NetNS, case: str) -> None:
    """What the IPAM's routes become in the pod; CHECK finds each of them, and misses them when gone."""
    routes, default, expected = ROUTES[case]
    net = network(isDefaultGateway=default, ipam={**DUAL, "routes": routes})
    net.add(one)
    assert route_lines(one) == expected
    net.check(one).ok()
    family, words = ("-6" if ":" in expected[-1] else "-4"), expected[-1].partition(" mtu ")[0].split()
    if words.count("via") < 2:
        one.run("ip", family, "route", "del", *words)
        assert net.check(one).failed()["msg"].startswith("Expected Route ")


@pytest.mark.parametrize(
    ("subnets", "routes", "msg"),
    [
        (DUAL, [{"dst": "10.9.0.0/16"}] * 2, "failed to add route '10.9.0.0/16 via 10.71.0.1 dev eth0"),
        (DUAL, [{"dst": "fd09::/64"}] * 2, "failed to add route 'fd09::/64 via fd71::1 dev eth0"),
        (DUAL, [{"dst": "10.9.1.2/16"}], "failed to add route '10.9.1.2/16 via 10.71.0.1 dev eth0"),
        (
            DUAL,
            [{"dst": "10.9.0.0/16", "gw": "192.0.2.1"}],
            "failed to add route '10.9.0.0/16 via 192.0.2.1 dev",
        ),
        (
            DUAL,
            [{"dst": "fd09::/64", "gw": "10.71.0.1"}],
            "gateway, source, and destination ip are not the same",
        ),
    ],
)
def test_routes_that_the_kernel_refuses(
    network: Callable[..., Network],
    one: NetNS,
    subnets: dict[str, Any],
    routes: list[dict[str, Any]],
    msg: str,
) -> None:
    """ADD names the route, and leaves nothing of what it had done before."""
    net = network(
        isDefaultGateway=True, ipMasq=True, ipMasqBackend="nftables", ipam={**subnets, "routes": routes}
    )
    assert net.refused(one)["msg"].startswith(msg)


def test_routes_of_a_family_without_gateway(network: Callable[..., Network], one: NetNS) -> None:
    """An IPv6 route of a pod without an IPv6 address leads through the device."""
    network(ipam={**V4, "routes": [{"dst": "fd09::/64"}]}).add(one)
    assert route_lines(one) == ["fd09::/64"]


# --- Several interfaces, names, sandboxes ---


def test_two_interfaces_on_one_network(network: Callable[..., Network], host: NetNS, one: NetNS) -> None:
    """Each has its own pair, address and rules; DEL of one leaves the other whole."""
    net = network(isGateway=True, ipMasq=True, ipMasqBackend="nftables", macspoofchk=True, ipam=DUAL)
    net.add(one)
    net.add(one, ifname="net1")
    assert net.reservations() == {
        "10.71.0.2": "pod-1/eth0",
        "fd71::2": "pod-1/eth0",
        "10.71.0.3": "pod-1/net1",
        "fd71::3": "pod-1/net1",
    }
    assert net.host_veth() != net.host_veth(ifname="net1")
    net.delete(one).ok()
    assert list(links(one)) == ["lo", "net1"]
    assert net.host_veth(ifname="net1") in links(host)
    assert net.reservations() == {"10.71.0.3": "pod-1/net1", "fd71::3": "pod-1/net1"}
    net.check(one, ifname="net1").ok()
    one.ping("10.71.0.1")


def test_two_networks(network: Callable[..., Network], host: NetNS, one: NetNS) -> None:
    """One container on two networks and bridges, each with its own addresses."""
    first = network(isDefaultGateway=True, ipam=V4)
    second = network(name="second", bridge="br2", isGateway=True, ipam=host_local("10.72.0.0/24"))
    first.add(one)
    second.add(one, ifname="net1")
    assert (addresses(one, "eth0"), addresses(one, "net1")) == (["10.71.0.2/24"], ["10.72.0.2/24"])
    one.ping("10.71.0.1")
    one.ping("10.72.0.1")
    assert [
        links(host)[net.host_veth("pod-1", ifname)]["master"]
        for net, ifname in ((first, "eth0"), (second, "net1"))
    ] == [BRIDGE, "br2"]


@pytest.mark.parametrize("ifname", ["fifteen-letters", "eth0.5", "a", "ä", "eth0'$(x)"])
def test_interface_names(network: Callable[..., Network], one: NetNS, ifname: str) -> None:
    """Any name that a link may have, a dot, a quote and letters beyond ASCII too."""
    net = network(isDefaultGateway=True, macspoofchk=True, ipam=DUAL)
    net.add(one, ifname=ifname)
    assert addresses(one, ifname) == ["10.71.0.2/24", "fd71::2/64"]
    assert sysctl(one, f"ipv4.conf.{ifname}.arp_notify") == "1"
    net.check(one, ifname=ifname).ok()
    net.delete(one, ifname=ifname).ok()
    assert list(links(one)) == ["lo"]


@pytest.mark.row("plugins", 150)
def test_a_second_add_is_refused(network: Callable[..., Network], one: NetNS, two: NetNS) -> None:
    """The interface is there, in this or another sandbox: the reference's text, and the first stays whole."""
    net = network(isDefaultGateway=True, ipMasq=True, ipMasqBackend="nftables", macspoofchk=True, ipam=DUAL)
    net.add(one)
    text = f'container veth name ("eth0") peer provided ("{net.host_veth()}") already exists'
    assert net.refused(one)["msg"] == text
    error = net.refused(two)
    assert error["msg"] == text
    assert "another sandbox" in error["details"]
    other = net.refused(one, "pod-9")
    assert other["msg"].startswith('container veth name ("eth0") peer provided ("veth')
    assert str(one.path) in other["details"]
    net.check(one).ok()
    one.ping("10.71.0.1")


def test_other_paths_to_the_sandbox(network: Callable[..., Network], one: NetNS, tmp_path: Path) -> None:
    """A symbolic link and /proc lead there too; CHECK by another path than ADD's finds the same sandbox."""
    net = network(ipam=V4)
    link = tmp_path / "netns"
    link.symlink_to(one.path)
    result = net.call("bridge", "ADD", net.config, netns=link, container_id="pod-1").ok().json
    assert result["interfaces"][2]["sandbox"] == str(link)
    net.results["pod-1", "eth0"] = result
    net.check(one).ok()
    sleeper = one.popen("sleep", "600")
    try:
        net.check(f"/proc/{sleeper.pid}/ns/net").ok()
        net.delete(f"/proc/{sleeper.pid}/ns/net").ok()
    finally:
        sleeper.kill()
        sleeper.wait()
    assert list(links(one)) == ["lo"]


def test_what_stays_after_the_last_pod(network: Callable[..., Network], host: NetNS, one: NetNS) -> None:
    """Bridge, gateway addresses and forwarding: a second life of the pod finds and leaves the same node."""
    net = network(isDefaultGateway=True, ipMasq=True, ipMasqBackend="nftables", macspoofchk=True, ipam=DUAL)
    net.add(one)
    net.delete(one).ok()
    after = snapshot(host)
    assert list(after["links"]) == ["lo", BRIDGE]
    assert addresses(host, BRIDGE) == ["10.71.0.1/24", "fd71::1/64"]
    assert forwarding(host) == ("1", "1")
    net.add(one)
    net.delete(one).ok()
    assert snapshot(host) == after
    assert json.dumps(store(net.store)) == json.dumps(
        {"last_reserved_ip.0": "10.71.0.3", "last_reserved_ip.1": "fd71::3", "lock": ""}
    )
