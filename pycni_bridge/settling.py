"""What an ADD has to wait for: duplicate address detection in the pod, and the port's carrier."""

from __future__ import annotations

from pycni.addresses import IPV6
from pycni.errors import TRY_AGAIN_LATER, CNIError
from pycni.kernel.messages import get_link
from pycni_bridge.wiring import found_link

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Final

    from pycni.kernel.namespace import Answer, Link
    from pycni_bridge.wiring import Attachment

_CARRIER_PAUSES: Final = (0.001, 0.002, 0.005, 0.01, *(0.02,) * 10, *(0.1,) * 23)
"""Seconds between looks at the port's state; 2.5 s in all, as long as the reference waits."""
_DAD_PAUSE: Final = 0.05
_DAD_LOOKS: Final = 100


async def wait_for_dad(item: Attachment, index: int) -> None:
    """Until no IPv6 address of the pod is tentative: another host may have one of them.

    Raises CNIError (999) if one has, or if the kernel does not come to an end within 5 s on a working link.
    """
    for _ in range(_DAD_LOOKS):
        addresses = await item.pod.addresses(index, IPV6)
        failed = next((address for address in addresses if address.dadfailed), None)
        if failed is not None:
            raise CNIError(
                f'failed to settle addresses for "{item.ifname}": link {item.ifname} has address '
                f"{failed.cidr.ip} in DADFAILED state",
                "another host on the network has this address already",
            )
        if not any(address.tentative for address in addresses):
            return
        await item.ctx.sleep(_DAD_PAUSE)
    link = await item.host.link(name=item.host_name)
    if link is not None and link.operstate == "up":
        raise CNIError(
            f'failed to settle addresses for "{item.ifname}": link {item.ifname} still has tentative '
            f"addresses after {_DAD_LOOKS * _DAD_PAUSE:.0f} seconds"
        )


def final_look(item: Attachment) -> tuple[bytes, bytes]:
    """The requests whose answers `wait_for_carrier` begins with."""
    return get_link(name=item.config.bridge), get_link(name=item.host_name)


async def wait_for_carrier(item: Attachment, seen: Sequence[Answer]) -> tuple[Link, Link]:
    """Bridge and host side as they are once the port carries traffic; `seen` is a first look at them.

    Raises CNIError: 999 without carrier for 2.5 s, 11 if somebody took the bridge away meanwhile.
    """
    config = item.config
    for pause in (*_CARRIER_PAUSES, None):
        bridge, host_side = found_link(seen[0], config.bridge), found_link(seen[1], item.host_name)
        if host_side.master != bridge.index:
            raise CNIError(
                f'"{item.host_name}" is no port of "{config.bridge}" any more',
                "somebody removed the bridge meanwhile; try again",
                code=TRY_AGAIN_LATER,
            )
        if host_side.operstate == "up" or config.disable_container_interface:
            break
        if pause is None:
            raise CNIError(
                f"bridge port in error state: {host_side.operstate}",
                f"{item.host_name} got no carrier in {sum(_CARRIER_PAUSES):.2f} s",
            )
        await item.ctx.sleep(pause)
        seen = await item.host.request(final_look(item))
    return bridge, host_side
