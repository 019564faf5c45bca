"""The bridge plugin's configuration: keys, types, defaults, and what contradicts what.

Keys, defaults and texts are the reference's (plugins/main/bridge). What can be refused by looking at the
config alone is refused here, before anything is touched.
"""

from __future__ import annotations

from pycni.cni_args import parse_args
from pycni.errors import CNIError
from pycni.names import interface_name_problem
from pycni.record import Record
from pycni.types import DNS
from pycni.wire.config import Members

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from pycni.request import Request

PREFIX: Final = "failed to load netconf: "
KNOWN_ARGS: Final = ("MAC", "IP")
"""Keys of CNI_ARGS that this plugin or its IPAM delegate knows; both get the same text."""

IPTABLES: Final = "iptables"
NFTABLES: Final = "nftables"

MTU_MIN: Final = 68
MTU_MAX: Final = 65535
VLAN_MAX: Final = 4094
_OWN_NAME: Final = "bridge"
_PATTERN_PROBLEM: Final = "the kernel would take % for the place of a number"
_ADDRESS_SIZES: Final = (6, 8, 20)
"""Bytes of EUI-48, EUI-64 and InfiniBand addresses: the ones that Go's ParseMAC knows."""


class BridgeConfig(Record):
    """The config of one call. `mtu` in bytes, 0 means the kernel's default; `mac` is None for a random one.

    `ip_masq_backend` is empty where the config leaves the choice to us; `ipam_type` is empty for layer 2.
    `vlan` is 0 without one; `vlan_trunk` are sorted ids, None where the key is absent.
    """

    bridge: str = "cni0"
    is_gateway: bool = False
    is_default_gateway: bool = False
    force_address: bool = False
    ip_masq: bool = False
    ip_masq_backend: str = ""
    mtu: int = 0
    hairpin_mode: bool = False
    promisc_mode: bool = False
    mac_spoof_check: bool = False
    enable_dad: bool = False
    disable_container_interface: bool = False
    port_isolation: bool = False
    ipam_type: str = ""
    dns: DNS = DNS()
    mac: bytes | None = None
    vlan: int = 0
    vlan_trunk: tuple[int, ...] | None = None
    preserve_default_vlan: bool = False

    @property
    def filters_vlans(self) -> bool:
        """Whether a bridge that is made for this config filters VLANs (an empty trunk asks for it too)."""
        return bool(self.vlan) or self.vlan_trunk is not None

    @property
    def joins_vlans(self) -> bool:
        """Whether the pod's port gets VLANs of its own."""
        return bool(self.vlan) or bool(self.vlan_trunk)

    @property
    def gateway_link(self) -> str:
        """The interface that has the gateway's addresses: the bridge itself, or one in the pods' VLAN."""
        return f"{self.bridge}.{self.vlan}" if self.vlan else self.bridge

    @property
    def masquerades(self) -> bool:
        """Whether masquerade rules belong to an attachment: they need addresses."""
        return self.ip_masq and bool(self.ipam_type)


def parse_config(request: Request) -> BridgeConfig:
    """The config for ADD and CHECK; raises CNIError (999)."""
    members = request.members(PREFIX)
    check_common_types(members)
    _check_interface_name(request.ifname)
    vlan, trunk = _vlan(members), _trunk(members)  # refused before CNI_ARGS, as by the reference
    config = BridgeConfig(
        bridge=members.string("bridge", "cni0"),
        is_gateway=members.boolean("isGateway") or members.boolean("isDefaultGateway"),
        is_default_gateway=members.boolean("isDefaultGateway"),
        force_address=members.boolean("forceAddress"),
        ip_masq=members.boolean("ipMasq"),
        ip_masq_backend=members.string("ipMasqBackend"),
        mtu=max(members.number("mtu"), 0),
        hairpin_mode=members.boolean("hairpinMode"),
        promisc_mode=members.boolean("promiscMode"),
        mac_spoof_check=members.boolean("macspoofchk"),
        enable_dad=members.boolean("enabledad"),
        disable_container_interface=members.boolean("disableContainerInterface"),
        port_isolation=members.boolean("portIsolation"),
        ipam_type=_ipam_type(members),
        dns=_dns(members),
        mac=_mac(request, members),
        vlan=vlan,
        vlan_trunk=trunk,
        preserve_default_vlan=members.boolean("preserveDefaultVlan"),
    )
    _check_consistency(config)
    return config


def parse_config_for_del(request: Request) -> BridgeConfig:
    """What DEL and GC need. A member of a wrong type counts as set: cleaning up what is not there is no harm.

    A config that was edited into an invalid one after ADD must not block the removal of its pods.
    """
    members = request.members(PREFIX)

    def switch(key: str) -> bool:
        value = members.raw(key)
        return value is not None and value is not False

    bridge, ipam = members.raw("bridge"), members.raw("ipam")
    ipam_type = Members(ipam).raw("type") if isinstance(ipam, dict) else None
    return BridgeConfig(
        bridge=bridge if isinstance(bridge, str) else "cni0",
        ip_masq=switch("ipMasq"),
        mac_spoof_check=switch("macspoofchk"),
        ipam_type=ipam_type if isinstance(ipam_type, str) else "",
    )


def check_common_types(members: Members) -> None:
    """The members that every plugin's config may have and that this one does not read; raises CNIError."""
    members.string("type")
    capabilities = members.object("capabilities")
    if capabilities is not None:
        for key in capabilities.keys():  # noqa: SIM118 - no mapping
            capabilities.boolean(key)
    members.object("prevResult")


def _ipam_type(members: Members) -> str:
    ipam = members.object("ipam")
    ipam_type = ipam.string("type") if ipam is not None else ""
    if ipam_type == _OWN_NAME:
        raise CNIError(
            f"{PREFIX}{_OWN_NAME} cannot be its own IPAM plugin",
            f'key "ipam.type" is "{_OWN_NAME}"; name one that gives addresses, such as host-local',
        )
    return ipam_type


def _dns(members: Members) -> DNS:
    dns = members.object("dns")
    if dns is None:
        return DNS()
    return DNS(
        nameservers=dns.strings("nameservers") or (),
        domain=dns.string("domain"),
        search=dns.strings("search") or (),
        options=dns.strings("options") or (),
    )


def _mac(request: Request, members: Members) -> bytes | None:
    """Of CNI_ARGS, args.cni.mac and runtimeConfig.mac the last one that is not empty; None if none is."""
    found, source = parse_args(request.args, KNOWN_ARGS).get("MAC", ""), "MAC in CNI_ARGS"
    outer = members.object("args")
    for holder in (outer.object("cni") if outer is not None else None, members.object("runtimeConfig")):
        text = holder.string("mac") if holder is not None else ""
        if holder is not None and text:
            found, source = text, f'key "{holder.path("mac")}"'
    try:
        return parse_mac(found)
    except CNIError as error:
        raise CNIError(error.msg, f"{source}: {error.details}") from None


def parse_mac(text: str) -> bytes | None:
    """A link address in the notations of Go's ParseMAC (`:` or `-` by twos, `.` by fours); "" is None.

    Raises CNIError (999) with the text that the reference ends with when the kernel refuses the address.
    """
    if not text:
        return None
    separator = next((char for char in ":-." if char in text), ":")
    groups = text.split(separator)
    width = 4 if separator == "." else 2
    size = len(groups) * width // 2
    if size not in _ADDRESS_SIZES or not all(len(group) == width and _is_hex(group) for group in groups):
        raise CNIError(
            f"failed to make veth pair: address {text}: invalid MAC address",
            f'the MAC is "{text}"; write six pairs of hexadecimal digits, as in 02:00:00:00:00:01',
        )
    mac = bytes.fromhex("".join(groups))
    if len(mac) != 6:
        raise CNIError(
            "failed to make veth pair: invalid argument", f'MAC "{text}" has {len(mac)} bytes, not 6'
        )
    if mac[0] & 1 or not any(mac):
        raise CNIError(
            "failed to make veth pair: cannot assign requested address",
            f'MAC "{text}" is a multicast or zero address; a link needs a unicast one',
        )
    return mac


def _is_hex(text: str) -> bool:
    return all(char in "0123456789abcdefABCDEF" for char in text)


def _vlan(members: Members) -> int:
    vlan = members.number("vlan")
    if not 0 <= vlan <= VLAN_MAX:
        raise CNIError(f"invalid VLAN ID {vlan} (must be between 0 and {VLAN_MAX})", f'key "vlan" is {vlan}')
    return vlan


def _trunk(members: Members) -> tuple[int, ...] | None:
    items = members.objects("vlanTrunk")
    if items is None:
        return None
    from pycni_bridge.vlans import trunk_ids

    return trunk_ids(items)


def _check_consistency(config: BridgeConfig) -> None:
    if config.ipam_type and config.disable_container_interface:
        raise CNIError(
            "cannot use IPAM when DisableContainerInterface flag is set",
            f'"disableContainerInterface" is true and "ipam.type" is "{config.ipam_type}": drop one of them',
        )
    if config.hairpin_mode and config.promisc_mode:
        raise CNIError(
            "cannot set hairpin mode and promiscuous mode at the same time",
            '"hairpinMode" and "promiscMode" are both true: drop one of them',
        )
    if config.masquerades:
        validate_backend(config.ip_masq_backend or None)
    if config.mtu and not MTU_MIN <= config.mtu <= MTU_MAX:
        raise CNIError(
            "failed to make veth pair: invalid argument",
            f'key "mtu" is {config.mtu}; a veth takes {MTU_MIN} to {MTU_MAX}',
        )
    _check_bridge_name(config.bridge)
    if config.vlan and config.is_gateway and config.ipam_type:
        from pycni_bridge.vlans import check_gateway_name

        check_gateway_name(config.gateway_link, config.vlan)


def validate_backend(name: str | None) -> None:
    """Raises CNIError `unknown ipmasq backend "pf"`; None (not configured) is fine."""
    if name is not None and name not in (IPTABLES, NFTABLES):
        raise CNIError(
            f'unknown ipmasq backend "{name}"',
            f'key "ipMasqBackend" is "{name}"; write "{IPTABLES}" or "{NFTABLES}", or leave it out',
        )


def _check_interface_name(ifname: str) -> None:
    if "%" in ifname:
        raise CNIError(
            "failed to make veth pair: invalid argument", f'CNI_IFNAME is "{ifname}": {_PATTERN_PROBLEM}'
        )


def _check_bridge_name(name: str) -> None:
    problem = interface_name_problem(name)
    if problem is None and "%" in name:
        problem = _PATTERN_PROBLEM, ""
    if problem is None and "\0" in name:
        problem = "interface name contains a NUL", ""
    if problem is None:
        return
    reason = "invalid argument"
    if not name:
        reason = "LinkAttrs.Name cannot be empty"
    elif problem[0] == "interface name is too long":
        reason = "numerical result out of range"
    raise CNIError(
        f'failed to create bridge "{name}": could not add "{name}": {reason}',
        f'key "bridge" is "{name}": {problem[0]}',
    )
