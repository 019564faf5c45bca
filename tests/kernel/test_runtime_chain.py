"""The `pycni` command with real plugins: ours and the reference's, chained, dual stack."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.agents import PYCNI
from support.calls import Outcome, clean_environment
from support.observe import addresses, attachment_leftovers, links

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.netns import NetNS

REFERENCE = Path("/usr/lib/cni")
"""Debian's containernetworking-plugins; they know no spec version after 1.0.0."""


class Node:
    """A node with one network, `net1`: bridge and loopback, addresses of both families."""

    def __init__(self, host: NetNS, root: Path, plugins: str, version: str) -> None:
        self.host = host
        self.data_dir = root / "networks"
        self.cache_dir = root / "cache"
        self.conf_dir = root / "net.d"
        self.conf_dir.mkdir()
        bridge = {
            "type": "bridge",
            "bridge": "rt0",
            "isDefaultGateway": True,
            "capabilities": {"mac": True},
            "ipam": {
                "type": "host-local",
                "dataDir": str(self.data_dir),
                "ranges": [[{"subnet": "10.61.0.0/24"}], [{"subnet": "fd61::/64"}]],
            },
        }
        document = {"cniVersion": version, "name": "net1", "plugins": [bridge, {"type": "loopback"}]}
        (self.conf_dir / "10-net1.conflist").write_text(json.dumps(document))
        self.env = clean_environment() | {
            "NETCONFPATH": str(self.conf_dir),
            "CNI_PATH": plugins,
            "PYCNI_CACHE_DIR": str(self.cache_dir),
            "PYCNI_RUN_DIR": str(root / "run"),
        }

    def start(self, *arguments: str, **env: str) -> subprocess.Popen[bytes]:
        """Start `pycni` in the node's namespace."""
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return self.host.popen(PYCNI, *arguments, env=self.env | env, **pipes)

    def pycni(self, *arguments: str, **env: str) -> Outcome:
        """Run `pycni` in the node's namespace to its end."""
        process = self.start(*arguments, **env)
        stdout, stderr = process.communicate(timeout=60)
        return Outcome(process.returncode, stdout, stderr)

    def assert_clean(self) -> None:
        """No veth, reservation, rule or memory of an attachment is left."""
        assert attachment_leftovers(self.host, self.data_dir) == []
        assert [path for path in self.cache_dir.rglob("*") if path.is_file()] == []


@pytest.fixture(params=["ours", "reference"])
def node(request: pytest.FixtureRequest, host: NetNS, tmp_path: Path, bin_dir: Path) -> Node:
    """Once with our plugins, once with the reference's."""
    if request.param == "ours":
        return Node(host, tmp_path, str(bin_dir), "1.1.0")
    return Node(host, tmp_path, str(REFERENCE), "1.0.0")


def test_the_life_of_an_attachment(node: Node, pod: Callable[[], NetNS]) -> None:
    """ADD gives the pod what the result says, CHECK agrees, DEL takes all of it away, and may be repeated."""
    sandbox = pod()
    added = node.pycni("add", "net1", str(sandbox.path), CAP_ARGS='{"mac":"02:00:00:00:00:61"}').ok()
    assert added.stdout.endswith(b"}\n")
    result = added.json
    given = [ip["address"] for ip in result["ips"]]
    assert given == ["10.61.0.2/24", "fd61::2/64"]
    assert sorted(addresses(sandbox, "eth0")) == sorted(given)
    assert links(sandbox)["eth0"]["address"] == "02:00:00:00:00:61"
    sandbox.ping("10.61.0.1")
    node.pycni("check", "net1", str(sandbox.path)).ok()
    listed = node.pycni("list", "-o", "json").ok().json
    assert listed["networks"][0]["attachments"] == 1
    for _ in range(2):
        deleted = node.pycni("del", "net1", str(sandbox.path)).ok()
        assert (deleted.stdout, deleted.stderr) == (b"", b"")
        assert "eth0" not in links(sandbox)
    node.assert_clean()


def test_check_finds_what_was_changed(node: Node, pod: Callable[[], NetNS]) -> None:
    """An address taken away by hand is a failure with a message."""
    sandbox = pod()
    node.pycni("add", "net1", str(sandbox.path)).ok()
    sandbox.run("ip", "address", "delete", "10.61.0.2/24", "dev", "eth0")
    assert b"10.61.0.2" in _failure(node.pycni("check", "net1", str(sandbox.path)))
    node.pycni("del", "net1", str(sandbox.path)).ok()
    node.assert_clean()


def test_a_second_add_fails_and_harms_nobody(node: Node, pod: Callable[[], NetNS]) -> None:
    """The attachment that lives goes on living, and is remembered as it was."""
    sandbox = pod()
    node.pycni("add", "net1", str(sandbox.path)).ok()
    before = {path: path.read_bytes() for path in node.cache_dir.rglob("*") if path.is_file()}
    _failure(node.pycni("add", "net1", str(sandbox.path)))
    assert "10.61.0.2/24" in addresses(sandbox, "eth0")
    assert {path: path.read_bytes() for path in node.cache_dir.rglob("*") if path.is_file()} == before
    node.pycni("del", "net1", str(sandbox.path)).ok()
    node.assert_clean()


def test_gc_removes_who_has_no_namespace(node: Node, pod: Callable[[], NetNS]) -> None:
    """The attachment of a vanished pod goes with its reservation, the living one stays."""
    gone, alive = pod(), pod()
    for sandbox in (gone, alive):
        node.pycni("add", "net1", str(sandbox.path)).ok()
    gone.delete()
    node.pycni("gc", "net1").ok()
    assert len(list((node.cache_dir / "results").iterdir())) == 2
    node.pycni("gc", "net1", "--yes").ok()
    assert len(list((node.cache_dir / "results").iterdir())) == 1
    assert sorted(path.name for path in (node.data_dir / "net1").iterdir() if path.name[:1] in "1f") == [
        "10.61.0.3",
        "fd61::3",
    ]
    node.pycni("check", "net1", str(alive.path)).ok()
    node.pycni("del", "net1", str(alive.path)).ok()
    node.assert_clean()


def test_many_at_once(node: Node, pod: Callable[[], NetNS]) -> None:
    """Ten commands at once give ten pods ten addresses, and ten take all of them away."""
    sandboxes = [pod() for _ in range(10)]
    for verb in ("add", "del"):
        started = [node.start(verb, "net1", str(sandbox.path)) for sandbox in sandboxes]
        ended = [(process.communicate(timeout=60), process.returncode) for process in started]
        assert [status for _, status in ended] == [0] * 10, ended
        if verb == "add":
            given = {address for sandbox in sandboxes for address in addresses(sandbox, "eth0")}
            assert len(given) == 20
    node.assert_clean()


def _failure(outcome: Outcome) -> bytes:
    assert outcome.status == 1, outcome
    assert outcome.stdout == b""
    assert outcome.stderr.startswith(b"pycni: ")
    return outcome.stderr
