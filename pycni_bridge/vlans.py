"""Which VLANs a port belongs to: config → VLAN sets, without touching anything.

A pod's port is an access port (`vlan`: its frames carry no tag), a trunk (`vlanTrunk`: tagged, and what is
untagged belongs to `vlan`, or to VLAN 1 where the config names none), or neither. Source: the reference's
plugins/main/bridge and its recorded kernel states.
"""

from __future__ import annotations

from pycni.errors import CNIError
from pycni.kernel.vlans import VLAN_MAX, VLAN_MIN, VlanRange, del_vlans, set_vlans
from pycni.names import IFNAME_BYTES, digest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Final

    from pycni.wire.config import Members
    from pycni_bridge.steps import Step

NATIVE: Final = 1
"""The VLAN of a trunk's untagged frames where the config has no `vlan`."""


def trunk_ids(items: Iterable[Members]) -> tuple[int, ...]:
    """The VLANs of `vlanTrunk`, sorted, each once; empty for `[]` and `[{}]`.

    Raises CNIError (999) with the reference's texts.
    """
    return tuple(sorted({vlan for item in items for vlan in _item_ids(item)}))


def _item_ids(item: Members) -> Iterator[int]:
    low, high, single = (item.integer(key, None) for key in ("minID", "maxID", "id"))
    if low is not None and high is not None:
        _check_id(item, "minID", low)
        _check_id(item, "maxID", high)
        if low > high:
            raise CNIError(
                "minID is greater than maxID in trunk parameter",
                f'key "{item.path("minID")}" is {low} and "{item.path("maxID")}" is {high}',
            )
        yield from range(low, high + 1)
    elif low is not None or high is not None:
        missing = "minID" if low is None else "maxID"
        raise CNIError(
            f"minID and maxID should be configured simultaneously, {missing} is missing",
            f'add "{item.path(missing)}", or name a single VLAN by "id"',
        )
    if single is not None:
        _check_id(item, "id", single)
        yield single


def _check_id(item: Members, key: str, value: int) -> None:
    if not VLAN_MIN <= value <= VLAN_MAX:
        raise CNIError(
            f"incorrect trunk {key} parameter",
            f'key "{item.path(key)}" is {value}; VLAN ids go from {VLAN_MIN} to {VLAN_MAX}',
        )


def port_vlans(access: int, trunk: Sequence[int]) -> tuple[VlanRange, ...]:
    """What a pod's port is made a member of, in the order of setting.

    `access` 0 is none. A VLAN that is both `vlan` and part of the trunk ends up tagged, without a VLAN for
    untagged frames, as with the reference: who lists it in the trunk gets it tagged.
    """
    ranges = [access_vlan(access)] if access else []
    ranges += merged(VlanRange(vlan, vlan) for vlan in trunk)
    if trunk and not access:
        ranges.append(access_vlan(NATIVE))
    return tuple(ranges)


def access_vlan(vlan: int) -> VlanRange:
    """Untagged frames belong to `vlan`, in and out."""
    return VlanRange(vlan, vlan, pvid=True, untagged=True)


def merged(ranges: Iterable[VlanRange]) -> list[VlanRange]:
    """Sorted, disjoint ranges as few of them as possible; a PVID stays alone."""
    found: list[VlanRange] = []
    for item in ranges:
        before = found[-1] if found else None
        if (
            before is not None
            and before.flags == item.flags
            and before.last == item.first - 1
            and not item.pvid
        ):
            found[-1] = before.replace(last=item.last)
        else:
            found.append(item)
    return found


def join_steps(index: int, name: str, ranges: tuple[VlanRange, ...], *, preserve: bool) -> list[Step]:
    """Requests that make a new port a member of `ranges`, of nothing else unless `preserve`.

    A port joins its bridge's default VLAN by itself.
    """
    if not ranges:
        return []
    steps: list[Step] = []
    if not preserve:
        steps.append((del_vlans(index), f'failed to remove default vlan on interface "{name}"'))
    steps.append((set_vlans(index, ranges), f'failed to setup vlan tag on interface "{name}"'))
    return steps


def membership(ranges: Iterable[VlanRange]) -> dict[int, tuple[bool, bool]]:
    """The state that setting `ranges` in order leads to: VLAN id → (pvid, untagged)."""
    members: dict[int, tuple[bool, bool]] = {}
    for item in ranges:
        members.update(dict.fromkeys(range(item.first, item.last + 1), (item.pvid, item.untagged)))
    return members


def missing(wanted: Iterable[VlanRange], present: Iterable[VlanRange]) -> list[VlanRange]:
    """The wanted VLANs that a port is not in, or not in that way, as few ranges as possible.

    Others that it is in do not count: older versions of the reference leave a port in its bridge's default
    VLAN, and `preserveDefaultVlan` asks for it.
    """
    there = membership(present)
    lacking = (item for item in sorted(membership(wanted).items()) if there.get(item[0]) != item[1])
    return merged(VlanRange(vlan, vlan, *flags) for vlan, flags in lacking)


def carries(vlan: int, ranges: Iterable[VlanRange]) -> bool:
    """Whether `vlan` is one of `ranges`."""
    return any(item.first <= vlan <= item.last for item in ranges)


def command(port: str, item: VlanRange) -> str:
    """The command that sets one of `missing`."""
    flags = f"{' pvid' if item.pvid else ''}{' untagged' if item.untagged else ''}"
    return f"bridge vlan add dev {port} vid {item}{flags}"


def gateway_port(bridge: str, vlan: int) -> str:
    """The name of the port that ties the VLAN's gateway interface to the bridge, always the same.

    It cannot be an attachment's host side: that name comes from three parts.
    """
    return "veth" + digest(f"{bridge}\0{vlan}")[:11]


def check_gateway_name(name: str, vlan: int) -> None:
    """Raises CNIError (999) if no interface can have the gateway's name: before anything is touched."""
    size = len(name.encode("utf-8", "surrogateescape"))
    if size <= IFNAME_BYTES:
        return
    room = IFNAME_BYTES - len(str(vlan)) - 1
    raise CNIError(
        f'failed to create vlan interface: failed to create vlan gateway "{name}": '
        "numerical result out of range",
        f'the gateway of a VLAN is an interface named BRIDGE.VLAN, and "{name}" has {size} bytes where '
        f'{IFNAME_BYTES} are allowed: with "vlan" {vlan} and "isGateway", "bridge" may have {room}',
    )
