"""Ranges: defaults, membership, overlap, and what is refused with which text."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pycni.addresses import CIDR, IP
from pycni.errors import CNIError
from pycni_hostlocal.ranges import Range, check_sets, complete_range, complete_set


def make(subnet: str, start: str = "", end: str = "", gateway: str = "") -> Range:
    texts = (IP.parse(text) if text else None for text in (start, end, gateway))
    return complete_range(CIDR.parse(subnet), *texts)


@pytest.mark.row("plugins", 116, 122)
@pytest.mark.parametrize(
    ("subnet", "start", "end", "gateway"),
    [
        ("192.0.2.0/24", "192.0.2.1", "192.0.2.254", "192.0.2.1"),
        ("192.0.2.0/25", "192.0.2.1", "192.0.2.126", "192.0.2.1"),
        ("192.0.2.4/30", "192.0.2.5", "192.0.2.6", "192.0.2.5"),
        ("2001:db8:1::/64", "2001:db8:1::1", "2001:db8:1:0:ffff:ffff:ffff:ffff", "2001:db8:1::1"),
        ("2001:db8:1::4/126", "2001:db8:1::5", "2001:db8:1::7", "2001:db8:1::5"),
        ("0.0.0.0/0", "0.0.0.1", "255.255.255.254", "0.0.0.1"),
        ("::/0", "::1", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "::1"),
    ],
)
def test_defaults(subnet: str, start: str, end: str, gateway: str) -> None:
    """Start and gateway are the first address, the end is the last one, without IPv4's broadcast."""
    made = make(subnet)
    assert (str(made.start), str(made.end), str(made.gateway)) == (start, end, gateway)
    assert str(made) == f"{start}-{end}"


@pytest.mark.row("plugins", 126)
def test_what_is_given_is_kept() -> None:
    """Explicit start, end and gateway stay as they are, also network and broadcast address."""
    made = make("192.0.2.0/24", "192.0.2.40", "192.0.2.50", "192.0.2.254")
    assert (str(made), str(made.gateway), made.capacity) == ("192.0.2.40-192.0.2.50", "192.0.2.254", 11)
    assert str(make("192.0.2.0/24", "192.0.2.0", "192.0.2.255")) == "192.0.2.0-192.0.2.255"


@pytest.mark.row("plugins", 123, 124, 125)
@pytest.mark.parametrize(
    ("subnet", "start", "end", "msg"),
    [
        ("192.0.2.1/24", "", "", "length 24 the network address is 192.0.2.0"),
        ("192.0.3.0/23", "", "", "length 23 the network address is 192.0.2.0"),
        ("2001:db8:1::1/64", "", "", "length 64 the network address is 2001:db8:1::"),
        ("2001:db8:0:1::/63", "", "", "length 63 the network address is 2001:db8::"),
        ("192.0.2.0/31", "", "", "Network 192.0.2.0/31 too small to allocate from"),
        ("192.0.2.0/32", "", "", "Network 192.0.2.0/32 too small to allocate from"),
        ("2001:db8::/127", "", "", "Network 2001:db8::/127 too small to allocate from"),
        ("192.0.2.0/24", "192.0.3.0", "", "RangeStart 192.0.3.0 not in network 192.0.2.0/24"),
        ("192.0.2.0/24", "", "192.0.4.0", "RangeEnd 192.0.4.0 not in network 192.0.2.0/24"),
        ("192.0.2.0/24", "192.0.2.50", "192.0.2.40", "RangeStart 192.0.2.50 not in network 192.0.2.0/24"),
        ("192.0.2.0/24", "", "192.0.2.0", "RangeEnd 192.0.2.0 not in network 192.0.2.0/24"),
        ("192.0.2.0/24", "192.0.2.255", "", "RangeStart 192.0.2.255 not in network 192.0.2.0/24"),
        ("192.0.2.0/24", "::1", "", "RangeStart ::1 not in network 192.0.2.0/24"),
        ("192.0.2.0/24", "", "::1", "RangeEnd ::1 not in network 192.0.2.0/24"),
    ],
)
def test_a_bad_range_is_refused(subnet: str, start: str, end: str, msg: str) -> None:
    """Host bits, too small subnets, and ends outside or in the wrong order are errors of known text."""
    with pytest.raises(CNIError) as caught:
        make(subnet, start, end)
    assert caught.value.msg.endswith(msg)
    assert caught.value.details


def test_a_range_needs_a_subnet() -> None:
    """Without a subnet the text is the reference's, the details say which key is missing."""
    with pytest.raises(CNIError, match="IP <nil> not v4 nor v6") as caught:
        complete_range(None)
    assert "subnet" in caught.value.details


@pytest.mark.row("plugins", 127)
@pytest.mark.parametrize(
    ("ip", "inside"),
    [
        ("192.0.3.0", False),
        ("192.0.2.39", False),
        ("192.0.2.40", True),
        ("192.0.2.45", True),
        ("192.0.2.50", True),
        ("192.0.2.51", False),
        ("2001:db8::1", False),
    ],
)
def test_membership(ip: str, inside: bool) -> None:
    """Both ends belong to a range, other families never do."""
    assert (IP.parse(ip) in make("192.0.2.0/24", "192.0.2.40", "192.0.2.50")) is inside


OVERLAPS = [
    (("192.0.2.0/24",), ("192.0.3.0/24",), False),
    (("0.0.0.0/24",), ("::/24",), False),
    (("192.0.2.0/24",), ("192.0.2.0/24",), True),
    (("192.0.0.0/20",), ("192.0.2.0/24",), True),
    (("192.0.2.0/24", "", "192.0.2.127"), ("192.0.2.0/24", "192.0.2.128"), False),
    (("192.0.2.0/24", "", "192.0.2.127"), ("192.0.2.0/24", "192.0.2.127"), True),
    (("2001:db8:1::/64",), ("2001:db8:2::/64",), False),
    (("2001:db8::/32",), ("2001:db8:2::/64",), True),
]


@pytest.mark.row("plugins", 128)
@pytest.mark.parametrize(("one", "other", "overlap"), OVERLAPS)
def test_overlap(one: tuple[str, ...], other: tuple[str, ...], overlap: bool) -> None:
    """Two ranges overlap if they share an address, whichever is asked."""
    first, second = make(*one), make(*other)
    assert first.overlaps(second) is overlap
    assert second.overlaps(first) is overlap


@pytest.mark.row("plugins", 129, 132)
def test_a_set_is_of_one_family_and_without_overlap() -> None:
    """An empty set, mixed families and overlapping ranges are refused with the reference's texts."""
    with pytest.raises(CNIError, match=r"^empty range set"):
        complete_set([])
    with pytest.raises(CNIError, match=r"^mixed address families"):
        complete_set([make("192.0.2.0/24"), make("2001:db8::/64")])
    with pytest.raises(
        CNIError, match=r"^subnets 10\.0\.0\.1-10\.0\.0\.254 and 10\.0\.0\.1-10\.0\.0\.126 overlap"
    ):
        complete_set([make("10.0.0.0/24"), make("10.0.0.0/25")])


@pytest.mark.row("plugins", 129)
def test_a_set_finds_the_range_of_an_address() -> None:
    """`find` gives the range that has the address, None for others."""
    first, second = make("192.0.2.0/24", "", "192.0.2.9"), make("192.0.3.0/24")
    both = complete_set([first, second])
    assert both.find(IP.parse("192.0.2.9")) == first
    assert both.find(IP.parse("192.0.3.200")) == second
    assert both.find(IP.parse("192.0.2.10")) is None
    assert str(both) == "192.0.2.1-192.0.2.9,192.0.3.1-192.0.3.254"


@pytest.mark.row("plugins", 100, 129, 132)
def test_sets_of_a_network() -> None:
    """Overlap between sets, and two of a family before 0.3.0, are refused; one of each family is not."""
    four, six = complete_set([make("10.0.0.0/24")]), complete_set([make("fd00::/64")])
    other = complete_set([make("10.1.0.0/24")])
    check_sets([four, six], "0.2.0", several=False)
    check_sets([four, other, six], "1.0.0", several=True)
    with pytest.raises(
        CNIError, match=r"^CNI version 0\.2\.0 does not support more than 1 address per family"
    ):
        check_sets([four, other], "0.2.0", several=False)
    with pytest.raises(CNIError, match=r"^range set 0 overlaps with 2"):
        check_sets([four, other, complete_set([make("10.0.0.128/25")])], "1.0.0", several=True)


@given(st.integers(0, (1 << 32) - 1), st.integers(0, 30))
def test_capacity_is_the_number_of_hosts_less_the_gateway(value: int, prefix: int) -> None:
    """By default a subnet gives every host address but one; the standard library is the oracle."""
    network = ipaddress.ip_network((value, prefix), strict=False)
    made = make(str(network))
    assert made.capacity == network.num_addresses - 3
    assert (made.start.value, made.end.value) == (int(network[1]), int(network[-2]))
