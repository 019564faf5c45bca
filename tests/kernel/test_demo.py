"""The demonstration (`make demo`) ends well, harms nobody, and cleans up when it is interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.calls import clean_environment
from support.netns import NetNS
from support.observe import links
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DEMO = Path(__file__).resolve().parents[2] / "demo" / "run.py"
SECONDS = 120
STATE = (Path("/run/netns"), Path("/run/pycni"), Path("/var/lib/cni"))


def start(host: NetNS) -> subprocess.Popen[bytes]:
    """The demonstration in a process group of its own, as a shell starts it."""
    return host.popen(
        sys.executable,
        DEMO,
        env=clean_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def finish(demo: subprocess.Popen[bytes]) -> str:
    """Its output from now on; a demonstration that hangs is killed and raises TimeoutExpired."""
    try:
        output, _ = demo.communicate(timeout=SECONDS)
    finally:
        demo.kill()
        demo.wait()
    return output.decode()


def state() -> list[str]:
    """Everything below the folders that the demonstration must not touch, by path."""
    return sorted(str(path) for top in STATE for path in (top, *top.rglob("*")) if path.exists())


def inhabitants(namespace: os.stat_result) -> list[int]:
    """Processes that live in a network namespace."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            status = (process / "ns/net").stat()
        except OSError:
            continue
        if (status.st_dev, status.st_ino) == (namespace.st_dev, namespace.st_ino):
            found.append(int(process.name))
    return found


def expect_empty(namespace: os.stat_result) -> None:
    """Raise AssertionError if somebody goes on living there."""
    until(lambda: not inhabitants(namespace), "all have ended", lambda: inhabitants(namespace))


@pytest.fixture
def somebody_else(host: NetNS) -> Iterator[NetNS]:
    """A node where the names and addresses of the demonstration are in use already."""
    host.run("ip", "link", "add", "pycni0", "type", "bridge")
    host.run("ip", "address", "add", "10.90.0.1/24", "dev", "pycni0")
    namespace = NetNS("pod-a")
    store = Path("/var/lib/cni/networks/pycni")
    store.mkdir(parents=True)
    (store / "10.90.0.2").write_text("somebody\r\neth0")
    yield host
    namespace.delete()
    (store / "10.90.0.2").unlink()
    store.rmdir()
    store.parent.rmdir()


def test_ends_well_twice(host: NetNS) -> None:
    """It ends 0, twice in a row, shows what it promises, and leaves nothing on the machine."""
    before = state(), links(host)
    for _ in range(2):
        demo = start(host)
        output = finish(demo)
        assert demo.returncode == 0, output
        assert (state(), links(host)) == before
    for shown in (
        "CNI_COMMAND=ADD",
        '"type": "bridge"',
        '"gateway": "10.90.0.1"',
        "bytes from 10.90.0.",
        "bytes from fd00:10:90::",
        "$ pycni check",
        "default via 10.90.0.1",
        "default via fd00:10:90::1",
        "$ ip netns\n",
        "No namespace, no veth, no address, no rule, no cached result.",
    ):
        assert shown in output
    assert "\x1b" not in output, "colour is for terminals only"


def test_harms_nobody(somebody_else: NetNS) -> None:
    """It runs beside a bridge, a namespace and a store of the same names, and changes none of them."""
    before = state(), links(somebody_else)
    demo = start(somebody_else)
    output = finish(demo)
    assert demo.returncode == 0, output
    assert (state(), links(somebody_else)) == before


def _interrupt(demo: subprocess.Popen[bytes]) -> None:
    os.killpg(demo.pid, signal.SIGINT)  # as a terminal does: to the whole group


def _terminate(demo: subprocess.Popen[bytes]) -> None:
    demo.terminate()


@pytest.mark.parametrize("moment", ["$ ip link set lo", "$ pycni agent", "$ pycni add", "$ pycni del"])
@pytest.mark.parametrize(("stop", "number"), [(_interrupt, signal.SIGINT), (_terminate, signal.SIGTERM)])
def test_cleans_up_when_interrupted(
    host: NetNS, stop: Callable[[subprocess.Popen[bytes]], None], number: signal.Signals, moment: str
) -> None:
    """Ctrl-C or SIGTERM at any moment: status 128 + signal, no process, folder or mount is left."""
    before = state(), links(host)
    demo = start(host)
    namespace = _wait_for(demo, moment)
    stop(demo)
    output = finish(demo)
    assert demo.returncode == 128 + number, output
    assert "cleaning up" in output
    assert "Traceback" not in output
    expect_empty(namespace)
    assert (state(), links(host)) == before


def test_agent_dies_with_it(host: NetNS) -> None:
    """Killed by SIGKILL it cannot clean up, but its agent ends, and the node with it."""
    before = state(), links(host)
    demo = start(host)
    namespace = _wait_for(demo, "$ ip netns add pod-a")
    assert len(inhabitants(namespace)) > 1, "the agent is expected there"
    demo.kill()
    finish(demo)
    expect_empty(namespace)
    assert (state(), links(host)) == before


def _wait_for(demo: subprocess.Popen[bytes], beginning: str) -> os.stat_result:
    """Read its output up to a line that begins so; the network namespace that it lives in."""
    assert demo.stdout is not None
    for line in demo.stdout:
        if line.decode().startswith(beginning):
            return Path(f"/proc/{demo.pid}/ns/net").stat()
    raise AssertionError(f"the demonstration ended with status {demo.wait()} before {beginning!r}")
