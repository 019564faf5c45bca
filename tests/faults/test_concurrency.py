"""Many processes at once on one network: every attachment gets its own, and nothing is left after them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from storm import GATEWAYS, REFERENCE, Network, Plan, Storm, addresses_of, held_addresses
from support import observe
from support.agents import Agent
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from support.calls import Running
    from support.netns import NetNS

COUNT = 50
MASQUERADE = {
    "none": {},
    "nftables": {"ipMasq": True, "ipMasqBackend": "nftables"},
    "iptables": {"ipMasq": True, "ipMasqBackend": "iptables"},
}


@pytest.fixture
def pods(pod: Callable[[], NetNS]) -> list[NetNS]:
    return [pod() for _ in range(COUNT)]


@pytest.fixture
def network(
    request: pytest.FixtureRequest, host: NetNS, bin_dir: Path, run_dir: Path, tmp_path: Path
) -> Network:
    return Network(host, bin_dir, run_dir, tmp_path, **MASQUERADE[request.param])


def all_at_once(network: Network, verb: str, pods: list[NetNS], agent: Agent | None) -> list[Running]:
    """Start a call for each pod; an agent that is given dies when a fifth of them have been answered."""
    calls = [network.start(verb, pod) for pod in pods]
    if agent is not None:
        until(lambda: sum(_ended(call) for call in calls) >= COUNT // 5, f"a fifth of the {verb}s")
        agent.kill()
    return calls


def _ended(call: Running) -> bool:
    return call.process.poll() is not None


def check_attached(network: Network, pods: list[NetNS], results: list[tuple[str, ...]]) -> None:
    """Every pod has the addresses of its result, which are nobody else's, and reaches the gateways."""
    assert len({address for result in results for address in result}) == 2 * len(pods)
    for pod, result in zip(pods, results, strict=True):
        assert held_addresses(pod) == {result[0]}
    bridge = observe.links(network.host)[network.bridge]
    assert {info["local"] for info in bridge["addr_info"] if info["scope"] == "global"} == set(GATEWAYS)
    ports = [link for link in observe.links(network.host).values() if link.get("master") == network.bridge]
    assert len(ports) == len(pods)
    for gateway in GATEWAYS:
        for pod in pods[:: len(pods) // 5]:
            pod.ping(gateway)


@pytest.fixture
def new_agent(host: NetNS, run_dir: Path, bin_dir: Path, tmp_path: Path) -> Iterator[Callable[[], Agent]]:
    """Start agents in `host`, one after the other has died; the last one must stop well."""
    made: list[Agent] = []

    def make() -> Agent:
        made.append(Agent(host, run_dir, tmp_path / f"agent-{len(made)}.log"))
        return made[-1]

    yield make
    for agent in made:
        agent.stop()


@pytest.mark.parametrize("network", ["nftables", "iptables"], indirect=True)
@pytest.mark.parametrize("how", ["one-shot", "agent", "agent killed"])
def test_fifty_at_once(how: str, network: Network, pods: list[NetNS], new_agent: Callable[[], Agent]) -> None:
    """50 ADDs at once on a node without the bridge get addresses of their own; 50 DELs leave nothing.

    Also if the agent dies by SIGKILL in the middle of them.
    """
    agent = None if how == "one-shot" else new_agent()
    killed = agent if how == "agent killed" else None
    results = [addresses_of(call.finish()) for call in all_at_once(network, "ADD", pods, killed)]
    check_attached(network, pods, results)
    killed = new_agent() if killed else None
    for call in all_at_once(network, "DEL", pods, killed):
        call.finish().ok()
    network.check_nothing_left(pods)
    if how == "agent":
        assert agent is not None
        assert agent.served() > COUNT


@pytest.mark.parametrize(
    ("how", "network"), [("one-shot", "none"), ("agent", "iptables")], indirect=["network"]
)
def test_shared_with_the_reference(
    how: str, network: Network, pods: list[NetNS], new_agent: Callable[[], Agent]
) -> None:
    """Half the ADDs by the Go plugins on the same bridge and store: no address is given twice.

    Then each implementation deletes half of its own pods and half of the other one's.
    """
    if how == "agent":
        new_agent()
    network.config["cniVersion"] = "1.0.0"
    folders = [network.bin_dir, REFERENCE]
    calls = [network.start("ADD", pod, bin_dir=folders[n % 2]) for n, pod in enumerate(pods)]
    outcomes = [call.finish() for call in calls]
    check_attached(network, pods, [addresses_of(outcome) for outcome in outcomes])
    calls = [
        network.start("DEL", pod, bin_dir=folders[n // 2 % 2], prevResult=outcome.json)
        for n, (pod, outcome) in enumerate(zip(pods, outcomes, strict=True))
    ]
    for call in calls:
        call.finish().ok()
    network.check_nothing_left(pods)


@pytest.mark.parametrize("network", ["nftables"], indirect=True)
def test_a_short_storm(network: Network) -> None:
    """Launchers and agents die at random moments: no address is held twice, no pod cut off, nothing left."""
    storm = Storm(network, Plan(count=60, width=8, lifetime=1))
    said = storm.run()
    assert storm.adds == 60, said
    assert storm.launcher_kills > 10, said
