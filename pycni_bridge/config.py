"""The bridge plugin's configuration: keys, types, defaults, and what contradicts what.

Keys, defaults and texts are the reference's (plugins/main/bridge). What can be refused by looking at the
config alone is refused here, before anything is touched.
"""

from __future__ import annotations

from pycni.cni_args import parse_args
from pycni.errors import UNSUPPORTED_FIELD, CNIError
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
_ADDRESS_SIZES: Final = (6, 8, 20)
"""Bytes of EUI-48, EUI-64 and InfiniBand addresses: the ones that Go's ParseMAC knows."""


class BridgeConfig(Record):
    """The config of one call. `mtu` in bytes, 0 means the kernel's default; `mac` is None for a random one.

    `ip_masq_backend` is empty where the config leaves the choice to us; `ipam_type` is empty for layer 2.
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

    @property
    def masquerades(self) -> bool:
        """Whether masquerade rules belong to an attachment: they need addresses."""
        return self.ip_masq and bool(self.ipam_type)


def parse_config(request: Request) -> BridgeConfig:
    """The config for ADD and CHECK; raises CNIError (999, or 2 for a field that is not supported)."""
    members = request.members(PREFIX)
    _check_vlan(members)
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
        mac=parse_mac(_mac_text(request, members)),
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


def _ipam_type(members: Members) -> str:
    ipam = members.object("ipam")
    return ipam.string("type") if ipam is not None else ""


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


def _mac_text(request: Request, members: Members) -> str:
    """CNI_ARGS, then args.cni.mac, then runtimeConfig.mac: the later one wins."""
    args = parse_args(request.args, KNOWN_ARGS)
    found = args.get("MAC", "")
    outer = members.object("args")
    cni = outer.object("cni") if outer is not None else None
    if cni is not None:
        found = cni.string("mac") or found
    runtime = members.object("runtimeConfig")
    if runtime is not None:
        found = runtime.string("mac") or found
    return found


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


def _check_vlan(members: Members) -> None:
    vlan = members.number("vlan")
    if not 0 <= vlan <= VLAN_MAX:
        raise CNIError(f"invalid VLAN ID {vlan} (must be between 0 and {VLAN_MAX})", f'key "vlan" is {vlan}')
    for trunk in members.objects("vlanTrunk") or ():
        _check_trunk(trunk)
    members.boolean("preserveDefaultVlan")
    for key in ("vlan", "vlanTrunk", "preserveDefaultVlan"):
        if members.raw(key):
            raise CNIError(
                f'the key "{key}" is not supported yet',
                f'"{key}" is set; this release of the bridge plugin does not configure VLANs',
                code=UNSUPPORTED_FIELD,
            )


def _check_trunk(trunk: Members) -> None:
    low, high, single = (trunk.integer(key, None) for key in ("minID", "maxID", "id"))
    for key, value in (("minID", low), ("maxID", high), ("id", single)):
        if value is not None and not 1 <= value <= VLAN_MAX:
            raise CNIError(
                f"incorrect trunk {key} parameter",
                f'key "{trunk.path(key)}" is {value}; VLAN ids go from 1 to {VLAN_MAX}',
            )
    if low is None and high is None:
        return
    if low is None or high is None:
        missing = "minID" if low is None else "maxID"
        raise CNIError(
            f"minID and maxID should be configured simultaneously, {missing} is missing", trunk.path(missing)
        )
    if low > high:
        raise CNIError("minID is greater than maxID in trunk parameter", f"minID {low}, maxID {high}")


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
    if config.masquerades and config.ip_masq_backend not in ("", IPTABLES, NFTABLES):
        raise CNIError(
            f'unknown ipmasq backend "{config.ip_masq_backend}"',
            f'key "ipMasqBackend" may be "{IPTABLES}" or "{NFTABLES}", or absent',
        )
    if config.mtu and not MTU_MIN <= config.mtu <= MTU_MAX:
        raise CNIError(
            "failed to make veth pair: invalid argument",
            f'key "mtu" is {config.mtu}; a veth takes {MTU_MIN} to {MTU_MAX}',
        )
    _check_bridge_name(config.bridge)


def _check_bridge_name(name: str) -> None:
    problem = interface_name_problem(name)
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
