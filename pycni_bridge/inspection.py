"""CHECK: observe one attachment, one dump per namespace, and report what `verify` finds."""

from __future__ import annotations

from pycni.errors import CNIError
from pycni.kernel import netns
from pycni.kernel.messages import dump_addresses, dump_routes, get_link
from pycni.kernel.namespace import check
from pycni.kernel.nsid import get_nsid, read_nsid
from pycni_bridge import masquerade, spoofcheck
from pycni_bridge.attach import open_sandbox
from pycni_bridge.config import parse_config
from pycni_bridge.detach import masquerade_of
from pycni_bridge.plan import gateway_addresses
from pycni_bridge.steps import forwarding_names
from pycni_bridge.verify import Expected, Finding, Observed, verify

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pycni.context import Context
    from pycni.kernel.namespace import Link, Namespace
    from pycni.kernel.vlans import VlanRange
    from pycni.request import Request
    from pycni.types import Result


async def inspect(request: Request, ctx: Context) -> None:
    """Raises CNIError with the first finding's text and all others in the details."""
    config = parse_config(request)
    pod = await open_sandbox(request, ctx)
    if config.ipam_type:
        await ctx.delegate.check(request, config.ipam_type)
    prev = request.prev_result()
    if prev is None:
        raise CNIError("Required prevResult missing", "CHECK needs the result of ADD as prevResult")
    gateways = gateway_addresses(config, prev)
    sysctls = tuple((name, "1") for name in forwarding_names(gateways))
    expected = Expected(config, prev, request.ifname, request.netns, gateways, sysctls)
    report(verify(expected, await _observe(request, ctx, pod, expected)))


def report(findings: list[Finding]) -> None:
    """Raise the first finding, if there is one."""
    if not findings:
        return
    first, *others = findings
    details = [first.advice] if first.advice else []
    details += [f"also: {other.text}{f' ({other.advice})' if other.advice else ''}" for other in others]
    raise CNIError(first.text, "; ".join(details))


async def _observe(request: Request, ctx: Context, pod: Namespace, expected: Expected) -> Observed:
    host, config, prev = ctx.host(), expected.config, expected.prev
    link_answer, address_answer, route_answer = await pod.request(
        (get_link(name=request.ifname), dump_addresses(), dump_routes())
    )
    pod_link = link_answer.links[0] if link_answer.links else None
    index = pod_link.index if pod_link is not None else 0
    named = {
        config.bridge,
        config.gateway_link,
        *(item.name for item in prev.interfaces if item.name and not item.sandbox),
    }
    links, number = await _host_links(host, named, pod_link, pod.fd)
    host_side = _host_side(links, pod_link, number)
    gateway = links.get(config.gateway_link) if expected.gateways else None
    gateway_addresses = await host.addresses(index=gateway.index) if gateway is not None else []
    names = [name for name, _ in expected.sysctls]
    return Observed(
        pod_link=pod_link,
        host_side=host_side,
        host_links=links,
        gateway_addresses=tuple(address.cidr for address in gateway_addresses),
        pod_addresses=tuple(address for address in address_answer.addresses if address.index == index),
        pod_routes=route_answer.routes,
        sysctls=dict(zip(names, await host.read_sysctls(names) if names else [], strict=True)),
        gateway_port=await _gateway_port(host, gateway) if config.vlan else None,
        vlans=await _vlans(host) if config.joins_vlans else {},
        sandboxes=await _sandboxes(ctx, request, prev),
        masquerade=not config.masquerades
        or not await ctx.run(masquerade.unmasqueraded, masquerade_of(request, prev)),
        spoof_check=not config.mac_spoof_check or await _spoof_check(request, ctx, pod_link, host_side),
    )


async def _spoof_check(request: Request, ctx: Context, pod_link: Link | None, host_side: Link | None) -> bool:
    """Whether the rules are there; without the links they can only be told by the attachment's name."""
    ref = spoofcheck.reference(request.container_id, request.ifname)
    if pod_link is None or host_side is None:
        return ref in await ctx.run(spoofcheck.refs)
    return not await ctx.run(spoofcheck.drift, host_side.name, pod_link.mac, ref)


async def _host_links(
    host: Namespace, names: set[str], pod_link: Link | None, pod_fd: int
) -> tuple[dict[str, Link], int | None]:
    """The named links and the pod's peer, by name; and the number that the host has for the sandbox."""
    requests = [get_link(name=name) for name in sorted(names)]
    if pod_link is not None and pod_link.peer:
        requests.append(get_link(index=pod_link.peer))
    *answers, number = await host.request((*requests, get_nsid(pod_fd)))
    return {link.name: link for answer in answers for link in answer.links}, read_nsid(number)


async def _gateway_port(host: Namespace, gateway: Link | None) -> Link | None:
    """The port that ties a VLAN's gateway to the bridge; None if the gateway is no veth pair on the host."""
    if gateway is None or gateway.kind != "veth" or gateway.peer_netnsid is not None:
        return None
    return await host.link(index=gateway.peer)


async def _vlans(host: Namespace) -> dict[int, tuple[VlanRange, ...]]:
    """The VLANs of all bridge ports, by index; empty where the kernel has none."""
    from pycni.kernel.vlans import dump_vlans, read_vlans

    answers = await host.request((dump_vlans(),))
    check(answers, "failed to list VLANs")
    return {index: port.vlans for index, port in read_vlans(answers[0].payloads).items()}


def _host_side(links: dict[str, Link], pod_link: Link | None, pod_number: int | None) -> Link | None:
    if pod_link is None:
        return None
    tied = (link for link in links.values() if link.kind == "veth" and link.index == pod_link.peer)
    ends = (pod_link.index, pod_number)
    return next((link for link in tied if (link.peer, link.peer_netnsid) == ends), None)


async def _sandboxes(ctx: Context, request: Request, prev: Result) -> frozenset[str]:
    """The paths in prevResult that lead to the sandbox: a symlink to it is the same place."""
    paths = {item.sandbox for item in prev.interfaces if item.sandbox}
    return await ctx.run(_same_place, frozenset(paths), request.netns, ctx.caller.sandbox_id)


def _same_place(paths: frozenset[str], netns_path: str, sandbox_id: tuple[int, int] | None) -> frozenset[str]:
    same = set()
    for path in paths:
        try:
            if path == netns_path or netns.identity(path) == sandbox_id:
                same.add(path)
        except (OSError, ValueError):
            continue
    return frozenset(same)
