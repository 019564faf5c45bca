"""pycni_bridge.steps: which requests and sysctls a plan becomes, in which order, and what a failure says."""

from __future__ import annotations

from typing import Any

import pytest
from support.observed import observed_link

from pycni.addresses import CIDR, IP
from pycni.kernel.messages import Link, del_address, new_address, new_route, set_link, set_port
from pycni.kernel.namespace import Setting
from pycni.types import IPConfig, Result, Route
from pycni_bridge.config import BridgeConfig
from pycni_bridge.plan import GatewayPlan
from pycni_bridge.steps import early_host_steps, forwarding_names, host_steps, pod_settings, pod_steps

V4, V6 = CIDR.parse("10.0.0.2/24"), CIDR.parse("fd00::2/64")
GW4, GW6 = CIDR.parse("10.0.0.1/24"), CIDR.parse("fd00::1/64")
OLD = CIDR.parse("10.9.0.1/24")
DUAL = Result(ips=(IPConfig(V4, GW4.ip), IPConfig(V6, GW6.ip)), routes=(Route(CIDR.parse("10.9.0.0/16")),))
INDEX = 7
UP, PROMISC = 0x1, 0x100


def link(
    name: str = "br0",
    index: int = 3,
    kind: str = "bridge",
    mac: bytes = bytes.fromhex("020000000003"),
    **changes: Any,
) -> Link:
    return observed_link(name, index, kind, mac, **({"vlan_filtering": False} | changes))


VETH = link("veth1", index=9, kind="veth", master=3, mac=bytes.fromhex("020000000009"))


def settings(config: BridgeConfig, *, ipv6: bool) -> dict[str, tuple[str, bool]]:
    made = pod_settings(config, "eth0.5", ipv6=ipv6)
    assert len({setting.name for setting in made}) == len(made)
    return {setting.name: (setting.value, setting.required) for setting in made}


def host(config: BridgeConfig, bridge: Link, changes: GatewayPlan = GatewayPlan()) -> list[Any]:  # noqa: B008
    """The steps that need the port's index."""
    return [step for step, _ in host_steps(config, bridge, VETH, changes)]


# --- In the pod ---


def test_pod_sysctls_ipv4_only() -> None:
    """Announcement on, duplicate address detection off; the interface's name keeps its dots."""
    assert settings(BridgeConfig(), ipv6=False) == {
        "net/ipv6/conf/eth0.5/accept_dad": ("0", False),
        "net/ipv4/conf/eth0.5/arp_notify": ("1", False),
    }


def test_pod_sysctls_with_ipv6() -> None:
    """IPv6 is switched on, also on lo; that addresses survive a link going down is the one that must work."""
    assert settings(BridgeConfig(), ipv6=True) == {
        "net/ipv6/conf/eth0.5/accept_dad": ("0", False),
        "net/ipv4/conf/eth0.5/arp_notify": ("1", False),
        "net/ipv6/conf/lo/disable_ipv6": ("0", False),
        "net/ipv6/conf/eth0.5/disable_ipv6": ("0", False),
        "net/ipv6/conf/eth0.5/keep_addr_on_down": ("1", True),
    }


def test_pod_sysctls_with_dad() -> None:
    """enabledad switches detection on, the enhanced kind."""
    made = settings(BridgeConfig(enable_dad=True), ipv6=True)
    assert made["net/ipv6/conf/eth0.5/accept_dad"] == ("1", False)
    assert made["net/ipv6/conf/eth0.5/enhanced_dad"] == ("1", False)


@pytest.mark.parametrize("dad", [False, True])
def test_the_order_in_the_pod(dad: bool) -> None:
    """Sysctls, then addresses, then up, then routes: the kernel announces what is there when it goes up."""
    config = BridgeConfig(enable_dad=dad)
    steps = [step for step, _ in pod_steps(config, "eth0", INDEX, DUAL)]
    sysctls = pod_settings(config, "eth0", ipv6=True)
    assert steps == [
        *sysctls,
        new_address(INDEX, V4, nodad=not dad),
        new_address(INDEX, V6, nodad=not dad),
        set_link(INDEX, up=True),
        new_route(INDEX, CIDR.parse("10.9.0.0/16"), GW4.ip),
    ]


def test_every_attribute_of_a_route_is_sent() -> None:
    """Metric, table, scope, MTU and MSS; a negative metric is none."""
    dst, gw = CIDR.parse("10.9.0.0/16"), IP.parse("10.0.0.9")
    full = Route(dst, gw, mtu=1300, advmss=1260, priority=40, table=1000, scope=0)
    negative = Route(dst, gw, priority=-5)
    steps = [
        step for step, _ in pod_steps(BridgeConfig(), "eth0", INDEX, DUAL.replace(routes=(full, negative)))
    ]
    assert steps[-2:] == [
        new_route(INDEX, dst, gw, priority=40, table=1000, scope=0, mtu=1300, advmss=1260),
        new_route(INDEX, dst, gw),
    ]


def test_what_a_failure_in_the_pod_says() -> None:
    """Each text opens with the reference's words and names the address, interface or route."""
    routes = (Route(CIDR.parse("10.9.0.0/16"), priority=3), Route(CIDR.parse("fd09::/64"), scope=253))
    texts = [text for _, text in pod_steps(BridgeConfig(), "eth0", INDEX, DUAL.replace(routes=routes))]
    assert texts[-5:] == [
        'failed to add IP addr 10.0.0.2/24 to "eth0"',
        'failed to add IP addr fd00::2/64 to "eth0"',
        'failed to set "eth0" UP',
        "failed to add route '10.9.0.0/16 via 10.0.0.1 dev eth0 metric 3'",
        "failed to add route 'fd09::/64 dev eth0 metric 0'",
    ]
    assert "failed to set sysctl net/ipv6/conf/eth0/keep_addr_on_down=1" in texts


# --- On the host ---


def test_a_bridge_that_is_right_is_left_alone() -> None:
    """Only router advertisements are looked at: nothing is written that is so already."""
    assert host(BridgeConfig(), link()) == []
    assert host(BridgeConfig(promisc_mode=True), link(flags=UP | PROMISC)) == []


@pytest.mark.parametrize(
    ("config", "port"),
    [
        (BridgeConfig(hairpin_mode=True), {"hairpin": True, "isolated": False}),
        (BridgeConfig(port_isolation=True), {"hairpin": False, "isolated": True}),
        (BridgeConfig(hairpin_mode=True, port_isolation=True), {"hairpin": True, "isolated": True}),
    ],
)
def test_port_flags(config: BridgeConfig, port: dict[str, bool]) -> None:
    """Hairpin and isolation go to the port in one request; a new port has neither."""
    assert host(config, link()) == [set_port(9, **port)]


@pytest.mark.parametrize(
    ("config", "flags", "promisc"),
    [
        (BridgeConfig(), 0, None),
        (BridgeConfig(), PROMISC, None),
        (BridgeConfig(promisc_mode=True), UP, True),
        (BridgeConfig(promisc_mode=True), 0, True),
        (BridgeConfig(promisc_mode=True), PROMISC, None),
    ],
)
def test_a_bridge_is_set_up_and_promiscuous(config: BridgeConfig, flags: int, promisc: bool | None) -> None:
    """A bridge that is down is set up; promiscMode switches promiscuity on, its absence never off."""
    (step,) = host(config, link(flags=flags))
    assert step in (
        set_link(3, up=True, promisc=promisc),
        set_link(3, up=True, promisc=config.promisc_mode or None),
    )


def test_gateway_addresses() -> None:
    """Old addresses go before new ones come; then the bridge's MAC is pinned to what it was."""
    changes = GatewayPlan((GW4, GW6), (OLD,))
    assert host(BridgeConfig(), link(), changes) == [
        del_address(3, OLD),
        new_address(3, GW4, nodad=True),
        new_address(3, GW6, nodad=True),
        set_link(3, mac=bytes.fromhex("020000000003")),
    ]


def test_the_mac_is_pinned_only_with_a_new_address() -> None:
    """Without one nobody has learnt it yet, or it is pinned already."""
    assert host(BridgeConfig(), link(), GatewayPlan((), ())) == []


def test_a_bridge_without_a_mac_takes_its_first_ports() -> None:
    """A bridge whose last port went shows the MAC zero, which cannot be set: its new port's is pinned."""
    steps = host(BridgeConfig(), link(mac=bytes(6)), GatewayPlan((GW4,)))
    assert steps[-1] == set_link(3, mac=VETH.mac)


@pytest.mark.parametrize(
    ("gateways", "names"),
    [
        ((), []),
        ((GW4,), ["net/ipv4/ip_forward"]),
        ((GW6,), ["net/ipv6/conf/all/forwarding"]),
        ((GW6, GW4, OLD), ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"]),
    ],
)
def test_forwarding(gateways: tuple[CIDR, ...], names: list[str]) -> None:
    """Switched on for the families that the bridge is a gateway of, each once, and it must work."""
    assert forwarding_names(gateways) == names
    steps = early_host_steps("br0", "veth1", gateways)
    assert [step for step, _ in steps[:2]] == [
        Setting(f"net/ipv6/conf/{name}/accept_ra", "0") for name in ("br0", "veth1")
    ]
    assert [step for step, text in steps if text == "failed to enable forwarding"] == [
        Setting(name, "1", required=True) for name in names
    ]


def test_what_a_failure_on_the_host_says() -> None:
    """Each text opens with the reference's words and names what it is about."""
    config = BridgeConfig(hairpin_mode=True, promisc_mode=False)
    steps = early_host_steps("br0", "veth1", (GW4,))
    steps += host_steps(config, link(flags=0), VETH, GatewayPlan((GW4,), (OLD,)))
    assert [text for _, text in steps] == [
        "failed to set accept_ra of br0",
        "failed to set accept_ra of veth1",
        "failed to enable forwarding",
        "failed to setup hairpin mode or isolation for veth1",
        'failed to set "br0" up',
        'could not remove IP address from "br0"',
        'could not add IP address 10.0.0.1/24 to "br0"',
        "could not set bridge's mac",
    ]
