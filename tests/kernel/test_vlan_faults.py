"""An ADD with VLANs and a gateway per VLAN is all or nothing."""

from __future__ import annotations

import errno
import itertools
from typing import TYPE_CHECKING, Any

import pytest
from support import observe
from support.in_process import InProcess

from pycni.kernel import namespace
from pycni.kernel.netlink import Answer
from pycni.main import Cancelled
from pycni_bridge.vlans import gateway_port

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.netns import NetNS

pytestmark = pytest.mark.needs_vlan

BRIDGE = "vlanbr0"
GATEWAY = f"{BRIDGE}.100"
PORT = gateway_port(BRIDGE, 100)


class InjectedError(Exception):
    """The fault."""


class Fault:
    """What happens at step `at`: it fails, or the call is cancelled before it or after it took effect."""

    def __init__(self, at: int, how: str) -> None:
        self.at, self.how = at, how

    def __call__(self, number: int, step: Callable[[], Any]) -> Any:
        if number != self.at:
            return step()
        if self.how == "fail":
            raise InjectedError(f"step {number}")
        if self.how == "cancel after":
            step()
        raise Cancelled


@pytest.fixture
def call(host: NetNS, bin_dir: Path, run_dir: Path) -> InProcess:
    return InProcess(host, bin_dir, run_dir)


@pytest.fixture
def config(data_dir: Path) -> dict[str, Any]:
    ranges = [[{"subnet": "10.40.0.0/24"}], [{"subnet": "fd40::/64"}]]
    return {
        "cniVersion": "1.1.0",
        "name": "red",
        "type": "bridge",
        "bridge": BRIDGE,
        "vlan": 100,
        "vlanTrunk": [{"id": 30}],
        "isGateway": True,
        "ipam": {"type": "host-local", "dataDir": str(data_dir), "ranges": ranges},
    }


def state(call: InProcess, pod: NetNS, data_dir: Path) -> dict[str, Any]:
    """Links, addresses and VLANs of node and pod, and the reservations."""
    host = observe.links(call.host)
    return {
        "host": {name: _shown(link) for name, link in host.items()},
        "vlans": observe.vlans(call.host, host),
        "pod": sorted(observe.links(pod)),
        "store": [name for name in observe.store(data_dir) if not name.endswith(("lock", ".0", ".1"))],
    }


def _shown(link: dict[str, Any]) -> Any:
    addresses = [info["local"] for info in link["addr_info"] if info["scope"] == "global"]
    return link["ifindex"], "UP" in link["flags"], link.get("master"), addresses


@pytest.mark.parametrize(
    ("there", "how"),
    [
        ("nothing", "fail"),
        ("nothing", "cancel after"),
        ("a bridge", "cancel"),
        ("the gateway", "fail"),
        ("the gateway", "cancel after"),
    ],
)
def test_a_fault_at_any_step_leaves_nothing(
    call: InProcess, config: dict[str, Any], pod: Callable[[], NetNS], data_dir: Path, there: str, how: str
) -> None:
    """After an ADD that ended at step n the node is as before, whatever was there."""
    if there == "a bridge":
        call.host.run(*f"ip link add {BRIDGE} up type bridge vlan_filtering 1".split())
    if there == "the gateway":
        netns = pod()
        call("ADD", config, netns=netns).ok()
        call("DEL", config, netns=netns).ok()
    netns = pod()
    before = state(call, netns, data_dir)
    for at in itertools.count():
        call.around = Fault(at, how)
        outcome = call("ADD", config, netns=netns)
        if outcome.status == 0:
            break
        assert state(call, netns, data_dir) == before, f"{how} at step {at}"
    assert call.steps <= at  # it succeeded because it never came to that step
    assert at > 8


def test_a_request_that_fails_inside_a_batch_fails_the_add(
    call: InProcess,
    config: dict[str, Any],
    pod: Callable[[], NetNS],
    data_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One netlink request that fails, while those sent with it succeed, leaves nothing of the ADD."""
    execute = namespace._execute
    left = itertools.repeat(1)

    def faulty(socket: Any, steps: tuple[Any, ...]) -> list[Answer]:
        position = next((at for at in range(len(steps)) if next(left) == 0), None)
        if position is None:
            return execute(socket, steps)
        rest = execute(socket, steps[:position] + steps[position + 1 :])
        return [*rest[:position], Answer(errno.EIO, "injected"), *rest[position:]]

    monkeypatch.setattr(namespace, "_execute", faulty)
    netns = pod()
    before = state(call, netns, data_dir)
    injected, refused = True, 0
    for at in itertools.count():
        left = itertools.chain(range(at, -1, -1), itertools.repeat(1))
        outcome = call("ADD", config, netns=netns)
        injected = next(left) == 1  # else the ADD had fewer requests
        if outcome.status == 0:  # nothing failed, or what may fail: naming the link for people
            call("DEL", config, netns=netns).ok()
            call.host.run("ip", "link", "delete", GATEWAY)
            call.host.run("ip", "link", "delete", BRIDGE)
        refused += outcome.status
        assert state(call, netns, data_dir) == before, f"request {at}: {outcome.stdout.decode()}"
        if not injected:
            break
    assert refused > at // 2 > 8


def test_a_failed_add_leaves_the_gateway_that_another_pod_found(
    call: InProcess, config: dict[str, Any], pod: Callable[[], NetNS]
) -> None:
    """Another ADD that came in between relies on the gateway, its address and the bridge: they stay."""
    first, second = pod(), pod()

    def come_in_between(number: int, step: Callable[[], Any]) -> Any:
        done = step()
        if GATEWAY in observe.links(call.host) and observe.addresses(call.host, GATEWAY):
            call.around = None
            call("ADD", config, netns=second, CNI_CONTAINERID="pod-two").ok()
            raise InjectedError(f"step {number}")
        return done

    call.around = come_in_between
    call("ADD", config, netns=first).failed(999)
    assert sorted(observe.links(first)) == ["lo"]
    second.ping("10.40.0.1")
    second.ping("fd40::1")
