"""What the bridge plugin refuses, or meets on its way: bad keys, bad sandboxes, failing delegates."""

from __future__ import annotations

from typing import Any

from differential.bridge_cases import DEFAULT, GATEWAY
from differential.case import V4, V6, Case, Config, Shell, Step, add, bridge, check, delete, subnet

L3 = bridge(V4, **DEFAULT)


def _refused(config: Config, **more: Any) -> tuple[Step, ...]:
    return (add(config, **more), delete(config, **more))


WRONG_TYPES: dict[str, Any] = {
    "bridge": 5,
    "isGateway": "true",
    "isDefaultGateway": 1,
    "forceAddress": "no",
    "ipMasq": "yes",
    "mtu": "1500",
    "hairpinMode": 1,
    "promiscMode": "on",
    "vlan": "100",
    "macspoofchk": "true",
    "enabledad": 0,
    "ipam": "host-local",
    "dns": "10.0.0.1",
    "args": "x",
    "runtimeConfig": [],
}
CONFIGS: dict[str, Config] = {
    **{f"{key} of a wrong type": L3 | {key: value} for key, value in WRONG_TYPES.items()},
    "mtu is a fraction": L3 | {"mtu": 1400.5},
    "ipam.type is a number": L3 | {"ipam": {"type": 5}},
    "dns.nameservers is a text": L3 | {"dns": {"nameservers": "10.0.0.1"}},
    "hairpin and promiscuous": bridge(V4, hairpinMode=True, promiscMode=True),
    "vlan 4095": bridge(V4, vlan=4095),
    "vlan -1": bridge(V4, vlan=-1),
    "bridge without name": L3 | {"bridge": ""},
    "bridge name too long": L3 | {"bridge": "sixteen-letters-"},
    "bridge name with a slash": L3 | {"bridge": "a/b"},
    "bridge name with a blank": L3 | {"bridge": "a b"},
    "bridge name of dots": L3 | {"bridge": ".."},
    "not a bridge": L3 | {"bridge": "lo"},
    "MTU too small": bridge(V4, mtu=60),
    "MTU too large": bridge(V4, mtu=70000),
    "MTU negative": bridge(V4, mtu=-5),
    "MAC no MAC": bridge(V4, runtimeConfig={"mac": "zz"}),
    "MAC of a group": bridge(V4, runtimeConfig={"mac": "01:00:5e:00:00:01"}),
    "MAC zero": bridge(V4, runtimeConfig={"mac": "00:00:00:00:00:00"}),
    "MAC of eight bytes": bridge(V4, runtimeConfig={"mac": "02:00:00:00:00:00:00:01"}),
    "MAC with dashes": bridge(V4, runtimeConfig={"mac": "02-00-00-00-00-0A"}),
    "MAC with dots": bridge(V4, runtimeConfig={"mac": "0200.0000.000b"}),
    "MAC empty": bridge(V4, runtimeConfig={"mac": ""}),
    "MACs of two sources": bridge(
        V4, args={"cni": {"mac": "02:00:00:00:00:0c"}}, runtimeConfig={"mac": "02:00:00:00:00:0d"}
    ),
    "no such delegate": L3 | {"ipam": {"type": "nosuch"}},
    "delegate with a slash": L3 | {"ipam": {"type": "a/b"}},
    "delegate is a folder": L3 | {"ipam": {"type": "."}},
    "delegate of an empty type": L3 | {"ipam": {"type": ""}},
    "ipam null": L3 | {"ipam": None},
    "delegate refuses its config": bridge(V4, ipam={"ranges": []}),
    "delegate refuses its ranges": bridge("10.40.0.1/24"),
    "delegate finds no file": bridge(V4, ipam={"resolvConf": "/nonexistent"}),
    "subnet of one gateway and one pod": bridge("10.40.0.0/30", **GATEWAY),
    "gateway of the other family": bridge([subnet(V4, gateway="fd00::1")], **GATEWAY),
    "gateway elsewhere": bridge([subnet(V4, gateway="192.0.2.1")], **DEFAULT),
    "route with host bits": bridge(V4, **GATEWAY, ipam={"routes": [{"dst": "10.9.1.2/16"}]}),
    "route through nowhere": bridge(
        V4, **GATEWAY, ipam={"routes": [{"dst": "10.9.0.0/16", "gw": "192.0.2.1"}]}
    ),
    "route twice": bridge(V4, **GATEWAY, ipam={"routes": [{"dst": "10.9.0.0/16"}, {"dst": "10.9.0.0/16"}]}),
    "route to one place through two gateways": bridge(
        V4,
        **GATEWAY,
        ipam={
            "routes": [{"dst": "10.9.0.0/16", "gw": "10.40.0.1"}, {"dst": "10.9.0.0/16", "gw": "10.40.0.9"}]
        },
    ),
    "IPv6 route to one place through two gateways": bridge(
        V6,
        **GATEWAY,
        ipam={"routes": [{"dst": "fd09::/64", "gw": "fd40::1"}, {"dst": "fd09::/64", "gw": "fd40::9"}]},
    ),
    "IPv6 route in an IPv4 pod": bridge(V4, **GATEWAY, ipam={"routes": [{"dst": "fd09::/64"}]}),
    "IPv6 route through an IPv4 gateway": bridge(
        V4, **GATEWAY, ipam={"routes": [{"dst": "fd09::/64", "gw": "10.40.0.1"}]}
    ),
    "default route of the IPAM without gateway beside the default gateway": bridge(
        V4, **DEFAULT, ipam={"routes": [{"dst": "0.0.0.0/0"}]}
    ),
    "name servers empty over a resolver file": bridge(
        V4, dns={"nameservers": []}, ipam={"resolvConf": "$FILES/resolv.conf"}
    ),
    "keys that only newer releases know": bridge(
        disableContainerInterface=True, portIsolation=True, preserveDefaultVlan=False
    ),
    "portIsolation": bridge(V4, **GATEWAY, portIsolation=True),
    "disableContainerInterface": bridge(disableContainerInterface=True),
    "disableContainerInterface beside an IPAM": bridge(V4, disableContainerInterface=True),
    "ipMasqBackend unknown": bridge(V4, ipMasq=True, ipMasqBackend="pf"),
    "ipMasqBackend iptables": bridge(V4, **DEFAULT, ipMasq=True, ipMasqBackend="iptables"),
    "ipMasqBackend nftables": bridge(V4, **DEFAULT, ipMasq=True, ipMasqBackend="nftables"),
}
ARGS = ("foo", "MAC=1;", "X=1", "mac=02:00:00:00:00:01", "MAC=zz", "IgnoreUnknown=yes", "IP=10.40.0.9")
ARGS_OK = (
    "IgnoreUnknown=1;X=1",
    "IgnoreUnknown=TRUE;K8S_POD_NAME=a;K8S_POD_NAMESPACE=b",
    "IgnoreUnknown=0",
    "",
)
SANDBOXES: dict[str, Case] = {
    "sandbox missing": Case(_refused(L3, netns="$GONE")),
    "sandbox is a file": Case(_refused(L3, netns="$FILES/resolv.conf"), files=(("resolv.conf", ""),)),
    "sandbox is another kind of namespace": Case(_refused(L3, netns="/proc/self/ns/uts")),
    "sandbox by a link": Case(
        (
            Shell("ln -s $POD1 $FILES/link"),
            add(L3, netns="$FILES/link"),
            check(L3, netns="$FILES/link"),
            delete(L3, netns="$FILES/link"),
        )
    ),
    "interface taken by another kind of link": Case(
        (Shell("ip link add eth0 type bridge", pod=1), add(L3), add(bridge()))
    ),
    "ADD twice": Case((add(L3), add(L3), check(L3), delete(L3))),
    "ADD twice, layer 2": Case((add(bridge()), add(bridge()), delete(bridge()))),
    "CHECK without ADD": Case((check(L3),)),
    "CHECK without ADD, layer 2": Case((check(bridge()),)),
    "CHECK without prevResult": Case((add(L3), check(L3, prev=False))),
    "DEL without ADD": Case(
        (delete(L3), delete(bridge()), delete(L3 | {"ipMasq": True, "macspoofchk": True}))
    ),
    "ranges used up": Case(
        (
            add(bridge("10.40.0.0/30", **GATEWAY)),
            add(bridge("10.40.0.0/30", **GATEWAY), pod=2),
            delete(bridge("10.40.0.0/30", **GATEWAY), pod=2),
            check(bridge("10.40.0.0/30", **GATEWAY)),
        ),
        pods=2,
    ),
    "layer 2 in a version that needs addresses": Case((add(bridge()), delete(bridge())), ("0.1.0", "0.2.0")),
    "no version": Case((add(L3 | {"cniVersion": ...}), delete(L3 | {"cniVersion": ...}))),
    "CNI_PATH leads nowhere": Case((add(L3, path="/nowhere"), delete(L3, path="/nowhere"))),
    "CNI_PATH of several folders": Case(
        (add(L3, path="/nowhere:$FILES:$BIN"), delete(L3, path="$BIN:/nowhere"))
    ),
    "prevResult at ADD": Case(
        (add(L3 | {"prevResult": {"cniVersion": "1.0.0", "ips": [{"address": "10.9.9.9/24"}]}}), delete(L3))
    ),
    "bad prevResult at DEL": Case((add(L3), delete(L3 | {"prevResult": {"ips": 5}}))),
    "bad vlan at DEL": Case((add(L3), delete(L3 | {"vlan": 5000}))),
    "bad CNI_ARGS at DEL": Case((add(L3), delete(L3, CNI_ARGS="x"))),
    "key of a wrong type at DEL": Case((add(L3), delete(L3 | {"mtu": "x"}))),
}
CASES: dict[str, Case] = {
    **{
        name: Case(_refused(config), files=(("resolv.conf", "nameserver 10.0.0.53\n"),))
        for name, config in CONFIGS.items()
    },
    **{f"CNI_ARGS {text!r}": Case(_refused(L3, CNI_ARGS=text)) for text in (*ARGS, *ARGS_OK)},
    **{f"layer 2, CNI_ARGS {text!r}": Case(_refused(bridge(), CNI_ARGS=text)) for text in ARGS},
    **SANDBOXES,
}
