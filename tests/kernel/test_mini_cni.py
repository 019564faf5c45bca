"""The example plugin, in a distribution of its own with an entry point, as a third party's would be."""

from __future__ import annotations

import ast
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.agents import PYCNI, Agent
from support.calls import Call, clean_environment
from support.observe import attachment_leftovers, links, routes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.netns import NetNS

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "mini_cni.py"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an installed distribution that registers `mini`; what is started finds it."""
    folder = tmp_path / "site"
    about = folder / "mini_cni-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: mini-cni\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[pycni.plugins]\nmini = mini_cni:Mini\n")
    shutil.copy(EXAMPLE, folder)
    environment = {**clean_environment(), "PYTHONPATH": str(folder)}
    monkeypatch.setattr("support.agents.clean_environment", lambda: environment)
    subprocess.run(
        [PYCNI, "install", "--bin-dir", _made(tmp_path / "bin"), "--run-dir", _made(tmp_path / "run")],
        env=environment,
        check=True,
    )
    return tmp_path


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


@pytest.fixture(params=["oneshot", "agent"])
def mini(request: pytest.FixtureRequest, project: Path, host: NetNS) -> Iterator[Call]:
    """The plugins of the folder that `mini` was installed into, without an agent and with one."""
    if request.param == "oneshot":
        yield Call(project / "bin", host)
        return
    agent = Agent(host, project / "run", project / "agent.log")
    try:
        yield Call(project / "bin", host)
        assert "mini" in agent.text(), "the agent served none of the calls"
    finally:
        agent.stop()


@pytest.fixture
def config(data_dir: Path) -> dict[str, Any]:
    ipam = {"type": "host-local", "subnet": "10.94.0.0/24", "dataDir": str(data_dir)}
    return {"cniVersion": "1.0.0", "name": "mininet", "type": "mini", "ipam": ipam}


def test_two_pods(
    mini: Call, host: NetNS, pod: Callable[[], NetNS], config: dict[str, Any], data_dir: Path
) -> None:
    """Two pods reach their gateway, the node and each other; CHECK passes; after DEL nothing is left."""
    host.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
    first, second = pod(), pod()
    for name, netns in (("one", first), ("two", second)):
        result = mini("mini", "ADD", config, netns=netns, container_id=name).ok().json
        assert result["ips"][0]["gateway"] == "10.94.0.1"
        assert result["interfaces"][1] == {"name": "eth0", "sandbox": str(netns.path)}
    first.ping("10.94.0.1")
    first.ping("10.94.0.3")
    second.ping("10.94.0.2")
    host.ping("10.94.0.2")
    assert [route["gateway"] for route in routes(first) if route["dst"] == "default"] == ["10.94.0.1"]
    for name, netns in (("one", first), ("two", second)):
        mini("mini", "CHECK", config, netns=netns, container_id=name).ok()
        mini("mini", "DEL", config, netns=netns, container_id=name).ok()
        mini("mini", "DEL", config, netns=netns, container_id=name).ok()
    assert attachment_leftovers(host, data_dir / "mininet") == []
    assert set(links(first)) == {"lo"}


def test_check_finds_what_is_wrong(mini: Call, pod: Callable[[], NetNS], config: dict[str, Any]) -> None:
    """CHECK names the interface that somebody set down."""
    netns = pod()
    mini("mini", "ADD", config, netns=netns).ok()
    netns.run("ip", "link", "set", "eth0", "down")
    error = mini("mini", "CHECK", config, netns=netns).failed(999)
    assert error["msg"] == '"eth0" is missing or down'
    mini("mini", "DEL", config, netns=netns).ok()


def test_second_add_changes_nothing(mini: Call, pod: Callable[[], NetNS], config: dict[str, Any]) -> None:
    """An ADD of an attachment that is there is refused, and the pod keeps its network."""
    netns = pod()
    mini("mini", "ADD", config, netns=netns).ok()
    error = mini("mini", "ADD", config, netns=netns).failed(999)
    assert error["msg"] == '"eth0" already exists'
    netns.ping("10.94.0.1")
    mini("mini", "DEL", config, netns=netns).ok()


def test_failed_add_leaves_nothing(
    mini: Call, host: NetNS, pod: Callable[[], NetNS], config: dict[str, Any], data_dir: Path
) -> None:
    """An ADD that fails after the pair was made (here: a gateway of the other family) is undone."""
    netns = pod()
    config["ipam"]["gateway"] = "fd00::1"
    mini("mini", "ADD", config, netns=netns).failed()
    assert attachment_leftovers(host, data_dir / "mininet") == []
    assert set(links(netns)) == {"lo"}


def test_example_is_short() -> None:
    """The example is read in a minute: 40 statements at most, imports left aside."""
    tree = ast.parse(EXAMPLE.read_text())
    statements = [node for node in ast.walk(tree) if isinstance(node, ast.stmt)]
    assert len([node for node in statements if not _is_import(node) and not _is_docstring(node)]) <= 40


def _is_import(node: ast.stmt) -> bool:
    return isinstance(node, ast.Import | ast.ImportFrom)


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
