"""The loopback plugin, alone and in a chain."""

from __future__ import annotations

from typing import Any

from differential.case import VERSIONS, WITH_CHECK, Case, Config, Shell, Step, call

LO: Config = {}
PREVIOUS: dict[str, Any] = {
    "0.1.0": {
        "cniVersion": "0.1.0",
        "ip4": {"ip": "10.1.2.3/24", "gateway": "10.1.2.1", "routes": [{"dst": "0.0.0.0/0"}]},
        "ip6": {"ip": "fd00::3/64", "routes": [{"dst": "::/0", "gw": "fd00::1"}]},
        "dns": {"nameservers": ["10.1.2.53"]},
    },
    "0.2.0": {"cniVersion": "0.2.0", "ip4": {"ip": "10.1.2.3/24"}, "dns": {}},
    "0.3.0": {
        "cniVersion": "0.3.0",
        "interfaces": [{"name": "br0", "mac": "02:00:00:00:00:01"}, {"name": "eth0", "sandbox": "/x"}],
        "ips": [{"version": "4", "interface": 1, "address": "10.1.2.3/24", "gateway": "10.1.2.1"}],
        "routes": [{"dst": "0.0.0.0/0"}],
        "dns": {"domain": "a", "search": ["b"], "options": ["c"]},
    },
    "0.3.1": {"cniVersion": "0.3.1", "ips": [{"version": "6", "address": "fd00::3/64"}], "dns": {}},
    "0.4.0": {
        "cniVersion": "0.4.0",
        "interfaces": [{"name": "eth0", "sandbox": "/x"}],
        "ips": [
            {"version": "4", "interface": 0, "address": "10.1.2.3/24"},
            {"version": "6", "interface": 0, "address": "fd00::3/64", "gateway": "fd00::1"},
        ],
    },
    "1.0.0": {
        "cniVersion": "1.0.0",
        "interfaces": [{"name": "eth0", "mac": "02:00:00:00:00:01", "sandbox": "/x"}],
        "ips": [
            {"interface": 0, "address": "10.1.2.3/24", "gateway": "10.1.2.1"},
            {"interface": 0, "address": "10.1.2.4/24"},
            {"address": "fd00::3/64"},
        ],
        "routes": [{"dst": "10.9.0.0/16", "gw": "10.1.2.9"}, {"dst": "::/0"}, {"dst": "0.0.0.0/0"}],
    },
    "none": {"ips": [{"address": "10.1.2.3/24"}]},
    "unknown": {"cniVersion": "9.9.9", "ips": [{"address": "10.1.2.3/24"}]},
    "empty": {},
}
BAD_PREVIOUS: dict[str, Any] = {
    "list": [],
    "address without length": {"ips": [{"address": "10.1.2.3"}]},
    "address is a number": {"ips": [{"address": 5}]},
    "ips is an object": {"ips": {}},
    "gateway is no address": {"ips": [{"address": "10.1.2.3/24", "gateway": "x"}]},
    "interface is a text": {"ips": [{"address": "10.1.2.3/24", "interface": "0"}]},
    "route is no CIDR": {"routes": [{"dst": "10.1.2.3"}]},
    "gateway of a route is no address": {"routes": [{"dst": "10.1.2.0/24", "gw": "10.1.2.0/24"}]},
    "name is a number": {"interfaces": [{"name": 5}]},
    "dns is a list": {"dns": []},
    "name servers are a text": {"dns": {"nameservers": "10.1.2.3"}},
    "version is a number": {"cniVersion": 1},
}


def _lo(verb: str, config: Config | bytes = LO, **more: Any) -> Step:
    return call(verb, config, plugin="loopback", ifname="lo", **more)


def _life(config: Config = LO) -> tuple[Step, ...]:
    return (
        _lo("ADD", config),
        _lo("ADD", config),
        _lo("CHECK", config, since="0.4.0"),
        _lo("DEL", config),
        _lo("DEL", config),
    )


def _chained(version: str, previous: Any) -> Case:
    config: Config = {"prevResult": previous}
    return Case((_lo("ADD", config), _lo("CHECK", config, since="0.4.0"), _lo("DEL", config)), (version,))


CASES: dict[str, Case] = {
    "alone": Case(_life(), VERSIONS),
    "version absent": Case(
        (_lo("ADD", {"cniVersion": ...}), _lo("DEL", {"cniVersion": ""})),
    ),
    "another interface name": Case(
        tuple(call(verb, LO, plugin="loopback", ifname="eth7") for verb in ("ADD", "CHECK", "DEL"))
    ),
    "IPv6 off": Case((Shell("sysctl -qw net.ipv6.conf.all.disable_ipv6=1", pod=1), *_life()), VERSIONS),
    "more loopback addresses": Case(
        (Shell("ip addr add 127.0.0.2/8 dev lo; ip addr add 127.1.2.3/32 dev lo", pod=1), *_life())
    ),
    "an address that is none of loopback": Case((Shell("ip addr add 10.3.3.3/32 dev lo", pod=1), *_life())),
    "an IPv6 address that is none of loopback": Case(
        (Shell("ip link set lo up; ip addr add fd00::1/128 dev lo", pod=1), *_life())
    ),
    "up already": Case((Shell("ip link set lo up", pod=1), *_life()), VERSIONS),
    "down again before CHECK": Case(
        (_lo("ADD"), Shell("ip link set lo down", pod=1), _lo("CHECK"), _lo("DEL")), WITH_CHECK
    ),
    "CHECK without ADD": Case((_lo("CHECK"),), WITH_CHECK),
    "no namespace": Case(tuple(_lo(verb, netns="$GONE") for verb in ("ADD", "CHECK", "DEL"))),
    "a file instead of a namespace": Case(
        tuple(_lo(verb, netns="$FILES/x") for verb in ("ADD", "CHECK", "DEL")), files=(("x", ""),)
    ),
    "a folder instead of a namespace": Case(
        tuple(_lo(verb, netns="/etc") for verb in ("ADD", "CHECK", "DEL"))
    ),
    "another namespace of the kernel": Case(
        tuple(_lo(verb, netns="/proc/self/ns/uts") for verb in ("ADD", "CHECK", "DEL"))
    ),
    "DEL without namespace": Case((_lo("ADD"), _lo("DEL", netns=""))),
    "CNI_ARGS are not read": Case((_lo("ADD", CNI_ARGS="x"), _lo("DEL", CNI_ARGS="x;y=1=2"))),
    "renamed": Case((Shell("ip link set lo name lo9", pod=1), _lo("ADD"), _lo("CHECK"), _lo("DEL"))),
    "config of wrong types": Case(
        (
            _lo("ADD", {"capabilities": 5}),
            _lo("ADD", {"ipam": []}),
            _lo("ADD", {"ipam": {"type": 5}}),
            _lo("ADD", {"dns": "x"}),
            _lo("CHECK", {"dns": "x"}),
            _lo("DEL", {"dns": "x"}),
        )
    ),
    **{
        f"chained in {version} to {before}": _chained(version, previous)
        for version in VERSIONS
        for before, previous in PREVIOUS.items()
    },
    **{
        f"chained to a bad result: {title}": _chained(version, previous)
        for title, previous in BAD_PREVIOUS.items()
        for version in ("1.0.0",)
    },
    **{
        f"chained to a bad result in 0.3.1: {title}": _chained("0.3.1", previous)
        for title, previous in BAD_PREVIOUS.items()
    },
}
