"""The smallest plugin that networks a pod: a veth pair, an address and a route.

The address comes from host-local (the config's "ipam"; IPv4). Each pod has a link of its own to the node,
which routes between them. README.md says how this file becomes an executable plugin.
"""

from pycni import (
    CIDR,
    DEFAULT_V4,
    CNIError,
    Context,
    Interface,
    IPConfig,
    Plugin,
    Request,
    Result,
    Route,
    Transaction,
)
from pycni.kernel.messages import del_link, get_link, new_address, new_route, new_veth, set_link
from pycni.kernel.namespace import check
from pycni.names import host_veth

ON_LINK = 253  # RT_SCOPE_LINK of rtnetlink(7): no gateway leads there


def node_side(request: Request) -> str:
    """The same name at every call for one attachment, so that DEL need not ask anybody."""
    return host_veth(request.network, request.container_id, request.ifname)


class Mini(Plugin):
    name = "mini"

    async def add(self, request: Request, ctx: Context) -> Result:
        node, pod, veth = ctx.host(), await ctx.sandbox(), node_side(request)
        if await pod.link(request.ifname) or await node.link(veth):
            raise CNIError(f'"{request.ifname}" already exists', "it was added before: DEL it first")
        async with Transaction(ctx) as done:
            done.undo(lambda: self.delete(request, ctx))
            lease = (await ctx.delegate.add(request, "host-local")).ips[0]
            own, gateway = CIDR(lease.address.ip, 32), lease.gateway or lease.address.network.ip + 1
            pair = [new_veth(veth, request.ifname, up=True, peer_netns_fd=pod.fd), get_link(name=veth)]
            answers = await node.request(pair)
            check(answers, f'failed to make "{request.ifname}"')
            link = answers[1].links[0]
            outside = [new_address(link.index, CIDR(gateway, 32))]
            outside += [new_route(link.index, own, scope=ON_LINK)]
            inside = [new_address(link.peer, own), set_link(link.peer, up=True)]
            inside += [new_route(link.peer, CIDR(gateway, 32), scope=ON_LINK)]
            inside += [new_route(link.peer, DEFAULT_V4, gateway)]
            check(await node.request(outside), f'failed to configure "{veth}"')
            check(await pod.request(inside), f'failed to configure "{request.ifname}"')
        interfaces = (Interface(veth), Interface(request.ifname, sandbox=request.netns))
        address = IPConfig(own, gateway, interface=1)
        return Result(interfaces, (address,), (Route(DEFAULT_V4, gateway),))

    async def check(self, request: Request, ctx: Context) -> None:
        await ctx.delegate.check(request, "host-local")
        link = await (await ctx.sandbox()).link(request.ifname)
        if link is None or not link.is_up:
            raise CNIError(f'"{request.ifname}" is missing or down', f"looked in {request.netns}")

    async def delete(self, request: Request, ctx: Context) -> None:
        await ctx.host().request([del_link(name=node_side(request))])
        await ctx.delegate.delete(request, "host-local")
