"""CHECK: what an attachment should look like against what is there.

A pure comparison that finds everything, not the first difference; the plugin reports the first with the
reference's text and the others in the details. Beyond the reference it looks at link states, port flags,
the gateway's address, forwarding and rules; it does not compare MACs of the host side, which udev may
rewrite (containernetworking/plugins#805).
"""

from __future__ import annotations

from pycni.addresses import CIDR, IPV4
from pycni.record import Record
from pycni_bridge.plan import kernel_routes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Final

    from pycni.kernel.namespace import Address, Link, RouteEntry
    from pycni.kernel.vlans import VlanRange
    from pycni.types import Interface, Result, Route
    from pycni_bridge.config import BridgeConfig

TABLE_MAIN: Final = 254
NO_VLANS: Final[Mapping[int, tuple[VlanRange, ...]]] = {}


class Finding(Record):
    """One difference: the sentence (the reference's where it has one) and what to do about it."""

    text: str
    advice: str = ""


class Observed(Record):
    """What was seen of one attachment; `sandboxes` are the spellings of paths that lead to CNI_NETNS.

    `host_links` holds the bridge, the host side, the gateway's interface and every link that prevResult names
    on the host, by name. `sysctls` holds the forwarding switches that matter. `masquerade` and `spoof_check`
    say whether the rules that the config asks for are there. `vlans` holds those of bridge ports, by index,
    and `gateway_port` is the port of a VLAN's gateway, if the config has VLANs.
    """

    pod_link: Link | None
    host_side: Link | None
    host_links: dict[str, Link]
    gateway_addresses: tuple[CIDR, ...]
    pod_addresses: tuple[Address, ...]
    pod_routes: tuple[RouteEntry, ...]
    sysctls: dict[str, str | None]
    sandboxes: frozenset[str]
    masquerade: bool = True
    spoof_check: bool = True
    gateway_port: Link | None = None
    vlans: Mapping[int, tuple[VlanRange, ...]] = NO_VLANS


class Expected(Record):
    """What should be there: config, prevResult and where the pod is."""

    config: BridgeConfig
    prev: Result
    ifname: str
    netns: str
    gateways: tuple[CIDR, ...]
    sysctls: tuple[tuple[str, str], ...]


def verify(expected: Expected, seen: Observed) -> list[Finding]:
    """All differences, in the reference's order; empty if the attachment is intact."""
    return [
        *_bridge(expected, seen),
        *_pod_link(expected, seen),
        *_host_side(expected, seen),
        *_vlans(expected, seen),
        *_addresses(expected, seen),
        *_routes(expected, seen),
        *_gateway(expected, seen),
        *_rules(expected, seen),
    ]


def _bridge(expected: Expected, seen: Observed) -> Iterator[Finding]:
    name = expected.config.bridge
    entry = _last(item for item in expected.prev.interfaces if item.name == name)
    if entry is None:
        yield Finding("Interface name missing ", f'prevResult.interfaces has no bridge "{name}"')
        return
    link = seen.host_links.get(name)
    if link is None:
        yield Finding(f"Interface name {name} not found", "the bridge is gone; its pods must be made anew")
        return
    if entry.sandbox:
        yield Finding(f"Interface {name} should not be in sandbox", f"prevResult says {entry.sandbox}")
    if link.kind != "bridge":
        yield Finding(
            f"Interface {name} does not have link type of bridge", f"it is of kind {link.kind or 'none'}"
        )
        return
    config = expected.config
    # Without an address of its own a bridge follows its ports.
    if config.is_gateway and not config.vlan and entry.mac and entry.mac.lower() != link.mac_text:
        yield Finding(f"Bridge interface {name} Mac doesn't match: {entry.mac}", f"it is {link.mac_text}")
    wanted, there = config.promisc_mode, link.is_promiscuous
    if wanted != there:
        yield Finding(
            f"Bridge interface {name} configured Promisc Mode {_go_bool(wanted)} doesn't match current "
            f"state: {_go_bool(there)} ",
            f"ip link set {name} promisc {'on' if wanted else 'off'}",
        )
    if not link.is_up:
        yield Finding(f"Bridge interface {name} is down", f"ip link set {name} up")


def _pod_link(expected: Expected, seen: Observed) -> Iterator[Finding]:
    ifname, netns = expected.ifname, expected.netns
    entry = _last(
        item for item in expected.prev.interfaces if item.name == ifname and item.sandbox in seen.sandboxes
    )
    if entry is None:
        other = _last(item for item in expected.prev.interfaces if item.name == ifname)
        said = other.sandbox if other is not None else ""
        yield Finding(
            f"Sandbox in prevResult {said} doesn't match configured netns: {netns}",
            f'prevResult has no interface "{ifname}" in that sandbox',
        )
    link = seen.pod_link
    if link is None:
        yield Finding(f"Interface name {ifname} not found", f"the pod's link is missing in {netns}")
        return
    if link.kind != "veth":
        yield Finding(
            f"Error: Container interface {ifname} not of type veth", f"it is of kind {link.kind or 'none'}"
        )
        return
    if entry is not None and entry.mac and entry.mac.lower() != link.mac_text:
        yield Finding(f"Interface {ifname} Mac {entry.mac} doesn't match container Mac: {link.mac_text}")
    if not link.is_up and not expected.config.disable_container_interface:
        yield Finding(f"Interface {ifname} is down", f"in the sandbox: ip link set {ifname} up")
    if expected.config.mtu and link.mtu != expected.config.mtu:
        yield Finding(
            f"Interface {ifname} MTU {link.mtu} doesn't match configured MTU: {expected.config.mtu}"
        )


def _host_side(expected: Expected, seen: Observed) -> Iterator[Finding]:
    config = expected.config
    bridge = seen.host_links.get(config.bridge)
    link = seen.host_side
    named = [item for item in expected.prev.interfaces if _on_host(item, expected)]
    for item in named:
        if item.name not in seen.host_links and (link is None or item.name != link.name):
            yield Finding(f"Interface name {item.name} not found", "prevResult names it on the host")
    if link is None or bridge is None or link.master != bridge.index:
        yield Finding(
            f"CNI veth created for bridge {config.bridge} was not found",
            f"{link.name} is not a port of {config.bridge}: ip link set {link.name} master {config.bridge}"
            if link is not None
            else "the pod's link has no peer on the host",
        )
        return
    if not link.is_up:
        yield Finding(f"Host side {link.name} is down", f"ip link set {link.name} up")
    if link.port is not None and link.port.hairpin != config.hairpin_mode:
        yield _port(link, "hairpin", config.hairpin_mode)
    if link.port is not None and link.port.isolated != config.port_isolation:
        yield _port(link, "isolated", config.port_isolation)


def _on_host(item: Interface, expected: Expected) -> bool:
    return not item.sandbox and item.name not in (expected.config.bridge, expected.ifname)


def _port(link: Link, flag: str, wanted: bool) -> Finding:
    state = "on" if wanted else "off"
    return Finding(
        f"Bridge port {link.name} {flag} should be {state}", f"bridge link set dev {link.name} {flag} {state}"
    )


def _vlans(expected: Expected, seen: Observed) -> Iterator[Finding]:
    """The VLANs of the pod's port, and of the port that ties their gateway to the bridge."""
    config = expected.config
    if not config.joins_vlans:
        return
    from pycni_bridge.vlans import access_vlan, command, missing, port_vlans

    wanted = port_vlans(config.vlan, config.vlan_trunk or ())
    for port, ranges in ((seen.host_side, wanted), (seen.gateway_port, (access_vlan(config.vlan),))):
        if port is None or port.index not in seen.vlans:
            continue  # found above: not a port at all
        for item in missing(ranges, seen.vlans[port.index]):
            yield Finding(f"VLAN {item} is not set on port {port.name}", command(port.name, item))


def _addresses(expected: Expected, seen: Observed) -> Iterator[Finding]:
    if seen.pod_link is None:
        return
    present = {address.cidr for address in seen.pod_addresses}
    for entry in expected.prev.ips:
        if entry.interface is not None and not _is_pod(entry.interface, expected):
            continue
        if entry.address not in present:
            yield Finding(
                f"Failed to match addr {entry.address} on interface {expected.ifname}",
                f"it has {', '.join(map(str, sorted(map(str, present)))) or 'no address'}",
            )
            continue
        if not _network_route(entry.address, seen):
            gateway = entry.gateway if entry.gateway is not None else "<nil>"
            yield Finding(
                f"Failed to find Gateway {gateway} for interface {expected.ifname}",
                f"no route to {entry.address.network} in the sandbox",
            )


def _is_pod(index: int, expected: Expected) -> bool:
    interfaces = expected.prev.interfaces
    return index >= len(interfaces) or interfaces[index].name == expected.ifname


def _network_route(address: CIDR, seen: Observed) -> bool:
    if address.prefix == address.ip.bits:
        return True
    return any(route.dst == address.network and route.table == TABLE_MAIN for route in seen.pod_routes)


def _routes(expected: Expected, seen: Observed) -> Iterator[Finding]:
    if seen.pod_link is None:
        return
    for route, wanted in zip(expected.prev.routes, kernel_routes(expected.prev), strict=True):
        if not any(_matches(route, wanted, entry, seen) for entry in seen.pod_routes):
            yield Finding(
                f"Expected Route {_go_route(route)} not found in routing table", _route_advice(wanted)
            )


def _matches(route: Route, wanted: Route, entry: RouteEntry, seen: Observed) -> bool:
    if entry.dst != route.dst or entry.table != (route.table or TABLE_MAIN):
        return False
    if seen.pod_link is not None and entry.oif not in (0, seen.pod_link.index):
        # A chained plugin may have moved a route to another interface; only its gateway can tell then.
        return route.gw is not None and entry.gw == route.gw
    if route.gw is not None or route.dst.is_default():
        return wanted.gw is None or wanted.gw in (entry.gw, *(hop.gw for hop in entry.nexthops))
    return True


def _route_advice(route: Route) -> str:
    via = f" via {route.gw}" if route.gw is not None else ""
    return f"in the sandbox: ip route add {route.dst}{via}"


def _go_route(route: Route) -> str:
    """The text by which people know this message from the reference."""
    mask = ((1 << route.dst.ip.bits) - 1) ^ route.dst.hostmask
    hexadecimal = f"{mask:0{route.dst.ip.bits // 4}x}"
    values = [f"IP:{route.dst.ip} Mask:{hexadecimal}"]
    fields = (
        ("GW", route.gw),
        ("MTU", route.mtu),
        ("AdvMSS", route.advmss),
        ("Priority", route.priority),
        ("Table", route.table),
        ("Scope", route.scope),
    )
    rest = " ".join(f"{name}:{'<nil>' if value is None else value}" for name, value in fields)
    return f"{{Dst:{{{values[0]}}} {rest}}}"


def _gateway(expected: Expected, seen: Observed) -> Iterator[Finding]:
    name = expected.config.gateway_link
    place = f"interface {name}" if expected.config.vlan else f"bridge {name}"
    for gateway in expected.gateways:
        if gateway not in seen.gateway_addresses:
            yield Finding(
                f"Gateway address {gateway} is missing on {place}",
                f"ip addr add {gateway} dev {name}",
            )
    link = seen.host_links.get(name)
    if expected.gateways and expected.config.vlan and link is not None and not link.is_up:
        yield Finding(f"Interface {name} is down", f"ip link set {name} up")
    for name, value in expected.sysctls:
        if seen.sysctls.get(name) != value:
            family = "IPv4" if "ipv4" in name else "IPv6"
            dotted = name.replace("/", ".")
            yield Finding(f"Forwarding of {family} is off", f"sysctl -w {dotted}={value}")


def _rules(expected: Expected, seen: Observed) -> Iterator[Finding]:
    config = expected.config
    if config.masquerades and not seen.masquerade:
        families = sorted({"IPv4" if entry.address.family == IPV4 else "IPv6" for entry in expected.prev.ips})
        yield Finding("Masquerade rules are missing", f"for the pod's {' and '.join(families)} addresses")
    if config.mac_spoof_check and not seen.spoof_check:
        yield Finding("MAC spoof check rules are missing", "in table bridge nat")


def _last(items: Iterator[Interface]) -> Interface | None:
    found = None
    for item in items:
        found = item
    return found


def _go_bool(value: bool) -> str:
    return "true" if value else "false"
