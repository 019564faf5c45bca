"""Address and route messages against pyroute2's classes: byte for byte out, value for value in."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from pycni.addresses import CIDR, IP
from pycni.errors import CNIError
from pycni.kernel import routing
from pycni.kernel.routing import Address, NextHop, RouteEntry

DO, CREATE, CREATE_NEW, DUMP = 0x5, 0x405, 0x605, 0x301
AF = {0: 0, 4: 2, 6: 10}

indexes = st.integers(1, (1 << 31) - 1)
numbers = st.integers(1, (1 << 32) - 1)
v4 = st.builds(IP, st.just(4), st.integers(0, (1 << 32) - 1))
# The text form of pyroute2's side knows IPv4-mapped addresses, which pycni reads as IPv4 elsewhere.
v6 = st.builds(IP, st.just(6), st.integers(1 << 48, (1 << 128) - 1))
pairs = st.one_of(
    st.tuples(st.builds(CIDR, v4, st.integers(0, 32)), v4),
    st.tuples(st.builds(CIDR, v6, st.integers(0, 128)), v6),
)

SOME = (CIDR.parse("10.0.0.0/8"), IP.parse("10.0.0.1"))


def encoded(
    message: ifaddrmsg | rtmsg, kind: int, flags: int, header: dict[str, int], attributes: object
) -> bytes:
    for field, value in header.items():
        message[field] = value
    message["header"]["type"] = kind
    message["header"]["flags"] = flags
    message["attrs"] = attributes
    message.encode()
    return bytes(message.data)


def text(ip: IP) -> str:
    return str(ipaddress.ip_address(ip.packed()))


@given(pairs, indexes, st.booleans())
@example((CIDR.parse("10.0.0.1/30"), SOME[1]), 1, False)
@example((CIDR.parse("10.0.0.1/31"), SOME[1]), 1, False)
def test_address_requests_are_what_pyroute2_makes(pair: tuple[CIDR, IP], index: int, nodad: bool) -> None:
    """Local and peer address are equal; IPv4 networks of 30 bits or fewer have a broadcast address.

    IPv4 has no duplicate address detection to be spared.
    """
    cidr, _ = pair
    network = ipaddress.ip_network((cidr.ip.packed(), cidr.prefix), strict=False)
    attributes = [("IFA_LOCAL", text(cidr.ip)), ("IFA_ADDRESS", text(cidr.ip))]
    if cidr.family == 4 and cidr.prefix <= 30:
        attributes.append(("IFA_BROADCAST", str(network.broadcast_address)))
    header = {"family": AF[cidr.family], "prefixlen": cidr.prefix, "index": index, "scope": 0}
    assert routing.new_address(index, cidr, nodad=nodad) == encoded(
        ifaddrmsg(), 20, CREATE_NEW, {**header, "flags": 2 * (nodad and cidr.family == 6)}, attributes
    )
    assert routing.del_address(index, cidr) == encoded(
        ifaddrmsg(), 21, DO, {**header, "flags": 0}, attributes
    )


@given(
    pairs,
    st.just(0) | indexes,
    st.booleans(),
    st.integers(-5, (1 << 32) - 1),
    st.none() | st.integers(0, (1 << 32) - 1),
    st.none() | st.integers(0, 255),
    st.tuples(st.integers(0, 9000), st.integers(0, 9000)),
)
@example(SOME, 1, True, 0, 255, None, (0, 0))
@example(SOME, 1, True, 0, 256, None, (0, 0))
def test_route_requests_are_what_pyroute2_makes(
    pair: tuple[CIDR, IP],
    index: int,
    with_gateway: bool,
    priority: int,
    table: int | None,
    scope: int | None,
    metrics: tuple[int, int],
) -> None:
    """Destination always, the rest where given; tables beyond a byte go as an attribute; protocol boot."""
    dst, gateway = pair
    number = table if table else 254
    attributes: list[object] = [("RTA_DST", text(dst.ip))]
    if with_gateway:
        attributes.append(("RTA_GATEWAY", text(gateway)))
    attributes += [("RTA_OIF", index)] if index else []
    attributes += [("RTA_PRIORITY", priority)] if priority > 0 else []
    attributes += [("RTA_TABLE", number)] if number > 255 else []
    kept = [(name, value) for name, value in zip(("RTAX_MTU", "RTAX_ADVMSS"), metrics, strict=True) if value]
    header = {"family": AF[dst.family], "dst_len": dst.prefix, "table": number if number < 256 else 0}
    gw = gateway if with_gateway else None
    added = routing.new_route(
        index, dst, gw, priority=priority, table=table, scope=scope, mtu=metrics[0], advmss=metrics[1]
    )
    assert added == encoded(
        rtmsg(),
        24,
        CREATE,
        {**header, "proto": 3, "scope": scope or 0, "type": 1},
        [*attributes, *([("RTA_METRICS", {"attrs": kept})] if kept else [])],
    )
    assert routing.del_route(index, dst, gw, priority=priority, table=table) == encoded(
        rtmsg(), 25, DO, {**header, "proto": 0, "scope": 255, "type": 0}, attributes
    )


@pytest.mark.parametrize(("dst", "gw"), [("::/0", "10.0.0.1"), ("10.0.0.0/8", "fd00::1")])
def test_a_route_of_mixed_families_is_refused(dst: str, gw: str) -> None:
    """The reference's text, and what to do."""
    with pytest.raises(CNIError) as caught:
        routing.new_route(1, CIDR.parse(dst), IP.parse(gw))
    assert caught.value.msg == "gateway, source, and destination ip are not the same IP family"
    assert dst in caught.value.details
    assert gw in caught.value.details


@pytest.mark.parametrize("family", [0, 4, 6])
def test_dump_requests_are_what_pyroute2_makes(family: int) -> None:
    """Dumps carry family and index in their header, the table as an attribute."""
    header = {"family": AF[family], "index": 7}
    assert routing.dump_addresses(family, 7) == encoded(ifaddrmsg(), 22, DUMP, header, [])
    fixed = {"family": AF[family], "table": 0, "proto": 0, "scope": 0, "type": 0}
    assert routing.dump_routes(family) == encoded(rtmsg(), 26, DUMP, fixed, [])
    assert routing.dump_routes(family, 1000) == encoded(rtmsg(), 26, DUMP, fixed, [("RTA_TABLE", 1000)])


@given(pairs, indexes, st.integers(0, 255), st.none() | numbers, st.booleans())
def test_an_address_comes_back_as_it_went_in(
    pair: tuple[CIDR, IP], index: int, flags: int, wide: int | None, point_to_point: bool
) -> None:
    """The own address is IFA_LOCAL where there is one; IFA_FLAGS has what a byte cannot hold."""
    cidr, other = pair
    attributes: list[object] = [("IFA_ADDRESS", text(other if point_to_point else cidr.ip))]
    if point_to_point:
        attributes.append(("IFA_LOCAL", text(cidr.ip)))
    attributes.append(("IFA_LABEL", "eth0:1"))
    attributes += [("IFA_FLAGS", wide)] if wide is not None else []
    attributes += [("IFA_BROADCAST", text(other))] if cidr.family == 4 else []
    header = {
        "family": AF[cidr.family],
        "prefixlen": cidr.prefix,
        "flags": flags,
        "scope": 253,
        "index": index,
    }
    payload = encoded(ifaddrmsg(), 20, 0, header, attributes)[16:]
    expected = wide if wide is not None else flags
    assert routing.read_address(payload) == Address(
        index, cidr, 253, expected, other if cidr.family == 4 else None, "eth0:1"
    )


@pytest.mark.parametrize(("flags", "tentative", "dadfailed"), [(0x80, 0, 0), (0xC0, 1, 0), (0x48, 1, 1)])
def test_duplicate_address_detection_shows_in_the_flags(flags: int, tentative: int, dadfailed: int) -> None:
    """IFA_F_TENTATIVE and IFA_F_DADFAILED are told apart."""
    address = Address(1, CIDR.parse("fd00::1/64"), 0, flags, None, "")
    assert (address.tentative, address.dadfailed) == (bool(tentative), bool(dadfailed))


@given(pairs, st.booleans(), indexes, numbers, st.none() | numbers, st.tuples(numbers, numbers))
def test_a_route_comes_back_as_it_went_in(
    pair: tuple[CIDR, IP], default: bool, oif: int, priority: int, table: int | None, metrics: tuple[int, int]
) -> None:
    """A default route comes without RTA_DST; RTA_TABLE overrules the header's byte."""
    cidr, gateway = pair
    dst = cidr.replace(ip=IP(cidr.family, 0), prefix=0) if default else cidr
    kept = [("RTAX_LOCK", 1), ("RTAX_MTU", metrics[0]), ("RTAX_ADVMSS", metrics[1])]
    attributes = [
        *([("RTA_TABLE", table)] if table is not None else []),
        *([] if default else [("RTA_DST", text(dst.ip))]),
        ("RTA_PRIORITY", priority),
        ("RTA_METRICS", {"attrs": kept}),
        ("RTA_GATEWAY", text(gateway)),
        ("RTA_PREFSRC", text(gateway)),
        ("RTA_OIF", oif),
    ]
    header = {
        "family": AF[dst.family],
        "dst_len": dst.prefix,
        "table": 254,
        "proto": 2,
        "scope": 253,
        "type": 1,
    }
    assert routing.read_route(encoded(rtmsg(), 24, 0, header, attributes)[16:]) == RouteEntry(
        family=dst.family,
        dst=dst,
        gw=gateway,
        oif=oif,
        priority=priority,
        table=table if table is not None else 254,
        scope=253,
        protocol=2,
        type=1,
        mtu=metrics[0],
        advmss=metrics[1],
        prefsrc=gateway,
        nexthops=(),
    )


@given(st.lists(st.tuples(v6, indexes), min_size=1, max_size=4))
def test_a_multipath_route_has_all_its_ways(hops: list[tuple[IP, int]]) -> None:
    """Each next hop comes with its gateway and its device; the route itself has none."""
    attribute = [
        {"hops": 0, "oif": oif, "flags": 0, "attrs": [("RTA_GATEWAY", text(gateway))]}
        for gateway, oif in hops
    ]
    payload = encoded(rtmsg(), 24, 0, {"family": 10, "table": 254}, [("RTA_MULTIPATH", attribute)])[16:]
    route = routing.read_route(payload)
    assert route is not None
    assert route.nexthops == tuple(NextHop(gateway, oif) for gateway, oif in hops)
    assert (route.gw, route.oif, route.dst.is_default()) == (None, 0, True)


def test_other_families_are_passed_over() -> None:
    """Multicast routing and MPLS answer family-less dumps too."""
    assert routing.read_route(encoded(rtmsg(), 24, 0, {"family": 2}, [])[16:]) is not None
    for family in (128, 129, 28):
        assert routing.read_route(bytes([family]) + bytes(11)) is None
        assert routing.read_address(bytes([family]) + bytes(7)) is None


def test_an_ipv4_mapped_address_stays_the_ipv6_address_it_is() -> None:
    """The kernel's tables know no mapped addresses, unlike configs."""
    payload = encoded(
        ifaddrmsg(), 20, 0, {"family": 10, "prefixlen": 128}, [("IFA_ADDRESS", "::ffff:1.2.3.4")]
    )[16:]
    address = routing.read_address(payload)
    assert address is not None
    assert address.cidr == CIDR(IP(6, 0xFFFF01020304), 128)


@given(st.sampled_from((2, 10)), st.binary(min_size=11, max_size=200))
def test_noise_after_the_header_is_survived(family: int, rest: bytes) -> None:
    """Malformed attributes are left out: reading ends."""
    routing.read_route(bytes([family]) + rest)
    routing.read_address(bytes([family]) + rest)
