"""The bridge plugin on a simulated kernel: whatever the config, an ADD that fails leaves the node as it was.

Configs, the node's state before, and the place of the fault are drawn at random. Only the namespaces are
simulated: the plugin, its plan, its messages and the way it undoes them are the real ones. Rules and
addresses are kept by stand-ins.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pycni.addresses import CIDR, IP
from pycni.kernel.netlink import Answer
from pycni.main import Cancelled
from pycni.skel import Plugin
from pycni.testing import fake
from pycni.testing.fake import FakeNode
from pycni.types import IPConfig, Result, Route
from pycni_bridge import firewall, masquerade, spoofcheck
from pycni_bridge.plugin import Bridge

if TYPE_CHECKING:
    from collections.abc import Callable

    from pycni.context import Context
    from pycni.request import Request
    from pycni.skel import Reply
    from pycni.testing.fake import FakeNet

    Answering = Callable[[FakeNet, bytes], Answer]

HOWS = ("fail", "cancel", "cancel after", "refuse")


class InjectedError(Exception):
    """The fault."""


class Addresses(Plugin):
    """An IPAM that keeps its addresses in memory."""

    name = "addresses"

    def __init__(self) -> None:
        self.held: dict[tuple[str, str], int] = {}

    async def add(self, request: Request, ctx: Context) -> Result:
        return await ctx.run(self._give, request)

    def _give(self, request: Request) -> Result:
        ipam: Any = request.config["ipam"]
        number = next(n for n in range(2, 250) if n not in self.held.values())
        self.held[request.container_id, request.ifname] = number
        ips = [CIDR.parse(subnet) for subnet in ipam["subnets"]]
        return Result(
            ips=tuple(IPConfig(CIDR(net.ip + number, net.prefix)) for net in ips),
            routes=tuple(Route(CIDR.parse(dst), IP.parse(gw) if gw else None) for dst, gw in ipam["routes"]),
        )

    async def check(self, request: Request, ctx: Context) -> None:
        assert (request.container_id, request.ifname) in self.held

    async def delete(self, request: Request, ctx: Context) -> None:
        await ctx.run(self.held.pop, (request.container_id, request.ifname), None)


class Complete(dict[Any, Any]):
    """Stand-ins for everything that would touch this machine's firewall."""

    def get(self, work: Any, default: Any = None) -> Any:
        room = getattr(work, "__module__", "")
        assert work in self or room not in ("pycni.grouping", masquerade.__name__, spoofcheck.__name__), work
        return super().get(work, default)


class World:
    """A simulated node with rules and addresses; `call` is one request, with a fault at a place if told."""

    def __init__(self) -> None:
        self.rules: set[object] = set()
        self._drawn = 0
        self.ipam = Addresses()
        stand_ins = {
            firewall.add_masquerade: lambda m, _backend: self.rules.add(m),
            firewall.remove_masquerade: lambda m: self._drop(m.container_id),
            firewall.add_spoof_check: lambda veth, mac, ref: self.rules.add((veth, mac, ref)),
            firewall.remove_spoof_check: lambda ref: self._drop(ref),
            masquerade.unmasqueraded: lambda m: [] if m in self.rules else list(m.addresses),
            spoofcheck.drift: lambda *rule: [] if rule in self.rules else ["missing"],
        }
        self.node = FakeNode(delegates={"addresses": self.ipam}, stand_ins=Complete(stand_ins))

    def _drop(self, owner: str) -> None:
        """Rules go by name, whatever their addresses."""
        self.rules = {
            rule
            for rule in self.rules
            if (rule[2] if isinstance(rule, tuple) else rule.container_id) != owner
        }

    def state(self) -> dict[str, Any]:
        """Everything but the host's settings: forwarding stays on, and so do those of a bridge that stays."""
        kernel: dict[str, Any] = self.node.kernel.snapshot()
        host = {key: value for key, value in kernel.pop("1 ").items() if key != "settings"}
        return {"host": host, **kernel, "rules": set(self.rules), "addresses": dict(self.ipam.held)}

    def call(
        self,
        verb: str,
        config: dict[str, Any],
        pod: FakeNet | None,
        name: str = "pod",
        at: int = -1,
        how: str = "fail",
    ) -> Reply | None:
        """None if the request was cancelled."""

        def around(number: int, step: Callable[[], Any]) -> Any:
            if number != at or how == "refuse":
                return step()
            if how == "fail":
                raise InjectedError
            if how == "cancel after":
                step()
            raise Cancelled

        self.requests = 0
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "urandom", self._bytes)
            patch.setattr(fake, "answer", self._counting(fake.answer, at if how == "refuse" else -1))
            try:
                return self.node.call(Bridge(), verb, config, pod, around=around, CNI_CONTAINERID=name)
            except Cancelled:
                return None

    def _bytes(self, size: int) -> bytes:
        """What MACs are made of: the same in each run."""
        self._drawn += 1
        return hashlib.sha256(bytes((self._drawn,))).digest()[:size]

    def _counting(self, genuine: Answering, at: int) -> Answering:
        """A kernel that counts its requests, those of clean-up left out, and refuses number `at`."""

        def answer(net: FakeNet, request: bytes) -> Answer:
            if self.node.last is not None and self.node.last.cleaning_up:
                return genuine(net, request)
            self.requests += 1
            return Answer(errno.EIO, "injected") if self.requests - 1 == at else genuine(net, request)

        return answer

    @property
    def steps(self) -> int:
        assert self.node.last is not None
        return self.node.last.steps

    @property
    def lines(self) -> list[str]:
        assert self.node.last is not None
        return self.node.last.lines


# Configs


SUBNETS = st.sampled_from(
    [
        ["10.1.0.0/24"],
        ["fd01::/64"],
        ["10.1.0.0/24", "fd01::/64"],
        ["10.1.0.0/24", "10.2.0.0/24", "fd01::/64"],
    ]
)
ROUTES = st.lists(
    st.sampled_from(
        [("10.99.0.0/16", ""), ("fd99::/64", ""), ("0.0.0.0/0", ""), ("10.98.0.0/16", "10.1.0.9")]
    ),
    max_size=2,
    unique=True,
)
FLAGS = (
    "isGateway",
    "isDefaultGateway",
    "forceAddress",
    "ipMasq",
    "macspoofchk",
    "portIsolation",
    "enabledad",
)
VLANS = st.fixed_dictionaries(
    {},
    optional={
        "vlan": st.sampled_from([0, 5, 100]),
        "vlanTrunk": st.sampled_from([[], [{"id": 7}], [{"minID": 10, "maxID": 12}, {"id": 100}]]),
        "preserveDefaultVlan": st.booleans(),
    },
)


@st.composite
def configs(draw: st.DrawFn) -> dict[str, Any]:
    """A config that parses: layer 3 by the stand-in, or layer 2."""
    config: dict[str, Any] = {"cniVersion": "1.1.0", "name": "net", "type": "bridge", **draw(VLANS)}
    config |= dict.fromkeys(draw(st.sets(st.sampled_from(FLAGS))), True)
    config |= draw(st.sampled_from([{}, {"hairpinMode": True}, {"promiscMode": True}]))
    config |= draw(st.sampled_from([{}, {"mtu": 1400}, {"runtimeConfig": {"mac": "02:00:00:00:00:07"}}]))
    if draw(st.booleans()):
        config["ipam"] = {"type": "addresses", "subnets": draw(SUBNETS), "routes": draw(ROUTES)}
    else:
        config["disableContainerInterface"] = draw(st.booleans())
    return config


class Before(NamedTuple):
    """How a node is to be before the request: the bridge as somebody made it by hand, pods that are there."""

    bridge: tuple[bool, bool, frozenset[str]] | None
    pods: list[dict[str, Any]]

    def make(self) -> tuple[World, FakeNet]:
        """The node, and a new pod's sandbox."""
        world = World()
        host = world.node.host
        if self.bridge is not None:
            vlan_filtering, up, addresses = self.bridge
            bridge = host.new_bridge("cni0", b"\x02\0\0\0\0\x07", 0, vlan_filtering=vlan_filtering)
            host.set_up(bridge, up)
            for address in sorted(addresses):
                bridge.add_address(CIDR.parse(address))
        world.node.kernel.settle()
        for number, config in enumerate(self.pods):
            other = world.node.sandbox(f"/run/netns/other{number}")
            world.call("ADD", config, other, f"other{number}")
        return world, world.node.sandbox("/run/netns/pod")


BRIDGES = st.tuples(
    st.booleans(),
    st.booleans(),
    st.frozensets(st.sampled_from(["10.1.0.1/24", "10.7.0.1/24", "fd01::1/64"])),
)
BEFORE = st.builds(Before, st.none() | BRIDGES, st.lists(configs(), max_size=2))


# What holds


@settings(deadline=None, max_examples=150)
@given(BEFORE, configs(), st.integers(0, 99), st.sampled_from(HOWS))
def test_an_add_that_fails_leaves_everything_as_it_was(
    before: Before, config: dict[str, Any], percent: int, how: str
) -> None:
    """Failed, cancelled or refused at any step: links, addresses, routes and rules are as they were."""
    rehearsal, pod = before.make()
    rehearsal.call("ADD", config, pod)
    count = rehearsal.requests if how == "refuse" else rehearsal.steps
    world, pod = before.make()
    state = world.state()
    reply = world.call("ADD", config, pod, at=count * percent // 100, how=how)
    if reply is None or reply.status != 0:
        left = _without_shared_changes(state, world.state())
        assert left == state, f"{how} at {percent} % of {count}; undo said {world.lines}"
    else:
        assert how == "refuse"  # of something that does not matter, such as the link's alias


def _without_shared_changes(before: dict[str, Any], state: dict[str, Any]) -> dict[str, Any]:
    """The state after a failed ADD, with what other pods may rely on by now as it was before.

    That is: a bridge set up or made promiscuous, and, if another pod is there, gateways: addresses of the
    bridge, or an interface in the VLAN with its port, whose MAC the bridge may take.
    """
    was, now = before["host"]["links"], state["host"]["links"]
    pods = any(link[6] for link in now.values())
    links = {}
    for name, link in now.items():
        if name in was and name.startswith("cni0"):
            addresses = was[name][-1] if pods and set(was[name][-1]) <= set(link[-1]) else link[-1]
            mac = was[name][1] if pods else link[1]
            links[name] = (link[0], mac, *link[2:4], *was[name][4:6], *link[6:-1], addresses)
        elif name in was or link[6] or not pods or name == "cni0":
            links[name] = link
    return {**state, "host": {**state["host"], "links": links}}


@settings(deadline=None, max_examples=100)
@given(BEFORE, configs())
def test_del_takes_away_what_add_made(before: Before, config: dict[str, Any]) -> None:
    """After ADD and DEL everything is as before, but for the bridge and the gateway of a VLAN."""
    world, pod = before.make()
    state = world.state()
    reply = world.call("ADD", config, pod)
    assert reply is not None
    if reply.status != 0:
        return
    done = world.call("DEL", config, pod)
    assert done is not None
    assert done.status == 0, done.stdout.decode()
    assert _of_pods(world.state()) == _of_pods(state)


def _of_pods(state: dict[str, Any]) -> dict[str, Any]:
    """Without the bridge, the gateways of VLANs and their ports (which have no alias)."""
    links = state["host"]["links"].items()
    kept = {name: link for name, link in links if not name.startswith("cni0") and link[0] != "veth"}
    kept |= {name: link for name, link in links if link[6]}
    return {**state, "host": {**state["host"], "links": kept}}


@settings(deadline=None, max_examples=100)
@given(BEFORE, configs())
def test_what_add_made_passes_check(before: Before, config: dict[str, Any]) -> None:
    """CHECK right after ADD finds nothing, and changes nothing."""
    # One bridge cannot be promiscuous for one config and not for another.
    mode = {"hairpinMode": False, "promiscMode": config.get("promiscMode", False)}
    world, pod = before._replace(pods=[{**other, **mode} for other in before.pods]).make()
    reply = world.call("ADD", config, pod)
    assert reply is not None
    if reply.status != 0:
        return
    state = world.state()
    checked = world.call("CHECK", {**config, "prevResult": json.loads(reply.stdout)}, pod)
    assert checked is not None
    assert checked.status == 0, checked.stdout.decode()
    assert world.state() == state


@settings(deadline=None, max_examples=100)
@given(BEFORE, configs(), st.integers(0, 99), st.sampled_from(HOWS))
def test_a_del_that_fails_can_be_repeated(
    before: Before, config: dict[str, Any], percent: int, how: str
) -> None:
    """Wherever a DEL is interrupted, the next one succeeds and has nothing left that is the pod's."""
    rehearsal, pod = before.make()
    rehearsal.call("ADD", config, pod)
    rehearsal.call("DEL", config, pod)
    count = rehearsal.requests if how == "refuse" else rehearsal.steps
    world, pod = before.make()
    state = world.state()
    world.call("ADD", config, pod)
    world.call("DEL", config, pod, at=count * percent // 100, how=how)
    reply = world.call("DEL", config, pod)
    assert reply is not None
    assert reply.status == 0, reply.stdout.decode()
    assert _of_pods(world.state()) == _of_pods(state)


def test_the_fault_is_put_where_it_should_be() -> None:
    """An ADD of everything has its effects in steps, and its requests in these."""
    config = {"cniVersion": "1.1.0", "name": "net", "type": "bridge", "isGateway": True, "ipMasq": True}
    config["ipam"] = {"type": "addresses", "subnets": ["10.1.0.0/24"], "routes": []}
    world, pod = Before(None, []).make()
    reply = world.call("ADD", config, pod)
    assert reply is not None
    assert reply.status == 0
    assert world.steps > 5
    assert world.requests > 8
    again, pod = Before(None, []).make()
    reply = again.call("ADD", config, pod, at=world.steps - 1)
    assert reply is not None
    assert reply.status == 1
    assert not again.rules
