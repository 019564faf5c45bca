"""Results converted to any spec version and printed as that version prints them.

Within a shape (see `pycni.wire.parse`) a result keeps everything; between shapes it loses what the older
one cannot say. Source: the reference's `pkg/types`, whose losses and texts these are.
"""

from __future__ import annotations

from pycni.addresses import IPV4
from pycni.errors import CNIError
from pycni.types import Interface, IPConfig, Result, Route
from pycni.versions import NEWEST, OLDEST, SUPPORTED
from pycni.wire.json import dumps
from pycni.wire.parse import LABELLED, PAIR, SHAPE_OF, SORTED, parse_as, parse_prev_result, parse_result

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pycni.addresses import IP
    from pycni.wire.json import JSON

__all__ = ["convert", "parse_as", "parse_prev_result", "parse_result", "print_result", "result_members"]


def convert(result: Result, version: str) -> Result:
    """The result as `version` (empty: 0.1.0) can say it; `cni_version` "" of the given one is the newest.

    Raises CNIError (999) `no converter for CNI result version …`, and `cannot convert: no valid IP
    addresses` for 0.1.0 and 0.2.0 if there is no address for them.
    """
    source, target = result.cni_version or NEWEST, version or OLDEST
    before, after = SHAPE_OF.get(source), SHAPE_OF.get(target)
    if before is None or after is None:
        raise CNIError(
            f"no converter for CNI result version {source} to {target}",
            f"known are {', '.join(SUPPORTED)}",
        )
    if before is SORTED and after is not SORTED:
        result = _labelled(result)
    if after is PAIR and before is not PAIR:
        result = _one_per_family(result, target)
    if after is SORTED and before is not SORTED:
        result = result.replace(ips=tuple(ip.replace(version="") for ip in result.ips))
    return result if result.cni_version == target else result.replace(cni_version=target)


def _labelled(result: Result) -> Result:
    return result.replace(
        interfaces=tuple(Interface(item.name, item.mac, sandbox=item.sandbox) for item in result.interfaces),
        ips=tuple(ip.replace(version="4" if ip.address.family == IPV4 else "6") for ip in result.ips),
    )


def _one_per_family(result: Result, target: str) -> Result:
    first: dict[str, IPConfig] = {}
    for ip in result.ips:
        if ip.version in ("4", "6"):
            first.setdefault(ip.version, IPConfig(ip.address, ip.gateway, version=ip.version))
    if not first:
        raise CNIError(
            "cannot convert: no valid IP addresses",
            f"a result of version {target} must have an address; use cniVersion 0.3.0 or newer",
        )
    labels = sorted(first)
    routes = [Route(route.dst, route.gw) for route in result.routes if _label(route) in first]
    return Result(
        ips=tuple(first[label] for label in labels),
        routes=tuple(sorted(routes, key=_label)),
        dns=result.dns,
    )


def _label(route: Route) -> str:
    return "4" if route.dst.family == IPV4 else "6"


def print_result(result: Result, version: str) -> bytes:
    """The result as `version` prints it: four blanks per level, no line feed at the end.

    Raises like `convert`.
    """
    members = _members(convert(result, version))
    return dumps(members, indent="    ", sort_keys=SHAPE_OF[version or OLDEST] is SORTED)


def result_members(result: Result, version: str, *, sort: bool = False) -> dict[str, JSON]:
    """The result as `version` prints it, as an object for another document (a prevResult, a cache file).

    Members are in the version's order of printing, or sorted by name at all levels. Raises like `convert`.
    """
    members = _members(convert(result, version))
    return _in_order(members) if sort or SHAPE_OF[version or OLDEST] is SORTED else members


def _in_order(members: dict[str, JSON]) -> dict[str, JSON]:
    return {key: _inner_order(members[key]) for key in sorted(members)}


def _inner_order(value: JSON) -> JSON:
    if isinstance(value, dict):
        return _in_order(value)
    return [_inner_order(item) for item in value] if isinstance(value, list) else value


def _members(result: Result) -> dict[str, JSON]:
    """A converted result in the order of the older shapes."""
    shape = SHAPE_OF[result.cni_version]
    members: dict[str, JSON] = {"cniVersion": result.cni_version}
    if shape is PAIR:
        for ip in result.ips:
            members["ip4" if ip.version == "4" else "ip6"] = _present(
                ip=str(ip.address),
                gateway=_text(ip.gateway),
                routes=[_route(route) for route in result.routes if _label(route) == ip.version],
            )
    else:
        lists = _present(
            interfaces=[_interface_members(item) for item in result.interfaces],
            ips=[_ip_members(ip, shape is LABELLED) for ip in result.ips],
            routes=[_route(route) for route in result.routes],
        )
        members.update(lists)
    if result.dns or shape is not SORTED:
        members["dns"] = _present(
            nameservers=list(result.dns.nameservers),
            domain=result.dns.domain,
            search=list(result.dns.search),
            options=list(result.dns.options),
        )
    return members


def _present(**members: JSON) -> dict[str, JSON]:
    """Those members that are not empty: no list, text or number 0."""
    return {key: value for key, value in members.items() if value}


def _text(ip: IP | None) -> str:
    return "" if ip is None else str(ip)


def _interface_members(item: Interface) -> dict[str, JSON]:
    rest = _present(
        mac=item.mac,
        mtu=item.mtu,
        sandbox=item.sandbox,
        socketPath=item.socket_path,
        pciID=item.pci_id,
    )
    return {"name": item.name, **rest}


def _ip_members(ip: IPConfig, labelled: bool) -> dict[str, JSON]:
    members: dict[str, JSON] = {"version": ip.version} if labelled else {}
    if ip.interface is not None:
        members["interface"] = ip.interface
    members["address"] = str(ip.address)
    if ip.gateway is not None:
        members["gateway"] = str(ip.gateway)
    return members


def _route(route: Route) -> dict[str, JSON]:
    members = _present(
        dst=str(route.dst),
        gw=_text(route.gw),
        mtu=route.mtu,
        advmss=route.advmss,
        priority=route.priority,
    )
    if route.table is not None:
        members["table"] = route.table
    if route.scope is not None:
        members["scope"] = route.scope
    return members
