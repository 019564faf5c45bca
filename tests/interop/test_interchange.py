"""Ours and the reference's on one node: what one began the other goes on with, ends, or does beside it."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from differential.bridge_cases import FILES, LAYER2, OPTIONS
from differential.case import NETWORK, V4, bridge, ipam
from differential.suite import REFERENCE
from support.agents import PYCNI
from support.calls import Call, clean_environment
from support.observe import attachment_leftovers, store

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.calls import Outcome
    from support.netns import NetNS

VERSION = "1.0.0"
PLUGINS = ("bridge", "host-local", "loopback")
BOTH_WAYS = (("reference", "ours"), ("ours", "reference"))
# What the reference's own CHECK says to its own pods too: see docs/differences.md.
REFERENCE_CHECK_FAILS = {
    **dict.fromkeys(LAYER2, "no plugin name provided"),
    "routes": "Expected Route {Dst:{IP:10.90.0.0 Mask:ffff0000} GW:<nil>} not found in routing table",
}
PROCESSES = 10
ROUNDS = 3


def _config(config: dict[str, Any], folder: Path, **more: Any) -> dict[str, Any]:
    (folder / "files").mkdir(exist_ok=True)
    for name, content in FILES:
        (folder / "files" / name).write_text(content)
    text = json.dumps({"cniVersion": VERSION, "name": NETWORK, "type": "bridge", **config, **more})
    text = text.replace("$DATADIR", str(folder / "store")).replace("$FILES", str(folder / "files"))
    filled: dict[str, Any] = json.loads(text)
    return filled


@pytest.fixture
def sides(bin_dir: Path, host: NetNS) -> dict[str, Call]:
    """The two implementations, called on one node."""
    return {"ours": Call(bin_dir, host), "reference": Call(REFERENCE, host)}


def _check(side: str, option: str, outcome: Outcome) -> None:
    expected = REFERENCE_CHECK_FAILS.get(option) if side == "reference" else None
    if expected:
        assert outcome.failed()["msg"] == expected
    else:
        outcome.ok()


@pytest.mark.row("contract", 64)
@pytest.mark.parametrize("option", [*OPTIONS, *LAYER2])
@pytest.mark.parametrize(("first", "second"), BOTH_WAYS, ids=("reference-first", "ours-first"))
def test_one_goes_on_where_the_other_began(
    first: str,
    second: str,
    option: str,
    sides: dict[str, Call],
    host: NetNS,
    pod: Callable[[], NetNS],
    tmp_path: Path,
) -> None:
    """CHECK, DEL and further ADDs work whoever made the pods, and in the end nothing is left."""
    config = _config((OPTIONS | LAYER2)[option], tmp_path)
    config.pop("runtimeConfig", None)  # two pods with one MAC could not talk
    config.pop("args", None)
    one, two = pod(), pod()
    attachment_one = {"netns": one, "container_id": "one"}
    attachment_two = {"netns": two, "container_id": "two"}
    made = sides[first]("bridge", "ADD", config, **attachment_one).ok().json
    _check(second, option, sides[second]("bridge", "CHECK", config | {"prevResult": made}, **attachment_one))
    assert "already exists" in sides[second]("bridge", "ADD", config, **attachment_one).failed()["msg"]
    added = sides[second]("bridge", "ADD", config, **attachment_two).ok().json
    _check(first, option, sides[first]("bridge", "CHECK", config | {"prevResult": added}, **attachment_two))
    for near, far in zip(made.get("ips", ()), added.get("ips", ()), strict=True):
        assert near["address"] != far["address"]
        one.ping(far["address"].partition("/")[0])
    sides[second]("bridge", "DEL", config | {"prevResult": made}, **attachment_one).ok()
    sides[first]("bridge", "DEL", config | {"prevResult": added}, **attachment_two).ok()
    assert attachment_leftovers(host, tmp_path / "store") == []


@pytest.mark.parametrize(("first", "second"), BOTH_WAYS, ids=("reference-first", "ours-first"))
def test_loopback_of_one_and_the_other(
    first: str, second: str, sides: dict[str, Call], pod: Callable[[], NetNS]
) -> None:
    """A loopback that one set up is seen and taken down by the other."""
    lo = {"netns": pod(), "ifname": "lo"}
    config = {"cniVersion": VERSION, "name": NETWORK, "type": "loopback"}
    made = sides[first]("loopback", "ADD", config, **lo).ok().json
    sides[second]("loopback", "CHECK", config | {"prevResult": made}, **lo).ok()
    sides[second]("loopback", "DEL", config, **lo).ok()
    assert sides[first]("loopback", "CHECK", config | {"prevResult": made}, **lo).failed()["msg"] == (
        "loopback interface is down"
    )


def test_one_store_used_by_both_at_once(sides: dict[str, Call], tmp_path: Path) -> None:
    """Ten processes of each allocate at once: no address twice, none lost; and so they free them."""
    data = tmp_path / "store"
    config = _config(ipam("10.40.0.0/24", "fd40::/64"), tmp_path)

    def allocate(number: int) -> list[Outcome]:
        side = sides["ours" if number % 2 else "reference"]
        owners = [f"pod-{number}-{round_}" for round_ in range(ROUNDS)]
        return [side("host-local", "ADD", config, netns="/none", container_id=owner).ok() for owner in owners]

    def free(number: int) -> None:
        side = sides["reference" if number % 2 else "ours"]
        for round_ in range(ROUNDS):
            owner = f"pod-{number}-{round_}"
            side("host-local", "DEL", config, netns="/none", container_id=owner).ok()

    with ThreadPoolExecutor(2 * PROCESSES) as pool:
        outcomes = [each for some in pool.map(allocate, range(2 * PROCESSES)) for each in some]
        given = [entry["address"].partition("/")[0] for outcome in outcomes for entry in outcome.json["ips"]]
        assert len(set(given)) == len(given) == 2 * 2 * PROCESSES * ROUNDS
        kept = {name.partition("/")[2] for name in store(data)} - {"lock"}
        assert {name for name in kept if not name.startswith("last")} == set(given)
        list(pool.map(free, range(2 * PROCESSES)))
    assert {name.partition("/")[2] for name in store(data)} == {
        "lock",
        "last_reserved_ip.0",
        "last_reserved_ip.1",
    }


class Folder:
    """A node's folder of plugins, whose executables are replaced under running pods."""

    def __init__(self, path: Path, run_dir: Path) -> None:
        self.path, self.run_dir = path, run_dir
        path.mkdir()

    def put(self, side: str) -> None:
        """Replace every executable by one implementation's."""
        if side == "ours":
            command = [PYCNI, "install", "--force", "--bin-dir", self.path, "--run-dir", self.run_dir]
            subprocess.run(command, check=True, env=clean_environment(), stdout=subprocess.DEVNULL)
            return
        for name in PLUGINS:
            kept = self.path / f"{name}.orig"
            if not kept.exists():
                shutil.copy(REFERENCE / name, kept)
            kept.rename(self.path / name)


@pytest.mark.parametrize(("first", "second"), BOTH_WAYS, ids=("reference-first", "ours-first"))
def test_running_pods_survive_a_swap_of_the_executables(
    first: str, second: str, host: NetNS, pod: Callable[[], NetNS], run_dir: Path, tmp_path: Path
) -> None:
    """Three pods run and ping on while the executables are replaced and put back; all verbs work."""
    folder = Folder(tmp_path / "bin", run_dir)
    call = Call(folder.path, host)
    config = _config(bridge(V4, isDefaultGateway=True, ipMasq=True, macspoofchk=True), tmp_path)
    pods = {f"pod-{number}": pod() for number in range(3)}
    folder.put(first)
    results = {
        name: call("bridge", "ADD", config, netns=sandbox, container_id=name).ok().json
        for name, sandbox in pods.items()
    }
    address = results["pod-1"]["ips"][0]["address"].partition("/")[0]
    ping = pods["pod-0"].popen("ping", "-n", "-i", "0.02", address, stdout=subprocess.PIPE)
    try:
        for side in (second, first, second):
            folder.put(side)
            for name, sandbox in pods.items():
                known = config | {"prevResult": results[name]}
                call("bridge", "CHECK", known, netns=sandbox, container_id=name).ok()
            guest = {"netns": pod(), "container_id": f"guest-of-{side}"}
            call("bridge", "ADD", config, **guest).ok()
            call("bridge", "DEL", config, **guest).ok()
    finally:
        ping.send_signal(signal.SIGINT)
        printed = ping.communicate()[0].decode()
    counts = re.search(r"(\d+) packets transmitted, (\d+) received", printed)
    assert counts is not None, printed
    sent, received = map(int, counts.groups())
    assert sent - received <= 1, printed  # the last one may be on its way when the ping is stopped
    assert received > 10
    for name, sandbox in pods.items():
        known = config | {"prevResult": results[name]}
        call("bridge", "DEL", known, netns=sandbox, container_id=name).ok()
    assert attachment_leftovers(host, tmp_path / "store") == []
