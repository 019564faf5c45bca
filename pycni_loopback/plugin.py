"""The loopback plugin: the sandbox's `lo` is up, and the runtime is told its addresses.

It does what the reference's loopback does, but converts its own result to the config's version, takes `lo`
down again if an ADD fails, and never takes down the `lo` of its caller.
"""

from __future__ import annotations

from pycni.addresses import IPV4, IPV6
from pycni.context import SandboxMissing, Transaction
from pycni.errors import CNIError
from pycni.kernel import messages
from pycni.kernel.namespace import check
from pycni.skel import Plugin
from pycni.types import Interface, IPConfig, Result

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Final

    from pycni.context import Context
    from pycni.kernel.messages import Address, Link
    from pycni.kernel.namespace import Namespace
    from pycni.request import Request

LO: Final = "lo"


class Loopback(Plugin):
    """ADD sets `lo` up, DEL sets it down, CHECK demands that it is up; CNI_IFNAME does not matter."""

    name = "loopback"
    loopless = True

    async def add(self, request: Request, ctx: Context) -> Result:
        """The addresses of `lo`, or prevResult as it is where there is one.

        Raises CNIError for a config that cannot be read, a sandbox that cannot be opened, and a `lo` with
        an address that is not a loopback one; `lo` is then left as it was.
        """
        previous = read_prev_result(request)
        sandbox = await ctx.sandbox()
        async with Transaction(ctx) as done:
            link = await _lo(sandbox)
            if not link.is_up:
                done.undo(lambda: _set_down(sandbox, link))
            addresses = await _set_up(sandbox, link)
            result = describe(link, addresses, request.netns)
        return result if previous is None else previous

    async def check(self, request: Request, ctx: Context) -> None:
        """Raises CNIError if `lo` is down; prevResult is not looked at."""
        link = await _lo(await ctx.sandbox())
        if not link.is_up:
            raise CNIError("loopback interface is down", f'"{LO}" in {request.netns} was set down after ADD')

    async def delete(self, request: Request, ctx: Context) -> None:
        """`lo` down; fine without a sandbox, and for the caller's own namespace without touching it."""
        if not request.netns:
            return
        try:
            sandbox = await ctx.sandbox()
        except SandboxMissing:
            return
        if ctx.caller.sandbox_id == ctx.caller.netns:
            # Only CNI_NETNS_OVERRIDE lets this pass the skeleton, and no host can do without its lo.
            ctx.log(f"loopback: {request.netns} is the caller's own namespace, its lo stays up")
            return
        link = await _lo(sandbox)
        if link.is_up:
            await _set_down(sandbox, link)


def read_prev_result(request: Request) -> Result | None:
    """The config's prevResult, after the types of the common members were checked.

    Raises CNIError `failed to parse network config: …` or `failed to parse prevResult: …`.
    """
    members = request.members("failed to parse network config: ")
    members.string("type")
    members.object("capabilities")
    members.object("dns")
    members.object("prevResult")
    ipam = members.object("ipam")
    if ipam is not None:
        ipam.string("type")
    try:
        return request.prev_result()
    except CNIError as error:
        raise CNIError(f"failed to parse prevResult: {error.msg}", error.details, code=error.code) from None


def describe(link: Link, addresses: Sequence[Address], netns: str) -> Result:
    """The result of a loopback that stands alone: `lo` and its first address of each family.

    Raises CNIError if one of the addresses is not a loopback address.
    """
    ips: list[IPConfig] = []
    for family in (IPV4, IPV6):
        cidrs = [address.cidr for address in addresses if address.cidr.family == family]
        for cidr in cidrs:
            if not cidr.ip.is_loopback():
                raise CNIError(
                    f'loopback interface found with non-loopback address "{cidr.ip}"',
                    f'"{LO}" in {netns} has {cidr}; remove it, or give it to another interface',
                )
        ips += [IPConfig(cidr, interface=0) for cidr in cidrs[:1]]
    mac = ":".join(f"{byte:02x}" for byte in link.mac)
    return Result(interfaces=(Interface(LO, mac, sandbox=netns),), ips=tuple(ips))


async def _lo(sandbox: Namespace) -> Link:
    link = await sandbox.link(name=LO)
    if link is None:
        raise CNIError("Link not found", f'the sandbox has no interface "{LO}"; was it renamed?')
    return link


async def _set_up(sandbox: Namespace, link: Link) -> tuple[Address, ...]:
    """Set `lo` up and see its addresses (::1 comes with the flag) in one call of the kernel."""
    answers = await sandbox.request(
        [messages.set_link(link.index, up=True), messages.dump_addresses(index=link.index)]
    )
    check(answers[:1], f'failed to set "{LO}" up')
    check(answers[1:], f'failed to list addresses of "{LO}"')
    return answers[1].addresses


async def _set_down(sandbox: Namespace, link: Link) -> None:
    check(await sandbox.request([messages.set_link(link.index, up=False)]), f'failed to set "{LO}" down')
