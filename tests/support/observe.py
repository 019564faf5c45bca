"""What the kernel and the store show, read by iproute2, nft and iptables: none of our own code is asked."""

from __future__ import annotations

import gc
import json
import os
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from support.waiting import until

if TYPE_CHECKING:
    from support.netns import NetNS

_POD_SYSCTLS = (
    "ipv4.conf.{}.arp_notify",
    "ipv6.conf.{}.accept_dad",
    "ipv6.conf.{}.keep_addr_on_down",
    "ipv6.conf.{}.disable_ipv6",
)
_MASQUERADE = ("inet", "cni_plugins_masquerade")
_SPOOF_CHECK = ("bridge", "nat")


def links(netns: NetNS) -> dict[str, Any]:
    """`ip -j -d address` by interface name, in the order of creation."""
    return {link["ifname"]: link for link in netns.json("ip", "-j", "-d", "address") if link.get("ifname")}


def await_operstate(netns: NetNS, ifname: str, wanted: str) -> None:
    """The kernel notes the state of a link a little after its carrier."""

    def state() -> str:
        return str(links(netns)[ifname]["operstate"])

    until(lambda: state() == wanted, f"{ifname} is {wanted}", state)


def addresses(netns: NetNS, ifname: str) -> list[str]:
    """Global addresses of a link as ADDRESS/LENGTH."""
    return [address["address"] for address in _addresses(links(netns)[ifname])]


def routes(netns: NetNS) -> list[dict[str, Any]]:
    """Unicast routes of all tables but `local`, without those to fe80::/64; sorted."""
    found = []
    for family in (4, 6):
        for route in netns.json("ip", f"-{family}", "-j", "route", "show", "table", "all"):
            unicast = route.get("type", "unicast") == "unicast" and route.get("table") != "local"
            if unicast and not route["dst"].startswith(("fe80::", "ff00::")):
                found.append(_route(family, route))
    return sorted(found, key=json.dumps)


def _route(family: int, route: dict[str, Any]) -> dict[str, Any]:
    kept = {"family": family, "dst": route["dst"]}
    kept |= {key: route[key] for key in ("gateway", "dev") if key in route}
    kept |= {
        "table": str(route.get("table", "main")),
        "protocol": route.get("protocol", "boot"),
        "scope": route.get("scope", "global"),
    }
    kept |= {key: route[key] for key in ("prefsrc", "metric") if key in route}
    for metrics in route.get("metrics", ()):
        kept |= {key: metrics[key] for key in ("mtu", "advmss") if key in metrics}
    return kept


def sysctl(netns: NetNS, name: str) -> str:
    """The value of net.NAME; dots of interface names may be written as they are only in `name`'s middle."""
    with netns.inside():  # /proc/sys/net shows the namespace of the reading thread
        return _sysctl(name)


def _sysctl(name: str) -> str:
    family, *middle, key = name.split(".")
    path = Path("/proc/sys/net", family, *middle[:1], ".".join(middle[1:]), key)
    return path.read_text().strip()


def nft_rules(netns: NetNS) -> list[dict[str, Any]]:
    """`nft -j list ruleset` without handles and head line."""
    items = netns.json("nft", "-j", "list", "ruleset")
    return [
        _without_handle(item) for item in (items or {"nftables": []})["nftables"] if "metainfo" not in item
    ]


def _without_handle(item: dict[str, Any]) -> dict[str, Any]:
    return {kind: {k: v for k, v in body.items() if k != "handle"} for kind, body in item.items()}


def nft_comments(netns: NetNS) -> dict[str, str]:
    """Comments by `FAMILY TABLE [CHAIN]`; nft 1.0.6 prints them in its plain text only."""
    comments: dict[str, str] = {}
    where = table = ""
    for line in netns.run("nft", "list", "ruleset").stdout.decode().splitlines():
        if opened := re.fullmatch(r"table (\S+ \S+) \{", line):
            where = table = opened[1]
        elif opened := re.fullmatch(r"\t(?:chain|set|map) (\S+) \{", line):
            where = f"{table} {opened[1]}"
        elif line == "\t}":
            where = table
        elif comment := re.fullmatch(r'\t+comment "(.*)"', line):
            comments[where] = comment[1]
    return comments


def iptables_nat(netns: NetNS, family: int = 4) -> list[str]:
    """Lines of `iptables-save -t nat` without counters, comments and brackets."""
    program = {4: "iptables-save", 6: "ip6tables-save"}[family]
    lines = netns.run(program, "-t", "nat").stdout.decode().splitlines()
    return [re.sub(r" \[\d+:\d+\]$", "", line) for line in lines if line.startswith((":", "-"))]


def store(folder: Path) -> dict[str, str]:
    """Every file below `folder`: relative path → content."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes().decode() for path in files}


def reservations(folder: Path) -> dict[str, str]:
    """The reservations below `folder`, of one network or of all: relative path → content."""
    others = ("lock", "last_reserved_ip.")
    files = store(folder).items()
    return {name: text for name, text in files if not name.rpartition("/")[2].startswith(others)}


def snapshot(netns: NetNS) -> dict[str, Any]:
    """Everything that a plugin can have changed in a namespace; compare two with `==`."""
    return {
        "links": {name: _link(link, ("mac", "mtu", "txqlen")) for name, link in links(netns).items()},
        "routes": routes(netns),
        "nft": nft_rules(netns),
        "iptables": iptables_nat(netns, 4) + iptables_nat(netns, 6),
    }


def host_state(netns: NetNS) -> dict[str, Any]:
    """The node's side in the form of the recordings (tests/golden/README.md)."""
    found = {name: link for name, link in links(netns).items() if name != "lo"}
    names = ["ipv4.ip_forward", "ipv6.conf.all.forwarding"]
    names += [f"ipv6.conf.{name}.accept_ra" for name in found]
    state = _namespace_state(netns, found, names)
    for name, members in vlans(netns, found).items():
        state["links"][name]["vlans"] = members
    return state


def vlans(netns: NetNS, found: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """VLANs of ports and bridges, by name; nothing where no bridge could filter them."""
    bridges = (link["linkinfo"]["info_data"] for link in found.values() if _kind(link) == "bridge")
    if not any("vlan_default_pvid" in bridge for bridge in bridges):
        return {}
    return {port["ifname"]: port["vlans"] for port in netns.json("bridge", "-j", "vlan", "show")}


def _kind(link: dict[str, Any]) -> str:
    return str(link.get("linkinfo", {}).get("info_kind", ""))


def pod_state(netns: NetNS) -> dict[str, Any]:
    """A pod's side in the form of the recordings."""
    found = links(netns)
    names = [name.format(link) for link in found if link != "lo" for name in _POD_SYSCTLS]
    return _namespace_state(netns, found, names)


def _namespace_state(netns: NetNS, found: dict[str, Any], sysctls: list[str]) -> dict[str, Any]:
    with netns.inside():
        values = {name: _sysctl(name) for name in sysctls}
    return {
        "links": {name: _link(link) for name, link in found.items()},
        "routes": routes(netns),
        "sysctls": values,
    }


def _link(link: dict[str, Any], more: tuple[str, ...] = ()) -> dict[str, Any]:
    info = link.get("linkinfo", {})
    seen: dict[str, Any] = {
        "kind": info.get("info_kind", "loopback" if link["link_type"] == "loopback" else ""),
        "mac": link.get("address", ""),
        "mtu": link["mtu"],
        "txqlen": link.get("txqlen", 0),
        "flags": [flag for flag in ("UP", "PROMISC") if flag in link["flags"]],
        "promiscuity": link.get("promiscuity", 0),
        "addresses": _addresses(link),
    }
    if "master" in link:
        port = info.get("info_slave_data", {})
        seen["master"] = link["master"]
        seen["port"] = {key: port.get(key) for key in ("hairpin", "isolated", "learning", "flood")}
    if seen["kind"] == "bridge":
        seen["vlan_filtering"] = info["info_data"].get("vlan_filtering")
    return seen


def _addresses(link: dict[str, Any]) -> list[dict[str, str]]:
    kept = []
    for info in link.get("addr_info", ()):
        if info["scope"] != "link":
            address = {"address": f"{info['local']}/{info['prefixlen']}"}
            address |= {key: info[key] for key in ("broadcast", "scope") if key in info}
            kept.append(address)
    return kept


def firewall_state(netns: NetNS) -> dict[str, Any]:
    """Rules in the form of the recordings: our two nftables tables, and the nat lines naming a CNI chain."""
    return {
        "nft": own_nft_rules(netns),
        "nft_comments": nft_comments(netns),
        "iptables": {
            "iptables nat": [line for line in iptables_nat(netns, 4) if "CNI-" in line],
            "ip6tables nat": [line for line in iptables_nat(netns, 6) if "CNI-" in line],
        },
    }


def own_nft_rules(netns: NetNS) -> list[dict[str, Any]]:
    """Our two nftables tables."""
    rules = []
    for item in nft_rules(netns):
        kind, body = next(iter(item.items()))
        table = body["name"] if kind == "table" else body["table"]
        if (body["family"], table) in (_MASQUERADE, _SPOOF_CHECK):
            rules.append(item)
    return rules


def lowest_port_mac(netns: NetNS, bridge: str) -> str:
    """The MAC that the kernel gives a bridge without an address of its own; empty if it has no port."""
    ports = [link["address"] for link in links(netns).values() if link.get("master") == bridge]
    return min(ports, default="")


def attachment_leftovers(netns: NetNS, store_folder: Path) -> list[str]:
    """What attachments left on a node: veths, reservations, rules; bridges and their base chains may stay."""
    found = [f"link {name}" for name, link in host_state(netns)["links"].items() if link["kind"] == "veth"]
    found += [f"reservation {name}" for name in reservations(store_folder)]
    rules = firewall_state(netns)
    for body in (item["rule"] for item in rules["nft"] if "rule" in item):
        if body["chain"] != "postrouting":
            found.append(f"nftables rule {body}")
    found += [f"{table}: {line}" for table, lines in rules["iptables"].items() for line in lines]
    return found


def descriptors() -> set[int]:
    """This process's open descriptors, without those that earlier tests left to the garbage collector.

    The number that the look itself takes is among them: compare by `<=`, for one more moves it up.
    """
    gc.collect()
    return {int(name) for name in os.listdir("/proc/self/fd")}


def descendants(pid: int) -> list[int]:
    """Living descendants of a process."""
    listing = subprocess.run(
        ["ps", "-e", "-o", "pid=,ppid=,stat="], capture_output=True, check=True, text=True
    )
    parents = {}
    for line in listing.stdout.splitlines():
        child, parent, state = line.split()
        if not state.startswith("Z"):
            parents[int(child)] = int(parent)
    found, wave = [], [pid]
    while wave:
        wave = [child for child, parent in parents.items() if parent in wave]
        found += wave
    return found
