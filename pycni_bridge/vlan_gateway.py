"""The gateway of a VLAN: an interface `BRIDGE.VLAN` on the host, and the port that ties it to the bridge.

The two are a veth pair, as the reference makes it; the port belongs to the VLAN alone. All pods of the VLAN
share it, so DEL leaves it; an ADD that made it and fails takes it back, unless another pod is in the VLAN by
then. A pair that a killed ADD left half-made is down, and is completed by the next ADD.
"""

from __future__ import annotations

import errno

from pycni.errors import CNIError
from pycni.kernel.messages import dump_ports, get_link, new_veth, set_link
from pycni.kernel.namespace import Setting, check
from pycni.kernel.vlans import dump_vlans, read_vlans
from pycni_bridge.vlans import access_vlan, carries, gateway_port, join_steps
from pycni_bridge.wiring import random_mac

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pycni.context import Transaction
    from pycni.kernel.namespace import Link, Namespace
    from pycni_bridge.config import BridgeConfig
    from pycni_bridge.steps import Step


class VlanGateway:
    """The gateway interface of a config's VLAN, for one ADD whose pod has the host side `host_side`."""

    def __init__(self, config: BridgeConfig, host: Namespace, bridge: Link, host_side: Link) -> None:
        self.config = config
        self.host = host
        self.bridge = bridge
        self.host_side = host_side
        self.name = config.gateway_link
        self.port_name = gateway_port(config.bridge, config.vlan)

    async def ensure(self, done: Transaction) -> tuple[Link, list[Step]]:
        """The interface, made if it is missing, and the steps that it still needs to be usable.

        Raises CNIError (999) `failed to create vlan interface: …`.
        """
        gateway, port = await self._look()
        if gateway is None:
            await self._make(done)
            gateway, port = await self._look()
        if gateway is None:
            raise self._failed("no such device", "the interface went away while it was being set up")
        if port is None and gateway.peer and gateway.kind == "veth" and gateway.peer_netnsid is None:
            port = await self.host.link(index=gateway.peer)
        return gateway, completion(self.config, self.bridge, gateway, port)

    async def used_by_others(self, gateway: Link | None) -> bool:
        """Whether a pod other than this ADD's is in the VLAN.

        One that is there without relying on the gateway counts too: nobody can tell from outside.
        """
        ports, vlans = answers = await self.host.request((dump_ports(self.bridge.index), dump_vlans()))
        check(answers, f'failed to list the ports of "{self.bridge.name}"')
        members = read_vlans(vlans.payloads)
        own = {self.host_side.index, gateway.peer if gateway is not None else 0}
        return any(
            port.kind == "veth"
            and port.index not in own
            and port.name != self.port_name
            and port.index in members
            and carries(self.config.vlan, members[port.index].vlans)
            for port in ports.links
        )

    async def _look(self) -> tuple[Link | None, Link | None]:
        """The interface, and its port if that has our name."""
        answers = await self.host.request((get_link(name=self.name), get_link(name=self.port_name)))
        check(answers, f'failed to find interface "{self.name}"', allow=(errno.ENODEV,))
        gateway, port = (answer.links[0] if answer.links else None for answer in answers)
        tied = gateway is not None and port is not None and gateway.peer == port.index
        return gateway, port if tied else None

    async def _make(self, done: Transaction) -> None:
        undo = done.undo(self._remove)
        pair = new_veth(
            self.port_name,
            self.name,
            mac=random_mac(),
            mtu=self.bridge.mtu,
            master=self.bridge.index,
            up=True,
            peer_mac=random_mac(),
            peer_mtu=self.bridge.mtu,
        )
        (created,) = await self.host.request((pair,))
        if created.errno == errno.EEXIST:  # by another ADD, unless only the port's name is taken
            done.forget(undo)
            if await self.host.link(name=self.name) is None:
                raise self._failed(
                    created.reason, f'a link named "{self.port_name}" is in the way: delete it'
                )
        elif created.errno:
            raise self._failed(created.reason, created.text)

    async def _remove(self) -> None:
        if not await self.used_by_others(None):
            await self.host.remove(name=self.port_name)

    def _failed(self, reason: str, details: str) -> CNIError:
        return CNIError(
            f'failed to create vlan interface: failed to create vlan gateway "{self.name}": {reason}', details
        )


def completion(config: BridgeConfig, bridge: Link, gateway: Link, port: Link | None) -> list[Step]:
    """What a gateway interface lacks; nothing if it is up and tied to the bridge.

    `port` is None for an interface that somebody made by other means, such as an 802.1Q device: it is only
    set up. The interface goes up last, so whatever is up is complete.
    """
    steps: list[Step] = []
    what = f'failed to set up vlan interface "{gateway.name}"'
    tied = port is not None and port.master == bridge.index and port.is_up
    if port is not None and port.master in (0, bridge.index) and not (tied and gateway.is_up):
        if not tied:
            steps.append((set_link(port.index, master=bridge.index, up=True), what))
        vlans = (access_vlan(config.vlan),)
        steps += join_steps(port.index, port.name, vlans, preserve=config.preserve_default_vlan)
        steps.append((Setting(f"net/ipv6/conf/{port.name}/accept_ra", "0"), what))
    if not gateway.is_up:
        steps.append((set_link(gateway.index, up=True), what))
    return steps
