"""Who is compared: executables on a node of their own, with pods to attach.

Every contestant has a node namespace to itself, so that all see the same number of links and addresses.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from node import enter, new_namespace, release_namespace
from starter import Call

AGENT_START_SECONDS = 30
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
WORK = Path("/run/pycni")  # in memory, and gone with the mount namespace
STORES = Path("/var/lib/cni/networks")
FILLER = "filler"
"""Begins the container ids of reservations that are there from the start."""


@dataclass(frozen=True)
class Executables:
    """Plugin executables: a folder of somebody's, or this checkout's launchers of a kind."""

    name: str
    folder: Path | None = None
    launcher: str = ""
    agent: bool = False


OURS = {
    "native": Executables("native", launcher="native", agent=True),
    "python": Executables("python", launcher="python", agent=True),
    "alone": Executables("alone", launcher="python"),
}


@dataclass(frozen=True)
class Network:
    """What a network's configuration asks for beside a bridge with addresses from host-local."""

    name: str = "plain"
    masquerade: str = ""
    dual: bool = False

    def ranges(self) -> list[list[dict[str, str]]]:
        """The range sets: one address of each for a pod."""
        sets = [[{"subnet": "10.90.0.0/16"}]]
        return [*sets, [{"subnet": "fd00:10:90::/64"}]] if self.dual else sets

    def bridge_keys(self) -> dict[str, object]:
        masquerade = {"ipMasq": True, "ipMasqBackend": self.masquerade} if self.masquerade else {}
        ipam = {"type": "host-local", "ranges": self.ranges()}
        return {"bridge": "bench0", "isDefaultGateway": True, **masquerade, "ipam": ipam}


@dataclass(frozen=True)
class Contestant:
    """Executables in `bin_dir`, a node to run them on and pods to attach; `agent` is its process, if any.

    `place` is the node's name, `ours` says that the executables are launchers of this checkout.
    """

    name: str
    place: str
    bin_dir: Path
    node: Path
    pods: tuple[Path, ...]
    ours: bool
    agent: int | None = None

    def call(self, plugin: str, verb: str, network: Network, pod: Path | None = None) -> Call:
        """The request that a runtime would send for this pod."""
        env = {"CNI_COMMAND": verb, "CNI_PATH": str(self.bin_dir), "PATH": PATH}
        if pod is not None:
            env["CNI_CONTAINERID"] = pod.name
            env["CNI_NETNS"] = str(pod)
            env["CNI_IFNAME"] = "lo" if plugin == "loopback" else "eth0"
        config = {
            "cniVersion": "1.1.0" if verb == "STATUS" else "1.0.0",
            "name": self._network_name(network),
            "type": plugin,
            **(network.bridge_keys() if plugin == "bridge" else {}),
        }
        return Call((str(self.bin_dir / plugin),), env, json.dumps(config).encode())

    def calls(self, verb: str, network: Network, count: int) -> list[Call]:
        """One for each of the first `count` pods."""
        return [self.call("bridge", verb, network, pod) for pod in self.pods[:count]]

    def store(self, network: Network) -> Path:
        """The folder of the network's reservations."""
        return STORES / self._network_name(network)

    def fill_store(self, network: Network, count: int) -> None:
        """Reserve the first `count` addresses for pods of another time, as host-local would have done."""
        store = self.store(network)
        store.mkdir(parents=True)
        addresses = [f"10.90.{number >> 8}.{number & 255}" for number in range(2, count + 2)]
        for address in addresses:
            (store / address).write_text(f"{FILLER}-{address}\r\neth0")
        (store / "last_reserved_ip.0").write_text(addresses[-1])

    def verify_empty(self, links: int = 0) -> None:
        """Raises RuntimeError if a reservation is left, or more veth links on the node than `links`."""
        enter(self.node)
        told = subprocess.run(["ip", "-j", "link", "show", "type", "veth"], capture_output=True, check=True)
        found = [link["ifname"] for link in json.loads(told.stdout or b"[]")]
        held = [path.name for path in STORES.glob(f"{self._prefix()}*/*") if _is_held(path)]
        if len(found) > links or held:
            raise RuntimeError(f"{self.place} left behind: links {found[links:]}, reservations {held}")

    def _network_name(self, network: Network) -> str:
        return f"{self._prefix()}{network.name}"

    def _prefix(self) -> str:
        return f"bench.{self.place}."


def _is_held(path: Path) -> bool:
    return not path.name.startswith(("lock", "last_reserved_ip")) and not path.read_text().startswith(FILLER)


@contextmanager
def contestant(
    executables: Executables,
    pods: int,
    *,
    place: str = "",
    agent_command: Sequence[str] = (),
) -> Iterator[Contestant]:
    """A contestant with its namespaces, and with an agent on its node if it is one that has an agent.

    `place` names the node where the same executables have several. `agent_command` is what is run as the
    agent, with --run-dir and its folder behind it. Raises CalledProcessError if launchers cannot be written,
    RuntimeError if the agent does not start.
    """
    place = place or executables.name
    run_dir = WORK / place
    bin_dir = executables.folder or run_dir / "bin"
    with ExitStack() as stack:
        node = _pinned(stack, f"{place}-node")
        made = tuple(_pinned(stack, f"{place}-{number}") for number in range(pods))
        enter(node)
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        if executables.launcher:
            _install(bin_dir, run_dir, executables.launcher)
        agent = None
        if executables.agent:
            agent = stack.enter_context(_agent(run_dir, agent_command or (*_pycni(), "agent")))
        yield Contestant(executables.name, place, bin_dir, node, made, bool(executables.launcher), agent)


def _pinned(stack: ExitStack, name: str) -> Path:
    path = new_namespace(name)
    stack.callback(release_namespace, path)
    return path


def _install(bin_dir: Path, run_dir: Path, launcher: str) -> None:
    bin_dir.mkdir(parents=True)
    command = [*_pycni(), "install", "--bin-dir", str(bin_dir), "--run-dir", str(run_dir)]
    subprocess.run([*command, "--launcher", launcher], check=True, stdout=subprocess.DEVNULL)


@contextmanager
def _agent(run_dir: Path, agent_command: Sequence[str]) -> Iterator[int]:
    """An agent in this thread's network namespace, its process id; it ends with this process, in any case."""
    with (run_dir / "agent.log").open("wb") as log:
        command = ["setpriv", "--pdeathsig", "TERM", *agent_command, "--run-dir", str(run_dir)]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + AGENT_START_SECONDS
        while not (run_dir / "agent.sock").exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the agent did not start:\n{(run_dir / 'agent.log').read_text()}")
            time.sleep(0.01)
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(AGENT_START_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _pycni() -> tuple[str, ...]:
    return (os.path.join(os.path.dirname(sys.executable), "pycni"),)
