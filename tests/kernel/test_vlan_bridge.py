"""VLANs of pods on a bridge: who hears whom, where the gateway is, what CHECK and DEL do about it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from support import observe
from support.in_process import InProcess

from pycni_bridge.vlans import gateway_port

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.netns import NetNS

pytestmark = pytest.mark.needs_vlan

VERSIONS = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
BRIDGE = "vlanbr0"
GATEWAY = f"{BRIDGE}.100"
PORT = gateway_port(BRIDGE, 100)


class Node:
    """Pods of one node on one bridge."""

    def __init__(self, call: InProcess, new_pod: Callable[[], NetNS], data_dir: Path) -> None:
        self.call = call
        self.host = call.host
        self.new_pod = new_pod
        self.data_dir = data_dir

    def config(
        self, network: str = "red", subnets: tuple[str, ...] = (), start: str = "", **keys: Any
    ) -> dict[str, Any]:
        """The config of one network, whose addresses begin with `start`; without subnets it is layer 2."""
        config = {"cniVersion": "1.1.0", "name": network, "type": "bridge", "bridge": BRIDGE, **keys}
        if subnets:
            begin = {"rangeStart": start} if start else {}
            ranges = [[{"subnet": subnet, **begin}] for subnet in subnets]
            config["ipam"] = {"type": "host-local", "dataDir": str(self.data_dir), "ranges": ranges}
        return config

    def add(self, name: str, config: dict[str, Any]) -> Pod:
        return Pod(self, name, config)

    def vlans(self, name: str) -> list[str]:
        """`100 pvid untagged` and the like, of one port."""
        members = observe.vlans(self.host, observe.links(self.host)).get(name, [])
        short = {"PVID": "pvid", "Egress Untagged": "untagged"}
        return [" ".join([str(item["vlan"]), *(short[f] for f in item.get("flags", ()))]) for item in members]

    def addresses(self, name: str) -> list[str]:
        return observe.addresses(self.host, name)


class Pod:
    """One attachment, made by ADD."""

    def __init__(self, node: Node, name: str, config: dict[str, Any]) -> None:
        self.node, self.name, self.config = node, name, config
        self.netns = node.new_pod()
        self.result = self("ADD").ok().json

    def __call__(self, verb: str, **keys: Any) -> Any:
        config = self.config | keys
        if verb in ("CHECK", "DEL"):
            config["prevResult"] = self.result
        return self.node.call(verb, config, netns=self.netns, CNI_CONTAINERID=self.name)

    @property
    def port(self) -> str:
        return str(self.result["interfaces"][1]["name"])

    @property
    def address(self) -> str:
        return str(self.result["ips"][0]["address"]).partition("/")[0]

    def reaches(self, address: str) -> bool:
        return self.netns.run("ping", "-n", "-c", "1", "-W", "1", address, check=False).returncode == 0


@pytest.fixture
def node(host: NetNS, pod: Callable[[], NetNS], bin_dir: Path, run_dir: Path, data_dir: Path) -> Node:
    return Node(InProcess(host, bin_dir, run_dir), pod, data_dir)


RED = ("10.40.0.0/24", "fd40::/64")


def test_a_vlan_is_a_network_of_its_own(node: Node) -> None:
    """Pods of one VLAN reach each other, those of another do not, though they share bridge and subnet."""
    red = node.config("red", RED[:1], vlan=100)
    one, two = node.add("one", red), node.add("two", red)
    blue = node.add("three", node.config("blue", RED[:1], "10.40.0.100", vlan=200))
    plain = node.add("four", node.config("plain", RED[:1], "10.40.0.200"))
    assert one.reaches(two.address)
    assert not one.reaches(blue.address)
    assert not one.reaches(plain.address)
    assert not blue.reaches(one.address)
    assert [node.vlans(pod.port) for pod in (one, blue, plain)] == [
        ["100 pvid untagged"],
        ["200 pvid untagged"],
        ["1 pvid untagged"],
    ]


def test_a_gateway_per_vlan(node: Node) -> None:
    """Each VLAN's gateway answers in its own VLAN, on IPv4 and IPv6; pods reach other VLANs through it."""
    one = node.add("one", node.config("red", RED, vlan=100, isDefaultGateway=True))
    blue = ("10.41.0.0/24", "fd41::/64")
    two = node.add("two", node.config("blue", blue, vlan=200, isDefaultGateway=True))
    assert node.addresses(GATEWAY) == ["10.40.0.1/24", "fd40::1/64"]
    assert node.addresses(f"{BRIDGE}.200") == ["10.41.0.1/24", "fd41::1/64"]
    assert node.addresses(BRIDGE) == []
    assert [item["name"] for item in one.result["interfaces"]] == [BRIDGE, one.port, "eth0", GATEWAY]
    for address in ("10.40.0.1", "fd40::1", "10.41.0.1", two.address):
        assert one.reaches(address), address


def test_pods_of_a_vlan_share_its_gateway(node: Node) -> None:
    """The second ADD finds it, no DEL takes it away, and the next ADD finds it again."""
    config = node.config("red", RED, vlan=100, isGateway=True)
    one = node.add("one", config)
    index = observe.links(node.host)[GATEWAY]["ifindex"]
    two = node.add("two", config)
    assert one.result["interfaces"][3] == two.result["interfaces"][3]
    one("DEL").ok()
    assert two.reaches("10.40.0.1")
    two("DEL").ok()
    node.call("GC", config | {"cni.dev/valid-attachments": []}).ok()
    assert sorted(observe.links(node.host)) == sorted(["lo", BRIDGE, GATEWAY, PORT])
    assert node.add("three", config).reaches("10.40.0.1")
    assert observe.links(node.host)[GATEWAY]["ifindex"] == index


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version(node: Node, version: str) -> None:
    """ADD, CHECK and DEL of a VLAN with gateway, in each version of the spec."""
    subnets = RED[:1] if version in ("0.1.0", "0.2.0") else RED
    config = node.config("red", subnets, vlan=100, isDefaultGateway=True) | {"cniVersion": version}
    pod = node.add("one", config)
    assert node.addresses(GATEWAY) == ["10.40.0.1/24", "fd40::1/64"][: len(subnets)]
    if version >= "0.3.0":
        assert pod.result["interfaces"][3]["name"] == GATEWAY
    if version >= "0.4.0":
        pod("CHECK").ok()
    pod("DEL").ok()
    assert list(node.data_dir.rglob("10.40.0.2")) == []


def test_a_trunk_carries_tagged_frames(node: Node) -> None:
    """A pod on the trunk reaches each VLAN through a VLAN device, and the native VLAN without one."""
    twenty = node.add("one", node.config("red", RED[:1], vlan=20))
    native = node.add("two", node.config("plain", ("10.42.0.0/24",)))
    trunk = node.add("three", node.config("trunk", vlanTrunk=[{"minID": 20, "maxID": 21}]))
    assert node.vlans(trunk.port) == ["1 pvid untagged", "20", "21"]
    for name, vlan, address in (("eth0", 1, "10.42.0.99/24"), ("v20", 20, "10.40.0.99/24")):
        if name != "eth0":
            trunk.netns.run(*f"ip link add {name} link eth0 type vlan id {vlan}".split())
        trunk.netns.run("ip", "address", "add", address, "dev", name)
        trunk.netns.run("ip", "link", "set", name, "up")
    assert trunk.reaches(twenty.address)
    assert trunk.reaches(native.address)
    node.host.run(*f"bridge vlan delete dev {trunk.port} vid 20".split())
    assert not trunk.reaches(twenty.address)


def test_a_trunk_of_every_vlan(node: Node) -> None:
    """All 4094 VLANs are set and checked."""
    pod = node.add("one", node.config("trunk", vlan=7, vlanTrunk=[{"minID": 1, "maxID": 4094}]))
    assert node.vlans(pod.port) == [str(vlan) for vlan in range(1, 4095)]
    pod("CHECK").ok()
    node.host.run("bridge", "vlan", "delete", "dev", pod.port, "vid", "4000")
    assert pod("CHECK").failed(999)["msg"] == f"VLAN 4000 is not set on port {pod.port}"


def test_the_default_vlan_of_a_bridge(node: Node) -> None:
    """Whatever VLAN the bridge gives a new port: it goes, or stays with preserveDefaultVlan."""
    bridge = f"ip link add {BRIDGE} type bridge vlan_filtering 1 vlan_default_pvid 30"
    node.host.run(*bridge.split())
    assert node.vlans(node.add("one", node.config(vlan=100)).port) == ["100 pvid untagged"]
    keep = node.config("keep", RED, vlan=100, preserveDefaultVlan=True, isGateway=True)
    kept = node.add("two", keep)
    assert node.vlans(kept.port) == node.vlans(PORT) == ["30 untagged", "100 pvid untagged"]
    kept("CHECK").ok()


# --- The gateway's interface ---


def test_a_half_made_gateway_is_completed(node: Node) -> None:
    """What an ADD left that was killed between making the pair and tying it to its VLAN."""
    node.host.run(*f"ip link add {BRIDGE} type bridge vlan_filtering 1".split())
    node.host.run(*f"ip link add {PORT} up master {BRIDGE} type veth peer name {GATEWAY}".split())
    pod = node.add("one", node.config("red", RED, vlan=100, isGateway=True))
    assert node.vlans(PORT) == ["100 pvid untagged"]
    assert pod.reaches("10.40.0.1")


def test_a_gateway_whose_bridge_was_made_anew(node: Node) -> None:
    """Deleting a bridge leaves the pair behind, tied to nothing; the next ADD ties it to the new bridge."""
    config = node.config("red", RED, vlan=100, isGateway=True)
    node.add("one", config)("DEL").ok()
    node.host.run("ip", "link", "delete", BRIDGE)
    assert node.add("two", config).reaches("10.40.0.1")


def test_a_gateway_made_by_an_administrator(node: Node) -> None:
    """An 802.1Q device of the right name is used as it is."""
    node.host.run(*f"ip link add {BRIDGE} up type bridge vlan_filtering 1".split())
    node.host.run(*f"bridge vlan add dev {BRIDGE} vid 100 self".split())
    node.host.run(*f"ip link add {GATEWAY} link {BRIDGE} type vlan id 100".split())
    pod = node.add("one", node.config("red", RED, vlan=100, isGateway=True))
    assert pod.reaches("10.40.0.1")
    pod("CHECK").ok()
    assert sorted(observe.links(node.host)) == sorted(["lo", BRIDGE, GATEWAY, pod.port])


def test_another_address_on_the_gateway(node: Node) -> None:
    """It is refused with the reference's text and nothing is left; with forceAddress it is replaced."""
    node.add("one", node.config("red", ("10.39.0.0/24",), vlan=100, isGateway=True))("DEL").ok()
    before = sorted(observe.links(node.host))
    config = node.config("red", RED, vlan=100, isGateway=True)
    error = node.call("ADD", config, netns=node.new_pod()).failed(999)
    assert error["msg"] == (
        f'failed to set vlan interface for bridge with addr: "{GATEWAY}" already has an IP address '
        "different from 10.40.0.1/24"
    )
    assert "10.39.0.1/24" in error["details"]
    assert sorted(observe.links(node.host)) == before
    assert node.add("two", config | {"forceAddress": True}).reaches("10.40.0.1")
    assert node.addresses(GATEWAY) == ["10.40.0.1/24", "fd40::1/64"]


def test_the_ports_name_is_taken(node: Node) -> None:
    """The error names the link that is in the way, and nothing is left of the ADD."""
    node.host.run(*f"ip link add {PORT} type veth peer name other".split())
    before = sorted(observe.links(node.host))
    config = node.config("red", RED, vlan=100, isGateway=True)
    error = node.call("ADD", config, netns=node.new_pod()).failed(999)
    assert "failed to create vlan interface" in error["msg"]
    assert PORT in error["details"]
    assert sorted(observe.links(node.host)) == before


# --- CHECK ---


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ("bridge vlan delete dev $PORT vid 100", "VLAN 100 is not set on port $PORT"),
        ("bridge vlan add dev $PORT vid 100", "VLAN 100 is not set on port $PORT"),
        (f"bridge vlan delete dev {PORT} vid 100", f"VLAN 100 is not set on port {PORT}"),
        (
            f"ip address delete 10.40.0.1/24 dev {GATEWAY}",
            "Gateway address 10.40.0.1/24 is missing on interface",
        ),
        (f"ip link delete {GATEWAY}", f"Interface name {GATEWAY} not found"),
        (f"ip link set {GATEWAY} down", f"Interface {GATEWAY} is down"),
    ],
)
def test_check_sees_damage(node: Node, damage: str, told: str) -> None:
    """What cuts a pod from its VLAN or its gateway is told, with the command that mends it."""
    pod = node.add("one", node.config("red", RED, vlan=100, isGateway=True))
    pod("CHECK").ok()
    node.host.run(*damage.replace("$PORT", pod.port).split())
    error = pod("CHECK").failed(999)
    assert told.replace("$PORT", pod.port) in f"{error['msg']} {error['details']}"
    if told.startswith("VLAN"):
        node.host.run(*error["details"].partition(";")[0].split())
        pod("CHECK").ok()


def test_check_lets_other_vlans_be(node: Node) -> None:
    """Older versions of the reference leave VLAN 1 on a port; an administrator may add others."""
    pod = node.add("one", node.config("red", vlan=100))
    node.host.run(*f"bridge vlan add dev {pod.port} vid 1 untagged".split())
    pod("CHECK").ok()


# --- Bridges without VLAN filtering ---


def test_an_existing_bridge_is_not_switched_over(node: Node) -> None:
    """Its other ports would be cut off; the operator is told that the VLAN has no effect."""
    node.host.run(*f"ip link add {BRIDGE} type bridge".split())
    config = node.config("red", RED[:1], vlan=100)
    outcome = node.call("ADD", config, netns=node.new_pod()).ok()
    assert f"ip link set {BRIDGE} type bridge vlan_filtering 1" in outcome.stderr.decode()
    assert observe.host_state(node.host)["links"][BRIDGE]["vlan_filtering"] == 0


@pytest.mark.parametrize("keys", [{"vlan": 0}, {"preserveDefaultVlan": True}, {"vlanTrunk": None}])
def test_a_config_without_vlans(node: Node, keys: dict[str, Any]) -> None:
    """A new bridge filters nothing, and nothing is said about it."""
    outcome = node.call("ADD", node.config("red", **keys), netns=node.new_pod()).ok()
    assert outcome.stderr == b""
    assert observe.host_state(node.host)["links"][BRIDGE]["vlan_filtering"] == 0
