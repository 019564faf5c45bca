"""Addresses as Go reads and prints them: `pycni.addresses`; `ipaddress` is the oracle where they agree."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pycni.addresses import CIDR, DEFAULT_V4, DEFAULT_V6, IP, IPV4, IPV6
from pycni.errors import CNIError

V4 = st.integers(0, (1 << 32) - 1)
V6 = st.integers(0, (1 << 128) - 1)
# Addresses with long runs of zeros, where compression decides, and the mapped and compatible ranges.
V6_SPARSE = st.lists(st.sampled_from([0, 0, 0, 1, 0xFFFF, 0x0A01]), min_size=8, max_size=8).map(
    lambda words: int.from_bytes(b"".join(word.to_bytes(2, "big") for word in words), "big")
)


def go_text(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    """What Go prints: IPv4 for a mapped address, hexadecimal groups for all other IPv6."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(address).lower()
    return str(address)


@pytest.mark.row("plugins", 152)
@given(V4)
def test_ipv4_text_goes_both_ways(value: int) -> None:
    """Printing and reading an IPv4 address are inverse, and agree with `ipaddress`."""
    ip = IP(IPV4, value)
    assert str(ip) == str(ipaddress.IPv4Address(value))
    assert IP.parse(str(ip)) == ip
    assert IP.from_bytes(ip.packed()) == ip


@pytest.mark.row("plugins", 152)
@given(V6 | V6_SPARSE)
@example(0)
@example(1)
@example(0x10000)
@example(0x01020304)
@example(0xFFFF01020304)
def test_ipv6_text_goes_both_ways(value: int) -> None:
    """IPv6 prints compressed in lower case without dotted parts; a mapped address is IPv4."""
    oracle = ipaddress.IPv6Address(value)
    ip = IP.from_bytes(oracle.packed)
    assert ip.family == (IPV4 if oracle.ipv4_mapped else IPV6)
    assert str(ip) == go_text(oracle)
    assert IP.parse(str(ip)) == ip
    assert IP.parse(oracle.exploded) == ip
    assert IP.parse(str(oracle).upper()) == ip


@given(V6_SPARSE)
def test_every_ipv6_prints_what_can_be_read(value: int) -> None:
    """Also an IPv6 value in the mapped range, which arithmetic may reach, prints as an address."""
    assert int(ipaddress.IPv6Address(str(IP(IPV6, value)))) == value


@pytest.mark.row("plugins", 152)
@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "10.0.0",
            "10.0.0.1.2",
            "10.01.0.1",
            "010.0.0.1",
            "0x0a.0.0.1",
            "256.0.0.1",
            "10.0.0.1 ",
            " 10.0.0.1",
        ),
        *("10.0.0.-1", "１0.0.0.1", "10.0.0.1\0", "10.0.0.1\n", "10.0.0.1/8", "default", "\udcff"),
        *(
            "fe80::1%eth0",
            "::1%1",
            ":::",
            "::1::",
            "1:2:3:4:5:6:7",
            "12345::",
            "::g",
            "::ffff:10.01.0.1",
            "[::1]",
        ),
    ],
)
def test_what_is_no_address(text: str) -> None:
    """Zones, leading zeros, blanks, other digits and CIDRs are refused by name."""
    with pytest.raises(CNIError) as caught:
        IP.parse(text)
    assert (caught.value.code, caught.value.msg) == (999, f"invalid IP address: {text}")


@pytest.mark.row("plugins", 152)
@given(st.one_of(st.tuples(V4, st.integers(0, 32)), st.tuples(V6, st.integers(0, 128))))
def test_cidr_agrees_with_ipaddress(pair: tuple[int, int]) -> None:
    """Network, last address, membership and text are those of `ipaddress`, host bits kept."""
    value, prefix = pair
    oracle = ipaddress.ip_interface((value, prefix))
    cidr = CIDR.parse(str(oracle))
    if isinstance(oracle, ipaddress.IPv6Interface) and oracle.ip.ipv4_mapped:
        return
    assert str(cidr) == str(oracle)
    assert str(cidr.network) == str(oracle.network)
    assert str(cidr.last) == str(oracle.network.broadcast_address)
    assert cidr.hostmask == int(oracle.network.hostmask)
    assert cidr.contains(cidr.ip)
    assert cidr.contains(cidr.last)
    if cidr.prefix:
        assert not cidr.contains(cidr.last + 1)
        assert not cidr.contains(cidr.network.ip + -1)


NETS = st.tuples(st.sampled_from([0, 1 << 24, 10 << 24, 11 << 24, (10 << 24) + 255]), st.integers(0, 32))


@given(NETS, NETS)
def test_overlap_agrees_with_ipaddress(one: tuple[int, int], two: tuple[int, int]) -> None:
    """Two networks overlap if and only if `ipaddress` says so."""
    first, second = CIDR(IP(IPV4, one[0]), one[1]), CIDR(IP(IPV4, two[0]), two[1])
    nets = [ipaddress.ip_network(pair, strict=False) for pair in (one, two)]
    assert first.overlaps(second) is second.overlaps(first) is nets[0].overlaps(nets[1])


def test_families_do_not_mix() -> None:
    """No IPv6 network contains or overlaps an IPv4 one."""
    assert not DEFAULT_V6.contains(IP.parse("10.0.0.1"))
    assert not DEFAULT_V4.overlaps(DEFAULT_V6)


@pytest.mark.row("contract", 48, 49)
@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("10.0.0.5/8", "10.0.0.5/8"),
        ("::ffff:10.9.9.9/120", "10.9.9.9/24"),
        ("::ffff:10.9.9.9/128", "10.9.9.9/32"),
        ("::ffff:10.9.9.9/64", "10.9.9.9/0"),
        ("FD00:0::3/064", "fd00::3/64"),
        ("10.0.0.0/008", "10.0.0.0/8"),
        ("::1.2.3.4/128", "::102:304/128"),
    ],
)
def test_cidr_texts_of_go(text: str, printed: str) -> None:
    """Host bits stay, mapped addresses become IPv4, the length may have leading zeros."""
    assert str(CIDR.parse(text)) == printed


@pytest.mark.row("contract", 49)
@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "10.0.0.1",
            "10.0.0.1/",
            "/8",
            "10.0.0.0/255.0.0.0",
            "10.0.0.0/0.0.0.255",
            "10.0.0.1/33",
            "10.0.0.1/-1",
        ),
        *(
            "10.0.0.1/+8",
            "10.0.0.1/8 ",
            "10.0.0.1/８",
            "10.0.0.1/8/8",
            "10.01.0.1/8",
            "default",
            "fe80::1%eth0/64",
        ),
        *("::1/129", "::ffff:10.0.0.1/129", "10.0.0.1/99999999999999999999", "<nil>", "10.0.0.1/1_0"),
    ],
)
def test_what_is_no_cidr(text: str) -> None:
    """Only address/length is a CIDR; the text is in the message."""
    with pytest.raises(CNIError) as caught:
        CIDR.parse(text)
    assert (caught.value.code, caught.value.msg) == (999, f"invalid CIDR address: {text}")


@given(st.one_of(V4.map(ipaddress.IPv4Address), V6.map(ipaddress.IPv6Address)))
@example(ipaddress.ip_address("127.255.0.1"))
@example(ipaddress.ip_address("169.254.0.1"))
@example(ipaddress.ip_address("239.1.1.1"))
@example(ipaddress.ip_address("::1"))
@example(ipaddress.ip_address("febf::1"))
@example(ipaddress.ip_address("fec0::1"))
@example(ipaddress.ip_address("ff02::1"))
def test_kinds_of_addresses_agree_with_ipaddress(
    oracle: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    """Loopback, link-local and multicast addresses are told as `ipaddress` tells them."""
    ip = IP(oracle.version, int(oracle))
    assert ip.is_loopback() is oracle.is_loopback
    assert ip.is_link_local() is oracle.is_link_local
    assert ip.is_multicast() is oracle.is_multicast


@pytest.mark.row("plugins", 152)
@given(V4, V4)
def test_order_is_that_of_the_numbers(one: int, two: int) -> None:
    """Addresses compare within a family by value, and IPv4 comes first."""
    assert (IP(IPV4, one) < IP(IPV4, two)) is (one < two)
    assert (IP(IPV4, one) <= IP(IPV4, two)) is (one <= two)
    assert IP(IPV4, one) < IP(IPV6, 0)


@pytest.mark.row("plugins", 152)
def test_adding_wraps_within_the_family() -> None:
    """One after the last address is the first."""
    assert IP.parse("255.255.255.255") + 1 == IP.parse("0.0.0.0")
    assert IP.parse("10.0.0.255") + 1 == IP.parse("10.0.1.0")
    assert IP.parse("::") + -1 == IP.parse("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")


def test_default_routes_are_known() -> None:
    """Only 0.0.0.0/0 and ::/0 are default destinations."""
    assert DEFAULT_V4.is_default()
    assert DEFAULT_V6.is_default()
    assert str(DEFAULT_V4) == "0.0.0.0/0"
    assert str(DEFAULT_V6) == "::/0"
    assert not CIDR.parse("10.0.0.0/0").is_default()
    assert not CIDR.parse("0.0.0.0/1").is_default()
