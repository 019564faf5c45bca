"""The native launcher with real namespaces, a real agent and without one."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.agents import PYCNI
from support.calls import Call, clean_environment
from support.observe import attachment_leftovers

from pycni.delegate import MARKER, read_launcher

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.agents import Agent
    from support.netns import NetNS

REFERENCE = Path("/usr/lib/cni")


@pytest.fixture
def native_dir(tmp_path: Path, run_dir: Path) -> Path:
    """A folder with native launchers, for the agent of `run_dir`."""
    folder = tmp_path / "native"
    folder.mkdir()
    subprocess.run(
        [PYCNI, "install", "--launcher", "native", "--bin-dir", folder, "--run-dir", run_dir],
        check=True,
        env=clean_environment(),
        stdout=subprocess.DEVNULL,
    )
    return folder


@pytest.fixture
def native(native_dir: Path, host: NetNS) -> Call:
    """Execute native launchers in `host`."""
    return Call(native_dir, host)


@pytest.fixture
def config(data_dir: Path) -> dict[str, Any]:
    return {
        "cniVersion": "1.0.0",
        "name": "native",
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": True,
        "ipam": {"type": "host-local", "dataDir": str(data_dir), "ranges": [[{"subnet": "10.78.0.0/24"}]]},
    }


def test_life_of_a_pod(
    native: Call, pod: Callable[[], NetNS], config: dict[str, Any], data_dir: Path, host: NetNS, mode: str
) -> None:
    """ADD, CHECK and DEL do the same with and without an agent."""
    sandbox = pod()
    result = native("bridge", "ADD", config, netns=sandbox).ok().json
    assert result["ips"][0]["address"] == "10.78.0.2/24"
    sandbox.ping("10.78.0.1")
    native("bridge", "CHECK", config | {"prevResult": result}, netns=sandbox).ok()
    native("bridge", "DEL", config | {"prevResult": result}, netns=sandbox).ok()
    assert attachment_leftovers(host, data_dir) == []


def test_agent_serves_it(
    native: Call, pod: Callable[[], NetNS], config: dict[str, Any], agent: Agent
) -> None:
    """Where an agent listens it does all the work of both plugins: no other process is started."""
    sandbox = pod()
    hostlocal = native.bin_dir / "host-local"
    marker = hostlocal.read_bytes().rpartition(b"\n" + MARKER)[2]
    hostlocal.write_bytes(b"\x7fELF that cannot run\n" + MARKER + marker)
    assert read_launcher(str(hostlocal)) is not None
    native("bridge", "ADD", config, netns=sandbox).ok()
    native("bridge", "DEL", config, netns=sandbox).ok()
    assert agent.served() == 2


def test_foreign_delegate(
    native: Call, pod: Callable[[], NetNS], config: dict[str, Any], agent: Agent, host: NetNS, data_dir: Path
) -> None:
    """A delegate that is not ours is executed by the launcher on the agent's word, result and error alike."""
    sandbox = pod()
    shutil.copy(REFERENCE / "static", native.bin_dir)
    static = config | {"ipam": {"type": "static", "addresses": [{"address": "10.78.0.9/24"}]}}
    result = native("bridge", "ADD", static, netns=sandbox).ok().json
    assert result["ips"][0]["address"] == "10.78.0.9/24"
    native("bridge", "DEL", static, netns=sandbox).ok()
    broken = config | {"ipam": {"type": "static", "addresses": [{"address": "nonsense"}]}}
    assert "nonsense" in native("bridge", "ADD", broken, netns=sandbox).failed()["msg"]
    assert agent.served() == 3
    assert attachment_leftovers(host, data_dir) == []


def test_another_host(
    native_dir: Path, new_netns: Callable[[str], NetNS], pod: Callable[[], NetNS], agent: Agent
) -> None:
    """In another network namespace than the agent's the launcher does the work itself."""
    sandbox = pod()
    elsewhere = Call(native_dir, new_netns("elsewhere"))
    loopback = {"cniVersion": "1.0.0", "name": "lo", "type": "loopback"}
    elsewhere("loopback", "ADD", loopback, netns=sandbox, ifname="lo").ok()
    (link,) = sandbox.json("ip", "-j", "link", "show", "lo")
    assert "UP" in link["flags"]
    assert agent.served() == 0


def test_killed_agent(
    native: Call, pod: Callable[[], NetNS], config: dict[str, Any], agent: Agent, data_dir: Path, host: NetNS
) -> None:
    """When the agent was killed everything goes on without it."""
    first, second = pod(), pod()
    native("bridge", "ADD", config, netns=first).ok()
    agent.kill()
    result = native("bridge", "ADD", config, netns=second, container_id="pod-two").ok().json
    assert result["ips"][0]["address"] == "10.78.0.3/24"
    native("bridge", "DEL", config, netns=first).ok()
    native("bridge", "DEL", config, netns=second, container_id="pod-two").ok()
    assert attachment_leftovers(host, data_dir) == []


def test_both_kinds_in_one_folder(
    native: Call, bin_dir: Path, pod: Callable[[], NetNS], config: dict[str, Any], mode: str
) -> None:
    """A native launcher calls a plugin whose launcher starts Python, and a Python one a native one."""
    python = Call(bin_dir, native.host)
    for number, (call, path) in enumerate(
        ((native, f"{bin_dir}:{native.bin_dir}"), (python, f"{native.bin_dir}:{bin_dir}"))
    ):
        sandbox = pod()
        name = f"pod-{number}"
        call("bridge", "ADD", config, netns=sandbox, container_id=name, CNI_PATH=path).ok()
        call("bridge", "DEL", config, netns=sandbox, container_id=name, CNI_PATH=path).ok()
