"""Rules of many attachments in one transaction: the same state as one by one, and failures stay alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from support.observe import firewall_state

from pycni.addresses import CIDR
from pycni.errors import CNIError
from pycni.kernel import iptables, nftables
from pycni_bridge import firewall, masquerade
from pycni_bridge.masquerade import Masquerade

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.netns import NetNS

PODS = [
    Masquerade("gnet", f"pod-{n}", "eth0", (CIDR.parse(f"10.40.0.{n}/24"), CIDR.parse(f"fd40::{n}/64")))
    for n in range(2, 8)
]
TWO_INTERFACES = [PODS[0], PODS[0].replace(ifname="net1", addresses=(CIDR.parse("10.41.0.2/24"),))]
MAC = bytes.fromhex("0a4000000005")
BACKENDS = pytest.mark.parametrize("backend", ["nftables", "iptables"])


@pytest.fixture
def node(new_netns: Callable[[str], NetNS]) -> Iterator[NetNS]:
    """A namespace without any rule, in which this thread is."""
    netns = new_netns("fwg")
    with netns.inside():
        yield netns


@pytest.fixture
def commits(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was committed: transactions of nftables that change something, and changes of iptables tables."""
    made: list[str] = []
    run, change = nftables.run, iptables.change

    def counted_run(commands: Any) -> Any:
        if not isinstance(commands, str) and not all("list" in command for command in commands):
            made.append("nftables")
        return run(commands)

    def counted_change(*args: Any) -> None:
        made.append("iptables")
        change(*args)

    monkeypatch.setattr(nftables, "run", counted_run)
    monkeypatch.setattr(iptables, "change", counted_change)
    return made


def many(grouped: Any, calls: list[tuple[Any, ...]]) -> None:
    assert grouped.many(calls) == [None] * len(calls)


@BACKENDS
def test_many_look_as_if_one_by_one(node: NetNS, new_netns: Callable[[str], NetNS], backend: str) -> None:
    """Set up together, the rules are those of six separate set-ups; removed together, nothing is left."""
    apart = new_netns("apart")
    with apart.inside():
        for pod in PODS:
            firewall.add_masquerade(pod, backend)
    many(firewall.add_masquerade, [(pod, backend) for pod in PODS])
    assert firewall_state(node) == firewall_state(apart)
    for pod in PODS:
        assert not masquerade.unmasqueraded(pod)
    many(firewall.remove_masquerade, [(pod,) for pod in PODS[:4]])
    with apart.inside():
        for pod in PODS[:4]:
            firewall.remove_masquerade(pod)
    assert firewall_state(node) == firewall_state(apart)
    assert not masquerade.unmasqueraded(PODS[5])


@BACKENDS
def test_many_cost_what_one_costs(node: NetNS, commits: list[str], backend: str) -> None:
    """Six pods take as many commits as one: one of nftables, or one of iptables for each family."""
    many(firewall.add_masquerade, [(pod, backend) for pod in PODS])
    assert commits == {"nftables": ["nftables"], "iptables": ["iptables"] * 2}[backend]
    commits.clear()
    many(firewall.remove_masquerade, [(pod,) for pod in PODS])
    assert commits == ["nftables"]


def test_interfaces_that_share_a_chain(node: NetNS) -> None:
    """Two interfaces of one container in one batch keep each other's rules; removed together both go."""
    many(firewall.add_masquerade, [(m, "iptables") for m in TWO_INTERFACES])
    assert [masquerade.unmasqueraded(m) for m in TWO_INTERFACES] == [[], []]
    many(firewall.remove_masquerade, [(TWO_INTERFACES[1],)])
    assert masquerade.unmasqueraded(TWO_INTERFACES[0]) == []
    many(firewall.remove_masquerade, [(m,) for m in TWO_INTERFACES])
    assert masquerade.unmasqueraded(TWO_INTERFACES[0]) != []


@BACKENDS
def test_a_bad_one_fails_alone(node: NetNS, monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    """A rule that the kernel refuses is found by halves; the others are there."""
    bad = PODS[3]
    lines, commands = masquerade.rules.setup_lines, masquerade.rules.setup_commands

    def bad_lines(m: Masquerade, *rest: Any) -> list[str]:
        return ["-A NOSUCHCHAIN -j NOSUCHTARGET"] if m == bad else lines(m, *rest)

    def bad_commands(m: Masquerade, existing: Any) -> list[Any]:
        nowhere = nftables.add("rule", family="inet", table="nosuch", chain="nosuch", expr=[])
        return [nowhere] if m == bad else commands(m, existing)

    monkeypatch.setattr(masquerade.rules, "setup_lines", bad_lines)
    monkeypatch.setattr(masquerade.rules, "setup_commands", bad_commands)
    outcomes = firewall.add_masquerade.many([(pod, backend) for pod in PODS])
    assert [type(outcome) for outcome in outcomes if outcome is not None] == [type(outcomes[3])]
    assert isinstance(outcomes[3], CNIError)
    assert [pod for pod in PODS if masquerade.unmasqueraded(pod)] == [bad]


def test_spoof_checks_of_many(node: NetNS, commits: list[str]) -> None:
    """Spoof checks go in and out by one transaction each."""
    empty = firewall_state(node)
    calls = [(f"veth{n}", MAC, f"pod-{n}-eth0") for n in range(5)]
    many(firewall.add_spoof_check, calls)
    assert commits == ["nftables"]
    many(firewall.remove_spoof_check, [(ref,) for _, _, ref in calls])
    assert commits == ["nftables"] * 2
    rules = [row for row in firewall_state(node)["nft"] if "rule" in row]
    assert rules == [row for row in empty["nft"] if "rule" in row]


def test_by_halves_asks_as_often_as_it_must() -> None:
    """One culprit among eight: the answers name it, and the good ones are committed."""
    committed: list[int] = []

    def commit(items: list[int]) -> None:
        if 5 in items:
            raise CNIError("five is refused")
        committed.extend(items)

    outcomes = firewall.by_halves(list(range(8)), commit)
    assert [position for position, outcome in enumerate(outcomes) if outcome is not None] == [5]
    assert sorted(committed) == [0, 1, 2, 3, 4, 6, 7]
