"""CHECK of the bridge plugin: silent about a healthy attachment, precise about a spoiled one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.bridges import BRIDGE, Network, host_local
from support.calls import Call
from support.observe import links

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.netns import NetNS

REFERENCE = Path("/usr/lib/cni")
"""Debian's containernetworking-plugins; they know no spec version after 1.0.0."""
IPAM = host_local("10.73.0.0/24", "fd73::/64", routes=[{"dst": "10.98.0.0/16"}])
FULL: dict[str, Any] = {
    "isDefaultGateway": True,
    "ipMasq": True,
    "ipMasqBackend": "nftables",
    "macspoofchk": True,
    "mtu": 1450,
    "ipam": IPAM,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "layer 2": {},
    "layer 2, down": {"disableContainerInterface": True},
    "layer 3": {"ipam": IPAM},
    "gateway": {"isGateway": True, "ipam": IPAM},
    "nftables and all": FULL,
    "iptables": {**FULL, "ipMasqBackend": "iptables"},
    "hairpin": {"hairpinMode": True, "portIsolation": True},
    "promiscuous": {"promiscMode": True, "ipam": IPAM},
    "duplicate address detection": {"enabledad": True, "ipam": host_local("fd73::/64")},
}


@pytest.fixture
def network(call: Call, data_dir: Path) -> Callable[..., Network]:
    """A network of the given keys on this test's node and store."""
    return lambda **config: Network(call, data_dir, **config)


@pytest.fixture
def one(pod: Callable[[], NetNS]) -> NetNS:
    return pod()


@pytest.mark.row("plugins", 75, 76, 77)
@pytest.mark.parametrize("case", CONFIGS)
def test_a_healthy_attachment(mode: str, network: Callable[..., Network], one: NetNS, case: str) -> None:
    """Nothing is said and nothing changed, however often it is asked."""
    net = network(**CONFIGS[case])
    net.add(one)
    before = net.state(one)
    for _ in range(2):
        outcome = net.check(one).ok()
        assert (outcome.stdout, outcome.stderr) == (b"", b"")
    assert net.state(one) == before
    del mode


@pytest.mark.parametrize("version", ["0.4.0", "1.0.0"])
def test_older_versions(network: Callable[..., Network], one: NetNS, version: str) -> None:
    """CHECK exists since 0.4.0, with prevResult in the version's shape."""
    net = network(**FULL).changed(cniVersion=version)
    net.add(one)
    net.check(one).ok()


# What is done (by a shell, $VETH being the host side) and what CHECK says of it.
ON_HOST = {
    "ip link del br0": "Interface name br0 not found",
    "ip link del br0; ip link add br0 address 02:00:00:00:00:77 type bridge; ip link set $VETH master br0": (
        "Bridge interface br0 Mac doesn't match: {bridge}"
    ),
    "ip link del br0; ip link add br0 type veth peer name br1": (
        "Interface br0 does not have link type of bridge"
    ),
    "ip link set br0 address 02:00:00:00:00:77": "Bridge interface br0 Mac doesn't match: {bridge}",
    "ip link set br0 promisc on": (
        "Bridge interface br0 configured Promisc Mode false doesn't match current state: true "
    ),
    "ip link set br0 down": "Bridge interface br0 is down",
    "ip link set $VETH nomaster": "CNI veth created for bridge br0 was not found",
    "ip link add br1 type bridge; ip link set $VETH master br1": (
        "CNI veth created for bridge br0 was not found"
    ),
    "ip link set $VETH down": "Host side {veth} is down",
    "ip link set $VETH down; ip link set $VETH name other0": "Interface name {veth} not found",
    "bridge link set dev $VETH hairpin on": "Bridge port {veth} hairpin should be off",
    "bridge link set dev $VETH isolated on": "Bridge port {veth} isolated should be off",
    "ip addr del 10.73.0.1/24 dev br0": "Gateway address 10.73.0.1/24 is missing on bridge br0",
    "ip addr del fd73::1/64 dev br0": "Gateway address fd73::1/64 is missing on bridge br0",
    "ip addr add 10.73.0.1/16 dev br0; ip addr del 10.73.0.1/24 dev br0": (
        "Gateway address 10.73.0.1/24 is missing on bridge br0"
    ),
    "sysctl -qw net.ipv4.ip_forward=0": "Forwarding of IPv4 is off",
    "sysctl -qw net.ipv6.conf.all.forwarding=0": "Forwarding of IPv6 is off",
    "nft flush chain inet cni_plugins_masquerade masq_checks": "Masquerade rules are missing",
    "nft delete table inet cni_plugins_masquerade": "Masquerade rules are missing",
    "nft delete table bridge nat": "MAC spoof check rules are missing",
    "nft flush chain bridge nat PREROUTING": "MAC spoof check rules are missing",
    "nft flush chain bridge nat cni-br-iface-pod-1-eth0-mac": "MAC spoof check rules are missing",
}
MISSING = "Expected Route {{Dst:{{IP:"
IN_POD = {
    "ip link del eth0": "Interface name eth0 not found",
    "ip link set eth0 down; ip link set eth0 name eth1": "Interface name eth0 not found",
    "ip link del eth0; ip link add eth0 type bridge": "Error: Container interface eth0 not of type veth",
    "ip link del eth0; ip link add eth0 type veth peer name eth1": (
        "Interface eth0 Mac {pod} doesn't match container Mac: "
    ),
    "ip link set eth0 address 02:00:00:00:00:77": (
        "Interface eth0 Mac {pod} doesn't match container Mac: 02:00:00:00:00:77"
    ),
    "ip link set eth0 mtu 1300": "Interface eth0 MTU 1300 doesn't match configured MTU: 1450",
    "ip link set eth0 down": "Interface eth0 is down",
    "ip addr del 10.73.0.2/24 dev eth0": "Failed to match addr 10.73.0.2/24 on interface eth0",
    "ip addr del fd73::2/64 dev eth0": "Failed to match addr fd73::2/64 on interface eth0",
    "ip route del 10.73.0.0/24": "Failed to find Gateway 10.73.0.1 for interface eth0",
    "ip -6 route del fd73::/64 dev eth0": "Failed to find Gateway fd73::1 for interface eth0",
    "ip route del 10.98.0.0/16": f"{MISSING}10.98.0.0 Mask:ffff0000}}}} GW:<nil> ",
    "ip route del default": f"{MISSING}0.0.0.0 Mask:00000000}}}} GW:10.73.0.1 ",
    "ip route replace default via 10.73.0.9": f"{MISSING}0.0.0.0 Mask:00000000}}}} GW:10.73.0.1 ",
    "ip -6 route del default": f"{MISSING}:: Mask:00000000000000000000000000000000}}}} GW:fd73::1 ",
}


def spoil(net: Network, place: NetNS, command: str) -> None:
    place.run("sh", "-ec", command.replace("$VETH", net.host_veth()))


def expected(net: Network, text: str) -> str:
    bridge, veth, pod = net.results["pod-1", "eth0"]["interfaces"]
    return text.format(bridge=bridge["mac"], veth=veth["name"], pod=pod["mac"])


@pytest.mark.parametrize("command", ON_HOST)
def test_spoiled_on_the_host(network: Callable[..., Network], one: NetNS, command: str) -> None:
    """Each kind of drift of bridge, port, gateway, forwarding and rules is found, and nothing is repaired."""
    net = network(**FULL)
    net.add(one)
    spoil(net, net.host, command)
    before = net.state(one)
    error = net.check(one).failed(999)
    text = expected(net, ON_HOST[command])
    # A host side that is down takes the pod's carrier and with it some of its routes: they come first.
    assert error["msg"] == text or (text.startswith("Host side") and f"also: {text}" in error["details"])
    assert net.state(one) == before


@pytest.mark.parametrize("command", IN_POD)
def test_spoiled_in_the_pod(network: Callable[..., Network], one: NetNS, command: str) -> None:
    """Each kind of drift of the pod's link, addresses and routes is the message."""
    net = network(**FULL)
    net.add(one)
    spoil(net, one, command)
    error = net.check(one).failed(999)
    assert error["msg"].startswith(expected(net, IN_POD[command]))


@pytest.mark.parametrize("family", ["", "6"])
def test_iptables_rules_that_are_gone(network: Callable[..., Network], one: NetNS, family: str) -> None:
    """The jump of one family is missing; the other family's is there."""
    net = network(**CONFIGS["iptables"])
    net.add(one)
    net.host.run(f"ip{family}tables", "-t", "nat", "-F", "POSTROUTING")
    assert net.check(one).failed(999)["msg"] == "Masquerade rules are missing"


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"hairpinMode": True}, "Bridge port {veth} hairpin should be on"),
        ({"portIsolation": True}, "Bridge port {veth} isolated should be on"),
        (
            {"promiscMode": True},
            "Bridge interface br0 configured Promisc Mode true doesn't match current state: false ",
        ),
        ({"mtu": 1400}, "Interface eth0 MTU 1450 doesn't match configured MTU: 1400"),
        ({"bridge": "br7"}, "Interface name missing "),
        ({"disableContainerInterface": True, "ipam": None}, ""),
    ],
)
def test_a_config_that_changed_since(
    network: Callable[..., Network], one: NetNS, config: dict[str, Any], text: str
) -> None:
    """CHECK compares with the config that it is given."""
    net = network(**FULL)
    net.add(one)
    outcome = net.changed(**config).check(one)
    if text:
        assert outcome.failed(999)["msg"] == expected(net, text)
    else:
        outcome.ok()


def test_everything_that_is_wrong_is_told(network: Callable[..., Network], one: NetNS) -> None:
    """The message is the first finding, the details say what to do, and name all the others."""
    net = network(**FULL)
    net.add(one)
    spoil(net, net.host, "ip addr del 10.73.0.1/24 dev br0; bridge link set dev $VETH isolated on")
    spoil(net, one, "ip route del 10.98.0.0/16")
    error = net.check(one).failed(999)
    assert error["msg"] == f"Bridge port {net.host_veth()} isolated should be off"
    first, *others = error["details"].split("; ")
    assert first == f"bridge link set dev {net.host_veth()} isolated off"
    assert [other.partition(" (")[0] for other in others] == [
        "also: Expected Route {Dst:{IP:10.98.0.0 Mask:ffff0000} GW:<nil> MTU:0 AdvMSS:0 Priority:0 "
        "Table:<nil> Scope:<nil>} not found in routing table",
        "also: Gateway address 10.73.0.1/24 is missing on bridge br0",
    ]


def test_the_advice_repairs(network: Callable[..., Network], one: NetNS) -> None:
    """Whoever does what the details say, finding by finding, has a healthy attachment in the end."""
    net = network(**FULL)
    net.add(one)
    spoil(
        net,
        net.host,
        "ip addr del 10.73.0.1/24 dev br0; sysctl -qw net.ipv4.ip_forward=0; "
        "bridge link set dev $VETH isolated on; ip link set br0 promisc on",
    )
    spoil(net, one, "ip route del 10.98.0.0/16; ip route del default")
    for _ in range(10):
        outcome = net.check(one)
        if outcome.status == 0:
            break
        advice = outcome.failed()["details"].partition("; also")[0]
        place = one if advice.startswith("in the sandbox: ") else net.host
        place.run("sh", "-ec", advice.removeprefix("in the sandbox: "))
    net.check(one).ok()


def test_a_pod_of_an_unwatched_bridge(network: Callable[..., Network], one: NetNS) -> None:
    """A packet capture on the bridge and a MAC that udev rewrote on the host side are no drift."""
    net = network(**FULL)
    net.add(one)
    spoil(net, net.host, "ip link set $VETH address 02:00:00:00:00:99")
    net.check(one).ok()
    before = links(net.host)[BRIDGE]["promiscuity"]
    capture = net.host.popen("python3", "-c", CAPTURE, stdin=-1, stdout=-1)
    try:
        assert capture.stdout is not None
        assert capture.stdout.readline() == b"ready\n"
        assert links(net.host)[BRIDGE]["promiscuity"] == before + 1
        net.check(one).ok()
    finally:
        capture.communicate(b"")


CAPTURE = f"""
import socket, struct, sys
with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as tap:
    index = socket.if_nametoindex({BRIDGE!r})
    tap.setsockopt(263, 1, struct.pack("iHH8s", index, 1, 0, bytes(8)))  # PACKET_ADD_MEMBERSHIP, promiscuous
    print("ready", flush=True)
    sys.stdin.read()
"""


# --- What CHECK is told ---


def test_the_ipam_is_asked(network: Callable[..., Network], one: NetNS) -> None:
    """A reservation that is gone is the IPAM's to tell, and it comes first."""
    net = network(**FULL)
    net.add(one)
    for name in net.reservations():
        (net.store / name).unlink()
    spoil(net, net.host, "ip link set br0 down")
    assert net.check(one).failed(999)["msg"] == "host-local: Failed to find address added by container pod-1"


def test_a_sandbox_that_is_gone(network: Callable[..., Network], one: NetNS) -> None:
    """That is an error of CHECK, as the reference's."""
    net = network(**FULL)
    net.add(one)
    one.delete()
    assert net.check(one).failed(999)["msg"] == (
        f'failed to open netns "{one.path}": failed to Statfs "{one.path}": no such file or directory'
    )


def test_another_sandbox(network: Callable[..., Network], one: NetNS, pod: Callable[[], NetNS]) -> None:
    """prevResult speaks of another namespace than CNI_NETNS."""
    net = network(**FULL)
    net.add(one)
    two = pod()
    assert net.check(two).failed(999)["msg"] == (
        f"Sandbox in prevResult {one.path} doesn't match configured netns: {two.path}"
    )


@pytest.mark.parametrize(
    ("prev", "text"),
    [
        (None, "Required prevResult missing"),
        (
            {"cniVersion": "0.4.0"},
            "could not parse prevResult: result type supports [1.0.0 1.1.0] but unmarshalled CNIVersion is "
            '"0.4.0"',
        ),
        ({"cniVersion": "7.0.0"}, "could not parse prevResult: "),
        ({"ips": [{"address": "banana"}]}, "could not parse prevResult: invalid CIDR address: banana"),
        ([], "failed to load netconf: json: cannot unmarshal array into "),
        ("x", "failed to load netconf: json: cannot unmarshal string into "),
        ({}, "Interface name missing "),
    ],
)
def test_a_bad_prev_result(network: Callable[..., Network], one: NetNS, prev: object, text: str) -> None:
    """Missing, of another shape, or no result at all: the reference's texts."""
    net = network(**FULL)
    net.add(one)
    outcome = net.call("bridge", "CHECK", net.config | {"prevResult": prev}, netns=one, container_id="pod-1")
    assert outcome.failed(999)["msg"].startswith(text)


def test_a_prev_result_of_the_same_shape(network: Callable[..., Network], one: NetNS) -> None:
    """1.0.0 and 1.1.0 are interchangeable, and one without a version is of the config's."""
    net = network(**FULL)
    net.add(one)
    net.check(one, cniVersion="1.0.0").ok()
    net.check(one, cniVersion="").ok()


# --- Beside the reference ---


def test_ours_checks_what_the_reference_made(
    network: Callable[..., Network], host: NetNS, one: NetNS, data_dir: Path
) -> None:
    """A pod that the reference's bridge added is healthy, with its iptables and spoof-check rules."""
    config = {key: value for key, value in FULL.items() if key != "ipMasqBackend"} | {"cniVersion": "1.0.0"}
    theirs = Network(Call(REFERENCE, host), data_dir, **config)
    theirs.add(one)
    ours = network(**config)
    ours.results = theirs.results
    ours.check(one).ok()
    host.run("iptables", "-t", "nat", "-F", "POSTROUTING")
    assert ours.check(one).failed()["msg"] == "Masquerade rules are missing"
    theirs.delete(one).ok()


@pytest.mark.parametrize("version", ["0.4.0", "1.0.0"])
def test_the_reference_checks_what_ours_made(
    network: Callable[..., Network], host: NetNS, one: NetNS, data_dir: Path, version: str
) -> None:
    """The reference's CHECK is silent about a pod of ours."""
    # Debian's 1.1.1 does not find a route without `gw`, not even one that it made itself.
    config = FULL | {"ipam": host_local("10.73.0.0/24", "fd73::/64")}
    ours = network(**config).changed(cniVersion=version)
    ours.add(one)
    theirs = Network(Call(REFERENCE, host), data_dir, **config).changed(cniVersion=version)
    theirs.results = ours.results
    theirs.check(one).ok()
    ours.delete(one).ok()
