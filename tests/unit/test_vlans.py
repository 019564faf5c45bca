"""VLANs: messages against pyroute2, config → VLAN sets, what a gateway lacks, what CHECK tells."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from support.observed import observed_link

from pycni.addresses import CIDR, IP
from pycni.errors import CNIError
from pycni.kernel.links import RTM_NEWLINK, Link, set_link
from pycni.kernel.namespace import Setting
from pycni.kernel.vlans import PortVlans, VlanRange, del_vlans, dump_vlans, read_vlans, set_vlans
from pycni.names import host_veth
from pycni.request import Request
from pycni.types import Interface, IPConfig, Result
from pycni_bridge.config import BridgeConfig, parse_config
from pycni_bridge.plan import gateway_addresses, plan_gateways
from pycni_bridge.steps import host_steps
from pycni_bridge.verify import Expected, Observed, verify
from pycni_bridge.vlan_gateway import completion
from pycni_bridge.vlans import (
    access_vlan,
    carries,
    check_gateway_name,
    command,
    gateway_port,
    join_steps,
    membership,
    merged,
    missing,
    port_vlans,
)

DEL, GET, SET = 17, 18, 19
DO, DUMP = 0x5, 0x301
AF_BRIDGE = 7
PVID, UNTAGGED, BEGIN, END = 2, 4, 8, 16

indexes = st.integers(1, (1 << 31) - 1)
ids = st.integers(1, 4094)
id_sets = st.lists(ids, unique=True, max_size=40).map(lambda found: tuple(sorted(found)))


@st.composite
def vlan_ranges(draw: st.DrawFn) -> VlanRange:
    first = draw(ids)
    last = min(first + draw(st.integers(0, 20)), 4094)
    return VlanRange(first, last, draw(st.booleans()) and first == last, draw(st.booleans()))


# --- Messages ---


def encoded(kind: int, flags: int, index: int, attributes: list[object]) -> bytes:
    message = ifinfmsg()
    message["family"] = AF_BRIDGE
    message["index"] = index
    message["header"]["type"] = kind
    message["header"]["flags"] = flags
    message["attrs"] = attributes
    message.encode()
    return bytes(message.data)


def infos(ranges: list[VlanRange]) -> list[tuple[str, dict[str, int]]]:
    found = []
    for item in ranges:
        flags = (PVID if item.pvid else 0) | (UNTAGGED if item.untagged else 0)
        ends = [(item.first, 0)] if item.first == item.last else [(item.first, BEGIN), (item.last, END)]
        found += [("IFLA_BRIDGE_VLAN_INFO", {"flags": flags | mark, "vid": vlan}) for vlan, mark in ends]
    return found


@given(indexes, st.lists(vlan_ranges(), min_size=1, max_size=6))
def test_a_membership_request_is_what_pyroute2_makes(index: int, ranges: list[VlanRange]) -> None:
    """set_vlans packs all ranges into one request to the port's bridge, in order."""
    spec = {"attrs": [("IFLA_BRIDGE_FLAGS", 1), *infos(ranges)]}
    assert set_vlans(index, ranges) == encoded(SET, DO, index, [("IFLA_AF_SPEC", spec)])


@given(indexes, ids, ids)
def test_a_removal_request_is_what_pyroute2_makes(index: int, one: int, other: int) -> None:
    """del_vlans packs one range, all VLANs if none is given."""
    first, last = sorted((one, other))
    for arguments, item in (((first, last), VlanRange(first, last)), ((), VlanRange(1, 4094))):
        spec = {"attrs": [("IFLA_BRIDGE_FLAGS", 1), *infos([item])]}
        assert del_vlans(index, *arguments) == encoded(DEL, DO, index, [("IFLA_AF_SPEC", spec)])


def test_a_list_request_is_what_pyroute2_makes() -> None:
    """dump_vlans asks for VLANs in their compressed form."""
    assert dump_vlans() == encoded(GET, DUMP, 0, [("IFLA_EXT_MASK", 4)])


@given(st.dictionaries(indexes, st.lists(vlan_ranges(), max_size=6), max_size=5))
def test_what_the_kernel_lists_is_read(ports: dict[int, list[VlanRange]]) -> None:
    """read_vlans gives each port's ranges, none for a port without VLANs; other messages are passed over."""
    payloads = [(RTM_NEWLINK + 4, b"\0" * 16)]
    for index, ranges in ports.items():
        attributes: list[object] = [("IFLA_IFNAME", "veth0"), ("IFLA_MASTER", 3)]
        if ranges:
            attributes.append(("IFLA_AF_SPEC", {"attrs": [("IFLA_BRIDGE_FLAGS", 1), *infos(ranges)]}))
        payloads.append((RTM_NEWLINK, encoded(RTM_NEWLINK, 0, index, attributes)[16:]))
    assert read_vlans(payloads) == {i: PortVlans(i, 3, tuple(ranges)) for i, ranges in ports.items()}


# --- Config ---


def request(config: dict[str, Any]) -> Request:
    whole = {"cniVersion": "1.1.0", "name": "net", "type": "bridge", **config}
    return Request("ADD", "net", "1.1.0", json.loads(json.dumps(whole)), b"", {})


def parsed(**config: Any) -> BridgeConfig:
    return parse_config(request(config))


def refusal(**config: Any) -> CNIError:
    with pytest.raises(CNIError) as caught:
        parsed(**config)
    assert caught.value.code == 999
    return caught.value


@pytest.mark.row("plugins", 24, 25, 26, 27)
@pytest.mark.parametrize(
    ("trunk", "vlans"),
    [
        (None, None),
        ([], ()),
        ([{}], ()),
        ([{"id": 10}], (10,)),
        ([{"id": 1}, {"id": 4094}], (1, 4094)),
        ([{"minID": 100, "maxID": 105}], (100, 101, 102, 103, 104, 105)),
        ([{"minID": 7, "maxID": 7}], (7,)),
        ([{"id": 10}, {"minID": 100, "maxID": 102}], (10, 100, 101, 102)),
        ([{"minID": 20, "maxID": 22}, {"id": 10}, {"id": 21}], (10, 20, 21, 22)),
        ([{"minID": 3, "maxID": 4, "id": 2}], (2, 3, 4)),
        ([{"MinId": 3, "MAXID": 4, "ID": None}], (3, 4)),
    ],
)
def test_a_trunk_is_a_sorted_set(trunk: Any, vlans: tuple[int, ...] | None) -> None:
    """Ranges and single ids of all items, each once; an absent key is not an empty list."""
    config = parsed(vlanTrunk=trunk)
    assert config.vlan_trunk == vlans
    assert config.filters_vlans == (vlans is not None)
    assert config.joins_vlans == bool(vlans)


@pytest.mark.row("plugins", 28, 29, 30, 31, 32, 33, 34, 35, 36)
@pytest.mark.parametrize(
    ("item", "msg", "key"),
    [
        ({"minID": 5}, "minID and maxID should be configured simultaneously, maxID is missing", "maxID"),
        ({"maxID": 5}, "minID and maxID should be configured simultaneously, minID is missing", "minID"),
        ({"minID": -1, "maxID": 5}, "incorrect trunk minID parameter", "minID"),
        ({"minID": 0, "maxID": 5}, "incorrect trunk minID parameter", "minID"),
        ({"minID": 5000, "maxID": 6000}, "incorrect trunk minID parameter", "minID"),
        ({"minID": 5, "maxID": 5000}, "incorrect trunk maxID parameter", "maxID"),
        ({"minID": 5, "maxID": -1}, "incorrect trunk maxID parameter", "maxID"),
        ({"minID": 1000, "maxID": 100}, "minID is greater than maxID in trunk parameter", "minID"),
        ({"minID": 5000}, "minID and maxID should be configured simultaneously, maxID is missing", "maxID"),
        ({"id": 5000}, "incorrect trunk id parameter", "id"),
        ({"id": -1}, "incorrect trunk id parameter", "id"),
        ({"id": 0}, "incorrect trunk id parameter", "id"),
        ({"minID": 1, "maxID": 2, "id": 4095}, "incorrect trunk id parameter", "id"),
    ],
)
def test_a_trunk_item_that_is_refused(item: dict[str, int], msg: str, key: str) -> None:
    """The reference's text; the details name the key by its place in the list."""
    error = refusal(vlanTrunk=[{"id": 1}, item])
    assert error.msg == msg
    assert f"vlanTrunk[1].{key}" in error.details


@pytest.mark.parametrize(
    "config",
    [
        {"vlan": "100"},
        {"vlan": 1.0},
        {"vlan": True},
        {"vlanTrunk": {"id": 1}},
        {"vlanTrunk": [None]},
        {"vlanTrunk": [5]},
        {"vlanTrunk": [{"id": "5"}]},
        {"preserveDefaultVlan": "yes"},
    ],
)
def test_a_wrong_type_is_refused(config: dict[str, Any]) -> None:
    """With the prefix that every type error of a config has, and the key."""
    error = refusal(**config)
    assert error.msg.startswith("failed to load netconf: json: cannot unmarshal ")
    assert next(iter(config)) in error.details


@pytest.mark.row("plugins", 83, 84, 85, 86, 87, 88)
@pytest.mark.parametrize("vlan", [-100, -1, 4095, 5000])
def test_a_vlan_that_is_none(vlan: int) -> None:
    """VLAN ids go from 1 to 4094, and 0 is none."""
    error = refusal(vlan=vlan)
    assert error.msg == f"invalid VLAN ID {vlan} (must be between 0 and 4094)"
    assert not parsed(vlan=0).filters_vlans
    assert parsed(vlan=4094).joins_vlans


def test_where_the_gateway_is() -> None:
    """On the bridge, or with a VLAN on an interface named after both."""
    assert BridgeConfig(bridge="br0").gateway_link == "br0"
    assert BridgeConfig(bridge="br0", vlan=7).gateway_link == "br0.7"


IPAM = {"type": "host-local"}


@pytest.mark.parametrize(
    ("bridge", "vlan", "fits"),
    [("eleven-char", 100, True), ("twelve-chars", 100, False), ("é" * 6, 10, True)],
)
def test_a_gateway_name_that_is_too_long(bridge: str, vlan: int, fits: bool) -> None:
    """It is refused with the config, before anything is touched, and only where there will be a gateway."""
    config = {"bridge": bridge, "vlan": vlan, "ipam": IPAM}
    assert parsed(**config).gateway_link == f"{bridge}.{vlan}"
    assert parsed(**config | {"ipam": {}, "isGateway": True}).vlan == vlan
    for key in ("isGateway", "isDefaultGateway"):
        if fits:
            assert parsed(**config | {key: True}).is_gateway
            continue
        error = refusal(**config | {key: True})
        assert error.msg.startswith("failed to create vlan interface: ")
        assert f'"{bridge}.{vlan}"' in error.msg
        assert '"bridge" may have 11' in error.details
    check_gateway_name("br0.100", 100)


# --- VLAN sets ---


@pytest.mark.row("plugins", 17)
@pytest.mark.parametrize(
    ("access", "trunk", "members"),
    [
        (0, (), {}),
        (100, (), {100: "pu"}),
        (0, (30,), {1: "pu", 30: ""}),
        (0, (10, 20, 21, 22), {1: "pu", 10: "", 20: "", 21: "", 22: ""}),
        (100, (20, 21), {20: "", 21: "", 100: "pu"}),
        (100, (99, 100, 101), {99: "", 100: "", 101: ""}),
        (0, (1, 2), {1: "pu", 2: ""}),
    ],
)
def test_membership_of_a_port(access: int, trunk: tuple[int, ...], members: dict[int, str]) -> None:
    """`vlan` untagged, the trunk tagged, VLAN 1 as native without `vlan`; what the trunk lists is tagged."""
    found = membership(port_vlans(access, trunk))
    assert {vlan: "p" * pvid + "u" * untagged for vlan, (pvid, untagged) in found.items()} == members


@given(st.just(0) | ids, id_sets)
def test_ranges_say_what_single_ids_would(access: int, trunk: tuple[int, ...]) -> None:
    """Setting the ranges in order leads where one message per VLAN would, the reference's way."""
    singles = [access_vlan(access)] if access else []
    singles += [VlanRange(vlan, vlan) for vlan in trunk]
    singles += [access_vlan(1)] if trunk and not access else []
    ranges = port_vlans(access, trunk)
    assert membership(ranges) == membership(singles)
    assert len(ranges) <= len(singles)
    assert all(carries(vlan, ranges) for vlan in trunk)
    assert not carries(0, ranges)


@given(st.lists(vlan_ranges(), max_size=6))
def test_merging_keeps_the_meaning(ranges: list[VlanRange]) -> None:
    """Merged ranges mean the same, and no two of them could be one."""
    members = membership(ranges)
    found = merged(VlanRange(vlan, vlan, *flags) for vlan, flags in sorted(members.items()))
    assert membership(found) == members
    for before, after in itertools.pairwise(found):
        assert before.last < after.first
        assert before.last + 1 < after.first or before.flags != after.flags or after.pvid
    assert all(item.first == item.last for item in found if item.pvid)


@given(st.lists(vlan_ranges(), max_size=6), st.lists(vlan_ranges(), max_size=6))
def test_what_is_missing(wanted: list[VlanRange], present: list[VlanRange]) -> None:
    """Nothing of what was just set is missing, and setting what is missing does all that setting would."""
    assert missing(wanted, [*present, *wanted]) == []
    mended = membership([*present, *missing(wanted, present)])
    assert mended == membership([*present, *wanted])


def test_missing_vlans_are_told_as_ranges() -> None:
    """A trunk of which nothing is there is one finding, with the command that sets it."""
    lacking = missing((VlanRange(20, 30), access_vlan(1)), (VlanRange(25, 25, untagged=True),))
    assert [command("veth1", item) for item in lacking] == [
        "bridge vlan add dev veth1 vid 1 pvid untagged",
        "bridge vlan add dev veth1 vid 20-30",
    ]


def test_joining() -> None:
    """The default VLAN goes first, unless it is preserved; without VLANs a port is left alone."""
    ranges = port_vlans(100, ())
    assert [step for step, _ in join_steps(5, "veth1", ranges, preserve=False)] == [
        del_vlans(5),
        set_vlans(5, ranges),
    ]
    assert join_steps(5, "veth1", ranges, preserve=True) == [
        (set_vlans(5, ranges), 'failed to setup vlan tag on interface "veth1"')
    ]
    assert join_steps(5, "veth1", (), preserve=False) == []


@given(st.text("abc-0", min_size=1, max_size=15), ids, ids)
def test_the_name_of_the_gateways_port(bridge: str, vlan: int, other: int) -> None:
    """It follows from bridge and VLAN, is a host side's in form, and no attachment's."""
    name = gateway_port(bridge, vlan)
    assert len(name) == 15
    assert name.startswith("veth")
    assert (gateway_port(bridge, other) == name) == (vlan == other)
    assert name != host_veth("net", bridge, str(vlan))


# --- The gateway's interface ---


def link(index: int, name: str, kind: str, **changes: Any) -> Link:
    return observed_link(name, index, kind, bytes((2, 0, 0, 0, 0, index)), **changes)


CONFIG = BridgeConfig(bridge="br0", vlan=100, is_gateway=True, ipam_type="host-local")
BRIDGE = link(3, "br0", "bridge", vlan_filtering=True)
GATEWAY = link(7, "br0.100", "veth", peer=8)
PORT = link(8, "veth8", "veth", peer=7, master=3)
HOST_SIDE = link(9, "veth9", "veth", peer=2, peer_netnsid=0, master=3)
GW = CIDR.parse("10.0.0.1/24")


def test_what_a_gateway_lacks() -> None:
    """Nothing if it is up and tied to the bridge; else the tie, the VLAN, and going up last."""

    def steps(gateway: Link, port: Link | None) -> list[Any]:
        return [step for step, _ in completion(CONFIG, BRIDGE, gateway, port)]

    vlans = [del_vlans(8), set_vlans(8, [access_vlan(100)]), Setting("net/ipv6/conf/veth8/accept_ra", "0")]
    tie, up = set_link(8, master=3, up=True), set_link(7, up=True)
    down = GATEWAY.replace(flags=0)
    assert steps(GATEWAY, PORT) == []
    assert steps(down, PORT) == [*vlans, up]
    assert steps(GATEWAY, PORT.replace(master=0)) == [tie, *vlans]
    assert steps(GATEWAY, PORT.replace(flags=0)) == [tie, *vlans]
    assert steps(down, PORT.replace(master=0, flags=0)) == [tie, *vlans, up]
    assert steps(down, PORT.replace(master=4)) == [up]
    assert steps(down, None) == [up]
    assert steps(GATEWAY, None) == []


def test_the_addresses_go_to_the_vlans_interface() -> None:
    """The bridge gets none, and its MAC is not pinned."""
    changes = plan_gateways(CONFIG, (GW,), ())
    steps = host_steps(CONFIG, BRIDGE, HOST_SIDE, changes, GATEWAY)
    texts = [text for _, text in steps]
    assert (
        'failed to set vlan interface for bridge with addr: could not add IP address 10.0.0.1/24 to "br0.100"'
    ) in texts
    assert "could not set bridge's mac" not in texts


def test_an_address_in_the_way() -> None:
    """The message names the VLAN's interface."""
    with pytest.raises(CNIError) as caught:
        plan_gateways(CONFIG, (GW,), (CIDR.parse("10.9.0.1/24"),))
    assert caught.value.msg == (
        'failed to set vlan interface for bridge with addr: "br0.100" already has an IP address different '
        "from 10.0.0.1/24"
    )


# --- CHECK ---

NETNS = "/run/netns/pod"
INTERFACES = (
    Interface("br0", "02:00:00:00:00:ff"),
    Interface("veth9", HOST_SIDE.mac_text),
    Interface("eth0", "02:00:00:00:00:02", sandbox=NETNS),
    Interface("br0.100", GATEWAY.mac_text),
)
SEEN = Observed(
    pod_link=link(2, "eth0", "veth", peer=9, peer_netnsid=0),
    host_side=HOST_SIDE,
    host_links={"br0": BRIDGE, "veth9": HOST_SIDE, "br0.100": GATEWAY},
    gateway_addresses=(GW,),
    pod_addresses=(),
    pod_routes=(),
    sysctls={},
    sandboxes=frozenset((NETNS,)),
    gateway_port=PORT,
    vlans={3: (access_vlan(1),), 8: (access_vlan(100),), 9: (access_vlan(100),)},
)


def findings(seen: Observed, config: BridgeConfig = CONFIG) -> list[str]:
    ips = (IPConfig(CIDR.parse("10.0.0.2/24"), IP.parse("10.0.0.1"), 0),)
    prev = Result(interfaces=INTERFACES, ips=ips)
    expected = Expected(config, prev, "eth0", NETNS, gateway_addresses(config, prev), ())
    return [finding.text for finding in verify(expected, seen)]


def test_an_intact_vlan() -> None:
    """No finding, though the bridge's MAC follows its ports, and whatever else the ports are members of."""
    assert findings(SEEN) == []
    older = {8: (access_vlan(100), VlanRange(1, 1, untagged=True)), 9: (VlanRange(1, 50), access_vlan(100))}
    assert findings(SEEN.replace(vlans=older)) == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"vlans": {8: (access_vlan(100),), 9: ()}}, ["VLAN 100 is not set on port veth9"]),
        (
            {"vlans": {8: (VlanRange(100, 100),), 9: (access_vlan(100),)}},
            ["VLAN 100 is not set on port veth8"],
        ),
        ({"vlans": {}}, []),
        ({"gateway_addresses": ()}, ["Gateway address 10.0.0.1/24 is missing on interface br0.100"]),
        (
            {"host_links": {**SEEN.host_links, "br0.100": GATEWAY.replace(flags=0)}},
            ["Interface br0.100 is down"],
        ),
        ({"host_side": HOST_SIDE.replace(master=0)}, ["CNI veth created for bridge br0 was not found"]),
    ],
)
def test_what_check_finds(change: dict[str, Any], told: list[str]) -> None:
    """A port that lacks its VLAN or carries it in another way, a gateway that is down or has no address."""
    assert findings(SEEN.replace(**change)) == told


def test_check_of_a_trunk() -> None:
    """Each VLAN of the trunk and the native one count; neighbours are told together."""
    config = BridgeConfig(bridge="br0", vlan_trunk=(20, 21, 22, 30))
    seen = SEEN.replace(vlans={9: (VlanRange(20, 20), VlanRange(30, 30, untagged=True))})
    assert findings(seen, config) == [
        "VLAN 1 is not set on port veth9",
        "VLAN 21-22 is not set on port veth9",
        "VLAN 30 is not set on port veth9",
    ]
    assert findings(SEEN.replace(vlans={9: ()}), BridgeConfig(bridge="br0", vlan_trunk=())) == []
