"""Two pods on the conflist of conf/: they reach each other, their gateway, and the world outside."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.agents import PYCNI
from support.calls import clean_environment
from support.observe import addresses, attachment_leftovers, firewall_state, links, store

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.agents import Agent
    from support.calls import Call
    from support.netns import NetNS

CONFLIST = Path(__file__).parents[2] / "conf" / "10-pycni.conflist"
OUTSIDE = {4: "192.0.2.2", 6: "2001:db8:2::2"}
UPLINK = {4: "192.0.2.1", 6: "2001:db8:2::1"}
SECONDS = 30


@pytest.fixture(params=["oneshot", "agent"])
def agent_or_none(request: pytest.FixtureRequest) -> Agent | None:
    """Without an agent, and with one in the node."""
    return request.getfixturevalue("agent") if request.param == "agent" else None


@pytest.fixture
def outside(host: NetNS, new_netns: Callable[[str], NetNS]) -> NetNS:
    """A machine beyond the node: it knows no way back to the pods' networks."""
    netns = new_netns("outside")
    host.run("ip", "link", "add", "uplink", "type", "veth", "peer", "name", "eth0", "netns", netns.path)
    for place, device, ends in ((host, "uplink", UPLINK), (netns, "eth0", OUTSIDE)):
        place.run("ip", "addr", "add", f"{ends[4]}/24", "dev", device)
        place.run("ip", "addr", "add", f"{ends[6]}/64", "dev", device, "nodad")
        place.run("ip", "link", "set", device, "up")
    return netns


class Chain:
    """The conflist of conf/ on one node, executed plugin by plugin as a runtime does."""

    def __init__(self, call: Call, data_dir: Path, **bridge: Any) -> None:
        """`bridge` are keys of the bridge plugin to set differently."""
        document = json.loads(CONFLIST.read_text())
        self.call = call
        self.common = {key: document[key] for key in ("cniVersion", "name")}
        self.plugins = document["plugins"]
        self.plugins[0] |= bridge
        self.plugins[0]["ipam"]["dataDir"] = str(data_dir)
        self.results: dict[str, dict[str, Any]] = {}

    def _config(self, plugin: dict[str, Any], container_id: str) -> dict[str, Any]:
        result = self.results.get(container_id)
        return self.common | plugin | ({"prevResult": result} if result else {})

    def add(self, pod: NetNS, container_id: str) -> dict[int, str]:
        """The pod's addresses by family."""
        for plugin in self.plugins:
            config = self._config(plugin, container_id)
            outcome = self.call(plugin["type"], "ADD", config, netns=pod, container_id=container_id)
            self.results[container_id] = outcome.ok().json
        found = [ip["address"].partition("/")[0] for ip in self.results[container_id]["ips"]]
        return {6 if ":" in address else 4: address for address in found}

    def again(self, verb: str, pod: NetNS, container_id: str) -> None:
        """CHECK in the chain's order, DEL backwards."""
        for plugin in self.plugins if verb == "CHECK" else reversed(self.plugins):
            config = self._config(plugin, container_id)
            outcome = self.call(plugin["type"], verb, config, netns=pod, container_id=container_id)
            assert outcome.ok().stdout == b""


def seen_source(outside: NetNS, pod: NetNS, family: int, kind: socket.SocketKind) -> tuple[str, bytes]:
    """Send from the pod to a socket outside: the source address that arrives, and the echo's answer.

    A datagram is sent again until it arrives: a link-local address that is still tentative, as a router's may
    be, can cost the first one.
    """
    family_number = {4: socket.AF_INET, 6: socket.AF_INET6}[family]
    with outside.inside():
        listener = socket.socket(family_number, kind)
    with pod.inside():
        client = socket.socket(family_number, kind)
    with listener, client:
        listener.settimeout(SECONDS)
        client.settimeout(SECONDS)
        listener.bind((OUTSIDE[family], 0))
        if kind is socket.SOCK_STREAM:
            listener.listen()
        client.connect(listener.getsockname()[:2])
        if kind is socket.SOCK_STREAM:
            client.send(b"hello")
            connection, source = listener.accept()
            with connection:
                connection.settimeout(SECONDS)
                connection.sendall(connection.recv(100).upper())
                return source[0], client.recv(100)
        _, source = repeated(lambda: client.send(b"hello"), listener)
        answer, _ = repeated(lambda: listener.sendto(b"HELLO", source), client)
        return source[0], answer


def repeated(send: Callable[[], object], receiver: socket.socket) -> tuple[bytes, Any]:
    """What arrives of a datagram that is sent every half second, and from where."""
    receiver.settimeout(0.5)
    for _ in range(2 * SECONDS):
        send()
        with contextlib.suppress(TimeoutError):
            return receiver.recvfrom(100)
    raise AssertionError(f"nothing arrived in {SECONDS} s")


def assert_gone(host: NetNS, data_dir: Path, *pods: NetNS) -> None:
    """No trace of an attachment: on the node, in the store, in the pods."""
    assert set(attachment_leftovers(host, data_dir)) <= {"link uplink"}
    for pod in pods:
        assert list(links(pod)) == ["lo"]


def test_two_pods_from_conf(
    agent_or_none: Agent | None,
    call: Call,
    host: NetNS,
    pod: Callable[[], NetNS],
    data_dir: Path,
) -> None:
    """IPv4 and IPv6: pings both ways, to the gateway and to itself; CHECK agrees; DEL leaves nothing."""
    chain = Chain(call, data_dir)
    one, two = pod(), pod()
    first, second = chain.add(one, "pod-1"), chain.add(two, "pod-2")
    assert (first, second) == (
        {4: "10.90.0.2", 6: "fd00:10:90::2"},
        {4: "10.90.0.3", 6: "fd00:10:90::3"},
    )
    assert addresses(host, "pycni0") == ["10.90.0.1/24", "fd00:10:90::1/64"]
    for family in (4, 6):
        one.ping(second[family])
        two.ping(first[family])
        for place in (one, two):
            place.ping({4: "10.90.0.1", 6: "fd00:10:90::1"}[family])
            place.ping({4: "127.0.0.1", 6: "::1"}[family])
            host.ping({4: "10.90.0.2", 6: "fd00:10:90::2"}[family])
    for place, name in ((one, "pod-1"), (two, "pod-2")):
        chain.again("CHECK", place, name)
    chain.again("DEL", one, "pod-1")
    two.ping("10.90.0.1")
    chain.again("CHECK", two, "pod-2")
    chain.again("DEL", two, "pod-2")
    assert_gone(host, data_dir, one, two)
    chain.again("DEL", two, "pod-2")
    if agent_or_none is not None:
        assert agent_or_none.served() == 2 * (2 + 2 + 2) + 2 + 2


@pytest.mark.row("plugins", 72)
@pytest.mark.parametrize("backend", ["iptables", "nftables"])
def test_masquerading(
    backend: str,
    agent_or_none: Agent | None,
    call: Call,
    host: NetNS,
    pod: Callable[[], NetNS],
    outside: NetNS,
    data_dir: Path,
) -> None:
    """Towards another subnet a pod has the node's address and gets its answers; among pods it has its own."""
    chain = Chain(call, data_dir, ipMasqBackend=backend)
    one, two = pod(), pod()
    first = chain.add(one, "pod-1")
    second = chain.add(two, "pod-2")
    rules = firewall_state(host)
    assert [bool(rules["iptables"][name]) for name in rules["iptables"]] == [backend == "iptables"] * 2
    for family in (4, 6):
        for place in (one, two):
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                assert seen_source(outside, place, family, kind) == (UPLINK[family], b"HELLO")
            place.ping(OUTSIDE[family])
        assert source_among_pods(one, two, second[family]) == first[family]
    chain.again("DEL", one, "pod-1")
    for family in (4, 6):
        assert seen_source(outside, two, family, socket.SOCK_DGRAM) == (UPLINK[family], b"HELLO")
    chain.again("DEL", two, "pod-2")
    assert_gone(host, data_dir, one, two)
    assert agent_or_none is None or agent_or_none.served() > 0


def source_among_pods(client_pod: NetNS, server_pod: NetNS, address: str) -> str:
    """The source address that one pod sees of another."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with server_pod.inside():
        server = socket.socket(family, socket.SOCK_DGRAM)
    with client_pod.inside():
        client = socket.socket(family, socket.SOCK_DGRAM)
    with server, client:
        server.bind((address, 0))
        _, source = repeated(lambda: client.sendto(b"hello", server.getsockname()[:2]), server)
        return str(source[0])


def test_without_masquerading_the_outside_sees_the_pod(
    call: Call, pod: Callable[[], NetNS], outside: NetNS, data_dir: Path
) -> None:
    """What the masquerading tests observe is masquerading: without ipMasq the pod's own address arrives."""
    chain = Chain(call, data_dir, ipMasq=False)
    one = pod()
    first = chain.add(one, "pod-1")
    outside.run("ip", "route", "add", "10.90.0.0/24", "via", UPLINK[4])
    outside.run("ip", "route", "add", "fd00:10:90::/64", "via", UPLINK[6])
    for family in (4, 6):
        assert seen_source(outside, one, family, socket.SOCK_DGRAM) == (first[family], b"HELLO")
    chain.again("DEL", one, "pod-1")


def test_two_pods_by_the_command(
    agent_or_none: Agent | None,
    bin_dir: Path,
    run_dir: Path,
    host: NetNS,
    pod: Callable[[], NetNS],
    tmp_path: Path,
) -> None:
    """`pycni add` on the file in conf/, as it is: both pods reach each other; `pycni del` leaves nothing."""
    env = clean_environment() | {
        "NETCONFPATH": str(CONFLIST.parent),
        "CNI_PATH": str(bin_dir),
        "PYCNI_CACHE_DIR": str(tmp_path / "cache"),
        "PYCNI_RUN_DIR": str(run_dir),
    }

    def pycni(verb: str, place: NetNS) -> bytes:
        return host.run(PYCNI, verb, "pycni", place.path, env=env).stdout

    # The conflist names no dataDir: this is the default, an empty folder of the test session's own machine.
    networks = Path("/var/lib/cni/networks")
    one, two = pod(), pod()
    found = [[ip["address"] for ip in json.loads(pycni("add", place))["ips"]] for place in (one, two)]
    assert [addresses(place, "eth0") for place in (one, two)] == found
    try:
        for ours, theirs in ((one, found[1]), (two, found[0])):
            for address in theirs:
                ours.ping(address.partition("/")[0])
        for place in (one, two):
            pycni("check", place)
    finally:
        for place in (one, two):
            pycni("del", place)
        assert set(store(networks)) == {"pycni/last_reserved_ip.0", "pycni/last_reserved_ip.1", "pycni/lock"}
        shutil.rmtree(networks)
    assert_gone(host, networks, one, two)
    assert agent_or_none is None or agent_or_none.served() > 0
