"""host-local's part of a network config: typed, checked, complete.

Keys, defaults, the order of checks and the texts are the reference's. What a verb does not need is not
read: a config that was edited into an invalid one must not keep DEL and GC from cleaning up.
"""

from __future__ import annotations

from pycni.addresses import CIDR, IP, IPV4
from pycni.cni_args import bad_value, parse_args
from pycni.errors import CNIError
from pycni.record import Record
from pycni.versions import at_least
from pycni.wire.config import Members, shown
from pycni_hostlocal.ranges import RangeSet, check_sets, complete_range, complete_set

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from pycni.request import Request
    from pycni.types import Route

DEFAULT_DATA_DIR: Final = "/var/lib/cni/networks"
_KNOWN_ARGS: Final = ("IP", "MAC")
"""MAC is for the bridge, which hands the same CNI_ARGS on."""


class Config(Record):
    """What ADD and CHECK work with; `requested` are addresses asked for, without repetition.

    `data_dir` and `resolv_conf` are paths as written (relative ones are the caller's).
    """

    data_dir: str
    sets: tuple[RangeSet, ...]
    requested: tuple[IP, ...] = ()
    routes: tuple[Route, ...] = ()
    resolv_conf: str = ""


def load_data_dir(request: Request) -> str:
    """The store's folder alone, for the verbs that clean up; raises CNIError (999) if it cannot be known."""
    return _path(_ipam(request), "dataDir") or DEFAULT_DATA_DIR


def load_config(request: Request, need_ranges: bool = True) -> Config:
    """The whole config; raises CNIError (999) for whatever is wrong first.

    With `need_ranges` false a config without any range passes: STATUS is asked without the runtime's
    `ipRanges`.
    """
    members = request.members()
    ipam = _ipam(request)
    ipam.string("type")
    data_dir = _path(ipam, "dataDir") or DEFAULT_DATA_DIR
    resolv_conf = _path(ipam, "resolvConf")
    routes = _routes(ipam)
    runtime = members.object("runtimeConfig") or Members({}, "runtimeConfig")
    args = members.object("args") or Members({}, "args")
    listed = _listed_ips(args.object("cni") or Members({})) + _listed_ips(runtime)
    raw_sets = _raw_sets(runtime, "runtimeConfig", "ipRanges")
    legacy = _raw_range(ipam)
    if legacy.subnet is not None:
        raw_sets.append(_RawSet("ipam", (legacy,)))
    raw_sets += _raw_sets(ipam, "ipam", "ranges")
    requested = tuple(dict.fromkeys(_args_ip(request.args) + listed))
    if not raw_sets and need_ranges:
        raise CNIError(
            "no IP ranges specified",
            'give "ipam.ranges" (a list of lists of ranges), "ipam.subnet" or the capability ipRanges',
        )
    sets = tuple(_complete_set(index, raw) for index, raw in enumerate(raw_sets))
    version = members.string("cniVersion")
    check_sets(sets, version, at_least(version, "0.3.0"))
    return Config(data_dir, sets, requested, routes, resolv_conf)


def _ipam(request: Request) -> Members:
    ipam = request.members().object("ipam")
    if ipam is None:
        raise CNIError("IPAM config missing 'ipam' key", 'the config needs an object "ipam"')
    return ipam


def _path(members: Members, key: str) -> str:
    text = members.string(key)
    if "\0" in text:
        raise CNIError(
            f"open {text}: invalid argument", f'key "{members.path(key)}" is {shown(text)}; no path has a NUL'
        )
    return text


def _routes(ipam: Members) -> tuple[Route, ...]:
    if "routes" not in ipam:
        return ()
    from pycni.wire.parse import read_routes

    try:
        return read_routes(ipam)
    except CNIError as error:
        raise CNIError(error.msg, error.details) from None


class _RawRange(Record):
    """A range as written: texts parsed, nothing completed; `mapped` if the subnet is IPv4 in IPv6 dress."""

    subnet: CIDR | None
    start: IP | None
    end: IP | None
    gateway: IP | None
    mapped: bool


def _raw_range(members: Members) -> _RawRange:
    subnet = None
    text = members.string("subnet")
    if "subnet" in members:
        try:
            subnet = CIDR.parse(text)
        except CNIError as error:
            raise CNIError(error.msg, f'key "{members.path("subnet")}" is {shown(text)}') from None
    mapped = subnet is not None and subnet.family == IPV4 and ":" in text
    return _RawRange(
        subnet, _ip(members, "rangeStart"), _ip(members, "rangeEnd"), _ip(members, "gateway"), mapped
    )


def _ip(members: Members, key: str) -> IP | None:
    text = members.string(key)
    if not text:
        return None
    try:
        return IP.parse(text)
    except CNIError as error:
        raise CNIError(error.msg, f'key "{members.path(key)}" is {shown(text)}') from None


class _RawSet(Record):
    """A range set as written, and where: its number among all sets is not what a config's author counts."""

    path: str
    ranges: tuple[_RawRange, ...]


def _raw_sets(members: Members, where: str, key: str) -> list[_RawSet]:
    sets = []
    for position, item in enumerate(members.array(key) or ()):
        name = f"{key}[{position}]"
        ranges = Members({name: item}, where).objects(name) or ()
        sets.append(_RawSet(f"{where}.{name}", tuple(_raw_range(each) for each in ranges)))
    return sets


def _complete_set(index: int, raw: _RawSet) -> RangeSet:
    try:
        ranges = []
        for each in raw.ranges:
            if each.mapped:
                raise CNIError("IPNet IP and Mask version mismatch", f"write the subnet as {each.subnet}")
            ranges.append(complete_range(each.subnet, each.start, each.end, each.gateway))
        return complete_set(ranges)
    except CNIError as error:
        told = f"{raw.path}: {error.details}" if error.details else raw.path
        raise CNIError(f"invalid range set {index}: {error.msg}", told) from None


def _args_ip(text: str) -> tuple[IP, ...]:
    value = parse_args(text, _KNOWN_ARGS).get("IP", "")
    if not value:
        return ()
    ip = _address(value)
    if ip is None:
        raise bad_value(f"IP={value}", f"invalid IP address {value}")
    return (ip,)


def _listed_ips(members: Members) -> tuple[IP, ...]:
    found = []
    for position, text in enumerate(members.strings("ips") or ()):
        key = members.path(f"ips[{position}]")
        if not text:
            raise CNIError("cannot understand ip: IP <nil> not v4 nor v6", f'key "{key}" is empty')
        ip = _address(text)
        if ip is None:
            raise CNIError(f"invalid IP address {text}", f'key "{key}" is {shown(text)}')
        found.append(ip)
    return tuple(found)


def _address(text: str) -> IP | None:
    """An address with or without a prefix length, which is thrown away."""
    try:
        return CIDR.parse(text).ip if "/" in text else IP.parse(text)
    except CNIError:
        return None
