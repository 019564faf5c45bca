"""The bridge plugin over longer stretches: several pods, interfaces and networks, and what others do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from differential.bridge_cases import DEFAULT, GATEWAY, MAC
from differential.case import (
    BRIDGE,
    V4,
    V6,
    WITH_CHECK,
    WITH_INTERFACES,
    Case,
    Shell,
    add,
    bridge,
    check,
    delete,
    ipam,
)

if TYPE_CHECKING:
    pass

L3 = bridge(V4, **DEFAULT)
DUAL = bridge(V4, V6, **DEFAULT)
MASQUERADED = bridge(V4, V6, **DEFAULT, ipMasq=True)
CHECKED = bridge(V4, **DEFAULT, macspoofchk=True)
OTHER = bridge("10.41.0.0/24", **DEFAULT) | {"name": "othernet", "bridge": "otherbr0"}

SEVERAL: dict[str, Case] = {
    "two pods": Case(
        (
            add(DUAL),
            add(DUAL, pod=2),
            check(DUAL, since="0.4.0"),
            check(DUAL, pod=2, since="0.4.0"),
            delete(DUAL),
            delete(DUAL, pod=2),
        ),
        WITH_INTERFACES,
        pods=2,
    ),
    "three pods, an address comes back": Case(
        (
            add(L3),
            add(L3, pod=2),
            delete(L3),
            add(L3, pod=3),
            add(L3),
            check(L3, pod=2),
            delete(L3, pod=3),
            delete(L3, pod=2),
            delete(L3),
        ),
        pods=3,
    ),
    "two interfaces on two networks": Case(
        (
            add(L3),
            add(OTHER, ifname="net1"),
            check(L3),
            delete(OTHER, ifname="net1"),
            check(L3),
            delete(L3),
        )
    ),
    "two interfaces on one network": Case(
        (
            add(bridge(V4, **GATEWAY)),
            add(bridge(V4, **GATEWAY), ifname="net1"),
            delete(bridge(V4, **GATEWAY)),
            delete(bridge(V4, **GATEWAY), ifname="net1"),
        )
    ),
    "two masqueraded interfaces on one network": Case(
        (
            add(bridge(V4, **GATEWAY, ipMasq=True)),
            add(bridge(V4, **GATEWAY, ipMasq=True), ifname="net1"),
            delete(bridge(V4, **GATEWAY, ipMasq=True)),
            delete(bridge(V4, **GATEWAY, ipMasq=True), ifname="net1"),
        )
    ),
    "two masqueraded interfaces on one network, DEL with prevResult": Case(
        (
            add(bridge(V4, **GATEWAY, ipMasq=True)),
            add(bridge(V4, **GATEWAY, ipMasq=True), ifname="net1"),
            delete(bridge(V4, **GATEWAY, ipMasq=True), prev=True),
            delete(bridge(V4, **GATEWAY, ipMasq=True), ifname="net1", prev=True),
        )
    ),
    "another interface name": Case(
        (add(L3, ifname="net1.5"), check(L3, ifname="net1.5"), delete(L3, ifname="net1.5"))
    ),
    "two networks on one bridge, one gateway": Case(
        (add(L3), add(L3 | {"name": "othernet"} | ipam(V4, dataDir="$DATADIR/o"), pod=2, ifname="net1")),
        pods=2,
    ),
    "two networks on one bridge, another gateway": Case(
        (add(L3), add(bridge("10.41.0.0/24", **DEFAULT) | {"name": "othernet"}, pod=2), delete(L3)), pods=2
    ),
    "two networks on one bridge, another gateway by force": Case(
        (
            add(L3),
            add(bridge("10.41.0.0/24", **DEFAULT, forceAddress=True) | {"name": "othernet"}, pod=2),
            delete(L3),
        ),
        pods=2,
    ),
    "another length of the gateway's subnet": Case(
        (add(L3), add(bridge("10.40.0.0/16", **DEFAULT) | {"name": "othernet"}, pod=2)), pods=2
    ),
    "IPv6 gateways that overlap": Case(
        (
            add(bridge("fd40:0:1::/48", **GATEWAY)),
            add(bridge("fd40:0:1:2::/64", **GATEWAY) | {"name": "othernet"}, pod=2),
        ),
        pods=2,
    ),
    "IPv6 gateways that overlap, by force": Case(
        (
            add(bridge("fd40:0:1::/48", **GATEWAY)),
            add(bridge("fd40:0:1:2::/64", **GATEWAY, forceAddress=True) | {"name": "othernet"}, pod=2),
        ),
        pods=2,
    ),
    "IPv6 gateways apart": Case(
        (
            add(bridge("fd40::/64", **GATEWAY)),
            add(bridge("fd41::/64", **GATEWAY, forceAddress=True) | {"name": "othernet"}, pod=2),
        ),
        pods=2,
    ),
    "gateway after a layer 2 pod": Case(
        (add(bridge()), add(L3, pod=2), delete(bridge()), check(L3, pod=2), delete(L3, pod=2)), pods=2
    ),
    "layer 2 pod after a gateway": Case(
        (add(L3), add(bridge(), pod=2), delete(L3), delete(bridge(), pod=2)), pods=2
    ),
    "two layer 2 pods": Case((add(bridge()), add(bridge(), pod=2), delete(bridge())), pods=2),
    "hairpin beside none": Case(
        (add(bridge(V4, hairpinMode=True)), add(bridge(V4), pod=2), check(bridge(V4), pod=2)), pods=2
    ),
    "two IPv6 sets": Case(
        (
            add(bridge(V4, V6, "fd41::/64", **DEFAULT)),
            check(bridge(V4, V6, "fd41::/64", **DEFAULT), since="0.4.0"),
            delete(bridge(V4, V6, "fd41::/64", **DEFAULT)),
        ),
        ("0.1.0", "0.2.0", *WITH_INTERFACES),
    ),
    "two IPv4 sets without gateway": Case(
        (
            add(bridge(V4, "10.41.0.0/24")),
            check(bridge(V4, "10.41.0.0/24")),
            delete(bridge(V4, "10.41.0.0/24")),
        )
    ),
    "two IPv4 sets with gateways": Case((add(bridge(V4, "10.41.0.0/24", **GATEWAY)),)),
    "masqueraded pods": Case(
        (
            add(MASQUERADED),
            add(MASQUERADED, pod=2),
            delete(MASQUERADED),
            check(MASQUERADED, pod=2),
            delete(MASQUERADED, pod=2),
        ),
        pods=2,
    ),
    "spoof-checked pods": Case(
        (add(CHECKED), add(CHECKED, pod=2), delete(CHECKED), check(CHECKED, pod=2), delete(CHECKED, pod=2)),
        pods=2,
    ),
    "duplicate address detection": Case(
        (
            add(bridge(V4, V6, **GATEWAY, enabledad=True)),
            check(bridge(V4, V6, **GATEWAY, enabledad=True)),
            delete(bridge(V4, V6, **GATEWAY, enabledad=True)),
        )
    ),
    "default bridge": Case((add(DUAL | {"bridge": ...}), delete(DUAL | {"bridge": ...}))),
    "long names": Case(
        (
            add(MASQUERADED | {"name": "n" * 100}, container_id="c" * 64),
            check(MASQUERADED | {"name": "n" * 100}, container_id="c" * 64),
            delete(MASQUERADED | {"name": "n" * 100}, container_id="c" * 64),
        )
    ),
    "DEL with prevResult": Case(
        (add(MASQUERADED), delete(MASQUERADED, prev=True), delete(MASQUERADED, prev=True)), WITH_CHECK
    ),
}
FOUND: dict[str, Case] = {
    "bridge of an administrator, down": Case(
        (Shell(f"ip link add {BRIDGE} type bridge"), add(L3), delete(L3))
    ),
    "bridge of an administrator, up, MTU 9000": Case(
        (Shell(f"ip link add {BRIDGE} mtu 9000 type bridge; ip link set {BRIDGE} up"), add(L3), delete(L3))
    ),
    "bridge with a MAC of its own": Case(
        (Shell(f"ip link add {BRIDGE} address {MAC} type bridge"), add(L3), check(L3), delete(L3))
    ),
    "bridge with a MAC of its own, layer 2": Case(
        (Shell(f"ip link add {BRIDGE} address {MAC} type bridge"), add(bridge()), delete(bridge()))
    ),
    "bridge with the gateway's address": Case(
        (
            Shell(f"ip link add {BRIDGE} type bridge; ip addr add 10.40.0.1/24 dev {BRIDGE}"),
            add(L3),
            delete(L3),
        )
    ),
    "bridge with another address, no gateway asked for": Case(
        (Shell(f"ip link add {BRIDGE} type bridge; ip addr add 10.9.0.1/24 dev {BRIDGE}"), add(bridge(V4)))
    ),
    "bridge with another address": Case(
        (Shell(f"ip link add {BRIDGE} type bridge; ip addr add 10.9.0.1/24 dev {BRIDGE}"), add(L3))
    ),
    "bridge with two other addresses, by force": Case(
        (
            Shell(
                f"ip link add {BRIDGE} type bridge; ip addr add 10.9.0.1/24 dev {BRIDGE};"
                f"ip addr add 10.8.0.1/24 dev {BRIDGE}; ip addr add fd09::1/64 dev {BRIDGE}"
            ),
            add(bridge(V4, V6, **DEFAULT, forceAddress=True)),
        )
    ),
    "bridge with a port": Case(
        (
            Shell(
                f"ip link add {BRIDGE} type bridge;"
                f"ip link add port0 address {MAC} type veth peer name port1;"
                f"ip link set port0 master {BRIDGE} up; ip link set port1 up"
            ),
            add(L3),
            check(L3),
            delete(L3),
        )
    ),
    "promiscuous bridge": Case(
        (
            Shell(f"ip link add {BRIDGE} type bridge; ip link set {BRIDGE} promisc on"),
            add(L3),
            check(L3),
            delete(L3),
        )
    ),
    "promiscuous mode twice": Case(
        (
            add(bridge(V4, **GATEWAY, promiscMode=True)),
            add(bridge(V4, **GATEWAY, promiscMode=True), pod=2),
            check(bridge(V4, **GATEWAY, promiscMode=True)),
            delete(bridge(V4, **GATEWAY, promiscMode=True)),
        ),
        pods=2,
    ),
    "forwarding is on": Case(
        (Shell("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1"), add(DUAL))
    ),
    "IPv6 off in the pod": Case(
        (
            Shell("sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1", pod=1),
            add(DUAL),
        )
    ),
    "IPv6 off on the host": Case(
        (
            Shell("sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1"),
            add(L3),
            delete(L3),
        )
    ),
    "lo of the pod up": Case((Shell("ip link set lo up", pod=1), add(L3), delete(L3))),
    "rules of others": Case(
        (
            Shell(
                "iptables -t nat -A POSTROUTING -s 10.1.1.1 -j ACCEPT; iptables -A FORWARD -j ACCEPT;"
                "nft add table bridge nat;"
                "nft add chain bridge nat PREROUTING '{type filter hook prerouting priority -300;}';"
                "nft add rule bridge nat PREROUTING accept comment '\"theirs\"'"
            ),
            add(bridge(V4, **DEFAULT, ipMasq=True, macspoofchk=True)),
            delete(bridge(V4, **DEFAULT, ipMasq=True, macspoofchk=True)),
        )
    ),
}
CASES: dict[str, Case] = SEVERAL | FOUND
