"""Ours among the reference's other plugins: before them, asking them, asked by them."""

from __future__ import annotations

from typing import Any

from differential.bridge_cases import DEFAULT
from differential.case import (
    BRIDGE,
    V4,
    V6,
    WITH_INTERFACES,
    Case,
    Config,
    Shell,
    Step,
    add,
    bridge,
    check,
    delete,
    ipam,
)

OLD_AND_NEW = ("0.3.1", "1.0.0", "1.1.0")
DUAL = bridge(V4, V6, **DEFAULT)
MASQUERADED = bridge(V4, V6, **DEFAULT, ipMasq=True)
PORTS = [
    {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
    {"hostPort": 8053, "containerPort": 53, "protocol": "udp", "hostIP": "127.0.0.1"},
]
CHAINED: dict[str, tuple[str, Config]] = {
    "portmap": ("portmap", {"runtimeConfig": {"portMappings": PORTS}}),
    "portmap without SNAT": ("portmap", {"snat": False, "runtimeConfig": {"portMappings": PORTS[:1]}}),
    "portmap with nothing to do": ("portmap", {"runtimeConfig": {"portMappings": []}}),
    "tuning of sysctls": (
        "tuning",
        {"sysctl": {"net.ipv4.conf.eth0.rp_filter": "2", "net.core.somaxconn": "500"}, "dataDir": "$FILES"},
    ),
    "tuning of the link": (
        "tuning",
        {"mac": "02:00:00:00:00:21", "mtu": 1400, "promisc": True, "dataDir": "$FILES"},
    ),
    "firewall": ("firewall", {"backend": "iptables"}),
    "firewall, own chain for administrators": (
        "firewall",
        {"backend": "iptables", "iptablesAdminChainName": "ADMIN"},
    ),
    "bandwidth": ("bandwidth", {"ingressRate": 1000000, "ingressBurst": 100000}),
    "sbr": ("sbr", {}),
}


def _behind(main: Config, plugin: str, config: Config) -> tuple[Step, ...]:
    more: dict[str, Any] = {"plugin": plugin, "prev": True}
    return (
        add(main),
        add(config, **more),
        check(main, since="0.4.0"),
        check(config, plugin=plugin, since="0.4.0"),
        delete(config, **more),
        delete(main, prev=True),
    )


STATIC: dict[str, Config] = {
    "one address": {"addresses": [{"address": "10.40.0.7/24"}]},
    "two families, gateways, routes, DNS": {
        "addresses": [
            {"address": "10.40.0.7/24", "gateway": "10.40.0.1"},
            {"address": "fd40::7/64", "gateway": "fd40::1"},
        ],
        "routes": [{"dst": "10.90.0.0/16", "gw": "10.40.0.9"}, {"dst": "::/0"}],
        "dns": {"nameservers": ["10.40.0.53"], "domain": "a", "search": ["b"], "options": ["c"]},
    },
    "a host address": {"addresses": [{"address": "10.40.0.7/32"}]},
    "no address": {"addresses": []},
    "an address that is none": {"addresses": [{"address": "banana"}]},
}


def _static(config: Config, **more: Any) -> Config:
    return {"bridge": BRIDGE, "ipam": {"type": "static"} | config} | more


def _life(config: Config, **more: Any) -> tuple[Step, ...]:
    return (add(config, **more), check(config, **more, since="0.4.0"), delete(config, **more))


PARENT = Shell(
    "ip link add parent0 address 02:00:00:00:00:31 type veth peer name parent1;"
    "ip link set parent0 up; ip link set parent1 up"
)
FOREIGN: dict[str, tuple[tuple[Step, ...], str, Config]] = {
    "ptp": ((), "ptp", {}),
    "ptp, masqueraded": ((), "ptp", {"ipMasq": True, "mtu": 1400}),
    "bridge": ((), "bridge", {"bridge": BRIDGE, "isGateway": True, "ipMasq": True}),
    "macvlan": ((PARENT,), "macvlan", {"master": "parent0"}),
    "host-device": ((PARENT,), "host-device", {"device": "parent1"}),
}
CASES: dict[str, Case] = {
    **{
        f"{name} behind bridge": Case(_behind(DUAL, plugin, config), OLD_AND_NEW)
        for name, (plugin, config) in CHAINED.items()
    },
    "portmap and firewall behind a masquerading bridge": Case(
        (
            add(MASQUERADED),
            add(CHAINED["portmap"][1], plugin="portmap", prev=True),
            add(CHAINED["firewall"][1], plugin="firewall", prev=True),
            check(MASQUERADED),
            delete(CHAINED["firewall"][1], plugin="firewall", prev=True),
            delete(CHAINED["portmap"][1], plugin="portmap", prev=True),
            delete(MASQUERADED, prev=True),
        ),
        OLD_AND_NEW,
    ),
    **{
        f"bridge asks static: {name}": Case(_life(_static(config)), WITH_INTERFACES)
        for name, config in STATIC.items()
    },
    **{
        f"bridge as default gateway asks static: {name}": Case(_life(_static(config, **DEFAULT)))
        for name, config in STATIC.items()
    },
    "bridge asks static in CNI_ARGS": Case(
        _life(_static({}, **DEFAULT), CNI_ARGS="IgnoreUnknown=1;IP=10.40.0.8/24;GATEWAY=10.40.0.1")
    ),
    "bridge asks the reference's host-local": Case(
        _life(DUAL, path="$REF"), WITH_INTERFACES, ours=("bridge", "loopback")
    ),
    "bridge asks the reference's host-local that refuses": Case(
        _life(bridge("10.40.0.1/24"), path="$REF"), ours=("bridge", "loopback")
    ),
    **{
        f"the reference's {name} asks host-local": Case(
            (
                *before,
                *(
                    step
                    for step in _life(
                        config | ipam(V4, V6, routes=[{"dst": "0.0.0.0/0"}]), plugin=plugin, reference=True
                    )
                ),
            ),
            ("1.0.0", "1.1.0"),
        )
        for name, (before, plugin, config) in FOREIGN.items()
    },
    "the reference's bridge asks a host-local that refuses": Case(
        _life(bridge("10.40.0.1/24"), plugin="bridge", reference=True)
    ),
    "the reference's bridge passes a request on to host-local": Case(
        (
            add(bridge(V4) | {"runtimeConfig": {"ips": ["10.40.0.77/24"]}}, reference=True),
            add(bridge(V4) | {"args": {"cni": {"ips": ["10.40.0.78"]}}}, pod=2, reference=True),
            delete(bridge(V4), reference=True),
        ),
        pods=2,
    ),
}
