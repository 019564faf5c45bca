"""ADD is all or nothing: a fault at every step in turn leaves the node as it was.

The plugins run in process, in a host namespace of their own. Two wrappers put the faults: one around the
context's `run`, through which every effect passes (it fails, is cancelled before the step, or after it took
effect), and one inside the netlink batches, where a single request fails while its neighbours succeed.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any

import pytest
from support import observe
from support.in_process import handed_over

from pycni.kernel import namespace
from pycni.kernel.netlink import Answer
from pycni.main import Cancelled, OneShot, drive
from pycni.skel import handle
from pycni_bridge.plugin import Bridge

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.netns import NetNS

    from pycni.handover import Call
    from pycni.skel import Reply

LAYER3 = {
    "isDefaultGateway": True,
    "hairpinMode": True,
    "macspoofchk": True,
    "ipMasq": True,
    "ipam": {
        "type": "host-local",
        "ranges": [[{"subnet": "10.61.0.0/24"}], [{"subnet": "fd61::/64"}]],
        "routes": [{"dst": "10.99.0.0/16"}],
    },
}
CONFIGS = {
    "nftables": {**LAYER3, "ipMasqBackend": "nftables"},
    "iptables": {**LAYER3, "ipMasqBackend": "iptables"},
    "layer2": {"portIsolation": True},
}


class InjectedError(Exception):
    """The fault."""


class FaultyContext(OneShot):
    """A one-shot context that fails at the step numbered `at`, counted from 0; -1 never.

    `how` is "fail" (instead of the step), "cancel" (before it), or "cancel after" (it took effect).
    """

    def __init__(self, call: Call, run_dir: str, at: int, how: str) -> None:
        super().__init__(call, run_dir, ended_by=[])
        self.at, self.how, self.steps, self.lines = at, how, 0, []

    async def run(self, work: Callable[..., Any], *args: Any) -> Any:
        if self._shield.depth:
            return work(*args)
        number, self.steps = self.steps, self.steps + 1
        if number != self.at:
            return work(*args)
        if self.how == "fail":
            raise InjectedError(f"step {number}")
        if self.how == "cancel after":
            work(*args)
        raise Cancelled

    def log(self, text: str) -> None:
        self.lines.append(text)


class Node:
    """Calls in one host namespace for one pod."""

    def __init__(
        self, host: NetNS, pod: NetNS, bin_dir: Path, run_dir: Path, data_dir: Path, conf: Any
    ) -> None:
        self.host, self.pod, self.run_dir, self.data_dir = host, pod, run_dir, data_dir
        config = {"cniVersion": "1.0.0", "name": "faults", "type": "bridge", "bridge": "faultbr0", **conf}
        if "ipam" in config:
            config["ipam"] = {**config["ipam"], "dataDir": str(data_dir)}
        self.config = config
        self.env = {
            "CNI_CONTAINERID": "pod-one",
            "CNI_NETNS": str(pod.path),
            "CNI_IFNAME": "eth0",
            "CNI_PATH": str(bin_dir),
            "PATH": os.environ["PATH"],
        }

    def call(self, verb: str, at: int = -1, how: str = "fail") -> tuple[Reply | None, FaultyContext]:
        """One request served in process; the reply is None if it was cancelled."""
        env = {**self.env, "CNI_COMMAND": verb}
        with handed_over(env, self.config, self.host, self.pod) as handed, self.host.inside():
            ctx = FaultyContext(handed, str(self.run_dir), at, how)
            try:
                reply = drive(handle(Bridge(), handed.env, handed.stdin, ctx))
            except Cancelled:
                reply = None
            finally:
                if ctx.held is not None:
                    ctx.held.release()
        return reply, ctx

    def state(self) -> dict[str, Any]:
        """Links, addresses, routes, rules and reservations of node and pod; empty tables do not count."""
        return {
            "host": _without_frames(observe.snapshot(self.host)),
            "pod": observe.snapshot(self.pod),
            "store": list(observe.reservations(self.data_dir)),
            "attachments": sorted(path.name for path in self.run_dir.glob("attachments/*")),
        }

    def left(self) -> list[str]:
        """Which kinds of things of the attachment are still there."""
        state = self.state()
        rules = state["host"]["nft"] + state["host"]["iptables"]
        kinds = {
            "link": "eth0" in state["pod"]["links"],
            "address": bool(state["store"]),
            "masquerade": any("CNI-" in str(rule) or "masq" in str(rule) for rule in rules),
            "spoof check": any("macspoofchk" in str(rule) for rule in rules),
        }
        return [kind for kind, there in kinds.items() if there]


def _without_frames(state: dict[str, Any]) -> dict[str, Any]:
    """Tables and base chains stay after the first use, as the reference leaves them: rules count."""
    state["nft"] = [
        item for item in state["nft"] if "rule" in item and item["rule"]["chain"] != "postrouting"
    ]
    state["iptables"] = [line for line in state["iptables"] if "CNI-" in line]
    return state


@pytest.fixture
def node(
    request: pytest.FixtureRequest,
    host: NetNS,
    pod: Callable[[], NetNS],
    bin_dir: Path,
    run_dir: Path,
    data_dir: Path,
) -> Node:
    return Node(host, pod(), bin_dir, run_dir, data_dir, CONFIGS[request.param])


@pytest.mark.row("plugins", 71)
@pytest.mark.parametrize("node", CONFIGS, indirect=True)
@pytest.mark.parametrize("how", ["fail", "cancel", "cancel after"])
def test_a_fault_at_any_step_leaves_nothing(node: Node, how: str) -> None:
    """After an ADD that failed or was cancelled at step n nothing of it is left, for all n."""
    before = node.state()
    reply, ctx = node.call("ADD")
    assert reply is not None
    assert reply.status == 0, reply.stdout.decode()
    steps = ctx.steps
    assert steps >= 5
    reply, _ = node.call("DEL")
    assert reply is not None
    assert reply.status == 0, reply.stdout.decode()
    node.host.run("ip", "link", "delete", "faultbr0")
    assert node.state() == before
    for at in range(steps):
        reply, ctx = node.call("ADD", at, how)
        assert reply is None or reply.status == 1, f"step {at} of {steps}: no fault came of it"
        assert node.state() == before, f"{how} at step {at} of {steps}; undo said {ctx.lines}"


@pytest.mark.parametrize("node", CONFIGS, indirect=True)
def test_a_request_that_fails_inside_a_batch_fails_the_add(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A single netlink request or sysctl that fails, while those sent with it succeed, leaves nothing."""
    before = node.state()
    execute = namespace._execute
    counted = {"at": -1, "seen": 0}

    def faulty(socket: Any, steps: tuple[Any, ...]) -> list[Answer]:
        first, counted["seen"] = counted["seen"], counted["seen"] + len(steps)
        position = counted["at"] - first
        if not 0 <= position < len(steps):
            return execute(socket, steps)
        counted["at"] = -1
        rest = execute(socket, steps[:position] + steps[position + 1 :])
        return [*rest[:position], Answer(errno.EIO, "injected"), *rest[position:]]

    monkeypatch.setattr(namespace, "_execute", faulty)
    reply, _ = node.call("ADD")
    assert reply is not None
    assert reply.status == 0
    total = counted["seen"]
    assert node.call("DEL")[0] is not None
    node.host.run("ip", "link", "delete", "faultbr0")
    failed = 0
    for at in range(total):
        counted.update(at=at, seen=0)
        reply, ctx = node.call("ADD")
        assert reply is not None
        if reply.status == 0:  # a step whose failure does not matter, such as naming the link
            node.call("DEL")
            node.host.run("ip", "link", "delete", "faultbr0")
        else:
            failed += 1
        assert node.state() == before, (
            f"request {at} of {total}: {reply.stdout.decode()}; undo said {ctx.lines}"
        )
    assert failed >= total // 2


@pytest.mark.parametrize("node", CONFIGS, indirect=True)
def test_del_goes_on_past_errors(node: Node) -> None:
    """DEL that fails at any one step reports it, has done the rest, and succeeds when repeated."""
    before = node.state()
    reply, _ = node.call("ADD")
    assert reply is not None
    assert reply.status == 0, reply.stdout.decode()
    _, ctx = node.call("DEL")
    steps = ctx.steps
    assert steps >= 1
    failed = 0
    for at in range(steps):
        node.call("ADD")
        reply, _ = node.call("DEL", at)
        assert reply is not None
        if reply.status:
            failed += 1
            assert f"step {at}" in reply.stdout.decode()
        assert len(node.left()) <= (reply.status != 0), f"step {at} of {steps}: {node.left()} are left"
        reply, _ = node.call("DEL")
        assert reply is not None
        assert reply.status == 0, reply.stdout.decode()
        node.host.run("ip", "link", "delete", "faultbr0")
        assert node.state() == before, f"step {at} of {steps}"
    assert failed >= 1
