"""ADD: make the attachment, or leave nothing of it.

The decisions are in `plan`; here is the order of effects, each with its inverse. Everything that can be
refused is refused before the first effect, the IPAM is asked before the kernel (a full range must not cost
a link), and the one request that creates the pair carries MACs, MTU, namespace and master, so that no
half-made link is ever seen.
"""

from __future__ import annotations

import errno
import os

from pycni.addresses import IPV6
from pycni.context import Transaction
from pycni.errors import TRY_AGAIN_LATER, CNIError
from pycni.kernel.messages import (
    del_address,
    del_link,
    get_link,
    new_address,
    new_bridge,
    new_veth,
    set_alias,
    set_link,
)
from pycni.kernel.namespace import check
from pycni.names import host_veth, link_alias
from pycni.types import Interface, Result
from pycni.wire.result import print_result
from pycni_bridge import firewall, spoofcheck
from pycni_bridge.config import parse_config
from pycni_bridge.detach import masquerade_of
from pycni_bridge.plan import (
    GatewayPlan,
    attachment_result,
    gateway_addresses,
    layer2_result,
    plan_gateways,
)
from pycni_bridge.steps import host_steps, pod_steps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from pycni.addresses import CIDR
    from pycni.context import Context
    from pycni.kernel.namespace import Answer, Link, Namespace
    from pycni.request import Request
    from pycni_bridge.config import BridgeConfig
    from pycni_bridge.steps import Step
    from pycni_bridge.vlan_gateway import VlanGateway

_ATTEMPTS: Final = 3
"""How often a bridge is looked for again when another ADD's rollback took it away in between."""
_CARRIER_PAUSES: Final = (0.001, 0.002, 0.005, 0.01, *(0.02,) * 10, *(0.1,) * 23)
"""Seconds between looks at the port's state; 2.5 s in all, as long as the reference waits."""
_DAD_PAUSE: Final = 0.05
_DAD_LOOKS: Final = 100


def random_mac() -> bytes:
    """Six random bytes: unicast, locally administered. Given at creation, so that udev leaves them alone."""
    first, *rest = os.urandom(6)
    return bytes(((first | 0x02) & 0xFE, *rest))


async def open_sandbox(request: Request, ctx: Context) -> Namespace:
    """The pod's namespace; raises CNIError with the plugin's words in front."""
    try:
        return await ctx.sandbox()
    except CNIError as error:
        text = f'failed to open netns "{request.netns}": {error.msg}'
        raise CNIError(text, error.details, code=error.code) from None


class Attach:
    """One ADD on its way; `run` is the order of effects."""

    def __init__(self, request: Request, ctx: Context) -> None:
        self.request = request
        self.ctx = ctx
        self.config: BridgeConfig = parse_config(request)
        self.host = ctx.host()
        self.host_name = host_veth(request.network, request.container_id, request.ifname)
        self.pod_mac = self.config.mac or random_mac()
        self.vlan_gateway: Link | None = None

    async def run(self) -> Result:
        """Raises CNIError after having undone whatever was done."""
        self.pod = await open_sandbox(self.request, self.ctx)
        bridge = await self._look_around()
        async with Transaction(self.ctx) as done:
            result = await self._addresses(done)
            if not result.ips:
                print_result(result, self.request.cni_version)  # refuses what an old version cannot carry
            gateways = gateway_addresses(self.config, result)
            bridge, host_side = await self._make_pair(done, bridge)
            # Only now: while the bridge has no port, another ADD that is undone may take its addresses away.
            changes = await self._gateway_changes(gateways, bridge)
            if self.config.joins_vlans:
                await self._join_vlans(bridge, host_side)
            await self._set_up_pod(host_side.peer, result)
            await self._set_up_host(done, bridge, host_side, gateways, changes)
            await self._add_rules(done, result)
            return await self._answer(result)

    async def _look_around(self) -> Link | None:
        """The bridge, if it is there; raises if the names we need are taken."""
        request, config = self.request, self.config
        bridge_answer, host_answer = await self.host.request(
            (get_link(name=config.bridge), get_link(name=self.host_name))
        )
        (pod_answer,) = await self.pod.request((get_link(name=request.ifname),))
        bridge = self._there(bridge_answer, config.bridge)
        if bridge is not None and bridge.kind != "bridge":
            raise CNIError(
                f'failed to create bridge "{config.bridge}": "{config.bridge}" already exists '
                "but is not a bridge",
                f'it is a link of kind "{bridge.kind or "device"}"; set "bridge" to another name',
            )
        if self._there(pod_answer, request.ifname) is not None:
            raise self._taken(f'"{request.ifname}" is there in {request.netns}: DEL this attachment first')
        if self._there(host_answer, self.host_name) is not None:
            raise self._taken(f"{self.host_name} belongs to this attachment in another sandbox: DEL it first")
        return bridge

    @staticmethod
    def _there(answer: Answer, name: str) -> Link | None:
        check((answer,), f'failed to lookup "{name}"', allow=(errno.ENODEV,))
        return answer.links[0] if answer.links else None

    def _taken(self, details: str) -> CNIError:
        return CNIError(
            f'container veth name ("{self.request.ifname}") peer provided ("{self.host_name}") '
            "already exists",
            details,
        )

    async def _addresses(self, done: Transaction) -> Result:
        config, request = self.config, self.request
        if not config.ipam_type:
            return layer2_result(config)
        # A delegate whose ADD fails is told DEL as well (spec 1.1.0, section 4), hence before the call.
        done.undo(lambda: self.ctx.delegate.delete(request, config.ipam_type))
        return attachment_result(config, await self.ctx.delegate.add(request, config.ipam_type))

    async def _gateway_changes(self, gateways: tuple[CIDR, ...], bridge: Link) -> GatewayPlan:
        bearer: Link | None = bridge
        if gateways and self.config.vlan:
            bearer = await self.host.link(name=self.config.gateway_link)
        if not gateways or bearer is None:
            return GatewayPlan(gateways)
        existing = await self.host.addresses(index=bearer.index)
        return plan_gateways(self.config, gateways, [address.cidr for address in existing])

    async def _make_pair(self, done: Transaction, bridge: Link | None) -> tuple[Link, Link]:
        """The bridge and the host side, a port of it; the pod's end is born in the sandbox, down."""
        for _ in range(_ATTEMPTS):
            if bridge is None:
                bridge = await self._make_bridge(done)
            # After the bridge's, so that it is undone before: a bridge with a port is not idle.
            undo = done.undo(self._remove_pair)
            created, _, found = await self.host.request(
                (
                    self._pair_request(bridge),
                    set_alias(self.host_name, self._alias()),
                    get_link(name=self.host_name),
                )
            )
            if created.errno == 0:
                return bridge, self._found(found, self.host_name)
            done.forget(undo)  # what bears the name now is not ours
            # The kernel calls a master that is gone an invalid argument.
            if created.errno not in (errno.EINVAL, errno.ENODEV) or await self._is_there(bridge):
                break
            bridge = None
        if created.errno == errno.EEXIST:
            raise self._taken(created.text)
        raise CNIError(f"failed to make veth pair: {created.reason}", created.text)

    async def _is_there(self, bridge: Link) -> bool:
        return await self.host.link(index=bridge.index) is not None

    def _pair_request(self, bridge: Link) -> bytes:
        config = self.config
        return new_veth(
            self.host_name,
            self.request.ifname,
            mac=random_mac(),
            mtu=config.mtu,
            master=bridge.index,
            up=True,
            peer_mac=self.pod_mac,
            peer_mtu=config.mtu,
            peer_netns_fd=self.pod.fd,
        )

    def _alias(self) -> str:
        request = self.request
        return link_alias(request.network, request.container_id, request.ifname)

    async def _remove_pair(self) -> None:
        await self.host.remove(name=self.host_name)

    async def _make_bridge(self, done: Transaction) -> Link:
        config = self.config
        # A gateway's neighbours remember its MAC; without one the bridge follows its ports.
        mac = random_mac() if config.is_gateway and config.ipam_type and not config.vlan else None
        undo = done.undo(self._remove_idle_bridge)
        created, found = await self.host.request(
            (
                new_bridge(
                    config.bridge, mac=mac, mtu=config.mtu, vlan_filtering=config.filters_vlans, up=True
                ),
                get_link(name=config.bridge),
            )
        )
        if created.errno == errno.EEXIST:
            done.forget(undo)
        elif created.errno:
            raise CNIError(
                f'failed to create bridge "{config.bridge}": could not add "{config.bridge}": '
                f"{created.reason}",
                self._vlan_advice(created) if config.filters_vlans else created.text,
            )
        bridge = self._found(found, config.bridge)
        if bridge.kind != "bridge":
            raise CNIError(f'failed to create bridge "{config.bridge}": another link took the name')
        return bridge

    async def _remove_idle_bridge(self) -> None:
        """Take back the bridge that this ADD made, unless other pods are on it by now."""
        bridge = await self.host.link(name=self.config.bridge)
        if bridge is not None and not await self.host.ports(bridge.index):
            await self.host.request((del_link(index=bridge.index),))

    def _found(self, answer: Answer, name: str) -> Link:
        check((answer,), f'failed to lookup "{name}"')
        return answer.links[0]

    async def _join_vlans(self, bridge: Link, host_side: Link) -> None:
        """Before the pod's end is up: not a frame of it gets into another VLAN."""
        from pycni_bridge.vlans import join_steps, port_vlans

        config = self.config
        ranges = port_vlans(config.vlan, config.vlan_trunk or ())
        steps = join_steps(host_side.index, host_side.name, ranges, preserve=config.preserve_default_vlan)
        answers = await self.host.perform([step for step, _ in steps])
        for answer, (_, what) in zip(answers, steps, strict=True):
            if not answer.ok:
                raise CNIError(f"{what}: {answer.reason}", self._vlan_advice(answer))
        if not bridge.vlan_filtering:
            self.ctx.log(
                f"bridge {bridge.name} does not filter VLANs, so those of its ports have no effect: "
                f"ip link set {bridge.name} type bridge vlan_filtering 1"
            )

    @staticmethod
    def _vlan_advice(answer: Answer) -> str:
        if answer.errno != errno.EOPNOTSUPP:
            return answer.text
        return (
            'the kernel cannot filter VLANs on bridges (CONFIG_BRIDGE_VLAN_FILTERING), which "vlan" and '
            '"vlanTrunk" need'
        )

    async def _set_up_pod(self, index: int, result: Result) -> None:
        """Sysctls, addresses, up, routes: the announcement needs the address before the link is up."""
        config, ifname = self.config, self.request.ifname
        if not result.ips:
            if not config.disable_container_interface:
                check(await self.pod.request((set_link(index, up=True),)), f'failed to set "{ifname}" up')
            return
        steps = pod_steps(config, ifname, index, result)
        answers = await self.pod.perform([step for step, _ in steps])
        for answer, (_, what) in zip(answers, steps, strict=True):
            check((answer,), what)
        if config.enable_dad and any(entry.address.family == IPV6 for entry in result.ips):
            await self._wait_for_dad(index)

    async def _wait_for_dad(self, index: int) -> None:
        """Until no IPv6 address of the pod is tentative: another host may have one of them."""
        ifname = self.request.ifname
        for _ in range(_DAD_LOOKS):
            addresses = await self.pod.addresses(index, IPV6)
            failed = next((address for address in addresses if address.dadfailed), None)
            if failed is not None:
                raise CNIError(
                    f'failed to settle addresses for "{ifname}": link {ifname} has address {failed.cidr.ip} '
                    "in DADFAILED state",
                    "another host on the network has this address already",
                )
            if not any(address.tentative for address in addresses):
                return
            await self.ctx.sleep(_DAD_PAUSE)
        if await self._host_state() == "up":
            raise CNIError(
                f'failed to settle addresses for "{ifname}": link {ifname} still has tentative addresses '
                f"after {_DAD_LOOKS * _DAD_PAUSE:.0f} seconds"
            )

    async def _set_up_host(
        self,
        done: Transaction,
        bridge: Link,
        host_side: Link,
        gateways: tuple[CIDR, ...],
        changes: GatewayPlan,
    ) -> None:
        """Port flags, the bridge's own state, gateway addresses and forwarding: only what differs."""
        config = self.config
        vlan: VlanGateway | None = None
        steps: list[Step] = []
        if gateways and config.vlan:
            from pycni_bridge.vlan_gateway import VlanGateway

            vlan = VlanGateway(config, self.host, bridge, host_side)
            self.vlan_gateway, steps = await vlan.ensure(done)
        if changes.add or changes.delete:
            done.undo(lambda: self._restore_gateways(bridge, host_side, changes, vlan))
        steps += host_steps(config, bridge, host_side, gateways, changes, self.vlan_gateway)
        answers = await self.host.perform([step for step, _ in steps])
        removals = [del_address((self.vlan_gateway or bridge).index, old) for old in changes.delete]
        for answer, (step, what) in zip(answers, steps, strict=True):
            # Another ADD may have given the bridge the same address, or taken the old one, in the meantime.
            check((answer,), what, allow=(errno.EADDRNOTAVAIL if step in removals else errno.EEXIST,))

    async def _restore_gateways(
        self, bridge: Link, host_side: Link, changes: GatewayPlan, vlan: VlanGateway | None
    ) -> None:
        """Give back the old addresses, unless other pods rely on the new ones by now."""
        bearer = self.vlan_gateway or bridge

        async def in_use() -> bool:
            if vlan is not None:
                return await vlan.used_by_others(bearer)
            others = [port for port in await self.host.ports(bridge.index) if port.index != host_side.index]
            # Ports older than ours relied on what was taken away, only younger ones can rely on the new.
            return any(not changes.delete or port.index > host_side.index for port in others)

        async def replace(old: tuple[CIDR, ...], new: tuple[CIDR, ...]) -> None:
            removals = [del_address(bearer.index, address) for address in old]
            await self.host.request(
                (*removals, *(new_address(bearer.index, address, nodad=True) for address in new))
            )

        if not await in_use():
            await replace(changes.add, changes.delete)
            if await in_use():  # a pod that came in between may have seen the new ones
                await replace(changes.delete, changes.add)

    async def _add_rules(self, done: Transaction, result: Result) -> None:
        request, config, run = self.request, self.config, self.ctx.run
        if config.mac_spoof_check:
            ref = spoofcheck.reference(request.container_id, request.ifname)
            done.undo(lambda: run(firewall.remove_spoof_check, ref))
            await run(firewall.add_spoof_check, self.host_name, self.pod_mac, ref)
        if config.masquerades:
            rules = masquerade_of(request, result)
            done.undo(lambda: run(firewall.remove_masquerade, rules))
            await run(firewall.add_masquerade, rules, config.ip_masq_backend or None)

    async def _answer(self, result: Result) -> Result:
        """The result with the links as they are at the end, once the port carries traffic."""
        config, request = self.config, self.request
        for pause in (*_CARRIER_PAUSES, None):
            answers = await self.host.request((get_link(name=config.bridge), get_link(name=self.host_name)))
            bridge, host_side = (
                self._found(answers[0], config.bridge),
                self._found(answers[1], self.host_name),
            )
            if host_side.master != bridge.index:
                raise CNIError(
                    f'"{self.host_name}" is no port of "{config.bridge}" any more',
                    "somebody removed the bridge meanwhile; try again",
                    code=TRY_AGAIN_LATER,
                )
            if host_side.operstate == "up" or config.disable_container_interface:
                break
            if pause is None:
                raise CNIError(
                    f"bridge port in error state: {host_side.operstate}",
                    f"{self.host_name} got no carrier in {sum(_CARRIER_PAUSES):.2f} s",
                )
            await self.ctx.sleep(pause)
        interfaces = [
            Interface(config.bridge, bridge.mac_text),
            Interface(self.host_name, host_side.mac_text),
            Interface(request.ifname, self.pod_mac.hex(":"), sandbox=request.netns),
        ]
        if self.vlan_gateway is not None:
            interfaces.append(Interface(self.vlan_gateway.name, self.vlan_gateway.mac_text))
        return result.replace(interfaces=tuple(interfaces))

    async def _host_state(self) -> str:
        link = await self.host.link(name=self.host_name)
        return link.operstate if link is not None else "notpresent"
