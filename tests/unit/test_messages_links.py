"""Link messages against pyroute2's classes: byte for byte out, value for value in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from pycni.kernel import links
from pycni.kernel.links import Link, Port

NEW, DEL, GET, SET = 16, 17, 18, 19
DO, CREATE_NEW, DUMP = 0x5, 0x605, 0x301

names = st.text("abcdefghijklmnopqrstuvwxyz0123456789.-_", min_size=1, max_size=15)
macs = st.binary(min_size=6, max_size=6)
indexes = st.integers(1, (1 << 31) - 1)
numbers = st.integers(1, (1 << 32) - 1)


def encoded(kind: int, flags: int, header: dict[str, int], attributes: list[object]) -> bytes:
    message = ifinfmsg()
    for field, value in header.items():
        message[field] = value
    message["header"]["type"] = kind
    message["header"]["flags"] = flags
    message["attrs"] = attributes
    message.encode()
    return bytes(message.data)


def some(kind: str, value: object) -> list[tuple[str, object]]:
    return [(kind, value)] if value is not None and value != 0 else []


def text(mac: bytes | None) -> str | None:
    return mac.hex(":") if mac is not None else None


@given(names, st.none() | macs, st.integers(0, 65535), st.booleans(), st.booleans())
def test_a_bridge_request_is_what_pyroute2_makes(
    name: str, mac: bytes | None, mtu: int, vlan_filtering: bool, up: bool
) -> None:
    """new_bridge packs name, MAC, MTU, kind and VLAN filtering as pyroute2 does."""
    info: list[object] = [("IFLA_INFO_KIND", "bridge")]
    if vlan_filtering:
        info.append(("IFLA_INFO_DATA", {"attrs": [("IFLA_BR_VLAN_FILTERING", 1)]}))
    assert links.new_bridge(name, mac=mac, mtu=mtu, vlan_filtering=vlan_filtering, up=up) == encoded(
        NEW,
        CREATE_NEW,
        {"flags": int(up), "change": int(up)},
        [
            ("IFLA_IFNAME", name),
            *some("IFLA_ADDRESS", text(mac)),
            *some("IFLA_MTU", mtu),
            ("IFLA_LINKINFO", {"attrs": info}),
        ],
    )


@given(
    st.tuples(names, names),
    st.tuples(st.none() | macs, st.none() | macs),
    st.tuples(st.integers(0, 65535), st.integers(0, 65535)),
    st.tuples(st.none() | st.integers(0, 5000), st.none() | st.integers(0, 5000)),
    st.just(0) | indexes,
    st.booleans(),
    st.integers(-1, 1000),
)
def test_a_veth_request_is_what_pyroute2_makes(
    ends: tuple[str, str],
    mac: tuple[bytes | None, bytes | None],
    mtu: tuple[int, int],
    txqlen: tuple[int | None, int | None],
    master: int,
    up: bool,
    netns_fd: int,
) -> None:
    """new_veth packs both ends, the peer with a link header of its own inside VETH_INFO_PEER."""

    def queue(length: int | None) -> list[tuple[str, object]]:
        return [] if length is None else [("IFLA_TXQLEN", length)]

    peer = [
        ("IFLA_IFNAME", ends[1]),
        *some("IFLA_ADDRESS", text(mac[1])),
        *some("IFLA_MTU", mtu[1]),
        *queue(txqlen[1]),
        *([("IFLA_NET_NS_FD", netns_fd)] if netns_fd >= 0 else []),
    ]
    data = {"attrs": [("VETH_INFO_PEER", {"attrs": peer})]}
    assert links.new_veth(
        *ends,
        mac=mac[0],
        mtu=mtu[0],
        txqlen=txqlen[0],
        master=master,
        up=up,
        peer_mac=mac[1],
        peer_mtu=mtu[1],
        peer_txqlen=txqlen[1],
        peer_netns_fd=netns_fd,
    ) == encoded(
        NEW,
        CREATE_NEW,
        {"flags": int(up), "change": int(up)},
        [
            ("IFLA_IFNAME", ends[0]),
            *some("IFLA_ADDRESS", text(mac[0])),
            *some("IFLA_MTU", mtu[0]),
            *queue(txqlen[0]),
            *some("IFLA_MASTER", master),
            ("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", "veth"), ("IFLA_INFO_DATA", data)]}),
        ],
    )


@given(
    indexes,
    st.none() | st.booleans(),
    st.none() | st.booleans(),
    st.none() | st.just(0) | indexes,
    st.none() | macs,
    st.integers(0, 65535),
    st.none() | names,
    st.none() | st.integers(0, 1000),
)
def test_a_change_request_is_what_pyroute2_makes(
    index: int,
    up: bool | None,
    promisc: bool | None,
    master: int | None,
    mac: bytes | None,
    mtu: int,
    name: str | None,
    netns_fd: int | None,
) -> None:
    """set_link sends what was given and nothing else; a flag that was not given is not in the mask."""
    change = (up is not None) | (promisc is not None) << 8
    flags = bool(up) | bool(promisc) << 8
    attributes = [
        *([("IFLA_IFNAME", name)] if name is not None else []),
        *some("IFLA_ADDRESS", text(mac)),
        *some("IFLA_MTU", mtu),
        *([("IFLA_MASTER", master)] if master is not None else []),
        *([("IFLA_NET_NS_FD", netns_fd)] if netns_fd is not None else []),
    ]
    assert links.set_link(
        index, up=up, promisc=promisc, master=master, mac=mac, mtu=mtu, name=name, netns_fd=netns_fd
    ) == encoded(SET, DO, {"index": index, "flags": flags, "change": change}, attributes)


@given(indexes, names)
def test_requests_about_one_link_are_what_pyroute2_makes(index: int, name: str) -> None:
    """A link is named by its index or, with index 0, by its name; answers come without counters."""
    mask = ("IFLA_EXT_MASK", 8)
    assert links.del_link(index) == encoded(DEL, DO, {"index": index}, [])
    assert links.del_link(name=name) == encoded(DEL, DO, {}, [("IFLA_IFNAME", name)])
    assert links.get_link(index) == encoded(GET, DO, {"index": index}, [mask])
    assert links.get_link(name=name) == encoded(GET, DO, {}, [("IFLA_IFNAME", name), mask])


def test_a_name_too_long_for_a_link_is_asked_for_as_an_alternative_one() -> None:
    """Names of 16 bytes and more can only be alternative names."""
    long = "a-name-of-more-than-15"
    attributes = [("IFLA_ALT_IFNAME", long), ("IFLA_EXT_MASK", 8)]
    assert links.get_link(name=long) == encoded(GET, DO, {}, attributes)


@given(indexes, names)
def test_dump_requests_are_what_pyroute2_makes(master: int, kind: str) -> None:
    """Dumps carry their filter as attributes, which strict checking makes the kernel obey."""
    mask = ("IFLA_EXT_MASK", 8)
    assert links.dump_links() == encoded(GET, DUMP, {}, [mask])
    assert links.dump_ports(master) == encoded(GET, DUMP, {}, [mask, ("IFLA_MASTER", master)])
    info = ("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", kind)]})
    assert links.dump_links(kind) == encoded(GET, DUMP, {}, [mask, info])


@given(indexes, st.none() | st.booleans(), st.none() | st.booleans())
def test_a_port_request_is_what_pyroute2_makes(
    index: int, hairpin: bool | None, isolated: bool | None
) -> None:
    """set_port is an AF_BRIDGE request whose IFLA_PROTINFO is marked as nested."""
    attributes = [
        *([("IFLA_BRPORT_MODE", int(hairpin))] if hairpin is not None else []),
        *([("IFLA_BRPORT_ISOLATED", int(isolated))] if isolated is not None else []),
    ]
    header = {"family": 7, "index": index}
    expected = bytearray(encoded(SET, DO, header, [("IFLA_PROTINFO", {"attrs": attributes})]))
    expected[35] |= 0x80  # pyroute2 leaves NLA_F_NESTED to the caller
    assert links.set_port(index, hairpin=hairpin, isolated=isolated) == bytes(expected)


@given(
    st.tuples(indexes, names, macs),
    st.tuples(numbers, numbers, numbers, numbers),
    st.sampled_from(("DORMANT", "UP", "DOWN", "LOWERLAYERDOWN", "NOTPRESENT", "TESTING", "UNKNOWN")),
    st.integers(0, 7),
    st.none() | st.integers(-1, 1000),
    st.lists(names, max_size=3),
)
def test_a_port_comes_back_as_it_went_in(
    who: tuple[int, str, bytes],
    values: tuple[int, int, int, int],
    state: str,
    bits: int,
    netnsid: int | None,
    altnames: list[str],
) -> None:
    """read_link reads a veth that is a bridge port out of pyroute2's bytes."""
    index, name, mac = who
    mtu, master, peer, flags = values
    port = [
        ("IFLA_BRPORT_STATE", 3),
        ("IFLA_BRPORT_COST", 2),
        ("IFLA_BRPORT_MODE", bits & 1),
        ("IFLA_BRPORT_LEARNING", bits >> 1 & 1),
        ("IFLA_BRPORT_UNICAST_FLOOD", 1),
        ("IFLA_BRPORT_ISOLATED", bits >> 2),
    ]
    info = [
        ("IFLA_INFO_KIND", "veth"),
        ("IFLA_INFO_SLAVE_KIND", "bridge"),
        ("IFLA_INFO_SLAVE_DATA", {"attrs": port}),
    ]
    data = encoded(
        NEW,
        0,
        {"index": index, "flags": flags},
        [
            ("IFLA_IFNAME", name),
            ("IFLA_TXQLEN", 1000),
            ("IFLA_OPERSTATE", state),
            ("IFLA_MTU", mtu),
            ("IFLA_PROMISCUITY", 1),
            ("IFLA_LINK", peer),
            ("IFLA_MASTER", master),
            ("IFLA_ADDRESS", mac.hex(":")),
            ("IFLA_LINKINFO", {"attrs": info}),
            *([("IFLA_LINK_NETNSID", netnsid)] if netnsid is not None else []),
            *(
                [("IFLA_PROP_LIST", {"attrs": [("IFLA_ALT_IFNAME", alt) for alt in altnames]})]
                if altnames
                else []
            ),
        ],
    )
    assert links.read_link(data[16:]) == Link(
        index=index,
        name=name,
        kind="veth",
        mac=mac,
        mtu=mtu,
        flags=flags,
        operstate=state.lower(),
        master=master,
        peer=peer,
        peer_netnsid=netnsid,
        promiscuity=1,
        txqlen=1000,
        port=Port(bool(bits & 1), bool(bits >> 2), bool(bits >> 1 & 1), True, 3),
        vlan_filtering=None,
        altnames=tuple(altnames),
    )


@pytest.mark.parametrize("filtering", [False, True])
def test_a_bridge_tells_whether_it_filters_vlans(filtering: bool) -> None:
    """vlan_filtering is read from the bridge's data, and is None for other kinds."""
    data = [("IFLA_BR_AGEING_TIME", 300), ("IFLA_BR_VLAN_FILTERING", int(filtering))]
    info = [("IFLA_INFO_KIND", "bridge"), ("IFLA_INFO_DATA", {"attrs": data})]
    payload = encoded(NEW, 0, {"index": 2}, [("IFLA_IFNAME", "cni0"), ("IFLA_LINKINFO", {"attrs": info})])[
        16:
    ]
    link = links.read_link(payload)
    assert (link.kind, link.vlan_filtering, link.port, link.master) == ("bridge", filtering, None, 0)


def test_a_link_without_attributes_is_read() -> None:
    """What the kernel leaves out reads as empty, zero or None."""
    link = links.read_link(encoded(NEW, 0, {"index": 1, "flags": 0x10109}, [])[16:])
    assert link.name == link.kind == link.mac_text == ""
    assert link.mac == b""
    assert (link.mtu, link.master, link.peer, link.peer_netnsid) == (0, 0, 0, None)
    assert link.is_up
    assert link.is_promiscuous
    assert not link.replace(flags=0x1000).is_up


@given(st.binary(min_size=16, max_size=200))
def test_noise_after_the_header_is_survived(payload: bytes) -> None:
    """Malformed attributes are left out: reading ends and gives a Link."""
    assert isinstance(links.read_link(payload), Link)
