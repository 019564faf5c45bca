"""Launchers and agent with real namespaces: whose host it is, and that nothing is left whatever dies."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest
from support.calls import Running
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.agents import Agent
    from support.calls import Call
    from support.netns import NetNS

BURST = 50
MOMENTS = 20


@pytest.fixture
def config(data_dir: Path) -> dict[str, Any]:
    return {
        "cniVersion": "1.0.0",
        "name": "storm",
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": True,
        "ipMasq": True,
        "ipMasqBackend": "nftables",
        "ipam": {"type": "host-local", "dataDir": str(data_dir), "ranges": [[{"subnet": "10.77.0.0/24"}]]},
    }


LOOPBACK = {"cniVersion": "1.0.0", "name": "lo", "type": "loopback"}


def left(host: NetNS, data_dir: Path, run_dir: Path) -> list[str]:
    """Whatever an attachment may leave on the node."""
    links = [link["ifname"] for link in host.json("ip", "-j", "link") if link["ifname"] not in ("lo", "cni0")]
    held = [str(path) for path in data_dir.glob("*/10.*")]
    ruleset = host.run("nft", "list", "ruleset").stdout.decode()
    rules = [line for line in ruleset.splitlines() if "10.77.0." in line]
    intents = [str(path) for path in run_dir.glob("attachments/*")]
    return links + held + rules + intents


def nothing_left(host: NetNS, data_dir: Path, run_dir: Path) -> None:
    """The agent frees an attachment a moment after its answer, hence the patience."""
    until(lambda: not left(host, data_dir, run_dir), "nothing is left", lambda: left(host, data_dir, run_dir))


def address_of(answer: Any) -> str:
    return str(answer["ips"][0]["address"])


def test_agent_serves_its_own_host(call: Call, pod: Callable[[], NetNS], agent: Agent) -> None:
    """A launcher in the agent's namespaces is served by the agent."""
    sandbox = pod()
    call("loopback", "ADD", LOOPBACK, netns=sandbox, ifname="lo").ok()
    assert agent.served() == 1
    call("loopback", "DEL", LOOPBACK, netns=sandbox, ifname="lo").ok()


def test_another_network_namespace(
    call: Call,
    new_netns: Callable[[str], NetNS],
    config: dict[str, Any],
    agent: Agent,
    pod: Callable[[], NetNS],
) -> None:
    """ "The host" is the launcher's host: an agent in another network namespace has nothing to do."""
    elsewhere = new_netns("host")
    sandbox = pod()
    call.host = elsewhere
    call("bridge", "ADD", config, netns=sandbox).ok()
    assert "cni0" in {link["ifname"] for link in elsewhere.json("ip", "-j", "link")}
    call("bridge", "DEL", config, netns=sandbox).ok()
    assert agent.served() == 0


def test_another_mount_namespace(
    call: Call, config: dict[str, Any], agent: Agent, pod: Callable[[], NetNS], tmp_path: Path
) -> None:
    """Paths of a config are the launcher's paths: with one in another mount namespace the agent declines."""
    shadowed = tmp_path / "shadowed"
    shadowed.mkdir()
    config["ipam"]["dataDir"] = str(shadowed)
    sandbox = pod()
    env = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": "c1",
        "CNI_NETNS": str(sandbox.path),
        "CNI_IFNAME": "eth0",
        "CNI_PATH": str(call.bin_dir),
    }
    script = f'mount -t tmpfs none "{shadowed}" && "$0" && ls "{shadowed}/storm"'
    done = call.host.run(
        *("unshare", "--mount", "sh", "-c", script, call.bin_dir / "bridge"),
        env=env,
        stdin=json.dumps(config).encode(),
    )
    assert b"10.77.0.2\n" in done.stdout
    assert list(shadowed.iterdir()) == []
    assert agent.served() == 0
    call("bridge", "DEL", config, netns=sandbox, container_id="c1").ok()


def test_another_root_folder(call: Call, agent: Agent) -> None:
    """A launcher that was started in a changed root serves itself."""
    script = 'mount --rbind / "$1" && exec chroot "$1" "$0"'
    done = call.host.run(
        *("unshare", "--mount", "sh", "-c", script, call.bin_dir / "loopback", "/mnt"),
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "CNI_COMMAND": "VERSION"},
    )
    assert done.stdout.startswith(b'{"cniVersion":')
    assert agent.served() == 0


@pytest.mark.row("contract", 29)
def test_own_namespace_as_sandbox(call: Call, mode: str, config: dict[str, Any], data_dir: Path) -> None:
    """The launcher's own namespace is refused as a sandbox before anything is touched, by any name."""
    for name in ("/proc/self/ns/net", "/proc/thread-self/ns/net", str(call.host.path)):
        for plugin, request in (("bridge", config), ("loopback", LOOPBACK)):
            for verb in ("ADD", "DEL"):
                error = call(plugin, verb, request, netns=name).failed(8)
                assert error["msg"] == "plugin's netns and netns from CNI_NETNS should not be the same"
    (link,) = call.host.json("ip", "-j", "link")
    assert link["operstate"] != "DOWN"
    assert list(data_dir.iterdir()) == []


@pytest.mark.parametrize("kind", ["file", "folder", "fifo", "socket", "device", "other namespace"])
def test_sandbox_that_is_none(kind: str, call: Call, mode: str, tmp_path: Path) -> None:
    """Anything but a network namespace is refused, and opening it holds nobody."""
    path = tmp_path / "x"
    listener = socket.socket(socket.AF_UNIX)
    if kind == "file":
        path.touch()
    elif kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        listener.bind(str(path))
    elif kind == "device":
        path.symlink_to("/dev/null")
    else:
        path.symlink_to("/proc/self/ns/uts")
    error = call("loopback", "ADD", LOOPBACK, netns=path).failed(999)
    listener.close()
    assert f'unknown FS magic on "{path}"' in error["msg"]


def test_sandbox_by_a_relative_path(call: Call, mode: str, pod: Callable[[], NetNS]) -> None:
    """Relative paths count from the launcher's directory: CNI_NETNS, CNI_PATH."""
    sandbox = pod()
    call("loopback", "ADD", LOOPBACK, netns=sandbox.name, options={"cwd": sandbox.path.parent}).ok()


def start(
    call: Call, verb: str, config: dict[str, Any], sandbox: NetNS, container_id: str = "pod-one"
) -> Running:
    """A call that has got its standard input: what becomes of it no longer depends on this process."""
    running = call.start("bridge", verb, config, netns=sandbox, container_id=container_id)
    assert running.process.stdin is not None
    running.process.stdin.write(json.dumps(config).encode())
    running.process.stdin.close()
    running.process.stdin = None
    return Running(running.process, b"")


def burst(call: Call, verb: str, config: dict[str, Any], pods: list[NetNS]) -> list[Running]:
    return [start(call, verb, config, sandbox, f"c{number}") for number, sandbox in enumerate(pods)]


@pytest.mark.parametrize("killed", [False, True])
def test_burst(
    killed: bool,
    request: pytest.FixtureRequest,
    call: Call,
    host: NetNS,
    pod: Callable[[], NetNS],
    config: dict[str, Any],
    data_dir: Path,
    run_dir: Path,
) -> None:
    """Fifty ADDs at once from fifty processes get fifty addresses, fifty DELs at once leave nothing.

    With the agent, and with the agent killed in the middle of either.
    """
    pods = [pod() for _ in range(BURST)]
    running: Agent = request.getfixturevalue("agent")
    adds = burst(call, "ADD", config, pods)
    if killed:
        kill_in_the_middle(running, data_dir, lambda count: count >= BURST // 4)
    addresses = {address_of(add.finish().ok().json) for add in adds}
    assert len(addresses) == BURST
    if not killed:
        assert running.served() > 0  # on a busy machine some launchers help themselves after a second
    deletes = burst(call, "DEL", config, pods)
    for delete in deletes:
        delete.finish().ok()
    nothing_left(host, data_dir, run_dir)


def kill_in_the_middle(agent: Agent, data_dir: Path, reached: Callable[[int], bool]) -> None:
    until(lambda: reached(len(list(data_dir.glob("*/10.*")))), "the middle")
    agent.kill()


def test_burst_without_agent(
    call: Call,
    host: NetNS,
    pod: Callable[[], NetNS],
    config: dict[str, Any],
    data_dir: Path,
    run_dir: Path,
) -> None:
    """The same without an agent."""
    pods = [pod() for _ in range(BURST)]
    addresses = {address_of(add.finish().ok().json) for add in burst(call, "ADD", config, pods)}
    assert len(addresses) == BURST
    for delete in burst(call, "DEL", config, pods):
        delete.finish().ok()
    nothing_left(host, data_dir, run_dir)


def test_agent_killed_while_deleting(
    call: Call,
    host: NetNS,
    pod: Callable[[], NetNS],
    config: dict[str, Any],
    data_dir: Path,
    run_dir: Path,
    agent: Agent,
) -> None:
    """An agent that dies in the middle of fifty DELs: every DEL succeeds all the same."""
    pods = [pod() for _ in range(BURST)]
    for add in burst(call, "ADD", config, pods):
        add.finish().ok()
    deletes = burst(call, "DEL", config, pods)
    kill_in_the_middle(agent, data_dir, lambda count: count <= BURST * 3 // 4)
    for delete in deletes:
        delete.finish().ok()
    nothing_left(host, data_dir, run_dir)


def test_delete_right_after_a_killed_add(
    call: Call,
    mode: str,
    host: NetNS,
    pod: Callable[[], NetNS],
    config: dict[str, Any],
    data_dir: Path,
    run_dir: Path,
) -> None:
    """A DEL sent at once after its ADD was killed, at twenty moments from start to answer, leaves nothing."""
    sandbox = pod()
    began = time.monotonic()
    call("bridge", "ADD", config, netns=sandbox).ok()
    whole = time.monotonic() - began
    call("bridge", "DEL", config, netns=sandbox).ok()
    for moment in range(MOMENTS):
        add = start(call, "ADD", config, sandbox)
        kill_at = time.monotonic() + whole * moment / MOMENTS
        while time.monotonic() < kill_at:
            pass
        add.process.kill()
        call("bridge", "DEL", config, netns=sandbox).ok()
        add.process.communicate()
        nothing_left(host, data_dir, run_dir)
        assert [link["ifname"] for link in sandbox.json("ip", "-j", "link")] == ["lo"]


def test_terminated_add(
    call: Call,
    mode: str,
    host: NetNS,
    pod: Callable[[], NetNS],
    config: dict[str, Any],
    data_dir: Path,
    run_dir: Path,
) -> None:
    """SIGTERM at any moment: an ADD either succeeded or left nothing, and its output is one JSON object."""
    moments = random.Random(7)
    for _ in range(MOMENTS):
        sandbox = pod()
        add = start(call, "ADD", config, sandbox)
        try:
            add.process.wait(moments.uniform(0.01, 0.08))
        except subprocess.TimeoutExpired:
            add.process.send_signal(signal.SIGTERM)
        stdout, _ = add.process.communicate()
        if add.process.returncode == 0:
            call("bridge", "DEL", config, netns=sandbox).ok()
        elif add.process.returncode == 1:
            assert b"cancelled by SIGTERM" in stdout
        else:  # before it could do anything
            assert (add.process.returncode, stdout) == (-signal.SIGTERM, b"")
        nothing_left(host, data_dir, run_dir)
