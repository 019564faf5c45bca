"""One network with many attachments at once, and the storm: launchers and the agent die, nothing may be lost.

`make storm` runs this file as a program: 2,000 attachments, 32 at a time. `test_kill.py` runs a short one.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

TESTS = Path(__file__).resolve().parent.parent
if str(TESTS) not in sys.path:  # when run as a program
    sys.path.insert(0, str(TESTS))

from support import observe  # noqa: E402
from support.agents import PYCNI, Agent  # noqa: E402
from support.calls import SYSTEM_PATH, Outcome, Running, clean_environment  # noqa: E402
from support.netns import NetNS  # noqa: E402
from support.private import PrivateNode  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

SECONDS = 30
REFERENCE = Path("/usr/lib/cni")
SUBNETS = ("10.71.0.0/16", "fd71::/64")
GATEWAYS = ("10.71.0.1", "fd71::1")


def until(condition: Callable[[], Any], what: str, facts: Callable[[], Any] = lambda: "") -> Any:
    """Poll until the condition is true and return its value; AssertionError after SECONDS."""
    deadline = time.monotonic() + SECONDS
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {SECONDS} s: {what} {facts()}")
        time.sleep(0.005)
    return value


class Network:
    """A dual-stack network with a gateway on one node; calls do not wait for each other.

    A pod's name is its container id, its interface is eth0. `conf` are further keys of the bridge's config.
    """

    plugin = "bridge"
    bridge = "stormbr0"

    def __init__(self, host: NetNS, bin_dir: Path, run_dir: Path, folder: Path, **conf: Any) -> None:
        self.host, self.bin_dir, self.run_dir = host, bin_dir, run_dir
        self.folder = folder
        self.data_dir = folder / "networks"
        ipam = {
            "type": "host-local",
            "dataDir": str(self.data_dir),
            "ranges": [[{"subnet": subnet}] for subnet in SUBNETS],
        }
        self.config = {
            "cniVersion": "1.1.0",
            "name": "storm",
            "type": self.plugin,
            "bridge": self.bridge,
            "isDefaultGateway": True,
            "ipam": ipam,
            **conf,
        }
        self._numbers = itertools.count()

    def start(
        self,
        verb: str,
        pod: NetNS | None = None,
        *,
        bin_dir: Path | None = None,
        path: str = SYSTEM_PATH,
        **more: Any,
    ) -> Running:
        """Start a call whose input is there already, so that it needs nobody to feed it; `more` are keys."""
        folder = bin_dir or self.bin_dir
        env = {"PATH": path, "CNI_COMMAND": verb, "CNI_PATH": str(folder)}
        if pod is not None:
            env |= {"CNI_CONTAINERID": pod.name, "CNI_NETNS": str(pod.path), "CNI_IFNAME": "eth0"}
        pipe = subprocess.PIPE
        with tempfile.TemporaryFile(dir=self.folder) as stdin:
            stdin.write(json.dumps(self.config | more).encode())
            stdin.seek(0)
            process = self.host.popen(
                folder / self.plugin, env=env, stdin=stdin, stdout=pipe, stderr=pipe, cwd=self.folder
            )
        return Running(process, b"")

    def call(self, verb: str, pod: NetNS | None = None, **more: Any) -> Outcome:
        """A call from start to end."""
        return self.start(verb, pod, **more).finish()

    def collect(self) -> None:
        """GC with no valid attachment."""
        self.call("GC", **{"cni.dev/valid-attachments": []}).ok()

    def left(self, pods: Iterable[NetNS] = ()) -> list[str]:
        """What there is of attachments on the node, in the store and in `pods`."""
        found = observe.attachment_leftovers(self.host, self.data_dir)
        return found + [f"in {pod.name}: {name}" for pod in pods for name in link_names(pod) if name != "lo"]

    def intents(self) -> list[str]:
        """The attachments that a request is at work on, or died at work on."""
        return sorted(path.read_text() for path in (self.run_dir / "attachments").glob("*"))

    def check_nothing_left(self, pods: Iterable[NetNS] = ()) -> None:
        """Raise AssertionError unless nothing is left; only locks may outlive the answer, for a moment."""
        if left := self.left(pods):
            raise AssertionError("left:\n" + "\n".join(left))
        until(lambda: not self.intents(), "every attachment's lock is removed", self.intents)


def link_names(netns: NetNS) -> list[str]:
    """Names of a namespace's links, from the kernel's own list."""
    with netns.inside():
        lines = Path("/proc/thread-self/net/dev").read_text().splitlines()[2:]
    return [line.partition(":")[0].strip() for line in lines]


def held_addresses(netns: NetNS) -> set[str]:
    """IPv4 addresses of a namespace but for loopback's, from the kernel's routing table."""
    with netns.inside():
        lines = Path("/proc/thread-self/net/fib_trie").read_text().splitlines()
    found = {
        before.split()[-1] for before, line in itertools.pairwise(lines) if line.strip() == "/32 host LOCAL"
    }
    return {address for address in found if not address.startswith("127.")}


def addresses_of(outcome: Outcome) -> tuple[str, ...]:
    """The addresses of an ADD's result, without their prefix lengths, IPv4 first."""
    return tuple(entry["address"].partition("/")[0] for entry in outcome.ok().json["ips"])
