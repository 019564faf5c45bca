"""IPAM delegates that are executed: they find the pod's interface, and are told DEL when ADD fails."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from support.observe import addresses, attachment_leftovers, links
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from support.calls import Call
    from support.netns import NetNS

ANSWER = {"cniVersion": "1.0.0", "ips": [{"address": "10.72.0.9/24", "gateway": "10.72.0.1"}]}


@pytest.fixture
def ipam(call: Call, tmp_path: Path) -> Path:
    """An IPAM called `looker`: logs the pod's links at each call, answers what the file `answer` says."""
    folder = tmp_path / "ipam"
    folder.mkdir()
    script = folder / "looker"
    script.write_text(
        "#!/bin/sh\n"
        'links=$(nsenter --net="$CNI_NETNS" ip -br link | cut -d@ -f1 | cut -d" " -f1 | tr "\\n" " ")\n'
        f'echo "$CNI_COMMAND $links" >> {folder}/log\n'
        f'[ "$CNI_COMMAND" = ADD ] && {{ cat {folder}/answer; exit $(cat {folder}/status); }}\n'
        "exit 0\n"
    )
    script.chmod(0o755)
    (folder / "answer").write_text(json.dumps(ANSWER))
    (folder / "status").write_text("0")
    return folder


@pytest.fixture
def dhcp(host: NetNS, tmp_path: Path) -> Iterator[dict[str, str]]:
    """The reference's dhcp daemon, and a DHCP server on the bridge; the config's "ipam"."""
    leases, socket = tmp_path / "leases", tmp_path / "dhcp.sock"
    leases.touch()
    conf = tmp_path / "udhcpd.conf"
    conf.write_text(
        f"interface lookbr0\nstart 10.73.0.10\nend 10.73.0.20\nlease_file {leases}\n"
        f"pidfile {tmp_path}/udhcpd.pid\nopt subnet 255.255.255.0\nopt router 10.73.0.1\nopt lease 600\n"
    )
    host.run("ip", "link", "add", "lookbr0", "type", "bridge")
    host.run("ip", "addr", "add", "10.73.0.1/24", "dev", "lookbr0")
    host.run("ip", "link", "set", "lookbr0", "up")
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    running = [
        host.popen("busybox", "udhcpd", "-f", conf, **quiet),
        host.popen("/usr/lib/cni/dhcp", "daemon", "-socketpath", socket, **quiet),
    ]
    try:
        until(socket.exists, "the dhcp daemon listens")
        yield {"type": "dhcp", "daemonSocketPath": str(socket)}
    finally:
        for process in running:
            process.kill()
            process.wait()


def config(**more: Any) -> dict[str, Any]:
    return {
        "cniVersion": "1.0.0",
        "name": "looked",
        "type": "bridge",
        "bridge": "lookbr0",
        "isGateway": True,
        "ipam": {"type": "looker"},
        **more,
    }


def said(ipam: Path) -> list[tuple[str, bool]]:
    """(verb, whether the pod had its eth0) for each call."""
    lines = (ipam / "log").read_text().splitlines()
    return [(line.split()[0], "eth0" in line.split()) for line in lines]


def test_it_finds_the_pods_interface(
    call: Call, host: NetNS, pod: Callable[[], NetNS], ipam: Path, mode: str
) -> None:
    """At ADD the interface is there, a port of the bridge on the host; at DEL it is gone already."""
    sandbox = pod()
    paths = {"CNI_PATH": f"{call.bin_dir}:{ipam}"}
    result = call("bridge", "ADD", config(), netns=sandbox, **paths).ok().json
    assert result["ips"][0]["address"] == "10.72.0.9/24"
    call("bridge", "DEL", config(), netns=sandbox, **paths).ok()
    assert said(ipam) == [("ADD", True), ("DEL", False)]
    assert not {name for name in links(host) if name.startswith("veth")}


@pytest.mark.parametrize(
    ("status", "answer"),
    [("1", {"code": 11, "msg": "no lease"}), ("0", {**ANSWER, "routes": [{"dst": "10.9.1.2/16"}]})],
    ids=["IPAM fails", "what follows fails"],
)
def test_it_is_told_when_the_add_fails(
    call: Call,
    host: NetNS,
    pod: Callable[[], NetNS],
    ipam: Path,
    data_dir: Path,
    status: str,
    answer: dict[str, Any],
) -> None:
    """Whichever step fails: the link is removed, then DEL gives the address back, and nothing is left."""
    sandbox = pod()
    (ipam / "status").write_text(status)
    (ipam / "answer").write_text(json.dumps(answer))
    call("bridge", "ADD", config(), netns=sandbox, CNI_PATH=f"{call.bin_dir}:{ipam}").failed()
    assert said(ipam) == [("ADD", True), ("DEL", False)]
    assert set(links(sandbox)) == {"lo"}
    assert not attachment_leftovers(host, data_dir)


def test_the_references_dhcp(
    call: Call, host: NetNS, pod: Callable[[], NetNS], dhcp: dict[str, str], mode: str
) -> None:
    """A pod gets a lease from a DHCP server on the bridge, reaches it, and gives the lease back."""
    sandbox = pod()
    conf = config(isGateway=False, ipam=dhcp)
    paths = {"CNI_PATH": f"{call.bin_dir}:/usr/lib/cni"}
    result = call("bridge", "ADD", conf, netns=sandbox, **paths).ok().json
    (address,) = [entry["address"] for entry in result["ips"]]
    assert address.startswith("10.73.0.")
    assert addresses(sandbox, "eth0") == [address]
    sandbox.ping("10.73.0.1")
    call("bridge", "CHECK", {**conf, "prevResult": result}, netns=sandbox, **paths).ok()
    call("bridge", "DEL", conf, netns=sandbox, **paths).ok()
    assert set(links(sandbox)) == {"lo"}
