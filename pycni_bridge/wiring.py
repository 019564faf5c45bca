"""The cable of an attachment: a bridge, and a veth pair from it into the sandbox.

One request makes the pair with MACs, MTU, namespace and master, so that no half-made link is ever seen.
"""

from __future__ import annotations

import errno
import os

from pycni.errors import CNIError
from pycni.kernel.messages import (
    del_link,
    dump_addresses,
    get_link,
    new_bridge,
    new_veth,
    set_alias,
)
from pycni.kernel.namespace import check
from pycni.names import host_veth, link_alias
from pycni_bridge.joining import Joining, Removing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from pycni.addresses import CIDR
    from pycni.context import Context, Transaction
    from pycni.kernel.namespace import Answer, Link, Namespace
    from pycni.request import Request
    from pycni_bridge.config import BridgeConfig

_ATTEMPTS: Final = 3
"""How often a bridge is looked for again when another ADD's rollback took it away in between."""


def random_mac() -> bytes:
    """Six random bytes: unicast, locally administered. Given at creation, so that udev leaves them alone."""
    first, *rest = os.urandom(6)
    return bytes(((first | 0x02) & 0xFE, *rest))


class Attachment:
    """What one ADD is about: the request, both namespaces, and the names that follow from it."""

    def __init__(self, request: Request, ctx: Context, config: BridgeConfig, pod: Namespace) -> None:
        self.request = request
        self.ctx = ctx
        self.config = config
        self.host = ctx.host()
        self.pod = pod
        self.ifname = request.ifname
        self.host_name = host_veth(request.network, request.container_id, request.ifname)
        self.pod_mac = config.mac or random_mac()

    def taken(self, details: str) -> CNIError:
        """The refusal if one of the names is there already."""
        return CNIError(
            f'container veth name ("{self.ifname}") peer provided ("{self.host_name}") already exists',
            details,
        )


class Wiring:
    """A bridge and its new port; `addresses` are those that the bridge had when the port had joined."""

    def __init__(self, bridge: Link, host_side: Link, addresses: tuple[CIDR, ...]) -> None:
        self.bridge = bridge
        self.host_side = host_side
        self.addresses = addresses


async def make_wiring(item: Attachment, done: Transaction, bridge: Link | None) -> Wiring:
    """The bridge (made if it is None) and the pair; the pod's end is born in the sandbox, down.

    Raises CNIError (999) with the reference's texts.
    """
    for _ in range(_ATTEMPTS):
        if bridge is None:
            bridge = await _make_bridge(item, done)
        # After the bridge's, so that it is undone before: a bridge with a port is not idle.
        undo = done.undo(lambda: item.host.remove(name=item.host_name))
        async with Joining(item.ctx):
            created, _, found, addresses = await item.host.perform(
                (
                    _pair_request(item, bridge),
                    set_alias(item.host_name, _alias(item.request)),
                    get_link(name=item.host_name),
                    # Only now: while it had no port, an ADD that is undone might take its addresses away.
                    dump_addresses(index=bridge.index),
                )
            )
        if created.ok:
            check((addresses,), f'failed to list addresses of "{bridge.name}"')
            present = tuple(address.cidr for address in addresses.addresses)
            return Wiring(bridge, found_link(found, item.host_name), present)
        done.forget(undo)  # what bears the name now is not ours
        # The kernel calls a master that is gone an invalid argument.
        if created.errno not in (errno.EINVAL, errno.ENODEV) or await item.host.link(index=bridge.index):
            break
        bridge = None
    if created.errno == errno.EEXIST:
        raise item.taken(created.text)
    raise CNIError(f"failed to make veth pair: {created.reason}", created.text)


def found_link(answer: Answer, name: str) -> Link:
    """The link that an answer holds. Raises CNIError (999) `failed to lookup …`."""
    check((answer,), f'failed to lookup "{name}"')
    return answer.links[0]


def _pair_request(item: Attachment, bridge: Link) -> bytes:
    return new_veth(
        item.host_name,
        item.ifname,
        mac=random_mac(),
        mtu=item.config.mtu,
        master=bridge.index,
        up=True,
        peer_mac=item.pod_mac,
        peer_mtu=item.config.mtu,
        peer_netns_fd=item.pod.fd,
    )


def _alias(request: Request) -> str:
    return link_alias(request.network, request.container_id, request.ifname)


async def _make_bridge(item: Attachment, done: Transaction) -> Link:
    config, host = item.config, item.host
    # A gateway's neighbours remember its MAC; without one the bridge follows its ports.
    mac = random_mac() if config.is_gateway and config.ipam_type and not config.vlan else None
    undo = done.undo(lambda: _remove_idle_bridge(host, config.bridge))
    created, found = await host.request(
        (
            new_bridge(config.bridge, mac=mac, mtu=config.mtu, vlan_filtering=config.filters_vlans, up=True),
            get_link(name=config.bridge),
        )
    )
    if created.errno == errno.EEXIST:
        done.forget(undo)
    elif created.errno:
        raise CNIError(
            f'failed to create bridge "{config.bridge}": could not add "{config.bridge}": {created.reason}',
            vlan_advice(created) if config.filters_vlans else created.text,
        )
    bridge = found_link(found, config.bridge)
    if bridge.kind != "bridge":
        raise CNIError(f'failed to create bridge "{config.bridge}": another link took the name')
    return bridge


async def _remove_idle_bridge(host: Namespace, name: str) -> None:
    """Take back the bridge that this ADD made, unless other pods are on it by now."""
    bridge = await host.link(name=name)
    if bridge is None:
        return
    with Removing() as alone:
        if alone and not await host.ports(bridge.index):
            await host.request((del_link(index=bridge.index),))


async def join_vlans(item: Attachment, wiring: Wiring) -> None:
    """Before the pod's end is up: not a frame of it gets into another VLAN. Raises CNIError (999)."""
    from pycni_bridge.vlans import join_steps, port_vlans

    config, bridge, port = item.config, wiring.bridge, wiring.host_side
    ranges = port_vlans(config.vlan, config.vlan_trunk or ())
    steps = join_steps(port.index, port.name, ranges, preserve=config.preserve_default_vlan)
    answers = await item.host.perform([step for step, _ in steps])
    for answer, (_, what) in zip(answers, steps, strict=True):
        if not answer.ok:
            raise CNIError(f"{what}: {answer.reason}", vlan_advice(answer))
    if not bridge.vlan_filtering:
        item.ctx.log(
            f"bridge {bridge.name} does not filter VLANs, so those of its ports have no effect: "
            f"ip link set {bridge.name} type bridge vlan_filtering 1"
        )


def vlan_advice(answer: Answer) -> str:
    """What to say of a refused VLAN request beside the errno's text."""
    if answer.errno != errno.EOPNOTSUPP:
        return answer.text
    return (
        'the kernel cannot filter VLANs on bridges (CONFIG_BRIDGE_VLAN_FILTERING), which "vlan" and '
        '"vlanTrunk" need'
    )
