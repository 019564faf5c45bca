"""A kernel that cannot filter VLANs on bridges: the ADD says so and leaves nothing.

The answer comes from a real kernel of either sort: it gives the same one, EOPNOTSUPP, to a request for the
VLANs of a link that is no bridge port.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from support import observe
from support.in_process import InProcess

from pycni.kernel.vlans import set_vlans
from pycni_bridge import vlans, wiring

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.netns import NetNS

REFUSED = set_vlans(1, [vlans.access_vlan(100)])
"""For `lo`."""
ADVICE = "CONFIG_BRIDGE_VLAN_FILTERING"
CONFIG = {"cniVersion": "1.1.0", "name": "red", "type": "bridge", "bridge": "vlanbr0"}


@pytest.fixture
def add(
    host: NetNS, pod: Callable[[], NetNS], bin_dir: Path, run_dir: Path, data_dir: Path
) -> Callable[..., Any]:
    """The error of an ADD with these keys."""
    call = InProcess(host, bin_dir, run_dir)
    ipam = {"type": "host-local", "dataDir": str(data_dir), "ranges": [[{"subnet": "10.40.0.0/24"}]]}
    return lambda **keys: call("ADD", {**CONFIG, "ipam": ipam, **keys}, netns=pod()).failed(999)


@pytest.mark.parametrize("keys", [{"vlan": 100}, {"vlanTrunk": [{"id": 5}]}, {"vlanTrunk": []}])
def test_a_new_bridge(
    add: Callable[..., Any],
    host: NetNS,
    data_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    keys: dict[str, Any],
) -> None:
    """The reference's text, and what the kernel lacks."""
    monkeypatch.setattr(wiring, "new_bridge", lambda *_names, vlan_filtering, **_more: REFUSED)
    error = add(**keys)
    assert error["msg"] == (
        'failed to create bridge "vlanbr0": could not add "vlanbr0": operation not supported'
    )
    assert ADVICE in error["details"]
    assert list(observe.links(host)) == ["lo"]
    assert "red/10.40.0.2" not in observe.store(data_dir)


def test_an_existing_bridge(
    add: Callable[..., Any], host: NetNS, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host side cannot join the VLAN; it goes, the bridge stays."""
    monkeypatch.setattr(vlans, "set_vlans", lambda _index, _ranges: REFUSED)
    host.run("ip", "link", "add", "vlanbr0", "type", "bridge")
    error = add(vlan=100)
    assert error["msg"].startswith('failed to setup vlan tag on interface "veth')
    assert error["msg"].endswith('": operation not supported')
    assert ADVICE in error["details"]
    assert sorted(observe.links(host)) == ["lo", "vlanbr0"]
    assert "red/10.40.0.2" not in observe.store(data_dir)
