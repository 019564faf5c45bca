"""One network with many attachments at once, and the storm: launchers and the agent die, nothing may be lost.

`make storm` runs this file as a program: 2,000 attachments, 32 at a time. `test_concurrency.py` has a short
one.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import json
import random
import re
import signal
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
from support.agents import Agent  # noqa: E402
from support.calls import SYSTEM_PATH, Outcome, Running  # noqa: E402
from support.netns import NetNS  # noqa: E402
from support.private import PrivateNode  # noqa: E402
from support.waiting import until  # noqa: E402

from pycni import install  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

SECONDS = 60
REFERENCE = Path("/usr/lib/cni")
SUBNETS = ("10.71.0.0/16", "fd71::/64")
GATEWAYS = ("10.71.0.1", "fd71::1")


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

    def collect(self, valid: Iterable[NetNS] = ()) -> None:
        """GC of all but the valid attachments."""
        attachments = [{"containerID": pod.name, "ifname": "eth0"} for pod in valid]
        self.call("GC", **{"cni.dev/valid-attachments": attachments}).ok()

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


@dataclasses.dataclass(frozen=True)
class Plan:
    """How large a storm is, and how violent.

    `count` attachments are made by `width` workers; each worker keeps up to `alive` pods. Of the ADDs and
    DELs the share `killed` has its launcher killed at some moment; the agent lives up to `lifetime` seconds.
    The share `lost` of the pods goes away without a DEL: what they leave is for GC, which runs every now and
    then.
    """

    count: int
    width: int
    seed: int = 1
    alive: int = 3
    killed: float = 0.3
    lifetime: float = 1.5
    lost: float = 0.1


class Supervisor:
    """Keeps an agent running, and kills it again and again; a context."""

    def __init__(self, network: Network, seed: int, lifetime: float) -> None:
        self.kills = 0
        self.failure: BaseException | None = None
        self._network, self._lifetime = network, lifetime
        self._chance = random.Random(f"{seed} agent")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._supervise)

    def _supervise(self) -> None:
        try:
            while True:
                agent = Agent(self._network.host, self._network.run_dir, self._network.folder / "agent.log")
                if self._stop.wait(self._lifetime * self._chance.uniform(0.1, 1)):
                    agent.stop()
                    return
                agent.kill()
                self.kills += 1
        except BaseException as error:  # noqa: BLE001 - for the thread that waits
            self.failure = error

    def __enter__(self) -> Supervisor:
        self._thread.start()
        return self

    def __exit__(self, *_details: object) -> None:
        self._stop.set()
        self._thread.join()
        if self.failure is not None:
            raise self.failure


class Gate:
    """ADD and DEL go through together, GC alone, as the specification demands of a runtime."""

    def __init__(self) -> None:
        self._inside = 0
        self._closed = False
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._closed)
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        with self._changed:
            self._closed = True
            self._changed.wait_for(lambda: not self._inside)
        try:
            yield
        finally:
            with self._changed:
                self._closed = False
                self._changed.notify_all()


class Collector:
    """Calls GC every now and then with what `valid` returns; a context."""

    def __init__(self, network: Network, gate: Gate, valid: Callable[[], list[NetNS]]) -> None:
        self.calls = 0
        self._network, self._gate, self._valid = network, gate, valid
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._collect)

    def _collect(self) -> None:
        try:
            while not self._stop.wait(1):
                with self._gate.alone():
                    self._network.collect(self._valid())
                self.calls += 1
        except BaseException as error:  # noqa: BLE001 - for the thread that waits
            self._failure = error

    def __enter__(self) -> Collector:
        self._thread.start()
        return self

    def __exit__(self, *_details: object) -> None:
        self._stop.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure


class Witness:
    """A healthy pod that pings a gateway all the time; a context that fails if one ping was not answered."""

    def __init__(self, network: Network, pod: NetNS, gateway: str) -> None:
        self._pod = pod
        self._log = network.folder / f"{pod.name}.ping"
        with self._log.open("wb") as log:
            self._ping = pod.popen("ping", "-n", "-i", "0.1", gateway, stdout=log, stderr=log)

    def __enter__(self) -> Witness:
        return self

    def __exit__(self, *_details: object) -> None:
        self._ping.send_signal(signal.SIGINT)
        self._ping.wait(SECONDS)
        answered = {int(number) for number in re.findall(r"icmp_seq=(\d+) ttl", self._log.read_text())}
        lost = set(range(1, max(answered, default=1))) - answered  # the last may be on its way
        if lost or not answered:
            raise AssertionError(
                f"{self._pod.name} lost its connection: pings {sorted(lost)} of {len(answered)}"
            )


class Storm:
    """The storm on one network; `run` raises AssertionError if anything was lost, mixed up or left."""

    def __init__(self, network: Network, plan: Plan) -> None:
        self.network, self.plan = network, plan
        self.launcher_kills = self.adds = self.lost = 0
        self._holders: dict[str, NetNS] = {}
        self._pods: set[NetNS] = set()
        self._attached: set[NetNS] = set()
        self._gate = Gate()
        self._lock = threading.Lock()
        self._broken = threading.Event()
        self._moment = 0.0

    def run(self) -> str:
        """The storm from start to end; a sentence about it."""
        network, plan = self.network, self.plan
        started = time.monotonic()
        witnesses = [self._pod(f"witness-{number}") for number in range(2)]
        for pod in witnesses:
            before = time.monotonic()
            self._register(pod, addresses_of(self._call("ADD", pod, random.Random(0), killed=0)))
            self._moment = time.monotonic() - before
        with (
            Supervisor(network, plan.seed, plan.lifetime) as supervisor,
            Collector(network, self._gate, self._valid) as collector,
            Witness(network, witnesses[0], GATEWAYS[0]),
            Witness(network, witnesses[1], GATEWAYS[1]),
            ThreadPoolExecutor(plan.width) as pool,
        ):
            shares = [range(first, plan.count, plan.width) for first in range(plan.width)]
            for done in list(pool.map(self._work, shares)):
                assert done
        for pod in witnesses:
            self._delete(pod, random.Random(0), killed=0)
        network.collect()
        network.check_nothing_left()
        assert not self._pods
        return (
            f"{self.adds} attachments, {plan.width} at once: {self.launcher_kills} launchers and "
            f"{supervisor.kills} agents killed, {self.lost} pods lost, {collector.calls} GCs, "
            f"{time.monotonic() - started:.0f} s, seed {plan.seed}"
        )

    def _valid(self) -> list[NetNS]:
        with self._lock:
            return list(self._attached)

    def _work(self, share: range) -> bool:
        chance = random.Random(f"{self.plan.seed} {share.start}")
        mine: list[NetNS] = []
        try:
            for number in share:
                if self._broken.is_set():
                    return False
                mine.append(self._attach(f"storm-{number}", chance))
                if len(mine) > self.plan.alive:
                    self._detach(mine.pop(chance.randrange(len(mine))), chance)
            for pod in mine:
                self._detach(pod, chance)
        except BaseException:
            self._broken.set()
            raise
        return True

    def _pod(self, name: str) -> NetNS:
        pod = NetNS(name)
        with self._lock:
            self._pods.add(pod)
        return pod

    def _attach(self, name: str, chance: random.Random) -> NetNS:
        """A pod, made as a runtime does: where the ADD was killed, DEL and another try in a new sandbox."""
        for attempt in itertools.count():
            pod = self._pod(f"{name}-{attempt}")
            outcome = self._call("ADD", pod, chance, self.plan.killed)
            if outcome.status != -signal.SIGKILL:
                break
            self._delete(pod, chance, self.plan.killed)
        self.adds += 1
        self._register(pod, addresses_of(outcome))
        pod.ping(GATEWAYS[0])
        return pod

    def _detach(self, pod: NetNS, chance: random.Random) -> None:
        pod.ping(GATEWAYS[chance.randrange(2)])
        lost = chance.random() < self.plan.lost
        with self._lock:
            for address in [address for address, holder in self._holders.items() if holder is pod]:
                del self._holders[address]
            if lost:
                self._pods.remove(pod)
                self._attached.remove(pod)
                self.lost += 1
        if lost:
            pod.delete()
        else:
            self._delete(pod, chance, self.plan.killed)

    def _delete(self, pod: NetNS, chance: random.Random, killed: float) -> None:
        """DEL until it has been answered; then the sandbox is empty and goes."""
        while self._call("DEL", pod, chance, killed).status == -signal.SIGKILL:
            pass
        left = link_names(pod)
        assert left == ["lo"], f"{pod.name} after DEL: {left}"
        with self._lock:
            self._pods.remove(pod)
        pod.delete()

    def _begin(self, pod: NetNS) -> None:
        with self._lock:
            self._attached.add(pod)

    def _end(self, pod: NetNS) -> None:
        with self._lock:
            self._attached.discard(pod)

    def _call(self, verb: str, pod: NetNS, chance: random.Random, killed: float) -> Outcome:
        """A call, perhaps killed; one that was not killed has succeeded."""
        doomed = chance.random() < killed
        with self._gate.together():
            if verb == "DEL":
                self._end(pod)
            call = self.network.start(verb, pod)
            if doomed:
                time.sleep(chance.uniform(0, 2 * self._moment))
                call.process.kill()
            outcome = call.finish()
            if verb == "ADD" and outcome.status == 0:
                self._begin(pod)
        if doomed and outcome.status == -signal.SIGKILL:
            self.launcher_kills += 1
            return outcome
        try:
            return outcome.ok()
        except AssertionError as error:
            raise AssertionError(f"{verb} of {pod.name}: {error}") from None

    def _register(self, pod: NetNS, addresses: tuple[str, ...]) -> None:
        """Nobody else has the addresses: no pod that was told so, and no namespace that still exists."""
        with self._lock:
            for address in addresses:
                holder = self._holders.setdefault(address, pod)
                assert holder is pod, f"{address} of {pod.name} is {holder.name}'s"
            others = [other for other in self._pods if other is not pod]
        assert held_addresses(pod) == {addresses[0]}, f"{pod.name} has {held_addresses(pod)}, not {addresses}"
        for other in others:
            try:
                held = held_addresses(other)
            except OSError:  # deleted meanwhile
                continue
            assert addresses[0] not in held, f"{addresses[0]} of {pod.name} is in {other.name} as well"


def main() -> int:
    """A storm on a node of its own."""
    parser = argparse.ArgumentParser(description="attachments while launchers and the agent are killed")
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--backend", choices=("nftables", "iptables"), default="nftables")
    options = parser.parse_args()
    plan = Plan(options.count, options.width, options.seed)
    print(f"storm: {plan}", flush=True)
    node = PrivateNode()
    host = NetNS("storm-host")
    host.run("ip", "link", "set", "lo", "up")
    with tempfile.TemporaryDirectory(prefix="pycni-storm-") as name:
        folder = Path(name)
        bin_dir, run_dir = folder / "bin", folder / "run"
        bin_dir.mkdir()
        install.install(bin_dir, run_dir)
        network = Network(host, bin_dir, run_dir, folder, ipMasq=True, ipMasqBackend=options.backend)
        print(Storm(network, plan).run())
    host.delete()
    if left := node.leftovers():
        raise AssertionError("left on the machine:\n" + "\n".join(left))
    return 0


if __name__ == "__main__":
    sys.exit(main())
