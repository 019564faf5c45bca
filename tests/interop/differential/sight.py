"""Everything that a plugin can have changed, as iproute2, nft, iptables, /proc/sys and the store show it.

What must differ between two runs (indexes, timers, random names and MACs) is left out or replaced by names
that tell the role: `$VETH1` is the first host side in order of creation, `$MAC(host $VETH1)` its MAC.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import stat
from typing import TYPE_CHECKING, Any

from support.observe import nft_comments

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.netns import NetNS

VETH = re.compile(r"\bveth[0-9a-f]{8,11}\b")
_MARK = "\x1e"
_LOOK = f"""\
ip -j -d address; printf '{_MARK}'
ip -4 -j -d route show table all; printf '{_MARK}'
ip -6 -j -d route show table all
"""
_LOOK_AT_RULES = f"printf '{_MARK}'; nft -j list ruleset"
_IPTABLES = f"iptables-save; printf '{_MARK}'; ip6tables-save"
# Indexes, and what changes with time alone.
_LINK_LEFT_OUT = ("ifindex", "link_index", "link_netnsid", "link", "operstate", "broadcast")
_FLAGS_LEFT_OUT = ("LOWER_UP", "NO-CARRIER")
_INFO_LEFT_OUT = re.compile(
    r".*_timer|.*bridge_id|root_id|root_p.*|topology_change.*|designated.*|state|id|no|config_pending|cost"
)
_ADDRESS_LEFT_OUT = ("valid_life_time", "preferred_life_time", "tentative")
_NODE_SYSCTLS = (
    "ipv4/ip_forward",
    *(f"ipv4/conf/{name}" for name in ("all/forwarding", "all/rp_filter", "default/forwarding")),
    *(f"ipv6/conf/{name}" for name in ("all/forwarding", "all/disable_ipv6", "lo/disable_ipv6")),
)
_ROUTE_LEFT_OUT = ("flags", "pref", "expires", "uid")


@dataclasses.dataclass(frozen=True)
class Sight:
    """One look at a world. `links` are the raw ones by place (`host`, `pod1`, …), for the names' sake."""

    state: dict[str, Any]
    links: dict[str, list[dict[str, Any]]]
    veths: dict[str, str]
    macs: dict[str, str]


def see(host: NetNS, pods: list[NetNS], data_dir: Path, *, closely: bool) -> Sight:
    """Look at the node, the pods and the store; `closely` at every sysctl of every link as well."""
    places = {"host": host} | {f"pod{n}": pod for n, pod in enumerate(pods, 1)} if pods else {}
    state: dict[str, Any] = {"store": _store(data_dir)}
    links: dict[str, list[dict[str, Any]]] = {}
    for place, netns in places.items():
        if not netns.path.exists():  # a case took it away
            state[place], links[place] = {}, []
            continue
        look = _LOOK + _LOOK_AT_RULES if place == "host" else _LOOK
        printed = netns.run("sh", "-ec", look).stdout.decode().split(_MARK)
        found, four, six, *rules = (json.loads(text or "[]") for text in printed)
        links[place] = [link for link in found if link.get("ifname")]
        with netns.inside():  # /proc/sys/net shows the namespace of the reading thread
            state[place] = {
                "links": {link["ifname"]: _link(link, closely=closely) for link in links[place]},
                "routes": dict((*_routes(4, four), *_routes(6, six))),
                "sysctls": _node_sysctls(),
            }
        if rules:
            state[place] |= _rules(netns, (rules[0] or {"nftables": []})["nftables"])
    veths = _veth_names(links.get("host", []))
    return Sight(state, links, veths, _mac_names(links, veths))


def _link(link: dict[str, Any], *, closely: bool) -> dict[str, Any]:
    seen = {key: value for key, value in link.items() if key not in _LINK_LEFT_OUT}
    seen["flags"] = sorted(set(seen["flags"]) - set(_FLAGS_LEFT_OUT))
    info = seen.get("linkinfo", {})
    for key in ("info_data", "info_slave_data"):
        if key in info:
            info[key] = {k: v for k, v in info[key].items() if not _INFO_LEFT_OUT.fullmatch(k)}
    seen["addr_info"] = {
        f"{address['local']}/{address['prefixlen']}": {
            key: value for key, value in address.items() if key not in _ADDRESS_LEFT_OUT
        }
        for address in seen["addr_info"]
        if address["scope"] != "link"
    }
    if closely and link["ifname"] != "lo":
        seen["sysctls"] = _link_sysctls(link["ifname"])
    return seen


def _routes(family: int, routes: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    for route in routes:
        unicast = route.get("type", "unicast") == "unicast" and route.get("table") != "local"
        if unicast and not route["dst"].startswith(("fe80::", "ff00::")):
            words = [f"IPv{family}", route["dst"]]
            words += [f"{key} {route[key]}" for key in ("gateway", "dev", "table", "metric") if key in route]
            yield " ".join(words), {key: v for key, v in route.items() if key not in _ROUTE_LEFT_OUT}


def _node_sysctls() -> dict[str, str]:
    return {name: _read(f"/proc/sys/net/{name}") for name in _NODE_SYSCTLS}


def _link_sysctls(ifname: str) -> dict[str, str]:
    found = {}
    for family in ("ipv4", "ipv6"):
        folder = f"/proc/sys/net/{family}/conf/{ifname}"
        for name in os.listdir(folder) if os.path.isdir(folder) else ():
            found[f"{family}/{name}"] = _read(f"{folder}/{name}")
    return found


def _read(path: str) -> str:
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError:  # the interface went in this moment
        return "gone"
    try:
        return os.read(fd, 4096).decode().strip()
    except OSError:  # stable_secret that was not set
        return "unset"
    finally:
        os.close(fd)


def _rules(netns: NetNS, items: list[dict[str, Any]]) -> dict[str, Any]:
    tables: dict[str, Any] = {}
    iptables = False
    for item in items:
        ((kind, body),) = item.items()
        if kind == "metainfo":
            continue
        if body["family"] in ("ip", "ip6"):
            iptables = True
            continue
        name = body["name"] if kind == "table" else body["table"]
        table = tables.setdefault(f"{body['family']} {name}", {})
        body.pop("handle", None)
        if kind == "chain":
            table[f"chain {body['name']}"] = body
        elif kind == "rule":
            table.setdefault(f"rules {body['chain']}", []).append(body)
    seen: dict[str, Any] = {"nft": tables}
    if tables:
        seen["nft_comments"] = nft_comments(netns)
    if iptables:
        printed = netns.run("sh", "-ec", _IPTABLES).stdout.decode().split(_MARK)
        for name, text in zip(("iptables", "ip6tables"), printed, strict=True):
            seen[name] = _by_chain(text)
    return seen


def _by_chain(text: str) -> dict[str, list[str]]:
    """The output of iptables-save as TABLE CHAIN → rules in order."""
    chains: dict[str, list[str]] = {}
    table = ""
    for line in text.splitlines():
        words = line.split(" ")
        if line.startswith("*"):
            table = line[1:]
        elif line.startswith(":"):
            chains[f"{table} {words[0][1:]}"] = []
        elif line.startswith("-A"):
            chains[f"{table} {words[1]}"].append(" ".join(words[2:]))
    return chains


def _store(folder: Path) -> dict[str, Any]:
    found = {}
    for path in sorted(folder.rglob("*")):
        mode = stat.filemode(path.stat().st_mode)
        content = path.read_bytes().decode("utf-8", "backslashreplace") if path.is_file() else ""
        found[str(path.relative_to(folder))] = {"mode": mode, "content": content}
    return found


def _veth_names(links: list[dict[str, Any]]) -> dict[str, str]:
    names = (link["ifname"] for link in links if VETH.fullmatch(link["ifname"]))
    return {name: f"$VETH{number}" for number, name in enumerate(names, 1)}


def _mac_names(links: dict[str, list[dict[str, Any]]], veths: dict[str, str]) -> dict[str, str]:
    macs: dict[str, str] = {"00:00:00:00:00:00": "00:00:00:00:00:00"}
    # Ports before their bridge: a bridge may bear a port's MAC, but never the other way round.
    order = sorted(
        ((place, link) for place in links for link in links[place]),
        key=lambda item: _kind(item[1]) == "bridge",
    )
    for place, link in order:
        name = veths.get(link["ifname"], link["ifname"]) if place == "host" else link["ifname"]
        macs.setdefault(link.get("address", ""), f"$MAC({place} {name})")
    return macs


def _kind(link: dict[str, Any]) -> str:
    return str(link.get("linkinfo", {}).get("info_kind", ""))
