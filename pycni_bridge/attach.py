"""ADD: make the attachment, or leave nothing of it.

The decisions are in `plan` and `steps`; here is the order of effects, each with its inverse. What can be
refused is refused before the first effect. An IPAM that does not need the pod's link is asked before there is
one: a full range must not cost a link. In any case the address is given back last.
"""

from __future__ import annotations

import errno

from pycni.addresses import IPV6
from pycni.context import Transaction
from pycni.errors import CNIError
from pycni.kernel.messages import get_link
from pycni.kernel.namespace import check, perform_in
from pycni.types import Interface, Result
from pycni.wire.result import print_result
from pycni_bridge import firewall, spoofcheck
from pycni_bridge.config import parse_config
from pycni_bridge.detach import masquerade_of
from pycni_bridge.gateways import Gateways
from pycni_bridge.plan import attachment_result, gateway_addresses, layer2_result
from pycni_bridge.settling import final_look, wait_for_carrier, wait_for_dad
from pycni_bridge.steps import early_host_steps, pod_steps
from pycni_bridge.wiring import Attachment, join_vlans, make_wiring

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pycni.addresses import CIDR
    from pycni.context import Context
    from pycni.kernel.namespace import Answer, Link, Namespace
    from pycni.request import Request
    from pycni_bridge.wiring import Wiring


async def open_sandbox(request: Request, ctx: Context) -> Namespace:
    """The pod's namespace; raises CNIError with the plugin's words in front."""
    try:
        return await ctx.sandbox()
    except CNIError as error:
        text = f'failed to open netns "{request.netns}": {error.msg}'
        raise CNIError(text, error.details, code=error.code) from None


async def attach(request: Request, ctx: Context) -> Result:
    """ADD; raises CNIError after having undone whatever was done."""
    config = parse_config(request)
    item = Attachment(request, ctx, config, await open_sandbox(request, ctx))
    bridge = await _look_around(item)
    ipam = Ipam(item)
    link_first = await ipam.needs_link()
    async with Transaction(ctx) as done:
        done.undo(ipam.give_back)
        wiring = await make_wiring(item, done, bridge) if link_first else None
        result = await ipam.ask()
        if not result.ips:
            print_result(result, request.cni_version)  # refuses what an old version cannot carry
        wanted = gateway_addresses(config, result)
        wiring = wiring or await make_wiring(item, done, bridge)
        gateways = Gateways(item, wiring, wanted)
        changes = await gateways.plan()
        if config.joins_vlans:
            await join_vlans(item, wiring)
        await gateways.set_up(done, changes)
        seen = await _set_up_pod(item, wiring, wanted, result)
        await _add_rules(item, done, result)
        return _with_interfaces(item, result, gateways, *await wait_for_carrier(item, seen))


async def _look_around(item: Attachment) -> Link | None:
    """The bridge, if it is there; raises CNIError (999) if the names that we need are taken."""
    config = item.config
    host_answers, pod_answers = await perform_in(
        (item.host, (get_link(name=config.bridge), get_link(name=item.host_name))),
        (item.pod, (get_link(name=item.ifname),)),
    )
    bridge = _there(host_answers[0], config.bridge)
    if bridge is not None and bridge.kind != "bridge":
        raise CNIError(
            f'failed to create bridge "{config.bridge}": "{config.bridge}" already exists '
            "but is not a bridge",
            f'it is a link of kind "{bridge.kind or "device"}"; set "bridge" to another name',
        )
    if _there(pod_answers[0], item.ifname) is not None:
        raise item.taken(f'"{item.ifname}" is there in {item.request.netns}: DEL this attachment first')
    if _there(host_answers[1], item.host_name) is not None:
        raise item.taken(f"{item.host_name} belongs to this attachment in another sandbox: DEL it first")
    return bridge


def _there(answer: Answer, name: str) -> Link | None:
    check((answer,), f'failed to lookup "{name}"', allow=(errno.ENODEV,))
    return answer.links[0] if answer.links else None


class Ipam:
    """The IPAM delegate of one ADD, or none for layer 2."""

    def __init__(self, item: Attachment) -> None:
        self._item = item
        self._asked = False

    async def needs_link(self) -> bool:
        """Whether the pod's interface must be there first. Raises CNIError (999) if there is no such IPAM."""
        item, ipam_type = self._item, self._item.config.ipam_type
        return bool(ipam_type) and await item.ctx.delegate.needs_link(item.request, ipam_type)

    async def ask(self) -> Result:
        """The attachment's result, without interfaces; raises the delegate's CNIError."""
        item, config = self._item, self._item.config
        if not config.ipam_type:
            return layer2_result(config)
        self._asked = True
        return attachment_result(config, await item.ctx.delegate.add(item.request, config.ipam_type))

    async def give_back(self) -> None:
        """A delegate whose ADD failed is told DEL as well (spec 1.1.0, section 4)."""
        if self._asked:
            await self._item.ctx.delegate.delete(self._item.request, self._item.config.ipam_type)


async def _set_up_pod(
    item: Attachment, wiring: Wiring, gateways: tuple[CIDR, ...], result: Result
) -> Sequence[Answer]:
    """The pod's end configured and up; the answers are a look at the host's links right after.

    The host's sysctls travel with it, not before: an address in the way must be found with nothing changed.
    """
    index = wiring.host_side.peer
    early = early_host_steps(wiring.bridge.name, item.host_name, gateways)
    steps = pod_steps(item.config, item.ifname, index, result)
    *answers, seen = await perform_in(
        (item.host, [step for step, _ in early]),
        (item.pod, [step for step, _ in steps]),
        (item.host, final_look(item)),
    )
    for answer, (_, what) in zip((*answers[0], *answers[1]), (*early, *steps), strict=True):
        check((answer,), what)
    if item.config.enable_dad and any(entry.address.family == IPV6 for entry in result.ips):
        await wait_for_dad(item, index)
    return seen


async def _add_rules(item: Attachment, done: Transaction, result: Result) -> None:
    request, config, run = item.request, item.config, item.ctx.run
    if config.mac_spoof_check:
        ref = spoofcheck.reference(request.container_id, request.ifname)
        done.undo(lambda: run(firewall.remove_spoof_check, ref))
        await run(firewall.add_spoof_check, item.host_name, item.pod_mac, ref)
    if config.masquerades:
        rules = masquerade_of(request, result)
        done.undo(lambda: run(firewall.remove_masquerade, rules))
        await run(firewall.add_masquerade, rules, config.ip_masq_backend or None)


def _with_interfaces(
    item: Attachment, result: Result, gateways: Gateways, bridge: Link, host_side: Link
) -> Result:
    interfaces = [
        Interface(bridge.name, bridge.mac_text),
        Interface(host_side.name, host_side.mac_text),
        Interface(item.ifname, item.pod_mac.hex(":"), sandbox=item.request.netns),
    ]
    if gateways.vlan_interface is not None:
        interfaces.append(Interface(gateways.vlan_interface.name, gateways.vlan_interface.mac_text))
    return result.replace(interfaces=tuple(interfaces))
