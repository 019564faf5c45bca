"""pycni_bridge.verify: each difference between what should be and what is, and its text."""

from __future__ import annotations

from typing import Any

import pytest
from support.observed import observed_link

from pycni.addresses import CIDR, IP
from pycni.errors import CNIError
from pycni.kernel.messages import Address, Link, Port, RouteEntry
from pycni.types import Interface, IPConfig, Result, Route
from pycni_bridge.config import BridgeConfig
from pycni_bridge.inspection import report
from pycni_bridge.plan import POD_INTERFACE, gateway_addresses
from pycni_bridge.verify import Expected, Finding, Observed, verify

NETNS = "/run/netns/pod"
UP, PROMISC = 0x1, 0x100
BRIDGE_MAC, HOST_MAC, POD_MAC = "02:00:00:00:00:03", "02:00:00:00:00:09", "02:00:00:00:00:07"
CONFIG = BridgeConfig(bridge="br0", is_gateway=True, is_default_gateway=True, ipam_type="host-local")
FORWARD4, FORWARD6 = "net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"
PORT = Port(hairpin=False, isolated=False, learning=True, flood=True, state=3)


def link(name: str, index: int, kind: str, mac: str, **changes: Any) -> Link:
    return observed_link(name, index, kind, bytes.fromhex(mac.replace(":", "")), **changes)


BRIDGE = link("br0", 3, "bridge", BRIDGE_MAC, promiscuity=1)
HOST_SIDE = link("veth1", 9, "veth", HOST_MAC, master=3, peer=2, peer_netnsid=0, port=PORT)
POD = link("eth0", 2, "veth", POD_MAC, peer=9, peer_netnsid=0)


def address(text: str, index: int = 2) -> Address:
    return Address(index=index, cidr=CIDR.parse(text), scope=0, flags=128, broadcast=None, label="eth0")


def entry(dst: str, gw: str = "", **changes: Any) -> RouteEntry:
    usual: dict[str, Any] = {
        "family": 6 if ":" in dst else 4,
        "dst": CIDR.parse(dst),
        "gw": IP.parse(gw) if gw else None,
        "oif": 2,
        "priority": 0,
        "table": 254,
        "scope": 0,
        "protocol": 3,
        "type": 1,
        "mtu": 0,
        "advmss": 0,
        "prefsrc": None,
        "nexthops": (),
    }
    return RouteEntry(**(usual | changes))


INTERFACES = (
    Interface("br0", BRIDGE_MAC),
    Interface("veth1", HOST_MAC),
    Interface("eth0", POD_MAC, sandbox=NETNS),
)
IPS = (
    IPConfig(CIDR.parse("10.0.0.2/24"), IP.parse("10.0.0.1"), POD_INTERFACE),
    IPConfig(CIDR.parse("fd00::2/64"), IP.parse("fd00::1"), POD_INTERFACE),
)
ROUTES = (
    Route(CIDR.parse("10.98.0.0/16")),
    Route(CIDR.parse("0.0.0.0/0"), IP.parse("10.0.0.1")),
    Route(CIDR.parse("::/0"), IP.parse("fd00::1")),
)
POD_ROUTES = (
    entry("0.0.0.0/0", "10.0.0.1"),
    entry("10.0.0.0/24", protocol=2, scope=253),
    entry("10.98.0.0/16", "10.0.0.1"),
    entry("::/0", "fd00::1", priority=1024),
    entry("fd00::/64", protocol=2, priority=256),
)
SEEN = Observed(
    pod_link=POD,
    host_side=HOST_SIDE,
    host_links={"br0": BRIDGE, "veth1": HOST_SIDE},
    gateway_addresses=(CIDR.parse("10.0.0.1/24"), CIDR.parse("fd00::1/64")),
    pod_addresses=(address("10.0.0.2/24"), address("fd00::2/64"), address("fe80::2/64")),
    pod_routes=POD_ROUTES,
    sysctls={FORWARD4: "1", FORWARD6: "1"},
    sandboxes=frozenset((NETNS,)),
)


def expected(config: BridgeConfig = CONFIG, **prev: Any) -> Expected:
    result = Result(interfaces=INTERFACES, ips=IPS, routes=ROUTES).replace(**prev)
    sysctls = ((FORWARD4, "1"), (FORWARD6, "1")) if config.is_gateway else ()
    return Expected(config, result, "eth0", NETNS, gateway_addresses(config, result), sysctls)


def texts(seen: Observed, want: Expected | None = None) -> list[str]:
    return [finding.text for finding in verify(want or expected(), seen)]


def on_host(bridge: Link | None = BRIDGE, host_side: Link | None = HOST_SIDE) -> Observed:
    links = {item.name: item for item in (bridge, host_side) if item is not None}
    return SEEN.replace(host_links=links, host_side=host_side)


def without(*dsts: str) -> Observed:
    return SEEN.replace(pod_routes=tuple(item for item in POD_ROUTES if str(item.dst) not in dsts))


def in_prev(position: int, **changes: Any) -> Expected:
    changed = list(INTERFACES)
    changed[position] = changed[position].replace(**changes)
    return expected(interfaces=tuple(changed))


def test_an_intact_attachment_has_no_findings() -> None:
    """What ADD made is what CHECK wants; extra addresses, routes and a captured bridge are nobody's fault."""
    assert texts(SEEN) == []
    more = SEEN.replace(
        pod_addresses=(*SEEN.pod_addresses, address("10.0.0.99/24")),
        pod_routes=(*POD_ROUTES, entry("10.55.0.0/16", "10.0.0.9")),
        gateway_addresses=(*SEEN.gateway_addresses, CIDR.parse("fd77::1/64")),
    )
    assert texts(more) == []


def test_an_intact_layer_2_attachment() -> None:
    """No addresses, no gateway; a pod link that shall stay down may be down."""
    config = BridgeConfig(bridge="br0", disable_container_interface=True)
    seen = SEEN.replace(
        pod_link=POD.replace(flags=0), pod_addresses=(), pod_routes=(), gateway_addresses=(), sysctls={}
    )
    assert texts(seen, expected(config, ips=(), routes=())) == []


# --- The bridge ---

BRIDGE_CASES = {
    "no entry": (SEEN, expected(interfaces=INTERFACES[1:], ips=()), "Interface name missing "),
    "gone": (on_host(bridge=None), expected(), "Interface name br0 not found"),
    "in a sandbox": (SEEN, in_prev(0, sandbox="/x"), "Interface br0 should not be in sandbox"),
    "no bridge": (
        on_host(bridge=BRIDGE.replace(kind="dummy")),
        expected(),
        "Interface br0 does not have link type of bridge",
    ),
    "other MAC": (
        SEEN,
        in_prev(0, mac="02:00:00:00:00:ff"),
        "Bridge interface br0 Mac doesn't match: 02:00:00:00:00:ff",
    ),
    "promiscuous": (
        on_host(bridge=BRIDGE.replace(flags=UP | PROMISC)),
        expected(),
        "Bridge interface br0 configured Promisc Mode false doesn't match current state: true ",
    ),
    "not promiscuous": (
        SEEN,
        expected(CONFIG.replace(promisc_mode=True)),
        "Bridge interface br0 configured Promisc Mode true doesn't match current state: false ",
    ),
    "down": (on_host(bridge=BRIDGE.replace(flags=0)), expected(), "Bridge interface br0 is down"),
}


@pytest.mark.parametrize("case", BRIDGE_CASES)
def test_the_bridge(case: str) -> None:
    """Each difference of the bridge is found first, by its text (the reference's where it has one)."""
    seen, want, text = BRIDGE_CASES[case]
    assert texts(seen, want)[0] == text


def test_macs_that_may_change_are_not_compared() -> None:
    """udev may rewrite the host side's MAC, and a bridge that is no gateway follows its ports."""
    assert texts(on_host(host_side=HOST_SIDE.replace(mac=b"\2\0\0\0\0\xee"))) == []
    layer2 = BridgeConfig(bridge="br0", ipam_type="host-local")
    assert texts(on_host(bridge=BRIDGE.replace(mac=b"\2\0\0\0\0\xee")), expected(layer2)) == []


def test_macs_compare_without_letter_case() -> None:
    """A prevResult from elsewhere may write them in capitals, or not at all."""
    mac = "0a:bb:cc:dd:ee:ff"
    bridge, pod = (item.replace(mac=bytes.fromhex(mac.replace(":", ""))) for item in (BRIDGE, POD))
    upper = (INTERFACES[0].replace(mac=mac.upper()), INTERFACES[1], INTERFACES[2].replace(mac=mac.upper()))
    seen = on_host(bridge=bridge).replace(pod_link=pod)
    assert texts(seen, expected(interfaces=upper)) == []
    bare = tuple(item.replace(mac="") for item in INTERFACES)
    assert texts(seen, expected(interfaces=bare)) == []


# --- The pod's link ---

POD_CASES = {
    "other sandbox": (
        SEEN,
        in_prev(2, sandbox="/run/netns/other"),
        f"Sandbox in prevResult /run/netns/other doesn't match configured netns: {NETNS}",
    ),
    "no entry": (
        SEEN,
        expected(interfaces=INTERFACES[:2]),
        f"Sandbox in prevResult  doesn't match configured netns: {NETNS}",
    ),
    "gone": (
        SEEN.replace(pod_link=None, host_side=None),
        expected(),
        "Interface name eth0 not found",
    ),
    "no veth": (
        SEEN.replace(pod_link=POD.replace(kind="dummy")),
        expected(),
        "Error: Container interface eth0 not of type veth",
    ),
    "other MAC": (
        SEEN,
        in_prev(2, mac="02:00:00:00:00:ff"),
        f"Interface eth0 Mac 02:00:00:00:00:ff doesn't match container Mac: {POD_MAC}",
    ),
    "down": (SEEN.replace(pod_link=POD.replace(flags=0)), expected(), "Interface eth0 is down"),
    "other MTU": (
        SEEN,
        expected(CONFIG.replace(mtu=1400)),
        "Interface eth0 MTU 1500 doesn't match configured MTU: 1400",
    ),
}


@pytest.mark.parametrize("case", POD_CASES)
def test_the_pods_link(case: str) -> None:
    """Each difference of the pod's interface is found first, by its text."""
    seen, want, text = POD_CASES[case]
    assert texts(seen, want)[0] == text


def test_another_spelling_of_the_sandbox() -> None:
    """A path in prevResult that leads to the same namespace is the same sandbox."""
    want = in_prev(2, sandbox="/var/run/netns/pod")
    assert texts(SEEN.replace(sandboxes=frozenset((NETNS, "/var/run/netns/pod"))), want) == []


def test_the_last_entry_of_a_name_counts() -> None:
    """As in the reference, of two interfaces with one name the later is meant."""
    twice = (*INTERFACES, INTERFACES[0].replace(mac="02:00:00:00:00:ff"))
    assert texts(SEEN, expected(interfaces=twice)) == [
        "Bridge interface br0 Mac doesn't match: 02:00:00:00:00:ff"
    ]


# --- The host side ---


def other_port(**flags: bool) -> Link:
    return HOST_SIDE.replace(port=PORT.replace(**flags))


HOST_CASES = {
    "gone": (
        on_host(host_side=None),
        expected(),
        ["Interface name veth1 not found", "CNI veth created for bridge br0 was not found"],
    ),
    "no port": (
        on_host(host_side=HOST_SIDE.replace(master=0, port=None)),
        expected(),
        ["CNI veth created for bridge br0 was not found"],
    ),
    "other bridge's": (
        on_host(host_side=HOST_SIDE.replace(master=77)),
        expected(),
        ["CNI veth created for bridge br0 was not found"],
    ),
    "down": (on_host(host_side=HOST_SIDE.replace(flags=0)), expected(), ["Host side veth1 is down"]),
    "hairpin on": (
        on_host(host_side=other_port(hairpin=True)),
        expected(),
        ["Bridge port veth1 hairpin should be off"],
    ),
    "hairpin off": (
        SEEN,
        expected(CONFIG.replace(hairpin_mode=True)),
        ["Bridge port veth1 hairpin should be on"],
    ),
    "isolated": (
        on_host(host_side=other_port(isolated=True)),
        expected(),
        ["Bridge port veth1 isolated should be off"],
    ),
    "not isolated": (
        SEEN,
        expected(CONFIG.replace(port_isolation=True)),
        ["Bridge port veth1 isolated should be on"],
    ),
    "chained interface gone": (
        SEEN,
        expected(interfaces=(*INTERFACES, Interface("tap0"))),
        ["Interface name tap0 not found"],
    ),
}


@pytest.mark.parametrize("case", HOST_CASES)
def test_the_host_side(case: str) -> None:
    """Each difference of the host side, and of other links that prevResult names on the host."""
    seen, want, found = HOST_CASES[case]
    assert texts(seen, want) == found


def test_a_renamed_host_side_is_known_by_its_peer() -> None:
    """The name in prevResult may be missing if the peer of the pod's link is there under another."""
    renamed = HOST_SIDE.replace(name="veth-new")
    assert texts(on_host(host_side=renamed)) == ["Interface name veth1 not found"]


def test_a_chained_plugins_interface_in_the_sandbox() -> None:
    """Wherever it stands in the list, it is not taken for the host side."""
    chained = (Interface("tun0", sandbox=NETNS), *INTERFACES)
    ips = tuple(item.replace(interface=3) for item in IPS)
    assert texts(SEEN, expected(interfaces=chained, ips=ips)) == []


# --- Addresses and routes ---


def test_a_missing_address() -> None:
    """The reference's text, and the details say which addresses there are."""
    seen = SEEN.replace(pod_addresses=(address("10.0.0.3/24"), address("fd00::2/64")))
    (finding,) = verify(expected(), seen)
    assert finding.text == "Failed to match addr 10.0.0.2/24 on interface eth0"
    assert "10.0.0.3/24, fd00::2/64" in finding.advice


def test_an_address_with_another_prefix_is_missing() -> None:
    """Address and length must both be equal."""
    seen = SEEN.replace(pod_addresses=(address("10.0.0.2/16"), address("fd00::2/64")))
    assert texts(seen) == ["Failed to match addr 10.0.0.2/24 on interface eth0"]


def test_addresses_of_other_interfaces_are_not_ours() -> None:
    """A chained plugin's address names its own interface; one without an index is the pod's."""
    chained = IPConfig(CIDR.parse("10.7.0.1/24"), None, 3)
    more = (*INTERFACES, Interface("tun0", sandbox=NETNS))
    assert texts(SEEN, expected(interfaces=more, ips=(*IPS, chained))) == []
    (text,) = texts(SEEN, expected(interfaces=more, ips=(*IPS, chained.replace(interface=None))))
    assert text == "Failed to match addr 10.7.0.1/24 on interface eth0"


@pytest.mark.parametrize(
    ("dst", "text"),
    [
        ("10.0.0.0/24", "Failed to find Gateway 10.0.0.1 for interface eth0"),
        ("fd00::/64", "Failed to find Gateway fd00::1 for interface eth0"),
        (
            "10.98.0.0/16",
            "Expected Route {Dst:{IP:10.98.0.0 Mask:ffff0000} GW:<nil> MTU:0 AdvMSS:0 Priority:0 "
            "Table:<nil> Scope:<nil>} not found in routing table",
        ),
        (
            "::/0",
            "Expected Route {Dst:{IP::: Mask:00000000000000000000000000000000} GW:fd00::1 MTU:0 AdvMSS:0 "
            "Priority:0 Table:<nil> Scope:<nil>} not found in routing table",
        ),
    ],
)
def test_a_missing_route(dst: str, text: str) -> None:
    """Routes to the address' own network and those of prevResult, by the reference's texts."""
    assert texts(without(dst)) == [text]


def test_a_host_address_needs_no_network_route() -> None:
    """A /32 has no network around it."""
    host = IPConfig(CIDR.parse("10.0.0.2/32"), None, POD_INTERFACE)
    seen = SEEN.replace(pod_addresses=(address("10.0.0.2/32"),), pod_routes=())
    assert texts(seen, expected(CONFIG.replace(is_gateway=False), ips=(host,), routes=())) == []


def checked_route(route: Route, *there: RouteEntry) -> bool:
    """Whether `route` is found among the routes of a pod that has these beside its networks'."""
    networks = tuple(item for item in POD_ROUTES if item.protocol == 2)
    found = texts(SEEN.replace(pod_routes=(*networks, *there)), expected(routes=(route,)))
    assert found == [] or found[0].startswith("Expected Route ")
    return not found


DEFAULT4 = CIDR.parse("0.0.0.0/0")
NET = CIDR.parse("10.9.0.0/16")
GW = IP.parse("10.0.0.7")


@pytest.mark.parametrize(
    ("route", "there", "found"),
    [
        (Route(NET, GW), entry("10.9.0.0/16", "10.0.0.7"), True),
        (Route(NET, GW), entry("10.9.0.0/16", "10.0.0.8"), False),
        (Route(NET, GW), entry("10.9.0.0/24", "10.0.0.7"), False),
        (Route(NET), entry("10.9.0.0/16", "10.0.0.8"), True),
        (Route(DEFAULT4), entry("0.0.0.0/0", "10.0.0.1"), True),
        (Route(DEFAULT4), entry("0.0.0.0/0", "10.0.0.66"), False),
        (Route(DEFAULT4, GW), entry("0.0.0.0/0", "10.0.0.1"), False),
        (Route(DEFAULT4, scope=253), entry("0.0.0.0/0", scope=253), True),
        (Route(NET, scope=253), entry("10.9.0.0/16", scope=253), True),
        (Route(NET, table=100), entry("10.9.0.0/16", "10.0.0.1", table=100), True),
        (Route(NET, table=1000), entry("10.9.0.0/16", "10.0.0.1", table=1000), True),
        (Route(NET, table=100), entry("10.9.0.0/16", "10.0.0.1"), False),
        (Route(NET), entry("10.9.0.0/16", "10.0.0.1", table=100), False),
        (Route(NET, table=0), entry("10.9.0.0/16", "10.0.0.1"), True),
        (Route(NET), entry("10.9.0.0/16", oif=5), False),
        (Route(NET, GW), entry("10.9.0.0/16", "10.0.0.7", oif=5), True),
    ],
)
def test_which_route_is_the_expected_one(route: Route, there: RouteEntry, found: bool) -> None:
    """Destination, table and interface; the gateway where one is given, and of default routes always."""
    assert checked_route(route, there) is found


# --- Gateway, forwarding, rules ---


def test_a_missing_gateway_address() -> None:
    """The bridge must have each gateway with its prefix."""
    seen = SEEN.replace(gateway_addresses=(CIDR.parse("10.0.0.1/16"), CIDR.parse("fd00::1/64")))
    (finding,) = verify(expected(), seen)
    assert finding.text == "Gateway address 10.0.0.1/24 is missing on bridge br0"
    assert finding.advice == "ip addr add 10.0.0.1/24 dev br0"


@pytest.mark.parametrize(
    ("name", "text", "advice"),
    [
        (FORWARD4, "Forwarding of IPv4 is off", "sysctl -w net.ipv4.ip_forward=1"),
        (FORWARD6, "Forwarding of IPv6 is off", "sysctl -w net.ipv6.conf.all.forwarding=1"),
    ],
)
@pytest.mark.parametrize("value", ["0", None])
def test_forwarding(name: str, text: str, advice: str, value: str | None) -> None:
    """A gateway that does not forward is none; a switch that cannot be read counts as off."""
    assert verify(expected(), SEEN.replace(sysctls={**SEEN.sysctls, name: value})) == [Finding(text, advice)]


def test_rules_are_looked_for_where_the_config_has_them() -> None:
    """Missing rules are a finding only of a config that asks for them."""
    seen = SEEN.replace(masquerade=False, spoof_check=False)
    assert texts(seen) == []
    config = CONFIG.replace(ip_masq=True, mac_spoof_check=True)
    assert texts(seen, expected(config)) == [
        "Masquerade rules are missing",
        "MAC spoof check rules are missing",
    ]
    assert texts(SEEN, expected(config)) == []


# --- The report ---


def test_the_first_finding_is_the_message_and_the_others_are_details() -> None:
    """Nothing that was found is kept back."""
    seen = on_host(bridge=BRIDGE.replace(flags=0)).replace(pod_link=POD.replace(flags=0))
    with pytest.raises(CNIError) as caught:
        report(verify(expected(), seen))
    assert (caught.value.code, caught.value.msg) == (999, "Bridge interface br0 is down")
    assert caught.value.details == (
        "ip link set br0 up; also: Interface eth0 is down (in the sandbox: ip link set eth0 up)"
    )


def test_no_findings_no_error() -> None:
    """Silence is health."""
    report([])
