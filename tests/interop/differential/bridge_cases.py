"""The bridge plugin with host-local: every key, the lives of pods, what goes wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

from differential.case import (
    V4,
    V6,
    VERSIONS,
    WITH_INTERFACES,
    Case,
    bridge,
    life,
    subnet,
)

if TYPE_CHECKING:
    from differential.case import Config

GATEWAY = {"isGateway": True}
DEFAULT = {"isDefaultGateway": True}
MAC = "02:00:00:00:00:07"

# Option → config: each lives its life in every version, and is handed from one implementation to the other.
OPTIONS: dict[str, Config] = {
    "layer 3 without gateway": bridge(V4),
    "gateway": bridge(V4, **GATEWAY),
    "default gateway": bridge(V4, **DEFAULT),
    "IPv6": bridge(V6, **DEFAULT),
    "dual stack": bridge(V4, V6, **DEFAULT),
    "dual stack, IPv6 first": bridge(V6, V4, **DEFAULT),
    "gateway elsewhere in the subnet": bridge([subnet(V4, gateway="10.40.0.254")], **DEFAULT),
    "routes": bridge(
        V4,
        V6,
        **GATEWAY,
        ipam={
            "routes": [
                {"dst": "10.90.0.0/16"},
                {"dst": "10.91.0.0/16", "gw": "10.40.0.9"},
                {"dst": "fd90::/64"},
            ]
        },
    ),
    "default routes of the IPAM": bridge(
        V4, V6, **GATEWAY, ipam={"routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}
    ),
    "default route of the IPAM beside the default gateway": bridge(
        V4, **DEFAULT, ipam={"routes": [{"dst": "0.0.0.0/0", "gw": "10.40.0.7"}]}
    ),
    "MTU": bridge(V4, **DEFAULT, mtu=1400),
    "hairpin": bridge(V4, **DEFAULT, hairpinMode=True),
    "promiscuous": bridge(V4, **DEFAULT, promiscMode=True),
    "MAC by capability": bridge(V4, **DEFAULT, runtimeConfig={"mac": MAC}),
    "MAC by args": bridge(V4, **DEFAULT, args={"cni": {"mac": MAC}}),
    "masquerade": bridge(V4, **DEFAULT, ipMasq=True),
    "masquerade, IPv6": bridge(V6, **DEFAULT, ipMasq=True),
    "masquerade, dual stack": bridge(V4, V6, **DEFAULT, ipMasq=True),
    "masquerade without gateway": bridge(V4, ipMasq=True),
    "spoof check": bridge(V4, **DEFAULT, macspoofchk=True),
    "spoof check and masquerade": bridge(V4, V6, **DEFAULT, macspoofchk=True, ipMasq=True),
    "DNS": bridge(
        V4, **DEFAULT, dns={"nameservers": ["10.40.0.53"], "domain": "a", "search": ["b"], "options": ["c"]}
    ),
    "resolver file": bridge(V4, **DEFAULT, ipam={"resolvConf": "$FILES/resolv.conf"}),
    "DNS over a resolver file": bridge(
        V4, **DEFAULT, dns={"domain": "a"}, ipam={"resolvConf": "$FILES/resolv.conf"}
    ),
    "forceAddress": bridge(V4, **DEFAULT, forceAddress=True),
    "everything off in so many words": bridge(
        V4,
        isGateway=False,
        isDefaultGateway=False,
        forceAddress=False,
        ipMasq=False,
        mtu=0,
        hairpinMode=False,
        promiscMode=False,
        vlan=0,
        macspoofchk=False,
        enabledad=False,
    ),
}
LAYER2: dict[str, Config] = {
    "layer 2": bridge(),
    "layer 2, ipam empty": bridge() | {"ipam": {}},
    "layer 2, hairpin": bridge(hairpinMode=True),
    "layer 2, MTU": bridge(mtu=9000),
    "layer 2, gateway asked for": bridge(**DEFAULT, ipMasq=True),
    "layer 2, spoof check": bridge(macspoofchk=True),
    "layer 2, MAC by CNI_ARGS": bridge(),
}
FILES = (("resolv.conf", "nameserver 10.40.0.54\ndomain d\nsearch e f\noptions g\n"),)


def _lives() -> dict[str, Case]:
    cases = {name: Case(life(config), VERSIONS, files=FILES) for name, config in OPTIONS.items()}
    for name, config in LAYER2.items():
        more = {"CNI_ARGS": f"IgnoreUnknown=1;MAC={MAC}"} if "CNI_ARGS" in name else {}
        cases[name] = Case(life(config, **more), WITH_INTERFACES)
    return cases


CASES: dict[str, Case] = _lives()
