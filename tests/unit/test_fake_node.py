"""The simulated node that plugin authors use in their tests, by the example plugin."""

from __future__ import annotations

import errno
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pycni.kernel.codec import DO, message
from pycni.main import drive
from pycni.testing.fake import FakeContext, FakeKernel, FakeNode
from pycni_hostlocal.plugin import HostLocal

EXAMPLES = Path(__file__).parents[2] / "examples"
if str(EXAMPLES) not in sys.path:
    sys.path.insert(0, str(EXAMPLES))

from mini_cni import Mini  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

    from pycni.skel import Reply


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    ipam = {"type": "host-local", "dataDir": str(tmp_path), "subnet": "10.9.0.0/24"}
    return {"cniVersion": "1.1.0", "name": "mini", "type": "mini", "ipam": ipam}


def error(reply: Reply) -> str:
    assert reply.status == 1
    text: str = json.loads(reply.stdout)["msg"]
    return text


def test_a_plugin_lives_there(config: dict[str, Any]) -> None:
    """ADD makes what it makes on a real node, CHECK sees it, DEL takes it away."""
    node = FakeNode(delegates={"host-local": HostLocal()})
    pod = node.sandbox("/run/netns/pod")
    before = node.kernel.snapshot()
    result = json.loads(node.call(Mini(), "ADD", config, pod).stdout)
    assert [ip["address"] for ip in result["ips"]] == ["10.9.0.2/32"]
    link = pod.find(name="eth0")
    assert link.up
    assert [str(address.cidr) for address in link.addresses if not address.automatic] == ["10.9.0.2/32"]
    assert {str(route.dst) for route in pod.routes} == {"10.9.0.1/32", "0.0.0.0/0"}
    assert link.peer is not None
    assert link.peer.net is node.host
    assert node.call(Mini(), "CHECK", config, pod).status == 0
    pod.set_up(link, False)
    assert "missing or down" in error(node.call(Mini(), "CHECK", config, pod))
    assert node.call(Mini(), "DEL", config, pod).status == 0
    assert node.kernel.snapshot() == before


def test_a_failure_can_be_put_at_every_step(config: dict[str, Any]) -> None:
    """Whichever step fails, the example undoes what it did."""
    node = FakeNode(delegates={"host-local": HostLocal()})
    pod = node.sandbox("/run/netns/pod")
    node.call(Mini(), "ADD", config, pod)
    assert node.last is not None
    steps = node.last.steps
    node.call(Mini(), "DEL", config, pod)
    before = node.kernel.snapshot()
    for at in range(steps):

        def failing(number: int, step: Callable[[], Any], at: int = at) -> Any:
            if number == at:
                raise OSError(errno.EIO, "Input/output error")
            return step()

        assert "input/output error" in error(node.call(Mini(), "ADD", config, pod, around=failing))
        assert node.kernel.snapshot() == before, f"step {at} of {steps}"


def test_what_is_not_there_is_refused(config: dict[str, Any]) -> None:
    """A sandbox that is missing, a delegate that nobody gave, the node's own namespace."""
    node = FakeNode()
    pod = node.sandbox("/run/netns/pod")
    assert "no such file" in error(node.call(Mini(), "ADD", config, CNI_NETNS="/run/netns/none"))
    assert error(node.call(Mini(), "ADD", config, pod)).startswith('failed to find plugin "host-local"')
    assert "should not be the same" in error(node.call(Mini(), "ADD", config, node.host, CNI_NETNS="/host"))


def test_a_message_that_is_not_modelled_is_refused() -> None:
    """A request of a kind that the simulated kernel does not know is EOPNOTSUPP, with its number."""
    ctx = FakeContext(FakeKernel().namespace())
    (answer,) = drive(ctx.host().request([message(4711, DO)]))
    assert answer.errno == errno.EOPNOTSUPP
    assert "4711" in answer.text


def test_settings_are_read_and_written() -> None:
    """A sysctl of an interface comes and goes with it; what is not there is None or an error."""
    net = FakeKernel().namespace()
    host = FakeContext(net).host()
    names = ["net/ipv4/ip_forward", "net/ipv6/conf/br0/accept_ra", "net/ipv4/conf/all/forwarding"]
    assert drive(host.read_sysctls(names)) == ["0", None, "0"]
    net.new_bridge("br0", None, 0, vlan_filtering=False)
    drive(host.write_sysctls([(names[0], "1", True), (names[1], "0", True), ("net/none", "1", False)]))
    assert drive(host.read_sysctls(names)) == ["1", "0", "1"]
    net.delete(net.find(name="br0"))
    assert drive(host.read_sysctls(names)) == ["1", None, "1"]
