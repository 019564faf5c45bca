"""GC and STATUS of the bridge plugin."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.bridges import BRIDGE, MASQUERADE, SPOOF_CHECK, Network, host_local
from support.calls import Call
from support.observe import attachment_leftovers, iptables_nat, links, snapshot, store

from pycni.attachments import FOLDER, Intent
from pycni.names import attachment_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.netns import NetNS

IPAM = host_local("10.74.0.0/24", "fd74::/64")
FULL: dict[str, Any] = {
    "isDefaultGateway": True,
    "ipMasq": True,
    "ipMasqBackend": "nftables",
    "macspoofchk": True,
    "ipam": IPAM,
}
PODS = ("pod-1", "pod-2", "pod-3")


@pytest.fixture
def network(call: Call, data_dir: Path) -> Callable[..., Network]:
    """A network of the given keys on this test's node and store."""
    return lambda **config: Network(call, data_dir, **config)


@pytest.fixture
def pods(pod: Callable[[], NetNS]) -> dict[str, NetNS]:
    """Three sandboxes by container id."""
    return {name: pod() for name in PODS}


def rules_of(net: Network, container_id: str) -> list[str]:
    """Everything in the firewall that names a container."""
    texts = [str(rule) for rule in net.rules(MASQUERADE) + net.rules(SPOOF_CHECK)]
    texts += [line for family in (4, 6) for line in iptables_nat(net.host, family)]
    return [text for text in texts if container_id in text]


@pytest.mark.parametrize("backend", ["iptables", "nftables"])
def test_what_is_not_valid_goes(
    mode: str, network: Callable[..., Network], pods: dict[str, NetNS], backend: str
) -> None:
    """Links, rules and reservations of attachments that are not in the list; all others stay whole."""
    net = network(**FULL).changed(ipMasqBackend=backend)
    net.add(pods["pod-1"], "pod-1")
    alone = net.state(*pods.values())
    for name in PODS[1:]:
        net.add(pods[name], name)
    outcome = net.gc(("pod-1", "eth0")).ok()
    freed = b"host-local: network net: freed 10.74.0.3, 10.74.0.4, fd74::3, fd74::4\n"
    assert (outcome.stdout, outcome.stderr) == (b"", freed)
    assert net.state(*pods.values()) == alone
    net.check(pods["pod-1"], "pod-1").ok()
    net.gc(("pod-1", "eth0"), ("pod-2", "eth0"), ("stranger", "eth7")).ok()
    assert net.state(*pods.values()) == alone
    net.gc().ok()
    assert attachment_leftovers(net.host, net.data_dir) == []
    assert BRIDGE in links(net.host)
    del mode


def test_valid_means_container_and_interface(network: Callable[..., Network], pods: dict[str, NetNS]) -> None:
    """Of two interfaces of one container the one that is not valid goes."""
    net = network(**FULL)
    sandbox = pods["pod-1"]
    net.add(sandbox)
    alone = net.state(sandbox)
    net.add(sandbox, ifname="net1")
    net.gc(("pod-1", "eth0"), ("pod-2", "net1")).ok()
    assert net.state(sandbox) == alone
    assert list(links(sandbox)) == ["lo", "eth0"]


def test_other_networks_are_not_touched(network: Callable[..., Network], pods: dict[str, NetNS]) -> None:
    """Neither another network on the same bridge, nor links of an administrator, nor foreign rules."""
    first, second = network(**FULL), network(name="second", **FULL)
    first.add(pods["pod-1"], "pod-1")
    first.host.run("ip", "link", "add", "admin0", "type", "veth", "peer", "name", "admin1")
    first.host.run("ip", "link", "set", "admin0", "master", BRIDGE)
    first.host.run("nft", "add table inet mine; add chain inet mine c; add rule inet mine c accept")
    kept = first.state(pods["pod-1"])
    second.changed(bridge="br2", forceAddress=True).add(pods["pod-2"], "pod-2")
    first.gc(("pod-1", "eth0")).ok()
    second.check(pods["pod-2"], "pod-2").failed()  # of another bridge than the config's, but there
    assert second.host_veth("pod-2") in links(second.host)
    assert len(rules_of(second, "pod-2")) == 3
    second.gc().ok()
    first.host.run("ip", "link", "delete", "br2")
    assert first.state(pods["pod-1"]) == kept
    assert second.reservations() == {}


def test_a_pod_whose_namespace_is_gone(network: Callable[..., Network], pods: dict[str, NetNS]) -> None:
    """Its links went with the namespace; rules and reservation are found without them."""
    net = network(**FULL)
    net.add(pods["pod-1"], "pod-1")
    alone = net.state(pods["pod-1"])
    net.add(pods["pod-2"], "pod-2")
    other = network(name="other", bridge="br2", macspoofchk=True)
    other.add(pods["pod-3"], "pod-3")
    pods["pod-3"].delete()
    pods["pod-2"].delete()
    assert rules_of(net, "pod-2")
    net.gc(("pod-1", "eth0")).ok()
    assert rules_of(net, "pod-2") == []
    assert rules_of(net, "pod-3"), "another network's rules went"
    other.gc().ok()
    other.host.run("ip", "link", "delete", "br2")
    assert net.state(pods["pod-1"]) == alone


def test_ambiguous_names_in_spoof_check_rules(
    network: Callable[..., Network], pods: dict[str, NetNS]
) -> None:
    """`a-b` + `c` and `a` + `b-c` have one name in the firewall; whose the rule is, its interface tells."""
    net = network(macspoofchk=True)
    net.add(pods["pod-1"], "a-b", "c")
    pods["pod-1"].delete()
    assert len(net.rules(SPOOF_CHECK)) == 1
    net.gc(("a-b", "c")).ok()
    assert len(net.rules(SPOOF_CHECK)) == 1
    net.gc(("a", "b-c")).ok()
    assert net.rules(SPOOF_CHECK) == []


@contextlib.contextmanager
def at_work(run_dir: Path, network: str, container_id: str, ifname: str) -> Iterator[None]:
    """A request of an attachment that is being served, as its lock file shows it."""
    folder = run_dir / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / attachment_key(network, container_id, ifname)
    intent = Intent("ADD", network, container_id, ifname, os.getpid(), os.getpid(), 1.0)
    with file.open("wb") as locked:
        fcntl.flock(locked, fcntl.LOCK_EX)
        locked.write(intent.encode())
        locked.flush()
        yield
    file.unlink()


def test_attachments_that_are_being_made_stay(
    mode: str, network: Callable[..., Network], pods: dict[str, NetNS], run_dir: Path
) -> None:
    """A request at work is not stale, though the runtime's list does not have it yet."""
    net = network(**FULL)
    net.add(pods["pod-1"], "pod-1")
    net.add(pods["pod-2"], "pod-2")
    before = net.state(*pods.values())
    with at_work(run_dir, "net", "pod-2", "eth0"):
        net.gc(("pod-1", "eth0")).ok()
        assert net.state(*pods.values()) == before
    with at_work(run_dir, "another", "pod-2", "eth0"):
        net.gc(("pod-1", "eth0")).ok()
    assert list(links(pods["pod-2"])) == ["lo"]
    assert set(net.reservations().values()) == {"pod-1/eth0"}
    del mode


# --- The list ---

ONE = [{"containerID": "pod-1", "ifname": "eth0"}]
KEY, OLD_KEY = "cni.dev/valid-attachments", "cni.dev/attachments"


@pytest.mark.parametrize("keys", [{}, {KEY: None}, {OLD_KEY: None}, {KEY: None, OLD_KEY: None}, {"x": []}])
def test_without_a_list_nothing_is_touched(
    network: Callable[..., Network], pods: dict[str, NetNS], keys: dict[str, Any]
) -> None:
    """A runtime that does not say what is valid has not said that nothing is."""
    net = network(**FULL)
    net.add(pods["pod-1"])
    before = net.state(pods["pod-1"])
    net.call("bridge", "GC", net.config | keys).ok()
    assert net.state(pods["pod-1"]) == before


@pytest.mark.parametrize(
    "keys", [{KEY: ONE}, {OLD_KEY: ONE}, {KEY: ONE, OLD_KEY: ONE}, {KEY: ONE, OLD_KEY: None}]
)
def test_both_names_of_the_list(
    network: Callable[..., Network], pods: dict[str, NetNS], keys: dict[str, Any]
) -> None:
    """The spec's key and libcni's, alone or together."""
    net = network(**FULL)
    net.add(pods["pod-1"], "pod-1")
    net.add(pods["pod-2"], "pod-2")
    net.gc(**keys).ok()
    assert set(net.reservations().values()) == {"pod-1/eth0"}
    assert net.host_veth("pod-1") in links(net.host)
    assert net.host_veth("pod-2") not in links(net.host)


@pytest.mark.parametrize(
    "bad",
    [{}, "pod-1", [None], ["pod-1"], [{}], [{"containerID": "pod-1"}], [{"containerID": 5, "ifname": "x"}]],
)
def test_a_bad_list_touches_nothing(
    network: Callable[..., Network], pods: dict[str, NetNS], bad: object
) -> None:
    """A list that cannot be read is refused with code 7."""
    net = network(**FULL)
    net.add(pods["pod-1"])
    before = net.state(pods["pod-1"])
    error = net.gc(**{KEY: bad}).failed(7)
    assert KEY in error["msg"] + error.get("details", "")
    assert net.state(pods["pod-1"]) == before


def test_gc_needs_its_version(network: Callable[..., Network]) -> None:
    """GC exists since 1.1.0."""
    error = network().changed(cniVersion="1.0.0").gc().failed(1)
    assert error["msg"] == "config version does not allow GC"


def test_an_empty_node(network: Callable[..., Network], host: NetNS, data_dir: Path) -> None:
    """Nothing to collect: nothing is made, not even a table or a store."""
    before = snapshot(host)
    network(**FULL).gc().ok()
    assert snapshot(host) == before
    assert host.run("nft", "list", "ruleset").stdout == b""
    assert store(data_dir) == {}


def test_an_ipam_that_is_gone_at_gc(network: Callable[..., Network], pods: dict[str, NetNS]) -> None:
    """It is reported after links and rules are gone."""
    net = network(**FULL)
    net.add(pods["pod-1"])
    error = net.changed(ipam={**net.config["ipam"], "type": "nosuch"}).gc().failed(999)
    assert error["msg"].startswith('failed to find plugin "nosuch"')
    assert list(links(pods["pod-1"])) == ["lo"]
    assert rules_of(net, "pod-1") == []


def test_a_spoiled_config_does_not_stop_gc(network: Callable[..., Network], pods: dict[str, NetNS]) -> None:
    """GC reads of the config what it needs."""
    net = network(**FULL)
    net.add(pods["pod-1"])
    net.changed(mtu="x", hairpinMode=True, promiscMode=True, ipMasqBackend="pf").gc().ok()
    assert attachment_leftovers(net.host, net.data_dir) == []


# --- STATUS ---


@pytest.fixture
def with_ipam(bin_dir: Path, host: NetNS, data_dir: Path, tmp_path: Path) -> Callable[[str], Network]:
    """A network whose IPAM is the shell script of the given text."""

    def make(text: str) -> Network:
        folder = tmp_path / "ipam"
        folder.mkdir()
        (folder / "bridge").symlink_to(bin_dir / "bridge")
        (folder / "scripted").write_text(f"#!/bin/sh\n{text}\n")
        (folder / "scripted").chmod(0o755)
        return Network(Call(folder, host), data_dir, ipam={"type": "scripted"})

    return make


@pytest.mark.parametrize("config", [{}, FULL, {"ipam": {}}, {"ipam": None}])
def test_ready(mode: str, network: Callable[..., Network], host: NetNS, config: dict[str, Any]) -> None:
    """A config that can be read and an IPAM that is ready: silence, and nothing is made."""
    before = snapshot(host)
    outcome = network(**config).status().ok()
    assert (outcome.stdout, outcome.stderr) == (b"", b"")
    assert snapshot(host) == before
    del mode


def test_the_ipams_status_is_the_bridges(with_ipam: Callable[[str], Network]) -> None:
    """Its code, message and details pass through; it is asked with the verb STATUS."""
    text = '{"code": 51, "msg": "\'$CNI_COMMAND\': few left", "details": "d"}'
    net = with_ipam(f"cat >/dev/null; echo '{text}'; exit 1")
    assert net.status().failed(51) == {"code": 51, "msg": "STATUS: few left", "details": "d"}


def test_an_ipam_that_is_ready(with_ipam: Callable[[str], Network]) -> None:
    """Its exit status is what counts, whatever it prints."""
    with_ipam("echo rubbish").status().ok()


@pytest.mark.parametrize(
    ("config", "code", "text"),
    [
        ({"ipam": {"type": "nosuch"}}, 50, 'failed to find plugin "nosuch" in path ['),
        ({"ipam": []}, 999, "failed to load netconf: json: cannot unmarshal array into field ipam"),
        ({"ipam": {"type": "./x"}}, 999, "invalid plugin name: ./x"),
        ({"cniVersion": "1.0.0"}, 1, "config version does not allow STATUS"),
    ],
)
def test_not_ready(network: Callable[..., Network], config: dict[str, Any], code: int, text: str) -> None:
    """Not ready is code 50, a config that cannot be read what it is for other verbs."""
    assert network(**config).status().failed(code)["msg"].startswith(text)
