"""Where pycni is meant to differ from the recordings of the reference: (case, step) → what instead."""

from __future__ import annotations

from typing import Any

from support.golden import Deviation

_SAME_NAMESPACE = {
    "code": 8,
    "msg": "plugin's netns and netns from CNI_NETNS should not be the same",
}


def _result(*addresses: tuple[str, str], bridge_mac: str, **more: Any) -> dict[str, Any]:
    """The 1.1.0 result of a first pod; `addresses` are pairs of address/length and gateway."""
    interfaces = [
        {"name": "goldbr0", "mac": bridge_mac},
        {"name": "$VETH1", "mac": "$MAC_VETH1"},
        {"name": "eth0", "mac": "$MAC_POD1", "sandbox": "$NETNS"},
    ]
    ips = [{"interface": 2, "address": address, "gateway": gateway} for address, gateway in addresses]
    return {"cniVersion": "1.1.0", "interfaces": interfaces, "ips": ips, **more}


def _detached(pod: str, veth: str, container_id: str, state: dict[str, Any]) -> dict[str, Any]:
    """`state` after what a complete DEL does to a pod's links, routes and rules."""
    del state["host"]["links"][veth]
    del state["host"]["sysctls"][f"ipv6.conf.{veth}.accept_ra"]
    if not any("master" in link for link in state["host"]["links"].values()):
        bridge = state["host"]["links"]["goldbr0"]
        bridge["mac"] = bridge["mac"].replace("$MAC_LOWEST_PORT", "00:00:00:00:00:00")
    state["pods"][pod] = {"links": {"lo": state["pods"][pod]["links"]["lo"]}, "routes": [], "sysctls": {}}
    state["nft"] = [item for item in state["nft"] if container_id not in str(item)]
    return state


def _first_detached(state: dict[str, Any]) -> dict[str, Any]:
    return _detached("$NETNS", "$VETH1", "pod-one", state)


def _second_detached(state: dict[str, Any]) -> dict[str, Any]:
    state = _detached("$NETNS2", "$VETH2", "pod-two", state)
    del state["store"]["goldnet/10.40.0.3"]
    return state


def _both_detached(state: dict[str, Any]) -> dict[str, Any]:
    state = _first_detached(_second_detached(state))
    del state["store"]["goldnet/10.40.0.2"]
    return state


def _with_metrics(state: dict[str, Any]) -> dict[str, Any]:
    metrics = {
        "10.91.0.0/16": {"mtu": 1300},
        "10.92.0.0/16": {"advmss": 1240},
        "10.95.0.0/16": {"mtu": 1301, "advmss": 1201},
        "fd91::/64": {"mtu": 1300},
        "fd93::/64": {"advmss": 1220},
    }
    for route in state["pods"]["$NETNS"]["routes"]:
        route |= metrics.get(route["dst"], {})
    return state


def _with_second_gateway(state: dict[str, Any]) -> dict[str, Any]:
    gateway = {"address": "10.41.0.1/24", "broadcast": "10.41.0.255", "scope": "global"}
    state["host"]["links"]["goldbr0"]["addresses"].append(gateway)
    route = state["host"]["routes"][0]
    state["host"]["routes"].append(route | {"dst": "10.41.0.0/24", "prefsrc": "10.41.0.1"})
    state["host"]["sysctls"]["ipv4.ip_forward"] = "1"
    state["store"] |= {"goldnet/10.40.0.2": "pod-one\r\neth0", "goldnet/10.41.0.2": "pod-one\r\neth0"}
    return state


def _as_default_gateway(state: dict[str, Any]) -> dict[str, Any]:
    bridge = state["host"]["links"]["goldbr0"]
    bridge["mac"] = "$MAC_BRIDGE1"
    bridge["addresses"] = [{"address": "10.40.0.1/24", "broadcast": "10.40.0.255", "scope": "global"}]
    (route,) = (route for route in state["pods"]["$NETNS"]["routes"] if route["dst"] == "10.40.0.0/24")
    state["host"]["routes"] = [route | {"dev": "goldbr0", "prefsrc": "10.40.0.1"}]
    state["host"]["sysctls"]["ipv4.ip_forward"] = "1"
    state["store"]["goldnet/10.40.0.2"] = "pod-one\r\neth0"
    return state


def _with_link_route(state: dict[str, Any]) -> dict[str, Any]:
    route = {
        "family": 4,
        "dst": "10.94.0.7",
        "dev": "eth0",
        "table": "main",
        "protocol": "boot",
        "scope": "link",
    }
    state["pods"]["$NETNS"]["routes"].append(route)
    state["store"]["goldnet/10.40.0.2"] = "pod-one\r\neth0"
    return state


def _loopback(version: str) -> dict[str, Any]:
    """The result of loopback in the shape of an old version."""
    if version in ("0.1.0", "0.2.0"):
        return {"cniVersion": version, "ip4": {"ip": "127.0.0.1/8"}, "ip6": {"ip": "::1/128"}, "dns": {}}
    interfaces = [{"name": "lo", "mac": "00:00:00:00:00:00", "sandbox": "$NETNS"}]
    ips = [
        {"version": "4", "interface": 0, "address": "127.0.0.1/8"},
        {"version": "6", "interface": 0, "address": "::1/128"},
    ]
    return {"cniVersion": version, "interfaces": interfaces, "ips": ips, "dns": {}}


_NOTHING_LEFT = "a failed ADD leaves nothing behind"
_AFTER_NOTHING = "there is nothing left of the failed ADD, not even a bridge"

DEVIATIONS: dict[tuple[str, int], Deviation] = {
    ("bridge-layer2-1.1.0", 2): Deviation("CHECK asks no IPAM where there is none", succeeds=True),
    ("bridge-layer2-version-0.2.0", 1): Deviation(_NOTHING_LEFT, unchanged=True),
    ("bridge-layer2-version-0.2.0", 2): Deviation(_AFTER_NOTHING, unchanged=True),
    ("check-drift-missed", 3): Deviation(
        "CHECK sees that the gateway's address and the rules are gone",
        error={"code": 999, "details": "10.40.0.1"},
    ),
    ("gateway-address-conflict", 1): Deviation(
        _NOTHING_LEFT,
        unchanged=True,
        state={"store": {"goldnet/last_reserved_ip.0": "10.40.0.2", "goldnet/lock": ""}},
    ),
    ("gateway-address-conflict", 2): Deviation("the bridge was left as it was, down", unchanged=True),
    ("gateway-two-ipv4-ranges", 1): Deviation(
        "one result may have gateways in several subnets",
        succeeds=True,
        result=_result(
            ("10.40.0.2/24", "10.40.0.1"), ("10.41.0.2/24", "10.41.0.1"), bridge_mac="$MAC_BRIDGE1"
        ),
        state=_with_second_gateway,
    ),
    ("gc-does-nothing", 3): Deviation("GC removes what is not valid", state=_second_detached),
    ("gc-does-nothing", 4): Deviation("the attachment is gone already", state=_second_detached),
    ("gc-does-nothing", 5): Deviation("GC removes what is not valid", state=_both_detached),
    ("gc-does-nothing", 6): Deviation("the attachments are gone already", state=_both_detached),
    ("guard-own-namespace-bridge", 1): Deviation(
        "compared before anything is touched", error=_SAME_NAMESPACE, unchanged=True
    ),
    ("guard-own-namespace-loopback", 1): Deviation(
        "compared before anything is touched, one document on stdout", error=_SAME_NAMESPACE, unchanged=True
    ),
    ("guard-own-namespace-loopback", 2): Deviation("compared before anything is touched", unchanged=True),
    ("guard-own-namespace-loopback", 4): Deviation(
        "compared before anything is touched, one document on stdout", error=_SAME_NAMESPACE, unchanged=True
    ),
    ("ipam-error-passed-through", 1): Deviation(_NOTHING_LEFT, unchanged=True),
    ("ipam-without-addresses", 1): Deviation(_NOTHING_LEFT, unchanged=True),
    **{
        ("loopback-each-version", step): Deviation(
            "converted to the config's version", result=_loopback(version)
        )
        for step, version in ((3, "0.1.0"), (5, "0.2.0"), (7, "0.3.0"), (9, "0.3.1"), (11, "0.4.0"))
    },
    ("macspoofchk-del-netns-path-missing", 2): Deviation(
        "DEL needs no namespace to find rules and link", state=_first_detached
    ),
    ("macspoofchk-undone-on-ipam-failure", 1): Deviation(_NOTHING_LEFT, unchanged=True),
    ("masq-nftables-del-netns-path-missing", 2): Deviation(
        "DEL needs no namespace to find rules and link", state=_first_detached
    ),
    ("masq-nftables-del-without-netns", 2): Deviation(
        "DEL needs no namespace to find rules and link", state=_first_detached
    ),
    ("route-attributes-1.1.0", 1): Deviation("mtu and advmss reach the kernel", state=_with_metrics),
    ("route-attributes-1.1.0", 2): Deviation(
        "CHECK looks in the route's own table", succeeds=True, state=_with_metrics
    ),
    ("route-attributes-ipv6", 1): Deviation("mtu and advmss reach the kernel", state=_with_metrics),
    ("route-attributes-older-versions", 3): Deviation("mtu and advmss reach the kernel", state=_with_metrics),
    ("route-attributes-older-versions", 5): Deviation("mtu and advmss reach the kernel", state=_with_metrics),
    ("route-default-from-ipam-without-gw", 1): Deviation(
        "a default route without gateway is the default gateway's",
        succeeds=True,
        result=_result(
            ("10.40.0.2/24", "10.40.0.1"),
            bridge_mac="$MAC_BRIDGE1",
            routes=[{"dst": "0.0.0.0/0", "gw": "10.40.0.1"}],
        ),
        state=_as_default_gateway,
    ),
    ("route-scope-link", 1): Deviation(
        "a route of scope link goes through no gateway",
        succeeds=True,
        result=_result(
            ("10.40.0.2/24", "10.40.0.1"),
            bridge_mac="$MAC_LOWEST_PORT",
            routes=[{"dst": "10.94.0.7/32", "scope": 253}],
        ),
        state=_with_link_route,
    ),
    ("status-errors", 2): Deviation(
        "a plugin that is not there is not ready (code 50 of the spec)",
        error={"code": 50, "msg": 'failed to find plugin "nosuch" in path [$BIN]'},
    ),
    ("error-ipmasq-backend", 1): Deviation(
        "the config is checked before anything is touched", unchanged=True
    ),
    ("status-errors", 4): Deviation(
        "a plugin is not ready for a config that its ADD refuses",
        error={"code": 999, "msg": "invalid VLAN ID 9999 (must be between 0 and 4094)"},
    ),
    **{
        (f"version-{plugin}", step): Deviation(
            "our own version",
            stderr=rf"CNI {plugin} plugin \S+ \(pycni\)\n"
            r"CNI protocol versions supported: (0\.\d\.\d, ){5}1\.0\.0, 1\.1\.0\n",
        )
        for plugin in ("bridge", "host-local", "loopback")
        for step in (1, 4)
    },
}
