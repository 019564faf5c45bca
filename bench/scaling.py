"""What stays the same when a node fills up: ours against ours on a node with little on it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import goals
from contestants import Contestant, Executables, Network, contestant
from node import enter, new_namespace, release_namespace
from report import Measurements
from scenarios import all_at_once, one, rotated, warm_up

RESERVATIONS = {goals.HELD_FEW: 10, goals.HELD_MANY: 4000}
PORTS = {goals.PORTS_FEW: 5, goals.PORTS_MANY: 500}
MEMORY_PODS = 50  # attached and detached: 100 requests


def reservations(contestants: Sequence[Contestant], dual: bool, rounds: int, into: Measurements) -> None:
    """ADD where few and where many addresses of the network are held by others."""
    networks = {operation: Network(f"held-{count}", dual=dual) for operation, count in RESERVATIONS.items()}
    for who in contestants:
        for operation, network in networks.items():
            who.fill_store(network, RESERVATIONS[operation])
            warm_up([who], network)
    for number in range(rounds):
        for who in rotated(contestants, number):
            for operation, network in networks.items():
                pod = who.pods[number % len(who.pods)]
                into.time(operation, who.name, one(who, who.call("bridge", "ADD", network, pod)).seconds)
                one(who, who.call("bridge", "DEL", network, pod))


def ports(everybody: Sequence[Executables], network: Network, rounds: int, into: Measurements) -> None:
    """ADD where the bridge has few and where it has many ports, each on a node of its own."""
    with ExitStack() as stack:
        nodes = []
        for operation, count in PORTS.items():
            for executables in everybody:
                place = f"{executables.name}-ports-{count}"
                who = stack.enter_context(contestant(executables, 1, place=place))
                warm_up([who], network)
                stack.enter_context(other_ports(who, count))
                warm_up([who], network, links=count)
                nodes.append((operation, who))
        for number in range(rounds):
            by = number % len(nodes)
            for operation, who in nodes[by:] + nodes[:by]:
                pod = who.pods[0]
                into.time(operation, who.name, one(who, who.call("bridge", "ADD", network, pod)).seconds)
                one(who, who.call("bridge", "DEL", network, pod))


@contextmanager
def other_ports(who: Contestant, count: int) -> Iterator[None]:
    """Ports on the contestant's bridge, as if so many pods of others were attached to it."""
    pods = new_namespace(f"{who.place}-others")
    try:
        enter(pods)
        _link_local("1")
        enter(who.node)
        _link_local("1")
        _ip(
            f"link add veth{number} master bench0 up type veth peer name eth{number} netns {pods.name}"
            for number in range(count)
        )
        _link_local("0")
        enter(pods)
        _ip(f"link set eth{number} up" for number in range(count))
        yield
    finally:
        release_namespace(pods)


def _link_local(mode: str) -> None:
    """Whether new links get link-local addresses ("0") or none ("1"), for the thread's namespace.

    The kernel is busy for a while where a thousand links look for neighbours with the same address.
    """
    Path("/proc/sys/net/ipv6/conf/default/addr_gen_mode").write_text(mode)


def _ip(commands: Iterator[str]) -> None:
    subprocess.run(["ip", "-batch", "-"], input="\n".join(commands), text=True, check=True)


def memory(executables: Executables, network: Network, requests: int, into: Measurements) -> None:
    """The resident memory of an agent on a node of its own after 100 requests, and after so many."""
    with contestant(executables, MEMORY_PODS, place="memory") as who:
        assert who.agent is not None
        warm_up([who], network)
        served = 0
        while served < requests:
            for verb in ("ADD", "DEL"):
                all_at_once(who, verb, network, MEMORY_PODS)
                served += MEMORY_PODS
            if served == 2 * MEMORY_PODS:
                into.memory(goals.MEMORY_BEFORE, who.name, resident_mib(who.agent))
        into.memory(goals.MEMORY_AFTER, who.name, resident_mib(who.agent))
        who.verify_empty()


def resident_mib(process: int) -> float:
    """VmRSS of proc_pid_status(5), shared pages included."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"process {process} has no memory: it has ended")
