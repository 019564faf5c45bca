"""A machine inside the machine: what the tests do to links, rules, mounts and CNI folders ends with them.

The test process moves itself into a network and mount namespace of its own. There /run is empty and new (so
are /run/netns, /run/pycni and the iptables lock), and so are /var/lib/cni, /etc/cni/net.d and /opt/cni/bin.
/sys stays the machine's: the cgroups are needed, and netlink, not /sys/class/net, says which links there are.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from support.netns import CLONE_NEWNET, CLONE_NEWNS, MS_PRIVATE, MS_REC, mount, setns, unshare

CNI_DIRS = (Path("/var/lib/cni"), Path("/etc/cni/net.d"), Path("/opt/cni/bin"))
WATCHED = (*CNI_DIRS, Path("/run/pycni"), Path("/run/netns"))


class PrivateNode:
    """The namespaces of this test session; made once, before the first test that needs root."""

    def __init__(self) -> None:
        """Enter; raises PermissionError without root."""
        self._outer_net = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._outer_root = os.open("/", os.O_RDONLY | os.O_CLOEXEC)
        self._before = self._outer_state()
        unshare(CLONE_NEWNS | CLONE_NEWNET)
        mount("none", "/", flags=MS_REC | MS_PRIVATE)
        mount("pycni-tests", "/run", "tmpfs", data="mode=0755")
        for folder in CNI_DIRS:
            _empty_folder(folder)
        self._inner_net = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)

    def _outer_state(self) -> dict[str, Any]:
        """What the machine around shows; read with the outer network namespace current."""
        folders: dict[str, list[str] | None] = {}
        for folder in WATCHED:
            try:  # by the outer root directory: after unshare this thread sees other mounts
                fd = os.open(str(folder)[1:], os.O_RDONLY, dir_fd=self._outer_root)
            except FileNotFoundError:
                folders[str(folder)] = None
                continue
            folders[str(folder)] = sorted(os.listdir(fd))
            os.close(fd)
        return folders | _network()

    def leftovers(self) -> list[str]:
        """What the session left, inside and in the machine around; empty if all is as it was."""
        inside = {str(top): sorted(str(p) for p in top.rglob("*") if p.is_file()) for top in WATCHED}
        found = [f"inside, {key}: {value}" for key, value in (inside | _network()).items() if value]
        setns(self._outer_net)
        try:
            after = self._outer_state()
        finally:
            setns(self._inner_net)
        found += [
            f"the machine's {key}: was {self._before[key]}, is {after[key]}"
            for key in after
            if after[key] != self._before[key]
        ]
        return found


def _network() -> dict[str, Any]:
    """Links (but for lo) and nftables tables of the calling thread's namespace."""
    links = subprocess.run(["ip", "-j", "link"], capture_output=True, check=True).stdout
    tables = subprocess.run(["nft", "list", "tables"], capture_output=True, check=True, text=True).stdout
    return {
        "links": sorted(link["ifname"] for link in json.loads(links or b"[]") if link["ifname"] != "lo"),
        "nftables": sorted(tables.splitlines()),
    }


def _empty_folder(folder: Path) -> None:
    """Put an empty tmpfs at `folder`; where the machine has no such folder, it does not get one.

    A mount needs a folder to sit on. A missing one is created in an overlay over its nearest existing
    parent, whose changes live in memory and are seen in this mount namespace only.
    """
    if not folder.exists():
        parent = next(path for path in folder.parents if path.exists())
        layers = Path(tempfile.mkdtemp(prefix="overlay-", dir="/run"))
        (layers / "upper").mkdir()
        (layers / "work").mkdir()
        options = f"lowerdir={parent},upperdir={layers}/upper,workdir={layers}/work"
        mount("pycni-tests", parent, "overlay", data=options)
        folder.mkdir(parents=True)
    mount("pycni-tests", folder, "tmpfs", data="mode=0755")
