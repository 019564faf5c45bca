"""Tests marked `needs_vlan` run where the kernel filters VLANs on bridges.

Elsewhere they are deselected, since `make test-vlan` runs them in a guest kernel; in that guest, a kernel
without the feature is an error.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

GUEST = Path("/run/vm").exists()  # made by vm/run-in-vm; asked for before the tests get a /run of their own


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    needing = [item for item in items if item.get_closest_marker("needs_vlan")]
    if not needing or _kernel_filters_vlans():
        return
    if GUEST:
        raise pytest.UsageError("the guest's kernel has no bridge VLAN filtering")
    items[:] = [item for item in items if item not in needing]
    config.hook.pytest_deselected(items=needing)


def _kernel_filters_vlans() -> bool:
    """By doing it, in a network namespace that ends with the command; False only for EOPNOTSUPP."""
    command = ["ip", "link", "add", "probe0", "type", "bridge", "vlan_filtering", "1"]
    done = subprocess.run(["unshare", "--net", *command], capture_output=True, check=False, text=True)
    return "Operation not supported" not in done.stderr
