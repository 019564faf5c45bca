"""The recordings of the reference's VLAN options, replayed against ours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from support import observe
from support.golden import Replay, cases, load

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.netns import NetNS

pytestmark = pytest.mark.needs_vlan


class VlanReplay(Replay):
    """Looks at what these recordings hold: a guest kernel need not have iptables."""

    def state(self) -> dict[str, Any]:
        return {
            "host": observe.host_state(self.host),
            "pods": {name: observe.pod_state(pod) for name, pod in self.pods.items()},
            "nft": observe.own_nft_rules(self.host),
            "store": observe.store(self.data_dir),
        }


@pytest.mark.parametrize("case", cases("vlan"))
def test_recorded(case: str, bin_dir: Path, host: NetNS, pod: Callable[[], NetNS], tmp_path: Path) -> None:
    """Output, links, VLANs, addresses, rules and reservations are the reference's after every step."""
    recording = load(case)
    replay = VlanReplay(recording, bin_dir, host, pod, tmp_path)
    for number, step in enumerate(recording["steps"], 1):
        differences = replay.step(number)
        assert not differences, f"step {number} ({step.get('plugin', '')}):\n" + "\n".join(differences)
