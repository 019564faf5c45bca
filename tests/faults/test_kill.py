"""Whoever is killed at whatever moment of an ADD: the DEL right after it leaves nothing."""

from __future__ import annotations

import shutil
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from storm import GATEWAYS, Network, addresses_of, held_addresses
from support.agents import Agent

from pycni import install

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.netns import NetNS

HERE = Path(__file__).parent
DYING = {"dying": "dying_plugin:Dying", "host-local": "pycni_hostlocal.plugin:HostLocal"}
RULES = {"ipMasq": True, "ipMasqBackend": "nftables", "macspoofchk": True}
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

    def new_agent(self) -> Agent:
        """An agent in the place of the last one, which is dead."""
        log = self.folder / f"agent-{len(self.agents)}.log"
        self.agents.append(Agent(self.host, self.run_dir, log, self._env))
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
    """DEL right after an ADD whose launcher was killed before or after any of its steps leaves nothing."""
    if mode == "agent":
        network.new_agent()
    sandbox = pod()
    steps = network.steps(sandbox)
    assert steps >= 10
    for at in range(steps):
        for when in ("before", "after"):
            status = network.die(sandbox, at=at, when=when, signal=number)
            assert status == -number or number == TERM, f"{when} step {at} of {steps}: {status}"
            try:
                network.check_deleted(sandbox)
            except AssertionError as error:
                raise AssertionError(f"{when} step {at} of {steps}: {error}") from None
            network.remove_bridge()
