"""Fixtures of all tests.

Tests below tests/unit need no root. All others run in a machine inside the machine (support/private.py),
which the test process enters before the first of them.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TESTS = Path(__file__).parent
if str(TESTS) not in sys.path:  # for `support`
    sys.path.insert(0, str(TESTS))

from support.agents import PYCNI, Agent  # noqa: E402
from support.calls import Call, clean_environment  # noqa: E402
from support.netns import NetNS  # noqa: E402
from support.observe import descendants  # noqa: E402
from support.private import PrivateNode  # noqa: E402

from pycni import install  # noqa: E402
from pycni.native import build  # noqa: E402

LAUNCHER = os.environ.get("PYCNI_TEST_LAUNCHER", "python")
"""The kind of executables that tests make unless they are about one of the two: python or native."""
ABOUT_KINDS = ("test_install.py", "test_native")
ABOUT_PYTHON = ("test_tests_run_the_interpreter_they_mean",)
"""Files of tests that choose the kind themselves, and tests of the text that starts Python."""
# How long an example takes says how busy the machine is, and nothing about the code.
hypothesis.settings.register_profile("pycni", deadline=None)
hypothesis.settings.load_profile("pycni")

# nohup, and a shell's &, start programs that ignore these; what the tests start must not inherit that.
for _signal, _handler in ((signal.SIGHUP, signal.SIG_DFL), (signal.SIGINT, signal.default_int_handler)):
    if signal.getsignal(_signal) is signal.SIG_IGN:
        signal.signal(_signal, _handler)

_numbers = itertools.count()
_node: list[PrivateNode] = []


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is not about the chosen kind of launcher, if that is not the usual one."""
    if LAUNCHER == "native":
        left_out = [
            item for item in items if item.path.name.startswith(ABOUT_KINDS) or item.name in ABOUT_PYTHON
        ]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def pytest_collection_finish(session: pytest.Session) -> None:
    """Enter the private node, if any of the chosen tests needs it."""
    if session.config.option.collectonly or _node:
        return
    if all(item.path.is_relative_to(TESTS / "unit") for item in session.items):
        return
    if os.geteuid() != 0:
        pytest.exit("all tests but those below tests/unit need root (`make test-unit` needs none)", 2)
    _node.append(PrivateNode())


@pytest.fixture(scope="session", autouse=True)
def launcher_kind() -> Iterator[None]:
    """With PYCNI_TEST_LAUNCHER=native also the executables of plugins that tests bring along are native."""
    if LAUNCHER not in ("python", "native"):
        pytest.exit(f"PYCNI_TEST_LAUNCHER is python or native, not {LAUNCHER}", 2)
    with pytest.MonkeyPatch.context() as patch:
        if LAUNCHER == "native":
            patch.setattr(install, "launcher_text", partial(install.native_launcher, build.program()))
        yield


@pytest.fixture(scope="session", autouse=True)
def nothing_left() -> Iterator[None]:
    """After the session the machine is as it was, in the private node and around it."""
    yield
    if not _node:
        return
    deadline = time.monotonic() + 10  # what was told to end may need a moment to be gone
    while left := [*_node[0].leftovers(), *_processes()]:
        assert time.monotonic() < deadline, "left behind:\n" + "\n".join(left)
        time.sleep(0.05)


def _processes() -> list[str]:
    return [f"process {pid} still runs" for pid in descendants(os.getpid()) if Path(f"/proc/{pid}").exists()]


@pytest.fixture
def new_netns() -> Iterator[Callable[[str], NetNS]]:
    """Make network namespaces by a word for their role; they go with the test."""
    made: list[NetNS] = []

    def make(role: str) -> NetNS:
        made.append(NetNS(f"{role}-{next(_numbers)}"))
        return made[-1]

    yield make
    for netns in made:
        netns.delete()


@pytest.fixture
def host(new_netns: Callable[[str], NetNS]) -> NetNS:
    """A fresh network namespace that plays the node: `lo` up, no forwarding, nothing else."""
    netns = new_netns("host")
    netns.run("ip", "link", "set", "lo", "up")
    with netns.inside():
        Path("/proc/sys/net/ipv4/ip_forward").write_text("0")
        Path("/proc/sys/net/ipv6/conf/all/forwarding").write_text("0")
    return netns


@pytest.fixture
def pod(new_netns: Callable[[str], NetNS]) -> Callable[[], NetNS]:
    """A factory of pods' sandboxes: fresh network namespaces with `lo` down."""
    return lambda: new_netns("pod")


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory (agent's socket, locks) that the launchers in `bin_dir` know."""
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="session")
def bin_dir(tmp_path_factory: pytest.TempPathFactory, run_dir: Path) -> Path:
    """A folder with the launchers that `pycni install` writes."""
    folder = tmp_path_factory.mktemp("bin")
    subprocess.run(
        [PYCNI, "install", "--launcher", LAUNCHER, "--bin-dir", folder, "--run-dir", run_dir],
        check=True,
        env=clean_environment(),
        stdout=subprocess.DEVNULL,
    )
    return folder


@pytest.fixture
def agent(host: NetNS, run_dir: Path, bin_dir: Path, tmp_path: Path) -> Iterator[Agent]:
    """An agent that lives in `host`; afterwards it must stop well, unless the test killed it."""
    running = Agent(host, run_dir, tmp_path / "agent.log")
    try:
        yield running
    finally:
        running.stop()


@pytest.fixture(params=["oneshot", "agent"])
def mode(request: pytest.FixtureRequest) -> str:
    """Run the test twice: without an agent and with one in `host`."""
    if request.param == "agent":
        request.getfixturevalue("agent")
    return str(request.param)


@pytest.fixture
def call(bin_dir: Path, host: NetNS) -> Call:
    """Execute our plugins in `host`: `call(plugin, verb, config, netns=…, container_id=…, CNI_ARGS=…)`."""
    return Call(bin_dir, host)


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """An empty folder for host-local's `dataDir`."""
    folder = tmp_path / "networks"
    folder.mkdir()
    return folder
