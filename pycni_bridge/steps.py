"""A plan as the kernel gets it: the ordered steps in the pod and on the host, each with the error it means.

Pure: a step is a netlink request or a sysctl setting, the text opens the message if it fails (the
reference's words).
"""

from __future__ import annotations

from pycni.addresses import IPV6
from pycni.errors import CNIError
from pycni.kernel.messages import del_address, new_address, new_route, set_link, set_port
from pycni.kernel.namespace import Setting
from pycni_bridge.plan import gateway_prefix, kernel_routes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from pycni.addresses import CIDR
    from pycni.kernel.namespace import Link
    from pycni.types import Result, Route
    from pycni_bridge.config import BridgeConfig
    from pycni_bridge.plan import GatewayPlan

    Step = tuple[bytes | Setting, str]

_POSITIVE: Final = ("mtu", "advmss", "priority")
"""Numbers of a route of which 0 and less mean "not set"."""
_ROUTE_LIMITS: Final = (*((key, 0xFFFFFFFF) for key in (*_POSITIVE, "table")), ("scope", 0xFF))


def pod_steps(config: BridgeConfig, ifname: str, index: int, result: Result) -> list[Step]:
    """Sysctls, addresses, up, routes: with arp_notify the kernel announces what is there when it goes up.

    Layer 2 is only set up, unless the config wants the pod's end left down.
    """
    if not result.ips:
        up: Step = (set_link(index, up=True), f'failed to set "{ifname}" up')
        return [] if config.disable_container_interface else [up]
    ipv6 = any(entry.address.family == IPV6 for entry in result.ips)
    steps: list[Step] = [
        (setting, f"failed to set sysctl {setting.name}={setting.value}")
        for setting in pod_settings(config, ifname, ipv6=ipv6)
    ]
    steps += [
        (
            new_address(index, entry.address, nodad=not config.enable_dad),
            f'failed to add IP addr {entry.address} to "{ifname}"',
        )
        for entry in result.ips
    ]
    steps.append((set_link(index, up=True), f'failed to set "{ifname}" UP'))
    steps += [_route_step(ifname, index, route) for route in kernel_routes(result)]
    return steps


def _route_step(ifname: str, index: int, route: Route) -> Step:
    via = f" via {route.gw}" if route.gw is not None else ""
    what = f"failed to add route '{route.dst}{via} dev {ifname} metric {route.priority}'"
    for key, limit in _ROUTE_LIMITS:
        value = getattr(route, key)
        if value is not None and not (value <= limit if key in _POSITIVE else 0 <= value <= limit):
            raise CNIError(
                f"{what}: numerical result out of range", f'"{key}" is {value}; {limit} is the most'
            )
    request = new_route(
        index,
        route.dst,
        route.gw,
        priority=max(route.priority, 0),
        table=route.table,
        scope=route.scope,
        mtu=max(route.mtu, 0),
        advmss=max(route.advmss, 0),
    )
    return request, what


def pod_settings(config: BridgeConfig, ifname: str, *, ipv6: bool) -> list[Setting]:
    """In the order of writing.

    Duplicate address detection costs a pod seconds and finds nothing on a fresh link, so it is off unless
    asked for.
    """
    conf = f"net/ipv6/conf/{ifname}"
    settings = [Setting(f"{conf}/enhanced_dad", "1")] if config.enable_dad else []
    settings.append(Setting(f"{conf}/accept_dad", "1" if config.enable_dad else "0"))
    settings.append(Setting(f"net/ipv4/conf/{ifname}/arp_notify", "1"))
    if ipv6:
        settings += [
            Setting("net/ipv6/conf/lo/disable_ipv6", "0"),
            Setting(f"{conf}/disable_ipv6", "0"),
            Setting(f"{conf}/keep_addr_on_down", "1", required=True),
        ]
    return settings


def early_host_steps(bridge: str, host_side: str, gateways: tuple[CIDR, ...]) -> list[Step]:
    """What needs no more than names: router advertisements off, forwarding on."""
    steps: list[Step] = [
        (Setting(f"net/ipv6/conf/{name}/accept_ra", "0"), f"failed to set accept_ra of {name}")
        for name in (bridge, host_side)
    ]
    steps += [
        (Setting(name, "1", required=True), "failed to enable forwarding")
        for name in forwarding_names(gateways)
    ]
    return steps


def host_steps(
    config: BridgeConfig, bridge: Link, host_side: Link, changes: GatewayPlan, gateway: Link | None = None
) -> list[Step]:
    """Port flags, the bridge's state and gateway addresses: only what differs, nothing in the usual case.

    `gateway` is the interface that bears the addresses, None for the bridge.
    """
    steps: list[Step] = []
    if config.hairpin_mode or config.port_isolation:
        port = set_port(host_side.index, hairpin=config.hairpin_mode, isolated=config.port_isolation)
        steps.append((port, f"failed to setup hairpin mode or isolation for {host_side.name}"))
    if not bridge.is_up or (config.promisc_mode and not bridge.is_promiscuous):
        request = set_link(bridge.index, up=True, promisc=True if config.promisc_mode else None)
        steps.append((request, f'failed to set "{bridge.name}" up'))
    steps += _address_steps(gateway or bridge, changes, gateway_prefix(config) if gateway else "")
    if changes.add and gateway is None:
        # A bridge with an address keeps its MAC, or its pods' neighbour entries would go stale. One whose
        # last port is gone shows the MAC zero; by now it has that of its only port.
        mac = bridge.mac if any(bridge.mac) else host_side.mac
        steps.append((set_link(bridge.index, mac=mac), "could not set bridge's mac"))
    return steps


def _address_steps(link: Link, changes: GatewayPlan, prefix: str) -> list[Step]:
    removals: list[Step] = [
        (del_address(link.index, old), f'{prefix}could not remove IP address from "{link.name}"')
        for old in changes.delete
    ]
    additions: list[Step] = [
        (new_address(link.index, new, nodad=True), f'{prefix}could not add IP address {new} to "{link.name}"')
        for new in changes.add
    ]
    return removals + additions


def forwarding_names(gateways: tuple[CIDR, ...]) -> list[str]:
    """The sysctls that must be 1 for each family that the bridge is a gateway of."""
    names = {4: "net/ipv4/ip_forward", 6: "net/ipv6/conf/all/forwarding"}
    return [names[family] for family in sorted({gateway.family for gateway in gateways})]
