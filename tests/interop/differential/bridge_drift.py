"""An attachment that was changed behind the plugin's back: what CHECK says, and what DEL still takes away."""

from __future__ import annotations

from typing import Any

from differential.bridge_cases import DEFAULT
from differential.case import (
    BRIDGE,
    CURRENT,
    V4,
    V6,
    Case,
    Shell,
    Step,
    add,
    bridge,
    check,
    delete,
)

L3 = bridge(V4, **DEFAULT)
FULL = bridge(
    V4,
    V6,
    **DEFAULT,
    ipMasq=True,
    macspoofchk=True,
    ipam={"routes": [{"dst": "10.98.0.0/16", "gw": "10.40.0.1"}]},
)
DUAL = bridge(V4, V6, **DEFAULT, ipam={"routes": [{"dst": "10.98.0.0/16", "gw": "10.40.0.1"}]})
VETH = f"$(ip -o link show master {BRIDGE} | sed 's/^[0-9]*: \\([^@:]*\\).*/\\1/')"

# What is done → (command, whether in the pod)
DRIFT: dict[str, tuple[str, int]] = {
    "bridge gone": (f"ip link del {BRIDGE}", 0),
    "bridge replaced": (f"ip link del {BRIDGE}; ip link add {BRIDGE} type bridge", 0),
    "bridge replaced by another kind": (
        f"ip link del {BRIDGE}; ip link add {BRIDGE} type veth peer name x",
        0,
    ),
    "bridge renamed": (f"ip link set {BRIDGE} down; ip link set {BRIDGE} name other", 0),
    "bridge with another MAC": (f"ip link set {BRIDGE} address 02:00:00:00:00:99", 0),
    "bridge promiscuous": (f"ip link set {BRIDGE} promisc on", 0),
    "bridge down": (f"ip link set {BRIDGE} down", 0),
    "gateway address gone": (f"ip addr del 10.40.0.1/24 dev {BRIDGE}", 0),
    "forwarding off": ("sysctl -qw net.ipv4.ip_forward=0", 0),
    "host side down": (f"ip link set {VETH} down", 0),
    "host side without bridge": (f"ip link set {VETH} nomaster", 0),
    "host side gone": (f"ip link del {VETH}", 0),
    "host side renamed": (
        f"v={VETH}; ip link set $v down; ip link set $v name renamed; ip link set renamed up",
        0,
    ),
    "host side with another MAC": (f"ip link set {VETH} address 02:00:00:00:00:98", 0),
    "hairpin on": (f"bridge link set dev {VETH} hairpin on", 0),
    "masquerade rules gone": ("iptables -t nat -F; ip6tables -t nat -F", 0),
    "spoof check rules gone": ("nft delete table bridge nat", 0),
    "pod's link gone": ("ip link del eth0", 1),
    "pod's link down": ("ip link set eth0 down", 1),
    "pod's link renamed": ("ip link set eth0 down; ip link set eth0 name eth9; ip link set eth9 up", 1),
    "pod's link of another kind": ("ip link del eth0; ip link add eth0 type bridge", 1),
    "pod's link with another MAC": ("ip link set eth0 address 02:00:00:00:00:97", 1),
    "pod's link with another MTU": ("ip link set eth0 mtu 1400", 1),
    "address gone": ("ip addr del 10.40.0.2/24 dev eth0", 1),
    "IPv6 address gone": ("ip addr del fd40::2/64 dev eth0", 1),
    "address more": ("ip addr add 10.50.0.1/24 dev eth0", 1),
    "address with another length": (
        "ip addr del 10.40.0.2/24 dev eth0; ip addr add 10.40.0.2/16 dev eth0",
        1,
    ),
    "route gone": ("ip route del 10.98.0.0/16", 1),
    "route through another gateway": ("ip route replace 10.98.0.0/16 via 10.40.0.77", 1),
    "default route gone": ("ip route del default", 1),
    "default route through another gateway": ("ip route replace default via 10.40.0.77", 1),
    "IPv6 default route gone": ("ip -6 route del default", 1),
    "connected route gone": ("ip route del 10.40.0.0/24", 1),
    "route more": ("ip route add 10.97.0.0/16 via 10.40.0.1", 1),
}
# Other results than ADD's, by what is different in them.
PREVIOUS: dict[str, tuple[tuple[str, Any], ...]] = {
    "without interfaces": (("interfaces", ...),),
    "without the bridge": (("interfaces/0", ...),),
    "without the host side": (("interfaces/1", ...),),
    "without the pod's interface": (("interfaces/2", ...),),
    "bridge in a sandbox": (("interfaces/0/sandbox", "/x"),),
    "host side in a sandbox": (("interfaces/1/sandbox", "/x"),),
    "pod's interface in another sandbox": (("interfaces/2/sandbox", "/x"),),
    "pod's interface in no sandbox": (("interfaces/2/sandbox", ...),),
    "bridge with another MAC": (("interfaces/0/mac", "02:00:00:00:00:96"),),
    "host side with another MAC": (("interfaces/1/mac", "02:00:00:00:00:96"),),
    "pod's interface with another MAC": (("interfaces/2/mac", "02:00:00:00:00:96"),),
    "host side with another name": (("interfaces/1/name", "nope"),),
    "host side is lo": (("interfaces/1/name", "lo"),),
    "without MACs": tuple((f"interfaces/{n}/mac", ...) for n in range(3)),
    "another address": (("ips/0/address", "10.40.0.99/24"),),
    "another length": (("ips/0/address", "10.40.0.2/16"),),
    "an address more": (("ips/-", {"address": "10.40.0.99/24", "interface": 2, "version": "4"}),),
    "another gateway": (("ips/0/gateway", "10.40.0.99"),),
    "another route": (("routes/-", {"dst": "10.55.0.0/16", "gw": "10.40.0.1"}),),
    "route through another gateway": (("routes/0/gw", "10.40.0.55"),),
    "another default gateway": (("routes/1/gw", "10.40.0.55"),),
    "no addresses": (("ips", ...),),
    "no routes": (("routes", ...),),
    "an interface of the host more": (("interfaces/-", {"name": "lo", "mac": "00:00:00:00:00:00"}),),
    "an interface of the sandbox more": (("interfaces/-", {"name": "net7", "sandbox": "$POD1"}),),
    "another version of the same shape": (("cniVersion", "0.3.1"),),
    "a version of another shape": (("cniVersion", "0.2.0"),),
    "an unknown version": (("cniVersion", "7.0.0"),),
    "no version": (("cniVersion", ...),),
    "no JSON of the right types": (("ips", {}),),
}


def _drifted(command: str, pod: int) -> tuple[Step, ...]:
    return (
        add(FULL),
        Shell(command, pod=pod),
        check(FULL, since="0.4.0"),
        delete(FULL),
        delete(FULL, since="1.0.0"),
    )


def _other_config(title: str, **more: Any) -> tuple[str, Case]:
    return f"config changed: {title}", Case((add(L3), check(L3 | more), delete(L3 | more)))


CASES: dict[str, Case] = {
    **{f"drift: {name}": Case(_drifted(*what), CURRENT) for name, what in DRIFT.items()},
    **dict(
        (
            _other_config("gateway no more", isDefaultGateway=False),
            _other_config("promiscuous", promiscMode=True),
            _other_config("hairpin", hairpinMode=True),
            _other_config("MTU", mtu=1300),
            _other_config("bridge", bridge="other0"),
            _other_config("masquerade", ipMasq=True),
            _other_config("spoof check", macspoofchk=True),
            _other_config("no IPAM", ipam={}),
            _other_config("vlan out of range", vlan=5000),
        )
    ),
    **{
        f"prevResult: {name}": Case((add(DUAL), check(DUAL, edits=edits)), ("0.4.0", "1.0.0"))
        for name, edits in PREVIOUS.items()
    },
    "sandbox gone before CHECK": Case((add(L3), check(L3, netns="$GONE"))),
    "another sandbox at CHECK": Case((add(L3), check(L3, netns="$POD2")), pods=2),
    "another interface at CHECK": Case((add(L3), check(L3, ifname="eth1"))),
    "reservation gone": Case((add(L3), Shell("rm $DATADIR/diffnet/10.40.0.2"), check(L3), delete(L3))),
    "DEL without namespace": Case((add(FULL), delete(FULL, netns=""), delete(FULL))),
    "DEL without namespace, with prevResult": Case((add(FULL), delete(FULL, netns="", prev=True))),
    "DEL with a namespace path that is gone": Case((add(FULL), delete(FULL, netns="$GONE"))),
    "DEL with a file instead of the namespace": Case(
        (add(L3), delete(L3, netns="$FILES/x"), delete(L3)), files=(("x", ""),)
    ),
    "DEL of another interface": Case((add(L3), delete(L3, ifname="eth1"), check(L3))),
    "DEL under another container id": Case((add(L3), delete(L3, container_id="other"))),
    "DEL in another namespace": Case((add(L3), delete(L3, netns="$POD2"), delete(L3)), pods=2),
    "DEL with another bridge": Case((add(L3), delete(L3 | {"bridge": "other0"}))),
    "DEL when the IPAM is missing": Case(
        (add(FULL), delete(FULL | {"ipam": {"type": "nosuch"}}), delete(FULL))
    ),
    "DEL of a link of another kind": Case((Shell("ip link add eth0 type bridge", pod=1), delete(bridge()))),
    "DEL of a veth inside the pod": Case(
        (Shell("ip link add eth0 type veth peer name eth1", pod=1), delete(bridge()))
    ),
}
