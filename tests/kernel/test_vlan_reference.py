"""VLANs by the reference's executables and by ours on one bridge: either finds what the other made.

`REF_BIN` names another folder of executables than Debian's.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support import observe
from support.calls import Call
from support.in_process import InProcess

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.calls import Outcome
    from support.netns import NetNS

pytestmark = pytest.mark.needs_vlan

REFERENCE = Path(os.environ.get("REF_BIN") or "/usr/lib/cni")
BRIDGE = "vlanbr0"
GATEWAY = f"{BRIDGE}.100"


class Node:
    """One network on one node, served by either side; a caller is `ours` or `theirs`."""

    def __init__(self, host: NetNS, bin_dir: Path, run_dir: Path, data_dir: Path) -> None:
        self.host = host
        self.theirs = Call(REFERENCE, host)
        self.ours = InProcess(host, bin_dir, run_dir)
        self.config = {
            "cniVersion": "1.0.0",
            "name": "red",
            "type": "bridge",
            "bridge": BRIDGE,
            "vlan": 100,
            "isGateway": True,
            "ipam": {
                "type": "host-local",
                "dataDir": str(data_dir),
                "ranges": [[{"subnet": "10.40.0.0/24"}], [{"subnet": "fd40::/64"}]],
            },
        }

    def call(self, who: str, verb: str, pod: NetNS, name: str, prev: Any = None) -> Outcome:
        config = self.config | ({"prevResult": prev} if prev else {})
        if who == "theirs":
            return self.theirs("bridge", verb, config, netns=pod, container_id=name)
        return self.ours(verb, config, netns=pod, CNI_CONTAINERID=name)


@pytest.fixture
def node(host: NetNS, bin_dir: Path, run_dir: Path, data_dir: Path) -> Node:
    assert (REFERENCE / "bridge").exists(), "install containernetworking-plugins"
    return Node(host, bin_dir, run_dir, data_dir)


@pytest.mark.parametrize(("first", "second"), [("theirs", "ours"), ("ours", "theirs")])
def test_interchange(node: Node, pod: Callable[[], NetNS], data_dir: Path, first: str, second: str) -> None:
    """Pods of both meet in the VLAN and share one gateway; each side checks and deletes the other's."""
    # With a MAC of its own: the reference's CHECK refuses a bridge that follows its ports' lowest MAC.
    bridge = f"ip link add {BRIDGE} address 02:00:00:00:00:01 type bridge vlan_filtering 1"
    node.host.run(*bridge.split())
    one, two = pod(), pod()
    result_one = node.call(first, "ADD", one, "pod-one").ok().json
    gateway = observe.links(node.host)[GATEWAY]
    result_two = node.call(second, "ADD", two, "pod-two").ok().json
    links = observe.links(node.host)
    assert links[GATEWAY]["ifindex"] == gateway["ifindex"]
    assert observe.addresses(node.host, GATEWAY) == ["10.40.0.1/24", "fd40::1/64"]
    assert sum(link.get("master") == BRIDGE for link in links.values()) == 3
    assert result_one["interfaces"][3] == result_two["interfaces"][3]
    for address in ("10.40.0.1", "fd40::1", "10.40.0.3"):
        one.ping(address)
    node.call(second, "CHECK", one, "pod-one", result_one).ok()
    node.call(first, "CHECK", two, "pod-two", result_two).ok()
    node.call(second, "DEL", one, "pod-one", result_one).ok()
    node.call(first, "DEL", two, "pod-two", result_two).ok()
    assert sorted(observe.links(one)) == sorted(observe.links(two)) == ["lo"]
    ports = [name for name, link in observe.links(node.host).items() if link.get("master") == BRIDGE]
    assert ports == [gateway["link"]]
    assert not [name for name in observe.store(data_dir) if name.endswith(("2", "3"))]
