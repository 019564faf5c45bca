"""The bridge as the pods' gateway: its addresses, and those of a VLAN's gateway interface.

Addresses are shared by all pods of a network, so taking them back after a failed ADD has to ask who else
relies on them.
"""

from __future__ import annotations

import errno

from pycni.kernel.messages import del_address, new_address
from pycni.kernel.namespace import check
from pycni_bridge.plan import plan_gateways
from pycni_bridge.steps import host_steps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pycni.addresses import CIDR
    from pycni.context import Transaction
    from pycni.kernel.namespace import Link
    from pycni_bridge.plan import GatewayPlan
    from pycni_bridge.steps import Step
    from pycni_bridge.vlan_gateway import VlanGateway
    from pycni_bridge.wiring import Attachment, Wiring


class Gateways:
    """The gateway addresses that one ADD needs; `bearer` is the interface that has them in the end."""

    def __init__(self, item: Attachment, wiring: Wiring, wanted: tuple[CIDR, ...]) -> None:
        self.item = item
        self.wiring = wiring
        self.wanted = wanted
        self.bearer: Link = wiring.bridge
        self.vlan_interface: Link | None = None
        self._vlan: VlanGateway | None = None

    async def plan(self) -> GatewayPlan:
        """What has to change; raises CNIError (999) if an address is in the way."""
        config, host = self.item.config, self.item.host
        existing = self.wiring.addresses
        if self.wanted and config.vlan:
            link = await host.link(name=config.gateway_link)
            addresses = await host.addresses(index=link.index) if link is not None else []
            existing = tuple(address.cidr for address in addresses)
        return plan_gateways(config, self.wanted, existing)

    async def set_up(self, done: Transaction, changes: GatewayPlan) -> None:
        """Port flags, the bridge's own state, addresses: only what differs. Raises CNIError (999)."""
        item, bridge, host_side = self.item, self.wiring.bridge, self.wiring.host_side
        steps: list[Step] = []
        if self.wanted and item.config.vlan:
            from pycni_bridge.vlan_gateway import VlanGateway

            self._vlan = VlanGateway(item.config, item.host, bridge, host_side)
            self.vlan_interface, steps = await self._vlan.ensure(done)
            self.bearer = self.vlan_interface
        if changes.add or changes.delete:
            done.undo(lambda: self._give_back(changes))
        steps += host_steps(item.config, bridge, host_side, changes, self.vlan_interface)
        if not steps:
            return
        answers = await item.host.perform([step for step, _ in steps])
        removals = [del_address(self.bearer.index, old) for old in changes.delete]
        for answer, (step, what) in zip(answers, steps, strict=True):
            # Another ADD may have given the bridge the same address, or taken the old one, in the meantime.
            check((answer,), what, allow=(errno.EADDRNOTAVAIL if step in removals else errno.EEXIST,))

    async def _give_back(self, changes: GatewayPlan) -> None:
        """Restore the old addresses, unless other pods rely on the new ones by now."""
        if await self._in_use(changes):
            return
        await self._replace(changes.add, changes.delete)
        if await self._in_use(changes):  # a pod that came in between may have seen the new ones
            await self._replace(changes.delete, changes.add)

    async def _in_use(self, changes: GatewayPlan) -> bool:
        if self._vlan is not None:
            return await self._vlan.used_by_others(self.bearer)
        own = self.wiring.host_side.index
        others = [port for port in await self.item.host.ports(self.wiring.bridge.index) if port.index != own]
        # Ports older than ours relied on what was taken away, only younger ones can rely on the new.
        return any(not changes.delete or port.index > own for port in others)

    async def _replace(self, old: tuple[CIDR, ...], new: tuple[CIDR, ...]) -> None:
        index = self.bearer.index
        removals = [del_address(index, address) for address in old]
        await self.item.host.request(
            (*removals, *(new_address(index, address, nodad=True) for address in new))
        )
