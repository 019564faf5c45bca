"""The recordings of the reference's VLAN options, replayed against ours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from support import observe
from support.golden import Replay, cases, load
from support.in_process import InProcess

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.calls import Outcome
    from support.netns import NetNS

pytestmark = pytest.mark.needs_vlan

MASQUERADE = "add table inet probe; add chain inet probe x { type nat hook postrouting priority 100; }"


class VlanReplay(Replay):
    """Serves the calls in this process, and looks at what these recordings hold."""

    call: InProcess

    def _execute(self, step: dict[str, Any]) -> Outcome:
        assert step["plugin"] == "bridge"
        return self.call.serve(*self._request(step))

    def state(self) -> dict[str, Any]:
        state = {
            "host": observe.host_state(self.host),
            "pods": {name: observe.pod_state(pod) for name, pod in self.pods.items()},
            "store": observe.store(self.data_dir),
        }
        if any("iptables" in step.get("state", ()) for step in self.case["steps"]):
            return state | observe.firewall_state(self.host)
        return state | {"nft": observe.own_nft_rules(self.host)}


def without_masquerade(recording: dict[str, Any]) -> dict[str, Any]:
    """The case where nftables cannot masquerade (user-mode Linux): the rules left out, all else kept."""
    for step in recording["steps"]:
        step.get("stdin", {}).pop("ipMasq", None)
        step.get("state", {}).update(nft=[])
        for key in ("nft_comments", "iptables"):
            step.get("state", {}).pop(key, None)
    return recording


@pytest.mark.parametrize("case", cases("vlan"))
def test_recorded(
    case: str, bin_dir: Path, run_dir: Path, host: NetNS, pod: Callable[[], NetNS], tmp_path: Path
) -> None:
    """Output, links, VLANs, addresses, rules and reservations are the reference's after every step."""
    recording = load(case)
    if "nftables-inet" in recording["requires"] and host.run("nft", "-c", MASQUERADE, check=False).returncode:
        recording = without_masquerade(recording)
    replay = VlanReplay(recording, bin_dir, host, pod, tmp_path)
    replay.call = InProcess(host, bin_dir, run_dir)
    for number, step in enumerate(recording["steps"], 1):
        differences = replay.step(number)
        assert not differences, f"step {number} ({step.get('plugin', '')}):\n" + "\n".join(differences)
