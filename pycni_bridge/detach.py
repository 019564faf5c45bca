"""DEL and GC: take away what belongs to an attachment, whatever is left of it and whatever is known.

The host side has a name that follows from the attachment; one made by another implementation is found
through the pod's link or through prevResult. Rules are found by names that follow from the attachment too.
The order is link, rules, address: no address is handed out while something still answers for it. Every
step is tried, the first error is reported.
"""

from __future__ import annotations

import errno

from pycni.context import SandboxMissing
from pycni.errors import CNIError
from pycni.kernel.messages import del_link, get_link
from pycni.kernel.namespace import check
from pycni.names import host_veth, parse_alias
from pycni_bridge import firewall, masquerade, spoofcheck
from pycni_bridge.config import parse_config_for_del
from pycni_bridge.masquerade import Masquerade

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pycni.addresses import CIDR
    from pycni.context import Context
    from pycni.kernel.namespace import Link, Namespace
    from pycni.request import Request
    from pycni.types import Result


class Attempts:
    """Steps that are all tried; the first error is raised at the end."""

    def __init__(self) -> None:
        self._first: Exception | None = None

    async def attempt(self, step: Callable[[], Awaitable[object]]) -> None:
        try:
            await step()
        except Exception as error:  # noqa: BLE001 - going on is the point, whatever it was
            self._first = self._first or error

    def raise_first(self) -> None:
        if self._first is not None:
            raise self._first


async def detach(request: Request, ctx: Context) -> None:
    """DEL; raises the first CNIError after having tried everything."""
    config = parse_config_for_del(request)
    prev = _prev_result(request)
    steps = Attempts()
    rules = masquerade_of(request, prev)
    if config.masquerades and not rules.addresses:
        rules = rules.replace(addresses=await _addresses_beside_others(request, ctx))
    await steps.attempt(lambda: _remove_link(request, ctx, prev))
    if config.mac_spoof_check:
        ref = spoofcheck.reference(request.container_id, request.ifname)
        await steps.attempt(lambda: ctx.run(firewall.remove_spoof_check, ref))
    if config.masquerades:
        await steps.attempt(lambda: ctx.run(firewall.remove_masquerade, rules))
    if config.ipam_type:
        await steps.attempt(lambda: ctx.delegate.delete(request, config.ipam_type))
    steps.raise_first()


def masquerade_of(request: Request, result: Result | None) -> Masquerade:
    """The masquerading of an attachment with the addresses of its result."""
    addresses = tuple(entry.address for entry in result.ips) if result is not None else ()
    return Masquerade(request.network, request.container_id, request.ifname, addresses)


async def _addresses_beside_others(request: Request, ctx: Context) -> tuple[CIDR, ...]:
    """The interface's addresses if its pod has other interfaces with addresses, else none.

    A container's interfaces on one network share a chain of iptables: with no address known all its jumps
    go, which also finds rules of addresses that were changed, but must not happen to another interface.
    """
    try:
        pod = await _open_sandbox(request, ctx)
        link = await pod.link(name=request.ifname) if pod is not None else None
        if pod is None or link is None:
            return ()
        present = [address for address in await pod.addresses() if address.scope == 0]
    except Exception:  # noqa: BLE001 - a guess less; removing the link reports what is wrong
        return ()
    own = tuple(address.cidr for address in present if address.index == link.index)
    return own if len(own) < len(present) else ()


def _prev_result(request: Request) -> Result | None:
    """What prevResult tells, nothing if it cannot be read: DEL needs none of its sources."""
    try:
        return request.prev_result()
    except CNIError:
        return None


async def _remove_link(request: Request, ctx: Context, prev: Result | None) -> None:
    host = ctx.host()
    answer = await host.remove(name=host_veth(request.network, request.container_id, request.ifname))
    if answer.ok:
        return
    check((answer,), "failed to delete the host side", allow=(errno.ENODEV,))
    link = await _foreign_host_side(request, ctx, prev)
    if link is not None:
        answer = await host.remove(index=link.index)
        check((answer,), f'failed to delete "{link.name}"', allow=(errno.ENODEV,))


async def _foreign_host_side(request: Request, ctx: Context, prev: Result | None) -> Link | None:
    """The host side of a pod that another implementation made, None if there is none.

    A veth that prevResult does not name, or where it names none, one that is no bridge's port, is somebody
    else's: so is whatever another attachment of ours made.
    """
    interfaces = prev.interfaces if prev is not None else ()
    names = [item.name for item in interfaces if item.name and not item.sandbox]
    pod = await _open_sandbox(request, ctx)
    link = await _peer_on_host(pod, ctx.host(), request.ifname) if pod is not None else None
    if link is not None and (link.name in names if names else link.master) and not _is_others(link, request):
        return link
    for name in names:
        link = await ctx.host().link(name=name)
        if link is not None and link.kind == "veth" and link.peer_netnsid is not None:
            return link if not _is_others(link, request) else None
    return None


def _is_others(link: Link, request: Request) -> bool:
    owner = parse_alias(link.alias)
    return owner is not None and owner != (request.network, request.container_id, request.ifname)


async def _open_sandbox(request: Request, ctx: Context) -> Namespace | None:
    if not request.netns:
        return None
    try:
        return await ctx.sandbox()
    except SandboxMissing:
        return None


async def _peer_on_host(pod: Namespace, host: Namespace, ifname: str) -> Link | None:
    """The link on the host that the pod's veth is tied to: whatever else bears the name is left alone."""
    from pycni.kernel.nsid import get_nsid, read_nsid

    end = await pod.link(name=ifname)
    if end is None or end.kind != "veth":
        return None
    answer, number = await host.request((get_link(index=end.peer), get_nsid(pod.fd)))
    for peer in answer.links:
        if peer.kind == "veth" and (peer.peer, peer.peer_netnsid) == (end.index, read_nsid(number)):
            return peer
    return None


async def collect(request: Request, ctx: Context) -> None:
    """GC: remove what no valid attachment of this network owns; without a list nothing is touched."""
    valid = request.valid_attachments()
    if valid is None:
        return
    config = parse_config_for_del(request)
    keep = valid | await _at_work(request, ctx)
    veths = await ctx.host().links(kind="veth")
    keep |= await _at_work(request, ctx)  # who began since the first look may own a link of the second
    stale = [link for link in veths if _is_stale(link, request.network, keep)]
    steps = Attempts()
    await steps.attempt(lambda: _delete_all(ctx.host(), stale))
    if config.mac_spoof_check:
        await steps.attempt(lambda: _delete_spoof_checks(ctx, request.network, keep))
    if config.masquerades:
        await steps.attempt(lambda: ctx.run(masquerade.gc, request.network, keep))
    if config.ipam_type:
        await steps.attempt(lambda: ctx.delegate.gc(request, config.ipam_type))
    steps.raise_first()


async def _at_work(request: Request, ctx: Context) -> frozenset[tuple[str, str]]:
    """The attachments of this network that a request is serving right now."""
    every = await ctx.in_flight()
    return frozenset((cid, ifname) for network, cid, ifname in every if network == request.network)


async def _delete_spoof_checks(ctx: Context, network: str, keep: frozenset[tuple[str, str]]) -> None:
    entries = await ctx.run(spoofcheck.entries)
    refs = [ref for ref, veth in entries if _owners(network, ref, veth) - keep]
    if refs:
        await ctx.run(spoofcheck.gc, refs)


def _owners(network: str, ref: str, veth: str) -> set[tuple[str, str]]:
    """The attachment of `network` that a spoof check belongs to, if it is one.

    The rule names container and interface, but not where the one ends and the other begins, and no network:
    the name of our host side follows from all three. Links are not needed, they may be gone.
    """
    dashes = (at for at, char in enumerate(ref) if char == "-")
    pairs = ((ref[:at], ref[at + 1 :]) for at in dashes)
    return {pair for pair in pairs if host_veth(network, *pair) == veth}


def _is_stale(link: Link, network: str, keep: frozenset[tuple[str, str]]) -> bool:
    owner = parse_alias(link.alias)
    return owner is not None and owner[0] == network and owner[1:] not in keep


async def _delete_all(host: Namespace, links: list[Link]) -> None:
    answers = await host.request([del_link(index=link.index) for link in links])
    for link, answer in zip(links, answers, strict=True):
        check((answer,), f'failed to delete "{link.name}"', allow=(errno.ENODEV,))
