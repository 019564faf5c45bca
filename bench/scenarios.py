"""What is measured: single calls, bursts, and how much more it costs where there is much already."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

import goals
from contestants import Contestant, Network
from node import enter
from report import Measurements
from starter import Call, Finished, run, run_many

PAUSE_SECONDS = 0.01
"""Between two calls, so that what a call leaves to the kernel's workers is not charged to the next one."""
AT_ONCE = 10
MASQUERADE_PODS = 50


def rotated(contestants: Sequence[Contestant], by: int) -> list[Contestant]:
    """Another one begins in every round, so that no one profits from its place."""
    by %= len(contestants)
    return [*contestants[by:], *contestants[:by]]


def one(who: Contestant, call: Call) -> Finished:
    enter(who.node)
    time.sleep(PAUSE_SECONDS)
    return run(call).expect_success()


def all_at_once(who: Contestant, verb: str, network: Network, pods: int, at_once: int = AT_ONCE) -> float:
    """The same call for so many pods, some at the same time; seconds by the pod."""
    enter(who.node)
    calls = who.calls(verb, network, pods)
    seconds, finished = run_many(calls, at_once)
    for each in finished:
        each.expect_success()
    return seconds / len(calls)


def warm_up(contestants: Sequence[Contestant], network: Network, links: int = 0) -> None:
    """One attachment each, unmeasured: bridge made, files in the page cache, modules loaded.

    Raises RuntimeError unless the result has as many addresses as range sets and DEL leaves nothing.
    """
    for who in contestants:
        pod = who.pods[0]
        result = json.loads(one(who, who.call("bridge", "ADD", network, pod)).stdout)
        if len(result["ips"]) != len(network.ranges()):
            raise RuntimeError(f"{who.name}: expected {len(network.ranges())} addresses, got {result}")
        one(who, who.call("bridge", "DEL", network, pod))
        who.verify_empty(links)


def single_calls(
    contestants: Sequence[Contestant], network: Network, rounds: int, into: Measurements
) -> None:
    """Every operation by everybody in turn, one call at a time; STATUS by ours alone."""
    operations = (
        (goals.ADD, "bridge", "ADD"),
        (goals.DEL, "bridge", "DEL"),
        (goals.LOOPBACK, "loopback", "ADD"),
        ("", "loopback", "DEL"),
        (goals.VERSION, "bridge", "VERSION"),
        (goals.STATUS, "bridge", "STATUS"),
    )
    warm_up(contestants, network)
    for number in range(rounds):
        for operation, plugin, verb in operations:
            for who in rotated(contestants, number):
                if verb == "STATUS" and not who.ours:
                    continue
                pod = None if verb in ("VERSION", "STATUS") else who.pods[number % len(who.pods)]
                seconds = one(who, who.call(plugin, verb, network, pod)).seconds
                if operation:
                    into.time(operation, who.name, seconds)


def bursts(
    contestants: Sequence[Contestant], network: Network, rounds: int, pods: int, into: Measurements
) -> None:
    """All pods of one contestant added and deleted, 10 at once; deleted once more 32 at once."""
    for number in range(rounds):
        for who in rotated(contestants, number):
            into.time(goals.BURST_ADD, who.name, all_at_once(who, "ADD", network, pods))
            into.time(goals.BURST_DEL, who.name, all_at_once(who, "DEL", network, pods))
            into.time(goals.BURST_ADD, who.name, all_at_once(who, "ADD", network, pods))
            into.time(goals.BURST_DEL_32, who.name, all_at_once(who, "DEL", network, pods, 32))
            who.verify_empty()
            time.sleep(0.2)


def masquerade_bursts(contestants: Sequence[Contestant], dual: bool, rounds: int, into: Measurements) -> None:
    """Bursts with ipMasq: ours with each of its backends, others with iptables, as Debian's can no more."""
    backends = {
        backend: Network(f"masq-{backend}", masquerade=backend, dual=dual) for backend in goals.BACKENDS
    }
    entries = [
        (who, f"{who.name}, {backend}" if who.ours else who.name, network)
        for who in contestants
        for backend, network in backends.items()
        if who.ours or backend == "iptables"
    ]
    for who, _, network in entries:
        warm_up([who], network)
    for number in range(rounds):
        for who, label, network in entries[number % len(entries) :] + entries[: number % len(entries)]:
            into.time(goals.MASQ_ADD, label, all_at_once(who, "ADD", network, MASQUERADE_PODS))
            into.time(goals.MASQ_DEL, label, all_at_once(who, "DEL", network, MASQUERADE_PODS))
            who.verify_empty()
            time.sleep(0.2)
