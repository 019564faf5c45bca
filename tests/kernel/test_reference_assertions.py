"""What the reference's own tests of its bridge plugin assert of ADD and DEL, in every spec version."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from support import observe
from support.in_process import InProcess
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.netns import NetNS

VERSIONS = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
BRIDGE = "bridge0"
V4, V6, OTHER_V6 = "10.1.2.0/24", "2001:db8::/64", "2001:db8:1::/64"
GATEWAYS = {V4: "10.1.2.1", V6: "2001:db8::1", OTHER_V6: "2001:db8:1::1"}
TRUNK = [{"id": 101}, {"minID": 200, "maxID": 210}]
TAGGED: dict[int, set[str]] = {vlan: set() for vlan in (101, *range(200, 211))}


class Run:
    """One network on a fresh node; `subnets` empty is layer 2."""

    def __init__(self, plugin: InProcess, pod: NetNS, version: str, *subnets: str, **config: Any) -> None:
        self.plugin, self.pod, self.host, self.version = plugin, pod, plugin.host, version
        self.subnets = subnets
        self.config = {
            "cniVersion": version,
            "name": "testConfig",
            "type": "bridge",
            "bridge": BRIDGE,
            **config,
        }
        self.result: dict[str, Any] = {}

    @property
    def lists(self) -> bool:
        """Whether results of this version have interfaces."""
        return self.version >= "0.3.0"

    @property
    def links(self) -> dict[str, Any]:
        return observe.links(self.host)

    def add(self) -> None:
        self.result = self.plugin("ADD", self.config, netns=self.pod).ok().json
        assert self.result["cniVersion"] == self.version

    def check(self) -> None:
        if self.version >= "0.4.0":
            self.plugin("CHECK", self.config | {"prevResult": self.result}, netns=self.pod).ok()

    def delete(self) -> None:
        self.plugin("DEL", self.config, netns=self.pod).ok()


@pytest.fixture
def run(
    host: NetNS, pod: Callable[[], NetNS], bin_dir: Path, run_dir: Path, data_dir: Path
) -> Callable[..., Run]:
    def make(version: str, *subnets: str, **config: Any) -> Run:
        if subnets:
            ranges = [[{"subnet": subnet}] for subnet in subnets]
            ipam = {"type": "host-local", "dataDir": str(data_dir), "ranges": ranges}
            config = {
                "isDefaultGateway": True,
                "ipMasq": False,
                "ipam": ipam | config.pop("ipam", {}),
                **config,
            }
        return Run(InProcess(host, bin_dir, run_dir), pod(), version, *subnets, **config)

    return make


def assert_result(run: Run) -> list[Any]:
    """Shape and interfaces of the result; the interfaces' entries."""
    if not run.lists:
        families = {"ip4": V4 in run.subnets, "ip6": V6 in run.subnets}
        assert {key for key in ("ip4", "ip6") if key in run.result} == {
            key for key in families if families[key]
        }
        return []
    entries: list[Any] = run.result["interfaces"]
    own, host_side, end = entries[:3]
    links = run.links
    assert len(entries) == (4 if run.subnets and "vlan" in run.config else 3)
    assert own == {"name": BRIDGE, "mac": links[BRIDGE]["address"]}
    assert host_side["name"].startswith("veth")
    assert links[host_side["name"]]["linkinfo"]["info_kind"] == "veth"
    assert end["name"] == "eth0"
    assert end["sandbox"] == str(run.pod.path)
    assert all(len(entry["mac"]) == 17 for entry in entries)
    if run.subnets and "vlan" not in run.config:
        assert links[host_side["name"]]["address"] != links[BRIDGE]["address"]
    return entries


def assert_host(run: Run) -> None:
    """The bridge with its gateways, and no link too many."""
    links = run.links
    vlan = run.config.get("vlan")
    bridge = links[BRIDGE]["linkinfo"]
    assert bridge["info_kind"] == "bridge"
    filters = bool(vlan or run.config.get("vlanTrunk"))
    assert bridge["info_data"].get("vlan_filtering", 0) == filters
    bearer = f"{BRIDGE}.{vlan}" if vlan else BRIDGE
    gateways = {f"{GATEWAYS[subnet]}/{subnet.partition('/')[2]}" for subnet in run.subnets}
    if run.subnets:
        assert gateways <= set(observe.addresses(run.host, bearer))
    assert len(links) == (5 if run.subnets and vlan else 3)


def assert_pod(run: Run) -> None:
    """Link, addresses and default routes inside."""
    link = observe.links(run.pod)["eth0"]
    assert link["linkinfo"]["info_kind"] == "veth"
    observe.await_operstate(run.pod, "eth0", "UP")
    found = [address.partition("/")[0] for address in observe.addresses(run.pod, "eth0")]
    for colon in (False, True):
        wanted = [subnet for subnet in run.subnets if (":" in subnet) is colon]
        assert len([text for text in found if (":" in text) is colon]) == len(wanted)
        if wanted:
            gateway = GATEWAYS[wanted[0]]
            defaults = [route for route in observe.routes(run.pod) if route["dst"] == "default"]
            assert [route["gateway"] for route in defaults if (":" in route["gateway"]) is colon] == [gateway]
            assert not any("prefsrc" in route for route in defaults)


def assert_gone(run: Run) -> None:
    assert "eth0" not in observe.links(run.pod)
    ports = [link for link in run.links.values() if link.get("master") == BRIDGE]
    assert len(ports) == (1 if run.subnets and "vlan" in run.config else 0)


def live(run: Run) -> None:
    """ADD, everything that the reference's tester looks at, CHECK, DEL."""
    run.add()
    assert_result(run)
    assert_host(run)
    assert_pod(run)
    run.check()
    run.delete()
    assert_gone(run)


@pytest.mark.row("plugins", *range(1, 12), 18, 19, 20, 22, 23, 39, 57, 75)
@pytest.mark.parametrize("version", VERSIONS)
def test_ipv4(run: Callable[..., Run], version: str) -> None:
    """A pod with an IPv4 address behind the bridge's gateway."""
    live(run(version, V4))


@pytest.mark.row("plugins", 8, 20, 22, 40, 58, 76)
@pytest.mark.parametrize("version", VERSIONS)
def test_ipv6(run: Callable[..., Run], version: str) -> None:
    """A pod with an IPv6 address."""
    live(run(version, V6))


@pytest.mark.row("plugins", 8, 20, 22, 41, 59, 77)
@pytest.mark.parametrize("version", VERSIONS)
def test_dual_stack(run: Callable[..., Run], version: str) -> None:
    """One address of each family, by range sets."""
    live(run(version, V4, V6))


@pytest.mark.row("plugins", 20, 21, 42)
@pytest.mark.parametrize("version", VERSIONS)
def test_three_sets(run: Callable[..., Run], version: str) -> None:
    """Three addresses with three gateways; below 0.3.0 a refusal, and nothing that keeps DEL."""
    one = run(version, V4, V6, OTHER_V6)
    if one.lists:
        live(one)
        return
    error = one.plugin("ADD", one.config, netns=one.pod).failed()
    assert error["msg"] == f"CNI version {version} does not support more than 1 address per family"
    one.delete()
    assert set(one.links) == {"lo"}


@pytest.mark.row("plugins", 21)
@pytest.mark.parametrize("subnets", [(V4, V6), (V6, OTHER_V6), ()], ids=["one", "two", "layer 2"])
def test_ipv6_addresses_with_the_link_local_one(run: Callable[..., Run], subnets: tuple[str, ...]) -> None:
    """The kernel's own address joins those of the subnets; a link that stays down has none at all."""
    one = run("1.0.0", *subnets, **({} if subnets else {"disableContainerInterface": True}))
    one.add()
    wanted = sum(":" in subnet for subnet in subnets) + 1 if subnets else 0
    until(lambda: len(_ipv6(one.pod)) == wanted, f"{wanted} IPv6 addresses", lambda: _ipv6(one.pod))
    observe.await_operstate(one.pod, "eth0", "UP" if subnets else "DOWN")


def _ipv6(pod: NetNS) -> list[str]:
    (link,) = pod.json("ip", "-j", "-6", "address", "show", "dev", "eth0") or [{}]
    return [address["local"] for address in link.get("addr_info", ())]


@pytest.mark.row("plugins", 13, 43)
@pytest.mark.parametrize("version", VERSIONS)
def test_name_servers_of_a_file(run: Callable[..., Run], version: str, tmp_path: Path) -> None:
    """The IPAM's resolvConf is the result's DNS."""
    (tmp_path / "resolv.conf").write_text("nameserver 192.0.2.0\n")
    one = run(version, V4, ipam={"resolvConf": str(tmp_path / "resolv.conf")})
    live(one)
    assert one.result["dns"]["nameservers"] == ["192.0.2.0"]


@pytest.mark.row("plugins", 2, 3, 4, 5, 9, 19, 44)
@pytest.mark.parametrize("version", VERSIONS)
def test_layer_2(run: Callable[..., Run], version: str) -> None:
    """No addresses; 0.1.0 and 0.2.0 cannot say such a result, and DEL then succeeds."""
    one = run(version, ipam={})
    if one.lists:
        live(one)
        return
    error = one.plugin("ADD", one.config, netns=one.pod).failed()
    assert error["msg"] == "cannot convert: no valid IP addresses"
    one.delete()
    assert set(one.links) == {"lo"}


@pytest.mark.row("plugins", 37)
@pytest.mark.parametrize("version", VERSIONS[2:])
def test_a_bridge_with_a_large_mtu(run: Callable[..., Run], version: str) -> None:
    """MTU 5000 is taken, and nothing makes the bridge promiscuous."""
    one = run(version, mtu=5000)
    one.add()
    assert one.links[BRIDGE]["mtu"] == 5000
    assert one.links[BRIDGE]["promiscuity"] == 0


@pytest.mark.row("plugins", 12, 81, 82)
@pytest.mark.parametrize("isolated", [False, True])
@pytest.mark.parametrize("version", VERSIONS[5:])
def test_port_isolation(run: Callable[..., Run], version: str, isolated: bool) -> None:
    """The port's flag is the config's."""
    one = run(version, V4, portIsolation=isolated)
    one.add()
    (port,) = [link for link in one.links.values() if link.get("master") == BRIDGE]
    assert port["linkinfo"]["info_slave_data"]["isolated"] is isolated


@pytest.mark.row("plugins", 98)
@pytest.mark.parametrize("version", VERSIONS)
def test_the_first_add_complains_about_nothing(run: Callable[..., Run], version: str) -> None:
    """No word on standard error, though nobody has reserved an address before."""
    one = run(version, V4)
    assert one.plugin("ADD", one.config, netns=one.pod).ok().stderr == b""


# VLANs


def port_vlans(run: Run) -> dict[int, set[str]]:
    """VLAN ids of the pod's port with their flags."""
    found = observe.vlans(run.host, run.links)
    (index,) = {link["link_index"] for link in observe.links(run.pod).values() if "link_index" in link}
    (name,) = [name for name, link in run.links.items() if link["ifindex"] == index]
    members: dict[int, set[str]] = {}
    for item in found[name]:
        for vlan in range(item["vlan"], item.get("vlanEnd", item["vlan"]) + 1):
            members[vlan] = set(item.get("flags", ()))
    return members


ACCESS = {"PVID", "Egress Untagged"}


@pytest.mark.needs_vlan
@pytest.mark.row("plugins", 2, 7, 8, 9, 14, 15, 16, *range(49, 57))
@pytest.mark.parametrize("subnets", [(V4,), (V6,), (V4, V6), (V4, V6, OTHER_V6)], ids=len)
@pytest.mark.parametrize(
    ("version", "more"),
    [*((version, {}) for version in VERSIONS), ("1.0.0", {"preserveDefaultVlan": False})],
)
def test_layer_3_in_a_vlan(
    run: Callable[..., Run], version: str, subnets: tuple[str, ...], more: dict[str, Any]
) -> None:
    """The gateway is a pair of its own in the VLAN, and the pod's port is in nothing else."""
    one = run(version, *subnets, vlan=100, **more)
    if len(subnets) == 3 and not one.lists:
        error = one.plugin("ADD", one.config, netns=one.pod).failed()
        assert error["msg"] == f"CNI version {version} does not support more than 1 address per family"
        return
    one.add()
    assert_result(one)
    assert_host(one)
    assert_pod(one)
    assert port_vlans(one) == {100: ACCESS}
    links = one.links
    gateway = links[f"{BRIDGE}.100"]
    assert gateway["linkinfo"]["info_kind"] == "veth"
    (peer,) = [name for name, link in links.items() if link.get("link") == f"{BRIDGE}.100"]
    assert [(item["vlan"], set(item["flags"])) for item in observe.vlans(one.host, links)[peer]] == [
        (100, ACCESS)
    ]
    one.check()
    one.delete()
    assert_gone(one)


@pytest.mark.needs_vlan
@pytest.mark.row("plugins", 7, 14, 15, 17, 45, 46, 47, 48)
@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        ({"vlan": 100}, {100: ACCESS}),
        ({"vlan": 100, "preserveDefaultVlan": False}, {100: ACCESS}),
        ({"vlanTrunk": TRUNK}, {1: ACCESS, **TAGGED}),
        ({"vlan": 100, "vlanTrunk": TRUNK}, {100: ACCESS, **TAGGED}),
    ],
    ids=["access", "access in so many words", "trunk", "both"],
)
@pytest.mark.parametrize("version", VERSIONS[2:])
def test_layer_2_in_vlans(
    run: Callable[..., Run], version: str, config: dict[str, Any], wanted: dict[int, set[str]]
) -> None:
    """`vlan` untagged, the trunk tagged with `vlan` or VLAN 1 as native."""
    one = run(version, ipam={}, **config)
    one.add()
    assert_result(one)
    assert_host(one)
    assert port_vlans(one) == wanted
    one.check()
    one.delete()
    assert_gone(one)
