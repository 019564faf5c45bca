"""Whoever is killed at whatever moment of an ADD: the DEL right after it leaves nothing."""

from __future__ import annotations

import random
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from storm import GATEWAYS, REFERENCE, Network, addresses_of, held_addresses
from support.agents import Agent
from support.calls import SYSTEM_PATH
from support.waiting import until

from pycni import install

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.netns import NetNS

HERE = Path(__file__).parent
DYING = {"dying": "dying_plugin:Dying", "host-local": "pycni_hostlocal.plugin:HostLocal"}
RULES = {"ipMasq": True, "ipMasqBackend": "nftables", "macspoofchk": True}
MANY = 25
"""Pauses of a process that tries again and again, and of no other."""
KILL, TERM = int(signal.SIGKILL), int(signal.SIGTERM)


class Mortal(Network):
    """A network whose ADD can be killed at a step (see dying_plugin), and agents that serve it."""

    plugin = "dying"

    def __init__(self, host: NetNS, folder: Path, **conf: Any) -> None:
        run_dir, bin_dir, lib = folder / "run", folder / "bin", folder / "lib"
        info = lib / "dying_plugin-1.0.dist-info"
        for made in (run_dir, bin_dir, info):
            made.mkdir(parents=True)
        super().__init__(host, bin_dir, run_dir, folder, **conf)
        shutil.copy(HERE / "dying_plugin.py", lib)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: dying-plugin\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{install.GROUP}]\ndying = {DYING['dying']}\n")
        texts = {
            name: install.launcher_text(name, ref, paths=[lib, *sys.path[1:]], run_dir=run_dir)
            for name, ref in DYING.items()
        }
        install.write_launchers(bin_dir, texts)
        self._env = {"PYTHONPATH": str(lib)}
        self.agents: list[Agent] = []

    def new_agent(self, **env: str) -> Agent:
        """An agent in the place of the last one, which is dead."""
        log = self.folder / f"agent-{len(self.agents)}.log"
        self.agents.append(Agent(self.host, self.run_dir, log, self._env | env))
        return self.agents[-1]

    def die(self, pod: NetNS, **fuse: Any) -> int:
        """An ADD with a fuse, up to the end of the process that the runtime started: its status."""
        call = self.start("ADD", pod, fuse=fuse)
        call.process.communicate(timeout=60)
        return call.process.returncode

    def steps(self, pod: NetNS) -> int:
        """How many steps an ADD has on a node without the bridge, which is so again afterwards."""
        count = self.folder / "count"
        self.call("ADD", pod, fuse={"count": str(count)}).ok()
        self.check_deleted(pod)
        self.remove_bridge()
        return int(count.read_text())

    def check_deleted(self, pod: NetNS) -> None:
        """DEL, and nothing is left."""
        self.call("DEL", pod).ok()
        self.check_nothing_left([pod])

    def remove_bridge(self) -> None:
        """So that the next ADD makes it again; it need not be there."""
        self.host.run("ip", "link", "delete", self.bridge, check=False)


@pytest.fixture
def network(host: NetNS, tmp_path: Path) -> Iterator[Mortal]:
    made = Mortal(host, tmp_path, **RULES)
    yield made
    for agent in made.agents:
        agent.stop()


@pytest.mark.parametrize("number", [KILL, TERM], ids=["SIGKILL", "SIGTERM"])
@pytest.mark.parametrize("mode", ["one-shot", "agent"])
def test_del_after_the_launcher_was_killed(
    number: int, mode: str, network: Mortal, pod: Callable[[], NetNS]
) -> None:
    """DEL right after an ADD whose launcher got a signal at any of its steps leaves nothing.

    An ADD that could answer "cancelled" has left nothing already.
    """
    if mode == "agent":
        network.new_agent()
    sandbox = pod()
    steps = network.steps(sandbox)
    assert steps > 5
    for at in range(steps + 1):
        when = {"at": at} if at < steps else {"at": at - 1, "when": "after"}
        status = network.die(sandbox, **when, signal=number)
        assert status == -number or number == TERM, f"{when} of {steps}: {status}"
        try:
            if status == 1:
                network.check_nothing_left([sandbox])
            network.check_deleted(sandbox)
        except AssertionError as error:
            raise AssertionError(f"{when} of {steps}: {error}") from None
        network.remove_bridge()


def test_gc_after_killed_adds(network: Mortal, pod: Callable[[], NetNS]) -> None:
    """One GC removes what killed ADDs left that got no DEL, and what finished ones have: intents as well."""
    sandboxes = [pod() for _ in range(network.steps(pod()))]
    killed = [network.die(sandbox, at=at) == -KILL for at, sandbox in enumerate(sandboxes)]
    assert len(network.intents()) == sum(killed) > 3  # those that found the bridge have fewer steps
    network.collect(sandboxes[:1])
    assert len(network.intents()) == 1
    network.collect()
    network.check_nothing_left(sandboxes)


@pytest.mark.parametrize("whom", ["agent", "both"])
def test_agent_killed_at_work(whom: str, network: Mortal, pod: Callable[[], NetNS]) -> None:
    """If the agent dies at any step of an ADD, the launcher completes it.

    If both die, DEL leaves nothing, and the ADD can be repeated at once: what is left is removed first.
    """
    sandbox = pod()
    network.new_agent()
    steps = network.steps(sandbox)
    for at in range(0 if whom == "both" else 1, steps, 2):
        if at > 1:
            network.new_agent()
        when = ("before", "after")[at % 4 // 2]
        call = network.start("ADD", sandbox, fuse={"at": at, "when": when, "whom": whom})
        outcome = call.finish()
        assert network.agents[-1].process.wait(60) == -KILL
        if whom == "both":
            assert outcome.status == -KILL
            if at % 8 < 4:
                network.check_deleted(sandbox)
            outcome = network.call("ADD", sandbox)
        attached = addresses_of(outcome)
        assert held_addresses(sandbox) == set(attached[:1]), f"{when} step {at} of {steps}"
        sandbox.ping(GATEWAYS[0])
        network.check_deleted(sandbox)
        network.remove_bridge()


@pytest.mark.parametrize("number", [KILL, TERM], ids=["SIGKILL", "SIGTERM"])
@pytest.mark.parametrize("mode", ["one-shot", "agent"])
def test_del_after_a_kill_from_outside(
    number: int, mode: str, network: Mortal, pod: Callable[[], NetNS]
) -> None:
    """DEL right after an ADD that was killed at any of many moments of its life leaves nothing."""
    if mode == "agent":
        network.new_agent()
    sandbox = pod()
    network.steps(sandbox)  # warms up
    started = time.monotonic()
    network.call("ADD", sandbox).ok()
    duration = time.monotonic() - started
    network.check_deleted(sandbox)
    network.remove_bridge()
    chance = random.Random(f"{mode} {number}")
    statuses = []
    moments = 20 if number == KILL else 10
    for moment in range(moments):
        call = network.start("ADD", sandbox)
        time.sleep(duration * (moment + chance.random()) / moments)
        call.process.send_signal(number)
        call.process.communicate(timeout=60)
        statuses.append(call.process.returncode)
        try:
            network.check_deleted(sandbox)
        except AssertionError as error:
            raise AssertionError(
                f"moment {moment} of {moments} in {duration * 1000:.0f} ms: {error}"
            ) from None
        network.remove_bridge()
    assert any(status != 0 for status in statuses)


class Slow:
    """Executables that begin their work only when they are told, and so outlive whoever started them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = folder / "slow"
        self.bin.mkdir()

    def add(self, name: str, genuine: str, condition: str) -> None:
        """An executable that waits, where the condition (in shell) holds, and then becomes `genuine`."""
        waiting = f'echo $$ >> "{self.folder}/begun"; while [ ! -e "{self.folder}/go" ]; do sleep 0.01; done'
        path = self.bin / name
        path.write_text(f'#!/bin/sh\nif {condition}; then {waiting}; fi\nexec {genuine} "$@"\n')
        path.chmod(0o755)

    def begun(self) -> int:
        """The process that waits, once it does."""
        begun = self.folder / "begun"
        until(lambda: begun.exists() and begun.read_text().endswith("\n"), "the slow program begins")
        return int(begun.read_text())

    def go(self) -> None:
        (self.folder / "go").touch()


def check_del_waits(network: Mortal, sandbox: NetNS, slow: Slow) -> None:
    """A DEL that begins while an orphan of a killed ADD is at work leaves nothing."""
    orphan = Path(f"/proc/{slow.begun()}")
    serving = [agent.process.pid for agent in network.agents if agent.process.returncode is None]
    before = sum(map(sleeps, serving))
    delete = network.start("DEL", sandbox)
    waiting = serving or [delete.process.pid]
    until(
        lambda: delete.process.poll() is not None or sum(map(sleeps, waiting)) > before + MANY,
        "DEL waits or ends",
    )
    slow.go()
    until(lambda: not orphan.exists(), "the orphan ends")
    delete.finish().ok()
    network.check_nothing_left([sandbox])


def sleeps(pid: int) -> int:
    """How often a process has given up the processor by itself."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("voluntary"))


@pytest.mark.parametrize("mode", ["one-shot", "agent"])
def test_del_waits_for_iptables_of_a_killed_add(
    mode: str, network: Mortal, pod: Callable[[], NetNS], tmp_path: Path
) -> None:
    """An iptables-restore that outlives the launcher and the agent adds no rule behind DEL's back."""
    slow = Slow(tmp_path)
    slow.add("iptables", "/usr/sbin/iptables", "false")
    slow.add("iptables-restore", "/usr/sbin/iptables-restore", "true")
    path = f"{slow.bin}:{SYSTEM_PATH}"
    if mode == "agent":
        network.new_agent(PATH=path)
    sandbox = pod()
    call = network.start("ADD", sandbox, path=path, ipMasqBackend="iptables")
    slow.begun()
    call.process.kill()
    for agent in network.agents:
        agent.kill()
    call.finish()
    check_del_waits(network, sandbox, slow)


@pytest.mark.parametrize("mode", ["one-shot", "agent"])
def test_del_waits_for_the_delegate_of_a_killed_add(
    mode: str, network: Mortal, pod: Callable[[], NetNS], tmp_path: Path
) -> None:
    """A foreign IPAM plugin that outlives the launcher reserves no address behind DEL's back."""
    slow = Slow(network.folder)
    slow.add("slow-local", f"{REFERENCE}/host-local", '[ "$CNI_COMMAND" = ADD ]')
    (slow.bin / "slow-local").rename(network.bin_dir / "slow-local")
    network.config["ipam"]["type"] = "slow-local"
    network.config["cniVersion"] = "1.0.0"
    if mode == "agent":
        network.new_agent()
    sandbox = pod()
    call = network.start("ADD", sandbox)
    slow.begun()
    call.process.kill()
    call.process.wait()
    check_del_waits(network, sandbox, slow)


@pytest.mark.parametrize("taken", ["bridge", "addresses"])
def test_another_add_takes_its_bridge_back(taken: str, network: Mortal, pod: Callable[[], NetNS]) -> None:
    """If another ADD, which made the bridge, is undone while this one is under way, this one still succeeds.

    What is undone is the bridge, or the gateways on it, as long as no pod is on it.
    """
    command = {"bridge": "link delete", "addresses": "address flush scope global dev"}[taken]
    idle = f'[ -n "$(ip -o link show master {network.bridge})" ]'
    sandbox = pod()
    steps = network.steps(sandbox)
    network.new_agent()
    network.call("ADD", sandbox).ok()
    for at in range(steps):
        network.check_deleted(sandbox)  # the bridge and its addresses stay
        undo = f"{idle} || ip {command} {network.bridge}"
        network.call("ADD", sandbox, fuse={"at": at, "run": undo}).ok()
        for gateway in GATEWAYS:
            try:
                sandbox.ping(gateway)
            except AssertionError as error:
                raise AssertionError(f"at step {at} of {steps}: {error}") from None
    network.check_deleted(sandbox)


def test_agent_is_told_to_stop_as_soon_as_it_listens(network: Mortal) -> None:
    """As soon as it accepts calls an agent ends well on SIGTERM, and takes its socket with it."""
    network.new_agent().stop()
