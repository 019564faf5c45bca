"""What an ADD shall bring about, decided without touching anything.

Config and the IPAM's answer become the attachment's result; result and observed state become gateway
changes and kernel routes. Sources: the reference's plugins/main/bridge and pkg/ipam (ConfigureIface).
"""

from __future__ import annotations

from pycni.addresses import CIDR, DEFAULT_V4, DEFAULT_V6, IP, IPV4
from pycni.errors import CNIError
from pycni.record import Record
from pycni.types import IPConfig, Result, Route

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Final

    from pycni_bridge.config import BridgeConfig

POD_INTERFACE: Final = 2
"""Index of the pod's interface in a result: bridge, host side, pod."""

SCOPE_LINK: Final = 253
"""RT_SCOPE_LINK: destinations on the link itself, which no gateway leads to."""


class GatewayPlan(Record):
    """Changes to the addresses of the gateway's interface: the bridge, or one in the pods' VLAN."""

    add: tuple[CIDR, ...] = ()
    delete: tuple[CIDR, ...] = ()


def attachment_result(config: BridgeConfig, ipam: Result) -> Result:
    """The IPAM's answer as this attachment's: gateways filled in, default routes decided, DNS chosen.

    Interfaces are added when their MACs are known. Raises CNIError (999)
    `IPAM plugin returned missing IP config`.
    """
    if not ipam.ips:
        raise CNIError(
            "IPAM plugin returned missing IP config", f'"{config.ipam_type}" answered without "ips"'
        )
    ips = tuple(_with_gateway(config, entry) for entry in ipam.ips)
    routes = _default_routes(ips, ipam.routes) if config.is_default_gateway else ipam.routes
    return Result(ips=ips, routes=routes, dns=config.dns or ipam.dns)


def layer2_result(config: BridgeConfig) -> Result:
    return Result(dns=config.dns)


def _with_gateway(config: BridgeConfig, entry: IPConfig) -> IPConfig:
    gateway = entry.gateway
    if gateway is None and config.is_gateway:
        gateway = entry.address.network.ip + 1
    if gateway is not None and gateway.family != entry.address.family:
        raise CNIError(
            f"gateway {gateway} and address {entry.address} are not of the same family",
            'correct the "gateway" of the range that the address was taken from',
        )
    return IPConfig(address=entry.address, gateway=gateway, interface=POD_INTERFACE)


def _default_routes(ips: Sequence[IPConfig], routes: tuple[Route, ...]) -> tuple[Route, ...]:
    """One default route per family: the IPAM's own (with the gateway filled in if it has none), or ours."""
    decided = list(routes)
    for entry in ips:
        if entry.gateway is None:
            continue
        default = DEFAULT_V4 if entry.address.family == IPV4 else DEFAULT_V6
        position = next((at for at, route in enumerate(decided) if route.dst == default), None)
        if position is None:
            decided.append(Route(default, entry.gateway))
        elif decided[position].gw is None:
            decided[position] = decided[position].replace(gw=entry.gateway)
    return tuple(decided)


def gateway_addresses(config: BridgeConfig, result: Result) -> tuple[CIDR, ...]:
    """What the gateway's interface shall have: each gateway with its pod address' prefix length."""
    if not config.is_gateway:
        return ()
    wanted: list[CIDR] = []
    for entry in sorted(result.ips, key=lambda entry: entry.address.family):
        if entry.gateway is not None:
            gateway = CIDR(entry.gateway, entry.address.prefix)
            if gateway not in wanted:
                wanted.append(gateway)
    return tuple(wanted)


def plan_gateways(config: BridgeConfig, wanted: Sequence[CIDR], existing: Iterable[CIDR]) -> GatewayPlan:
    """Which addresses to add to the gateway's interface and, with forceAddress, which to take from it.

    It may have one IPv4 network at a time and IPv6 networks that do not overlap (the reference's
    rule); several gateways of one attachment never conflict with each other. Raises CNIError (999) with the
    reference's text if an address is in the way and forceAddress is off.
    """
    present = list(existing)
    missing = tuple(gateway for gateway in wanted if gateway not in present)
    in_the_way: list[CIDR] = []
    for gateway in missing:
        for address in present:
            if address not in wanted and address not in in_the_way and _conflict(gateway, address):
                if not config.force_address:
                    raise _refused(config, gateway, address)
                in_the_way.append(address)
    return GatewayPlan(missing, tuple(in_the_way))


def gateway_prefix(config: BridgeConfig) -> str:
    """How messages about the gateway's addresses open."""
    return (
        "failed to set vlan interface for bridge with addr: "
        if config.vlan
        else "failed to set bridge addr: "
    )


def _refused(config: BridgeConfig, gateway: CIDR, address: CIDR) -> CNIError:
    name = config.gateway_link
    way_out = f"delete {name}" if config.vlan else "use another bridge, or delete the bridge"
    return CNIError(
        f'{gateway_prefix(config)}"{name}" already has an IP address different from {gateway}',
        f'"{name}" has {address}; set "forceAddress": true to replace it, {way_out} '
        "when no pod uses it any more",
    )


def _conflict(gateway: CIDR, address: CIDR) -> bool:
    if gateway.family != address.family:
        return False
    return gateway.family == IPV4 or gateway.overlaps(address)


def kernel_routes(result: Result) -> tuple[Route, ...]:
    """The routes as the kernel gets them: without a gateway of their own they use their family's.

    A route of scope link leads to the link itself and gets none.
    """
    gateways: dict[int, IP] = {}
    for entry in result.ips:
        if entry.gateway is not None:
            gateways.setdefault(entry.address.family, entry.gateway)
    return tuple(
        route
        if route.gw is not None or (route.scope or 0) >= SCOPE_LINK
        else route.replace(gw=gateways.get(route.dst.family))
        for route in result.routes
    )
