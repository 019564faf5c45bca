"""Debian's containerd, its CRI plugin on, networks its pods with our executables."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.containerd import Containerd, Pod
from support.observe import attachment_leftovers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.netns import NetNS

CONFLIST = Path(__file__).parents[2] / "conf" / "10-pycni.conflist"
CACHE = Path("/var/lib/cni/results")
NETWORKS = Path("/var/lib/cni/networks")


@pytest.fixture
def containerd(host: NetNS, bin_dir: Path, mode: str, tmp_path: Path) -> Iterator[Containerd]:
    """containerd in the node `host`, with our launchers, once beside an agent and once without."""
    conf_dir = tmp_path / "net.d"
    conf_dir.mkdir()
    shutil.copy(CONFLIST, conf_dir)
    folder = tmp_path / mode
    folder.mkdir()
    running = Containerd(host, folder, bin_dir, conf_dir)
    try:
        running.wait_network_ready()
        yield running
    finally:
        try:
            running.close()
        finally:
            shutil.rmtree(NETWORKS, ignore_errors=True)


def _pod_addresses(pod: Pod) -> set[str]:
    """Global addresses of eth0 as the pod sees them, without prefix lengths."""
    words = pod.execute("ip", "-o", "address", "show", "dev", "eth0", "scope", "global").split()
    return {after.split("/")[0] for word, after in itertools.pairwise(words) if word.startswith("inet")}


def test_two_pods(
    containerd: Containerd, host: NetNS, run_dir: Path, mode: str, request: pytest.FixtureRequest
) -> None:
    """Two pods get the addresses that the CRI reports, reach each other, and go without a trace."""
    network = json.loads(CONFLIST.read_text())["name"]
    first, second = pods = containerd.run_pod("first"), containerd.run_pod("second")
    for pod in pods:
        assert len(pod.addresses) == 2, "the conflist is dual stack"
        assert set(pod.addresses) == _pod_addresses(pod)
        assert "127.0.0.1" in pod.execute("ip", "address", "show", "dev", "lo")
    for here, there in ((first, second), (second, first)):
        for address in there.addresses:
            here.execute("ping", "-c", "1", "-W", "5", address)
    assert len(list(CACHE.iterdir())) == 4, "loopback and our network, for each pod"

    for pod in pods:
        pod.stop()
        pod.stop()  # the kubelet repeats it
        pod.remove()

    if mode == "agent":
        # For each pod: ADD of loopback, bridge and the chained loopback; three DELs at stop, stop, remove.
        assert request.getfixturevalue("agent").served() == 2 * (3 + 3 * 3)
    assert attachment_leftovers(host, NETWORKS) == []
    assert [path.name for path in CACHE.iterdir()] == []
    assert list((run_dir / "attachments").glob("*")) == []
    assert [point for point in containerd.mounts() if "/netns/" in point] == []
    assert (NETWORKS / network).is_dir(), "the store was somewhere else than we looked"
