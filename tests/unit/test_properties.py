"""Laws that hold for every input: ranges agree with the standard library, and what is printed reads back."""

from __future__ import annotations

import ipaddress
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pycni.addresses import CIDR, IP
from pycni.attachments import Intent, decode_intent
from pycni.cni_args import parse_args
from pycni.errors import CNIError
from pycni.handover import decode_environment, encode_environment
from pycni.kernel.vlans import VlanRange
from pycni.names import link_alias, parse_alias
from pycni.runtime.cache import Entry, decode, encode
from pycni.skel import error_reply
from pycni.types import DNS, Interface, IPConfig, Result, Route
from pycni.versions import SUPPORTED
from pycni.wire.json import loads
from pycni.wire.parse import parse_as
from pycni.wire.result import convert, print_result
from pycni_bridge.config import parse_mac
from pycni_bridge.vlans import membership, merged
from pycni_hostlocal.allocator import Owner, owner_of
from pycni_hostlocal.ranges import Range, complete_range, complete_set

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

some = settings(max_examples=60, deadline=None)

# Ranges beside `ipaddress`


@st.composite
def networks(draw: st.DrawFn) -> Network:
    """Any network of either family, whole words of the address space and single addresses included."""
    if draw(st.booleans()):
        value, prefix = draw(st.integers(0, (1 << 32) - 1)), draw(st.integers(0, 32))
        return ipaddress.ip_network((value, prefix), strict=False)
    value, prefix = draw(st.integers(0, (1 << 128) - 1)), draw(st.integers(0, 128))
    return ipaddress.ip_network((value.to_bytes(16, "big"), prefix), strict=False)


@st.composite
def nearby(draw: st.DrawFn, net: Network) -> Address:
    """An address in the network, at one of its edges, or just outside."""
    first, last = int(net.network_address), int(net.broadcast_address)
    edges = [first - 1, first, first + 1, last - 1, last, last + 1]
    value = draw(st.sampled_from(edges) | st.integers(first, last))
    return type(net.network_address)(value % (1 << net.max_prefixlen))


@st.composite
def wishes(draw: st.DrawFn) -> tuple[Network, Address | None, Address | None, Address | None]:
    """A subnet with start, end and gateway as a config may have them."""
    net = draw(networks())
    start, end, gateway = (draw(st.none() | nearby(net)) for _ in range(3))
    return net, start, end, gateway


def ours(address: Address | None) -> IP | None:
    return None if address is None else IP(address.version, int(address))


def model(
    net: Network, start: Address | None, end: Address | None, gateway: Address | None
) -> tuple[Address, Address, Address] | None:
    """Start, end and gateway of the range; None if the config is to be refused."""
    if net.num_addresses < 4:
        return None
    first = net.network_address + 1
    last = net.broadcast_address - 1 if net.version == 4 else net.broadcast_address
    if any(given is not None and given not in net for given in (start, end)):
        return None
    low, high = start or first, end or last
    return None if int(low) > int(high) else (low, high, gateway or first)


@pytest.mark.row("plugins", 122, 125)
@some
@given(wishes())
def test_a_range_is_what_ipaddress_makes_of_it(
    wish: tuple[Network, Address | None, Address | None, Address | None],
) -> None:
    """Defaults, refusals and capacity, for every subnet from /0 to /32 and /128."""
    net, start, end, gateway = wish
    expected = model(*wish)
    try:
        made = complete_range(CIDR.parse(str(net)), ours(start), ours(end), ours(gateway))
    except CNIError:
        assert expected is None
        return
    assert expected is not None
    low, high, way_out = expected
    assert made == Range(CIDR.parse(str(net)), *(ours(each) for each in expected))
    assert made.capacity == int(high) - int(low) + 1 - (int(low) <= int(way_out) <= int(high))


@some
@given(networks(), st.data())
def test_membership_is_that_of_the_numbers(net: Network, data: st.DataObject) -> None:
    """An address is in a range if it lies between its ends and is of its family."""
    start, end, address = (data.draw(nearby(net)) for _ in range(3))
    try:
        made = complete_range(CIDR.parse(str(net)), ours(start), ours(end))
    except CNIError:
        return
    own = ours(address)
    assert own is not None
    assert (own in made) == (int(start) <= int(address) <= int(end))
    assert IP(10 - own.family, own.value) not in made or own.value >= 1 << 32


@pytest.mark.row("plugins", 128)
@some
@given(networks(), networks(), st.booleans())
def test_ranges_overlap_if_their_networks_do(one: Network, two: Network, nested: bool) -> None:
    """For whole subnets, `overlaps` is that of `ipaddress`; and it does not matter who is asked."""
    if nested and one.prefixlen < one.max_prefixlen - 2:
        two = next(one.subnets(prefixlen_diff=1))
    try:
        ranges = [complete_range(CIDR.parse(str(net))) for net in (one, two)]
    except CNIError:
        return
    expected = one.version == two.version and one.overlaps(two)  # type: ignore[arg-type]
    assert ranges[0].overlaps(ranges[1]) == ranges[1].overlaps(ranges[0]) == expected
    if one.version == two.version:
        try:
            assert complete_set(ranges).capacity == sum(each.capacity for each in ranges)
        except CNIError:
            assert expected


# Results


TEXTS = st.text(max_size=6)
LISTS = st.lists(TEXTS, max_size=2).map(tuple)
IPS = st.builds(IP, st.just(4), st.integers(0, (1 << 32) - 1)) | st.builds(
    IP, st.just(6), st.integers(1 << 64, (1 << 128) - 1)
)
CIDRS = st.builds(CIDR, IPS, st.integers(0, 32))
NUMBERS = st.integers(0, (1 << 31) - 1)
RESULTS = st.builds(
    Result,
    st.lists(st.builds(Interface, TEXTS, TEXTS, NUMBERS, TEXTS, TEXTS, TEXTS), max_size=2).map(tuple),
    st.lists(st.builds(IPConfig, CIDRS, st.none() | IPS, st.none() | NUMBERS), max_size=3).map(tuple),
    st.lists(
        st.builds(
            Route,
            CIDRS,
            st.none() | IPS,
            NUMBERS,
            NUMBERS,
            NUMBERS,
            st.none() | NUMBERS,
            st.none() | NUMBERS,
        ),
        max_size=2,
    ).map(tuple),
    st.builds(DNS, LISTS, TEXTS, LISTS, LISTS),
)


@pytest.mark.row("contract", 50)
@some
@given(RESULTS, st.lists(st.sampled_from(SUPPORTED), min_size=1, max_size=4))
def test_every_step_of_a_way_through_versions_prints_what_reads_back(
    result: Result, versions: list[str]
) -> None:
    """print → parse is nothing, after any number of conversions, whatever texts and numbers are inside."""
    for version in versions:
        try:
            result = convert(result, version)
        except CNIError as refusal:
            assert refusal.msg == "cannot convert: no valid IP addresses"  # noqa: PT017 - or it converts
            return
        assert parse_as(loads(print_result(result, version)), version) == result


@some
@given(RESULTS, st.permutations(SUPPORTED).map(lambda versions: sorted(versions[:3], reverse=True)))
def test_a_detour_on_the_way_down_changes_nothing(result: Result, versions: list[str]) -> None:
    """From high to low through a version in between is from high to low."""
    high, middle, low = versions
    try:
        start = convert(result, high)
        direct = convert(start, low)
    except CNIError:
        return
    assert convert(convert(start, middle), low) == direct


@pytest.mark.row("contract", 50)
@some
@given(RESULTS, st.permutations(SUPPORTED).map(lambda versions: sorted(versions[:2])))
def test_the_way_up_and_down_again_loses_nothing(result: Result, versions: list[str]) -> None:
    """A newer version can say all that an older one does; addresses are then ordered by family."""
    low, high = versions
    try:
        old = convert(result, low)
    except CNIError:
        return
    assert convert(convert(old, high), low) == old


# Texts of our own


IDENTIFIERS = st.from_regex(r"[a-zA-Z0-9][a-zA-Z0-9_.\-]{0,20}", fullmatch=True)
IFNAMES = st.text(st.characters(exclude_characters="/:\0", exclude_categories=("Z", "Cc", "Cs")), min_size=1)


@some
@given(IDENTIFIERS, IDENTIFIERS, IFNAMES.filter(lambda name: len(name.encode()) <= 15))
def test_an_alias_tells_the_attachment(network: str, container_id: str, ifname: str) -> None:
    """What a host side's alias says is what was written, for all that the contract lets through."""
    assert parse_alias(link_alias(network, container_id, ifname)) == (network, container_id, ifname)


@some
@given(IDENTIFIERS, IFNAMES)
def test_a_reservation_tells_its_owner(container_id: str, ifname: str) -> None:
    """A reservation's bytes read back as the owner; those of the oldest form without the interface."""
    owner = Owner(container_id, ifname)
    assert owner_of(owner.content) == owner
    assert owner_of(owner.legacy_content) == Owner(container_id, "")


@some
@given(st.builds(Intent, TEXTS, TEXTS, TEXTS, TEXTS, NUMBERS, NUMBERS, st.floats(0.5, 1e10)))
def test_an_intent_tells_the_request(intent: Intent) -> None:
    """The intent of a request reads back from its file; half of it is none."""
    data = intent.replace(started=float(intent.started)).encode()
    assert decode_intent(data) == intent
    assert decode_intent(data[: len(data) // 2]) is None


@some
@given(st.dictionaries(st.text(min_size=1).map(lambda t: t.replace("=", "").replace("\0", "") or "A"), TEXTS))
def test_an_environment_passes_the_hand_over(env: dict[str, str]) -> None:
    """Names and values arrive as they were; a NUL cannot be part of them."""
    env = {name: value.replace("\0", "") for name, value in env.items()}
    assert decode_environment(encode_environment(env)) == env


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 53), 1 << 53) | TEXTS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXTS, inner, max_size=2),
    max_leaves=6,
)


@some
@given(
    st.builds(
        Entry,
        network=IDENTIFIERS,
        container_id=IDENTIFIERS,
        ifname=IFNAMES,
        netns=TEXTS,
        args=st.lists(st.tuples(TEXTS, TEXTS), max_size=2).map(tuple),
        capability_args=st.none() | st.dictionaries(TEXTS, JSON, min_size=1, max_size=2),
        config=st.binary(max_size=40),
        result=st.dictionaries(TEXTS, JSON, max_size=2),
    )
)
def test_a_cache_entry_reads_back(entry: Entry) -> None:
    """What the runtime remembers of an attachment is what it wrote."""
    assert decode(encode(entry)) == entry


@some
@given(st.binary(min_size=6, max_size=6))
def test_a_mac_reads_back_in_each_notation(mac: bytes) -> None:
    """Printed with `:`, `-` or by fours, it is the same address, if a link can have it."""
    mac = bytes((mac[0] & 0xFE | 0x02, *mac[1:]))
    fours = ".".join(mac.hex()[at : at + 4] for at in (0, 4, 8))
    assert parse_mac(mac.hex(":")) == parse_mac(mac.hex("-").upper()) == parse_mac(fours) == mac


@some
@given(st.dictionaries(st.sampled_from(["IP", "MAC", "K8S_POD_NAME"]), st.text("abc:=. \n", max_size=8)))
def test_cni_args_read_back(pairs: dict[str, str]) -> None:
    """`KEY=VALUE;…` gives the pairs, unless a value holds what separates them."""
    text = ";".join(f"{key}={value}" for key, value in pairs.items())
    try:
        assert parse_args(text, ("IP", "MAC", "K8S_POD_NAME")).items() >= pairs.items()
    except CNIError:
        assert any("=" in value for value in pairs.values())


@some
@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 5), st.booleans()), max_size=8))
def test_merged_vlans_mean_the_same(items: list[tuple[int, int, bool]]) -> None:
    """Fewer ranges, same membership, none of them adjacent to an equal one."""
    ids = sorted({vlan for first, more, _ in items for vlan in range(first, first + more + 1)})
    flag = bool(items) and items[0][2]
    singles = [VlanRange(vlan, vlan, untagged=flag) for vlan in ids]
    compact = merged(singles)
    assert membership(compact) == membership(singles)
    assert all(one.last + 1 < two.first for one, two in itertools.pairwise(compact))


@some
@given(st.text(), st.text(), st.integers(0, 1 << 31))
def test_an_error_object_reads_back(msg: str, details: str, code: int) -> None:
    """The document on stdout has the error's three members, in whatever text; never a surrogate."""
    members = loads(error_reply(CNIError(msg, details, code=code)).stdout)
    assert members == {"code": code, "msg": msg} | ({"details": details} if details else {})
