"""Who is compared: folders of plugin executables, each with a node and pods of its own.

Every contestant has a node namespace to itself, so that all see the same number of links and addresses.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from node import enter, new_namespace, release_namespace
from starter import Call

AGENT_START_SECONDS = 30
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Contestant:
    """Plugin executables in `bin_dir`, a node to run them on and pods to attach."""

    name: str
    bin_dir: Path
    node: Path
    pods: tuple[Path, ...]
    masquerade: str = ""
    dual: bool = False

    def call(self, plugin: str, verb: str, pod: Path | None = None) -> Call:
        """The request that a runtime would send for this pod."""
        env = {"CNI_COMMAND": verb, "CNI_PATH": str(self.bin_dir), "PATH": PATH}
        if pod is not None:
            env["CNI_CONTAINERID"] = pod.name
            env["CNI_NETNS"] = str(pod)
            env["CNI_IFNAME"] = "lo" if plugin == "loopback" else "eth0"
        return Call((str(self.bin_dir / plugin),), env, json.dumps(self._config(plugin)).encode())

    def _config(self, plugin: str) -> dict[str, object]:
        common: dict[str, object] = {"cniVersion": "1.0.0", "name": f"bench-{self.name}", "type": plugin}
        if plugin != "bridge":
            return common
        masquerade = {"ipMasq": True, "ipMasqBackend": self.masquerade} if self.masquerade else {}
        return {
            **common,
            "bridge": "bench0",
            "isDefaultGateway": True,
            **masquerade,
            "ipam": {"type": "host-local", "ranges": self.ranges()},
        }

    def ranges(self) -> list[list[dict[str, str]]]:
        """The range sets: one address of each for a pod."""
        sets = [[{"subnet": "10.90.0.0/16"}]]
        return [*sets, [{"subnet": "fd00:10:90::/64"}]] if self.dual else sets

    def verify_empty(self) -> None:
        """Raises RuntimeError if a link of a pod or a reservation is left on the node."""
        enter(self.node)
        told = subprocess.run(["ip", "-j", "link", "show", "type", "veth"], capture_output=True, check=True)
        links = [link["ifname"] for link in json.loads(told.stdout or b"[]")]
        store = Path("/var/lib/cni/networks") / f"bench-{self.name}"
        held = [
            path.name for path in store.glob("*") if not path.name.startswith(("lock", "last_reserved_ip"))
        ]
        if links or held:
            raise RuntimeError(f"{self.name} left behind: links {links}, reservations {held}")


@contextmanager
def contestant(
    name: str,
    bin_dir: Path,
    pods: int,
    *,
    agent_dir: Path | None = None,
    masquerade: str = "",
    dual: bool = False,
) -> Iterator[Contestant]:
    """A contestant with its namespaces, and with an agent on its node where `agent_dir` is given."""
    with ExitStack() as stack:
        node = _pinned(stack, f"{name}-node")
        made = tuple(_pinned(stack, f"{name}-{number}") for number in range(pods))
        enter(node)
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        if agent_dir is not None:
            stack.enter_context(_agent(agent_dir))
        yield Contestant(name, bin_dir, node, made, masquerade, dual)


def _pinned(stack: ExitStack, name: str) -> Path:
    path = new_namespace(name)
    stack.callback(release_namespace, path)
    return path


def install_launchers(bin_dir: Path, run_dir: Path, launcher: str) -> None:
    """Write this checkout's launchers of one kind; raises CalledProcessError if that fails."""
    command = [*_pycni(), "install", "--bin-dir", str(bin_dir), "--run-dir", str(run_dir)]
    command += ["--launcher", launcher]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


@contextmanager
def _agent(run_dir: Path) -> Iterator[None]:
    """An agent in this thread's network namespace; it ends with this process, however that ends."""
    with (run_dir / "agent.log").open("wb") as log:
        command = ["setpriv", "--pdeathsig", "TERM", *_pycni(), "agent", "--run-dir", str(run_dir)]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + AGENT_START_SECONDS
        while not (run_dir / "agent.sock").exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the agent did not start:\n{(run_dir / 'agent.log').read_text()}")
            time.sleep(0.01)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(AGENT_START_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _pycni() -> tuple[str, ...]:
    return (os.path.join(os.path.dirname(sys.executable), "pycni"),)
