"""Results of every spec version, read into `pycni.types.Result`.

There are three shapes: 0.1.0 and 0.2.0 (one address per family), 0.3.0 to 0.4.0 (lists, addresses labelled
"4" or "6"), 1.0.0 and 1.1.0 (lists, keys sorted). Source: CNI spec 0.1.0 to 1.1.0, section "Result" or
"Success", and the reference's `pkg/types`. Two of its defects are not followed: an address that is missing
and a `null` in a list are refused here, where it would print `<nil>` or crash later.
"""

from __future__ import annotations

from pycni.addresses import CIDR, IP
from pycni.errors import DECODING_FAILURE, CNIError
from pycni.types import DNS, Interface, IPConfig, Result, Route
from pycni.versions import OLDEST, SUPPORTED
from pycni.wire.config import Members, shown
from pycni.wire.json import kind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from pycni.wire.json import JSON

PAIR: Final = ("0.1.0", "0.2.0")
LABELLED: Final = ("0.3.0", "0.3.1", "0.4.0")
SORTED: Final = ("1.0.0", "1.1.0")
SHAPE_OF: Final = {version: shape for shape in (PAIR, LABELLED, SORTED) for version in shape}
"""The versions that share a version's shape (one of the three tuples above, comparable by `is`)."""


def parse_result(data: JSON, default_version: str = "") -> Result:
    """A result, given as a JSON object, in the shape of its own `cniVersion`.

    Where that is absent, empty or not a string, `default_version` counts (empty: 0.1.0), as for a
    delegate's answer. Raises CNIError: code 6 for a `null` in a list and for an address or a route without
    its address, else 999, for an unknown version, a wrong type or an address that cannot be read.
    """
    members = _object(data)
    version = members.raw("cniVersion")
    if not isinstance(version, str) or not version:
        version = default_version or OLDEST
    return _read(members, version, _shape(version))


def parse_as(data: JSON, version: str) -> Result:
    """A result in the shape that `version` belongs to; its own number may be another one of that shape.

    An absent or empty number is `version`. Raises like `parse_result`, and CNIError (999) `result type
    supports […]` for a number of another shape.
    """
    shape = _shape(version)
    members = _object(data)
    own = members.string("cniVersion") or version
    if own not in shape:
        # The reference's list of the oldest shape starts with an empty number.
        numbers = " ".join(("", *shape) if shape is PAIR else shape)
        raise CNIError(
            f'result type supports [{numbers}] but unmarshalled CNIVersion is "{own}"',
            f'the config\'s cniVersion is "{version}"; a result of another shape must be converted first',
        )
    return _read(members, own, shape)


def parse_prev_result(data: JSON, config_version: str) -> Result | None:
    """The `prevResult` of a config of `config_version`; None for None, the empty result for `{}`.

    Raises CNIError `could not parse prevResult: …` with the codes of `parse_as`.
    """
    if data is None:
        return None
    try:
        if not isinstance(data, dict):
            raise Members({}).error("prevResult", data, "object")
        return parse_as(data, config_version)
    except CNIError as error:
        raise CNIError(f"could not parse prevResult: {error.msg}", error.details, code=error.code) from None


def _object(data: JSON) -> Members:
    if not isinstance(data, dict):
        raise CNIError(f"json: cannot unmarshal {kind(data)} into a result of type object")
    return Members(data)


def _shape(version: str) -> tuple[str, ...]:
    try:
        return SHAPE_OF[version]
    except KeyError:
        raise CNIError(
            f'unsupported CNI result version "{version}"', f"known are {', '.join(SUPPORTED)}"
        ) from None


def _read(members: Members, version: str, shape: tuple[str, ...]) -> Result:
    if shape is PAIR:
        return _read_pair(members, version)
    return Result(
        interfaces=tuple(_interface(item, shape) for item in _items(members, "interfaces")),
        ips=tuple(
            IPConfig(
                _cidr(item, "address"),
                _gateway(item, "gateway"),
                item.integer("interface", None),
                item.string("version") if shape is LABELLED else "",
            )
            for item in _items(members, "ips")
        ),
        routes=read_routes(members),
        dns=_dns(members),
        cni_version=version,
    )


def _read_pair(members: Members, version: str) -> Result:
    ips: list[IPConfig] = []
    routes: tuple[Route, ...] = ()
    for key, label in (("ip4", "4"), ("ip6", "6")):
        item = members.object(key)
        if item is not None:
            ips.append(IPConfig(_cidr(item, "ip"), _gateway(item, "gateway"), version=label))
            routes += read_routes(item)
    return Result(ips=tuple(ips), routes=routes, dns=_dns(members), cni_version=version)


def _items(members: Members, key: str) -> tuple[Members, ...]:
    for position, item in enumerate(members.array(key) or ()):
        if item is None:
            path = members.path(f"{key}[{position}]")
            raise CNIError(f"{path} is null", f'"{path}" must be an object', code=DECODING_FAILURE)
    return members.objects(key) or ()


def _interface(item: Members, shape: tuple[str, ...]) -> Interface:
    name, mac, sandbox = item.string("name"), item.string("mac"), item.string("sandbox")
    if shape is LABELLED:
        return Interface(name, mac, sandbox=sandbox)
    return Interface(name, mac, item.number("mtu"), sandbox, item.string("socketPath"), item.string("pciID"))


def read_routes(members: Members) -> tuple[Route, ...]:
    """The list `routes` of a result, or of a config that has one like it (host-local's).

    Raises CNIError: code 6 for a `null` in it and for a route without destination, else 999.
    """
    return tuple(
        Route(
            _cidr(item, "dst"),
            _gateway(item, "gw"),
            item.number("mtu"),
            item.number("advmss"),
            item.number("priority"),
            item.integer("table", None),
            item.integer("scope", None),
        )
        for item in _items(members, "routes")
    )


def _dns(members: Members) -> DNS:
    item = members.object("dns")
    if item is None:
        return DNS()
    return DNS(
        item.strings("nameservers") or (),
        item.string("domain"),
        item.strings("search") or (),
        item.strings("options") or (),
    )


def _cidr(item: Members, key: str) -> CIDR:
    if key not in item:
        path = item.path(key)
        raise CNIError(
            f"{path} is missing", f'"{path}" must be an address with its prefix length', code=DECODING_FAILURE
        )
    text = item.string(key)
    try:
        return CIDR.parse(text)
    except CNIError as error:
        raise CNIError(error.msg, f'key "{item.path(key)}" is {shown(text)}; write address/length') from None


def _gateway(item: Members, key: str) -> IP | None:
    text = item.string(key)
    try:
        return IP.parse(text) if text else None
    except CNIError as error:
        raise CNIError(
            error.msg, f'key "{item.path(key)}" is {shown(text)}; write an address without prefix length'
        ) from None
